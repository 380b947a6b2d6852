"""The manager's part of a journal, folded to tasks: what a restart begins with, and what tests and the inspector may compare with.

Pure: entries in order in, tasks out. What a journal does not say (progress, load, who waits for the answer) is not here. A pause before a
retry is not journaled either: such a task comes back as pending. Invariant: an ended task does not change any more.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from mesh.core.work.task import CANCELLING, HANDLER_LOST, HELD, OFFERED, OUTCOME_KEPT_BYTES, PARKED, PENDING, TERMINAL, Intent, Task
from mesh.effects import Need
from mesh.ids import Hash, TaskId
from mesh.messages.records import Bound, CancelAsked, Decided, Effected, Finished, Intended, Lost, Parked, Submitted


class Fold:
    """`tasks` in the order they were submitted. A child is in its parent's `children`."""

    def __init__(self, ended_max: int = 10_000) -> None:
        self.tasks: dict[TaskId, Task] = {}
        self._ended: dict[TaskId, None] = {}
        self._ended_max = ended_max
        self._kinds: dict[type, Callable[[Any, dict[Hash, bytes]], None]] = {
            Submitted: self._submitted,
            Decided: self._decided,
            Bound: self._bound,
            Lost: self._lost,
            Parked: self._parked,
            CancelAsked: self._cancel_asked,
            Intended: self._intended,
            Effected: self._effected,
            Finished: self._finished,
        }

    def apply(self, entry: Any, bodies: dict[Hash, bytes]) -> None:
        """Entries of other kinds, and of tasks that are already forgotten, are passed over."""
        kind = self._kinds.get(type(entry))
        if kind is not None:
            kind(entry, bodies)

    def _live(self, name: TaskId) -> Task | None:
        task = self.tasks.get(name)
        return task if task is not None and task.state not in TERMINAL else None

    def _submitted(self, entry: Submitted, bodies: dict[Hash, bytes]) -> None:
        task = Task(
            entry.task,
            entry.capability,
            bodies.get(entry.input, b""),
            entry.input,
            True,
            Need.KEPT,
            entry.at_ms / 1000,
            entry.timeout_ms,
            entry.retries,
            entry.by,
            entry.parent,
            entry.step,
            entry.files,
        )
        self.tasks[entry.task] = task
        parent = self.tasks.get(entry.parent)
        if parent is not None:
            if parent.children is None:
                parent.children = {}
            parent.children[entry.step] = task

    def _decided(self, entry: Decided, _bodies: dict[Hash, bytes]) -> None:
        if (task := self._live(entry.task)) is not None:
            task.fence, task.holder, task.node = entry.fence, entry.winner, entry.winner
            task.agent = next((c.agent for c in entry.candidates if c.node == entry.winner), "")
            task.state, task.reason = OFFERED, ""

    def _bound(self, entry: Bound, _bodies: dict[Hash, bytes]) -> None:
        if (task := self._live(entry.task)) is not None and task.fence == entry.fence:
            task.attempts += 1
            if task.state == OFFERED:
                task.state = HELD

    def _lost(self, entry: Lost, _bodies: dict[Hash, bytes]) -> None:
        task = self._live(entry.task)
        if task is None or task.fence != entry.fence:
            return
        task.holder, task.reason = "", entry.reason
        if task.state != CANCELLING:
            task.state = PENDING
        cause, _, kind = entry.reason.partition(":")
        if cause == "failed" and kind in ("worker_lost", "no_file", "cancelled"):
            task.faults += 1
            task.lost = task.lost or kind in HANDLER_LOST
        elif cause == "failed":
            task.failures += 1
        elif cause not in ("declined", "released"):
            task.lost = True

    def _parked(self, entry: Parked, _bodies: dict[Hash, bytes]) -> None:
        if (task := self._live(entry.task)) is not None and task.state == PENDING:
            task.state, task.reason, task.parked_told = PARKED, entry.reason, entry.reason

    def _cancel_asked(self, entry: CancelAsked, _bodies: dict[Hash, bytes]) -> None:
        if (task := self._live(entry.task)) is not None:
            task.cancel_by, task.cancel_reason = entry.by, entry.reason
            task.state = CANCELLING

    def _intended(self, entry: Intended, _bodies: dict[Hash, bytes]) -> None:
        if (task := self._live(entry.task)) is not None:
            if task.effects is None:
                task.effects = {}
            task.effects[entry.key] = Intent(entry.fence, entry.call, entry.once, entry.node)

    def _effected(self, entry: Effected, bodies: dict[Hash, bytes]) -> None:
        task = self._live(entry.task)
        intent = task.effects.get(entry.key) if task is not None and task.effects is not None else None
        if intent is None:
            return
        intent.error, intent.output_hash, intent.done = entry.error, entry.output, not entry.error
        output = bodies.get(entry.output)
        intent.output = output if output is not None and len(output) <= OUTCOME_KEPT_BYTES else None

    def _finished(self, entry: Finished, bodies: dict[Hash, bytes]) -> None:
        task = self.tasks.get(entry.task)
        if task is None or task.state in TERMINAL:
            return
        task.state, task.fence, task.holder, task.node = entry.state, entry.fence, "", entry.node
        task.agent, task.output_hash, task.output_files = entry.agent, entry.output, entry.files
        task.output = bodies.get(entry.output) if entry.output else None
        task.error = json.loads(entry.error) if entry.error else None
        task.reason = str(task.error["code"]) if task.error else task.cancel_reason
        task.service_ms, task.ended_at_s, task.input = entry.service_ms, entry.at_ms / 1000, b""
        task.forget_outcomes()
        self._ended[entry.task] = None
        if len(self._ended) > self._ended_max:
            oldest = next(iter(self._ended))
            del self._ended[oldest]
            self.tasks.pop(oldest, None)
