"""The time that people go by, for the triggers machine: the wall clock, and ticks of cron expressions in time zones (by `cronsim`).

    ReadWall --> WallRead          after, before --> milliseconds since 1970; None: no such tick

A time that a change of the clocks skips is acted on when the clock has jumped; one that comes twice, once, unless the expression has a
wildcard in hours or minutes: as Debian's cron does. An expression that is none has no ticks: who declares one is told so before that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, tzinfo
from functools import lru_cache
from typing import Any

from mesh.core.triggers.inputs import ReadWall, WallRead
from mesh.ids import NodeId

AROUND_MS = 61_000


class CronTicks:
    """What `core/triggers/calendar.py` is lent. The library is imported when the first expression is met."""

    def after(self, cron: str, tz: str, at_ms: int) -> int | None:
        """The first tick later than `at_ms`."""
        return _found(cron, tz, at_ms, reverse=False)

    def before(self, cron: str, tz: str, at_ms: int) -> int | None:
        """The last tick up to `at_ms`."""
        return _found(cron, tz, at_ms, reverse=True)


@lru_cache(maxsize=4096)
def _found(cron: str, tz: str, at_ms: int, *, reverse: bool) -> int | None:
    try:
        # The library goes on from whole minutes: begin a little before, and leave out what is too early.
        ticks = ticks_of(cron, zone_of(tz), at_ms + AROUND_MS if reverse else at_ms - AROUND_MS, reverse=reverse)
    except ValueError:
        return None
    for tick in ticks:
        tick_ms = round(tick.timestamp() * 1000)
        if tick_ms <= at_ms if reverse else tick_ms > at_ms:
            return tick_ms
    return None


def ticks_of(cron: str, zone: tzinfo, at_ms: int, *, reverse: bool = False) -> Iterator[datetime]:
    """Ticks from `at_ms` on, or back. Raises ValueError, which says what is wrong with the expression."""
    from cronsim import CronSim, CronSimError

    try:
        return CronSim(cron, datetime.fromtimestamp(at_ms / 1000, zone), reverse=reverse)
    except CronSimError as error:
        raise ValueError(str(error)) from None


def zone_of(name: str) -> tzinfo:
    """A time zone by its name; "": UTC. Raises ValueError if this machine knows none of that name."""
    if not name:
        return UTC
    from zoneinfo import ZoneInfo

    try:
        return ZoneInfo(name)
    except (KeyError, OSError, ValueError):  # what is no name, no zone, or a folder of zones
        raise ValueError(f"this machine knows no time zone {name!r}") from None


class Almanac:
    """The driver's component that reads the wall clock. `others`: by how many milliseconds that of each linked node is ahead of it; 0: by
    none worth naming."""

    def __init__(
        self, me: NodeId, tell: Callable[[NodeId, Any], None], wall_ms: Callable[[], int], others: Callable[[], Iterable[int]]
    ) -> None:
        self._wall_ms, self._others = wall_ms, others
        self.effects: dict[type, Callable[[Any], None]] = {ReadWall: lambda _: tell(me, WallRead(self.now_ms()))}

    def now_ms(self) -> int:
        """By this clock, if most others agree with it; else by theirs, and where as many go each way by the slower: nobody acts early."""
        ahead = sorted((0, *self._others()))
        return self._wall_ms() + ahead[(len(ahead) - 1) // 2]

    def flush(self) -> None:
        """Nothing is collected."""
