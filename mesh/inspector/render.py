"""What people see. Text from peers never reaches the terminal raw: control characters are shown, not obeyed."""

from __future__ import annotations

import json
import re
import shutil
import sys
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any

COLUMN_MIN = 8
"""What is left of a column, at least, where the terminal is too narrow for the whole table."""


def clean(value: Any) -> str:
    """`value` as one line of text in which no character can move the cursor, change colours or reorder the line."""
    text = str(value)
    return text if text.isprintable() else "".join(character if character.isprintable() else _escaped(character) for character in text)


def clean_lines(text: str) -> str:
    """The same for text of several lines: line ends and tabs stay."""
    return "\n".join("\t".join(map(clean, line.split("\t"))) for line in text.split("\n"))


def _escaped(character: str) -> str:
    number = ord(character)
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"


def json_text(value: Any) -> str:
    """JSON for people: indented, letters as they are, whatever a terminal would obey as JSON escapes."""
    text = json.dumps(value, indent=2, ensure_ascii=False)
    return (
        text
        if text.isascii()
        else re.sub(r"[^\n -~]", lambda found: found[0] if found[0].isprintable() else json.dumps(found[0])[1:-1], text)
    )


def value_text(value: Any) -> str:
    """A result: text as it is (on a terminal without what a terminal obeys), anything else as JSON."""
    if not isinstance(value, str):
        return json_text(value)
    return clean_lines(value) if sys.stdout is not None and sys.stdout.isatty() else value


def seconds(ms: float | None) -> str:
    """A duration for people: ``12 ms``, ``1.2 s``, ``3 min``."""
    if ms is None:
        return "-"
    if ms < 1000:
        return f"{ms:.0f} ms"
    if ms < 120_000:
        return f"{ms / 1000:.1f} s"
    return f"{ms / 60_000:.0f} min" if ms < 7_200_000 else f"{ms / 3_600_000:.1f} h"


def width(text: str) -> int:
    """Columns that `text` takes on a terminal."""
    if text.isascii():
        return len(text)
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def fit(text: str, columns: int) -> str:
    """`text` in exactly so many columns: filled with spaces, or cut with an ellipsis."""
    if width(text) <= columns:
        return text + " " * (columns - width(text))
    kept, used = "", 1
    for character in text:
        used += width(character)
        if used > columns:
            break
        kept += character
    return fit(kept + "\u2026", columns) if columns > 1 else "\u2026"[:columns]


def screen_columns() -> int | None:
    """How wide the terminal is; None where stdout is none: then nothing is cut."""
    return shutil.get_terminal_size().columns if sys.stdout is not None and sys.stdout.isatty() else None


def table(headings: Sequence[str], rows: Iterable[Sequence[Any]], *, empty: str) -> str:
    """Columns aligned by spaces, no frames: easy to read, easy to cut. On a terminal the widest columns give way. `empty`: no rows."""
    cells = [[clean(cell) for cell in row] for row in rows]
    if not cells:
        return empty
    lines = [list(headings), *cells]
    widths = _narrowed([max(map(width, column)) for column in zip(*lines)], screen_columns())
    return "\n".join("  ".join(fit(cell, columns) for cell, columns in zip(line, widths)).rstrip() for line in lines)


def _narrowed(widths: list[int], columns: int | None) -> list[int]:
    while columns is not None and sum(widths) + 2 * (len(widths) - 1) > columns and max(widths) > COLUMN_MIN:
        widths[widths.index(max(widths))] -= 1
    return widths


def cut_to_screen(text: str) -> str:
    """The first lines of `text`, as many as the terminal has, so that a redraw does not scroll."""
    lines, rows = text.split("\n"), shutil.get_terminal_size().lines - 1
    if len(lines) <= rows:
        return text
    return "\n".join([*lines[: rows - 1], f"... {len(lines) - rows + 1} more lines"])


def say(text: str) -> None:
    """Talk to the person: stderr, so that stdout stays data."""
    print(text, file=sys.stderr, flush=True)
