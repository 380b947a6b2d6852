"""Keyed submits, judged by the journals, the handlers and what clients were told.

K1   one key, one task: handlers begin for no second one, over the whole mesh
K2   whoever submits under a key hears of the same task, from whichever node
K3   only a task that was submitted under the key is given out for it

A run in which a disk was put back is not judged from then on: a key keeper may have forgotten what it had accepted.
"""

from __future__ import annotations

from collections.abc import Iterator

from mesh.ids import TaskId
from mesh.messages.records import Submitted
from mesh.sim.history import Answered, Appended, Asked, HandlerBegan, PutBack, Takes, Verdict
from mesh.sim.old_disks import OldDisks


class KeyChecker:
    def __init__(self) -> None:
        self._keys: dict[TaskId, str] = {}
        self._begun: dict[str, TaskId] = {}
        self._told: dict[str, TaskId] = {}
        self._asked: dict[int, str] = {}
        self._old = OldDisks()
        self.watches: tuple[type, ...] = ()
        self.takes: Takes = {
            Appended: self._appended,
            HandlerBegan: self._handler_began,
            Asked: self._was_asked,
            Answered: self._answered,
            PutBack: self._old.note,
        }

    def _appended(self, record: Appended) -> Iterator[Verdict]:
        if type(record.entry) is Submitted and record.entry.key:
            self._keys[record.entry.task] = record.entry.key
        return iter(())

    def _handler_began(self, record: HandlerBegan) -> Iterator[Verdict]:
        key = self._keys.get(record.task)
        if key is None or self._old.lives:
            return
        first = self._begun.setdefault(key, record.task)
        if first != record.task:
            yield Verdict(record.at_s, "K1", f"the key {key!r} has run as {first}, and now runs as {record.task} at {record.node}")

    def _was_asked(self, record: Asked) -> Iterator[Verdict]:
        if key := getattr(record.command, "key", ""):
            self._asked[record.request] = key
        return iter(())

    def _answered(self, record: Answered) -> Iterator[Verdict]:
        key = self._asked.pop(record.request, "")
        if not key or not record.ok or self._old.lives:
            return
        task = record.body["task"]
        if self._keys.get(task) != key:
            yield Verdict(record.at_s, "K3", f"{record.node} gave out {task} for the key {key!r}, under which it was not submitted")
        first = self._told.setdefault(key, task)
        if first != task:
            yield Verdict(record.at_s, "K2", f"the key {key!r} was {first}, and at {record.node} it is {task}")
