"""Timeouts of tasks, in slots of time, so that a call that ends in a millisecond leaves nothing in the heap of deadlines.

One deadline per slot, not per task: 20,000 calls a second with a timeout of a minute would otherwise keep 1.2 million dead entries in
the heap. Invariant: a task is in at most one slot of a wheel, and in none once it has ended. Does not know what a timeout means.
Source: hashed timing wheels (Varghese and Lauck, 1987), with a dictionary in place of the ring.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass

from mesh.core.deadlines import Deadlines
from mesh.core.work.task import Task
from mesh.ids import TaskId

SHORT_MS = 2_000
"""Timeouts up to here are met within 10 ms, longer ones within 100 ms; never early."""


@dataclass(frozen=True, slots=True)
class TimeoutsDue:
    """Of whole tasks."""

    slot_ms: int


class Wheel:
    """`due` makes the deadline of a slot."""

    def __init__(self, deadlines: Deadlines, due: Callable[[int], Hashable] = TimeoutsDue) -> None:
        self._deadlines, self._due = deadlines, due
        self._slots: dict[int, dict[TaskId, Task]] = {}
        self._slot_of: dict[TaskId, int] = {}

    def add(self, task: Task, at_s: float, timeout_ms: int) -> None:
        """Note that the time of `task`, so long in all, is over at `at_s`; in place of what was noted before."""
        self.remove(task)
        grain = 10 if timeout_ms <= SHORT_MS else 100
        slot = -int(-at_s * 1000 // grain) * grain
        tasks = self._slots.get(slot)
        if tasks is None:
            tasks = self._slots[slot] = {}
            self._deadlines.set(self._due(slot), slot / 1000)
        tasks[task.id] = task
        self._slot_of[task.id] = slot

    def remove(self, task: Task) -> None:
        slot = self._slot_of.pop(task.id, None)
        if slot is not None:
            self._slots[slot].pop(task.id, None)

    def due(self, slot: int) -> list[Task]:
        """Whose time is over. They are out of the wheel now."""
        found = list(self._slots.pop(slot, {}).values())
        for task in found:
            del self._slot_of[task.id]
        return found

    def __contains__(self, task: Task) -> bool:
        return task.id in self._slot_of
