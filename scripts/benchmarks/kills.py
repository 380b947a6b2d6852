"""Kill nodes in the middle of their work, by a plan drawn from a seed: what is lost, what is doubled, how long until it goes on?

Real processes on loopback: three nodes with workers, the rest without; clients submit at all of them. Victims in turn: a contractor (node
and worker), a manager, a keeper of his journal, manager and contractor together; each by SIGKILL and by SIGSTOP for longer than a lease.
Who was killed comes back with its home, and the next blow falls when the mesh is whole again. The only judge is a ledger file outside the
mesh (`kills_judge.py`). Exit 1 names what is lost or doubled and keeps the homes.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

from common import HERE, Mesh, percentile, processes, show
from kills_judge import Ledger, Line, effects, runs

from mesh import connect
from mesh.errors import MeshError

AGENT = HERE / "ledger_agent.py"
WORKING = ("heron", "lynx", "stoat")
IDLE = ("otter", "wren", "crane", "finch", "raven")
SORTS = ("work.idempotent", "work.plain", "work.keyed", "work.once", "work.tx")
KINDS = ("contractor", "manager", "keeper", "manager+contractor")
SIGNALS = (signal.SIGKILL, signal.SIGSTOP)
LEASE_AND_MARGIN_S = 3.5
ANCHOR_S = 4.0
"""Runs of work that is under way when a blow falls."""
LOOK_EVERY_S = 0.02
PROBES_S = 0.2
HEAL_LIMIT_S = 60.0
END_LIMIT_S = 90.0


def now_s() -> float:
    return time.clock_gettime(time.CLOCK_MONOTONIC)


@dataclass(slots=True)
class Blow:
    """One kill, and what was seen of the recovery. `victims` by what they are."""

    number: int
    kind: str
    signal: signal.Signals
    down_s: float
    victims: dict[str, str] = field(default_factory=dict)
    at_s: float = 0.0
    interrupted: list[Line] = field(default_factory=list)
    """Runs that were under way at the contractor."""
    spared: list[Line] = field(default_factory=list)
    """Runs of the manager's tasks that were under way elsewhere."""
    answered_s: float | None = None
    healed_s: float = 0.0

    def __str__(self) -> str:
        names = ", ".join(f"{name} ({what})" for what, name in self.victims.items())
        return f"blow {self.number}: {self.kind}, {self.signal.name} for {self.down_s:.1f} s: {names}"


def plan(count: int, rng: Random) -> list[Blow]:
    """All kinds and both signals in turn; some are back before a lease is over, some long after."""
    blows = []
    for i in range(count):
        how = SIGNALS[(i // len(KINDS)) % len(SIGNALS)]
        down_s = (
            LEASE_AND_MARGIN_S + 0.5 + 3 * rng.random()
            if how == signal.SIGSTOP
            else rng.choice((0.2, 1.0, 3.0, 6.0)) * (0.5 + rng.random())
        )
        blows.append(Blow(i + 1, KINDS[i % len(KINDS)], how, down_s))
    return blows


class Run:
    def __init__(self, made: Mesh, stack: contextlib.AsyncExitStack, asked: argparse.Namespace) -> None:
        self.made, self.stack, self.asked = made, stack, asked
        self.rng = Random(asked.seed)
        self.names = (*WORKING, *IDLE[: asked.nodes - len(WORKING)])
        self.managers = self.names[len(WORKING) :]
        self.ledger = Ledger(made.folder / "ledger")
        self.clients: dict[str, Any] = {}
        self.acked: dict[str, tuple[str, str]] = {}
        """Task -> (capability, where it was submitted)."""
        self.refused: Counter[str] = Counter()
        self.allowed = 0
        self.blows: list[Blow] = []
        self.struck_s: dict[int, list[float]] = {}
        """When a worker's process was struck, by its id."""

    async def start(self) -> None:
        for name in self.names:
            self.made.node(name)
        for name in WORKING:
            self.made.worker(AGENT, name)
        for name in self.names:
            self.clients[name] = await self.stack.enter_async_context(connect(home=self.made.home, node=name))
        await self.until(self.whole, "the mesh to be whole", HEAL_LIMIT_S)

    # ---- looking

    async def until(self, done: Callable[[], Any], what: str, limit_s: float) -> Any:
        end = now_s() + limit_s
        while True:
            if found := await done():
                return found
            if now_s() > end:
                raise TimeoutError(f"gave up waiting for {what} after {limit_s:g} s: {self.last}")
            await asyncio.sleep(LOOK_EVERY_S * 3)

    last: Any = None

    async def whole(self) -> bool:
        """Every node is linked with every other, has two keepers and leads its own log; every worker is attached."""
        for name in self.names:
            try:
                status = await asyncio.wait_for(self.clients[name].status(), 2)
                rows = {row["name"]: row for row in (await asyncio.wait_for(self.clients[name].nodes(), 2))["nodes"]}
            except (MeshError, TimeoutError) as error:
                self.last = f"{name}: {error!r}"
                return False
            apart = [other for other in self.names if other != name and not (other in rows and rows[other]["linked"])]
            keepers = status["keepers"]
            working = name not in WORKING or [worker["pid"] for worker in status["workers"]] == [self.made.workers[name].pid]
            if apart or len(keepers["keepers"]) != 2 or not keepers["leads"] or not working:
                self.last = f"{name}: apart from {apart}, keepers {keepers}, working {working}"
                return False
        return True

    async def keepers_of(self, name: str) -> list[str]:
        found: list[str] = []
        with contextlib.suppress(MeshError):  # in a hurry it may not be up again
            found = [keeper["name"] for keeper in (await self.clients[name].status())["keepers"]["keepers"]]
        return found or [other for other in self.names if other != name]

    # ---- feeding

    async def feed(self, name: str, rng: Random) -> None:
        """Submit at one node, as fast as is asked, and no more than is allowed for by the blows so far."""
        while True:
            await asyncio.sleep(rng.random() * 2 * len(self.names) / self.asked.rate)
            if len(self.acked) < self.allowed:
                with contextlib.suppress(MeshError, TimeoutError):
                    await self.submit(name, rng.choice(SORTS), 2.5 * rng.random() ** 3)

    async def submit(self, name: str, capability: str, seconds: float) -> str:
        try:
            task = await self.clients[name].submit(capability, ledger=str(self.ledger.path), seconds=seconds)
        except MeshError as error:
            self.refused[type(error).__name__] += 1  # nothing was acknowledged, so nothing is owed
            raise
        self.acked[task.id] = (capability, name)
        return str(task.id)

    # ---- blows

    async def prepare(self, blow: Blow) -> None:
        """Choose the victims, and see that what is to be measured is under way."""
        made, manager = self.made, self.rng.choice(self.managers)
        keepers = await self.keepers_of(manager)
        self.kept = manager
        sorts = ("work.idempotent", "work.plain", "work.keyed", "work.once")
        anchors = await asyncio.gather(
            *(self.submit(manager, capability, ANCHOR_S) for capability in sorts for _ in WORKING), return_exceptions=self.asked.hurry
        )
        self.anchors = [task for task in anchors if isinstance(task, str)]

        async def under_way() -> bool:
            self.ledger.look()
            return all(self.ledger.starts[task] for task in self.anchors)

        if not self.asked.hurry:
            await self.until(under_way, "the anchors to run", 20)
        # Two of the three who keep a journal, at once: what is in it waits until one is back. That is no recovery to be measured.
        apart = [name for name in WORKING if name not in keepers and manager not in await self.keepers_of(name)]
        may = apart or [name for name in WORKING if name not in keepers] if "+" in blow.kind else WORKING
        contractor = max(may or WORKING, key=lambda name: len(self.ledger.running(made.workers[name].pid)))
        chosen = {"contractor": contractor, "manager": manager, "keeper": self.rng.choice(keepers)}
        blow.victims = {what: chosen[what] for what in blow.kind.split("+")}

    async def strike(self, blow: Blow) -> None:
        made, names = self.made, list(blow.victims.values())
        self.blows.append(blow)
        struck = [made.nodes[name] for name in names] + [made.workers[name] for name in names if name in WORKING]
        blow.at_s = now_s()
        for process in struck:
            process.send_signal(blow.signal)
        self.ledger.look()
        hit = [self.made.workers[name].pid for name in names if name in WORKING]
        for pid in hit:
            self.struck_s.setdefault(pid, []).append(blow.at_s)
        blow.interrupted = [line for pid in hit for line in self.ledger.running(pid)]
        if "manager" in blow.victims:
            away = [self.made.workers[name].pid for name in WORKING if name not in names]
            blow.spared = [line for pid in away for line in self.ledger.running(pid) if line.task in self.anchors]
        watching = None if self.asked.hurry else asyncio.create_task(self.watch(blow))
        await asyncio.sleep(blow.down_s)
        if blow.signal == signal.SIGKILL:
            for process in struck:
                process.wait()
                self.ledger.gone(process.pid)
            for name in names:
                await asyncio.to_thread(made.node, name)
                if name in WORKING:
                    made.worker(AGENT, name)
        else:
            for process in struck:
                process.send_signal(signal.SIGCONT)
        if watching is None:
            return
        back_s = now_s()
        await self.until(self.whole, f"the mesh to be whole after {blow}", HEAL_LIMIT_S)
        blow.healed_s = now_s() - back_s
        await asyncio.wait_for(watching, HEAL_LIMIT_S)

    async def watch(self, blow: Blow) -> None:
        """Until somebody answers for the manager's running work, or the keeper's author acknowledges again."""
        if blow.kind == "contractor":
            return
        asking: set[asyncio.Task[float | None]] = set()
        others = [name for name in self.names if name not in blow.victims.values()]
        for i in range(round(HEAL_LIMIT_S / PROBES_S)):
            probe = self.acknowledged() if blow.kind == "keeper" else self.driven(others[i % len(others)])
            asking.add(asyncio.create_task(probe))
            done, asking = await asyncio.wait(asking, timeout=PROBES_S, return_when=asyncio.FIRST_COMPLETED)
            times = [at for each in done if (at := each.result()) is not None]
            if times:
                blow.answered_s = min(times) - blow.at_s
                break
            await asyncio.sleep(PROBES_S if done else 0)
        for each in asking:
            each.cancel()

    async def driven(self, name: str) -> float | None:
        """When that node could tell where the manager's work stands."""
        try:
            await asyncio.wait_for(self.clients[name].task(self.anchors[0]), 10)
        except (MeshError, TimeoutError):
            return None
        return now_s()

    async def acknowledged(self) -> float | None:
        try:
            await asyncio.wait_for(self.submit(self.kept, "work.plain", 0.0), 10)
        except (MeshError, TimeoutError):
            return None
        return now_s()

    async def storm(self, blows: list[Blow]) -> None:
        end_s = now_s() + 60 * self.asked.minutes
        feeding = [asyncio.create_task(self.feed(name, Random(f"{self.asked.seed}/{name}"))) for name in self.names]
        try:
            for blow in blows:
                if now_s() > end_s:
                    break
                self.allowed = self.asked.tasks * blow.number // len(blows)
                await self.prepare(blow)
                await self.strike(blow)
                if self.asked.verbose:
                    recovery = self.recoveries(blow)
                    times = " ".join(f"{what} {max(each):.2f}" for what, each in recovery.items() if each)
                    print(f"{blow} at {blow.at_s:.1f}; healed {blow.healed_s:.1f} s after; {times}; {len(self.acked)} tasks", flush=True)

            async def fed() -> bool:
                return len(self.acked) >= self.allowed

            await self.until(self.whole, "the mesh to be whole at the end", HEAL_LIMIT_S)
            await self.until(fed, "the rest to be submitted", 60 + self.asked.tasks / self.asked.rate)
        finally:
            for each in feeding:
                each.cancel()

    # ---- what came of it

    def recoveries(self, blow: Blow) -> dict[str, list[float]]:
        """Seconds from the blow on, by what was waited for. `hit_again`: what waited when the next blow fell, whatever it was."""
        self.ledger.look()
        found: dict[str, list[float]] = {"idempotent": [], "other": [], "orphan": [], "answer": [], "hit_again": []}
        next_s = min((other.at_s for other in self.blows if other.at_s > blow.at_s), default=float("inf"))
        for line in blow.interrupted:
            again = [start.at_s for start in self.ledger.starts[line.task] if start.fence > line.fence]
            if again:
                sort, manager = self.acked.get(line.task, ("", ""))
                what = "hit_again" if min(again) > next_s else "idempotent" if sort == "work.idempotent" else "other"
                found["orphan" if manager in blow.victims.values() else what].append(min(again) - blow.at_s)
        if blow.answered_s is not None:
            found["answer"].append(blow.answered_s)
        return found

    def restarted(self, blow: Blow) -> list[str]:
        """Running work of a dead manager that was begun again, and not because who ran it was struck as well, by a later blow."""
        found = []
        for line in blow.spared:
            again = [start.at_s for start in self.ledger.starts[line.task] if start.fence > line.fence]
            if again and not any(blow.at_s < at_s < min(again) for at_s in self.struck_s.get(line.pid, ())):
                found.append(line.task)
        return found

    async def ends(self) -> tuple[dict[str, int], dict[str, str]]:
        """Task -> the fence its result names, and what is wrong: two nodes are asked for each."""
        results: dict[str, int] = {}
        wrong: dict[str, str] = {}
        gate = asyncio.Semaphore(16)

        async def end(task: str) -> None:
            async with gate:
                said = []
                for name in self.rng.sample(self.names, 2):
                    try:
                        said.append(await self.clients[name].result(task, timeout_s=END_LIMIT_S))
                    except MeshError as error:
                        wrong[task] = f"lost: {name} says {error.code}: {error.message}"
                        return
                states = [(one["state"], one.get("result")) for one in said]
                if states[0] != states[1]:
                    wrong[task] = f"doubled: two nodes tell two ends: {states}"
                elif states[0][0] != "done":
                    wrong[task] = f"lost: it ended {said[0]}"
                else:
                    results[task] = int(said[0]["result"])

        await asyncio.gather(*(end(task) for task in self.acked))
        return results, wrong

    async def judge(self) -> dict[str, str]:
        results, wrong = await self.ends()
        self.ledger.look()
        sorts = {task: self.acked[task][0] for task in results}
        for found in (runs(self.ledger, results), effects(self.ledger, sorts)):
            wrong |= {task: f"doubled: {what}" for task, what in found.items()}
        for log in sorted(self.made.folder.glob("*.log")):
            if "Traceback" in log.read_text(errors="replace"):
                wrong[log.name] = "a process ended by a defect"
        return wrong


def table(run: Run, blows: list[Blow]) -> list[dict[str, Any]]:
    rows = []
    for kind in KINDS:
        for how in SIGNALS:
            mine = [blow for blow in blows if blow.kind == kind and blow.signal == how]
            if not mine:
                continue
            row: dict[str, Any] = {"killed": kind, "by": how.name, "kills": len(mine)}
            for what in ("idempotent", "other", "orphan", "answer", "hit_again"):
                times = [one for blow in mine for one in run.recoveries(blow)[what]]
                row |= {f"{what}_p50_s": percentile(times, 0.5), f"{what}_p99_s": percentile(times, 0.99)} if times else {}
            if "manager" in kind:
                row["running"] = sum(len(blow.spared) for blow in mine)
                row["begun_again"] = sum(len(run.restarted(blow)) for blow in mine)
            rows.append(row)
    return rows


async def main_of(asked: argparse.Namespace, made: Mesh) -> int:
    async with contextlib.AsyncExitStack() as stack:
        run = Run(made, stack, asked)
        await run.start()
        blows = plan(asked.kills, run.rng)
        problem = ""
        try:
            await run.storm(blows)
        except TimeoutError as error:
            problem = str(error)
        struck = [blow for blow in blows if blow.at_s]
        wrong = await run.judge() if not problem else {}
        show(table(run, struck), asked.json)
    lost = sum(what.startswith("lost") for what in wrong.values())
    print(
        f"{len(struck)} kills, {len(run.acked)} tasks, {lost} lost, {len(wrong) - lost} doubled; {dict(run.refused)} not taken",
        file=sys.stderr,
    )
    for task, what in wrong.items():
        print(f"  {task} ({', '.join(run.acked.get(task, ('not acknowledged',)))}): {what}", file=sys.stderr)
    again = {task: blow for blow in struck for task in run.restarted(blow)}
    for task, blow in again.items():
        print(f"  {task} was running and was begun again by {blow}", file=sys.stderr)
    if problem:
        print(problem, file=sys.stderr)
    return int(bool(wrong or again or problem))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=24)
    parser.add_argument("--tasks", type=int, default=1200)
    parser.add_argument("--nodes", type=int, default=5, choices=range(5, 9), help="three of them with workers")
    parser.add_argument("--rate", type=float, default=20.0, help="tasks submitted a second, at most")
    parser.add_argument("--minutes", type=float, default=120.0, help="no kill after that")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--hurry", action="store_true", help="strike again before the mesh is whole; measures nothing, judges all")
    parser.add_argument("--verbose", action="store_true", help="a line for each kill")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    with processes() as group:
        made = Mesh(group)
        code = asyncio.run(main_of(asked, made))
        group.stop()
        if code:
            print(f"homes, logs and the ledger: {made.folder}", file=sys.stderr)
        else:
            made.close()
    sys.exit(code)


if __name__ == "__main__":
    main()
