"""One step's work: its gate, its arguments, the child task, what is done instead if that fails; once, for each item, or in turns.

    name of a child task:  draft   draft[3] (an item of a map)   draft#2 (a turn of a loop)   draft/fallback   draft/undo
                           llm.draft@4f1c... where `cache` is set: one task for all steps that ask the same

Invariant: names and arguments follow from the flow, its input and the results before: a replay asks for the same children under the same
names, and gets the ends of those that are over. Nothing here decides what runs next.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from typing import Any

from mesh import Context
from mesh.errors import BudgetExceeded, InvalidArgument, NodeBusy, NoSuchCapability, Overloaded, TaskFailed, TimedOut, TooBig
from mesh.flows.checks import own_part
from mesh.flows.expressions import ExpressionError, filled, value_of
from mesh.flows.fields import said
from mesh.flows.gating import StepFailed, ask
from mesh.flows.run import State
from mesh.flows.saga import RETRIES, Committed, Saga
from mesh.flows.spec import Action, Document, Step, Timeouts, amounts
from mesh.limits import FlowLimits

LIMITS = FlowLimits()
FALLBACK_AFTER_S = 30.0
"""How long a step that has a fallback waits to be taken, where its timeouts do not say: then nobody is there who could."""
ENDS = (TaskFailed, InvalidArgument, TimedOut, NoSuchCapability, TooBig, BudgetExceeded)
"""How a step's own work fails. Anything else is about the flow's task: it was replaced, or it asks for other work than it did before."""


class Working:
    """Does the work of the steps of one run. `state` is read here; of its parts only `degraded` is written."""

    def __init__(self, ctx: Context, state: State, saga: Saga) -> None:
        self._ctx, self._state, self._saga = ctx, state, saga
        self._room = asyncio.Semaphore(LIMITS.in_flight_max)
        self._to_undo: dict[str, list[Committed]] = {}
        """What a step that has not ended yet has done, by the step's name."""

    async def do(self, step: Step, seen: int) -> Any:
        """The step's result. Raises StepFailed."""
        name = self._state.name_of(step)
        result, failed = None, None
        try:
            result = await self._done(step, name, seen)
        except StepFailed as error:
            failed = error
        except ExpressionError as error:
            failed = StepFailed(f"{error.reason}; {error.fix}")
        if works := self._to_undo.pop(name, None):
            await self._saga.committed(name, works)
        if failed is not None:
            raise failed
        return result

    async def _done(self, step: Step, name: str, seen: int) -> Any:
        if step.map is not None:
            return await self._each(step, seen)
        if step.loop is not None:
            return await self._turns(step, seen)
        return await self._once(step, name, seen)

    async def _each(self, step: Step, seen: int) -> list[Any]:
        """For each item, `max_parallel` at once; all of them are tried, whatever becomes of the first."""
        items = filled(step.map, self._state.scope(seen))
        if not isinstance(items, list):
            raise StepFailed(f"map is a {type(items).__name__}, and has to be a list")
        if len(items) > LIMITS.map_width_max:
            raise StepFailed(f"map has {len(items)} items, and at most {LIMITS.map_width_max} are run")
        results: list[Any] = [None] * len(items)
        failures: dict[int, StepFailed] = {}
        queue = iter(enumerate(items))

        async def work() -> None:
            for index, item in queue:
                try:
                    results[index] = await self._once(step, f"{self._state.name_of(step)}[{index}]", seen, item, index)
                except (StepFailed, ExpressionError) as error:
                    failures[index] = error if isinstance(error, StepFailed) else StepFailed(f"{error.reason}; {error.fix}")

        await side_by_side(work for _ in range(min(step.max_parallel or LIMITS.in_flight_max, len(items))))
        if failures:
            first = min(failures)
            raise StepFailed(
                f"{len(failures)} of {len(items)} items failed, the first {step.id}[{first}]: {failures[first]}", failures[first].task
            )
        return results

    async def _turns(self, step: Step, seen: int) -> Any:
        """Again, until what it gave is as it should be."""
        assert step.loop is not None
        last: Any = None
        for turn in range(step.loop.max):
            last = await self._once(step, f"{self._state.name_of(step)}#{turn + 1}", seen, last, turn)
            if self.truth(step.loop.until, self._state.scope(seen, item=last, index=turn), "until"):
                return last
        raise StepFailed(f"after {step.loop.max} turns {step.loop.until[1:].strip()!r} is still not true")

    def truth(self, text: str, scope: Document, key: str) -> bool:
        """Raises ExpressionError for what is neither true nor false."""
        value = value_of(text, scope)
        if not isinstance(value, bool):
            raise ExpressionError(f"{key} gives {str(value)[:60]!r}, which is neither true nor false", "compare it: == true, > 0, != null")
        return value

    async def _once(self, step: Step, name: str, seen: int, item: Any = None, index: int | None = None) -> Any:
        await self._state.go.wait()
        many = {} if index is None else {"item": item, "index": index}
        scope = self._state.scope(seen, **many)
        arguments = _filled(step.uses, step.arguments, scope)
        try:
            result = await self._asked_and_done(step, name, arguments, scope)
        except StepFailed as failed:
            if step.fallback is None:
                raise
            return await self._instead(step, step.fallback, name, arguments, scope, failed)
        if step.compensate is not None:
            ended_ms = self._ctx.ended_ms(self._named(step, name, arguments))
            done = Committed(name, step, arguments, seen, item, index, result, ended_ms)
            self._to_undo.setdefault(self._state.name_of(step), []).append(done)
        return result

    async def _asked_and_done(self, step: Step, name: str, arguments: Document, scope: Document) -> Any:
        if step.gate is not None:
            subject = arguments if step.uses or arguments else {need: scope["steps"][need] for need in step.needs if need in scope["steps"]}
            decision = await ask(self._ctx, step.gate, name, subject, scope)
            if not step.uses:
                return {"approved": True, "output": decision.output, "by": list(decision.by), "note": decision.note}
            if not isinstance(decision.output, dict):
                raise StepFailed(f"what was put in place of its arguments is no table: {said(decision.output)}")
            arguments = decision.output
        try:
            return await self._child(step, self._named(step, name, arguments), step.uses, arguments)
        except ENDS as error:
            raise StepFailed.of(error) from error

    async def _instead(self, step: Step, action: Action, name: str, arguments: Document, scope: Document, why: StepFailed) -> Any:
        """The fallback: the flow goes on, and its result says so."""
        told = {"step": name, "because": why.message, "task": why.task}
        if not action.uses:
            self._state.degraded.append(told | {"instead": "value"})
            return filled(action.value, scope)
        given = arguments if action.arguments is None else _filled(action.uses, action.arguments, scope)
        try:
            result = await self._child(step, f"{name}/fallback", action.uses, given, fallback=True)
        except ENDS as error:
            other = StepFailed.of(error)
            raise StepFailed(f"{why.message}; and its fallback {action.uses}: {other.message}", other.task or why.task) from error
        self._state.degraded.append(told | {"instead": action.uses})
        return result

    async def undo(self, work: Committed) -> None:
        """One compensation. Raises StepFailed."""
        action = work.step.compensate
        assert action is not None
        many = {} if work.index is None else {"item": work.item, "index": work.index}
        seen = work.seen | self._state.bit_of(work.step.id)
        scope = self._state.scope(seen, **many)
        scope["steps"] = _WithOwn(scope["steps"], work.step.id, work.result)
        try:
            given = work.arguments if action.arguments is None else _filled(action.uses, action.arguments, scope)
            await self._child(work.step, f"{work.name}/undo", action.uses, given, undo=True)
        except ENDS as error:
            raise StepFailed.of(error) from error
        except ExpressionError as error:
            raise StepFailed(f"{error.reason}; {error.fix}") from error

    def _named(self, step: Step, name: str, arguments: Document) -> str:
        if not step.cache:
            return name
        text = json.dumps(arguments, sort_keys=True, default=lambda file: file.reference())
        return f"{step.uses}@{hashlib.sha256(text.encode()).hexdigest()[:32]}"

    async def _child(self, step: Step, name: str, uses: str, arguments: Document, *, fallback: bool = False, undo: bool = False) -> Any:
        async with self._room:
            while True:
                try:
                    return await self._under(step, fallback=fallback, undo=undo).step(name, uses, **arguments)
                except NodeBusy as full:  # its manager has all the work it may hold: the step is not lost, it has not begun
                    await self._ctx.sleep(full.retry_after_s if isinstance(full, Overloaded) else 1.0)

    def _under(self, step: Step, *, fallback: bool, undo: bool) -> Context:
        """The context with the step's options."""
        times = step.timeouts
        if step.fallback is not None and not fallback and not undo and not times.queue_s:
            times = Timeouts(FALLBACK_AFTER_S, times.run_s, times.heartbeat_s, times.total_s)
        return self._ctx.options(
            timeout_s=times.total_s or None,
            retries=RETRIES if undo and step.retry is None else step.retry,
            queue_timeout_s=(times.queue_s or None) if not undo else None,
            run_timeout_s=times.run_s or None,
            heartbeat_timeout_s=times.heartbeat_s or None,
            where=step.labels,
            near=step.near,
            apart=step.apart,
            hedge=step.hedge,
            priority=step.priority or None,
            budget=amounts(step.budget) if not fallback and not undo else None,
        )


def _filled(uses: str, arguments: Document, scope: Document) -> Document:
    """Arguments with their values; those of a flow in a flow are the inner one's own affair."""
    found: Document = filled(own_part(uses, arguments), scope)
    return {name: found.get(name, arguments[name]) for name in sorted(arguments)}


class _WithOwn(dict[str, Any]):
    """Results, and that of the very work that is undone: one item's, where its step is a map."""

    def __init__(self, others: Any, own: str, result: Any) -> None:
        super().__init__({own: result})
        self._others = others

    def __contains__(self, step: object) -> bool:
        return super().__contains__(step) or step in self._others

    def __missing__(self, step: str) -> Any:
        return self._others[step]


async def side_by_side(works: Any) -> None:
    """All of them; the first exception ends the others, and is raised as it is."""
    try:
        async with asyncio.TaskGroup() as group:
            for work in works:
                group.create_task(work())
    except BaseExceptionGroup as errors:
        raise innermost(errors) from None


def innermost(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first thing that went wrong in it."""
    inner: BaseException = errors
    while isinstance(inner, BaseExceptionGroup):
        inner = inner.exceptions[0]
    return inner
