"""O5: leases keep two holders apart without trusting wall clocks.

While every clock stays within the declared drift, no effect that must not repeat is even *tried* under a fence once a newer award of that
task has left its manager: the old holder answered, or its lease plus margin was over first. (The sink would refuse it; that is O1. This
one says the sink was not needed.) Idempotent work may overlap on purpose and is not judged; nor is a process that stood still after it had
looked at its lease: there only the sink helps.
"""

from __future__ import annotations

from collections.abc import Iterator

from mesh.effects import Send
from mesh.ids import Fence, TaskId
from mesh.messages.records import Accepted
from mesh.messages.work import Award
from mesh.sim.history import Appended, ClockBroken, EffectTried, Outward, PutBack, Takes, Verdict
from mesh.sim.old_disks import OldDisks


class LeaseChecker:
    def __init__(self) -> None:
        self._newest: dict[TaskId, tuple[Fence, float]] = {}
        self._clocks_good = True
        self._old = OldDisks()
        self.watches: tuple[type, ...] = (Award,)
        self.takes: Takes = {
            ClockBroken: self._clock_broken,
            PutBack: self._old.note,
            Outward: self._outward,
            EffectTried: self._effect_tried,
            Appended: self._appended,
        }

    def _clock_broken(self, record: ClockBroken) -> Iterator[Verdict]:
        self._clocks_good = False
        return iter(())

    def _appended(self, record: Appended) -> Iterator[Verdict]:
        """An award to the manager's own node never travels: that it was accepted stands for it."""
        if not record.copied and type(record.entry) is Accepted and record.entry.manager == record.node:
            self._note(record.entry.task, record.entry.fence, record.at_s)
        return iter(())

    def _outward(self, record: Outward) -> Iterator[Verdict]:
        effect = record.effect
        if type(effect) is Send and type(effect.message) is Award:
            for item in effect.message.items:
                self._note(item.task, item.fence, record.at_s)
        return iter(())

    def _note(self, task: TaskId, fence: Fence, at_s: float) -> None:
        if fence > self._newest.get(task, (0, 0.0))[0]:
            self._newest[task] = (fence, at_s)

    def _effect_tried(self, record: EffectTried) -> Iterator[Verdict]:
        newest, since_s = self._newest.get(record.task, (0, 0.0))
        if self._clocks_good and not record.idempotent and not record.late and newest > record.fence and record.task not in self._old:
            late_s = record.at_s - since_s
            yield Verdict(
                record.at_s,
                "O5",
                f"{record.node} tried an effect of {record.task} under {record.fence}, {late_s:.3f} s after {newest} was awarded",
            )
