"""What a flow is started with, checked against what it declares: names, types, defaults. Text stands for a number where one is asked for,
as a handler's own arguments would: what is typed in a shell works."""

from __future__ import annotations

import difflib
from typing import Any

from mesh.errors import InvalidArgument
from mesh.flows.checks import fits
from mesh.flows.fields import said
from mesh.flows.spec import Document, Flow, Input

_TRUTHS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}


def input_of(flow: Flow, given: Document) -> Document:
    """All inputs by name, defaults included. Raises InvalidArgument, naming the one that is wrong."""
    takes = f"{flow.name} takes {', '.join(_form(name, one) for name, one in flow.inputs.items()) or 'no input'}"
    for name in given:
        if name not in flow.inputs:
            near = difflib.get_close_matches(name[:64], flow.inputs, 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise InvalidArgument(f"the flow {flow.name} has no input {name[:64]!r}{hint}", name, fix=takes)
    found = {}
    for name, one in flow.inputs.items():
        if name not in given:
            if one.required:
                raise InvalidArgument(f"the flow {flow.name}: the input {name!r} is missing", name, fix=takes)
            found[name] = one.default
            continue
        value = _converted(given[name], one.type)
        if not fits(value, one):
            raise InvalidArgument(f"the flow {flow.name}: the input {name!r} is wrong: {said(value)} is no {one.type}", name, fix=takes)
        if one.enum and value not in one.enum:
            raise InvalidArgument(f"the flow {flow.name}: the input {name!r} is none of {said(list(one.enum))}", name, fix=takes)
        found[name] = value
    return found


def _form(name: str, one: Input) -> str:
    return f"{name}: {one.type}" + ("" if one.required else f" = {said(one.default)}")


def _converted(value: Any, kind: str) -> Any:
    """Text that stands for something else; whatever stands for nothing is left as it is."""
    if not isinstance(value, str):
        return value
    try:
        if kind == "integer":
            return int(value)
        if kind == "number":
            return float(value)
    except ValueError:
        return value
    return _TRUTHS.get(value.strip().lower(), value) if kind == "boolean" else value
