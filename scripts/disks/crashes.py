"""Power cuts under the real journal: its every write, sync and new name recorded, the power cut anywhere in between, the rest opened again.

    scripts/disk crashes [--trials 10000] [--seed N]      0 acknowledged entries lost, 0 starts refused; then each planted bug is found
    scripts/disk crashes --bug NAME                        what one of them gives

Exit 1 if something was lost, or a planted bug was not found. A failure is repeated with its seed: --seed N --trials 120.
"""

from __future__ import annotations

import argparse
import itertools
import random
import sys
import time
from typing import Any

from disks.bugs import BUGS
from disks.lives import Findings, run
from disks.vfs import why_not

BUG_TRIALS = 2_000


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--seed", type=int, help="of the first journal; the next ones follow [default: a fresh one]")
    parser.add_argument("--bug", choices=list(BUGS))
    options = parser.parse_args()
    if why := why_not():
        print(f"NOTICE: no crashes here: {why}", file=sys.stderr)
        return 1
    seed = random.SystemRandom().randrange(10**9) if options.seed is None else options.seed
    print(f"seed {seed}", flush=True)
    if options.bug:
        return _show(run(itertools.count(seed), options.trials, BUGS[options.bug]))
    if _show(run(itertools.count(seed), options.trials)):
        return 1
    missed = [name for name, plan in BUGS.items() if not _caught(name, plan, seed)]
    print(f"{len(BUGS) - len(missed)} of {len(BUGS)} planted bugs found")
    return 1 if missed else 0


def _show(findings: Findings) -> int:
    print(
        f"{findings.trials} power cuts in {findings.lives} lives, {findings.syncs} of them beside a sync: "
        f"{len(findings.wrong)} kinds of wrong; in {findings.kept_more} more had come through than was acknowledged"
    )
    for found in findings.wrong.values():
        print(f"  {found}")
    return 1 if findings.wrong else 0


def _caught(name: str, plan: dict[str, Any], seed: int) -> bool:
    started = time.perf_counter()
    found = run(itertools.count(seed), BUG_TRIALS, plan, until_wrong=True)
    wrong = next(iter(found.wrong.values()), "NOT FOUND")
    print(f"bug: {name:<46}{found.trials:>5} cuts, {time.perf_counter() - started:.1f} s: {wrong}", flush=True)
    return bool(found.wrong)


if __name__ == "__main__":
    sys.exit(main())
