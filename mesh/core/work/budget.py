"""The retry budget of a manager: what may be tried again after a failure of its handler, so that retries never become a storm.

    tasks given --share--> tokens <--floor, each second        a retry takes one; without one it waits in line for the next

Invariant: in any span of time, retries <= max(1, burst) + floor * seconds + share * tasks given. Knows no task: the line is elsewhere.
Source: the retry budget of Twitter's Finagle.
"""

from __future__ import annotations

from mesh.limits import WorkLimits


class RetryBudget:
    def __init__(self, limits: WorkLimits) -> None:
        self._limits = limits
        self._tokens = limits.retry_burst
        self._at_s = float("inf")
        self._given = 0

    def spend(self, now_s: float, given: int) -> bool:
        """Take a token for one retry; False: there is none. `given`: tasks this manager has been given in its life."""
        limits = self._limits
        earned = limits.retry_floor_per_s * max(0.0, now_s - self._at_s) + limits.retry_share * (given - self._given)
        self._tokens = min(max(1.0, limits.retry_burst), self._tokens + earned)
        self._at_s, self._given = now_s, given
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True

    def wait_s(self) -> float:
        """Until the floor alone has made up for what is missing."""
        floor = self._limits.retry_floor_per_s
        return min(self._limits.retry_max_s, (1.0 - self._tokens) / floor) if floor > 0 else self._limits.retry_max_s


class HedgeBudget:
    """Second attempts of work that is merely slow: no more than `hedge_share` of the tasks given, and `hedge_burst` at once."""

    def __init__(self, limits: WorkLimits) -> None:
        self._limits = limits
        self._tokens = 0.0
        self._given = 0

    def spend(self, given: int) -> bool:
        """Take a token for one hedge; False: there is none. `given`: tasks this manager has been given in its life, hedges not counted."""
        self._tokens = min(self._limits.hedge_burst, self._tokens + self._limits.hedge_share * (given - self._given))
        self._given = given
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True
