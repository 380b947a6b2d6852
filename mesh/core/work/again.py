"""Once more: a task that failed or was cancelled is submitted again, with the same arguments, as a new task that names the old one.

An end is an end: the old task keeps its own. Invariant: the new one is on disk before anybody hears of it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from mesh.core.work.book import Book, Effects
from mesh.core.work.readback import Readback
from mesh.core.work.task import DONE, Task
from mesh.core.work.waits import dumps
from mesh.effects import Need, Send
from mesh.ids import NodeId
from mesh.messages.work import Answer, Ask


class Again:
    def __init__(self, book: Book, readback: Readback) -> None:
        self._book, self._readback = book, readback

    def retry(self, now_s: float, sender: NodeId, ask: Ask, task: Task) -> Effects:
        """Answered by ``{"task", "survives"}``, or by why not."""
        if (problem := self._problem(task)) is not None:
            code, message, fix = problem
            yield Send(sender, Answer(ask.ask, False, dumps({"code": code, "message": message, "fix": fix})))
            return
        by = _by(ask, sender)
        yield self._readback.read(task.input_hash, lambda at_s, data: self._submit(at_s, sender, ask.ask, task, by, data))

    def _problem(self, task: Task) -> tuple[str, str, str] | None:
        if not task.ended:
            return "not_ended", f"{task.id} has not ended: it is {task.state}", f"mesh task {task.id}"
        if task.state == DONE:
            return "not_failed", f"{task.id} is done", f"mesh result {task.id}"
        if not task.durable:
            return "unknown_task", f"{task.id} was a plain call, whose arguments are not kept", "mesh call again"
        if task.step:
            return "is_step", f"{task.id} is a step: its parent decides", f"mesh retry {task.parent}"
        if len(self._book.tasks) >= self._book.limits.tasks_max:
            return "overloaded", f"this node already manages {len(self._book.tasks)} tasks", "mesh tasks"
        return None

    def _submit(self, now_s: float, sender: NodeId, ask: int, old: Task, by: str, data: bytes | None) -> Iterator[Any]:
        if data is None:
            error = {"code": "input_erased", "message": "its arguments are no longer in this node's store", "fix": "mesh submit them again"}
            yield Send(sender, Answer(ask, False, dumps(error)))
            return
        task = self._book.open(
            now_s,
            old.capability,
            data,
            durable=True,
            timeout_ms=old.timeout_ms,
            files=old.files,
            retries=old.retries,
            by=by,
            bounds=old.bounds,
        )
        task.again = old.id
        yield self._book.submitted(task)
        yield Send(sender, Answer(ask, True, dumps({"task": task.id, "survives": "restart"})), need=Need.KEPT)


def _by(ask: Ask, sender: NodeId) -> str:
    try:
        args = json.loads(ask.args)
    except ValueError:
        args = None
    return str(args.get("by") or sender) if isinstance(args, dict) else sender
