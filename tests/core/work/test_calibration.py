"""Who promises too much gets less work, whatever it promises."""

from __future__ import annotations

from dataclasses import asdict

import pytest
from manager_bench import Bench

from mesh.core.inputs import MemberRestarted
from mesh.core.work.calibration import Calibration
from mesh.inspector.why import explain, recompute, show
from mesh.messages.membership import Offer
from mesh.messages.records import Candidate, Decided
from mesh.messages.work import Bid, BidItem, Cfp


def learned(*awards: tuple[int, int, float], rows_max: int = 10) -> Calibration:
    """Each ``(start_ms, service_ms, took_ms)``, at node `a`."""
    calibration = Calibration(rows_max)
    for start_ms, service_ms, took_ms in awards:
        calibration.learn(0.0, "a", "greet", start_ms, service_ms, took_ms)
    return calibration


def believed(calibration: Calibration, service_ms: int = 100, now_s: float = 0.0) -> tuple[int, int]:
    candidate = calibration.applied(now_s, "greet", Candidate("a", "A", 0, service_ms, 0.0))
    return candidate.service_ms, candidate.calibration_pct


def test_who_keeps_his_word_counts_in_full():
    assert believed(learned(*[(50, 100, 150)] * 20)) == (100, 100)


def test_chance_is_no_lie():
    assert believed(learned(*[(0, 100, took) for took in (60, 150, 90, 170, 40, 110)])) == (100, 100)


@pytest.mark.parametrize(("took_ms", "pct"), [(220, 200), (34, 50), (5000, 400)])
def test_what_awards_took_of_what_was_expected_counts(took_ms, pct):
    assert believed(learned(*[(0, 100, took_ms)] * 40), 1250)[1] == pytest.approx(pct, abs=5)


def test_a_liar_whose_times_are_tiny_ends_at_the_measured_time():
    calibration = learned(*[(0, 1, 400.0)] * 30)
    service_ms, pct = believed(calibration, 1)
    assert (service_ms, pct) == (100, 400)
    for _ in range(30):  # right by our own floor is not right
        calibration.learn(0.0, "a", "greet", 0, service_ms, 400.0)
    assert believed(calibration, 1) == (100, 400)


def test_a_liar_who_reforms_is_believed_again():
    calibration = learned(*[(0, 1, 400.0)] * 30)
    for _ in range(30):
        calibration.learn(0.0, "a", "greet", 0, 400, 400.0)
    assert believed(calibration, 400) == (400, 100)


def test_who_says_nothing_is_taken_at_the_measured_time():
    assert believed(learned((0, 0, 300.0)), 0) == (300, 100)


def test_old_experience_fades():
    calibration = learned(*[(0, 100, 5000)] * 40)
    assert believed(calibration, 2000, now_s=600.0) == (2000, 100)


def test_no_more_pairs_are_remembered_than_allowed():
    calibration = Calibration(3)
    for node in "abcde":
        calibration.learn(0.0, node, "greet", 0, 100, 100.0)
    assert len(calibration) == 3


def test_an_optimist_loses_work_and_why_says_so():
    """`a` promises 10 ms and takes 300; `b` promises 120 and takes 120."""
    bench = Bench(price_timeout_s=0.1)
    bench.start()
    bench.now += 10
    for node in "ab":
        bench.row(node, Offer("greet", "greeter", priced=True))
    promises, took_s = {"a": 10, "b": 120}, {"a": 0.3, "b": 0.12}
    won = []
    for number in range(1, 17):
        effects = bench.submit()
        for to, cfp in bench.sends(effects, Cfp):
            effects = bench.give(Bid(cfp.round, (BidItem(f"me.1.{number}", 0, promises[to], 0.0, "g"),), 1000), to)
        node, item = bench.awarded(effects)
        won.append(node)
        bench.after(took_s[node], hear=tuple("ab"))
        bench.result(item, node)
    assert won[0] == "a" and won[-6:] == ["b"] * 6
    decided = [entry for entry in bench.journal if type(entry) is Decided]
    assert [recompute(asdict(entry)) for entry in decided] == won
    row = {"kind": "Decided", **asdict(decided[-1]), "author": "me", "wall_ms": 0, "verified": True}
    page = show(explain("me.1.16", [row]))
    assert "its times count" in page and "agrees" in page


def test_what_is_known_can_be_looked_at_fades_and_is_forgotten_with_the_node():
    calibration = learned(*[(0, 100, 300.0)] * 30)
    model = calibration.model(0.0, "a", "greet")
    assert model is not None and model.served_ms == 300 and 250 < model.of_expected_pct < 300 and model.age_s == 0
    later = calibration.model(120.0, "a", "greet")
    assert later is not None and later.age_s == 120 and 130 < later.of_expected_pct < 160, "two half-lives"
    assert calibration.model(0.0, "b", "greet") is None
    calibration.forget("b")
    assert believed(calibration)[1] > 100
    calibration.forget("a")
    assert calibration.model(0.0, "a", "greet") is None and believed(calibration) == (100, 100)


def test_a_node_that_was_started_anew_begins_with_a_clean_record():
    bench = Bench()
    bench.manager.book.calibration.learn(bench.now, "a", "greet", 0, 100, 1000.0)
    bench.row("a", Offer("greet", "greeter"))
    bench.start()
    bench.give(MemberRestarted("a", 2))
    assert len(bench.manager.book.calibration) == 0
