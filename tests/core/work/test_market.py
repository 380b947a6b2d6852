"""Whom to ask: eligibility, the cached award, parking and waking, and who wins."""

from __future__ import annotations

import hashlib
from dataclasses import asdict

import pytest
from manager_bench import Bench, started

from mesh.core.inputs import Call, MemberLinked, OffersChanged
from mesh.core.work.market import best, score_ms
from mesh.inspector.why import recompute
from mesh.limits import WorkLimits
from mesh.messages.membership import Load, Offer
from mesh.messages.records import Candidate, Decided, Parked
from mesh.messages.work import Accept, Award, Bid, BidItem, Cfp, Decline, Refuse

GREET = Offer("greet", "greeter")


@pytest.fixture
def bench() -> Bench:
    return started()


# ---- the rule


def test_the_least_score_wins():
    near, far = Candidate("a", "A", 0, 100, 0.0), Candidate("b", "B", 90, 5, 0.004)
    assert (score_ms(near), score_ms(far)) == (100, 99)
    assert best("t", 1, [near, far]) is far


def test_ties_fall_by_hash_and_not_by_order():
    tied = [Candidate(node, node, 0, 10, 0.0) for node in "abcde"]
    expected = min("abcde", key=lambda node: hashlib.sha256(f"t|7|{node}".encode()).hexdigest())
    assert best("t", 7, tied).node == best("t", 7, tied[::-1]).node == expected


def test_the_same_seed_draws_the_same_sample():
    def run(seed: int) -> list[tuple[str, ...]]:
        bench = Bench(seed)
        bench.start()
        for node in "abcdefgh":
            bench.row(node, GREET, room=9)
        for request in range(20):
            bench.give(Call(request, "greet", b"{}"))
        return [tuple(c.node for c in t.decisions[0].candidates) for t in bench.manager.book.tasks.values()]

    assert run(3) == run(3) != run(4)
    assert {len(drawn) for drawn in run(3)} == {3}


# ---- who can be asked


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"state": "dead"}, "dead"),
        ({"state": "left"}, "left"),
        ({"state": "unreachable"}, "unreachable"),
        ({"linked": False}, "not_linked"),
        ({"state": "suspect"}, "suspect"),
    ],
)
def test_who_cannot_be_asked_is_named_with_the_reason(bench, change, reason):
    bench.row("b", GREET, room=9, **change)
    node, _ = bench.awarded(bench.submit())
    assert node == "a"
    assert bench.journal[-1].refusals == (("b", "B", reason),)


def test_a_node_that_was_not_heard_gets_no_lease_and_so_no_award(bench):
    bench.directory.get("a").stamp_ms = 0
    bench.submit()
    assert bench.task("me.1.1").state == "parked"
    bench.hear("a")
    assert bench.awarded(bench.give(MemberLinked("a")))[0] == "a"


def test_a_suspect_is_asked_if_there_is_no_other(bench):
    bench.directory.get("a").state = "suspect"
    assert bench.awarded(bench.submit())[0] == "a"


# ---- the way


def test_fresh_load_with_room_is_awarded_in_one_round_trip(bench):
    bench.row("b", GREET, room=1)
    effects = bench.submit()
    assert bench.sends(effects, Cfp) == []
    (decided,) = bench.entries(effects, Decided)
    assert (decided.way, {c.node for c in decided.candidates}) == ("award", {"a", "b"})
    ((_, award),) = bench.sends(effects, Award)
    assert award.conditional


@pytest.mark.parametrize("load", ["old", "long", "unknown", "priced"])
def test_anything_else_is_auctioned(bench, load):
    bench.row("b", Offer("greet", "greeter", priced=load == "priced"), room=4)
    if load == "old":
        bench.directory.get("b").load_at_s -= 5.1
    elif load == "long":
        bench.load("b", 4, service_ms=1000)
    elif load == "unknown":
        bench.load("b", 4, service_ms=0)
    effects = bench.submit(data=b'{"n":1}')
    asked = bench.sends(effects, Cfp)
    assert [to for to, _ in asked] == ["a", "b"]
    assert [cfp.items[0].input for _, cfp in asked] == [b"", b'{"n":1}' if load == "priced" else b""]
    assert bench.entries(effects, Decided) == []


def test_own_awards_correct_the_cached_load(bench):
    bench.row("b", GREET, room=2)
    bench.load("a", 2)
    took = [bench.awarded(bench.submit())[0] for _ in range(4)]
    assert sorted(took) == ["a", "a", "b", "b"]
    starts = [sorted((c.node, c.start_ms) for c in entry.candidates) for entry in bench.journal if type(entry) is Decided]
    assert starts[0] == [("a", 0), ("b", 0)]
    assert max(start for decided in starts for _, start in decided) == 10
    assert bench.sends(bench.submit(), Award) == []
    assert bench.task("me.1.5").reason == "busy"


# ---- parked, and woken


def test_nobody_capable_parks_a_submit_and_offers_wake_it(bench):
    effects = bench.submit("paint")
    assert bench.entries(effects, Parked) == [Parked("me.1.1", "no_capable", 110_000)]
    assert (bench.task("me.1.1").state, bench.task("me.1.1").reason) == ("parked", "no_capable")
    assert bench.after(60.0) == []
    bench.row("b", Offer("paint", "painter"), room=1)
    assert bench.awarded(bench.give(OffersChanged("b")))[0] == "b"


def test_parking_is_written_once_however_often_it_is_looked_at(bench):
    bench.submit("paint")
    for _ in range(5):
        assert bench.entries(bench.give(MemberLinked("a"))) == []


def test_a_call_to_something_nobody_offers_says_so_and_names_the_nearest(bench):
    assert bench.replies(bench.give(Call(3, "gret", b"{}"))) == [
        (False, {"code": "no_such_capability", "message": "nobody here offers 'gret'; nearest: greet", "fix": "mesh caps"})
    ]


def test_a_young_node_waits_for_discovery_before_it_says_so():
    bench = Bench()
    bench.start()
    assert bench.give(Call(3, "greet", b"{}")) == []
    bench.row("a", GREET, room=1)
    assert bench.awarded(bench.give(OffersChanged("a")))[0] == "a"
    assert bench.replies(bench.after(1.0)) == []
    bench.give(Call(4, "paint", b"{}"))
    assert bench.replies(bench.after(0.4)) == []
    assert [body["code"] for _, body in bench.replies(bench.after(0.11))] == ["no_such_capability"]


def test_a_capability_of_dead_nodes_only_is_not_offered(bench):
    bench.directory.get("a").state = "dead"
    assert [body["code"] for _, body in bench.replies(bench.give(Call(3, "greet", b"{}")))] == ["no_such_capability"]


def test_busy_waits_in_line_and_a_result_lets_the_next_go_first_come_first_served(bench):
    bench.load("a", 1)
    _, first = bench.awarded(bench.submit())
    bench.submit(), bench.submit()
    assert [bench.task(f"me.1.{n}").state for n in (2, 3)] == ["parked", "pending"]
    assert bench.awarded(bench.result(first, "a"))[1].task == "me.1.2"


def test_room_told_by_a_load_wakes_the_line(bench):
    bench.load("a", 0)
    bench.submit()
    bench.now += 0.1
    bench.load("a", 1)
    row = bench.directory.get("a")
    assert bench.awarded(bench.give(Load(2, tuple(row.load.values())), "a"))[1].task == "me.1.1"


def test_a_declined_award_is_tried_again_by_auction_and_then_waits(bench):
    node, item = bench.awarded(bench.submit())
    for _ in range(1):
        effects = bench.give(Decline(((item.task, item.fence, "busy"),)), "a")
        assert [entry.reason for entry in bench.entries(effects) if type(entry).__name__ == "Lost"] == ["declined:busy"]
    assert bench.task(item.task).state == "parked"
    effects = bench.after(0.2, hear=("a",))
    ((_, cfp),) = bench.sends(effects, Cfp)
    bench.give(Refuse(cfp.round, ((item.task, "busy"),), retry_after_ms=700), "a")
    assert (bench.task(item.task).state, bench.task(item.task).reason) == ("parked", "busy")
    assert bench.sends(bench.after(0.69)) == []
    assert len(bench.sends(bench.after(0.02), Cfp)) == 1
    assert node == "a"


def test_a_node_that_bids_and_declines_for_ever_makes_no_storm(bench):
    bench.load("a", 4, service_ms=0)
    from mesh.messages.work import Bid, BidItem

    effects, awards = bench.submit(), 0
    for _ in range(50):
        for to, message in bench.sends(effects):
            if type(message) is Cfp:
                effects = bench.give(Bid(message.round, (BidItem(message.items[0].task, 0, 0, 0.0, "g"),), 1000), to)
                break
            if type(message) is Award:
                awards += 1
                item = message.items[0]
                effects = bench.give(Decline(((item.task, item.fence, "not_ready"),)), to)
                break
        else:
            break
    assert awards == 4
    assert bench.task("me.1.1").state == "backoff"


def test_a_node_that_was_restarted_gets_the_work_within_a_second_of_being_ready(bench):
    """However often it had to decline: what waits for a reattaching node is no failure to back off from."""
    bench.load("a", 4, service_ms=0)
    began, effects = bench.now, bench.submit()
    while bench.now < began + WorkLimits().reattach_s:
        for to, message in bench.sends(effects):
            if type(message) is Cfp:
                effects = bench.give(Bid(message.round, (BidItem(message.items[0].task, 0, 0, 0.0, "g"),), 1000), to)
                break
            if type(message) is Award:
                effects = bench.give(Decline(((message.items[0].task, message.items[0].fence, "not_ready"),)), to)
                break
        else:
            effects = bench.after(0.1, hear=("a",))
    assert bench.task("me.1.1").declines >= 6
    assert bench.task("me.1.1").state == "bidding" or any(bench.sends(bench.after(0.1, hear=("a",)), Cfp) for _ in range(10))


def test_fences_grow_with_every_award(bench):
    fences = []
    _, item = bench.awarded(bench.submit())
    for reason in ("not_ready", "no_file"):
        fences.append(item.fence)
        effects = bench.give(Decline(((item.task, item.fence, reason),)), "a")
        for to, cfp in bench.sends(effects, Cfp):
            from mesh.messages.work import Bid, BidItem

            effects = bench.give(Bid(cfp.round, (BidItem(item.task, 0, 5, 0.0, "g"),), 1000), to)
        _, item = bench.awarded(effects)
    bench.give(Accept(((item.task, item.fence),)), "a")
    assert [*fences, item.fence] == [(1 << 32) + n for n in (1, 2, 3)]


def test_a_link_whose_first_stamp_comes_late_needs_no_fact_to_be_used(bench):
    bench.directory.get("a").stamp_ms = 0
    bench.submit()
    assert bench.awarded(bench.after(0.2, hear=("a",)) + bench.after(0.2))[0] == "a"


# ---- where the files are


@pytest.fixture
def home(bench):
    """This node offers it too, and its own contractor stands elsewhere."""
    bench.node._routes |= {Award: [lambda now, me, award: None], Cfp: [lambda now, me, cfp: None]}
    bench.row("me", GREET, room=4)
    return bench


def test_work_goes_where_its_files_are_unless_it_is_sooner_done_elsewhere_all_the_same(home):
    bench = home
    small, large = (("a" * 64, 50_000),), (("b" * 64, 10_000_000),)
    bench.load("me", 4, service_ms=10)
    bench.load("a", 4, service_ms=5)
    effects = bench.submit(files=small)
    assert bench.awarded(effects)[0] == "a"
    effects = bench.submit(files=large)
    (decided,) = bench.entries(effects, Decided)
    assert decided.winner == "me" == recompute(asdict(decided))
    assert {c.node: c.transfer_ms for c in decided.candidates} == {"me": 0, "a": 200}


def test_bids_carry_the_way_of_the_files_too(home):
    bench = home
    bench.load("a", 4, service_ms=0)
    bench.load("me", 4, service_ms=0)
    effects = bench.submit(files=(("b" * 64, 10_000_000),))
    asked = [(to, cfp) for to, cfp in bench.sends(effects, Cfp)]
    bench.give(Bid(asked[0][1].round, (BidItem("me.1.1", 0, 5, 0.0, "g"),), 1000), "a")
    bench.give(Bid(asked[0][1].round, (BidItem("me.1.1", 100, 50, 0.0, "g"),), 1000), "me")
    (decided,) = [entry for entry in bench.journal if type(entry) is Decided]
    assert (decided.winner, recompute(asdict(decided))) == ("me", "me")
    assert {c.node: c.transfer_ms for c in decided.candidates} == {"me": 0, "a": 200}
