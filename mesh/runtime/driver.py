"""Caller one of the node core: real time, real sockets, a real disk. There is no decision in here.

    inbox, links --> node.handle --> Append ----> store --> Synced --> outbox.release
                                 \\-> Watermark --------------------> outbox.kept
                                 \\-> effects --> outbox --> the component that performs them

One turn handles one envelope, or what has come from this machine, then flushes: one signature for all that leaves now. What of the journal
nothing waits for is held back a little (`core/company.py`).
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from mesh.core.company import Company
from mesh.core.inputs import NewHead, Synced, TurnEnds
from mesh.core.node import Node
from mesh.core.outbox import Outbox, OutboxStatistics
from mesh.effects import Append, Later, Refused, Watermark
from mesh.ids import NodeId

LOCAL_INPUTS_PER_TURN = 256


class Journal(Protocol):
    """What the driver needs of the store."""

    def add(self, seq: int, entry: Any, bodies: dict[str, bytes]) -> None: ...

    def flush_soon(self) -> None: ...


class Component(Protocol):
    """A part of the runtime: performs some effects, and says at each turn's end what it collected."""

    effects: dict[type, Callable[[Any], None]]

    def flush(self) -> None: ...


class Envelopes(Protocol):
    """The links' inbound side: opens exactly one envelope."""

    def take(self) -> list[tuple[NodeId, Any]] | None: ...

    def waiting(self) -> bool: ...

    def refused(self, peer: NodeId) -> None: ...


@dataclass(frozen=True, slots=True)
class DriverStatistics:
    turns: int
    inputs: int
    refusals: dict[str, int]
    outbox: OutboxStatistics


def _turns_context() -> contextvars.Context:
    """What turns run in, whoever woke us. A turn is a callback, no task: where sniffio is installed, anyio asks it which loop this is, and
    without a task it would not know, so that no component could start one."""
    context = contextvars.copy_context()
    with contextlib.suppress(ImportError):
        import sniffio

        context.run(sniffio.current_async_library_cvar.set, "asyncio")
    return context


class Driver:
    """Feeds one node. `tell` is how components hand in inputs; everything runs on one event loop thread."""

    def __init__(
        self, node: Node, clock: Callable[[], float], store: Journal, envelopes: Envelopes, outbox: Outbox, company_s: float
    ) -> None:
        self._node = node
        self._clock = clock
        self._store = store
        self._envelopes = envelopes
        self._outbox = outbox
        self._company, self._company_s = Company(outbox), company_s
        self._late = False
        """What is held back has been so for long enough."""
        self._held: asyncio.TimerHandle | None = None
        self._inbox: deque[tuple[NodeId, Any]] = deque()
        self._loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[None] | None = None
        self._context = _turns_context()
        self._scheduled = False
        self._timer: asyncio.TimerHandle | None = None
        self._alarm_at = 0.0
        self._perform: dict[type, Callable[[Any], None]] = {Later: lambda effect: self.tell(node.me, effect.fact)}
        self._flush: list[Callable[[], None]] = []
        self._turns = 0
        self._inputs = 0
        self.refusals: Counter[str] = Counter()

    def add(self, component: Component) -> None:
        """From now on `component` performs its effects. Raises AssertionError if another already performs one of them."""
        for kind, method in component.effects.items():
            assert kind not in self._perform, f"two components perform {kind.__name__}"
            self._perform[kind] = method
        self._flush.append(component.flush)

    def tell(self, sender: NodeId, body: Any) -> None:
        """Hand in an input. On the loop's thread only."""
        self._inbox.append((sender, body))
        if not self._scheduled:
            self.wake()

    def tell_threadsafe(self, sender: NodeId, body: Any) -> None:
        """The same from any thread. What comes after the loop has ended is dropped: nobody is left to hear it."""
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self.tell, sender, body)

    def wake(self) -> None:
        """There may be something to do: an envelope can be taken."""
        if not self._scheduled and self._ended is not None:
            self._scheduled = True
            self._loop.call_soon(self._step, context=self._context)

    def arrived(self) -> None:
        """An envelope can be taken, and no turn is under way: this is one."""
        if not self._scheduled and self._ended is not None:
            self._scheduled = True
            self._context.run(self._step)

    async def run(self) -> None:
        """Until cancelled. Raises whatever a turn raises: an exception out of a core is a bug, and ends the node."""
        self._ended = self._loop.create_future()
        self.wake()
        try:
            await self._ended
        finally:
            self._ended = None
            for timer in (self._timer, self._held):
                if timer is not None:
                    timer.cancel()

    def _step(self) -> None:
        """One turn, straight from the event loop: no task is switched to, no timeout scope is made. Other callbacks come in between."""
        self._scheduled = False
        if self._ended is None or self._ended.done():
            return
        try:
            self._turn()
            if self._inbox or self._envelopes.waiting():
                self.wake()
            else:
                self._arm()
        except BaseException as error:  # noqa: BLE001 - handed on to `run`, which raises it: a callback has nobody above it
            self._ended.set_exception(error)

    def _arm(self) -> None:
        """See to it that the next deadline wakes us. An alarm that rings too early only looks, and is set again."""
        at = self._node.wake_at()
        if at is None or (self._timer is not None and self._alarm_at <= at):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._alarm_at = at
        self._timer = self._loop.call_later(max(at - self._clock(), 0), self._ring, context=self._context)

    def _ring(self) -> None:
        self._timer = None
        self.wake()

    def _turn(self) -> None:
        """Handle one envelope and what is waiting from this machine."""
        now, node = self._clock(), self._node
        todo = self._envelopes.take() or []
        for _ in range(min(len(self._inbox), LOCAL_INPUTS_PER_TURN)):
            todo.append(self._inbox.popleft())
        at = node.wake_at()
        if not todo and not self._late and (at is None or at > now):
            return
        self._turns += 1
        self._inputs += len(todo)
        for sender, body in todo:
            if type(body) is Synced:
                self._release(self._outbox.release(body.seq))
            elif type(body) is NewHead:
                self._company.committed(body)
            elif effects := node.handle(now, sender, body):
                self._take(effects, sender)
        if effects := node.handle(now, node.me, TurnEnds()):
            self._take(effects, node.me)
        late, self._late = self._late, False
        for head in self._company.heads(late=late):
            self._take(node.handle(now, node.me, head), node.me)
        for flush in self._flush:
            flush()
        if self._company.write(late=late):
            self._store.flush_soon()
        if self._company and self._held is None:
            self._held = self._loop.call_later(self._company_s, self._hurry, context=self._context)

    def _hurry(self) -> None:
        self._held, self._late = None, True
        self.wake()

    def _take(self, effects: list[Any], sender: NodeId) -> None:
        seq = self._node.seq - sum(type(effect) is Append for effect in effects)
        for effect in effects:
            kind = type(effect)
            if kind is Append:
                seq += 1
                self._store.add(seq, effect.entry, effect.bodies)
                self._company.appended(seq, effect)
            elif kind is Refused:
                self.refusals[effect.reason] += 1
                asker = sender if sender != self._node.me else effect.peer
                if asker and asker != self._node.me:
                    self._envelopes.refused(asker)
            elif kind is Watermark:
                self._release(self._outbox.kept(effect.kept, forsaken=effect.taken > 0, lost=effect.lost))
            elif self._outbox.may_leave(effect):
                self._perform[kind](effect)

    def _release(self, effects: list[Any]) -> None:
        for effect in effects:
            self._perform[type(effect)](effect)

    def feed(self, body: Any) -> None:
        """Before `run`: one of the node's own entries, or what else it remembers. Machines rebuild and yield nothing."""
        effects = self._node.handle(self._clock(), self._node.me, body)
        assert not effects, f"{type(body).__name__} made effects before the node had started"

    def statistics(self) -> DriverStatistics:
        return DriverStatistics(self._turns, self._inputs, dict(self.refusals), self._outbox.statistics())
