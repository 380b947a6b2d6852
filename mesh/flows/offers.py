"""A flow against what the mesh offers now: the documents of `mesh caps`. What fits nobody by any reading is refused, the rest is a warning.

    literal arguments   names, types and what is missing, against the input schema of the capability
    references          a result's output schema against the argument it is given to, along plain paths
    nobody offers it    a warning: the step waits, parked, until somebody does

Invariant: nothing is refused that a handler might take: a schema that leaves something open, an expression that computes something, and a
capability that nobody offers yet say nothing. Asks nobody: `caps` is given.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from typing import Any

from mesh.flows.expressions import is_expression
from mesh.flows.fields import said
from mesh.flows.problems import Place, Problem
from mesh.flows.spec import Document, Flow, Step
from mesh.versions import chosen, order, split

_RESULT = re.compile(r"\$\s*steps\.([A-Za-z][A-Za-z0-9_]*)((?:\.[A-Za-z_][A-Za-z0-9_]*|\[[0-9]+\])*)\s*")
_PART = re.compile(r"[A-Za-z_][A-Za-z0-9_]*|[0-9]+")
_TYPES: dict[str, Any] = {"string": str, "integer": int, "number": (int, float), "boolean": bool, "array": list, "object": dict}
_AS_TEXT = ("integer", "number", "boolean")
"""Text may stand for these, as in a shell."""


def check(flow: Flow, caps: Document) -> list[Problem]:
    """`caps`: the document of `mesh caps`. Problems of what does not fit, warnings of what nobody offers."""
    offered = {cap["capability"]: cap for cap in caps["caps"]}
    found: list[Problem] = []
    for i, step in enumerate(flow.steps):
        where: Place = ("step", i)
        parts: list[tuple[Place, str, Document]] = [((*where, "uses"), step.uses, step.arguments)]
        for key, action in (("fallback", step.fallback), ("compensate", step.compensate)):
            if action is not None:
                parts.append(((*where, key), action.uses, step.arguments if action.arguments is None else action.arguments))
        for place, uses, arguments in parts:
            cap = chosen(offered, uses)
            if uses and cap is None:
                found.append(_nobody(place, step, uses, offered))
            elif cap is not None:
                given = (*where, "with") if place[-1] == "uses" else (*place, "with")
                found += _fits(flow, given, cap, arguments, offered)
    return found


def _nobody(where: Place, step: Step, uses: str, offered: Document) -> Problem:
    name, wanted = split(uses)
    near = difflib.get_close_matches(name, offered, 1)
    if wanted and name in offered:
        versions = sorted((one["version"] for one in offered[name].get("versions") or [offered[name]]), key=order, reverse=True)
        hint = f"it is offered as version {', '.join(versions)}"
    else:
        hint = f"did you mean {near[0]!r}?" if near and near[0] != uses else "start an agent that offers it: mesh caps lists what is there"
    parked = f"{step.id} would wait for its queue timeout" if step.timeouts.queue_s or step.fallback else f"{step.id} would be parked"
    return Problem(where, f"nobody offers {uses!r} now: {parked} until somebody does", hint, warning=True)


def _fits(flow: Flow, where: Place, cap: Document, arguments: Document, offered: Document) -> Iterator[Problem]:
    schema = cap["input_schema"]
    properties = schema.get("properties") or {}
    takes = f"{cap['capability']} takes {cap['signature']}"
    for name, value in arguments.items():
        if name not in properties:
            if properties and schema.get("additionalProperties") is False:
                near = difflib.get_close_matches(name, properties, 1)
                fix = f"did you mean {near[0]!r}?" if near else takes
                yield Problem((*where, name), f"{cap['capability']} has no argument {name!r}", fix)
            continue
        wanted = kinds_of(properties[name], schema)
        if is_expression(value):
            yield from _given(flow, (*where, name), value, wanted, cap["capability"], offered)
        elif wanted and not any(_may_be(value, kind) for kind in wanted):
            yield Problem((*where, name), f"{said(value)} is no {' or '.join(wanted)}, as {cap['capability']} wants it", takes)
    for name in schema.get("required") or ():
        if name not in arguments:
            yield Problem(where, f"{cap['capability']} is not given {name!r}", takes)


def _given(flow: Flow, where: Place, text: str, wanted: tuple[str, ...], to: str, offered: Document) -> Iterator[Problem]:
    """A result along a plain path, against what it is given to."""
    path = _RESULT.fullmatch(text)
    step = flow.step(path[1]) if path else None
    cap = chosen(offered, step.uses) if step is not None else None
    if path is None or step is None or cap is None or step.fallback is not None:
        return
    schema: Any = cap["output_schema"]
    root = schema
    parts = _PART.findall(path[2])
    if step.map is not None:
        schema = {"type": "array", "items": schema}
    for part in parts:
        schema = _resolved(schema, root)
        properties = schema.get("properties") or {}
        if part.isdigit():
            schema = schema.get("items") or {}
        elif properties and part not in properties and schema.get("additionalProperties") in (None, False):
            near = difflib.get_close_matches(part, properties, 1)
            fix = f"did you mean {near[0]!r}?" if near else f"it has: {', '.join(sorted(properties))}"
            yield Problem(where, f"what {step.uses} gives has no {part!r}", fix)
            return
        else:
            schema = properties.get(part) or {}
    kinds = kinds_of(schema, root)
    if kinds and wanted and not any(_goes(kind, want) for kind in kinds for want in wanted):
        fix = "convert it in an expression, or give it to another argument"
        yield Problem(where, f"{text[1:].strip()} is {' or '.join(kinds)}, and {to} wants {' or '.join(wanted)}", fix)


def kinds_of(schema: Any, root: Any) -> tuple[str, ...]:
    """The JSON types that a schema allows; empty: it leaves that open."""
    schema = _resolved(schema, root)
    if "anyOf" in schema or "oneOf" in schema:
        kinds = [kinds_of(one, root) for one in schema.get("anyOf") or schema.get("oneOf") or ()]
        return tuple(dict.fromkeys(kind for each in kinds for kind in each)) if all(kinds) else ()
    kind = schema.get("type")
    if "format" in schema or "contentEncoding" in schema:
        return ()  # a date may be given as a number, too
    return (kind,) if isinstance(kind, str) else tuple(kind) if isinstance(kind, list) else ()


def _resolved(schema: Any, root: Any) -> Document:
    for _ in range(10):
        reference = schema.get("$ref") if isinstance(schema, dict) else None
        if not isinstance(reference, str) or not reference.startswith("#/$defs/"):
            break
        schema = (root.get("$defs") or {}).get(reference.removeprefix("#/$defs/"))
    return schema if isinstance(schema, dict) else {}


def _goes(kind: str, wanted: str) -> bool:
    return kind == wanted or (kind == "string" and wanted in _AS_TEXT) or (kind, wanted) in (("integer", "number"), ("number", "integer"))


def _may_be(value: Any, kind: str) -> bool:
    if kind == "null":
        return value is None
    if isinstance(value, str) and kind in _AS_TEXT:
        return True
    if isinstance(value, bool) and kind in ("integer", "number"):
        return True
    return isinstance(value, _TYPES.get(kind, object))
