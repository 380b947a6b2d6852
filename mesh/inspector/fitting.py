"""What can be told of work before it is handed in, from what is offered now: arguments no handler would take, and what it waits for.

    offered, and its schema certainly refuses an argument --> InvalidArgument, as `mesh call` has it from the handler
    offered by nobody, or by nobody who may take it now   --> a word on stderr: a submitted task waits, and that is no mistake

Invariant: only what the offered schema excludes by any reading (text may stand for a number) is refused; the rest is left to the handler.
"""

from __future__ import annotations

import asyncio
import contextlib
import difflib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from mesh.client import Mesh
from mesh.errors import InvalidArgument, MeshError
from mesh.files import File
from mesh.inspector.render import clean, say
from mesh.versions import MARK, chosen, order, split

Document = dict[str, Any]
NEAREST = 3
"""Versions that are named where none of them will do."""
QUIET_S = 1.0
"""A call that was not answered by then says what it waits for, if that can be told."""
_TRUTHS = ("0", "1", "f", "false", "n", "no", "off", "on", "t", "true", "y", "yes")


def offered(caps: Document, capability: str) -> Document | None:
    """What `mesh caps` knows of it, as the versions that would do have it."""
    return chosen({cap["capability"]: cap for cap in caps["caps"]}, capability)


def check_arguments(cap: Document, arguments: Document) -> None:
    """Raises InvalidArgument for what its schema excludes."""
    schema, name = cap["input_schema"], cap["capability"]
    properties = schema.get("properties") or {}
    fix = f"{name} takes {cap['signature']}"
    for given, value in arguments.items():
        if given not in properties and schema.get("additionalProperties") is False:
            near = difflib.get_close_matches(given, properties, 1)
            raise InvalidArgument(f"{name} has no argument {given!r}" + (f"; did you mean {near[0]!r}?" if near else ""), given, fix=fix)
        one = properties.get(given) or {}
        kind = one.get("type")
        if isinstance(kind, str) and not (_may_be(value, kind) or "format" in one):  # a date may be given as a number, too
            raise InvalidArgument(f"{name}: the argument {given!r} is wrong: {str(value)[:60]!r} is no {kind}", given, fix=fix)
    for wanted in schema.get("required") or ():
        if wanted not in arguments:
            raise InvalidArgument(f"{name}: the argument {wanted!r} is missing", wanted, fix=fix)


def check(cap: Document | None, arguments: Document, hedge: bool) -> None:
    """What can be said of a submit before it is made, if anybody offers the capability. Raises InvalidArgument."""
    if cap is not None:
        check_arguments(cap, arguments)
    if hedge:
        say_hedge(cap)


def _may_be(value: Any, kind: str) -> bool:
    """Whether a handler might read `value` as a JSON Schema's `kind`."""
    if isinstance(value, File):
        return kind == "object"
    match kind:
        case "integer" | "number":
            return _is_number(value) if isinstance(value, str) else isinstance(value, int | float)
        case "boolean":
            return value.strip().lower() in _TRUTHS if isinstance(value, str) else isinstance(value, int | float)
        case "array":
            return isinstance(value, list)
        case "object":
            return isinstance(value, dict)
        case "string":
            return isinstance(value, str)
        case _:
            return True


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def missing(caps: Document, nodes: Document, capability: str, where: list[str]) -> str:
    """What nobody does that the work waits for; "" if somebody does it."""
    cap = offered(caps, capability)
    if cap is None:
        name, _ = split(capability)
        there = [one["version"] for known in caps["caps"] if known["capability"] == name for one in known.get("versions") or [known]]
        nearest = ", ".join(sorted(there, key=order, reverse=True)[:NEAREST])
        return f"offers {capability}" + (f" (there is: {nearest})" if there and MARK in capability else "")
    kinds = [[*kind, *(label.partition("=")[0] for label in kind)] for kinds in cap["labels"].values() for kind in kinds]
    if where and not any(set(where) <= set(kind) for kind in kinds):
        return f"who offers {capability} has {' and '.join(where)}"
    closed = {row["id"] for row in nodes["nodes"] if row["draining"]}
    return f"who offers {capability} takes work (mesh drain)" if set(cap["nodes"]) <= closed else ""


def say_missing(caps: Document, nodes: Document, capability: str, where: list[str], what: str) -> None:
    """Tell the person, if `what` waits for somebody who is not here."""
    if lacking := missing(caps, nodes, capability, where):
        say(f"nobody {clean(lacking)} now: {what} waits until somebody does")


def say_hedge(cap: Document | None) -> None:
    """That --hedge is of no use where work must not be begun twice."""
    if cap is not None and not cap["idempotent"]:
        say(f"note: {clean(cap['capability'])} is not declared idempotent, so --hedge does nothing for it")


@asynccontextmanager
async def telling_why_it_waits(mesh: Mesh, capability: str, where: list[str]) -> AsyncIterator[None]:
    """While inside: after a while, a word about what the call waits for. It is a courtesy: what goes wrong with it is the call's to say."""

    async def tell() -> None:
        await asyncio.sleep(QUIET_S)
        with contextlib.suppress(MeshError):
            say_missing(await mesh.caps(everything=True), await mesh.nodes(), capability, where, "the call")

    telling = asyncio.ensure_future(tell())
    try:
        yield
    finally:
        telling.cancel()
        await asyncio.wait([telling])
