"""L6: of what is limited over the whole mesh no more runs at any moment, and no more starts in any second, than its offer says.

Reads when handlers begin and are over, wherever they run and whatever their nodes believe. Once a clock has run outside the declared drift
leases promise nothing, and nothing is judged.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from mesh.ids import Fence, NodeId, TaskId
from mesh.sim.history import ClockBroken, HandlerBegan, HandlerOver, Takes, Verdict

_Run = tuple[NodeId, int, TaskId, Fence]


class LimitChecker:
    def __init__(self) -> None:
        self._running: dict[str, dict[_Run, None]] = {}
        self._of: dict[_Run, str] = {}
        self._starts: dict[str, deque[float]] = {}
        self._broken = False
        self.watches: tuple[type, ...] = ()
        self.takes: Takes = {HandlerBegan: self._began, HandlerOver: self._over, ClockBroken: self._clock_broken}

    def _began(self, record: HandlerBegan) -> Iterator[Verdict]:
        if record.limit:
            run = (record.node, record.worker, record.task, record.fence)
            running = self._running.setdefault(record.capability, {})
            running[run] = None
            self._of[run] = record.capability
            if len(running) > record.limit and not self._broken:
                where = ", ".join(node for node, _, _, _ in running)
                yield Verdict(record.at_s, "L6", f"{len(running)} of {record.capability} run at once, {record.limit} may: on {where}")
        if record.rate:
            starts = self._starts.setdefault(record.capability, deque())
            starts.append(record.at_s)
            while starts[0] <= record.at_s - 1.0:
                starts.popleft()
            if len(starts) > record.rate and not self._broken:
                yield Verdict(record.at_s, "L6", f"{len(starts)} of {record.capability} started within a second, {record.rate} may")

    def _over(self, record: HandlerOver) -> Iterator[Verdict]:
        run = (record.node, record.worker, record.task, record.fence)
        capability = self._of.pop(run, "")
        if capability:
            del self._running[capability][run]
        return iter(())

    def _clock_broken(self, _record: ClockBroken) -> Iterator[Verdict]:
        self._broken = True
        return iter(())
