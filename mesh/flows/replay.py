"""What a driver would do that took this flow over now: the interpreter, driven by the record alone. Nothing is run.

    flow, input + children and effects on record --interpret--> each step it asks for: from the record, under way, would run, or differs

Invariant: the interpreter is the one that runs flows, and whatever it is given stands on record; what is not there is never made up, so it
goes no further than the record does. With another flow than the one that was started it says what an edited file would come to.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from mesh import Context
from mesh.errors import MeshError, task_error
from mesh.flows.inputs import input_of
from mesh.flows.interpreter import interpret
from mesh.flows.record import ENDED
from mesh.flows.spec import FLOW, Document, Flow
from mesh.ids import flags_in

QUIET_TURNS = 100
"""Turns of the loop in which nothing is asked for any more: nothing here waits for anything but the loop."""
FROM_RECORD, UNDER_WAY, WOULD_RUN, DIFFERS, NOT_ASKED = "from the record", "under way", "would run", "differs", "not asked for"
LEFT = "left"
"""The state of a child that nobody waited for any more when the flow ended: its own end says nothing."""


@dataclass(frozen=True, slots=True)
class Child:
    """One task that the driver has asked for, as it is on record: plain JSON."""

    task: str
    capability: str
    state: str
    arguments: Any
    result: Any = None
    error: Any = None


@dataclass(frozen=True, slots=True)
class Record:
    """Of one flow's task. `effects` are outcomes by key, `kept` is its newest checkpoint, as it was written."""

    task: str
    children: dict[str, Child]
    effects: dict[str, Any]
    kept: Document | None = None
    paused: bool = False
    """Then its driver asks for nothing, and what was asked for before is no disagreement."""
    pins: tuple[str, ...] = ()
    """Feature flags among them, as they were when it began."""


async def replayed(flow: Flow, given: Document, record: Record) -> Document:
    """``{"steps": [{"name", "capability", "what", "why"}], "paused", "state", "result", "error", "agrees"}``. Raises InvalidArgument.

    `what`: from the record, under way, would run, differs (it is on record with other work: a driver would be refused), not asked for (it
    is on record, and this flow has no such step). `agrees`: nothing differs, nothing is left over. `state`: done, failed, or running.
    """
    port = _Port(record)
    flags = flags_in(record.pins)
    task = SimpleNamespace(id=record.task, key=record.task, fence=0, attempt=1, capability=FLOW, parent="", deadline=None, flags=flags)
    context = Context(task, port, asyncio.get_running_loop(), record.kept)  # type: ignore[arg-type]
    driving = asyncio.ensure_future(interpret(flow, input_of(flow, given), context))
    turns = -1
    while not driving.done() and turns != port.turns:
        turns = port.turns
        for _ in range(QUIET_TURNS):
            await asyncio.sleep(0)
    found = port.document()
    if not driving.done():
        driving.cancel()
        await asyncio.wait([driving])
        return found | {"state": "running", "result": None, "error": ""}
    error = driving.exception()
    if error is not None and not isinstance(error, MeshError):
        raise error
    return found | ({"state": "done", "result": driving.result(), "error": ""} if error is None else _failed(error))


def _failed(error: MeshError) -> Document:
    return {"state": "failed", "result": None, "error": error.message}


class _Port:
    """What a context needs, answered from the record."""

    lifespan: Any = None
    body_bytes_max = 1 << 30

    def __init__(self, record: Record) -> None:
        self._record = record
        self._said: dict[str, tuple[str, str, str]] = {}
        self.turns = 0

    def document(self) -> Document:
        left = {name: (child.capability, NOT_ASKED, "") for name, child in self._record.children.items() if name not in self._said}
        rows = [
            {"name": name, "capability": capability, "what": what, "why": why}
            for name, (capability, what, why) in (self._said | left).items()
        ]
        wrong = (DIFFERS,) if self._record.paused else (DIFFERS, NOT_ASKED)
        return {"steps": rows, "paused": self._record.paused, "agrees": not any(row["what"] in wrong for row in rows)}

    async def step(self, _task: Any, name: str, capability: str, arguments: Document, _how: Document) -> Any:
        self.turns += 1
        child = self._record.children.get(name)
        what, why = self._compared(child, capability, arguments)
        self._said[name] = (capability, what, why)
        if child is None or what != FROM_RECORD:
            await asyncio.Event().wait()
        assert child is not None, "it is on record"
        if child.state == "done":
            return child.result
        raise task_error(child.error if isinstance(child.error, dict) else {}, child.task, child.state)

    def ended_ms(self, _task: Any, _step: str) -> int:
        return 0

    @staticmethod
    def _compared(child: Child | None, capability: str, arguments: Document) -> tuple[str, str]:
        if child is None:
            return WOULD_RUN, ""
        if child.capability != capability:
            return DIFFERS, f"on record it is work of {child.capability}"
        now = json.loads(json.dumps(arguments, default=lambda file: file.reference()))
        if now != child.arguments:
            return DIFFERS, "on record it has other arguments"
        return FROM_RECORD if child.state in ENDED else UNDER_WAY, child.state

    async def effect_begin(self, _task: Any, key: str, _call: int, _once: bool) -> bytes | None:
        self.turns += 1
        return json.dumps(self._record.effects[key]).encode() if key in self._record.effects else None

    async def effect_end(self, _task: Any, _key: str, _call: int, _output: bytes, _error: str) -> None:
        """A flow's own effects say what it knows, and touch nothing."""

    async def checkpoint(self, _task: Any, _value: Any, _signals: dict[str, int], _anew: bool) -> None:
        self.turns += 1

    async def sleep(self, _task: Any, _seconds: float) -> None:
        self.turns += 1

    def progress(self, _task: Any, _fraction: float, _note: str) -> None:
        """Nobody looks."""

    def log(self, _task: Any, _text: str) -> None:
        """Nobody reads it."""
