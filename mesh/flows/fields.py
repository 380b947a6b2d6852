"""Reading a table of a flow's document, key by key: what is there has the right form, and what is not known is named.

    fields = Fields(table, ("step", 2)); fields.text("uses"); fields.flag("cache"); ...; fields.end()

Invariant: every refusal says what to write instead. Values are plain JSON afterwards: a date or a number that JSON has not is refused.
"""

from __future__ import annotations

import difflib
import math
import re
from typing import Any, NoReturn

from mesh.bounding import TIMEOUT_MAX_S
from mesh.flows.problems import Bad, Place
from mesh.flows.spec import Document

DEPTH_MAX = 32
"""Tables and lists inside one another."""
WORD_MAX = 200
_DURATION = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,6})?)(ms|s|m|h|d)")
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION_FIX = 'write a time with its unit: "200ms", "30s", "2m", "3h" or "7d", at most "365d"'


class Fields:
    """The keys of one table. What is taken is known; `end` refuses the rest."""

    def __init__(self, table: Document, where: Place) -> None:
        self.table, self.where = table, where
        self._known: list[str] = []

    def has(self, name: str) -> bool:
        self._known.append(name)
        return name in self.table

    def any(self, name: str, default: Any = None) -> Any:
        """A value of plain JSON."""
        return plain(self.table[name], (*self.where, name)) if self.has(name) else default

    def text(self, name: str, default: str = "", *, max: int = WORD_MAX) -> str:
        if not self.has(name):
            return default
        value = self.table[name]
        if not isinstance(value, str):
            self.bad(name, f"{said(value)} is no text", f'write {name} = "..."')
        if len(value) > max:
            self.bad(name, f"it has {len(value)} characters", f"use at most {max}")
        if not all(char.isprintable() or char in "\n\t" for char in value):
            self.bad(name, "there is a control character in it", "write plain text")
        return value

    def flag(self, name: str) -> bool:
        value = self.table[name] if self.has(name) else False
        if not isinstance(value, bool):
            self.bad(name, f"{said(value)} is neither true nor false", f"write {name} = true, or leave it out")
        return value

    def number(self, name: str, default: int | None, least: int, most: int) -> int | None:
        if not self.has(name):
            return default
        value = self.table[name]
        if type(value) is not int or not least <= value <= most:
            self.bad(name, f"{said(value)} is no whole number from {least} to {most}", f"write {name} = {least if least else 1}")
        return int(value)

    def duration(self, name: str) -> float:
        """In seconds; 0.0 where nothing is said."""
        if not self.has(name):
            return 0.0
        value = self.table[name]
        found = _DURATION.fullmatch(value) if isinstance(value, str) else None
        seconds = float(found[1]) * _UNITS[found[2]] if found else 0.0
        if not 0.001 <= seconds <= TIMEOUT_MAX_S:
            self.bad(name, f"{said(value)} is no time", _DURATION_FIX)
        return round(seconds, 6)

    def words(self, name: str, *, most: int) -> tuple[str, ...]:
        """A list of texts, none twice. One text alone is a list of one."""
        value = self.table[name] if self.has(name) else []
        value = [value] if isinstance(value, str) else value
        if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
            self.bad(name, f"{said(value)} is no list of texts", f'write {name} = ["a", "b"]')
        if len(value) > most:
            self.bad(name, f"there are {len(value)} in it", f"give at most {most}")
        seen: set[str] = set()
        for word in value:
            if len(word) > WORD_MAX:
                self.bad(name, f"{said(word)} has {len(word)} characters", f"use at most {WORD_MAX}")
            if word in seen:
                self.bad(name, f"{word!r} is there twice", "write it once")
            seen.add(word)
        return tuple(value)

    def inner(self, name: str) -> Fields | None:
        """A table inside this one."""
        if not self.has(name):
            return None
        if not isinstance(self.table[name], dict):
            self.bad(name, f"{said(self.table[name])} is no table", f"write {name} = {{ ... }}")
        return Fields(self.table[name], (*self.where, name))

    def bad(self, name: str, reason: str, fix: str) -> NoReturn:
        raise Bad((*self.where, name) if name else self.where, reason, fix)

    def end(self) -> None:
        """Raises Bad for the first key that nothing here has asked for."""
        for name in self.table:
            if name not in self._known:
                near = difflib.get_close_matches(name[:WORD_MAX], self._known, 1)
                fix = f"did you mean {near[0]!r}?" if near else f"the keys are: {', '.join(sorted(set(self._known)))}"
                self.bad(name, f"there is no key {name[:60]!r} here", fix)


def plain(value: Any, where: Place, depth: int = 0) -> Any:
    """`value` if it is plain JSON. Raises Bad."""
    if depth > DEPTH_MAX:
        raise Bad(where, f"tables and lists are nested more than {DEPTH_MAX} deep", "hand deep data in as input, or as a file")
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise Bad(where, f"{value} is no number that JSON has", "write a finite number")
        return value
    if isinstance(value, list):
        return [plain(each, (*where, i), depth + 1) for i, each in enumerate(value)]
    if isinstance(value, dict):
        return {str(key): plain(each, (*where, str(key)), depth + 1) for key, each in value.items()}
    raise Bad(where, f"a {type(value).__name__} is no value that travels", "write it as text, in quotes")


def said(value: Any) -> str:
    """A value as an error shows it."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
