"""O8: work runs where it fits.

labels      a submitted task's handler begins only in a worker that has every label the task asks for
resources   what the handlers of one node hold together is never more than its machine has
"""

from __future__ import annotations

from collections.abc import Iterator

from mesh.ids import Fence, NodeId, TaskId
from mesh.messages.records import Submitted
from mesh.sim.history import Appended, HandlerBegan, HandlerOver, Staffed, Takes, Verdict

Amounts = tuple[tuple[str, int], ...]


class FittingChecker:
    def __init__(self) -> None:
        self._staff: dict[int, Staffed] = {}
        self._where: dict[TaskId, tuple[str, ...]] = {}
        self._held: dict[NodeId, dict[tuple[int, TaskId, Fence], Amounts]] = {}
        self.watches: tuple[type, ...] = ()
        self.takes: Takes = {
            Staffed: self._staffed,
            Appended: self._appended,
            HandlerBegan: self._began,
            HandlerOver: self._over,
        }

    def _staffed(self, record: Staffed) -> Iterator[Verdict]:
        self._staff[record.worker] = record
        return iter(())

    def _appended(self, record: Appended) -> Iterator[Verdict]:
        if type(record.entry) is Submitted and record.entry.placement.where:
            self._where[record.entry.task] = record.entry.placement.where
        return iter(())

    def _began(self, record: HandlerBegan) -> Iterator[Verdict]:
        staff = self._staff.get(record.worker)
        if staff is None:
            return
        for wanted in self._where.get(record.task, ()):
            if not any(wanted in (label, label.partition("=")[0]) for label in staff.labels):
                yield Verdict(record.at_s, "O8", f"{record.task} wants {wanted} and began at {record.node}, which has {staff.labels}")
        needs = dict(staff.needs).get(record.capability, ())
        if not needs:
            return
        held = self._held.setdefault(record.node, {})
        held[record.worker, record.task, record.fence] = needs
        for name, _ in needs:
            total = max((dict(one.resources).get(name, 0) for one in self._staff.values() if one.node == record.node), default=0)
            taken = sum(dict(amounts).get(name, 0) for amounts in held.values())
            if taken > total:
                yield Verdict(record.at_s, "O8", f"{record.node} has {total} of {name}, and its handlers hold {taken}")

    def _over(self, record: HandlerOver) -> Iterator[Verdict]:
        self._held.get(record.node, {}).pop((record.worker, record.task, record.fence), None)
        return iter(())
