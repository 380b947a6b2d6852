"""What those who wait are told, and the deadlines of single tasks. Pure: a task in, one message or value out."""

from __future__ import annotations

import json
from dataclasses import dataclass
from random import Random
from typing import Any

from mesh.core.work.task import CANCELLED, DONE, Task
from mesh.effects import Need, Send
from mesh.ids import Fence, NodeId, TaskId
from mesh.limits import WorkLimits
from mesh.messages.work import Answer, StepDone


@dataclass(frozen=True, slots=True)
class BackoffEnds:
    """Time for the next try."""

    task: TaskId


@dataclass(frozen=True, slots=True)
class HedgeDue:
    """This award has taken longer than almost all such work does."""

    task: TaskId
    fence: Fence


@dataclass(frozen=True, slots=True)
class BudgetDue:
    """There may be a token for the first retry in line."""


@dataclass(frozen=True, slots=True)
class GraceEnds:
    """Discovery had its chance: if still nobody offers it, the caller hears so."""

    task: TaskId


@dataclass(frozen=True, slots=True)
class FetchAgain:
    """Ask once more for the result's files."""

    task: TaskId


@dataclass(frozen=True, slots=True)
class BacklogDue:
    """Those who were busy may have room: auction the first in line."""

    line: str


@dataclass(frozen=True, slots=True)
class AuctionEnds:
    """Safety net: whoever has not answered by now is left out."""

    round: int


@dataclass(frozen=True, slots=True)
class ReclaimsDue:
    """RECLAIM to `node` is sent again while unanswered."""

    node: NodeId


def backoff_s(random: Random, limits: WorkLimits, failures: int) -> float:
    """The pause after so many failures (1 or more): exponential, with full jitter."""
    return random.random() * min(limits.retry_max_s, limits.retry_min_s * 2.0 ** min(failures - 1, 32))


def dumps(body: Any) -> bytes:
    return json.dumps(body, separators=(",", ":"), ensure_ascii=False).encode()


def error_of(task: Task) -> dict[str, Any]:
    """Why it failed or was cancelled: code, message, fix and what else is known."""
    if task.error is not None:
        return task.error
    message = task.cancel_reason or task.reason or task.state
    return {"code": task.state, "message": message, "fix": f"mesh why {task.id}"}


def result_body(task: Task, output: bytes | None) -> bytes:
    """``{"task", "state", "result"}`` or ``{"task", "state", "error"}``; `output` is JSON made elsewhere and is checked here."""
    if task.state != DONE:
        return dumps({"task": task.id, "state": task.state, "error": error_of(task)})
    try:
        result = json.loads(output) if output else None
    except ValueError:
        error = {"code": "bad_output", "message": "the result is no JSON", "fix": f"mesh why {task.id}"}
        return dumps({"task": task.id, "state": task.state, "error": error})
    return dumps({"task": task.id, "state": task.state, "result": result})


def answer_result(node: NodeId, ask: int, task: Task) -> Send:
    return Send(node, Answer(ask, True, result_body(task, task.output)), need=Need.KEPT if task.durable else Need.FREE)


def ended_ms(task: Task) -> int:
    return max(0, int(task.ended_at_s * 1000))


def step_done(node: NodeId, ask: int, task: Task) -> Send:
    """The end of a step, for the worker that waits for it."""
    need = Need.KEPT if task.durable else Need.FREE
    if task.state == DONE:
        return Send(node, StepDone(ask, task.id, DONE, task.output or b"", b"", task.output_files, ended_ms(task)), need=need)
    state = task.state if task.state == CANCELLED else "failed"
    return Send(node, StepDone(ask, task.id, state, b"", dumps(error_of(task)), ended_ms=ended_ms(task)), need=need)
