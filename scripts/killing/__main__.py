"""`scripts/kills`: the four demos' work on real nodes, and kill -9 on whoever manages it, drives it or runs a step of it.

Each round: the work begins, the blow falls at a point drawn from the seed, what was killed comes back in its home after a while, and all is
judged from outside when the work has ended and the mesh is whole again. Every fourth round kills the worker alone and not its node (of the
manager the node alone). A mesh serves all rounds of one demo and role; after a bad one the next gets a new mesh, and the old one's
homes and logs are kept. Recovery: from the kill until another runs the step, drives the task, or answers for it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
import time
from typing import Any

from common import percentile, processes, show

from killing.arena import WORK_LIMIT_S, Arena
from killing.strikes import COORDINATOR, ROLES, Blow, Strike, Usual, blow
from killing.verdicts import wrong_with
from killing.works import WORKS, Work


class Campaign:
    """One demo, one role. `numbers`: the rounds that are left."""

    def __init__(self, demo: str, role: str, seed: int, numbers: list[int], *, verbose: bool) -> None:
        self.demo, self.role, self.seed, self.verbose = demo, role, seed, verbose
        self.left = numbers
        self.blows: list[Blow] = []
        self.bad: dict[int, list[str]] = {}
        self.refused: dict[str, int] = {}

    async def run(self) -> None:
        while self.left:
            with processes() as group:
                async with contextlib.AsyncExitStack() as stack:
                    arena = Arena(group, WORKS[self.demo].CREW, stack, critical=self.role == COORDINATOR)
                    fine = False
                    try:
                        await arena.start()
                        fine = await self._rounds(arena)
                    finally:
                        if not fine:
                            print(f"    homes and logs: {arena.folder}", flush=True)
                group.stop()
                if fine:
                    arena.made.close()

    async def _rounds(self, arena: Arena) -> bool:
        """Until one is bad. The first two are left alone: the second, which is warm, says how long the work takes and how much happens."""
        usual = Usual(0.0, 0)
        for number in (0, -1):
            began, events = time.monotonic(), len(arena.events)
            if wrong := await self._work(WORKS[self.demo](arena, number)):
                raise SystemExit(f"{self.demo} is wrong without any kill: {wrong}")
            usual = Usual(time.monotonic() - began, len(arena.events) - events)
        if self.verbose:
            print(f"  {self.demo}: {usual.seconds:.1f} s and {usual.events} events when nobody is killed", flush=True)
        while self.left:
            number = self.left.pop(0)
            it = blow(self.seed, self.demo, self.role, number)
            began = time.monotonic()
            wrong = await self._round(arena, it, usual)
            self.blows.append(it)
            for what, count in arena.refused.items():
                self.refused[what] = self.refused.get(what, 0) + count
            arena.refused.clear()
            if self.verbose or wrong:
                after = "" if it.recovered_s is None else f"; went on {it.recovered_s:.2f} s later"
                print(f"  {self.demo} {it}{after}; {time.monotonic() - began:.1f} s in all", flush=True)
            if wrong:
                self.bad[number] = wrong
                for one in wrong:
                    print(f"    BAD: {one}", flush=True)
                print(f"    again: scripts/kills {self.demo} --role {self.role} --seed {self.seed} --round {number}", flush=True)
                return False
        return True

    async def _round(self, arena: Arena, it: Blow, usual: Usual) -> list[str]:
        work = WORKS[self.demo](arena, it.number)
        working = asyncio.create_task(self._work(work))
        striking = asyncio.create_task(Strike(arena, work, it, usual, working.done).fall())
        try:
            wrong = await working
            await asyncio.wait_for(striking, WORK_LIMIT_S)
            await arena.whole()
            return wrong + await asyncio.wait_for(wrong_with(arena, work), WORK_LIMIT_S)
        except TimeoutError as error:
            return [str(error) or "it could not be judged in time"]
        finally:
            for each in (working, striking):
                each.cancel()

    async def _work(self, work: Work) -> list[str]:
        try:
            return await work.run()
        except TimeoutError as error:
            return [f"lost: {error}"]

    def row(self) -> dict[str, Any]:
        times = [each.recovered_s for each in self.blows if each.recovered_s is not None]
        spread = {"recovery p50 s": percentile(times, 0.5), "p99 s": percentile(times, 0.99)} if times else {}
        lesser = sum(each.sparing for each in self.blows)
        late = sum(each.late for each in self.blows)
        ran = {"demo": self.demo, "killed": self.role, "runs": len(self.blows), "of them the lesser": lesser, "after the end": late}
        return ran | {"bad": len(self.bad), "waited for": len(times)} | spread


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/kills", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("demo", nargs="*", metavar="DEMO", help=f"of {', '.join(WORKS)}; without any: all")
    parser.add_argument("--role", action="append", choices=ROLES, help="who is killed (may be repeated); without any: each")
    parser.add_argument("--rounds", type=int, default=20, help="kills for each demo and role (20)")
    parser.add_argument("--round", type=int, action="append", help="this one alone (may be repeated)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--verbose", action="store_true", help="a line for each kill")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    if unknown := [demo for demo in asked.demo if demo not in WORKS]:
        parser.error(f"there is no demo {unknown[0]!r}; there are {', '.join(WORKS)}")
    if asked.rounds < 1 or (asked.round and min(asked.round) < 1):
        parser.error("rounds are counted from 1")
    done = []
    for demo in asked.demo or WORKS:
        for role in asked.role or ROLES:
            campaign = Campaign(demo, role, asked.seed, sorted(asked.round or range(1, asked.rounds + 1)), verbose=asked.verbose)
            print(f"{demo}, {role}: {len(campaign.left)} rounds of seed {asked.seed}", file=sys.stderr, flush=True)
            asyncio.run(campaign.run())
            done.append(campaign)
            if asked.verbose:
                print(f"  asked again: {campaign.refused}", flush=True)
    show([each.row() for each in done], asked.json)
    return int(any(each.bad for each in done))


if __name__ == "__main__":
    raise SystemExit(main())
