"""Cron expressions where clocks change, and in both directions."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.core.triggers.inputs import ReadWall, WallRead
from mesh.runtime.almanac import Almanac, CronTicks, zone_of

BERLIN = "Europe/Berlin"
TICKS = CronTicks()


def ms(text: str) -> int:
    return round(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


def between(cron: str, tz: str, since: str, until: str) -> list[str]:
    found, at_ms = [], ms(since)
    while (tick := TICKS.after(cron, tz, at_ms)) is not None and tick <= ms(until):
        found.append(datetime.fromtimestamp(tick / 1000, UTC).strftime("%d %H:%M"))
        at_ms = tick
    return found


@pytest.mark.parametrize(
    ("cron", "since", "until", "found"),
    [
        # 2:30 does not come on 29 March 2026: it is acted on at 3:00, when the clocks have jumped.
        ("30 2 * * *", "2026-03-28T00:00", "2026-03-30T12:00", ["28 01:30", "29 01:00", "30 00:30"]),
        # It comes twice on 25 October: a daily tick once, one of each half hour twice.
        ("30 2 * * *", "2026-10-24T12:00", "2026-10-26T12:00", ["25 00:30", "26 01:30"]),
        ("*/30 * * * *", "2026-10-25T00:00", "2026-10-25T02:00", ["25 00:30", "25 01:00", "25 01:30", "25 02:00"]),
        ("0 6 * * 1-5", "2026-10-22T12:00", "2026-10-27T12:00", ["23 04:00", "26 05:00", "27 05:00"]),
        ("0 0 29 2 *", "2026-01-01T00:00", "2029-01-01T00:00", ["28 23:00"]),
    ],
)
def test_where_the_clocks_change(cron: str, since: str, until: str, found: list[str]) -> None:
    assert between(cron, BERLIN, since, until) == found


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["30 2 * * *", "*/20 * * * *", "0 6 * * 1-5", "15 1,2,3 * * *", "*/7 * * * * *", "0 12 1 * *"]),
    st.sampled_from(["", BERLIN, "America/St_Johns", "Australia/Lord_Howe"]),
    st.integers(ms("2026-03-01T00:00"), ms("2026-11-30T00:00")),
)
def test_back_and_forth_are_the_same_ticks(cron: str, tz: str, at_ms: int) -> None:
    after = TICKS.after(cron, tz, at_ms)
    assert after is not None and after > at_ms
    assert TICKS.before(cron, tz, after) == after
    before = TICKS.before(cron, tz, after - 1)
    assert before is not None and before <= at_ms and TICKS.after(cron, tz, before) == after


@pytest.mark.parametrize(
    ("cron", "tz"), [("x", ""), ("61 * * * *", ""), ("* * * * *", "Mars/Olympus"), ("* * * * *", "../etc/passwd"), ("", "")]
)
def test_what_a_peer_may_say_and_is_nothing_has_no_ticks(cron: str, tz: str) -> None:
    assert TICKS.after(cron, tz, 0) is None and TICKS.before(cron, tz, 10**12) is None


def test_a_zone_that_is_none_is_named() -> None:
    assert zone_of("") is UTC
    with pytest.raises(ValueError, match="knows no time zone 'Mars/Olympus'"):
        zone_of("Mars/Olympus")


@pytest.mark.parametrize(
    ("others", "ahead"),
    [
        ((), 0),
        ((0, 0), 0),
        ((0, 3_600_000), 0),
        ((-3_600_000, -3_600_000), -3_600_000),
        ((3_600_000, 3_600_000), 3_600_000),
        ((3_600_000,), 0),
        ((-3_600_000,), -3_600_000),
        ((0, 3_600_000, 3_600_000), 0),
        ((0, -3_600_000, -3_600_000), -3_600_000),
    ],
)
def test_a_clock_that_most_others_contradict_is_not_gone_by(others: tuple[int, ...], ahead: int) -> None:
    told: list[Any] = []
    almanac = Almanac("me", lambda node, body: told.append((node, body)), lambda: 10**12, lambda: others)
    almanac.effects[ReadWall](ReadWall())
    assert told == [("me", WallRead(10**12 + ahead))]
