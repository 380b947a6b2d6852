"""Drives a flow's graph: a handler that asks for each step when what it needs has ended, and is replayed by step names.

    for each step:  wait for its join --> skipped, unreached, or: when? --> its work (working.py) --> done or failed --> what needs it
    at the end:     the ends of the flow are done or skipped --> the output
                    one failed or was not reached            --> what was committed is undone (saga.py), then the flow fails

Invariant: a step begins only when its join is content, and once; a failure stops what needs it and nothing else. There is no clock and no
chance in here, only the results of steps and what `ctx.effect` put on record, so whoever takes over comes to the same end.
Does not know how work is placed, tried again or timed: those are options of the steps.
"""

from __future__ import annotations

import asyncio
from typing import Any

from mesh import Context
from mesh.errors import MeshError
from mesh.flows.control import Control
from mesh.flows.expressions import ExpressionError, Flags, filled
from mesh.flows.gating import StepFailed, settled
from mesh.flows.patching import patched
from mesh.flows.problems import FlowError, Problem
from mesh.flows.run import DONE, FAILED, SKIPPED, UNREACHED, Ended, Failure, State
from mesh.flows.saga import Saga
from mesh.flows.spec import Document, Flow, Step, hash_of
from mesh.flows.working import Working, innermost

SHOWN_MAX = 40
"""Pieces of work that one message names."""


class FlowFailed(MeshError):
    """A flow has failed: which step, its task, and what was undone."""

    code = "flow_failed"

    def __init__(self, failure: Failure, undone: list[str], not_undone: list[str]) -> None:
        said = f"step {failure.step!r} failed: {failure.message}" if failure.step else failure.message
        said += f" (task {failure.task})" if failure.task else ""
        said += f"; NOT undone: {'; '.join(_some(not_undone))}" if not_undone else ""
        said += f"; undone: {', '.join(_some(undone))}" if undone else ""
        super().__init__(said, fix=f"mesh why {failure.task}" if failure.task else "mesh tasks")


def _some(names: list[str]) -> list[str]:
    """As many as a message has room for."""
    return names if len(names) <= SHOWN_MAX else [*names[:SHOWN_MAX], f"and {len(names) - SHOWN_MAX} more"]


async def interpret(flow: Flow, given: Document, ctx: Context) -> Document:
    """Run it to its end: ``{"output", "skipped", "failed", "left", "degraded", "version"}``. Raises FlowFailed, and what ends its task."""
    about = {"name": flow.name, "id": ctx.task.id, "version": flow.version, "hash": hash_of(flow)}
    return await _Interpreter(State(flow, given, about, flags=Flags(ctx.task.flags)), ctx).run()


class _Interpreter:
    def __init__(self, state: State, ctx: Context) -> None:
        self._state, self._ctx = state, ctx
        self._saga = Saga(ctx)
        self._working = Working(ctx, state, self._saga)
        self._control = Control(ctx, self._hold, self._change)
        self._group: asyncio.TaskGroup | None = None
        self._lives: dict[str, asyncio.Task[None]] = {}
        self._open = {step.id for step in state.sinks()}
        """The ends of the flow that are still to come."""
        self._news = asyncio.Event()
        self._over = False

    async def run(self) -> Document:
        self._hold(False)
        await self._control.recall()
        try:
            async with asyncio.TaskGroup() as self._group:
                for step in self._state.flow.steps:
                    self._begin(step)
                listener = self._group.create_task(self._control.listen())
                try:
                    return await self._conclude()
                finally:
                    for part in (listener, *self._lives.values()):
                        part.cancel()
        except BaseExceptionGroup as errors:
            raise innermost(errors) from None

    async def _conclude(self) -> Document:
        while self._open:
            await self._news.wait()
            self._news.clear()
        self._over = True
        output = self._output([step.id for step in self._state.sinks()])
        if isinstance(output, Failure):
            self._hold(False)  # what is undone must not be under way any more
            await asyncio.wait(self._lives.values())
            raise await self._undone(output)
        return self._document(output)

    # ---- changes

    def _hold(self, held: bool) -> None:
        if held and not self._over:
            self._state.go.clear()
        else:
            self._state.go.set()

    def _begin(self, step: Step) -> None:
        assert self._group is not None, "only while it runs"
        self._lives[step.id] = self._group.create_task(self._live(step))

    def _change(self, patch: Any) -> Document:
        """Apply it at once. Raises FlowError."""
        state = self._state
        if self._over:
            raise FlowError([Problem((), "the flow is ending", "run it again")], file="patch")
        before = {step.id for step in state.flow.steps}
        state.flow, fresh = patched(state.flow, patch, lambda name: name in state.begun or name in state.ended)
        after = {step.id: step for step in state.flow.steps}
        for name in (*(before - after.keys()), *fresh):
            if (life := self._lives.pop(name, None)) is not None:
                life.cancel()
        for name in fresh:
            state.since[name] = state.flow.version
            if self._group is not None:
                self._begin(after[name])
        self._open = {step.id for step in state.sinks() if step.id not in state.ended}
        self._news.set()
        return {"what": f"taken, version {state.flow.version}", "version": state.flow.version, "hash": hash_of(state.flow), "patch": patch}

    # ---- one step

    async def _live(self, step: Step) -> None:
        counted, verdict = await self._joined(step)
        seen = self._state.seen_by(counted)
        await self._state.go.wait()
        self._state.begun.add(step.id)
        self._end(step, Ended(verdict, seen=seen) if verdict else await self._done(step, seen))

    async def _done(self, step: Step, seen: int) -> Ended:
        try:
            if step.when and not self._working.truth(step.when, self._state.scope(seen), "when"):
                return Ended(SKIPPED, seen=seen)
            return Ended(DONE, await self._working.do(step, seen), seen=seen)
        except StepFailed as error:
            return Ended(FAILED, failure=Failure(step.id, error.message, error.task), seen=seen)
        except ExpressionError as error:
            return Ended(FAILED, failure=Failure(step.id, f"{error.reason}; {error.fix}"), seen=seen)

    async def _joined(self, step: Step) -> tuple[tuple[str, ...], str]:
        """The needs that count, when the join knows enough; and the step's fate, if that is settled without it: "" if it goes."""
        state, needs = self._state, step.needs
        if step.quorum:
            counted = await self._enough(step)
            if counted:
                return counted, ""
        for need in needs:
            await asyncio.shield(state.end_of(need))
        if step.join == "settled" or not needs:
            return needs, ""
        if any(state.lost(need) for need in needs):
            return needs, UNREACHED
        all_done = step.join == "all" and all(state.done(need) for need in needs)
        return needs, "" if all_done else SKIPPED

    async def _enough(self, step: Step) -> tuple[str, ...]:
        """Those of its needs that were done when there were enough of them, from the record; empty if there never are."""
        state = self._state
        waiting = {need: state.end_of(need) for need in step.needs}
        while sum(state.done(need) for need in step.needs) < step.quorum:
            open_ones = [end for end in waiting.values() if not end.done()]
            if not open_ones:
                return ()
            await asyncio.wait(open_ones, return_when=asyncio.FIRST_COMPLETED)

        async def now() -> list[str]:
            return [need for need in step.needs if state.done(need)]

        counted: list[str] = await self._ctx.effect(f"join/{state.name_of(step)}", now)
        for need in counted:
            await asyncio.shield(state.end_of(need))
        return tuple(counted)

    def _end(self, step: Step, ended: Ended) -> None:
        self._state.end(step.id, ended)
        self._open.discard(step.id)
        self._news.set()
        if ended.failure is not None:
            self._ctx.log(f"step {step.id} failed: {ended.failure.message}")
        elif ended.fate != DONE:
            self._ctx.log(f"step {step.id} is {ended.fate}")
        self._ctx.progress(len(self._state.ended) / len(self._state.flow.steps), f"{step.id}: {ended.fate}")

    # ---- the end

    def _output(self, sinks: list[str]) -> Any:
        """Or the Failure of the flow."""
        state = self._state
        if any(state.lost(sink) for sink in sinks):
            failure = state.first_failure()
            assert failure is not None, "what was not reached was kept from it by a failure"
            return failure
        if state.flow.output is None:
            return {sink: state.ended[sink].result for sink in sinks if state.done(sink)}
        seen = state.seen_by([step.id for step in state.flow.steps if step.id in state.ended])
        try:
            return filled(state.flow.output, state.scope(seen))
        except ExpressionError as error:
            return Failure("", f"the output cannot be made: {error.reason}; {error.fix}")

    def _document(self, output: Any) -> Document:
        state = self._state
        by_fate: dict[str, list[str]] = {"skipped": [], "failed": [], "left": []}
        for step in state.flow.steps:
            fate = state.ended[step.id].fate if step.id in state.ended else "left"
            if fate != DONE:
                by_fate["failed" if fate == UNREACHED else fate].append(step.id)
        return {"output": output, **by_fate, "degraded": state.degraded, "version": state.flow.version}

    async def _undone(self, failure: Failure) -> FlowFailed:
        """Undo what was committed, the last first, whatever becomes of each; then people are asked about what could not be undone."""
        undone, stuck = [], []
        for work in self._saga.to_undo():
            try:
                await self._working.undo(work)
                undone.append(work.name)
            except StepFailed as error:
                self._ctx.log(f"{work.name} could not be undone: {error.message}")
                stuck.append((work, error))
        answers = await asyncio.gather(*(settled(self._ctx, work, error.message) for work, error in stuck))
        by_hand = [f"{work.name} by hand" for (work, _), answer in zip(stuck, answers) if answer]
        not_undone = [
            f"{work.name}: {error.message}" + (f" (task {error.task})" if error.task else "")
            for (work, error), answer in zip(stuck, answers)
            if not answer
        ]
        return FlowFailed(failure, undone + by_hand, not_undone)
