"""Changing a flow while it runs: a patch, and the flow that comes of it.

    {"base": 1, "add": [{...}], "replace": [{...}], "remove": ["id"], "output": ...} + the flow, version 1 --> version 2, or why not

Invariant: what has begun or ended stays as it was; what comes out has passed every check that a new flow has to. Pure: who sent it, and
how it is put on record, is for `control.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from mesh.flows.checks import check, nearest
from mesh.flows.fields import Fields
from mesh.flows.parsing import step_of
from mesh.flows.problems import Bad, FlowError, Place
from mesh.flows.spec import Flow, Step


def patched(flow: Flow, patch: Any, fixed: Callable[[str], bool]) -> tuple[Flow, tuple[str, ...]]:
    """The next version, and the ids of the steps that are new in it. `fixed`: steps that have begun or ended. Raises FlowError."""
    try:
        return _patched(flow, patch, fixed)
    except Bad as bad:
        raise FlowError([bad.problem], file="patch") from None


def _patched(flow: Flow, patch: Any, fixed: Callable[[str], bool]) -> tuple[Flow, tuple[str, ...]]:
    if not isinstance(patch, dict):
        raise Bad((), "it is no table", 'write { base = 1, add = [...], replace = [...], remove = ["id"] }')
    fields = Fields(patch, ())
    base = fields.number("base", None, 1, 1_000_000)
    if base != flow.version:
        raise Bad(
            ("base",), f"the flow is at version {flow.version}, and the patch is for {base}", f"look at it again, and write {flow.version}"
        )
    removed = fields.words("remove", most=len(flow.steps))
    added, replaced = _steps(fields, "add"), {step.id: step for step in _steps(fields, "replace")}
    output = fields.any("output") if fields.has("output") else flow.output
    fields.end()
    known = {step.id: step for step in flow.steps}
    for key, ids in (("remove", removed), ("replace", tuple(replaced))):
        for name in ids:
            if name not in known:
                raise Bad((key,), f"there is no step {name!r}", nearest(name, known, "name one that is there"))
            if fixed(name):
                raise Bad((key,), f"{name!r} has begun already", "change what comes after it")
    for name in removed:
        if name in replaced:
            raise Bad(("remove",), f"{name!r} is replaced as well", "do one of the two")
    steps = tuple(replaced.get(step.id, step) for step in flow.steps if step.id not in removed)
    found = replace(flow, steps=steps + added, output=output, version=flow.version + 1)
    if problems := check(found):
        raise FlowError(problems, file="patch", ids=tuple(step.id for step in found.steps))
    return found, (*replaced, *(step.id for step in added))


def _steps(fields: Fields, key: str) -> tuple[Step, ...]:
    tables = fields.table.get(key, []) if fields.has(key) else []
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        fields.bad(key, "it is no list of steps", f'write {key} = [{{ id = "a", uses = "a.capability" }}]')
    where: Place = (key,)
    return tuple(step_of(table, (*where, i)) for i, table in enumerate(tables))
