"""What should happen in some run if the faults are any good (H3). Reads the history as checkers do, and only counts.

A simulator that never reaches a branch proves nothing about it: `scripts/simulate` names what no seed of a run has reached.
"""

from __future__ import annotations

from collections.abc import Iterator

from mesh.ids import award_number
from mesh.messages.records import Decided, Finished, Lost
from mesh.messages.work import Decline, Reclaim, Revoke, Superseded
from mesh.sim.history import Admitted, Appended, Delivered, EffectTried, SyncFailed, Takes, Verdict

REACHED = (
    "an effect was refused by its fence",
    "an effect came late, and was taken",
    "work was awarded again",
    "a lease ran out",
    "a holder was lost",
    "an award was declined",
    "an award was taken back",
    "a result came too late",
    "a restarted manager asked who runs what",
    "a task failed",
    "a task was cancelled",
    "a sync failed",
    "an old disk was found out",
)


class Sometimes:
    """`count` has every one of `REACHED`."""

    def __init__(self) -> None:
        self.count = dict.fromkeys(REACHED, 0)
        self.watches: tuple[type, ...] = (Decline, Reclaim, Revoke, Superseded)
        self.takes: Takes = {
            EffectTried: self._effect_tried,
            Appended: self._appended,
            Delivered: self._delivered,
            SyncFailed: self._sync_failed,
            Admitted: self._admitted,
        }

    def _reached(self, what: str) -> Iterator[Verdict]:
        self.count[what] += 1
        return iter(())

    def _effect_tried(self, record: EffectTried) -> Iterator[Verdict]:
        if not record.accepted:
            return self._reached("an effect was refused by its fence")
        return self._reached("an effect came late, and was taken") if record.late else iter(())

    def _appended(self, record: Appended) -> Iterator[Verdict]:
        entry = record.entry
        kind = type(entry)
        if kind is Decided and award_number(entry.fence) > 1:
            return self._reached("work was awarded again")
        if kind is Lost:
            return self._reached("a lease ran out" if entry.reason.startswith("lease_over") else "a holder was lost")
        if kind is Finished and entry.state in ("failed", "cancelled"):
            return self._reached("a task failed" if entry.state == "failed" else "a task was cancelled")
        return iter(())

    def _delivered(self, record: Delivered) -> Iterator[Verdict]:
        kind = type(record.message)
        if kind is Decline:
            return self._reached("an award was declined")
        if kind is Revoke:
            return self._reached("an award was taken back")
        if kind is Superseded:
            return self._reached("a result came too late")
        return self._reached("a restarted manager asked who runs what") if kind is Reclaim else iter(())

    def _sync_failed(self, record: SyncFailed) -> Iterator[Verdict]:
        return self._reached("a sync failed")

    def _admitted(self, record: Admitted) -> Iterator[Verdict]:
        return self._reached("an old disk was found out") if record.why else iter(())
