"""Late rebinding: idle nodes ask for work that waits, full ones let go of it, and it moves through its manager under a new fence."""

from __future__ import annotations

from typing import Any

import pytest
import workbench as contractors
from manager_bench import Bench
from workbench import BOSS, OTHER, award_of, item_of, sent, task_of

from mesh.core.inputs import HandlerEnded, Submit
from mesh.effects import Send
from mesh.messages.membership import LoadRow, Offer
from mesh.messages.records import Candidate, Decided
from mesh.messages.work import Accept, Award, Backlog, Decline, Pull, Release

GREET = Offer("greet", "greeter")

# ---- the contractor's half


def busy(service_ms: int = 100, concurrency: int = 1) -> contractors.Bench:
    """One handler that ended after `service_ms`, so that it is known what one takes, and one that runs."""
    b = contractors.Bench()
    b.attach("greet", concurrency=concurrency)
    b.turn(b.award(1), BOSS)
    b.now += service_ms / 1000
    b.turn(ended(1, service_ms=service_ms))
    b.turn(award_of(b.now, item_of(2), grant_ms=60_000), BOSS)
    return b


def ended(counter: int, service_ms: int) -> HandlerEnded:
    return HandlerEnded(1, task_of(counter), contractors.fence(), "ok", b"1", service_ms=service_ms)


def other_is(b: contractors.Bench, busy: int, queued: int) -> None:
    row = b.directory.ensure(OTHER)
    b.directory.set_offers(row, (GREET,))
    row.load, row.load_at_s = {"greet": LoadRow("greet", 1, busy, queued, 1, 100)}, b.now


def test_a_node_that_falls_idle_asks_one_that_is_full() -> None:
    b = busy()
    other_is(b, busy=1, queued=2)
    b.now += 0.1
    assert [(e.to, e.message) for e in b.turn(ended(2, service_ms=100)) if type(e) is Send and type(e.message) is Pull] == [
        (OTHER, Pull("greet", "me", 100))
    ]
    assert len(sent(b.at(b.now + 1.0), Pull)) == b.limits.pulls_max - 1


def test_nobody_is_asked_while_nobody_has_work_that_waits() -> None:
    b = busy()
    other_is(b, busy=0, queued=0)
    b.now += 0.1
    assert sent(b.turn(ended(2, service_ms=100)), Pull) == []


def test_short_work_is_not_pulled() -> None:
    b = busy(service_ms=10)
    other_is(b, busy=1, queued=2)
    b.now += 0.01
    assert sent(b.turn(ended(2, service_ms=10)), Pull) == []


def test_a_manager_with_a_backlog_is_asked_first_until_it_has_none() -> None:
    b = busy()
    other_is(b, busy=1, queued=2)
    assert b.turn(Backlog("greet", 3), BOSS) == []
    b.now += 0.1
    effects = b.turn(ended(2, service_ms=100))
    assert [e.to for e in effects if type(e) is Send and type(e.message) is Pull] == [BOSS]
    effects = b.turn(Backlog("greet", 0), BOSS)
    assert [e.to for e in effects if type(e) is Send and type(e.message) is Pull] == [OTHER]


def test_an_idle_node_that_hears_of_a_backlog_pulls_at_once() -> None:
    b = busy()
    b.now += 0.1
    b.turn(ended(2, service_ms=100))
    assert sent(b.turn(Backlog("greet", 1), BOSS), Pull) == [Pull("greet", "me", 100)]


def test_work_that_would_be_done_sooner_there_is_let_go() -> None:
    b = busy()
    b.turn(award_of(b.now, item_of(3, durable=True), grant_ms=60_000), BOSS)
    effects = b.turn(Pull("greet", OTHER, 100), OTHER)
    (release,) = sent(effects, Release)
    assert release == Release(((task_of(3), contractors.fence(), "pulled"),), OTHER, 100, 100, 100)
    assert [entry.outcome for entry in contractors.entries(effects)] == ["released"]
    assert contractors.started(b.turn(ended(2, service_ms=100))) == []


@pytest.mark.parametrize("service_ms", [196, 400])
def test_a_slow_node_gets_nothing_that_is_done_sooner_here(service_ms: int) -> None:
    b = busy()
    b.turn(award_of(b.now, item_of(3), grant_ms=60_000), BOSS)
    assert b.turn(Pull("greet", OTHER, service_ms), OTHER) == []


def test_what_runs_or_has_files_here_is_not_let_go() -> None:
    b = busy()
    assert b.turn(Pull("greet", OTHER, 1), OTHER) == []
    b.turn(award_of(b.now, item_of(3, files=(("a" * 64, 5),)), grant_ms=60_000), BOSS)
    assert b.turn(Pull("greet", OTHER, 1), OTHER) == []


# ---- the manager's half


@pytest.fixture
def bench() -> Bench:
    """Two nodes that take 100 ms; each runs one of ours and `b` has another in its queue."""
    bench = Bench()
    bench.start()
    bench.now += 10
    for node in "ab":
        bench.row(node, GREET)
        bench.load(node, 2, service_ms=100)
    return bench


def pulls(bench: Bench, effects: list[Any]) -> list[tuple[str, Pull]]:
    return bench.sends(effects, Pull)


def test_released_for_an_idle_node_it_goes_there_under_a_new_fence(bench):
    node, item = bench.awarded(bench.submit())
    other = "ab".replace(node, "")
    bench.give(Accept(((item.task, item.fence),)), node)
    effects = bench.give(Release(((item.task, item.fence, "pulled"),), other, 100, 60, 90), node)
    to, again = bench.awarded(effects)
    assert (to, again.fence) == (other, item.fence + 1)
    (decided,) = bench.entries(effects, Decided)
    assert (decided.way, decided.winner) == ("pull", other)
    assert decided.candidates == (
        Candidate(other, other.upper(), 0, 100, 0.0, "greeter", version="1"),
        Candidate(node, node.upper(), 60, 90, 0.0, "greeter", version="1"),
    )
    assert bench.sends(effects, Award)[0][1].conditional


def test_if_the_idle_node_is_gone_it_is_awarded_as_any_other(bench):
    node, item = bench.awarded(bench.submit())
    bench.directory.get("ab".replace(node, "")).linked = False
    effects = bench.give(Release(((item.task, item.fence, "pulled"),), "ab".replace(node, ""), 100, 60, 90), node)
    assert bench.awarded(effects)[0] == node
    assert bench.entries(effects, Decided)[0].way == "award"


def crowd(bench: Bench, count: int) -> dict[str, list[Any]]:
    effects = [e for n in range(count) for e in bench.give(Submit(n, "greet", b"{}"), end=n == count - 1)]
    return {to: list(award.items) for to, award in bench.sends(effects, Award)}


def test_an_idle_node_is_offered_what_waits_elsewhere(bench):
    given = crowd(bench, 4)
    (one, (first,)), (two, _) = sorted(given.items(), key=lambda pair: len(pair[1]))
    effects = bench.result(first, one)
    assert pulls(bench, effects) == []  # the one in line was for it
    assert pulls(bench, bench.result(bench.awarded(effects)[1], one)) == [(two, Pull("greet", one, 100))]


def test_long_work_waits_for_an_idle_node_and_a_few_nodes_hear_of_it(bench):
    for _ in "ab":
        bench.awarded(bench.submit())
    effects = bench.submit()
    assert bench.sends(effects, Award) == []
    assert bench.sends(effects, Backlog) == [("a", Backlog("greet", 1)), ("b", Backlog("greet", 1))]
    assert bench.sends(bench.submit(), Backlog) == []


def test_whoever_pulls_first_gets_the_first_in_line_and_hears_what_is_left(bench):
    for _ in range(3):
        bench.submit()
    effects = bench.give(Pull("greet", "a", 100), "a")
    to, item = bench.awarded(effects)
    assert (to, item.task) == ("a", "me.1.3")
    assert bench.entries(effects, Decided)[0].way == "pull"
    assert bench.sends(effects, Backlog) == [("a", Backlog("greet", 0))]
    assert bench.sends(bench.give(Pull("greet", "b", 100), "b")) == [("b", Backlog("greet", 0))]


def test_nobody_pulls_in_anothers_name(bench):
    for _ in range(3):
        bench.submit()
    assert bench.give(Pull("greet", "a", 100), "b") == []


def test_a_slow_node_does_not_get_the_last_task_when_a_fast_one_finishes_it_sooner(bench):
    bench.load("a", 1, service_ms=100)
    bench.load("b", 0, service_ms=400)
    assert bench.awarded(bench.submit())[0] == "a"
    bench.load("b", 1, service_ms=400)
    effects = bench.submit()
    assert bench.sends(effects, Award) == [] and bench.task("me.1.2").reason == "busy"
    assert bench.sends(bench.give(Pull("greet", "b", 400), "b")) == [("b", Backlog("greet", 0))]
    for _ in range(3):
        effects += bench.submit()
    assert "b" in {to for to, _ in bench.sends(effects, Award)}


def test_a_puller_that_declines_costs_the_task_nothing_but_a_fence(bench):
    for _ in range(3):
        bench.submit()
    _, item = bench.awarded(bench.give(Pull("greet", "a", 100), "a"))
    bench.give(Decline(((item.task, item.fence, "busy"),)), "a")
    assert bench.awarded(bench.give(Pull("greet", "b", 100), "b"))[1].fence == item.fence + 1
