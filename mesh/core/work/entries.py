"""What stands in the journal of a task that was submitted: all that was asked for. Read back by `fold.py`."""

from __future__ import annotations

from mesh.core.work.task import Task
from mesh.effects import Append
from mesh.messages.records import Submitted


def submitted(task: Task) -> Append:
    what = (task.id, task.capability, task.input_hash, task.by, task.timeout_ms, task.retries, task.parent, task.step, task.files)
    entry = Submitted(*what, int(task.submitted_at_s * 1000), task.bounds, task.again, task.key, task.placement, task.rank)
    entry.rules, entry.down, entry.budget, entry.pins, entry.baggage = task.rules, task.down, task.budget, task.pins, task.baggage
    entry.origin = task.origin
    return Append(entry, {task.input_hash: task.input})
