"""Workers, their slots, and the queue in front of them: where measured service times and room come from.

    capability  --queue-->  worker (slots shared by all its capabilities)  --run-->  one handler under one fence

Invariant: one run per task; a slot is busy until its handler is known to have ended, whatever has become of the contract, and so are the
resources that it needs (`resources.py`). A run begins only in a worker with the labels it wants. Room is what keeps the expected wait below
`wait_ms_target`: short work flows, long work stays movable. Starts nothing and sends nothing.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field

from mesh.core.work.breaker import CLOSED, Breaker
from mesh.core.work.fitting import fits_worker, marked
from mesh.core.work.holdings import Holding, State
from mesh.core.work.offering import union
from mesh.core.work.resources import Needs, Resources, greatest
from mesh.core.work.turns import NO_TURN, Shares, Turns
from mesh.ids import Fence, NodeId, TaskId
from mesh.limits import WorkLimits
from mesh.messages.membership import LoadRow, Offer

_SAMPLE_WEIGHT = 0.2
"""Of the newest service time in the average: five samples follow a change, one outlier does not."""
_SERVICE_MS_MIN = 0.05
SURE_RUNS = 8
"""From here on the quickest of them says what cannot be done: a cold start alone must not."""
_QUEUED = (State.WAITING, State.READY)


class Run:
    """One handler in one worker. `answers` are owed when it ends: ``(cancelled or revoked, manager, fence)``."""

    __slots__ = (
        "answers",
        "capability",
        "charged_ms",
        "durable",
        "fence",
        "fraction",
        "heard_s",
        "heartbeat_s",
        "needs",
        "note",
        "overdue_s",
        "share",
        "started_s",
        "stopping",
        "task",
        "waits",
        "worker",
    )

    def __init__(self, worker: Worker, task: TaskId, fence: Fence, capability: str, durable: bool, started_s: float) -> None:
        self.worker = worker
        self.task = task
        self.fence = fence
        self.capability = capability
        self.durable = durable
        self.started_s = started_s
        self.overdue_s = float("inf")
        self.heartbeat_s = 0.0
        """It has promised a sign of life this often; 0: it has not."""
        self.heard_s = started_s
        self.needs: Needs = ()
        """What it holds of the node's resources."""
        self.waits = False
        """For work of its own, elsewhere or here: its slot is free meanwhile."""
        self.stopping = ""
        self.fraction = 0.0
        self.note = ""
        self.answers: list[tuple[str, NodeId, Fence]] = []
        self.share, self.charged_ms = "", 0
        """What its start was counted as, and under which key of the table."""


@dataclass(slots=True, eq=False)
class Worker:
    """One attached process. `runs` by task; `strays` are handlers it still runs whose contract is not held here any more."""

    worker: int
    pid: int
    agent: str
    offers: dict[str, Offer]
    concurrency: int
    idle: int = 0
    """Runs that wait. When several go on at once there may be more of them at work than slots; none starts until there are fewer."""
    runs: dict[TaskId, Run] = field(default_factory=dict)
    strays: dict[tuple[TaskId, Fence], Needs] = field(default_factory=dict)
    labels: tuple[str, ...] = ()
    resources: Needs = ()
    """What its machine has, as it says."""

    def free(self) -> int:
        return self.concurrency + self.idle - len(self.runs) - len(self.strays)

    def fits(self, capability: str, where: tuple[str, ...]) -> bool:
        """Whether it has these labels, and its version of the capability is among those that are wanted."""
        return not where or fits_worker(marked(self.labels, self.offers[capability].version), where)


@dataclass(slots=True, eq=False)
class Capability:
    """One capability of this node: who offers it, its queue and what one task takes. `service_ms` 0: never run here."""

    name: str
    pool: Resources
    queue: Turns[Holding]
    """Those that are ready."""
    needs: Needs = ()
    """Of one run."""
    workers: list[Worker] = field(default_factory=list)
    neighbours: list[Capability] = field(default_factory=list)
    """Those that share a worker with it, itself included: their queues are in its way."""
    queued: int = 0
    """These, and those that still wait for something."""
    service_ms: float = 0.0
    measured: int = 0
    """Runs that ended in a result or an error since the newest worker came."""
    fastest_ms: float = 0.0
    """The quickest of those."""
    breaker: Breaker = field(default_factory=Breaker)

    def slots(self) -> int:
        """How many may run at once: of workers' slots, and of what they need."""
        slots = sum(worker.concurrency for worker in self.workers)
        return min(slots, self.pool.most(self.needs)) if self.needs else slots

    def free(self) -> int:
        free = sum(max(0, worker.free()) for worker in self.workers)
        return min(free, self.pool.more(self.needs)) if self.needs else free

    def freest(self, where: tuple[str, ...] = ()) -> Worker | None:
        """The worker with these labels and most free slots, the oldest of equals; None if none may begin."""
        if self.needs and not self.pool.more(self.needs):
            return None
        best, most = None, 0
        for worker in self.workers:
            free = worker.concurrency + worker.idle - len(worker.runs) - len(worker.strays)
            if free > most and worker.fits(self.name, where):
                best, most = worker, free
        return best


class Slots:
    """Every worker, capability and run of this node."""

    def __init__(self, limits: WorkLimits) -> None:
        self._limits = limits
        self.shares = Shares(limits.shares_max)
        self.permit: Callable[[float, Capability], bool] = lambda _now_s, _capability: True
        """May one more of it start, as far as its limits over the whole mesh go? Set by `limit_holder.py`."""
        self.began: Callable[[float, Capability], None] = lambda _now_s, _capability: None
        self.waits: Callable[[float, Capability], None] = lambda _now_s, _capability: None
        self.limited: Callable[[str], bool] = lambda _capability: False
        """Whether so many of it run over the whole mesh, and no more."""
        self.workers: dict[int, Worker] = {}
        self.capabilities: dict[str, Capability] = {}
        self.runs: dict[TaskId, Run] = {}
        self.strays: dict[TaskId, int] = {}
        """How many strays of each task still run."""
        self.queued = 0
        self.resources = Resources()

    # ---- workers

    def attach(self, worker: Worker) -> None:
        """Add a worker, or replace what it offers if it is known."""
        before = self.workers.get(worker.worker)
        if before is not None:
            worker.runs, worker.strays, worker.idle = before.runs, before.strays, before.idle
            for run in worker.runs.values():
                run.worker = worker
        self.workers[worker.worker] = worker
        self._index()
        for name in worker.offers if before is None else ():
            self.capabilities[name].measured = 0

    def detach(self, worker: Worker) -> None:
        del self.workers[worker.worker]
        for task, run in worker.runs.items():
            del self.runs[task]
            self.resources.give(run.needs)
        for task, fence in list(worker.strays):
            self.end_stray(worker, task, fence)
        self._index()

    def _index(self) -> None:
        for known in self.capabilities.values():
            known.workers, known.neighbours = [], []
        for worker in self.workers.values():
            for name in worker.offers:
                self.capability(name).workers.append(worker)
        for capability in self.capabilities.values():
            names = {name: None for worker in capability.workers for name in worker.offers}
            capability.neighbours = [self.capabilities[name] for name in names]
            capability.needs = greatest(worker.offers[capability.name].needs for worker in capability.workers)
        self.resources.state(worker.resources for worker in self.workers.values())

    def capability(self, name: str) -> Capability:
        known = self.capabilities.get(name)
        if known is None:
            known = self.capabilities[name] = Capability(name, self.resources, Turns(self.shares, self._limits.age_s))
        return known

    def offers(self) -> tuple[Offer, ...]:
        """The union, by name; where workers differ about one version of a capability, the longest attached speaks for it. What no resource
        of this node suffices for is not offered."""
        names = sorted({name for worker in self.workers.values() for name in worker.offers})
        return tuple(union(known, self._limits) for name in names if (known := self.capabilities[name]).slots())

    def has_worker(self, name: str, where: tuple[str, ...]) -> bool:
        """Whether one here offers it and has these labels."""
        capability = self.offered(name)
        return capability is not None and any(worker.fits(name, where) for worker in capability.workers)

    def offered(self, name: str) -> Capability | None:
        capability = self.capabilities.get(name)
        if capability is None or not capability.workers or (capability.needs and not capability.slots()):
            return None
        return capability

    # ---- the queue

    def move(self, holding: Holding, state: State) -> None:
        """Change a holding's state and keep the counts."""
        before = holding.state
        holding.state = state
        if before in _QUEUED:
            capability = self.capabilities[holding.capability]
            capability.queued -= 1
            self.queued -= 1
            if before is State.READY:
                capability.queue.remove(holding.task, holding)
        if state in _QUEUED:
            capability = self.capability(holding.capability)
            capability.queued += 1
            self.queued += 1
            if state is State.READY:
                capability.queue.add(holding.task, holding)

    def next_ready(self, now_s: float, worker: Worker) -> Holding | None:
        """Whose turn it is of those that `worker` can run now. It stays ready until moved."""
        known = [self.capabilities[name] for name in worker.offers]
        found = [(capability, holding) for capability in known if (holding := self._next_of(now_s, capability, worker)) is not None]
        if len(found) < 2:
            return found[0][1] if found else None
        return min(found, key=lambda pair: self._place(now_s, *pair))[1]

    def _next_of(self, now_s: float, capability: Capability, worker: Worker) -> Holding | None:
        """Its first whose labels `worker` has, if it may start and what it needs is free for it. The queue is short (`queue_max`)."""
        holding = capability.queue.first(now_s)
        if holding is None or not self.permit(now_s, capability):
            return None
        if not worker.fits(capability.name, holding.where):
            holding = capability.queue.first_that(now_s, lambda other: worker.fits(capability.name, other.where))
        if holding is not None and capability.needs and self.must_wait(now_s, capability, holding):
            return None
        return holding

    def _place(self, now_s: float, capability: Capability, holding: Holding) -> tuple[int, float, int]:
        """Among those of all capabilities; the least has its turn."""
        return -capability.queue.height_of(now_s, holding), self.shares.had(holding.turn[1] or holding.rank[1]), holding.order

    def must_wait(self, now_s: float, capability: Capability, holding: Holding) -> bool:
        """What it needs is not free; or work whose turn is before its own waits for some of it, which would wait for ever if work that
        needs less always went first."""
        if not self.resources.more(capability.needs):
            return True
        names = [name for name, _ in capability.needs]
        place = self._place(now_s, capability, holding)
        for other in self.capabilities.values():
            if other is capability or not any(name in names for name, _ in other.needs):
                continue
            head = other.queue.first(now_s) if any(worker.free() > 0 for worker in other.workers) else None
            if head is not None and self._place(now_s, other, head) < place and self.permit(now_s, other):
                return True
        return False

    def hindrance(self, now_s: float, holding: Holding) -> str:
        """Why it has not begun, in words for people; "": it waits for a worker that is free."""
        capability = self.capabilities.get(holding.capability)
        if capability is None:
            return ""
        if not self.permit(now_s, capability):
            return "waits for a slot of its limit over the mesh"
        if capability.needs and not self.resources.more(capability.needs):
            return f"waits for {', '.join(name for name, _ in capability.needs)} to be free"
        return ""

    def took_turn(self, now_s: float, holding: Holding, run: Run) -> None:
        """It starts: its share key has about so much more of this node."""
        capability = self.capabilities[holding.capability]
        if holding.turn == NO_TURN:
            self.shares.leave(key := self.shares.join(holding.rank[1]))
            holding.turn = (0, key)
        run.share, run.charged_ms = holding.turn[1], max(1, self.service_ms(capability))
        self.shares.charge(run.share, run.charged_ms)
        self.began(now_s, capability)
        capability.queue.took(now_s, holding)

    # ---- runs

    def begin(self, run: Run) -> None:
        assert run.task not in self.runs, "never two fences of one task at once"
        self.runs[run.task] = run.worker.runs[run.task] = run
        offer = run.worker.offers.get(run.capability)
        if offer is not None and offer.needs:
            run.needs = offer.needs
            self.resources.take(run.needs)

    def end(self, run: Run) -> None:
        self.resources.give(run.needs)
        del self.runs[run.task]
        del run.worker.runs[run.task]
        run.worker.idle -= run.waits

    def wait(self, now_s: float, run: Run, waits: bool) -> None:
        """A run begins or ends to wait for work of its own. Said twice, it counts once."""
        run.worker.idle += waits - run.waits
        run.heard_s = now_s
        run.waits = waits

    def begin_stray(self, worker: Worker, task: TaskId, fence: Fence) -> None:
        if (task, fence) not in worker.strays:
            worker.strays[task, fence] = greatest(offer.needs for offer in worker.offers.values())
            self.resources.take(worker.strays[task, fence])
            self.strays[task] = self.strays.get(task, 0) + 1

    def end_stray(self, worker: Worker, task: TaskId, fence: Fence) -> None:
        self.resources.give(worker.strays.pop((task, fence)))
        self.strays[task] -= 1
        if not self.strays[task]:
            del self.strays[task]

    def occupied(self, task: TaskId) -> bool:
        """A handler of this task, under whatever fence, has not ended yet."""
        return task in self.runs or task in self.strays

    def measure(self, capability: str, service_ms: int, elapsed_s: float) -> None:
        """Note one service time. Workers report whole milliseconds; below one, our own clock says more (it includes the way there)."""
        known = self.capabilities.get(capability)
        if known is None:
            return
        sample = float(service_ms) if service_ms >= 1 else min(max(elapsed_s * 1000.0, _SERVICE_MS_MIN), 1.0)
        known.fastest_ms = min(known.fastest_ms, sample) if known.measured else sample
        known.measured += 1
        known.service_ms += (sample - known.service_ms) * (_SAMPLE_WEIGHT if known.service_ms else 1.0)

    # ---- what to expect

    def room(self, capability: Capability) -> int:
        """How many more awards are good to take: free slots, and what waits less than the target, but one at least."""
        slots = free = 0
        for worker in capability.workers:
            slots += worker.concurrency
            spare = worker.concurrency + worker.idle - len(worker.runs) - len(worker.strays)
            if spare > 0:
                free += spare
        if capability.needs:
            slots, free = min(slots, self.resources.most(capability.needs)), min(free, self.resources.more(capability.needs))
        if not slots or not capability.breaker.admits():
            return 0
        queued = capability.queued
        beyond = 1 - queued
        if capability.service_ms:
            backlog_ms = 0.0
            if self.queued:
                for other in capability.neighbours:
                    backlog_ms += other.queued * other.service_ms
            beyond = max(beyond, int((self._limits.wait_ms_target * slots - backlog_ms) / capability.service_ms))
        most = self._limits.queue_max - self.queued if capability.breaker.state == CLOSED else 1
        return max(0, min(free + beyond, most))

    def start_ms(self, capability: Capability, now_s: float, ahead: int = 0) -> int:
        """Until a slot is free for a task that comes now behind the queue and `ahead` others of its kind."""
        return self.starts_ms(capability, now_s, ahead, 1)[0]

    def starts_ms(self, capability: Capability, now_s: float, ahead: int, count: int) -> list[int]:
        """The capacity curve: when the first of `count` such tasks could start, the second, ..."""
        if not self.queued and ahead + count <= capability.free():
            return [0] * count
        before_ms = [other.service_ms for other in capability.neighbours for _ in range(other.queued)]
        return self._curve_ms(capability, now_s, before_ms + [capability.service_ms] * ahead, count)

    def waits_ms(self, capability: Capability, now_s: float) -> list[int]:
        """When each task that is queued here for `capability` will start, the first of the queue first."""
        before_ms = [o.service_ms for o in capability.neighbours if o is not capability for _ in range(o.queued)]
        return self._curve_ms(capability, now_s, before_ms, capability.queued)

    def _curve_ms(self, capability: Capability, now_s: float, before_ms: list[float], count: int) -> list[int]:
        """Starts of `count` tasks behind others that take `before_ms`."""
        free_at: list[float] = []
        for worker in capability.workers:
            busy = [self._remaining_ms(run, now_s) for run in worker.runs.values() if not run.waits]
            busy += [0.0] * (worker.concurrency - len(busy) - len(worker.strays))
            free_at += busy
        if capability.needs:
            free_at = self._needing(capability, sorted(free_at), now_s)
        if not free_at:
            return [0] * count
        heapq.heapify(free_at)
        starts_ms: list[int] = []
        for service_ms in before_ms + [capability.service_ms] * count:
            starts_ms.append(round(free_at[0]))
            heapq.heapreplace(free_at, free_at[0] + service_ms)
        return starts_ms[len(before_ms) :]

    def _needing(self, capability: Capability, free_at: list[float], now_s: float) -> list[float]:
        """As many places as the needs leave, each free when a slot is and when a run that holds some of them has ended."""
        names = [name for name, _ in capability.needs]
        holds = [run for run in self.runs.values() if any(name in names for name, _ in run.needs)]
        ends = sorted(self._remaining_ms(run, now_s) for run in holds)
        more, most = self.resources.more(capability.needs), self.resources.most(capability.needs)
        ends = [0.0] * more + ends
        ends += [ends[-1] if ends else 0.0] * (most - len(ends))
        return [max(slot, held) for slot, held in zip(free_at, ends[:most], strict=False)]

    def _remaining_ms(self, run: Run, now_s: float) -> float:
        """The average less what has passed. What is past the average, or was never measured, will take about half of its age again."""
        elapsed_ms = (now_s - run.started_s) * 1000.0
        known = self.capabilities.get(run.capability)
        service_ms = known.service_ms if known else 0.0
        return max(service_ms - elapsed_ms, elapsed_ms / 2)

    def service_ms(self, capability: Capability) -> int:
        """Whole milliseconds; at least 1 once measured, since 0 says never run here."""
        return max(1, round(capability.service_ms)) if capability.service_ms else 0

    def cannot_end(self, capability: Capability, now_s: float, left_ms: int) -> bool:
        """Not within `left_ms`: the wait alone, and not one of many runs was quick enough. An average would turn away what has a chance."""
        return capability.measured >= SURE_RUNS and self.start_ms(capability, now_s) + capability.fastest_ms > left_ms

    def retry_after_ms(self, capability: Capability, now_s: float) -> int:
        """A guess at when to ask again, between 10 ms and 5 s."""
        return min(5000, max(10, self.start_ms(capability, now_s)))

    def load_rows(self, closed: bool) -> tuple[LoadRow, ...]:
        """One row per offered capability, by name. `closed`: this node takes no more work."""
        rows = []
        for name in sorted(self.capabilities):
            capability = self.capabilities[name]
            slots = capability.slots()
            if slots:
                room = 0 if closed else self.room(capability)
                breaker = capability.breaker
                state = "" if breaker.state == CLOSED else breaker.state
                busy, service_ms = slots - capability.free(), self.service_ms(capability)
                rows.append(LoadRow(name, slots, busy, capability.queued, room, service_ms, state, breaker.failing()))
        return tuple(rows)
