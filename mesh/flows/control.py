"""Pausing, resuming and patching a flow that runs: signals to its task, taken one after the other, each with its verdict on record.

    control.patch(m, task, {...}) --signal--> the driver: nothing begins --> may it be? --> on record --> the flow goes on, changed or not
                                                                                           '--> the sender reads the verdict

Invariant: what was decided of the N-th signal holds for every later attempt: it is in the task's checkpoint before anything follows from
it, and an attempt takes the signals that were decided before it drives a step. The verdict, the version and the change are an effect of the
task, so `mesh why` shows them. What a driver that died had begun is known to its successor a moment after it has asked for it again, so new
signals wait for that moment.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Any, Protocol

from mesh import Context
from mesh.errors import Refused, TimedOut, UsageError
from mesh.flows.fields import said
from mesh.flows.problems import FlowError
from mesh.flows.spec import Document
from mesh.limits import FlowLimits

LIMITS = FlowLimits()
SIGNAL = "mesh.flow"
"""The name of the signals."""
SETTLE_S = 1.0
"""In which a later attempt has asked again for what was begun before."""
TAKEN, REFUSED = "a", "r"
REASON_CHARACTERS_MAX = 120
VERDICT_S = 30.0
LOOK_S = 0.2


class Flows(Protocol):
    """What of a `Mesh` is needed to speak to a flow."""

    async def signal(self, task: str, name: str, value: Any = None, *, event: str = "") -> Document: ...

    async def story(self, task: str) -> Document: ...


async def pause(mesh: Flows, task: str) -> None:
    """Begin no more steps of this flow; what runs goes on. Raises NoSuchTask, Refused if it has ended, or takes no more of these."""
    await _send(mesh, task, {"do": "pause"})


async def resume(mesh: Flows, task: str) -> None:
    """Go on. Raises as `pause`."""
    await _send(mesh, task, {"do": "resume"})


async def patch(mesh: Flows, task: str, change: Document, *, sleep: Callable[[float], Any], timeout_s: float = VERDICT_S) -> str:
    """Change a running flow: ``{"base": its version, "add", "replace", "remove", "output"}``. What became of it, in one line.

    `sleep`: ``asyncio.sleep``, or that of a `LocalMesh`. Raises UsageError if it was refused, TimedOut if nobody has decided within
    `timeout_s` (it may still be taken: it waits for the flow), and as `pause`.
    """
    name = await _send(mesh, task, {"do": "patch", "patch": change})
    waited_s = 0.0
    while waited_s <= timeout_s:
        for entry in (await mesh.story(task))["entries"]:
            verdict = str(entry.get("key") or "").partition(f"patch {name}: ")[2] if entry["kind"] == "Intended" else ""
            if verdict.startswith("refused"):
                raise UsageError(f"the patch was {verdict}", fix=f"mesh flow show {task}, and patch it as it is now")
            if verdict:
                return verdict
        await sleep(LOOK_S)
        waited_s += LOOK_S
    raise TimedOut(what="the patch", after_s=timeout_s, fix=f"mesh why {task}")


async def _send(mesh: Flows, task: str, value: Document) -> str:
    if await _sent(mesh, task) >= LIMITS.controls_max - (value["do"] != "resume"):  # the last one is kept for going on
        said = f"{task} has been paused, resumed and patched {LIMITS.controls_max} times: the last one is kept for a resume"
        raise Refused(said, fix=f"mesh flow show {task}", code="too_many_controls")
    name = secrets.token_hex(4)
    await mesh.signal(task, SIGNAL, value | {"id": name}, event=name)
    return name


async def _sent(mesh: Flows, task: str) -> int:
    """How many of these a flow has been told so far."""
    entries = (await mesh.story(task))["entries"]
    mine = {one["task"] for one in entries if one["kind"] == "Submitted" and str(one["step"]).startswith(f"signal/{SIGNAL}/")}
    return sum(one["kind"] == "Answered" and one["task"] in mine for one in entries)


class Control:
    """The driver's side. `hold(True)`: no step begins; `change` applies a patch, or raises FlowError: it says what became of it."""

    def __init__(self, ctx: Context, hold: Callable[[bool], None], change: Callable[[Any], Document]) -> None:
        self._ctx, self._hold, self._change = ctx, hold, change
        known = ctx.checkpointed
        self._before = str(known.get("control") or "") if isinstance(known, dict) else ""
        self._verdicts = ""
        self._paused = False

    async def recall(self) -> None:
        """Take what was decided in an earlier attempt."""
        for verdict in self._before:
            value = await self._ctx.signal(SIGNAL)
            if verdict == TAKEN:
                self._take(value)
            self._verdicts += verdict

    async def listen(self) -> None:
        """Take what comes, for as long as the flow runs."""
        if self._ctx.task.attempt > 1:
            await self._ctx.sleep(SETTLE_S)
        while len(self._verdicts) < LIMITS.controls_max:
            await self._decide(await self._ctx.signal(SIGNAL))

    async def _decide(self, value: Any) -> None:
        self._hold(True)
        try:
            told, done = TAKEN, self._take(value)
        except FlowError as error:
            told, done = REFUSED, {"what": f"refused, {error.message}"}
        self._verdicts += told
        await self._ctx.checkpoint({"control": self._verdicts})
        what = done.pop("what")
        self._ctx.log(f"{what}")
        if isinstance(value, dict) and value.get("do") == "patch":
            name = str(value.get("id") or len(self._verdicts))[:16]

            async def outcome() -> Document:
                return {"verdict": what, **done}

            await self._ctx.effect(f"patch {name}: {what[:REASON_CHARACTERS_MAX]}", outcome)
        self._hold(self._paused)

    def _take(self, value: Any) -> Document:
        """Do what a signal says; what that was. Raises FlowError."""
        match value.get("do") if isinstance(value, dict) else None:
            case "pause":
                self._paused = True
                self._hold(True)
                return {"what": "paused"}
            case "resume":
                self._paused = False
                self._hold(False)
                return {"what": "goes on"}
            case "patch":
                return self._change(value.get("patch"))
        return {"what": f"a signal that says nothing to a flow: {said(value)}"}
