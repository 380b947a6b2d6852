"""What work costs and how well it is spread, on real nodes, beside what a user would pick instead. Interleaved rounds, medians.

    --peers COMMAND   run once in each round; each line of its output that begins with { is a JSON object:
                      bench A: system, variant, p50_us, p99_us, tput_64, tput_512, client_cpu_us, others_cpu_us    a no-op with an answer
                            B, C: system, variant, ratio      makespan over ideal on 4 workers, alike (B) and of speeds 1, 1, 2, 4 (C)
                            D: system, variant 1-N-1, s       one task, then N, then one

Ours: `call` waits for the answer and is kept by nobody; `submit` is acknowledged when it is safe (on one disk of two nodes; on two of three
from three nodes on), then its result is waited for. Both are asked by a script at its node; `ctx.call` by an agent. All four nodes and
workers share this machine with the script. A ratio is taken within a round, and the median of the ratios is shown.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from typing import Any

from common import show
from peers import peers_round
from rows_crew import crew_round, unlike_round
from rows_pair import pair_round
from rows_table import tables


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each timed phase")
    parser.add_argument("--share", type=float, default=1.0, help="of the full number of tasks in makespans, fan-out and load")
    parser.add_argument("--peers", default="", metavar="COMMAND", help="what measures the others, see above")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    rounds: list[dict[str, float]] = []
    for number in range(asked.rounds):
        began = time.monotonic()
        found = one_round(asked, number)
        rounds.append(found)
        print(f"round {number + 1} of {asked.rounds}: {len(found)} figures in {time.monotonic() - began:.0f} s", file=sys.stderr)
    if asked.share != 1.0:
        print(f"a trial: only {asked.share:.0%} of our tasks in makespans, fan-out and load, so those are beside nothing", file=sys.stderr)
    for title, rows in tables(rounds).items():
        if not asked.json:
            print(f"\n{title}")
        show(rows, asked.json)


def one_round(asked: Any, number: int) -> dict[str, float]:
    """Figures by `system/figure`."""
    found = asyncio.run(pair_round(asked.seconds))
    found |= asyncio.run(crew_round(asked.seconds, asked.share, number))
    found |= asyncio.run(unlike_round(asked.share))
    return found | (peers_round(asked.peers) if asked.peers else {})


if __name__ == "__main__":
    main()
