"""What the loss of the coordinator costs: real nodes, kill -9 of whoever holds the office, as often as asked.

    three nodes stand by, two others serve --calls that nothing marks, 16 at a time--> throughput before and after the kill: the dip
                                           --calls that a rule marks, one by one----> the longest gap between two answers

Judged from outside alone, by one client at a node that is never killed.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import statistics
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

from common import HERE, Mesh, mesh, show, wait_for

from mesh import connect

STANDBYS, SERVERS = ("a", "b", "c"), ("d", "e")
AT_ONCE = 16
POLICY = {
    "policy": "bench",
    "mode": "hybrid",
    "rule": [{"id": "critical", "match": {"capability": "noop", "input": {"text": "critical"}}, "admit": "closed"}],
}


class Load:
    """`done`: when each plain call ended; `critical`: likewise, of those that wait for admission."""

    def __init__(self) -> None:
        self.done: list[float] = []
        self.critical: list[float] = []
        self.failed = 0

    async def plain(self, client: Any) -> None:
        while True:
            await client.call("noop", text="plain")
            self.done.append(time.monotonic())

    async def marked(self, client: Any) -> None:
        while True:
            await client.call("noop", text="critical")
            self.critical.append(time.monotonic())
            await asyncio.sleep(0.02)

    def rate(self, from_s: float, to_s: float) -> float:
        return sum(from_s <= at_s < to_s for at_s in self.done) / (to_s - from_s)

    def gap(self, from_s: float, to_s: float) -> float:
        ends = [from_s, *(at_s for at_s in self.critical if from_s <= at_s < to_s), to_s]
        return max(after - before for before, after in pairwise(ends))


async def holder(client: Any) -> str:
    for _ in range(400):
        if found := (await client._view("coordinator"))["holder"]:
            return str(found)
        await asyncio.sleep(0.05)
    raise SystemExit("nobody is in office")


async def measure(made: Mesh, rounds: int, window_s: float) -> list[dict[str, Any]]:
    rows = []
    async with connect(home=made.home, node=SERVERS[0], timeout_s=60) as client:
        await client.set_policy(POLICY)
        await holder(client)
        await client.call("noop", text="critical")
        load = Load()
        tasks = [asyncio.ensure_future(load.plain(client)) for _ in range(AT_ONCE)] + [asyncio.ensure_future(load.marked(client))]
        try:
            await asyncio.sleep(window_s / 2)
            for _ in range(rounds):
                name = await holder(client)
                began_s = time.monotonic()
                await asyncio.sleep(window_s)
                killed_s = time.monotonic()
                os.kill(made.info(name)["pid"], signal.SIGKILL)  # type: ignore[index]
                await asyncio.sleep(window_s)
                before, after = load.rate(began_s, killed_s), load.rate(killed_s, killed_s + window_s)
                rows.append(
                    {
                        "before_per_s": round(before),
                        "after_per_s": round(after),
                        "dip_percent": round(100 * (1 - after / before), 1),
                        "critical_gap_s": round(load.gap(killed_s, killed_s + window_s), 2),
                        "critical_gap_before_s": round(load.gap(began_s, killed_s), 2),
                    }
                )
                made.nodes[name].wait()
                made.node(name, role="coordinator")
                await asyncio.sleep(window_s / 2)
            for task in tasks:
                if task.done():
                    task.result()
        finally:
            for task in tasks:
                task.cancel()
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="kills")
    parser.add_argument("--window", type=float, default=4.0, help="seconds before and after each that are compared")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with mesh() as made:
        for name in STANDBYS:
            made.node(name, role="coordinator")
        for name in SERVERS:
            made.node(name)
            made.worker(Path(HERE) / "noop_agent.py", name)
        wait_for(lambda: all(made.info(name) for name in (*STANDBYS, *SERVERS)), "the nodes")
        time.sleep(6)
        rows = asyncio.run(measure(made, options.rounds, options.window))
    median = {name: round(statistics.median(row[name] for row in rows), 2) for name in rows[0]}
    show([{"round": str(number), **row} for number, row in enumerate(rows, 1)] + [{"round": "median", **median}], options.json)


if __name__ == "__main__":
    main()
