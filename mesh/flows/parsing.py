"""A flow's document, plain values as TOML or JSON give them, to a `Flow`. Each table is read by one function.

    document --flow_of--> Flow, or Bad: the first thing that has not the form it should have

Invariant: a Flow that comes out has every field in its range. What fields say of one another is for `checks.py`.
"""

from __future__ import annotations

import re
from typing import Any

from mesh.errors import UsageError
from mesh.flows.fields import Fields, said
from mesh.flows.problems import Bad, Place
from mesh.flows.spec import JOINS, Action, Document, Flow, Gate, Input, Loop, Step, Timeouts
from mesh.gates import gate_options
from mesh.ids import PRIORITY_MAX, PRIORITY_MIN
from mesh.labels import Amounts, budget_of, labels_of
from mesh.limits import FlowLimits
from mesh.versions import FORM, MARK, is_range, split

LIMITS = FlowLimits()
TYPES = ("string", "integer", "number", "boolean", "array", "object", "file", "any")
TEXT_MAX = 2000
_CAPABILITY = re.compile(r"[A-Za-z][A-Za-z0-9_-]*(\.[A-Za-z0-9_-]+)*")
_ID = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")
_ID_FIX = "use ASCII letters, digits and _, a letter first, at most 64, as in 'draft_2'"
_QUORUM = re.compile(r"quorum\(([1-9][0-9]{0,4})\)")
_NAME_FIX = "use letters, digits, - and _, parts joined by dots, at most 64 characters"
RESERVED = frozenset(("as", "break", "const", "continue", "else", "false", "for", "function", "if", "import", "in", "let", "loop"))
RESERVED |= {"package", "namespace", "null", "return", "true", "var", "void", "while"}
"""Words of the expression language: ``steps.in`` could not be read."""


def flow_of(found: Any) -> Flow:
    """Raises Bad."""
    if not isinstance(found, dict):
        raise Bad((), f"a flow is a table, and this is {said(found)}", 'begin with flow = "name"')
    fields = Fields(found, ())
    name = fields.text("flow")
    if not name:
        raise Bad((), "it has no name", 'begin with flow = "name"')
    check_name("flow", name, ())
    flow = Flow(
        name=name,
        version=fields.number("version", 1, 1, 1_000_000) or 1,
        doc=fields.text("doc", max=TEXT_MAX),
        inputs=_inputs(fields),
        output=fields.any("output"),
        steps=_steps(fields),
        budget=_budget(fields),
    )
    fields.end()
    return flow


def check_name(key: str, name: str, where: Place) -> None:
    """A flow's or a capability's. Raises Bad."""
    if not _CAPABILITY.fullmatch(name) or len(name) > 64:
        raise Bad((*where, key), f"{said(name)} cannot be a name", _NAME_FIX)


def _inputs(fields: Fields) -> dict[str, Input]:
    table = fields.inner("input")
    if table is None:
        return {}
    if len(table.table) > LIMITS.inputs_max:
        raise Bad(table.where, f"there are {len(table.table)} inputs", f"give at most {LIMITS.inputs_max}; an input may be a whole object")
    found = {}
    for name, value in table.table.items():
        where = (*table.where, name)
        if not _ID.fullmatch(name) or name in RESERVED:
            raise Bad(where, f"{said(name)} cannot be the name of an input", _ID_FIX)
        found[name] = _input(value, where)
    return found


def _input(value: Any, where: Place) -> Input:
    """``"string"``, or a table."""
    if isinstance(value, str):
        return Input(_type(value, where))
    if not isinstance(value, dict):
        raise Bad(where, f"{said(value)} says not what it is", f'write {where[-1]} = "string", or one of: {", ".join(TYPES)}')
    fields = Fields(value, where)
    enum = fields.any("enum", [])
    if not isinstance(enum, list) or len(enum) > 1000:
        raise Bad((*where, "enum"), f"{said(enum)} is no list of values", 'write enum = ["a", "b"]')
    required = not fields.has("default")
    found = Input(
        type=_type(fields.text("type", "any"), (*where, "type")),
        required=required,
        default=fields.any("default"),
        enum=tuple(enum),
        doc=fields.text("doc", max=TEXT_MAX),
    )
    fields.end()
    return found


def _type(name: str, where: Place) -> str:
    if name not in TYPES:
        raise Bad(where, f"{said(name)} is no type", f"use one of: {', '.join(TYPES)}")
    return name


def _steps(fields: Fields) -> tuple[Step, ...]:
    table = fields.table.get("step") if fields.has("step") else None
    if not table:
        raise Bad((), "it has no steps", 'add [[step]] with id = "first" and uses = "a.capability"')
    if not isinstance(table, list) or not all(isinstance(one, dict) for one in table):
        raise Bad(("step",), "the steps are not a list of tables", "write [[step]], in double brackets, above each")
    if len(table) > LIMITS.steps_max:
        raise too_many_steps(len(table))
    return tuple(step_of(one, ("step", i)) for i, one in enumerate(table))


def too_many_steps(count: int) -> Bad:
    return Bad(("step",), f"there are {count} steps", f"use at most {LIMITS.steps_max}; map runs one step for many items")


def step_of(table: Document, where: Place) -> Step:
    """One ``[[step]]``. Raises Bad."""
    fields = Fields(table, where)
    name = fields.text("id")
    if not name:
        raise Bad(where, "it has no id", 'add id = "a_name"')
    if not _ID.fullmatch(name) or name in RESERVED:
        raise Bad((*where, "id"), f"{said(name)} cannot be an id", _ID_FIX)
    step = Step(
        id=name,
        uses=_uses(fields),
        arguments=_arguments(fields) or {},
        needs=fields.words("needs", most=LIMITS.steps_max),
        when=fields.text("when", max=LIMITS.expression_characters_max + 1),
        map=_map(fields),
        max_parallel=fields.number("max_parallel", 0, 1, LIMITS.in_flight_max) or 0,
        join=_join(fields),
        loop=_loop(fields),
        retry=fields.number("retry", None, 0, 1000),
        timeouts=_timeouts(fields),
        gate=_gate(fields),
        compensate=_action(fields, "compensate"),
        fallback=_action(fields, "fallback"),
        cache=fields.flag("cache"),
        hedge=fields.flag("hedge"),
        labels=_labels(fields),
        near=fields.text("near"),
        apart=fields.text("apart"),
        priority=fields.number("priority", 0, PRIORITY_MIN, PRIORITY_MAX) or 0,
        budget=_budget(fields),
        doc=fields.text("doc", max=TEXT_MAX),
    )
    fields.end()
    return step


def _uses(fields: Fields) -> str:
    name = fields.text("uses")
    if fields.has("uses"):
        bare, wanted = split(name)
        if MARK in name and not is_range(wanted):
            fields.bad("uses", f"{said(wanted)} is no range of versions", f'{FORM}: uses = "{bare}@^2"')
        check_name("uses", bare, fields.where)
    return name


def _arguments(fields: Fields) -> Document | None:
    table = fields.inner("with")
    return None if table is None else {name: Fields(table.table, table.where).any(name) for name in table.table}


def _map(fields: Fields) -> Any:
    value = fields.any("map")
    if fields.has("map") and not isinstance(value, str | list):
        fields.bad("map", f"{said(value)} is no list", 'write map = "$steps.shard.parts", or a list')
    return value


def _join(fields: Fields) -> str:
    join = fields.text("join", "all")
    if join not in JOINS and not _QUORUM.fullmatch(join):
        fields.bad("join", f"{said(join)} is no join", f"use one of: {', '.join(JOINS)}, quorum(2)")
    return join


def _loop(fields: Fields) -> Loop | None:
    table = fields.inner("loop")
    if table is None:
        return None
    until = table.text("until", max=LIMITS.expression_characters_max + 1)
    most = table.number("max", 0, 1, LIMITS.turns_max)
    if not until or not most:
        raise Bad(table.where, "a loop has an end and a bound", 'write loop = { until = "$item.done", max = 10 }')
    table.end()
    return Loop(until, most)


def _timeouts(fields: Fields) -> Timeouts:
    table = fields.inner("timeouts")
    if table is None:
        return Timeouts()
    found = Timeouts(table.duration("queue"), table.duration("run"), table.duration("heartbeat"), table.duration("total"))
    table.end()
    if found.total_s and max(found.queue_s, found.run_s) > found.total_s:
        raise Bad(table.where, "its parts are longer than the whole", "make total the longest, or leave it out")
    if found.heartbeat_s and found.run_s and found.heartbeat_s > found.run_s:
        raise Bad(table.where, "heartbeat is longer than run", "make heartbeat the shorter one")
    return found


def _gate(fields: Fields) -> Gate | None:
    if isinstance(fields.table.get("gate"), str):
        return _asking(Gate(fields.text("gate", max=TEXT_MAX)), (*fields.where, "gate"))
    table = fields.inner("gate")
    if table is None:
        return None
    gate = Gate(
        question=table.text("question", max=TEXT_MAX),
        approvers=table.words("approvers", most=64),
        quorum=table.number("quorum", 1, 1, 64) or 1,
        expires_s=table.duration("expires"),
        on_expire=table.text("on_expire", "deny"),
        escalate_to=table.words("escalate_to", most=64),
        separate=table.flag("separate") if "separate" in table.table else None,
    )
    _asking(gate, table.where)
    table.has("separate")
    table.end()
    try:
        gate_options(gate.expires_s or None, **rules_of(gate))
    except UsageError as error:
        raise Bad(table.where, error.message, error.fix) from error
    return gate


def _asking(gate: Gate, where: Place) -> Gate:
    if not gate.question.strip():
        raise Bad(where, "it asks nothing", 'write gate = { question = "Publish it?" }')
    return gate


def rules_of(gate: Gate) -> Document:
    """Of `Context.approval`, but for the time."""
    found: Document = {"quorum": gate.quorum, "approvers": gate.approvers, "separate": gate.separate}
    return found | {"on_expire": gate.on_expire, "escalate_to": gate.escalate_to}


def _action(fields: Fields, key: str) -> Action | None:
    """``"a.capability"``, or a table."""
    if isinstance(fields.table.get(key), str):
        name = fields.text(key)
        check_name(key, name, fields.where)
        return Action(name)
    table = fields.inner(key)
    if table is None:
        return None
    uses, arguments, has_value = _uses(table), _arguments(table), table.has("value")
    value = table.any("value")
    if has_value and key == "compensate":
        table.bad("value", "a value undoes nothing", 'write compensate = "a.capability"')
    if bool(uses) == has_value or (has_value and arguments is not None):
        form = f'{key} = "a.capability" or {key} = {{ uses = "a.capability", with = {{ ... }} }}'
        raise Bad(table.where, "it says not what is done instead", f"write {form}" + ("" if key == "compensate" else " or { value = ... }"))
    table.end()
    return Action(uses, arguments, value)


def _labels(fields: Fields) -> tuple[str, ...]:
    value = fields.any("labels")
    if not fields.has("labels"):
        return ()
    try:
        return labels_of(value, "labels") if isinstance(value, dict | list) else fields.bad("labels", f"{said(value)} is no table", _LABELS)
    except UsageError as error:
        raise Bad((*fields.where, "labels"), error.message, error.fix) from error


def _budget(fields: Fields) -> Amounts:
    value = fields.any("budget")
    if not fields.has("budget"):
        return ()
    if not isinstance(value, dict) or not value:
        fields.bad("budget", f"{said(value)} is no table of amounts", "write budget = { usd = 5, calls = 100 }")
    try:
        return tuple((name, amount) for name, amount in budget_of(value))
    except UsageError as error:
        raise Bad((*fields.where, "budget"), error.message, error.fix) from error


_LABELS = 'write labels = { zone = "eu", gpu = true }'
