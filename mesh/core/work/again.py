"""Once more: a task that failed or was cancelled is submitted again, with the same arguments, as a new task that names the old one.

An end is an end: the old task keeps its own. Invariant: the new one is kept before anybody hears of it. Whoever knows of the end may do it:
the new task is his.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mesh.core.work.book import Book
from mesh.core.work.errands import json_object
from mesh.core.work.opening import opened_again
from mesh.core.work.readback import Readback
from mesh.core.work.task import DONE, Task
from mesh.core.work.waits import dumps
from mesh.effects import Need, ReadBody, Send
from mesh.ids import NodeId
from mesh.messages.work import Answer, Ask


class Again:
    def __init__(self, book: Book, readback: Readback) -> None:
        self._book, self._readback = book, readback

    def retry(self, now_s: float, sender: NodeId, ask: Ask, task: Task) -> Send | ReadBody:
        """Answered by ``{"task", "survives"}``, or by why not."""
        problem = self._book.admission.refusal(now_s, 0) if (found := _problem(task)) is None else found
        if problem is not None:
            return Send(sender, Answer(ask.ask, False, dumps(problem)))
        by = _by(ask, sender)
        return self._readback.read(task.input_hash, lambda at_s, data: self._submit(at_s, sender, ask.ask, task, by, data))

    def _submit(self, now_s: float, sender: NodeId, ask: int, old: Task, by: str, data: bytes | None) -> Iterator[Any]:
        if data is None:
            error = {"code": "input_erased", "message": "its arguments are no longer in this node's store", "fix": "mesh submit them again"}
            yield Send(sender, Answer(ask, False, dumps(error)))
            return
        if (overloaded := self._book.admission.refusal(now_s, len(data))) is not None:
            yield Send(sender, Answer(ask, False, dumps(overloaded)))
            return
        task = opened_again(self._book, now_s, old, data, by=by)
        task.again = old.id
        yield from self._book.submit(task)
        yield Send(sender, Answer(ask, True, dumps({"task": task.id, "survives": self._book.survives(task.files)})), need=Need.KEPT)


def _problem(task: Task) -> dict[str, Any] | None:
    if not task.ended:
        return {"code": "not_ended", "message": f"{task.id} has not ended: it is {task.state}", "fix": f"mesh task {task.id}"}
    if task.state == DONE:
        return {"code": "not_failed", "message": f"{task.id} is done", "fix": f"mesh result {task.id}"}
    if not task.durable:
        return {"code": "unknown_task", "message": f"{task.id} was a plain call, whose arguments are not kept", "fix": "mesh call again"}
    if task.step:
        return {"code": "is_step", "message": f"{task.id} is a step: its parent decides", "fix": f"mesh retry {task.parent}"}
    return None


def _by(ask: Ask, sender: NodeId) -> str:
    return str((json_object(ask.args) or {}).get("by") or sender)
