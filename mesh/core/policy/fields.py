"""The tables of a policy's document, key by key: what is taken is known, the rest is refused."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NoReturn

LIST_MAX = 64
TEXT_CHARACTERS_MAX = 1000
TIME_FIX = 'write a time with its unit: "30s", "2m", "3h" or "7d"'

Place = tuple[str | int, ...]

_PATTERN = re.compile(r"\*|[A-Za-z0-9][A-Za-z0-9_.:/-]{0,127}\*?")
_PATTERN_FIX = 'write a name, or a beginning with a star: "customer.*"'
_DURATION = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,3})?)(ms|s|m|h|d)")
_UNIT_MS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}


@dataclass(frozen=True, slots=True)
class Problem:
    where: Place
    reason: str
    fix: str


class Bad(Exception):
    """One problem, on its way out of a reader."""

    def __init__(self, where: Place, reason: str, fix: str) -> None:
        super().__init__(reason)
        self.problem = Problem(where, reason, fix)


def near(word: str, words: Iterable[str]) -> str:
    words = sorted(words)
    near = difflib.get_close_matches(word, words, 1, 0.6)
    return f"write {near[0]!r}" if near else f"there are {', '.join(words)}"


class Fields:
    """The keys of one table: what is taken is known, and `end` refuses the rest."""

    def __init__(self, table: Any, where: Place) -> None:
        if not isinstance(table, dict):
            raise Bad(where, f"{table!r} is no table", "write it as a table: { ... }")
        self.table, self.where = table, where
        self._known: list[str] = []

    def has(self, key: str) -> bool:
        self._known.append(key)
        return key in self.table

    def bad(self, key: str, reason: str, fix: str) -> NoReturn:
        raise Bad((*self.where, key), reason, fix)

    def text(self, key: str, default: str = "") -> str:
        value = self.table[key] if self.has(key) else default
        if not isinstance(value, str) or len(value) > TEXT_CHARACTERS_MAX:
            self.bad(key, f"{value!r:.60} is no text of at most {TEXT_CHARACTERS_MAX} characters", f'write {key} = "..."')
        return value

    def name(self, key: str, default: str) -> str:
        value = self.text(key, default)
        if key in self.table and (not value or not all(char.isprintable() for char in value)):
            self.bad(key, "it is empty, or has control characters", f'write {key} = "..."')
        return value

    def number(self, key: str, default: int, least: int, most: int) -> int:
        value = self.table[key] if self.has(key) else default
        if type(value) is not int or (key in self.table and not least <= value <= most):
            self.bad(key, f"{value!r:.60} is no number from {least} to {most}", f"write {key} = {least}")
        return value

    def flag(self, key: str, default: bool | None) -> bool | None:
        value = self.table[key] if self.has(key) else default
        if value is not default and not isinstance(value, bool):
            self.bad(key, f"{value!r:.60} is neither true nor false", f"write {key} = true")
        return value

    def words(self, key: str, default: tuple[str, ...], fits: Callable[[str], bool], fix: str) -> tuple[str, ...]:
        """One text, or a list of them."""
        if not self.has(key):
            return default
        value = self.table[key]
        found = [value] if isinstance(value, str) else value
        if not isinstance(found, list) or not 0 < len(found) <= LIST_MAX:
            self.bad(key, f"{value!r:.60} is neither a text nor a list of up to {LIST_MAX}", fix)
        for word in found:
            if not isinstance(word, str) or not fits(word):
                self.bad(key, f"{word!r:.60} cannot stand here", fix)
        return tuple(found)

    def patterns(self, key: str, default: tuple[str, ...] = ()) -> tuple[str, ...]:
        return self.words(key, default, lambda word: _PATTERN.fullmatch(word) is not None, _PATTERN_FIX)

    def duration_ms(self, key: str) -> int:
        value = self.text(key)
        return milliseconds(value) or self.bad(key, f"{value!r:.60} is no time", TIME_FIX) if key in self.table else 0

    def end(self) -> None:
        for key in self.table:
            if key not in self._known:
                self.bad(str(key), "there is no such key here", near(str(key), self._known))


def milliseconds(text: str) -> int:
    found = _DURATION.fullmatch(text)
    return int(float(found[1]) * _UNIT_MS[found[2]]) if found else 0
