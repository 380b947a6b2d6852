"""`scripts/flows`: random graphs in lots, each lot in a mesh of its own, on all processors. Exit 1 where one was not as the model says."""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import os
import time

from graphs.campaign import Campaign

LOT = 40


def lot(job: tuple[int, int, int]) -> tuple[int, dict[int, list[str]]]:
    """One lot: how many graphs, and what was wrong with which."""
    start, size, kills = job
    return size, asyncio.run(Campaign(range(start, start + size), kills=kills).run())


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/flows", description=__doc__)
    parser.add_argument("--graphs", type=int, default=400, help="how many (400)")
    parser.add_argument("--seed", type=int, default=1, help="the first one's seed; the others follow (1)")
    parser.add_argument("--kills", type=int, default=3, help="nodes killed while a lot of 40 runs (3)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes (one for each processor)")
    asked = parser.parse_args()
    ends = range(asked.seed, asked.seed + asked.graphs, LOT)
    jobs = [(start, min(LOT, asked.seed + asked.graphs - start), asked.kills) for start in ends]
    begun, done, bad = time.monotonic(), 0, {}
    with multiprocessing.Pool(asked.jobs) as pool:
        for size, found in pool.imap_unordered(lot, jobs):
            done += size
            bad |= found
            for seed, faults in found.items():
                print(f"seed {seed}:")
                for fault in faults:
                    print(f"    {fault}")
            print(f"{done} of {asked.graphs} graphs, {len(bad)} bad, {time.monotonic() - begun:.0f} s", flush=True)
    return 1 if bad else 0


if __name__ == "__main__":
    raise SystemExit(main())
