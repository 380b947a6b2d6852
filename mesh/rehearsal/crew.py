"""A worker process that only takes time: what a node is given instead of handlers.

    Execute --> HandlerStarted ... the service time of this work here ... HandlerEnded
    of work that asks for more (a recorded parent): HandlerStarted, Step..., its answers, ..., HandlerEnded; its slot is lent meanwhile

The rules of a real worker are kept where they cost time: slots are the node's affair, leases are renewed by it, a stopped handler ends.
How long work takes, how it ends and what it gives says a `Deeds`; who looks on is told when it began and ended.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from mesh.core.inputs import HandlerEnded, HandlerStarted, HandlerWaits, Step, WorkerAttached, WorkerGone
from mesh.effects import Execute, Stop
from mesh.ids import Fence, TaskId
from mesh.lending import LENT_AFTER_S
from mesh.rehearsal.model import Crew, Model
from mesh.sim.host import Host
from mesh.sim.world import World

CROSSING_S = 0.0002
"""From node to worker or back, over the local socket."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A step of a recorded parent: asked for `gap_s` after all of `after` (positions in the same list) have ended."""

    step: str
    capability: str
    input: bytes
    after: tuple[int, ...]
    gap_s: float
    pause_s: float = 0.0
    """Nobody runs it: it only takes so long."""


@dataclass(frozen=True, slots=True)
class Deed:
    """What becomes of one run: so long, then `outcome` (``ok`` or ``error``) with `output`. `asks`: before that, these steps."""

    seconds: float
    outcome: str = "ok"
    output: bytes = b"null"
    asks: tuple[Asked, ...] = ()


class Deeds(Protocol):
    """Says what becomes of work, and is told of it."""

    def deed(self, execute: Execute, crew: Crew) -> Deed: ...

    def began(self, execute: Execute, node: str) -> None: ...

    def ended(self, execute: Execute, node: str, outcome: str) -> None: ...


class _Run:
    __slots__ = ("began_s", "deed", "done", "execute", "lent", "open", "over")

    def __init__(self, execute: Execute, deed: Deed, began_s: float) -> None:
        self.execute, self.deed, self.began_s = execute, deed, began_s
        self.over = self.lent = False
        self.done: dict[int, None] = {}
        self.open = 0


class Pretender:
    """One of a host's workers."""

    def __init__(self, world: World, host: Host, number: int, model: Model, crew: Crew, deeds: Deeds) -> None:
        self._world, self._host, self._number = world, host, number
        self._model, self._crew, self._deeds = model, crew, deeds
        self.runs: dict[tuple[TaskId, Fence], _Run] = {}

    def attach(self) -> None:
        self._host.workers[self._number] = self
        crew = self._crew
        offers = tuple(one.offer(crew.agent) for one in self._model.offered(crew))
        self._tell(WorkerAttached(self._number, self._number, crew.agent, offers, crew.slots, (), crew.labels, crew.resources))

    def node_gone(self, *, killed: bool) -> None:
        """Only machines die here, with everything on them."""
        self._host.workers.pop(self._number, None)
        for run in self.runs.values():
            run.over = True
            self._deeds.ended(run.execute, self._host.name, "killed")
        self.runs.clear()

    def leave(self) -> None:
        self.node_gone(killed=True)
        if self._host.up:
            self._tell(WorkerGone(self._number, self._number))

    def take(self, effect: Any) -> None:
        kind = type(effect)
        if kind is Execute:
            self._later(CROSSING_S, lambda: self._execute(effect))
        elif kind is Stop:
            run = self.runs.get((effect.task, effect.fence))
            if run is not None:
                self._later(CROSSING_S, lambda: self._end(run, "cancelled"))

    # ---- a run

    def _execute(self, execute: Execute) -> None:
        deed = self._deeds.deed(execute, self._crew)
        run = self.runs[execute.task, execute.fence] = _Run(execute, deed, self._world.now_s)
        self._deeds.began(execute, self._host.name)
        self._tell(HandlerStarted(self._number, execute.task, execute.fence))
        if execute.timeout_ms:
            self._later(execute.timeout_ms / 1000, lambda: self._end(run, "timeout"))
        if not deed.asks:
            self._later(deed.seconds, lambda: self._end(run, deed.outcome))
            return
        run.open = len(deed.asks)
        self._ask_ready(run, None)

    def _ask_ready(self, run: _Run, ended: int | None) -> None:
        """Those steps that only waited for the one that has ended; the first ones, if that is None."""
        for number, asked in enumerate(run.deed.asks):
            fits = not asked.after if ended is None else ended in asked.after and all(one in run.done for one in asked.after)
            if fits:
                self._later(asked.gap_s, self._asking(run, number, asked))

    def _asking(self, run: _Run, number: int, asked: Asked) -> Callable[[], None]:
        def ask() -> None:
            if run.over:
                return
            if asked.pause_s:
                self._later(asked.pause_s, lambda: self._step_ended(run, number))
                return
            execute = run.execute
            self._world.ask(
                self._host.name,
                lambda request: Step(request, execute.task, execute.fence, asked.step, asked.capability, asked.input, rank=execute.rank),
                lambda _ok, _body: self._step_ended(run, number),
            )
            if not run.lent:
                run.lent = True
                self._later(LENT_AFTER_S, lambda: self._lend(run))

        return ask

    def _lend(self, run: _Run) -> None:
        if not run.over and run.open:
            self._tell(HandlerWaits(self._number, run.execute.task, run.execute.fence, True))

    def _step_ended(self, run: _Run, number: int) -> None:
        if run.over or number in run.done:
            return
        run.done[number] = None
        run.open -= 1
        if run.open:
            self._ask_ready(run, number)
            return
        self._tell(HandlerWaits(self._number, run.execute.task, run.execute.fence, False))
        self._later(run.deed.seconds, lambda: self._end(run, run.deed.outcome))

    def _end(self, run: _Run, outcome: str) -> None:
        if run.over:
            return
        run.over = True
        execute = run.execute
        self.runs.pop((execute.task, execute.fence), None)
        self._deeds.ended(execute, self._host.name, outcome)
        took_ms = round(1000 * (self._world.now_s - run.began_s))
        ended = HandlerEnded(self._number, execute.task, execute.fence, outcome, service_ms=took_ms)
        if outcome == "ok":
            ended.output = run.deed.output
        elif outcome in ("error", "timeout"):
            ended.error = {"kind": outcome, "message": "as the model says", "retryable": True, "details": ""}
        self._tell(ended)

    def _later(self, seconds: float, what: Callable[[], None]) -> None:
        life = self._host.life

        def due() -> None:
            if life == self._host.life:
                what()

        self._world.after(seconds, due)

    def _tell(self, body: Any) -> None:
        self._world.push(self._world.now_s + CROSSING_S, self._host.name, self._host.name, body)
