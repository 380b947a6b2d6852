"""Overall timeouts of tasks, in slots of time, so that a call that ends in a millisecond leaves nothing in the heap of deadlines.

One deadline per slot, not per task: 20,000 calls a second with a timeout of a minute would otherwise keep 1.2 million dead entries in
the heap. Invariant: a task is in at most one slot, and in none once it has ended. Does not know what a timeout means.
Source: hashed timing wheels (Varghese and Lauck, 1987), with a dictionary in place of the ring.
"""

from __future__ import annotations

from dataclasses import dataclass

from mesh.core.deadlines import Deadlines
from mesh.core.work.task import Task
from mesh.ids import TaskId

SHORT_MS = 2_000
"""Timeouts up to here are met within 10 ms, longer ones within 100 ms; never early."""


@dataclass(frozen=True, slots=True)
class TimeoutsDue:
    slot_ms: int


class Wheel:
    def __init__(self, deadlines: Deadlines) -> None:
        self._deadlines = deadlines
        self._slots: dict[int, dict[TaskId, Task]] = {}

    def add(self, task: Task, at_s: float) -> None:
        grain = 10 if task.timeout_ms <= SHORT_MS else 100
        slot = -int(-at_s * 1000 // grain) * grain
        tasks = self._slots.get(slot)
        if tasks is None:
            tasks = self._slots[slot] = {}
            self._deadlines.set(TimeoutsDue(slot), slot / 1000)
        tasks[task.id] = task
        task.wheel_at = slot

    def remove(self, task: Task) -> None:
        tasks = self._slots.get(task.wheel_at)
        if tasks is not None:
            tasks.pop(task.id, None)
        task.wheel_at = 0

    def due(self, slot: int) -> list[Task]:
        """Whose time is over. They are out of the wheel now."""
        found = list(self._slots.pop(slot, {}).values())
        for task in found:
            task.wheel_at = 0
        return found
