"""Versions of capabilities, and the ranges that work asks for: ``report.render@^2``.

    2  2.1  2.1.3  3.0-rc.1           a version: up to four numbers, missing ones are 0; after - a pre-release, which comes before it
    2.1     ^2     ~2.1               that one; up to the next major number (of 0.x: the next minor); up to the next minor
    >=2,<3  >1.4                      comparisons, all of which must hold
    2|1                               either: the first that anybody offers is meant

Total: whatever the text, it is one or it is not, and nothing raises. A pre-release is meant only by a range that names one. Among what work
asks of whoever runs it (`Placement.where`) a range stands as ``@^2``, among what a worker is as ``@2.1``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

MARK = "@"
VERSION_CHARS_MAX = 32
RANGE_CHARS_MAX = 64
PARTS_MAX = 4
FORM = "write 2.1, ^2, ~2.1 or >=2,<3"
VERSION_FORM = 'write a version such as "2.1" or "3.0-rc.1"'

Version = tuple[tuple[int, ...], tuple[tuple[int, int, str], ...]]
"""Its numbers, and of a pre-release its parts; of a release one part that is greater than any."""

Bound = tuple[str, Version]

_VERSION = re.compile(r"(\d{1,9}(?:\.\d{1,9}){0,3})(?:-([0-9A-Za-z]+(?:[.-][0-9A-Za-z]+)*))?")
_BOUND = re.compile(r"\s*(\^|~|>=|<=|==|>|<|=)?\s*([0-9][0-9A-Za-z.-]*)\s*")
_RELEASE = ((2, 0, ""),)


@lru_cache(maxsize=1024)
def parsed(text: str) -> Version | None:
    """None: it is no version."""
    found = _VERSION.fullmatch(text) if len(text) <= VERSION_CHARS_MAX else None
    if found is None:
        return None
    numbers = tuple(int(part) for part in found[1].split("."))
    parts = re.split(r"[.-]", found[2]) if found[2] else ()
    return _padded(numbers), tuple((0, int(part), "") if part.isdigit() else (1, 0, part) for part in parts) or _RELEASE


def _padded(numbers: tuple[int, ...]) -> tuple[int, ...]:
    return numbers + (0,) * (PARTS_MAX - len(numbers))


@lru_cache(maxsize=1024)
def bounds(text: str) -> tuple[tuple[Bound, ...], ...] | None:
    """What a range says: of each alternative the comparisons that must hold. None: it is no range."""
    if not 0 < len(text) <= RANGE_CHARS_MAX:
        return None
    found: list[tuple[Bound, ...]] = []
    for alternative in text.split("|"):
        one: list[Bound] = []
        for part in alternative.split(","):
            match = _BOUND.fullmatch(part)
            version = parsed(match[2]) if match is not None else None
            if match is None or version is None:
                return None
            one += _compared(match[1] or "=", match[2], version)
        found.append(tuple(one))
    return tuple(found)


def _compared(sign: str, text: str, version: Version) -> Iterable[Bound]:
    if sign not in ("^", "~"):
        return ((sign[0] if sign in ("=", "==") else sign, version),)
    numbers, said = version[0], text.partition("-")[0].count(".") + 1
    if sign == "~":
        place = min(1, said - 1)
    else:
        place = next((i for i, number in enumerate(numbers[:said]) if number), said - 1)
    above = _padded((*numbers[:place], numbers[place] + 1))
    return (">=", version), ("<", (above, ()))  # no part at all: before any pre-release of it


def is_version(text: str) -> bool:
    return parsed(text) is not None


def is_range(text: str) -> bool:
    return bounds(text) is not None


@lru_cache(maxsize=4096)
def matches(version: str, wanted: str) -> bool:
    """Whether a version is in a range. What is no version is in none but its own name's."""
    known, said = parsed(version), bounds(wanted)
    if known is None or said is None:
        return version == wanted
    return any(_holds(known, alternative) for alternative in said)


def _holds(version: Version, alternative: tuple[Bound, ...]) -> bool:
    if version[1] != _RELEASE and not any(bound[1] not in ((), _RELEASE) for _, bound in alternative):
        return False
    return all(_compare(version, sign, bound) for sign, bound in alternative)


def _compare(version: Version, sign: str, bound: Version) -> bool:
    if sign == "=":
        return version == bound
    if sign in (">", ">="):
        return version > bound or (sign == ">=" and version == bound)
    return version < bound or (sign == "<=" and version == bound)


def order(version: str) -> tuple[Version, str]:
    """To sort by; what is no version comes first."""
    return parsed(version) or ((), ()), version


# ---- as work asks for it


def split(capability: str) -> tuple[str, str]:
    """The name, and the range without blanks; "" where none is named."""
    name, mark, wanted = capability.partition(MARK)
    return name, "".join(wanted.split()) if mark else ""


def is_wanted(word: str) -> bool:
    """Among labels: a range that work asks for."""
    return word.startswith(MARK) and is_range(word[1:])


def alternatives(word: str) -> tuple[str, ...]:
    """``@2|1``: ``@2``, and ``@1``. Of all else: itself."""
    return tuple(MARK + one for one in word[1:].split("|")) if word.startswith(MARK) and "|" in word else (word,)


def words(word: str) -> str:
    """For people: ``version ^2``; other labels as they are."""
    return f"version {word[1:]}".replace("|", ", else ") if word.startswith(MARK) else word


def chosen(caps: Mapping[str, dict[str, Any]], capability: str) -> dict[str, Any] | None:
    """Of capabilities by name, as `mesh caps` lists them, what work for ``report.render@^2`` may run as; None: nobody offers such a one.

    Where several versions would do and take other arguments, their schemas say nothing: no one of them may be judged by another.
    """
    name, wanted = split(capability)
    cap = caps.get(name)
    if cap is None:
        return None
    fit = [one for one in cap.get("versions") or [cap] if not wanted or matches(one.get("version", "1"), wanted)]
    if not fit:
        return None
    found: dict[str, Any] = cap | fit[0]
    if len(fit) > 1:
        found |= {key: [each for one in fit for each in one[key]] for key in ("offered_by", "nodes")}
        for schema in ("input_schema", "output_schema"):
            found[schema] = fit[0][schema] if all(one[schema] == fit[0][schema] for one in fit) else {}
    return found
