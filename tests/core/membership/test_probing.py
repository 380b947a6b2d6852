"""Probes, indirect probes, late answers, pauses, stamps, load: literal effects of one machine."""

from __future__ import annotations

import time
from typing import Any

import pytest

from mesh.core.inputs import Heard, LinkDown, LinkUp, MemberAlive, MemberLinked, MemberSuspected, MemberUnreachable
from mesh.core.membership.suspicion import Health, window_s
from mesh.effects import HangUp, Need, Refused, Send
from mesh.limits import MembershipLimits
from mesh.messages.membership import Ack, Digest, Load, LoadRow, Ping, PingReport, PingRequest, Rumours, Suspect
from mesh.messages.signed import Signed


def to(peer: str, message: Any) -> Send:
    return Send(peer, message, need=Need.FREE)


def sends(effects: list[Any], *kinds: type) -> list[tuple[str, Any]]:
    """``(to, message)`` of those kinds, whether or not each effect has its time beside it."""
    plain = [effect[1] if isinstance(effect, tuple) else effect for effect in effects]
    return [(e.to, e.message) for e in plain if isinstance(e, Send) and type(e.message) in kinds]


@pytest.fixture
def five(solo: Any) -> Any:
    """Linked with b, c, d, e and heard from all of them."""
    node = solo()
    node.meet("b", "c", "d", "e")
    for peer in "bcde":
        node.feed(peer, Heard(1, 0))
    node.take_facts()
    return node


def test_a_new_link_is_pinged_and_compared_at_once(solo: Any, row_of: Any) -> None:
    node = solo()
    effects = node.feed("b", LinkUp(row_of("b")))
    assert effects == [to("b", Ping(1)), to("b", Digest((("a", 1, 1, "alive"), ("b", 1, 1, "alive")), True))]
    assert node.take_facts() == [MemberAlive("b"), MemberLinked("b")]
    assert node.row("b").linked


def test_a_ping_is_answered(five: Any) -> None:
    assert five.feed("b", Ping(77)) == [to("b", Ack(77))]


def test_a_busy_link_is_never_pinged(five: Any) -> None:
    effects = []
    for step in range(100):
        five.feed("b", Heard(step + 2, 0), at_s=100.0 + step * 0.5)
        effects += five.run(100.25 + step * 0.5, quiet=("c", "d", "e"))
    assert sends(effects, Ping) == []


def test_silence_is_pinged_then_asked_about_then_voted_on(five: Any) -> None:
    five.run(100.9, quiet=("b", "c", "d", "e"))
    five.feed("b", Heard(2, 0), at_s=100.0)  # the last of it
    effects = five.run(103.0, quiet=("c", "d", "e"))
    about_b = [
        (round(at - 100.0, 3), type(e.message).__name__, e.to)
        for at, e in effects
        if isinstance(e, Send) and (e.to == "b" or isinstance(e.message, PingRequest | Rumours))
    ]
    assert about_b[:7] == [
        (1.0, "Ping", "b"),
        (1.5, "PingRequest", "c"),
        (1.5, "PingRequest", "d"),
        (1.5, "PingRequest", "e"),
        (1.5, "Ping", "b"),
        (2.25, "Rumours", "b"),
        (2.25, "Rumours", "c"),
    ]
    assert five.take_facts() == [MemberSuspected("b", False)]
    said = next(m for peer, m in sends(effects, Rumours) if peer == "b")
    assert said == Rumours((Signed("a", Suspect("b", 1, 1, False)),))


def test_any_envelope_answers_a_probe(five: Any) -> None:
    five.run(101.2, quiet=("c", "d", "e"))
    five.feed("b", Heard(5, 0))
    effects = five.run(102.1, quiet=("c", "d", "e"))
    assert sends(effects, PingRequest) == []


def test_a_helper_that_reaches_it_ends_the_probe(five: Any) -> None:
    effects = five.run(101.6, quiet=("c", "d", "e"))
    probe = sends(effects, PingRequest)[0][1].probe
    assert five.feed("d", PingReport(probe, "b", True)) == []
    five.run(102.4, quiet=("c", "d", "e"))
    assert five.take_facts() == []
    assert five.machine.statistics().vouched == 1


def test_a_no_from_a_helper_is_no_answer_but_shows_that_we_are_heard(five: Any) -> None:
    effects = five.run(101.6, quiet=("c", "d", "e"))
    probe = sends(effects, PingRequest)[0][1].probe
    five.feed("d", PingReport(probe, "b", False))
    five.run(102.3, quiet=("c", "d", "e"))
    assert five.take_facts() == [MemberSuspected("b", False)]
    assert five.machine.statistics().health == 0


def test_helpers_that_say_nothing_make_us_doubt_ourselves(five: Any) -> None:
    five.run(102.3, quiet=("c", "d", "e"))
    assert five.machine.statistics().health == 1


@pytest.mark.parametrize("late", [Heard(9, 0), Ack(1)])
def test_a_late_answer_cancels_the_suspicion(five: Any, late: Any) -> None:
    five.run(102.5, quiet=("c", "d", "e"))
    five.take_facts()
    five.feed("b", late)
    assert five.take_facts() == [MemberAlive("b")]
    assert five.row("b").state == "alive"
    assert five.machine.statistics().false_alarms == 1


def test_a_late_report_cancels_it_too(five: Any) -> None:
    effects = five.run(102.5, quiet=("c", "d", "e"))
    probe = sends(effects, PingRequest)[0][1].probe
    five.take_facts()
    five.feed("e", PingReport(probe, "b", True))
    assert five.take_facts() == [MemberAlive("b")]


def test_unreachable_is_cut_and_dialled_and_alive_again_when_linked(five: Any, row_of: Any) -> None:
    effects = five.run(110.0, quiet=("c", "d", "e"))
    assert HangUp("b", need=Need.FREE) in [effect for _, effect in effects]
    assert five.take_facts() == [MemberSuspected("b", False), MemberUnreachable("b")]
    assert not five.row("b").linked
    five.feed("b", LinkUp(row_of("b")))
    assert five.take_facts() == [MemberAlive("b"), MemberLinked("b")]
    assert five.row("b").state == "alive"


def test_a_pause_of_its_own_is_nobody_elses_fault(five: Any) -> None:
    five.run(101.2, quiet=("c", "d", "e"))  # b is being probed
    effects = five.feed("a", None, at_s=111.0)  # asleep for ten seconds
    assert five.take_facts() == []
    assert [type(message) for _, message in sends(effects, Ping, PingRequest)] == [Ping, Ping, Ping, Ping]
    for peer in "bcde":
        five.feed(peer, Ack(1))
    five.run(111.3)
    assert five.take_facts() == []
    assert five.machine.statistics().lags == 1
    assert all(state == "alive" for state in five.states().values())


def test_a_window_slept_through_is_opened_again(five: Any) -> None:
    five.run(102.5, quiet=("c", "d", "e"))
    five.take_facts()
    five.feed("a", None, at_s=130.0)
    assert five.row("b").state == "suspect"
    assert five.take_facts() == []


def test_a_node_always_late_still_finds_a_death(five: Any) -> None:
    for step in range(1, 200):
        for peer in "cde":
            five.feed(peer, Heard(step, 0), at_s=100.0 + step * 0.7)
    assert five.row("b").state != "alive"


def test_a_link_lost_without_refusal_is_asked_about_soon(five: Any) -> None:
    five.feed("b", LinkDown())
    effects = five.run(100.6, quiet=("c", "d", "e"))
    assert [peer for peer, _ in sends(effects, PingRequest)] == ["c", "d", "e"]
    assert five.take_facts() == []


# ---- errands for others


def test_an_errand_is_a_ping_and_a_report(five: Any) -> None:
    (ping,) = five.feed("b", PingRequest(40, "c"))
    assert (ping.to, type(ping.message)) == ("c", Ping)
    assert five.feed("c", Heard(3, 0)) == [to("b", PingReport(40, "c", True))]
    assert five.feed("c", Heard(4, 0)) == []


def test_an_errand_to_nowhere_is_said_at_once_and_a_silent_one_in_time(five: Any) -> None:
    assert five.feed("b", PingRequest(41, "z")) == [to("b", PingReport(41, "z", False))]
    assert five.feed("b", PingRequest(42, "a")) == [to("b", PingReport(42, "a", True))]
    five.feed("b", PingRequest(43, "c"))
    assert five.feed("b", PingRequest(43, "c")) == [], "the same errand twice"
    effects = five.run(100.6, quiet=("b", "d", "e"))
    assert sends(effects, PingReport) == [("b", PingReport(43, "c", False))]


def test_errands_are_bounded(five: Any) -> None:
    for probe in range(256):
        five.feed("b", PingRequest(probe, "c"))
    assert five.feed("b", PingRequest(256, "c")) == [Refused("busy", "b")]
    five.run(100.6, quiet=("b", "d", "e"))
    assert five.feed("b", PingRequest(257, "c")) != [Refused("busy", "b")]


# ---- stamps and load


def test_stamps_keep_the_newest_and_when_it_came(five: Any) -> None:
    row = five.row("b")
    five.feed("b", Heard(500, 99_000), at_s=101.0)
    assert (row.stamp_ms, row.stamp_at_s, row.echo_ms) == (500, 101.0, 99_000)
    five.feed("b", Heard(400, 98_000), at_s=102.0)
    five.feed("b", Heard(500, 99_000), at_s=103.0)
    assert (row.stamp_ms, row.stamp_at_s, row.echo_ms) == (500, 101.0, 99_000)


def test_an_echo_from_the_future_is_refused(five: Any) -> None:
    assert five.feed("b", Heard(7, 100_000), at_s=100.0) == []
    assert five.feed("b", Heard(8, 100_001)) == [Refused("future_echo", "b")]
    assert five.row("b").stamp_ms == 7


def test_stamps_start_anew_with_a_link_but_not_with_a_second_link_up(five: Any, row_of: Any) -> None:
    five.feed("b", Heard(900, 99_000))
    five.feed("b", LinkUp(row_of("b")))
    assert five.row("b").stamp_ms == 900
    five.feed("b", LinkDown())
    five.feed("b", LinkUp(row_of("b")))
    assert (five.row("b").stamp_ms, five.row("b").echo_ms) == (0, 0)


def load(version: int, busy: int) -> Load:
    return Load(version, (LoadRow("greet", 2, busy, 0, 2 - busy, 10),))


def test_load_is_kept_by_version_within_a_session(five: Any, row_of: Any) -> None:
    five.feed("b", load(5, 1), at_s=101.0)
    five.feed("b", load(4, 2), at_s=102.0)
    assert five.row("b").load["greet"].busy == 1 and five.row("b").load_at_s == 101.0
    five.feed("b", LinkDown(), at_s=110.0)
    five.feed("b", LinkUp(row_of("b")))
    five.feed("b", load(1, 2))
    assert five.row("b").load["greet"].busy == 2


def test_a_new_life_takes_work_whatever_the_old_one_said_last(five: Any, row_of: Any) -> None:
    five.feed("b", Load(5, (), draining=True))
    assert five.row("b").draining
    five.feed("b", LinkUp(row_of("b", incarnation=2)))  # it offers nothing, so it tells no load of its own
    assert not five.row("b").draining


def test_a_load_that_comes_twice_is_not_taken_for_one_of_the_next_life(five: Any, row_of: Any) -> None:
    five.feed("b", load(5, 2), at_s=101.0)
    five.feed("b", load(5, 2), at_s=101.0)
    five.feed("b", LinkDown(), at_s=101.1)
    five.feed("b", LinkUp(row_of("b", incarnation=2)), at_s=101.2)
    five.feed("b", load(1, 1), at_s=101.3)
    assert five.row("b").load["greet"].busy == 1


def test_a_load_that_overtakes_its_link_is_not_lost(solo: Any, row_of: Any) -> None:
    node = solo()
    node.feed("b", load(1, 1))
    node.feed("b", LinkUp(row_of("b")), at_s=100.5)
    assert node.row("b").load["greet"].busy == 1
    node.feed("a", load(1, 2))
    node.feed("a", load(0, 0))
    assert node.row("a").load["greet"].busy == 2


# ---- figures


def test_windows() -> None:
    limits = MembershipLimits()
    assert window_s(limits, 5, 0, False) == 2.0
    assert window_s(limits, 1000, 0, False) == pytest.approx(6.0)
    assert window_s(limits, 5, 3, False) == 8.0
    assert window_s(limits, 1000, 7, True) == 0.5


def test_health_is_bounded() -> None:
    health = Health(7)
    health.better()
    assert health.level == 0
    for _ in range(20):
        health.worse()
    assert health.level == 7


def test_hearing_is_cheap(five: Any) -> None:
    """Once per envelope. Measured 0.9 us; the bound only catches a mistake of kind, on any machine."""
    heard = five.machine.inputs[Heard]
    items = [Heard(1_000 + i, 0) for i in range(20_000)]
    best = float("inf")
    for _ in range(3):
        start = time.perf_counter()
        for item in items:
            heard(100.0, "b", item)
        best = min(best, (time.perf_counter() - start) / len(items))
    assert best < 30e-6
