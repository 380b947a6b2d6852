"""One run of a handler, and what the runner needs of the time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from mesh.agent import Capability
from mesh.capture import RunLog
from mesh.ids import UNRANKED, Baggage, Fence, TaskId, inherited
from mesh.outflow import Sink
from mesh.secret import Redactor
from mesh.threads import Interruptible


class Timer(Protocol):
    """A pending call."""

    def cancel(self) -> None: ...


class Clock(Protocol):
    """Time for handlers: real, or a simulated mesh's."""

    def now_ms(self) -> int:
        """Milliseconds on the machine's clock that counts sleep, the one leases are given on."""

    def wall_ms(self) -> int:
        """Unix time in milliseconds, for people."""

    def call_later(self, seconds: float, call: Callable[[], None]) -> Timer: ...

    async def sleep(self, seconds: float) -> None: ...


class RunEnded(Exception):
    """Raised where a handler's end is known already, as a value: `outcome` and `error` as in an `ended` item."""

    def __init__(self, outcome: str, error: dict[str, Any]) -> None:
        super().__init__(outcome)
        self.outcome, self.error = outcome, error


class Isolation(Protocol):
    """Runs a handler in a process of its own. When its task is cancelled, the process is killed."""

    async def run(self, run: Run, runner: Any) -> tuple[bytes, tuple[tuple[str, int], ...]]:
        """The output and its files. Raises RunEnded for every other end."""
        ...


@dataclass(frozen=True, slots=True)
class RunnerStatistics:
    running: int
    queued: int
    ended: int
    failed: int
    declined_by_error: int


class Run:
    """One run of a handler."""

    __slots__ = (
        "attempt",
        "baggage",
        "begun",
        "budgets",
        "capability",
        "checkpoint",
        "ended_ms",
        "fence",
        "handle",
        "input",
        "isolated",
        "lease_end_ms",
        "lease_waiters",
        "lent",
        "limited",
        "log",
        "open_log",
        "outflow",
        "over",
        "parent",
        "pins",
        "progress",
        "rank",
        "redactor",
        "said",
        "skip",
        "spending",
        "spends",
        "started_ms",
        "stopping",
        "stream",
        "task",
        "thread",
        "timeout_ms",
        "timer",
        "waits",
        "works",
    )

    def __init__(self, item: list[Any], capability: Capability, *, isolated: bool = False) -> None:
        self.task: TaskId = item[0]
        self.fence: Fence = item[1]
        self.capability = capability
        self.isolated = isolated
        """Its handler runs in a process of its own."""
        self.input: bytes = item[3]
        self.lease_end_ms: int = item[4]
        self.timeout_ms: int = item[5]
        self.parent: TaskId = item[6]
        self.attempt: int = item[7]
        self.checkpoint: bytes = item[8]
        self.stream: bool = item[9]
        self.skip: int = item[10]
        self.rank: list[Any] = item[11]
        """``[priority, share]``: what it calls inherits them."""
        self.limited: bool = item[12]
        """So many run over the whole mesh: past its lease it is stopped, since another may run in its place."""
        budgets, pins, baggage = [*item[13:], (), (), ()][:3]
        self.budgets: tuple[str, ...] = tuple(budgets)
        """Of which names somebody has set a budget: what its calls may spend is reserved first."""
        self.pins: tuple[str, ...] = tuple(pins)
        """Flags, and sides of rollouts."""
        self.ended_ms: dict[str, int] = {}
        """When each of its steps has ended, as far as it has heard."""
        self.spending: asyncio.Lock | None = None
        self.spends = 0
        """Questions about what it spends, of which one is asked at a time."""
        self.baggage: Baggage = tuple((name, text) for name, text in baggage)
        self.outflow: Sink | None = None
        """Where its items go, if it has begun and makes any."""
        self.handle: asyncio.Task[None] | None = None
        self.timer: Timer | None = None
        self.thread: Interruptible | None = None
        self.stopping = ""
        self.begun = False
        self.over = False
        self.started_ms = 0
        self.lease_waiters: list[asyncio.Future[None]] = []
        self.waits: list[asyncio.Task[Any]] = []
        """Who waits on its behalf, and is cancelled when it is stopped in its thread."""
        self.works = 0
        """Steps and calls of its own that it waits for: while there are any, its slot is free."""
        self.lent = False
        """The node has been told so."""
        self.progress: tuple[float, str] | None = None
        """What was said a moment ago; None: that long ago that the same may be said again."""
        self.said: tuple[float, str] = (0.0, "")
        """The newest progress: said again as a sign of life."""
        self.log: RunLog | None = None
        """What it prints and logs, once it has."""
        self.open_log: Callable[[Any], RunLog]
        self.redactor: Redactor | None = None
        """Of a run that was told a secret: takes it out of whatever the run says."""

    def noted(self, params: dict[str, Any], body: dict[str, Any]) -> dict[str, Any]:
        """The answer about a step or a call: when a step has ended is remembered."""
        if "name" in params:
            self.ended_ms[params["name"]] = body.get("ended_ms", 0)
        return body

    def watch_lease(self, clock: Clock, stop: Callable[[Run, str], None]) -> None:
        """Stop it when its lease has ended, however its node is."""
        left_ms = self.lease_end_ms - clock.now_ms()
        if self.over or self.stopping:
            return
        if left_ms <= 0:
            stop(self, "cancelled")
        else:
            clock.call_later(left_ms / 1000, lambda: self.watch_lease(clock, stop))

    def child(self, now_ms: int, how: dict[str, Any]) -> dict[str, Any]:
        """What a call of its handler is asked for with: no more time than is left (0: there is no bound), and its turn, but for `how`."""
        left_ms = max(1, self.started_ms + self.timeout_ms - now_ms) if self.timeout_ms else 0
        bounds = [ms for ms in (left_ms, how.get("timeout_ms", 0)) if ms]
        priority, share = how.get("rank", UNRANKED)
        rank = list(inherited((priority, share), (self.rank[0], self.rank[1])))
        baggage = how.get("baggage") or [list(one) for one in self.baggage]
        return how | {"parent": self.task, "timeout_ms": min(bounds, default=0), "rank": rank, "baggage": baggage}
