"""When the blow falls, and on whom. Points are drawn from the seed, the demo, the role and the round, and from nothing else.

A point is a share of the time that the work takes when nobody is killed, or right after an event (something is submitted, begins, ends,
is committed, asked, answered), by its place among those that the work has when nobody is killed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

from kills_judge import Line

from killing.arena import Arena, Event, now_s
from killing.works import Work
from mesh.errors import MeshError
from mesh.flows.spec import FLOW

COORDINATOR = "coordinator"
"""All work of the demo waits for its word then, and every node stands by."""
ROLES = ("manager", "driver", "contractor", COORDINATOR)
AFTER_MAX_S = 0.03
"""Between an event and the blow right after it."""
DOWN_S = (0.3, 1.5, 4.0, 6.0)
"""Until whatever was killed runs again: before anybody has noticed, and long after its work is somebody else's."""
PROBES_S, RECOVERY_LIMIT_S = 0.1, 30.0
SPARING_EVERY = 4
"""Each such round kills the smaller thing alone: the worker and not its node; of the manager the node and not its worker."""


@dataclass(slots=True)
class Blow:
    """One kill, and what was seen of the recovery."""

    role: str
    number: int
    share: float
    after_event: bool
    after_s: float
    down_s: float
    sparing: bool
    at_s: float = 0.0
    name: str = ""
    what: str = ""
    late: bool = False
    """The work had ended by then."""
    interrupted: list[Line] = field(default_factory=list)
    driven: dict[str, int] = field(default_factory=dict)
    """Roots that the victim drove, and under which fence."""
    epoch: tuple[int, ...] = ()
    """Of the coordinator that was killed."""
    recovered_s: float | None = None

    def __str__(self) -> str:
        when = f"{'event' if self.after_event else 'time'} {self.share:.3f}"
        return f"round {self.number} ({when}): {self.what}, down for {self.down_s:g} s{', after the end' if self.late else ''}"


def blow(seed: int, demo: str, role: str, number: int) -> Blow:
    chance = Random(f"{seed}/{demo}/{role}/{number}")
    after_event = chance.random() < 0.5
    share, after_s, down_s = chance.random(), AFTER_MAX_S * chance.random(), chance.choice(DOWN_S)
    return Blow(role, number, share, after_event, after_s, down_s, number % SPARING_EVERY == 0)


@dataclass(frozen=True, slots=True)
class Usual:
    """What the work takes when nobody is killed."""

    seconds: float
    events: int


class Strike:
    def __init__(self, arena: Arena, work: Work, it: Blow, usual: Usual, over: Callable[[], bool]) -> None:
        self.arena, self.work, self.it, self.usual, self.over = arena, work, it, usual, over

    async def fall(self) -> None:
        """Wait for the point, kill, watch, and bring back what was killed."""
        event = await self._point()
        self.it.late = self.over()
        name, node, worker, stock = await self._victim(event)
        self._aim(name)
        self.it.at_s, self.it.name = now_s(), name
        pids = self.arena.kill_stock(stock) if stock else self.arena.kill(name, node=node, worker=worker)
        parts = "what drives flows at" if stock else "node and worker of" if node and worker else "node" if node else "worker of"
        self.it.what = f"kill -9 of {parts} {name} ({self.it.role}): {' '.join(map(str, pids))}"
        watching = asyncio.create_task(self._watch())
        await asyncio.sleep(self.it.down_s)
        await self.arena.back(name)
        await watching

    async def _point(self) -> Event | None:
        began, events = now_s(), len(self.arena.events)
        if not self.it.after_event:
            await asyncio.sleep(max(0.0, self.it.share * self.usual.seconds - (now_s() - began)))
            return None
        place = events + int(self.it.share * self.usual.events)
        while len(self.arena.events) <= place and not self.over():
            await asyncio.wait((asyncio.create_task(self.arena.event()),), timeout=0.1)
        await asyncio.sleep(self.it.after_s)
        return self.arena.events[min(place, len(self.arena.events) - 1)] if self.arena.events else None

    # ---- whom

    async def _victim(self, event: Event | None) -> tuple[str, bool, bool, int]:
        """Name, and what of it: its node, its worker, or a process that its node started by itself."""
        arena, whole = self.arena, not self.it.sparing
        if self.it.role == "manager":
            return arena.entry, True, whole, 0
        if self.it.role == "contractor":
            return await self._contractor(event), whole, True, 0
        if self.it.role == COORDINATOR:
            return await self._in_office(whole)
        name, capability = await self._driver()
        if not whole and capability == FLOW:
            stock = [int(each["pid"]) for each in (await arena.ask(lambda m: m.status(), name))["stock"]]
            return name, False, False, next(iter(stock), 0)
        return name, whole, True, 0

    async def _in_office(self, whole: bool) -> tuple[str, bool, bool, int]:
        """Who holds the office; at times the process alone that its node started for that."""
        while True:
            office = await self.arena.office()
            if office["holder"]:
                self.it.epoch = tuple(office["epoch"])
                stock = (await self.arena.ask(lambda m: m.status(), office["holder"]))["stock"]
                pid = next((int(each["pid"]) for each in stock if each["agent"] == COORDINATOR), 0)
                return office["holder"], whole, whole, 0 if whole else pid
            await asyncio.sleep(0.02)

    async def _contractor(self, event: Event | None) -> str:
        """Whose worker the event is about; else whose runs a step, as soon as one does."""
        if event is not None and event.pid and (name := self.arena.worker_of(event.pid)):
            return name
        while True:
            running = [line for line in self.arena.running() if line.task not in self.work.roots]
            if running:
                return self.arena.worker_of(Random(self.it.number).choice(running).pid)
            if self.over():
                return next(name for name in reversed(self.arena.names) if self.arena.crew[name])
            await asyncio.sleep(0.005)

    async def _driver(self) -> tuple[str, str]:
        """Who runs the handler of a task that was submitted, else who did last; and which it is."""
        while True:
            rows = [self.arena.rows[task] for task in self.work.roots if task in self.arena.rows]
            held = [row for row in rows if row["state"] == "held" and row["owner"]]
            if held or self.over():
                chosen = Random(self.it.number).choice(held) if held else next(row for row in reversed(rows) if row["owner"])
                return str(chosen["owner"]), str(chosen["capability"])
            await asyncio.sleep(0.005)

    # ---- what is waited for then

    def _aim(self, name: str) -> None:
        """What of the work hangs on it."""
        arena = self.arena
        pids = {process.pid for each, process in arena.made.workers.items() if each == name}
        roots = [arena.rows[task] for task in self.work.roots if task in arena.rows]
        self.it.driven = {row["task"]: row["fence"] for row in roots if row["state"] == "held" and row["owner"] == name}
        self.it.interrupted = [line for line in arena.running() if line.pid in pids and line.task not in self.work.roots]

    async def _watch(self) -> None:
        """Until what hung on it goes on: a step that it ran runs again, what it drove is driven, what it managed is answered for."""
        goes_on = {"manager": self._answered, "driver": self._driven, "contractor": self._runs, COORDINATOR: self._held}[self.it.role]
        while not self.over():
            if (at_s := await goes_on()) is not None:
                self.it.recovered_s = at_s - self.it.at_s
                return
            await asyncio.sleep(0.01)

    async def _answered(self) -> float | None:
        """Every living node is asked in turn, also while others have not answered: a question to the dead waits for them."""
        open_ones = [task for task in self.work.roots if task not in self.arena.done]
        living = [name for name in self.arena.names if name not in self.arena.down]
        asking: set[asyncio.Task[float | None]] = set()
        try:
            for i in range(round(RECOVERY_LIMIT_S / PROBES_S)):
                if self.over() or not open_ones:
                    return None
                asking.add(asyncio.create_task(self._asked(living[i % len(living)], open_ones[-1])))
                done, asking = await asyncio.wait(asking, timeout=PROBES_S, return_when=asyncio.FIRST_COMPLETED)
                if times := [at_s for each in done if (at_s := each.result()) is not None]:
                    return min(times)
                await asyncio.sleep(PROBES_S if done else 0)
        finally:
            for each in asking:
                each.cancel()
        return None

    async def _asked(self, name: str, task: str) -> float | None:
        """When that node could tell where the task stands."""
        try:
            await asyncio.wait_for(self.arena.clients[name].task(task), RECOVERY_LIMIT_S)
        except (MeshError, TimeoutError):
            return None
        return now_s()

    async def _held(self) -> float | None:
        """When somebody was in office again, under a later epoch, as a living node knows it."""
        office = await self.arena.office()
        return now_s() if office["holder"] and tuple(office["epoch"]) > self.it.epoch else None

    async def _driven(self) -> float | None:
        rows = [self.arena.rows[task] for task in self.it.driven]
        again = [row for row in rows if row["fence"] > self.it.driven[row["task"]] and row["state"] in ("held", "done", "failed")]
        return now_s() if again else None

    async def _runs(self) -> float | None:
        self.arena.read()
        starts = [start.at_s for line in self.it.interrupted for start in self.arena.ledger.starts[line.task] if start.fence > line.fence]
        return min(starts, default=None)
