"""What handlers ask of their task's manager, on its way there: commands of workers, and the fact that one of them may pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mesh.ids import Fence, TaskId
from mesh.messages.work import Amounts


@dataclass(slots=True)
class Checkpoint:
    """A worker's ``ctx.checkpoint``: `value`, JSON, goes to the task's manager. Answered like `Step`, once it is kept."""

    request: int
    task: TaskId
    fence: Fence
    value: bytes
    anew: bool = False
    signals: tuple[tuple[str, int], ...] = ()


@dataclass(slots=True)
class Spend:
    """A worker's ``ctx.spend``, ``ctx.reserve`` or ``ctx.budget``, as in `SpendAsk`. Answered by ``{"state", "output"}``."""

    request: int
    task: TaskId
    fence: Fence
    call: int
    kind: str
    key: str = ""
    amounts: Amounts = ()


@dataclass(slots=True)
class OfHandler:
    """What a worker's handler asks about its state, or answers to an update: as `HandlerAsk`. `about` "": its own task."""

    request: int
    task: TaskId
    fence: Fence
    question: str
    args: dict[str, Any]
    about: TaskId = ""


@dataclass(slots=True)
class EffectBegin:
    """A worker's ``ctx.effect`` wants to begin. Answered, if this node's lease holds, by the task's manager: ``{"state", "output"}``, where
    `state` is ``go`` or ``done``."""

    request: int
    worker: int
    task: TaskId
    fence: Fence
    key: str
    call: int
    once: bool = False


@dataclass(slots=True)
class EffectEnd:
    """It has happened (`output` is JSON), or its function raised. Goes to the manager; answered when that is on record."""

    request: int
    task: TaskId
    fence: Fence
    key: str
    call: int
    output: bytes = b""
    error: str = ""


@dataclass(slots=True)
class EffectPermitted:
    """This node holds a live lease for the work that wants an effect: ask its manager."""

    begin: EffectBegin
