"""The breakers of this node: fed by the ends of what ran here, asked before anything is taken (see `breaker.py` for one of them).

    Reports: how it ended --> breaker --opened--> what waits here for that capability goes back to its managers
                                 '--BreakerCools--> half open: room for one

Invariant: only ends that say something about this node count; an award taken while half-open is the probe until it ends, however it ends.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mesh.core.deadlines import Deadlines
from mesh.core.directory import ReadDirectory
from mesh.core.work.breaker import HALF_OPEN, Breaker
from mesh.core.work.holdings import Holding
from mesh.core.work.slots import Slots
from mesh.ids import NodeId
from mesh.limits import WorkLimits
from mesh.messages.work import Failure, Result
from mesh.versions import matches

FAULTS = ("worker_lost", "heartbeat")
"""Failures that are the node's. A file that did not come, or a cancellation, says nothing about it."""
SILENT = ("no_file", "cancelled")


@dataclass(frozen=True, slots=True)
class BreakerCools:
    """The breaker of this capability has been open for long enough: one may try."""

    capability: str


class Breakers:
    def __init__(self, directory: ReadDirectory, deadlines: Deadlines, limits: WorkLimits, slots: Slots) -> None:
        self._directory, self._deadlines, self._limits, self._slots = directory, deadlines, limits, slots
        self.opened = 0

    def took(self, holding: Holding) -> None:
        """An award was accepted."""
        breaker = self._of(holding)
        if breaker is not None and breaker.state == HALF_OPEN:
            breaker.probe = holding.task

    def ended(self, now_s: float, holding: Holding, report: Result | Failure) -> bool:
        """It ran and has ended so. True: the breaker opened."""
        breaker = self._of(holding)
        if breaker is None or (breaker.probe and breaker.probe != holding.task):
            return False
        failure = report if isinstance(report, Failure) else None
        if failure is not None and (failure.kind in SILENT or (failure.kind not in FAULTS and self._on_trial(holding))):
            return False
        if failure is not None and failure.kind in FAULTS:
            opened = breaker.fault(now_s, self._limits)
        else:
            # What would fail the same way elsewhere is no failure of this node.
            ok = failure is None or not failure.retryable
            # (How others do is looked up only where it matters: most work ends well.)
            opened = breaker.ran(ok, None if ok else self._others(holding.capability), self._limits)
        if opened:
            self.opened += 1
            self._deadlines.set(BreakerCools(holding.capability), now_s + breaker.pause_s(self._limits))
        return opened

    def _on_trial(self, holding: Holding) -> bool:
        """It ran as the new version of a rollout, which stops by itself if too much fails: the old one beside it need not rest for that."""
        rollout = self._directory.steering.rollouts.get(holding.capability)
        return rollout is not None and matches(holding.version, rollout.new)

    def gone(self, holding: Holding) -> None:
        """It is held no more. If it was the probe and told nothing, the next one is."""
        breaker = self._of(holding)
        if breaker is not None and breaker.probe == holding.task:
            breaker.probe = ""

    def expire(self, _now_s: float, _me: NodeId, due: BreakerCools) -> list[Any]:
        self._slots.capabilities[due.capability].breaker.cool()
        return []

    def _of(self, holding: Holding) -> Breaker | None:
        capability = self._slots.capabilities.get(holding.capability)
        return capability.breaker if capability is not None else None

    def _others(self, capability: str) -> int | None:
        """How the best of the other nodes does that could take this work now; None: there is none."""
        rows = (row.load.get(capability) for row in self._directory.offering(capability) if row.linked and row.node != self._directory.me)
        return min((load.failing for load in rows if load is not None and not load.breaker), default=None)
