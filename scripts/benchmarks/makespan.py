"""How well work is spread: makespans over their lower bound, and response times at 85 % load over those of a perfect central queue.

Virtual: full nodes in the simulator, so the figures do not depend on this machine. `cold`: nobody has run such work before; `warm`: right
after that.
"""

from __future__ import annotations

import argparse
from statistics import median
from typing import Any

from common import show

from mesh.sim.makespan import Yard, batch, lower_bound_s, percentile, perfect, stream

MEAN_S = 0.1
UNIFORM = (1.0,) * 16
UNLIKE = (1.0, 1.0, 2.0, 4.0)
LOAD = 0.85


def makespans(what: str, speeds: tuple[float, ...], goal: float, seeds: int, count: int) -> list[dict[str, Any]]:
    """One row cold, one warm: medians over seeds of makespan / lower bound, and the worst."""
    found: dict[str, list[float]] = {"cold": [], "warm": [], "perfect": []}
    for seed in range(1, seeds + 1):
        yard = Yard(seed, speeds, durable=True)
        for temperature in ("cold", "warm"):
            jobs = batch(seed if temperature == "cold" else -seed, count, MEAN_S)
            bound_s = lower_bound_s(jobs, speeds)
            found[temperature].append(yard.do(jobs).makespan_s / bound_s)
            found["perfect"].append(perfect(jobs, speeds).makespan_s / bound_s)
    beside = median(found["perfect"])
    return [
        {
            "what": f"{count} tasks, {what}, {t}",
            "over ideal": median(found[t]),
            "worst": max(found[t]),
            "perfect queue": beside,
            "goal": goal,
        }
        for t in ("cold", "warm")
    ]


def responses(what: str, managers: int, seeds: int, count: int) -> dict[str, Any]:
    """Ratios of response times; the first fifth is warming up."""
    p50, p99 = [], []
    for seed in range(1, seeds + 1):
        jobs = stream(seed, count, MEAN_S, LOAD, UNIFORM, managers)
        ours = Yard(seed, UNIFORM, durable=False).do(jobs).response_s[count // 5 :]
        ideal = perfect(jobs, UNIFORM).response_s[count // 5 :]
        p50.append(percentile(ours, 0.5) / percentile(ideal, 0.5))
        p99.append(percentile(ours, 0.99) / percentile(ideal, 0.99))
    return {"what": f"p99 at 85 % load, {what}", "over ideal": median(p99), "worst": max(p99), "p50": median(p50), "goal": 1.15}


def main() -> None:
    made = argparse.ArgumentParser(description=__doc__)
    made.add_argument("--seeds", type=int, default=5)
    made.add_argument("--tasks", type=int, default=480, help="in a batch")
    made.add_argument("--stream", type=int, default=5000, help="tasks of a stream")
    made.add_argument("--json", action="store_true")
    options = made.parse_args()
    rows = makespans("16 nodes alike", UNIFORM, 1.08, options.seeds, options.tasks)
    rows += makespans("4 of speeds 1, 1, 2, 4", UNLIKE, 1.12, options.seeds, options.tasks)
    rows.append(responses("one manager", 1, options.seeds, options.stream))
    rows.append(responses("16 managers", 16, options.seeds, options.stream))
    show(rows, options.json)


if __name__ == "__main__":
    main()
