"""Auctions: closed when all have answered or are gone, never by waiting alone."""

from __future__ import annotations

import math

import pytest
from manager_bench import Bench

from mesh.core.inputs import MemberDied, MemberSuspected
from mesh.effects import Append
from mesh.messages.membership import Offer
from mesh.messages.records import Candidate, Decided, Parked
from mesh.messages.work import Award, Bid, BidItem, Cfp, Refuse

GREET = Offer("greet", "greeter")


@pytest.fixture
def bench() -> Bench:
    """Three nodes that offer `greet` and have never run it."""
    bench = Bench()
    bench.start()
    bench.now += 10
    for node in "abc":
        bench.row(node, GREET)
    return bench


def ask(bench: Bench) -> int:
    asked = bench.sends(bench.submit(), Cfp)
    assert [to for to, _ in asked] == ["a", "b", "c"]
    return asked[0][1].round


def bid(bench: Bench, round_: int, node: str, start_ms: int = 0, service_ms: int = 10, cost: float = 0.0):
    return bench.give(Bid(round_, (BidItem("me.1.1", start_ms, service_ms, cost, f"agent-{node}"),), 1000), node)


def refuse(bench: Bench, round_: int, node: str, reason: str, retry_after_ms: int = 0):
    return bench.give(Refuse(round_, (("me.1.1", reason),), retry_after_ms), node)


def test_it_closes_with_the_last_answer_and_writes_all_of_it_down(bench):
    round_ = ask(bench)
    assert bid(bench, round_, "c", 5, 20) == []
    assert refuse(bench, round_, "a", "busy") == []
    effects = bid(bench, round_, "b", 0, 20)
    (decided,) = bench.entries(effects, Decided)
    assert decided.way == "auction" and decided.winner == "b"
    assert decided.candidates == (Candidate("c", "C", 5, 20, 0.0, "agent-c"), Candidate("b", "B", 0, 20, 0.0, "agent-b"))
    assert decided.refusals == (("a", "A", "busy"),)
    ((to, award),) = bench.sends(effects, Award)
    assert to == "b" and not award.conditional


def test_cost_counts_as_seconds(bench):
    round_ = ask(bench)
    bid(bench, round_, "a", cost=0.5)
    bid(bench, round_, "b", start_ms=499)
    assert bench.awarded(bid(bench, round_, "c", cost=2.0))[0] == "b"


@pytest.mark.parametrize("fact", [MemberDied("c"), MemberSuspected("c", True)])
def test_who_is_gone_is_not_waited_for(bench, fact):
    round_ = ask(bench)
    bid(bench, round_, "a")
    bid(bench, round_, "b", 1)
    effects = bench.give(fact)
    assert bench.awarded(effects)[0] == "a"
    assert bench.entries(effects, Decided)[0].refusals == (("c", "C", "gone"),)


def test_a_soft_suspicion_closes_nothing(bench):
    round_ = ask(bench)
    bid(bench, round_, "a")
    bid(bench, round_, "b")
    assert bench.give(MemberSuspected("c", False)) == []


def test_the_safety_timer_leaves_out_the_silent(bench):
    round_ = ask(bench)
    bid(bench, round_, "b")
    effects = bench.after(0.5)
    assert bench.awarded(effects)[0] == "b"
    assert bench.entries(effects, Decided)[0].refusals == (("a", "A", "silent"), ("c", "C", "silent"))


def test_late_uninvited_and_repeated_bids_change_nothing(bench):
    round_ = ask(bench)
    bench.row("d", GREET)
    assert bench.refused(bid(bench, round_, "d")) == ["late_bid"]
    bid(bench, round_, "a", 5)
    assert bench.refused(bid(bench, round_, "a", 0)) == ["late_bid"]
    bench.after(0.5)
    assert bench.refused(bid(bench, round_, "b")) == ["late_bid"]
    assert [entry.winner for entry in bench.journal if type(entry) is Decided] == ["a"]


@pytest.mark.parametrize(
    ("start", "service", "cost"), [(-1, 0, 0.0), (0, -1, 0.0), (0, 0, math.nan), (0, 0, math.inf), (0, 0, -1.0), (10**13, 0, 0.0)]
)
def test_bids_that_cannot_be_true_are_refused(bench, start, service, cost):
    assert bench.refused(bid(bench, ask(bench), "a", start, service, cost)) == ["bad_bid"]


def test_only_busy_is_a_backlog_and_is_asked_again_after_the_least_wait(bench):
    round_ = ask(bench)
    refuse(bench, round_, "a", "incapable")
    refuse(bench, round_, "b", "busy", 900)
    effects = refuse(bench, round_, "c", "busy", 600)
    assert effects == [Append(Parked("me.1.1", "busy", 110_000))]
    assert bench.submit() == [*bench.log[-2:]] and bench.task("me.1.2").state == "pending"  # a new arrival is no news
    bench.after(0.5, hear=tuple("abc"))
    assert len(bench.sends(bench.after(0.11), Cfp)) == 3


def test_all_incapable_is_parked_until_something_changes(bench):
    round_ = ask(bench)
    for node in "ab":
        refuse(bench, round_, node, "incapable")
    assert bench.entries(refuse(bench, round_, "c", "incapable"))[0].reason == "no_capable"


def test_a_winner_whose_link_broke_meanwhile_is_passed_over(bench):
    round_ = ask(bench)
    bid(bench, round_, "a")
    bid(bench, round_, "b", 50)
    bench.directory.get("a").linked = False
    effects = bid(bench, round_, "c", 90)
    assert bench.awarded(effects)[0] == "b"
    assert ("a", "A", "gone") in bench.entries(effects, Decided)[0].refusals


def test_a_task_cancelled_during_its_auction_is_not_awarded(bench):
    from mesh.messages.work import Ask

    round_ = ask(bench)
    bench.give(Ask(1, "cancel", "me.1.1"), "b")
    for node in "abc":
        assert bench.sends(bid(bench, round_, node)) == []
    assert bench.task("me.1.1").state == "cancelled"


def test_of_many_nodes_a_sample_is_asked(bench):
    for node in "defghijkl":
        bench.row(node, GREET)
    assert len(bench.sends(bench.submit(), Cfp)) == 8


def test_a_burst_opens_no_more_auctions_than_allowed():
    bench = Bench(auctions_max=2)
    bench.start()
    for node in "ab":
        bench.row(node, GREET)
    rounds = [message.round for _ in range(5) for to, message in bench.sends(bench.submit(), Cfp) if to == "a"]
    assert rounds == [1, 2]
    bench.give(Bid(1, (BidItem("me.1.1", 0, 1, 0.0, "g"),), 1000), "a")
    effects = bench.give(Bid(1, (BidItem("me.1.1", 0, 1, 0.0, "g"),), 1000), "b")
    assert [message.items[0].task for _, message in bench.sends(effects, Cfp)] == ["me.1.3", "me.1.3"]


def test_auctions_side_by_side_spread_over_equal_nodes(bench):
    rounds = [bench.sends(bench.submit(), Cfp)[0][1].round for _ in range(6)]
    winners = []
    for number, round_ in enumerate(rounds, 1):
        for node in "abc":
            effects = bench.give(Bid(round_, (BidItem(f"me.1.{number}", 0, 0, 0.0, "g"),), 1000), node)
        winners.append(bench.awarded(effects)[0])
    assert sorted(winners) == ["a", "a", "b", "b", "c", "c"]
