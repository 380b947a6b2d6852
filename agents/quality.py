"""Quality: profiles every column of a table, sets aside the rows that cannot be right, and says why."""

from __future__ import annotations

import statistics
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from mesh_agents.tables import as_date, as_number, column_kind, is_missing, read_table, write_table

from mesh import Agent, File

agent = Agent("quality", tags=["data"])


@dataclass
class Column:
    """Profile of one column; the figures are of the rows kept. `outliers` lie beyond 3 interquartile ranges and are kept."""

    name: str
    kind: str
    missing: int
    distinct: int
    low: str
    high: str
    mean: float | None
    outliers: int


@dataclass
class Checked:
    """`good` is the table that passed; `rejected` counts the rows that did not, by reason."""

    good: File
    rows: int
    rejected: dict[str, int]
    columns: list[Column]


def _faults(row: list[str], kinds: list[str], pairs: list[tuple[int, int]]) -> str:
    """Why this row cannot be right; the empty string if it can."""
    for cell, kind in zip(row, kinds):
        if kind == "number" and not is_missing(cell) and as_number(cell) is None:
            return "not a number"
        if kind == "date" and as_date(cell) is None:
            return "not a date"
    if all(is_missing(cell) for cell, kind in zip(row, kinds) if kind == "number") and "number" in kinds:
        return "no value in any number column"
    for low, high in pairs:
        below, above = as_number(row[low]), as_number(row[high])
        if below is not None and above is not None and below > above:
            return "minimum above maximum"
    return ""


def _pairs(header: list[str]) -> list[tuple[int, int]]:
    """Columns named alike but for min and max: the one may not exceed the other."""
    lower = [name.lower() for name in header]
    return [
        (i, lower.index(name.replace("min", "max")))
        for i, name in enumerate(lower)
        if "min" in name and name.replace("min", "max") in lower
    ]


def _profile(name: str, kind: str, cells: list[str]) -> Column:
    present = [cell for cell in cells if not is_missing(cell)]
    missing, distinct = len(cells) - len(present), len(set(present))
    if kind != "number" or not present:
        ordered = sorted(present)
        return Column(name, kind, missing, distinct, ordered[0] if ordered else "", ordered[-1] if ordered else "", None, 0)
    numbers = sorted(number for cell in present if (number := as_number(cell)) is not None)
    outliers = 0
    if len(numbers) >= 4:
        first, _, third = statistics.quantiles(numbers, n=4)
        reach = 3 * (third - first)
        outliers = sum(not first - reach <= number <= third + reach for number in numbers) if reach else 0
    return Column(name, kind, missing, distinct, f"{numbers[0]:g}", f"{numbers[-1]:g}", statistics.fmean(numbers), outliers)


@agent.capability(name="data.quality", idempotent=True, timeout_s=120)
def quality(table: File) -> Checked:
    """Check a plain table: types, missing values, duplicates, minima above maxima."""
    header, rows = read_table(table.path)
    kinds = [column_kind([row[i] for row in rows]) for i in range(len(header))]
    pairs = _pairs(header)
    rejected: Counter[str] = Counter()
    seen: set[tuple[str, ...]] = set()
    good: list[list[str]] = []
    for row in rows:
        fault = "duplicate" if tuple(row) in seen else _faults(row, kinds, pairs)
        seen.add(tuple(row))
        if fault:
            rejected[fault] += 1
        else:
            good.append(row)
    if not good:
        raise ValueError(f"no row of {table.name} passed: {dict(rejected)}")
    columns = [_profile(name, kind, [row[i] for row in good]) for i, (name, kind) in enumerate(zip(header, kinds))]
    path = write_table(Path(tempfile.mkdtemp(prefix="mesh-quality-")) / "good.csv", header, good)
    return Checked(File.of(path), len(good), dict(rejected), columns)


if __name__ == "__main__":
    agent.run()
