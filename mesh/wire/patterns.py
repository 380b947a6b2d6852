"""Patterns of capability names in certificates: a name, or a beginning of it followed by ``*``. No more."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def covers(patterns: Iterable[str], name: str) -> bool:
    """Whether one of `patterns` allows the capability `name`: it is the name, or a beginning of it followed by ``*``."""
    return any(pattern == name or (pattern.endswith("*") and name.startswith(pattern[:-1])) for pattern in patterns)


def within(patterns: Iterable[str], wider: Sequence[str]) -> bool:
    """Whether everything that `patterns` allow is allowed by `wider` too."""
    return all(covers(wider, pattern) for pattern in patterns)
