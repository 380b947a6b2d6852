"""Whether a flow can be run as it stands: every rule about what its parts say of one another. Nothing is run, nobody is asked.

    check(flow)              cycles, unknown names, expressions, combinations that mean nothing, sizes
    offers.check(flow, caps) the same against what the mesh offers now

Invariant: what passes here fails at run time only for what values and other agents do. All problems are told, not the first one only; but
a graph with unknown names or a cycle is told no more than that.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator

from mesh.flows.expressions import ExpressionError, expressions_in, is_expression, read
from mesh.flows.fields import said
from mesh.flows.order import Above, cycle_in
from mesh.flows.problems import FlowError, Place, Problem
from mesh.flows.reading import Text, flow_from
from mesh.flows.spec import FLOW, Document, Flow, Input, Step, canonical
from mesh.limits import FlowLimits

LIMITS = FlowLimits()
OURS = "mesh."
"""Capabilities of the mesh itself; of these a flow may use another flow."""


def checked(flow: Flow, source: Text | None = None) -> Flow:
    """The same flow. Raises FlowError with all that is wrong."""
    if problems := check(flow):
        ids = tuple(step.id for step in flow.steps)
        raise source.error(*problems, ids=ids) if source else FlowError(problems, ids=ids)
    return flow


def check(flow: Flow) -> list[Problem]:
    """All that is wrong, in the order of the text; empty: it can be run."""
    problems = [*_sizes(flow), *_inputs(flow), *_names(flow)]
    if problems:
        return problems
    if ring := cycle_in(flow.steps):
        at = next(i for i, step in enumerate(flow.steps) if step.id == ring[0])
        fix = f"take {ring[-2]!r} out of the needs of {ring[-1]!r}, or another of these"
        return [Problem(("step", at, "needs"), f"the steps wait for one another: {' -> '.join(ring)}", fix)]
    above = Above(flow.steps)
    for i, step in enumerate(flow.steps):
        problems += _combinations(step, ("step", i))
        problems += _expressions(flow, step, ("step", i), above)
    for where, text in expressions_in(flow.output, ("output",)):
        problems += _Mentions(flow, above, where).check(text)
    return problems


def _sizes(flow: Flow) -> Iterator[Problem]:
    size = len(canonical(flow))
    if size > LIMITS.spec_bytes_max:
        fix = "hand large values in as input or as a file, and use map for many like steps"
        yield Problem((), f"the flow has {size} bytes in short, and at most {LIMITS.spec_bytes_max} travel", fix)

    recorded = sum((step.compensate is not None) + bool(step.quorum) for step in flow.steps)
    if recorded > LIMITS.recorded_max:
        reason = f"{recorded} steps have a compensate, or a join that does not wait for all"
        yield Problem(("step",), reason, f"use at most {LIMITS.recorded_max} of these: put some into a flow of their own")


def _inputs(flow: Flow) -> Iterator[Problem]:
    for name, one in flow.inputs.items():
        for value in one.enum:
            if not fits(value, one):
                yield Problem(("input", name, "enum"), f"{said(value)} is no {one.type}", "give values of its type")
        if not one.required and not (fits(one.default, one) and (not one.enum or one.default in one.enum)):
            fix = f"give one of {said(list(one.enum))}" if one.enum else f"give a {one.type}, or leave the default out"
            yield Problem(("input", name, "default"), f"{said(one.default)} is none of what it may be", fix)


def fits(value: object, one: Input) -> bool:
    """Whether a value has the input's type."""
    match one.type:
        case "string":
            return isinstance(value, str)
        case "integer":
            return type(value) is int
        case "number":
            return type(value) in (int, float)
        case "boolean":
            return isinstance(value, bool)
        case "array":
            return isinstance(value, list)
        case "object":
            return isinstance(value, dict)
        case "file":
            from mesh.files import File

            return isinstance(value, File) or (isinstance(value, dict) and list(value) == ["$file"])
        case _:
            return True


def _names(flow: Flow) -> Iterator[Problem]:
    first: dict[str, int] = {}
    for i, step in enumerate(flow.steps):
        if step.id in first:
            yield Problem(("step", i, "id"), f"{step.id!r} is the id of step {first[step.id] + 1} as well", "give one of them another id")
        first.setdefault(step.id, i)
    for i, step in enumerate(flow.steps):
        for need in step.needs:
            if need == step.id:
                yield Problem(("step", i, "needs"), "it needs itself", f"take {need!r} out of its needs; what repeats is a loop")
            elif need not in first:
                yield Problem(("step", i, "needs"), f"there is no step {need[:60]!r}", nearest(need, first, "add it, or take it out"))


def nearest(name: str, known: Iterable[str], otherwise: str) -> str:
    """``did you mean 'draft'?``, or `otherwise`."""
    near = difflib.get_close_matches(name, known, 1)
    return f"did you mean {near[0]!r}?" if near else otherwise


def _combinations(step: Step, where: Place) -> Iterator[Problem]:
    """Keys that mean nothing together."""
    if not step.uses and not step.gate:
        yield Problem(where, "it does nothing", 'add uses = "a.capability", or a gate')
    if not step.uses:
        for key, there in (
            ("map", step.map is not None),
            ("loop", step.loop),
            ("compensate", step.compensate),
            ("cache", step.cache),
            ("hedge", step.hedge),
            ("retry", step.retry is not None),
            ("budget", step.budget),
        ):
            if there:
                yield Problem((*where, key), f"it uses nothing that {key} could be about", f"add uses, or take {key} out")
    elif step.uses.startswith(OURS) and step.uses != FLOW:
        yield Problem((*where, "uses"), f"{step.uses!r} is the mesh's own", "use gate for a question, mesh.flow for a flow in a flow")
    if step.map is not None and step.loop:
        yield Problem((*where, "loop"), "it has a map as well", "put one of them into a flow of its own, and use mesh.flow")
    if step.max_parallel and step.map is None:
        yield Problem((*where, "max_parallel"), "there is no map that it could bound", "add map, or take it out")
    if isinstance(step.map, list) and len(step.map) > LIMITS.map_width_max:
        yield Problem((*where, "map"), f"there are {len(step.map)} items", f"give at most {LIMITS.map_width_max}")
    if step.join != "all" and not step.needs:
        yield Problem((*where, "join"), "there are no needs to join", "add needs, or take join out")
    if step.quorum > len(step.needs) > 0:
        yield Problem(
            (*where, "join"), f"it waits for {step.quorum} of {len(step.needs)} needs", f"write quorum({len(step.needs)}) or less"
        )
    for key, text in (("when", step.when), ("map", step.map), ("loop", step.loop.until if step.loop else "")):
        if isinstance(text, str) and text and not is_expression(text):
            yield Problem((*where, key), f"{said(text)} is no expression", f"begin it with $: {key} = {'$' + text!r}")
    for key, text in (("near", step.near), ("apart", step.apart)):
        if is_expression(text):
            yield Problem((*where, key), "it is the same for all runs, and no expression", "write a plain word")


def _expressions(flow: Flow, step: Step, where: Place, above: Above) -> Iterator[Problem]:
    many = ("item", "index") if step.map is not None or step.loop else ()
    own = _Mentions(flow, above, where, step, many)
    yield from _inner(step.uses, step.arguments, (*where, "with"))
    for key, value in (("with", own_part(step.uses, step.arguments)), ("gate", step.gate.question if step.gate else "")):
        for place, text in expressions_in(value, (*where, key)):
            yield from own.at(place).check(text)
    for key, value in (("when", step.when), ("map", step.map)):
        for place, text in expressions_in(value, (*where, key)):
            yield from _Mentions(flow, above, place, step).check(text)
    if step.loop and is_expression(step.loop.until):
        yield from own.at((*where, "loop", "until")).check(step.loop.until)
    for key, action in (("fallback", step.fallback), ("compensate", step.compensate)):
        if action is None:
            continue
        after = _Mentions(flow, above, where, step, many, itself=key == "compensate")
        yield from _inner(action.uses, action.arguments, (*where, key, "with"))
        parts = {"with": own_part(action.uses, action.arguments), "value": action.value}
        for place, text in expressions_in(parts, (*where, key)):
            yield from after.at(place).check(text)
        if action.uses.startswith(OURS) and action.uses != FLOW:
            yield Problem((*where, key), f"{action.uses!r} is the mesh's own", "use a capability of an agent")


def own_part(uses: str, arguments: Document | None) -> Document | None:
    """Without a flow that stands in a flow: its expressions are its own."""
    if uses == FLOW and arguments and isinstance(arguments.get("spec"), dict):
        return {name: value for name, value in arguments.items() if name != "spec"}
    return arguments


def _inner(uses: str, arguments: Document | None, where: Place) -> Iterator[Problem]:
    """What is wrong with a flow that stands in a flow."""
    if uses == FLOW and arguments and isinstance(arguments.get("spec"), dict):
        try:
            found = check(flow_from(arguments["spec"]))
        except FlowError as error:
            found = list(error.problems)
        for problem in found:
            yield Problem((*where, "spec", *problem.where), problem.reason, problem.fix)


class _Mentions:
    """What an expression at one place may speak of."""

    def __init__(
        self, flow: Flow, above: Above, where: Place, step: Step | None = None, many: tuple[str, ...] = (), itself: bool = False
    ) -> None:
        self._flow, self._above, self._where, self._step, self._many, self._itself = flow, above, where, step, many, itself

    def at(self, where: Place) -> _Mentions:
        return _Mentions(self._flow, self._above, where, self._step, self._many, self._itself)

    def check(self, text: str) -> Iterator[Problem]:
        try:
            found = read(text)
        except ExpressionError as error:
            yield Problem(self._where, error.reason, error.fix)
            return
        for name in found.inputs:
            if name not in self._flow.inputs:
                fix = nearest(name, self._flow.inputs, f'declare it: [input] {name[:40]} = "string"')
                yield Problem(self._where, f"there is no input {name[:60]!r}", fix)
        for root in found.roots:
            if root in ("item", "index") and root not in self._many:
                yield Problem(self._where, f"{root} is nothing here", "it belongs to a step with map or loop")
        for name in found.steps:
            yield from self._step_named(name)

    def _step_named(self, name: str) -> Iterator[Problem]:
        if not self._above.knows(name):
            fix = nearest(name, self._above.names(), "name one that this step needs")
            yield Problem(self._where, f"there is no step {name[:60]!r}", fix)
        elif self._step is None:
            return
        elif name == self._step.id:
            if not self._itself:
                yield Problem(self._where, "it speaks of its own result", "only its compensate can; a loop's last result is item")
        elif not self._above.has(self._step.id, name):
            needs = ", ".join(f'"{need}"' for need in (*self._step.needs, name))
            yield Problem(self._where, f"it does not need {name!r}, whose result may not be there", f"write needs = [{needs}]")
