"""Which line of a TOML text a place in it stands on: the standard library's parser does not say.

Invariant: never wrong by more than the table it is in. A key inside an inline table stands on the line of that table; what cannot be found
stands where the table around it begins.
"""

from __future__ import annotations

import re

from mesh.flows.problems import Place

_HEADER = re.compile(r"\s*(\[\[?)\s*([^\[\]]+?)\s*\]\]?\s*(?:#.*)?$")
_KEY = re.compile(r"""\s*((?:"[^"\n]*"|'[^'\n]*'|[A-Za-z0-9_-]+)(?:\s*\.\s*(?:"[^"\n]*"|'[^'\n]*'|[A-Za-z0-9_-]+))*)\s*=""")
_PART = re.compile(r"""\s*(?:"([^"\n]*)"|'([^'\n]*)'|([A-Za-z0-9_-]+))\s*\.?""")


class Lines:
    """Made once from a text; `of` answers for each place."""

    def __init__(self, text: str) -> None:
        self._found: dict[Place, int] = {(): 1}
        self._rows: dict[str, int] = {}
        """How often there was each ``[[header]]``."""
        table: Place = ()
        until = ""
        for number, line in enumerate(text.splitlines(), 1):
            if until:
                until = "" if until in line else until
                continue
            if header := _HEADER.match(line):
                table = _parts(header[2])
                top = str(table[0]) if table else ""
                if header[1] == "[[" and len(table) == 1:
                    self._rows[top] = self._rows.get(top, 0) + 1
                self._found.setdefault(table[:1], number)
                table = (top, self._rows[top] - 1, *table[1:]) if top in self._rows else table
                self._found.setdefault(table, number)
            elif key := _KEY.match(line):
                parts = _parts(key[1])
                for depth in range(1, len(parts) + 1):
                    self._found.setdefault((*table, *parts[:depth]), number)
            until = _opens(line)

    @property
    def steps(self) -> int:
        """``[[step]]`` headers."""
        return self._rows.get("step", 0)

    def of(self, place: Place) -> int:
        """1 for what is nowhere."""
        while place not in self._found:
            place = place[:-1]
        return self._found[place]


def _parts(key: str) -> Place:
    return tuple(next(part for part in found if part) if any(found) else "" for found in _PART.findall(key))


def _opens(line: str) -> str:
    """The quotes of a text that goes on in the next line; "" if none does."""
    for quotes in ('"""', "'''"):
        if line.count(quotes) % 2:
            return quotes
    return ""
