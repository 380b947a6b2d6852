"""What a handler can do besides computing: the injected `Context`, and its blocking twin for plain functions.

A parameter annotated `Context` gets one; it is not in the schema. Invariant: past the end of the lease, or without a node, no step, call
or effect starts: it waits until the lease is renewed, or the handler is stopped. Does no I/O itself; `Port` does.
"""

from __future__ import annotations

import asyncio
import copy
import hashlib
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from mesh.errors import UsageError
from mesh.gates import Decision, Waits, gate_options
from mesh.ids import Baggage, Fence, TaskId, flags_in
from mesh.keyed import Keyed
from mesh.spends import Reservation, checked_key, spent_of

if TYPE_CHECKING:
    from mesh.labels import Labels
    from mesh.secret import Secret
    from mesh.state import ContextState
    from mesh.updating import Update

T = TypeVar("T")
Document = dict[str, Any]


@dataclass(frozen=True, slots=True)
class TaskInfo:
    """The piece of work a handler runs for."""

    id: TaskId
    fence: Fence
    """One integer that grows with every award of this task: pass it to outside systems that compare it, to shut out a stale twin."""
    attempt: int
    """1 for the first run of this task anywhere."""
    capability: str
    parent: TaskId
    """The task whose step this is, or ""."""
    deadline: float | None
    """When this run is stopped, in seconds on `time.monotonic()`'s clock; None: never. Steps and calls never get more time than that."""
    pins: tuple[str, ...] = ()
    """What was decided when the work began that this belongs to: flags, and sides of rollouts."""
    baggage: Baggage = ()
    """As pairs; `Context.baggage` is a dictionary."""

    @property
    def flags(self) -> dict[str, bool]:
        """The mesh's feature flags, as they were when the work began that this belongs to."""
        return flags_in(self.pins)

    @property
    def key(self) -> str:
        """The same for all attempts of this task, wherever they run and whoever manages it, and of no other task.

        Pass it to outside systems as an idempotency key, with a word of your own if the task does more than one thing
        (``f"{ctx.task.key}/refund"``).
        """
        return self.id


class Port(Protocol):
    """What a context needs of whoever runs the handler."""

    lifespan: Any
    """What the agent's ``@agent.lifespan`` yielded; None without one."""

    body_bytes_max: int
    """Of arguments, results and outcomes."""

    def progress(self, task: TaskInfo, fraction: float, note: str) -> None: ...

    def beat(self, task: TaskInfo) -> None: ...

    def log(self, task: TaskInfo, text: str) -> None: ...

    def effect_begin(self, task: TaskInfo, key: str, call: int, at_most_once: bool) -> Coroutine[Any, Any, bytes | None]:
        """None: go. Else the stored outcome, as JSON."""

    def effect_end(self, task: TaskInfo, key: str, call: int, output: bytes, error: str) -> Coroutine[Any, Any, None]: ...

    def in_thread(self, function: Callable[[], Any]) -> Coroutine[Any, Any, Any]: ...

    def step(self, task: TaskInfo, name: str, capability: str, arguments: Document, how: Document) -> Coroutine[Any, Any, Any]: ...

    def ended_ms(self, task: TaskInfo, step: str) -> int: ...

    def call(self, task: TaskInfo, capability: str, arguments: Document, how: Document) -> Coroutine[Any, Any, Any]:
        """`how`: what `Context.options` says, as fields of the request to the node."""

    def checkpoint(self, task: TaskInfo, value: Any, signals: dict[str, int], anew: bool) -> Coroutine[Any, Any, None]: ...

    def sleep(self, task: TaskInfo, seconds: float) -> Coroutine[Any, Any, None]: ...

    def publish(self, task: TaskInfo, topic: str, event_id: str, given: Document) -> Coroutine[Any, Any, Document]: ...

    def secret(self, task: TaskInfo, name: str) -> Coroutine[Any, Any, Secret]: ...

    def spend(self, task: TaskInfo, kind: str, key: str, amounts: list[list[Any]]) -> Coroutine[Any, Any, Document]:
        """``{"state", "left", "key"}``."""

    def of_handler(self, task: TaskInfo, question: str, args: Document, scope: str) -> Coroutine[Any, Any, Document]: ...


class _Done:
    """An awaitable that is over: progress is noted at once, and may be awaited for symmetry."""

    __slots__ = ()

    def __await__(self) -> Generator[Any, None, None]:
        return
        yield


_DONE = _Done()


class Context:
    """For ``async def`` handlers. `task` says what this runs for, `lifespan` is what ``@agent.lifespan`` yielded."""

    __slots__ = ("_events", "_how", "_keyed", "_loop", "_port", "_thread", "_waits", "checkpointed", "task")

    def __init__(self, task: TaskInfo, port: Port, loop: asyncio.AbstractEventLoop, kept: Document | None = None) -> None:
        """`kept`: the newest checkpoint, as it was written; empty or None: none."""
        self.task = task
        self.checkpointed = (kept or {}).get("value")
        """What an earlier attempt of this task kept last, by `checkpoint`; None: nothing."""
        self._port = port
        self._loop = loop
        self._thread = threading.get_ident()
        self._keyed = Keyed(task, port)
        self._waits = Waits(task, port, (kept or {}).get("signals") or {})
        self._how: Document = {}
        self._events = [0]
        """Published so far: one count for all copies that `options` makes."""

    @property
    def lifespan(self) -> Any:
        """What the agent's ``@agent.lifespan`` function yielded: models, connections. None without one."""
        return self._port.lifespan

    @property
    def baggage(self) -> dict[str, str]:
        """What was sent along with the work at the top of this one (``m.options(baggage={"tenant": "acme"})``), and added on the way."""
        return dict(self.task.baggage)

    def progress(self, fraction: float, note: str = "") -> Awaitable[None]:
        """Say how far the work is (0 to 1), with a word for people. Takes effect at once, from any thread; need not be awaited."""
        fraction = min(max(float(fraction), 0.0), 1.0)
        if threading.get_ident() == self._thread:
            self._port.progress(self.task, fraction, note)
        else:
            self._loop.call_soon_threadsafe(self._port.progress, self.task, fraction, note)
        return _DONE

    def beat(self) -> Awaitable[None]:
        """A sign of life, for a capability with `heartbeat_timeout_s`; `progress` is one too. From any thread; need not be awaited."""
        if threading.get_ident() == self._thread:
            self._port.beat(self.task)
        else:
            self._loop.call_soon_threadsafe(self._port.beat, self.task)
        return _DONE

    def log(self, text: str) -> None:
        """Keep a line (or several) for ``mesh logs``, and show it on this worker's terminal. From any thread.

        What the handler prints, and what it logs by `logging`, is kept as well.
        """
        self._port.log(self.task, str(text))

    def options(
        self,
        *,
        timeout_s: float | None = None,
        retries: int | None = None,
        queue_timeout_s: float | None = None,
        run_timeout_s: float | None = None,
        heartbeat_timeout_s: float | None = None,
        where: Labels | None = None,
        near: str = "",
        apart: str = "",
        hedge: bool = False,
        priority: int | None = None,
        share: str | None = None,
        budget: Mapping[str, float] | None = None,
        baggage: Mapping[str, str] | None = None,
    ) -> Context:
        """The same context with options of each step and call: ``await ctx.options(where={"gpu": True}).step("train", "model.train")``.

        They mean what they mean in ``Mesh.options``; `retries` are a step's, and `baggage` is added to what this handler has itself. A
        step's options count when it is begun; a replay of it changes nothing. A `budget` is reserved from what this task has left before
        the step or call begins, and what it did not use is given back at its end; a call without one has nothing to spend under a budget.
        Raises UsageError.
        """
        from mesh.bounding import checked_baggage, checked_retries, checked_s
        from mesh.options import how_of

        within_s = checked_s(timeout_s)
        other = copy.copy(self)
        other._how = how_of(
            queue_timeout_s=queue_timeout_s,
            run_timeout_s=run_timeout_s,
            heartbeat_timeout_s=heartbeat_timeout_s,
            where=where,
            near=near,
            apart=apart,
            hedge=hedge,
            priority=priority,
            share=share,
            budget=budget,
            baggage=checked_baggage(baggage, self.task.baggage) if baggage else (),
        ) | {"timeout_ms": round(within_s * 1000) if within_s else 0, "retries": checked_retries(retries)}
        return other

    def flag(self, name: str, default: bool = False) -> bool:
        """The value of the mesh's feature flag `name`, as it was when the work began that this belongs to: the same in all its steps and
        calls, whenever they run and however often. `default`: where there was no such flag then."""
        return self.task.flags.get(name, default)

    def step(self, name: str, capability: str, /, **arguments: Any) -> Coroutine[Any, Any, Any]:
        """Run `capability` as a child task named `name`, and wait for its result.

        Durable: if this handler is run again (its node was lost, it failed and is retried), a step that has ended gives its result at
        once and does not run again; so a name stands for one piece of work. Steps may be gathered. ``"report.render@^2"`` wants a version
        in that range (``2.1``, ``^2``, ``~2.1``, ``>=2,<3``).

        Raises TaskFailed, TaskCancelled, InvalidArgument, TimedOut, Refused (a stale fence, or other arguments under the same name).
        """
        self._check_thread()
        capability, how = self._versioned(capability)
        return self._port.step(self.task, name, capability, arguments, how)

    def _versioned(self, capability: str) -> tuple[str, Any]:
        if "@" not in capability:
            return capability, self._how
        from mesh.options import versioned

        return versioned(capability, self._how)

    def ended_ms(self, step: str) -> int:
        """When the step of that name ended, in milliseconds on its manager's clock: which of two ended first, the same for every attempt.
        0: it has not, for all this attempt has heard."""
        return self._port.ended_ms(self.task, step)

    def call(self, capability: str, /, **arguments: Any) -> Coroutine[Any, Any, Any]:
        """A plain call: waits, and dies with this handler. Raises as `step`, and NodeLost."""
        self._check_thread()
        capability, how = self._versioned(capability)
        return self._port.call(self.task, capability, arguments, how)

    def checkpoint(self, value: Any, *, anew: bool = False) -> Coroutine[Any, Any, None]:
        """Keep `value` for whoever has to go on in this handler's place: the next attempt finds the newest in `checkpointed`.

        Returns when it is safe: for submitted work in the manager's journal (an entry each: not for every row of a table), for a call in
        its memory. JSON of at most 64 KiB. With `anew` all steps, effects and signals until now are forgotten, and their names are free
        again: so a loop without end takes bounded room. None of them may be under way then. Raises TooBig, UsageError for a File in it,
        Refused if the task runs elsewhere by now.
        """
        self._check_thread()
        return self._port.checkpoint(self.task, value, self._waits.had(anew), anew)

    def effect(self, key: str, function: Callable[[], Any], *, at_most_once: bool = False) -> Coroutine[Any, Any, Any]:
        """Do something to the outside world, once per `key` of this task, and return its outcome (JSON, as results are).

        The intent is put on record by the task's manager, then `function` is called (an async one on this loop, a plain one in a thread),
        then its outcome is put on record. Every later attempt, wherever it runs, gets that outcome, and its function is not called. What
        was begun and has no outcome on record (the node was lost in between, the function raised) is called again: give the outside system
        a key to know it by, such as ``f"{ctx.task.key}/{key}"``. With `at_most_once` it is never called again: OutcomeUnknown is raised,
        which is final for the task unless the handler catches it.

        Raises what the function raises, LeaseLost (this attempt was replaced), OutcomeUnknown, TooBig, UsageError.
        """
        self._check_thread()
        return self._keyed.perform(key, function, at_most_once)

    def tx(self, db: Any, function: Callable[[Any], Any], key: str = "tx") -> Coroutine[Any, Any, Any]:
        """Call ``function(connection)`` inside one transaction of the user's own database, once for this `key` of this task.

        `db`: the path of an SQLite file, a sqlite3.Connection (used in this thread, so it blocks the loop), or a connection of asyncpg,
        whose function is async. Its answer (JSON) is written to the table ``mesh_effects``, made when missing, in the same transaction, if
        the database has not seen a newer fence of this task: a second attempt gets the stored answer, a stale one raises LeaseLost and is
        rolled back. The function must not commit. It is also on record as an effect.

        Raises as `effect`, and what the database raises.
        """
        self._check_thread()
        return self._keyed.perform(key, self._transaction(db, function, key, blocking=False), False)

    def _transaction(self, db: Any, function: Callable[[Any], Any], key: str, *, blocking: bool) -> Callable[[], Any]:
        from mesh.transactions import Transaction, effect_of

        return effect_of(db, Transaction(self.task.key, self.task.fence, key, function), blocking=blocking)

    def spend(self, key: str = "", /, **amounts: float) -> Coroutine[Any, Any, None]:
        """Put on record what is about to be spent: ``await ctx.spend(tokens=1200, usd=0.02)``; or raise BudgetExceeded, and nothing is.

        It comes out of the nearest budget above that has the name; without any it is on record all the same. What has a `key` counts once
        for all attempts of this task; what has none counts again when a later attempt does it again, since it is spent again.
        """
        self._check_thread()
        return self._spend(checked_key(key), spent_of(amounts))

    async def _spend(self, key: str, amounts: list[list[Any]]) -> None:
        await self._port.spend(self.task, "spend", key, amounts)

    def reserve(self, key: str = "", /, **amounts: float) -> Reservation:
        """For what has its price only afterwards: ``async with ctx.reserve(usd=0.5) as r: ...; r.spent(usd=0.31)``.

        Reserve what it can cost at most. What was not settled, because this attempt was stopped in between, counts in full. `key` as in
        `spend`. Raises BudgetExceeded.
        """
        self._check_thread()
        return Reservation(self.task, self._port, key, amounts)

    def budget(self) -> Coroutine[Any, Any, dict[str, float]]:
        """What is left, of each name that this task or one above it has a budget of: ``{"usd": 1.69}``."""
        self._check_thread()
        return self._left()

    async def _left(self) -> dict[str, float]:
        return dict((await self._port.spend(self.task, "look", "", []))["left"])

    def sleep(self, seconds: float, name: str = "") -> Coroutine[Any, Any, None]:
        """Wait, on a clock that `LocalMesh` can make virtual. With a `name` it is a step: a second attempt does not begin it anew."""
        self._check_thread()
        return self._waits.sleep(seconds, name) if name else self._port.sleep(self.task, seconds)

    def signal(self, name: str, timeout_s: float | None = None) -> Coroutine[Any, Any, Any]:
        """Wait for the next signal of that name to this task, and return its value (``m.signal(task, name, value)``, ``mesh signal``).

        Durable as a step is; a signal that was sent before anybody waited for it is not lost. Raises TimedOut after `timeout_s`.
        """
        self._check_thread()
        return self._waits.signal(name, timeout_s)

    def update(self, name: str, timeout_s: float | None = None) -> Coroutine[Any, Any, Update]:
        """Wait for the next update of that name: a signal whose sender waits for what the handler says to it.

        ``update.value`` is what was sent; ``await update.reply(answer)`` or ``await update.refuse(why)`` is what ``m.update(task, name,
        value)`` returns or raises there. Durable as a signal is; the first answer stands. Raises TimedOut after `timeout_s`.
        """
        from mesh.updating import next_update

        self._check_thread()
        return next_update(self, name, timeout_s)

    async def updates(self, name: str) -> AsyncIterator[Update]:
        """``async for update in ctx.updates("limit")``: one after the other, until the loop is left."""
        while True:
            yield await self.update(name)

    def answering(self, name: str, function: Callable[[Any], Any]) -> AbstractAsyncContextManager[None]:
        """``async with ctx.answering("limit", change):`` while the block runs, ``change(value)``, plain or async, answers each update of
        that name; what it raises refuses the update, and ends nothing else. Called on this loop; the run's slot counts as free meanwhile.
        """
        from mesh.updating import answering

        self._check_thread()
        return answering(self, name, function)

    @property
    def state(self) -> ContextState:
        """Versioned values of the submitted task at the top of this one, for all its steps: `get`, `set`, `delete`, `update`, `list`.

        ``ctx.state.shared(name)`` is a state of the whole mesh. Durable; a stale attempt writes none. A plain call has no state of its own.
        """
        from mesh.state import ContextState

        self._check_thread()
        return ContextState(self)

    def approval(
        self,
        question: str,
        *,
        name: str = "",
        subject: Any = None,
        quorum: int = 1,
        approvers: Sequence[str] = (),
        separate: bool | None = None,
        expires_s: float | None = None,
        on_expire: str = "deny",
        escalate_to: Sequence[str] = (),
    ) -> Coroutine[Any, Any, Decision]:
        """A gate: wait until people have answered `question` about `subject` (JSON), with ``mesh approve`` or ``mesh deny`` at any node.

        `quorum` nodes have to approve; one denial denies. `approvers`: names of the nodes that may answer, else all whose certificates let
        them. `separate`: whether the node that the work was submitted at may not approve it; None: so it is in mode ``ca``. After
        `expires_s` it is denied; with `on_expire` ``"escalate"`` those in `escalate_to` may answer, too, once half of that time is over.
        The answers hold for exactly these inputs: asked again with others, it is another gate. Durable as a step is, so it is no hurry.
        """
        self._check_thread()
        how = gate_options(expires_s, quorum=quorum, approvers=approvers, separate=separate, on_expire=on_expire, escalate_to=escalate_to)
        return self._waits.approval(question, name, subject, how, expires_s)

    def publish(self, topic: str, /, *, event_id: str = "", **values: Any) -> Coroutine[Any, Any, Document]:
        """Tell everybody who subscribes to `topic`, as `Mesh.publish`. The tasks that follow are no children of this one.

        Without an `event_id` it is made of this task's id and of how often the handler has published: an attempt that does the same in the
        same order publishes nothing twice.
        """
        self._check_thread()
        return self._port.publish(self.task, topic, event_id or self._next_event(), values)

    def _next_event(self) -> str:
        self._events[0] += 1
        return hashlib.sha256(f"{self.task.id}/{self._events[0]}".encode()).hexdigest()[:32]

    def secret(self, name: str) -> Coroutine[Any, Any, Secret]:
        """The secret `name` of the home that this worker's node belongs to: ``(await ctx.secret("db")).reveal()``.

        Raises Refused if there is none, if it is not for this capability, or if the work was taken away; UsageError for a bad name.
        """
        self._check_thread()
        return self._port.secret(self.task, name)

    def _check_thread(self) -> None:
        if threading.get_ident() != self._thread:
            raise UsageError(
                "this handler is a plain function, which cannot await",
                fix="write async def, or annotate the parameter with mesh.sync.Context, which blocks",
            )
