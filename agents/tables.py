"""Small helpers the data agents share: a table is a CSV file in UTF-8 with one header line."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable
from datetime import date, datetime
from pathlib import Path

MISSING = {"", "na", "n/a", "nan", "null", "none", "-"}


def read_table(path: Path) -> tuple[list[str], list[list[str]]]:
    """Header and rows of a plain table."""
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.reader(file)
        header = next(reader, [])
        return header, list(reader)


def write_table(path: Path, header: list[str], rows: Iterable[list[str]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)
    return path


def is_missing(cell: str) -> bool:
    return cell.strip().lower() in MISSING


def as_number(cell: str) -> float | None:
    """The number in a cell, or None: infinities and NaN are no observations."""
    try:
        number = float(cell)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def as_date(cell: str) -> date | None:
    """The day in a cell that begins with an ISO 8601 date, or None."""
    try:
        return datetime.fromisoformat(cell.strip()).date()
    except ValueError:
        return None


def column_kind(cells: list[str]) -> str:
    """``number``, ``date`` or ``text``: what at least nine in ten of the cells that hold anything are."""
    present = [cell for cell in cells if not is_missing(cell)]
    if not present:
        return "text"
    if sum(as_number(cell) is not None for cell in present) >= 0.9 * len(present):
        return "number"
    if sum(as_date(cell) is not None for cell in present) >= 0.9 * len(present):
        return "date"
    return "text"
