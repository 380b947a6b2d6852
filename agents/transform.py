"""Transform: groups a checked table by month and category, and gives each mean with its bootstrap confidence interval.

The percentile bootstrap (Efron 1979) draws each group's rows again, with replacement, many times; the middle 95 % of the means drawn is
the interval. Seeded from the data, so the same table gives the same numbers on every node.
"""

from __future__ import annotations

import random
import statistics
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from mesh_agents.tables import as_date, as_number, column_kind, read_table, write_table

from mesh import Agent, Context, File

agent = Agent("transform", tags=["data"])

GROUPS_MAX = 8
MEASURES_MAX = 4


@dataclass
class Transformed:
    """`summary` has one row per period, group and measure: period, group, measure, n, mean, low, high."""

    summary: File
    rows: int
    period: str
    group: str
    measures: list[str]
    resamples: int
    compute_s: float


def _shape(header: list[str], rows: list[list[str]]) -> tuple[int | None, int | None, list[int]]:
    """Which column is the time, which the category, which are measures."""
    kinds = [column_kind([row[i] for row in rows]) for i in range(len(header))]
    when = kinds.index("date") if "date" in kinds else None
    texts = [i for i, kind in enumerate(kinds) if kind == "text" and 2 <= len({row[i] for row in rows}) <= GROUPS_MAX]
    measures = [i for i, kind in enumerate(kinds) if kind == "number"][:MEASURES_MAX]
    return when, texts[0] if texts else None, measures


def _interval(values: list[float], resamples: int, chance: random.Random) -> tuple[float, float]:
    if len(values) < 2:
        return values[0], values[0]
    means = sorted(statistics.fmean(chance.choices(values, k=len(values))) for _ in range(resamples))
    return means[int(0.025 * resamples)], means[min(int(0.975 * resamples), resamples - 1)]


@agent.capability(name="data.transform", idempotent=True, timeout_s=600)
def transform(ctx: Context, table: File, resamples: int = 1000) -> Transformed:
    """Monthly means of every measure by category, with 95 % bootstrap confidence intervals."""
    if not 10 <= resamples <= 100_000:
        raise ValueError(f"resamples must be between 10 and 100000, not {resamples}")
    started = time.perf_counter()
    header, rows = read_table(table.path)
    when, group, measures = _shape(header, rows)
    if not measures:
        raise ValueError(f"{table.name} has no column of numbers to summarise")
    cells: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    for row in rows:
        day = as_date(row[when]) if when is not None else None
        period = f"{day:%Y-%m}" if day else "all"
        for i in measures:
            if (number := as_number(row[i])) is not None:
                cells[period, row[group] if group is not None else "all", header[i]].append(number)
    chance = random.Random(table.sha256)
    out = []
    for done, (key, values) in enumerate(sorted(cells.items()), 1):
        low, high = _interval(values, resamples, chance)
        out.append([*key, str(len(values)), f"{statistics.fmean(values):.4f}", f"{low:.4f}", f"{high:.4f}"])
        if done % 20 == 0:
            ctx.progress(done / len(cells), f"{done} of {len(cells)} groups")
    path = Path(tempfile.mkdtemp(prefix="mesh-transform-")) / "summary.csv"
    write_table(path, ["period", "group", "measure", "n", "mean", "low", "high"], out)
    return Transformed(
        File.of(path),
        len(out),
        header[when] if when is not None else "",
        header[group] if group is not None else "",
        [header[i] for i in measures],
        resamples,
        round(time.perf_counter() - started, 3),
    )


if __name__ == "__main__":
    agent.run()
