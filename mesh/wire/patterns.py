"""Patterns of capability names in certificates: a name, or a beginning of it followed by ``*``. No more."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

_PATTERN = re.compile(r"\*|[A-Za-z][A-Za-z0-9_.-]{0,63}\*?")


def is_pattern(text: str) -> bool:
    """Whether this is a capability's name, or a beginning of one followed by ``*``."""
    return _PATTERN.fullmatch(text) is not None


def covers(patterns: Iterable[str], name: str) -> bool:
    """Whether one of `patterns` allows the capability `name`: it is the name, or a beginning of it followed by ``*``."""
    return any(pattern == name or (pattern.endswith("*") and name.startswith(pattern[:-1])) for pattern in patterns)


def within(patterns: Iterable[str], wider: Sequence[str]) -> bool:
    """Whether everything that `patterns` allow is allowed by one of `wider` too."""
    return all(_is_within(pattern, wider) for pattern in patterns)


def _is_within(pattern: str, wider: Sequence[str]) -> bool:
    if not pattern.endswith("*"):
        return covers(wider, pattern)
    # Its own star is no letter: "x*" is more than "x**", which allows only what begins with "x*".
    return any(other.endswith("*") and pattern[:-1].startswith(other[:-1]) for other in wider)
