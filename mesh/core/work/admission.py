"""How much work a manager takes: a number of live tasks and of bytes of their arguments. Beyond, it refuses, and says when to come back.

    submit, call --room?--> taken | overloaded, retry_after_ms: about as long as a few of its tasks took to end lately

Invariant: what is taken is bounded, whatever comes in; what was taken is never dropped for want of room. Decides nothing about order.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from mesh.limits import WorkLimits

ENDS_REMEMBERED = 32
RETRY_MIN_MS, RETRY_MAX_MS = 100, 5_000
SHARE = 16
"""Ends that are waited for: more than one client may have been sent away."""


class Admission:
    def __init__(self, limits: WorkLimits) -> None:
        self._limits = limits
        self._ends_s: deque[float] = deque(maxlen=ENDS_REMEMBERED)
        self.tasks = 0
        self.input_bytes = 0
        self.refused = 0

    def took(self, size_bytes: int) -> None:
        self.tasks += 1
        self.input_bytes += size_bytes

    def ended(self, now_s: float, size_bytes: int) -> None:
        self.tasks -= 1
        self.input_bytes -= size_bytes
        self._ends_s.append(now_s)

    def refusal(self, now_s: float, size_bytes: int) -> dict[str, Any] | None:
        """None if there is room for one more task of that size; else the error of whoever asked."""
        limits = self._limits
        if self.tasks >= limits.tasks_max:
            what = f"{self.tasks} tasks"
        elif self.tasks and self.input_bytes + size_bytes > limits.tasks_bytes_max:
            what = f"tasks with {self.input_bytes} bytes of arguments"
        else:
            return None
        self.refused += 1
        after_ms = self._retry_after_ms(now_s)
        message = f"this node already manages {what}; there may be room in {after_ms / 1000:g} s"
        return {"code": "overloaded", "message": message, "fix": "mesh tasks", "retry_after_ms": after_ms}

    def _retry_after_ms(self, now_s: float) -> int:
        if not self._ends_s:
            return 1000
        each_s = (now_s - self._ends_s[0]) / len(self._ends_s)
        return min(RETRY_MAX_MS, max(RETRY_MIN_MS, round(1000 * SHARE * each_s)))
