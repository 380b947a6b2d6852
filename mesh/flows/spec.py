"""A flow as data: what runs, on what, after what. The same values whether they were written in TOML, in JSON or in Python.

    Flow --document--> a dict of plain JSON values --canonical--> bytes --hash--> its name among all flows
         <--parsing.flow_of--                      <-------------

Invariant: flow_of(document(flow)) == flow, and two flows that mean the same have the same canonical bytes: defaults are left out, keys are
in order. A text that begins with ``$`` is an expression (`expressions.py`); everything else is itself. Does not check what one step says of
another: that is `checks.py`.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import Any

from mesh.labels import Amounts

Document = dict[str, Any]
FLOW = "mesh.flow"
"""The capability of a flow: its task's arguments are ``{"spec": the flow's document, "input": {...}}``."""
JOINS = ("all", "any", "settled")
"""And ``quorum(n)``."""


@dataclass(frozen=True, slots=True)
class Input:
    """One value that whoever starts the flow gives. `type` is one of `parsing.TYPES`."""

    type: str
    required: bool = True
    default: Any = None
    enum: tuple[Any, ...] = ()
    doc: str = ""


@dataclass(frozen=True, slots=True)
class Loop:
    """Run the step again until the expression is true of its result, at most `max` times; not true by then is a failure."""

    until: str
    max: int


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds; 0: no bound. `queue_s` until somebody has taken it, `run_s` one run, `heartbeat_s` silence, `total_s` all of it."""

    queue_s: float = 0.0
    run_s: float = 0.0
    heartbeat_s: float = 0.0
    total_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Gate:
    """A question to people, asked before the step begins; a step without `uses` is nothing but the question. As in `Context.approval`."""

    question: str
    approvers: tuple[str, ...] = ()
    quorum: int = 1
    expires_s: float = 0.0
    on_expire: str = "deny"
    escalate_to: tuple[str, ...] = ()
    separate: bool | None = None


@dataclass(frozen=True, slots=True)
class Action:
    """Other work in a step's place (`fallback`), or work that undoes it (`compensate`). `arguments` None: those the step had.

    A fallback may be a `value` instead, where `uses` is empty.
    """

    uses: str = ""
    arguments: Document | None = None
    value: Any = None


@dataclass(frozen=True, slots=True)
class Step:
    id: str
    uses: str = ""
    arguments: Document = field(default_factory=dict)
    """What the document calls ``with``."""
    needs: tuple[str, ...] = ()
    when: str = ""
    map: Any = None
    """An expression or a list: the step runs once for each ``item`` of it."""
    max_parallel: int = 0
    join: str = "all"
    loop: Loop | None = None
    retry: int | None = None
    """Tries after a failure of the handler; None: as many as the capability says."""
    timeouts: Timeouts = Timeouts()
    gate: Gate | None = None
    compensate: Action | None = None
    fallback: Action | None = None
    cache: bool = False
    hedge: bool = False
    labels: tuple[str, ...] = ()
    near: str = ""
    apart: str = ""
    priority: int = 0
    budget: Amounts = ()
    """What it may spend, reserved from what the flow has left before it begins; of a map or a loop for each item or turn."""
    doc: str = ""

    @property
    def quorum(self) -> int:
        """How many of its needs have to be done before it runs, where that is not all of them; 0: its join is no such one."""
        if self.join == "any":
            return 1
        return int(self.join[7:-1]) if self.join.startswith("quorum(") else 0


@dataclass(frozen=True, slots=True)
class Flow:
    name: str
    steps: tuple[Step, ...]
    inputs: dict[str, Input] = field(default_factory=dict)
    output: Any = None
    """A value with expressions in it; None: the results of the steps that nothing needs."""
    doc: str = ""
    version: int = 1
    budget: Amounts = ()
    """What all of it may spend."""

    def step(self, id: str) -> Step | None:
        return next((step for step in self.steps if step.id == id), None)


def document(flow: Flow) -> Document:
    """Plain JSON values, defaults left out."""
    found: Document = {"flow": flow.name, "version": flow.version, "doc": flow.doc}
    found["input"] = {name: _input(one) for name, one in flow.inputs.items()}
    found["budget"] = amounts(flow.budget)
    kept = _without_defaults(found, {"version": 1}) | ({} if flow.output is None else {"output": flow.output})
    return kept | {"step": [step_document(step) for step in flow.steps]}


def step_document(step: Step) -> Document:
    """One ``[[step]]``."""
    found: Document = {name: getattr(step, name) for name in ("id", "uses", "when", "map", "max_parallel", "join", "cache", "hedge")}
    found |= {"with": step.arguments, "needs": list(step.needs), "retry": step.retry, "labels": list(step.labels)}
    found |= {name: getattr(step, name) for name in ("near", "apart", "priority", "doc")} | {"budget": amounts(step.budget)}
    found["timeouts"] = {name: duration(getattr(step.timeouts, f"{name}_s")) for name in ("queue", "run", "heartbeat", "total")}
    found["timeouts"] = {name: text for name, text in found["timeouts"].items() if text}
    found["loop"] = {"until": step.loop.until, "max": step.loop.max} if step.loop else None
    found["gate"] = _gate(step.gate) if step.gate else None
    kept = _without_defaults(found, {"join": "all"})
    if step.retry is not None:
        kept["retry"] = step.retry
    if step.map is not None:
        kept["map"] = step.map
    if step.compensate is not None:
        kept["compensate"] = _action(step.compensate)
    if step.fallback is not None:
        kept["fallback"] = _action(step.fallback)
    return kept


def canonical(flow: Flow) -> bytes:
    """One form of bytes for one meaning."""
    return json.dumps(document(flow), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def hash_of(flow: Flow) -> str:
    """SHA-256 of the canonical form, as 64 hexadecimal digits."""
    return hashlib.sha256(canonical(flow)).hexdigest()


def duration(seconds: float) -> str:
    """``"1.5s"``; "" for 0."""
    return f"{seconds:.12g}s" if seconds else ""


def amounts(budget: Amounts) -> dict[str, float]:
    """``{"usd": 0.5, "calls": 100}``."""
    return {name: amount // 1000 if amount % 1000 == 0 else amount / 1000 for name, amount in budget}


def _input(one: Input) -> Document:
    found: Document = {"type": one.type}
    if not one.required:
        found["default"] = one.default
    if one.enum:
        found["enum"] = list(one.enum)
    return found | ({"doc": one.doc} if one.doc else {})


def _gate(gate: Gate) -> Document:
    found: Document = {"question": gate.question, "approvers": list(gate.approvers), "quorum": gate.quorum, "on_expire": gate.on_expire}
    found |= {"expires": duration(gate.expires_s), "escalate_to": list(gate.escalate_to)}
    kept = _without_defaults(found, {"quorum": 1, "on_expire": "deny"})
    return kept if gate.separate is None else kept | {"separate": gate.separate}


def _action(action: Action) -> Document:
    if not action.uses:
        return {"value": action.value}
    return {"uses": action.uses} if action.arguments is None else {"uses": action.uses, "with": action.arguments}


def _without_defaults(found: Document, defaults: Document) -> Document:
    """Without what is empty, and what is as it would be if nothing were said."""
    return {
        name: value for name, value in found.items() if value not in (None, "", [], {}, 0, False) and value != defaults.get(name, _NOTHING)
    }


_NOTHING = object()
