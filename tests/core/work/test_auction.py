"""Auctions: closed when all have answered or are gone, never by waiting alone."""

from __future__ import annotations

import math
from dataclasses import asdict

import pytest
from manager_bench import Bench

from mesh.core.inputs import MemberDied, MemberSuspected, Submit
from mesh.effects import Append, Send
from mesh.inspector.why import recompute
from mesh.messages.membership import Offer
from mesh.messages.records import Candidate, Decided, Parked
from mesh.messages.work import Ask, Award, Bid, BidItem, Cfp, Refuse

GREET = Offer("greet", "greeter")


@pytest.fixture
def bench() -> Bench:
    return three()


def three(**limits: int) -> Bench:
    """Three nodes that offer `greet` and have never run it."""
    bench = Bench(**limits)
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
    assert decided.candidates == (
        Candidate("c", "C", 5, 20, 0.0, "agent-c", version="1"),
        Candidate("b", "B", 0, 20, 0.0, "agent-b", version="1"),
    )
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


def test_auctions_side_by_side_spread_over_equal_nodes():
    bench = three(lots_max=6)
    rounds = [bench.sends(bench.submit(), Cfp)[0][1].round for _ in range(6)]
    winners = []
    for number, round_ in enumerate(rounds, 1):
        for node in "abc":
            effects = bench.give(Bid(round_, (BidItem(f"me.1.{number}", 0, 0, 0.0, "g"),), 1000), node)
        winners.append(bench.awarded(effects)[0])
    assert sorted(winners) == ["a", "a", "b", "b", "c", "c"]


# ---- lots


def crowd(bench: Bench, count: int) -> list[tuple[str, Cfp]]:
    """So many tasks handed in within one turn; what is asked about them."""
    effects = [e for n in range(count) for e in bench.give(Submit(n, "greet", b"{}"), end=n == count - 1)]
    return bench.sends(effects, Cfp)


def curve(bench: Bench, round_: int, node: str, *starts_ms: int, service_ms: int = 10):
    first, *later = starts_ms
    return bench.give(Bid(round_, (BidItem("me.1.1", first, service_ms, 0.0, f"agent-{node}", tuple(later)),), 1000), node)


def winners(effects) -> dict[str, list[str]]:
    return {e.to: [item.task for item in e.message.items] for e in effects if type(e) is Send and type(e.message) is Award}


def test_a_backlog_is_one_question_and_one_award_to_each_node(bench):
    asked = crowd(bench, 6)
    assert [(to, cfp.items[0].task, cfp.items[0].count) for to, cfp in asked] == [(node, "me.1.1", 6) for node in "abc"]
    curve(bench, 1, "a", 0, 10, 20, 30)
    curve(bench, 1, "b", 5, 55)
    effects = curve(bench, 1, "c", 12)
    assert winners(effects) == {"a": ["me.1.1", "me.1.3", "me.1.5", "me.1.6"], "b": ["me.1.2"], "c": ["me.1.4"]}


def test_each_task_of_a_lot_has_a_decision_that_follows_from_its_own_candidates(bench):
    crowd(bench, 3)
    curve(bench, 1, "a", 0, 30)
    curve(bench, 1, "b", 10)
    refuse(bench, 1, "c", "busy")
    decisions = [entry for entry in bench.journal if type(entry) is Decided]
    assert [{c.node: c.start_ms for c in entry.candidates} for entry in decisions] == [{"a": 0, "b": 10}, {"a": 30, "b": 10}, {"a": 30}]
    assert [entry.refusals for entry in decisions] == [
        (("c", "C", "busy"),),
        (("c", "C", "busy"),),
        (("c", "C", "busy"), ("b", "B", "full")),
    ]
    assert [recompute(asdict(entry)) for entry in decisions] == [entry.winner for entry in decisions] == ["a", "b", "a"]


def test_what_the_curves_have_no_room_for_stays_in_line(bench):
    crowd(bench, 4)
    curve(bench, 1, "a", 0)
    curve(bench, 1, "b", 0)
    effects = curve(bench, 1, "c", 0)
    assert sorted(task for tasks in winners(effects).values() for task in tasks) == ["me.1.1", "me.1.2", "me.1.3"]
    assert [(cfp.items[0].task, cfp.items[0].count) for _, cfp in bench.sends(effects, Cfp)] == [("me.1.4", 1)] * 3


def test_a_lot_whose_first_task_is_cancelled_goes_to_the_others(bench):
    crowd(bench, 2)
    bench.give(Ask(1, "cancel", "me.1.1"), "b")
    for node in "ab":
        curve(bench, 1, node, 0)
    assert list(winners(curve(bench, 1, "c", 0)).values()) == [["me.1.2"]]


def test_two_lots_never_ask_for_the_same_tasks(bench):
    assert crowd(bench, 4)[0][1].items[0].count == 4
    assert [cfp.items[0].count for _, cfp in bench.sends(bench.submit(), Cfp)] == [1, 1, 1]
    assert bench.task("me.1.2").state == "bidding"


def test_priced_work_is_asked_about_one_by_one():
    bench = Bench()
    bench.start()
    bench.row("a", Offer("greet", "greeter", priced=True))
    assert [(cfp.items[0].task, cfp.items[0].count) for _, cfp in crowd(bench, 3)] == [("me.1.1", 1), ("me.1.2", 1), ("me.1.3", 1)]


def test_a_lot_is_shown_to_twice_as_many_nodes_as_it_has_tasks():
    bench = three()
    for node in "defghijklmnopqrstuvwxyz":
        bench.row(node, GREET)
    assert len(crowd(bench, 7)) == 14


@pytest.mark.parametrize("starts_ms", [(5, 4), (0, -1), (0, 10**13)])
def test_a_curve_that_falls_is_no_bid(bench, starts_ms):
    crowd(bench, 3)
    assert bench.refused(curve(bench, 1, "a", *starts_ms)) == ["bad_bid"]


def test_a_curve_longer_than_the_lot_is_cut(bench):
    crowd(bench, 2)
    for node in "bc":
        refuse(bench, 1, node, "busy")
    curve(bench, 1, "a", 0, 1, 2, 3, 4)
    assert bench.manager.book.holder("a").out == {"greet": 2}
