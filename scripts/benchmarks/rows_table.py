"""Rounds of figures as tables: medians, and ratios beside the floors and bars that we are after."""

from __future__ import annotations

from statistics import median
from typing import Any

COLUMNS = ("p50_us", "p99_us", "per_s_64", "per_s_512", "cpu_s_per_1000")
SIZES = ("1ms x1000", "10ms x1000", "100ms x200", "1,1,2,4")
FANS = ("1-100-1", "1-1000-1")
MOST, LEAST = "at most", "at least"
GOALS = (
    ("ctx.call p50 / Ray actor", "mesh ctx.call/p50_us", "Ray actor/p50_us", MOST, 0.7, 0.7),
    ("ctx.call per s, 64 in flight / NATS", "mesh ctx.call/per_s_64", "NATS/per_s_64", LEAST, 0.6, 1.0),
    ("submit per s, 64 in flight / Ray task", "mesh submit, 2 nodes/per_s_64", "Ray task/per_s_64", LEAST, 4.0, 4.0),
    ("submit per s, 64 in flight / Celery", "mesh submit, 2 nodes/per_s_64", "Celery/per_s_64", LEAST, 8.0, 8.0),
    ("submit per s, 64 in flight / NATS", "mesh submit, 2 nodes/per_s_64", "NATS/per_s_64", LEAST, 0.4, 0.4),
    ("auction of 4, p50 / Ray task", "mesh auction of 4/p50_us", "Ray task/p50_us", MOST, 1.5, 1.0),
    ("1,000 of 1 ms on 4, over ideal", "mesh call/1ms x1000", "", MOST, 2.0, 1.3),
    ("speeds 1, 1, 2, 4, over ideal", "mesh call/1,1,2,4", "", MOST, 1.15, 1.05),
    ("1 -> 1,000 -> 1 by calls / Ray", "mesh ctx.call/1-1000-1", "Ray/1-1000-1", MOST, 1.0, 0.4),
    ("1 -> 1,000 -> 1 by steps / DBOS", "mesh ctx.step/1-1000-1", "DBOS/1-1000-1", MOST, 0.2, 0.2),
    ("submit / call, 512 in flight", "mesh submit, 2 nodes/per_s_512", "mesh call/per_s_512", LEAST, 0.7, 0.9),
    ("submit / the same without fsync, 512", "mesh submit, 2 nodes/per_s_512", "unsynced submit, 2 nodes/per_s_512", LEAST, 0.7, 0.9),
    ("ctx.call / the same unsigned, 512", "mesh ctx.call/per_s_512", "unsigned ctx.call/per_s_512", LEAST, 0.65, 0.85),
    ("p99 at 85 % load / perfect queue", "mesh at 85 %/p99 over ideal", "", MOST, None, None),
)
"""What; ours; over what of the same round, or nothing; the floor and the bar."""


def tables(rounds: list[dict[str, float]]) -> dict[str, list[dict[str, Any]]]:
    keys = dict.fromkeys(key for found in rounds for key in found)
    medians = {key: median(found[key] for found in rounds if key in found) for key in keys}
    return {
        "A no-op and its answer: one at a time (us), in flight (per s), CPU of all processes (s)": _by_system(medians, COLUMNS),
        "Makespan over ideal on 4 workers": _by_system(medians, SIZES),
        "One, then N, then one (s)": _by_system(medians, FANS),
        f"Ratios within a round (fsync p50 {medians['disk/fsync p50_us']:.0f} us)": [_goal(rounds, *goal) for goal in GOALS],
    }


def _by_system(medians: dict[str, float], columns: tuple[str, ...]) -> list[dict[str, Any]]:
    systems = dict.fromkeys(key.partition("/")[0] for key in medians if key.partition("/")[2] in columns)
    return [{"system": system, **{column: medians.get(f"{system}/{column}") for column in columns}} for system in systems]


def _goal(
    rounds: list[dict[str, float]], what: str, ours: str, other: str, sense: str, floor: float | None, bar: float | None
) -> dict[str, Any]:
    ratios = [found[ours] / (found[other] if other else 1.0) for found in rounds if ours in found and (not other or other in found)]
    ratio = median(ratios) if ratios else None
    met = "-" if ratio is None or floor is None else "yes" if (ratio <= floor if sense == MOST else ratio >= floor) else "NO"
    shown = {"worst": (max if sense == MOST else min)(ratios)} if ratios else {"worst": None}
    return {"what": what, "ratio": ratio, **shown, "floor": None if floor is None else f"{sense} {floor:g}", "bar": bar, "floor met": met}
