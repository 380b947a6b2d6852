"""Which pins a new task has: those of whoever asks for it; of nobody's step, as the policy in force has it (`policy/steering.py`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from mesh.core.directory import ReadDirectory
from mesh.core.policy.steering import Pins, steered
from mesh.core.work.task import Task
from mesh.ids import TaskId
from mesh.messages.work import Placement


def pinned(directory: ReadDirectory, tasks: Mapping[TaskId, Task], task: Task) -> Pins:
    """`tasks`: those that are managed here. (A handler's call is managed where the handler runs, so its task is held there.)"""
    if task.parent:
        above = tasks.get(task.parent)
        return above.pins if above is not None else directory.pinned.get(task.parent, ())
    steering = directory.steering
    if not steering.flags and not steering.rollouts:
        return ()
    return steering.pins(task.capability, (directory.me, directory.name_of(directory.me)), task.id, task.rank[1])


def as_asked(task: Task) -> Placement:
    """Where it may run, without what its pins have put there: for a task that takes its place, and has pins of its own."""
    own = steered(Placement(), task.capability, task.pins).where
    return replace(task.placement, where=tuple(word for word in task.placement.where if word not in own)) if own else task.placement
