"""A circuit breaker: whether work of one capability is given to one node. Kept by the node itself, which sees what becomes of everybody's
work there, and told to all in its LOAD: what one manager's task found out, every manager knows.

    closed --trip--> open --cool--> half_open --passed--> closed
                       ^----failed------'

trip    several faults of the node in a row (its worker died, its handler fell silent), or it fails much more often than others do
cool    a pause is over; it doubles each time the probe fails
probe   the one piece of work that a half-open breaker lets in

Invariant: every change of state goes through `TRANSITIONS`; half-open, at most one probe is under way. Failures of the work itself (wrong
arguments, what happens everywhere else too) never open it: there would be nowhere better to go. Pure: no clock, and no task but the probe.
Source: Nygard, Release It! (2007); the comparison with others is Envoy's outlier detection.
"""

from __future__ import annotations

from collections import deque

from mesh.ids import TaskId
from mesh.limits import WorkLimits

CLOSED, OPEN, HALF_OPEN = "closed", "open", "half_open"
TRIP, COOL, PASSED, FAILED = "trip", "cool", "passed", "failed"

TRANSITIONS: dict[tuple[str, str], str] = {
    (CLOSED, TRIP): OPEN,
    (OPEN, COOL): HALF_OPEN,
    (HALF_OPEN, PASSED): CLOSED,
    (HALF_OPEN, FAILED): OPEN,
}

NEWEST = 20
"""Runs that the rate of failures is taken over."""
SURE = 10
"""Of so few it is not spoken."""


class Breaker:
    __slots__ = ("_fault_at_s", "_faults", "_pauses", "_runs", "probe", "state")

    def __init__(self) -> None:
        self.state = CLOSED
        self.probe: TaskId = ""
        """Under way while half-open; empty: none, the next award is it."""
        self._runs: deque[bool] = deque(maxlen=NEWEST)
        self._faults = 0
        self._fault_at_s = float("-inf")
        self._pauses = 0

    def admits(self) -> bool:
        return self.state == CLOSED or (self.state == HALF_OPEN and not self.probe)

    def failing(self) -> int:
        """Percent of its newest runs that failed; 0 where few have run."""
        return 100 * self._runs.count(False) // len(self._runs) if len(self._runs) >= SURE else 0

    def fault(self, now_s: float, limits: WorkLimits) -> bool:
        """The node's fault. Faults at about the same time are one: a dying worker takes all of its handlers with it. True: it opened."""
        is_new = now_s - self._fault_at_s >= limits.breaker_gap_s
        self._fault_at_s = now_s
        self._faults += is_new
        if self.state == HALF_OPEN:
            return self._move(FAILED)
        return self.state == CLOSED and self._faults >= limits.breaker_faults and self._move(TRIP)

    def ran(self, ok: bool, others: int | None, limits: WorkLimits) -> bool:
        """A handler ended by itself. `others`: the failing() of the best of the others; None: nobody else does this. True: it opened."""
        self._runs.append(ok)
        self._faults = 0 if ok else self._faults
        worse = not ok and others is not None and 2 * others <= 100 * limits.breaker_rate
        if self.state == HALF_OPEN:
            return self._move(FAILED if worse else PASSED) and worse
        return worse and self.state == CLOSED and self.failing() >= 100 * limits.breaker_rate and self._move(TRIP)

    def cool(self) -> None:
        """Its pause is over."""
        self._move(COOL)

    def pause_s(self, limits: WorkLimits) -> float:
        """How long it stays open this time."""
        return min(limits.breaker_open_max_s, limits.breaker_open_s * 2.0 ** min(self._pauses, 32))

    def _move(self, event: str) -> bool:
        to = TRANSITIONS.get((self.state, event))
        assert to is not None, f"no transition from {self.state} by {event}"
        self.state, self.probe = to, ""
        if event in (PASSED, TRIP):
            self._pauses = 0
        elif event == FAILED:
            self._pauses += 1
        if event == PASSED:
            self._faults = 0
            self._runs.clear()
        return True
