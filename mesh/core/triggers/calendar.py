"""When the ticks of a schedule are: a pure function of the plan. Intervals are reckoned here; cron and time zones are lent to us.

    every 5 minutes: all multiples of 300 s since 1970, so that every node has the same ticks and none has to remember a beginning

Source of the spread: rendezvous hashing, as for keepers (`keeping/roster.py`).
"""

from __future__ import annotations

import hashlib
from typing import Protocol

from mesh.ids import NodeId
from mesh.messages.triggers import Plan


class Cron(Protocol):
    """Ticks of a cron expression in a time zone, in milliseconds since 1970. None: there is no such tick, or it is no such expression."""

    def after(self, cron: str, tz: str, at_ms: int) -> int | None:
        """The first one later than `at_ms`."""

    def before(self, cron: str, tz: str, at_ms: int) -> int | None:
        """The last one up to `at_ms`."""


class NoCron:
    """For meshes whose schedules are intervals."""

    def after(self, cron: str, tz: str, at_ms: int) -> int | None:
        return None

    def before(self, cron: str, tz: str, at_ms: int) -> int | None:
        return None


EVERY_MS_MIN = 1000
CATCH_UP_MAX = 1000
"""Missed ticks that are made good, at most; more would be a flood of tasks, not a remedy."""


class Calendar:
    def __init__(self, cron: Cron) -> None:
        self._cron = cron

    def after(self, plan: Plan, at_ms: int) -> int | None:
        """The first tick later than `at_ms`; None: there is none."""
        if plan.every_ms >= EVERY_MS_MIN:
            return (at_ms // plan.every_ms + 1) * plan.every_ms
        return self._cron.after(plan.cron, plan.tz, at_ms)

    def before(self, plan: Plan, at_ms: int) -> int | None:
        """The last tick up to `at_ms`; None: there is none."""
        if plan.every_ms >= EVERY_MS_MIN:
            return at_ms // plan.every_ms * plan.every_ms
        return self._cron.before(plan.cron, plan.tz, at_ms)

    def due(self, plan: Plan, base_ms: int, now_ms: int, late_ms: int) -> int | None:
        """The next tick later than `base_ms` that is to be acted on now, the oldest first: one that is no later than `late_ms`, or what
        the plan says about missed ones. None: there is none."""
        newest = self.before(plan, now_ms)
        if newest is None or newest <= base_ms:
            return None
        if plan.catch_up == "all":
            return self._oldest(plan, base_ms, newest)
        first = self.after(plan, max(base_ms, now_ms - late_ms - plan.jitter_ms - 1))
        if first is not None and first <= now_ms:
            return first
        return newest if plan.catch_up == "last" else None

    def _oldest(self, plan: Plan, base_ms: int, newest: int) -> int:
        """Of the newest `catch_up_max` ones."""
        oldest = newest
        for _ in range(min(plan.catch_up_max, CATCH_UP_MAX) - 1):
            tick = self.before(plan, oldest - 1)
            if tick is None or tick <= base_ms:
                break
            oldest = tick
        return oldest


def jitter_ms(plan: Plan, tick_ms: int) -> int:
    """How much later than `tick_ms` that tick is acted on: the same at every node."""
    if not plan.jitter_ms:
        return 0
    return int.from_bytes(hashlib.sha256(f"{plan.name}/{tick_ms}".encode()).digest()[:8]) % (plan.jitter_ms + 1)


def turn(name: str, node: NodeId) -> bytes:
    """The smaller, the sooner does `node` act on the ticks of the schedule `name`."""
    return hashlib.sha256(f"every/{name}/{node}".encode()).digest()


def moment(at_ms: int) -> str:
    """That time in ISO 8601, UTC, such as ``2026-10-05T06:00:00Z``."""
    days, ms = divmod(at_ms, 86_400_000)
    year, month, day = _date(days)
    seconds, ms = divmod(ms, 1000)
    parts = f".{ms:03}" if ms else ""
    return f"{year:04}-{month:02}-{day:02}T{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}{parts}Z"


def _date(days: int) -> tuple[int, int, int]:
    """Year, month and day of a number of days since 1970, as Howard Hinnant's `civil_from_days`: eras of 400 years that begin in March."""
    era, day = divmod(days + 719_468, 146_097)
    year = (day - day // 1460 + day // 36_524 - day // 146_096) // 365
    day -= 365 * year + year // 4 - year // 100
    month = (5 * day + 2) // 153
    return year + 400 * era + (month >= 10), month + 3 if month < 10 else month - 9, day - (153 * month + 2) // 5 + 1
