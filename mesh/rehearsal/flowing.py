"""A flow as it can be rehearsed: what depends on results that nobody has is put in numbers, and said.

    map over a result   --width STEP=N, else one item        loop until a result   --width STEP=N, else one turn
    when of a result    taken as true, unless --skip STEP    gate                  a step of its own, which people take some time for

Arguments are left out unless they are known beforehand, as a policy may look at them: nobody runs anything. Where results are known
(`known`: from a recorded run), everything that depends on them alone stays as it is, and the interpreter goes the way that the run
went. Needs, joins, `max_parallel`, retries, timeouts, fallbacks, hedges, labels and priorities always stay.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from mesh.errors import MeshError, UsageError
from mesh.flows.checks import checked
from mesh.flows.expressions import ExpressionError, expressions_in, is_expression, read
from mesh.flows.inputs import input_of
from mesh.flows.reading import flow_from
from mesh.flows.spec import FLOW, Action, Document, Flow, Input, Loop, Step, document
from mesh.limits import FlowLimits
from mesh.rehearsal.model import GATE
from mesh.versions import MARK, split

LIMITS = FlowLimits()
WIDTH_GUESS = 1


@dataclass(frozen=True, slots=True)
class Wishes:
    """What whoever rehearses says of steps: how many items or turns, and which are skipped. ``inner.each`` is one of a flow in a flow."""

    widths: Mapping[str, int]
    skips: tuple[str, ...] = ()

    def inside(self, step: str) -> Wishes:
        """Those about the flow that this step runs."""
        begin = f"{step}."
        widths = {name.removeprefix(begin): width for name, width in self.widths.items() if name.startswith(begin)}
        return Wishes(widths, tuple(name.removeprefix(begin) for name in self.skips if name.startswith(begin)))


@dataclass(frozen=True, slots=True)
class Rehearsable:
    """`flow` and `given` are what the driver gets; `wanted` are the capabilities that it may ask for; `notes` say what was made up."""

    flow: Flow
    given: Document
    wanted: tuple[str, ...]
    notes: tuple[str, ...]


def rehearsable(flow: Flow, given: Document, wishes: Wishes, known: Callable[[str], bool] = lambda _step: False) -> Rehearsable:
    """Raises UsageError for a wish about a step that is not there, InvalidArgument for input that does not fit."""
    for name in (*wishes.widths, *wishes.skips):
        outer = flow.step(name.partition(".")[0])
        if outer is None or ("." in name and outer.uses != FLOW):
            raise UsageError(
                f"the flow {flow.name} has no step {name!r}", fix=f"its steps are: {', '.join(s.id for s in flow.steps)[:400]}"
            )
    for name, width in wishes.widths.items():
        step = flow.step(name)
        if step is not None and step.map is None and step.loop is None:
            raise UsageError(f"the step {name!r} is done once: it has neither map nor loop", fix=f"leave --width {name}={width} out")
    return _Making(flow, given, wishes, known).result()


class _Making:
    def __init__(self, flow: Flow, given: Document, wishes: Wishes, known: Callable[[str], bool], above: str = "") -> None:
        self._flow, self._wishes, self._known, self._above = flow, wishes, known, above
        self._missing = [name for name, one in flow.inputs.items() if one.required and name not in given]
        there = {name: one for name, one in flow.inputs.items() if name not in self._missing}
        self._given = input_of(replace(flow, inputs=there), given)
        self._wanted: dict[str, None] = {}
        self._notes: list[str] = []
        self._ids = {step.id for step in flow.steps}

    def result(self) -> Rehearsable:
        steps: list[Step] = []
        for step in self._flow.steps:
            steps += self._step(step)
        inputs = {name: Input(one.type) for name, one in self._flow.inputs.items() if name in self._given}
        if self._flow.budget or any(step.budget for step in self._flow.steps):
            self._notes.append("budgets are left out: nothing is spent")
        made = replace(self._flow, steps=tuple(steps), inputs=inputs, output=None, budget=())
        return Rehearsable(checked(made), self._given, tuple(self._wanted), tuple(self._notes))

    def _certain(self, text: Any) -> bool:
        """Does it depend on what is known, and on nothing else?"""
        try:
            expression = read(text)
        except ExpressionError:
            return False
        whole_input = "input" in expression.roots and not expression.inputs and bool(self._missing)
        return not whole_input and all(map(self._known, expression.steps)) and not any(one in self._missing for one in expression.inputs)

    def _step(self, step: Step) -> list[Step]:
        step = self._conditioned(self._unversioned(step))
        step = self._counted(step)
        found = [] if step.gate is None else [self._gate(step)]
        if step.gate is not None:
            if not step.uses:
                return [replace(found[0], id=step.id)]
            step = replace(step, gate=None, needs=(found[0].id,), join="all", when="")
        self._wanted[step.uses] = None
        return [*found, self._without_arguments(step)]

    def _unversioned(self, step: Step) -> Step:
        """A model tells capabilities apart, not their versions."""
        actions = [action for action in (step.fallback, step.compensate) if action is not None]
        if not any(MARK in uses for uses in (step.uses, *(action.uses for action in actions))):
            return step
        self._notes.append(f"{step.id}: versions are not told apart here: it takes as long as {split(step.uses)[0]} does, whichever it is")
        fallback, compensate = (one and replace(one, uses=split(one.uses)[0]) for one in (step.fallback, step.compensate))
        return replace(step, uses=split(step.uses)[0], fallback=fallback, compensate=compensate)

    def _conditioned(self, step: Step) -> Step:
        if step.id in self._wishes.skips:
            return replace(step, when="$false")
        if step.when and not self._certain(step.when):
            name = self._above + step.id
            self._notes.append(f"{name}: its condition depends on results, and is taken as true: --skip {name} if it is not")
            return replace(step, when="")
        return step

    def _counted(self, step: Step) -> Step:
        width = self._wishes.widths.get(step.id)
        if step.map is not None:
            open_ended = is_expression(step.map) and not self._certain(step.map)
            if width is None and open_ended:
                name = self._above + step.id
                self._notes.append(f"{name}: how many items it has depends on results; taken as 1: --width {name}=N")
            if width is not None or open_ended:
                return replace(step, map=list(range(WIDTH_GUESS if width is None else width)))
            return step if is_expression(step.map) else replace(step, map=list(range(len(step.map))))
        if step.loop is not None and (width is not None or not (self._known(step.id) and self._certain(step.loop.until))):
            if width is None:
                name = self._above + step.id
                self._notes.append(f"{name}: how many turns it takes depends on results; taken as 1: --width {name}=N")
            turns = min(width or 1, step.loop.max)
            return replace(step, loop=Loop(f"$index >= {turns - 1}", step.loop.max))
        return step

    def _gate(self, step: Step) -> Step:
        """What comes before it comes before its gate, and the step after that."""
        self._wanted[GATE] = None
        name = f"gate_{step.id}"[:60]
        while name in self._ids:
            name += "_"
        self._ids.add(name)
        return Step(name, GATE, needs=step.needs, when=step.when, join=step.join)

    def _without_arguments(self, step: Step) -> Step:
        given: Document = {} if step.map is not None or step.loop is not None else self._known_arguments(step)
        if step.uses == FLOW:
            given = self._inner(step)
        elif step.cache:
            given = {"of": "$index"} if step.map is not None or step.loop is not None else {"of": step.id}
        fallback, compensate = step.fallback, step.compensate
        if fallback is not None:
            self._wanted.setdefault(fallback.uses or step.uses)
            fallback = Action(fallback.uses) if fallback.uses else Action(value=0)
        if compensate is not None:
            self._wanted.setdefault(compensate.uses)
            compensate = Action(compensate.uses)
        return replace(step, arguments=given, fallback=fallback, compensate=compensate, budget=())

    def _known_arguments(self, step: Step) -> Document:
        """Files are left out: their bytes are not here."""
        certain = {}
        for name, value in step.arguments.items():
            expressions = [text for _, text in expressions_in(value)]
            if all(self._certain(text) and not read(text).steps for text in expressions) and "$file" not in str((value, self._given)):
                certain[name] = value
        return certain

    def _inner(self, step: Step) -> Document:
        """A flow in a flow, rehearsed as far as it stands there."""
        spec = step.arguments.get("spec")
        if not isinstance(spec, dict):
            raise UsageError(f"the step {step.id!r} runs a flow that is known only when it runs", fix="rehearse that flow by itself")
        try:
            above = f"{self._above}{step.id}."
            inner = _Making(flow_from(spec), {}, self._wishes.inside(step.id), lambda _step: False, above).result()
        except MeshError as error:
            raise UsageError(f"step {step.id!r}: {error.message}", fix=error.fix) from error
        self._wanted |= dict.fromkeys(inner.wanted)
        self._notes += inner.notes
        return {"spec": document(replace(inner.flow, inputs={})), "input": {}}
