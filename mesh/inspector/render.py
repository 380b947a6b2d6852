"""What people see. Text from peers never reaches the terminal raw: control characters are shown, not obeyed."""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any


def clean(value: Any) -> str:
    """`value` as one line of text in which no character can move the cursor, change colours or reorder the line."""
    text = str(value)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() and unicodedata.category(c) != "Cf" else f"\\x{ord(c):02x}" for c in text)


def seconds(ms: float | None) -> str:
    """A duration for people: ``12 ms``, ``1.2 s``, ``3 min``."""
    if ms is None:
        return "-"
    if ms < 1000:
        return f"{ms:.0f} ms"
    if ms < 120_000:
        return f"{ms / 1000:.1f} s"
    return f"{ms / 60_000:.0f} min" if ms < 7_200_000 else f"{ms / 3_600_000:.1f} h"


def table(headings: Sequence[str], rows: Iterable[Sequence[Any]], *, empty: str) -> str:
    """Columns aligned by spaces, no frames: easy to read, easy to cut. `empty` stands where there are no rows."""
    cells = [[clean(cell) for cell in row] for row in rows]
    if not cells:
        return empty
    widths = [max(len(heading), *(len(row[i]) for row in cells)) for i, heading in enumerate(headings)]
    lines = [list(headings), *cells]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in lines)


def say(text: str) -> None:
    """Talk to the person: stderr, so that stdout stays data."""
    print(text, file=sys.stderr, flush=True)


def tree(lines: Iterable[tuple[int, str]]) -> str:
    """An indented tree from ``(depth, text)`` in order."""
    return "\n".join(("   " * (depth - 1) + "'- " if depth else "") + clean(text) for depth, text in lines)
