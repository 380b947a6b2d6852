"""The command: `scripts/explore`. Exit codes: 0 every promise held, 1 one was broken (and how), 2 wrong arguments."""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
from collections.abc import Iterable

from exploring.sizes import FULL, SMALL, Size, explored
from exploring.walk import Walk, Walked

STATES_MAX = 4_000_000


def main() -> int:
    options = argparse.ArgumentParser(prog="explore", description="Explore the consensus about one log: all within bounds, or by seeds.")
    options.add_argument("--small", action="store_true", help="the bounds that the tests use: seconds")
    options.add_argument("--only", metavar="NAME", help="one exploration, by its name")
    options.add_argument("--states", type=int, default=STATES_MAX, help=f"give up at so many states each (default {STATES_MAX})")
    options.add_argument("--seeds", type=int, default=0, help="so many random walks instead")
    options.add_argument("--seed", type=int, default=0, help="the first of them (default 0)")
    options.add_argument("--steps", type=int, default=2_000, help="the length of each (default 2000)")
    chosen = options.parse_args()
    with multiprocessing.Pool() as pool:
        if chosen.seeds:
            work = [(seed, chosen.steps) for seed in range(chosen.seed, chosen.seed + chosen.seeds)]
            return _walks(pool.imap(_walk, work, chunksize=4))
        sizes = {name: size for name, size in (SMALL if chosen.small else FULL).items() if chosen.only in (None, name)}
        if not sizes:
            options.error(f"no exploration is called {chosen.only!r}: {', '.join(SMALL if chosen.small else FULL)}")
        return max(pool.imap_unordered(_explore, [(name, size, chosen.states) for name, size in sizes.items()]))


def _explore(work: tuple[str, Size, int]) -> int:
    name, size, states_max = work
    began = time.perf_counter()
    found = explored(size, states_max)
    end = found.broken or ("every promise holds" if found.whole else f"NOT ALL: stopped at {states_max} states; every promise held so far")
    bounds = ", ".join(f"{count} {what}" for what, count in size.bounds._asdict().items())
    print(
        f"{name} ({bounds}; {'loose' if size.loose else 'strict'}): {found.states} states, {found.steps} steps, depth {found.depth}; "
        f"{found.nodes} states of a node, {found.messages} messages; {time.perf_counter() - began:.0f} s: {end}",
        *found.trace,
        sep="\n  ",
        flush=True,
    )
    return int(bool(found.broken or not found.whole))


def _walk(work: tuple[int, int]) -> tuple[int, Walked]:
    return work[0], Walk(*work).run()


def _walks(done: Iterable[tuple[int, Walked]]) -> int:
    bad = count = steps = faults = terms = kept = taken = 0
    for seed, walked in done:
        count += 1
        steps, faults, terms = steps + walked.steps, faults + walked.faults, terms + walked.terms
        kept, taken = kept + walked.kept, taken + walked.taken
        if walked.broken:
            bad += 1
            print(f"seed {seed}, step {walked.steps}: {walked.broken}", flush=True)
    print(f"{count} walks, {steps} steps, {faults} faults, {terms} terms, {kept} pieces kept, {taken} of them take-overs: {bad} broken")
    return int(bool(bad))


if __name__ == "__main__":
    sys.exit(main())
