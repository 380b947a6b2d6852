"""When ticks are, and which of them is due: pure functions of a plan."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.core.triggers.calendar import Calendar, NoCron, jitter_ms, moment
from mesh.messages.triggers import Plan

MINUTE = 60_000
LATE = MINUTE
CALENDAR = Calendar(NoCron())


def plan(every_ms: int = 5 * MINUTE, **fields: object) -> Plan:
    return Plan("p", "c", every_ms=every_ms, **fields)  # type: ignore[arg-type]


@given(st.integers(0, 4_000_000_000_000))
def test_a_moment_is_what_the_library_makes_of_it(at_ms: int) -> None:
    whole = datetime.fromtimestamp(at_ms // 1000, UTC).isoformat().replace("+00:00", "")
    assert moment(at_ms) == whole + (f".{at_ms % 1000:03}Z" if at_ms % 1000 else "Z")


@given(st.integers(1000, 10**9), st.integers(0, 10**13))
def test_after_and_before_name_the_same_ticks(every_ms: int, at_ms: int) -> None:
    tick = CALENDAR.after(plan(every_ms), at_ms)
    assert tick is not None and tick > at_ms and CALENDAR.before(plan(every_ms), tick - 1) == tick - every_ms <= at_ms
    assert CALENDAR.before(plan(every_ms), tick) == tick


@pytest.mark.parametrize(
    ("catch_up", "base", "now", "due"),
    [
        ("none", 0, 5, 5),
        ("none", 5, 5, None),
        ("none", 0, 6, 5),
        ("none", 0, 7, None),
        ("none", 0, 20, 20),
        ("last", 0, 7, 5),
        ("last", 0, 19, 15),
        ("last", 15, 19, None),
        ("all", 0, 19, 5),
        ("all", 5, 19, 10),
        ("all", 0, 49, 35),
        ("all", 50, 49, None),
    ],
)
def test_which_tick_is_due(catch_up: str, base: int, now: int, due: int | None) -> None:
    found = CALENDAR.due(plan(catch_up=catch_up, catch_up_max=3), base * MINUTE, now * MINUTE, LATE)
    assert found == (None if due is None else due * MINUTE)


def test_of_those_in_time_the_oldest_comes_first() -> None:
    """So that a failover of seconds costs a fast schedule no tick."""
    assert CALENDAR.due(plan(1000), 100_000, 110_500, LATE) == 101_000


@given(st.integers(0, 10**13), st.integers(0, 10**7))
def test_a_tick_that_is_late_by_its_jitter_is_not_missed(tick: int, most_ms: int) -> None:
    one = plan(jitter_ms=most_ms)
    spread = jitter_ms(one, tick)
    assert 0 <= spread <= most_ms and spread == jitter_ms(one, tick)
    tick = tick // one.every_ms * one.every_ms
    if most_ms < one.every_ms:
        assert CALENDAR.due(one, tick - 1, tick + most_ms, 0) == tick


@pytest.mark.parametrize("every_ms", [0, 1, 999])
def test_what_no_honest_client_sends_has_no_ticks(every_ms: int) -> None:
    assert CALENDAR.after(plan(every_ms), 5) is None and CALENDAR.due(plan(every_ms), 0, 10**12, LATE) is None
