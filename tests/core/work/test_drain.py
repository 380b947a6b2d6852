"""Drain at the node: nothing new, back what waits, let end what runs, and say when that is so."""

from __future__ import annotations

import pytest
from manager_bench import Bench as Managers
from workbench import BOSS, Bench, fence, of, sent, started, task_of

from mesh.core.inputs import Drain, HandlerEnded, Leave, MemberRevoked, RequestGone, TurnEnds
from mesh.effects import Reply, Send
from mesh.messages.membership import Load, Offer
from mesh.messages.work import Decline, Release, ResultAck


@pytest.fixture
def bench() -> Bench:
    bench = Bench()
    bench.attach("greet")
    bench.turn(bench.award(1), BOSS)
    bench.turn(bench.award(2), BOSS)
    return bench


def replies(effects: list) -> list:
    return [(effect.request, effect.body) for effect in of(effects, Reply)]


def test_it_gives_back_what_waits_takes_nothing_new_and_lets_end_what_runs(bench):
    effects = bench.turn(Drain(7))
    assert [release.items for release in sent(effects, Release)] == [((task_of(2), fence(), "draining"),)]
    assert replies(effects) == [(7, {"draining": True, "running": 1})]
    (decline,) = sent(bench.turn(bench.award(3), BOSS), Decline)
    assert decline.items == ((task_of(3), fence(), "draining"),)
    assert of(bench.at(bench.now + 2), Reply) == []


def test_who_waits_is_answered_when_every_result_is_acknowledged(bench):
    assert replies(bench.turn(Drain(7, wait_ms=60_000))) == []
    assert replies(bench.turn(HandlerEnded(1, task_of(1), fence(), "ok", b"1"))) == []
    assert replies(bench.turn(ResultAck(((task_of(1), fence()),)), BOSS)) == [(7, {"draining": True, "running": 0})]
    assert replies(bench.at(bench.now + 100)) == []
    assert replies(bench.turn(Drain(8, wait_ms=60_000))) == [(8, {"draining": True, "running": 0})]


def test_who_waits_is_answered_when_his_time_is_over(bench):
    bench.turn(Drain(7, wait_ms=2000))
    assert replies(bench.at(bench.now + 1.9)) == []
    assert replies(bench.at(bench.now + 0.2)) == [(7, {"draining": True, "running": 1})]


def test_who_hangs_up_is_not_answered_and_it_drains_on(bench):
    bench.turn(Drain(7, wait_ms=2000))
    bench.turn(RequestGone(7))
    assert replies(bench.at(bench.now + 5)) == [] and bench.contractor.statistics().draining


def test_undo_opens_it_again(bench):
    bench.turn(Drain(7))
    assert replies(bench.turn(Drain(8, undo=True))) == [(8, {"draining": False, "running": 1})]
    bench.turn(HandlerEnded(1, task_of(1), fence(), "ok", b"1"))
    assert started(bench.turn(bench.award(4), BOSS)) == [(task_of(4), fence())]


@pytest.mark.parametrize("end", [Leave(1), MemberRevoked("me")], ids=["left", "revoked"])
def test_who_has_left_or_was_revoked_does_not_open_again(bench, end):
    bench.turn(end)
    assert replies(bench.turn(Drain(8, undo=True)))[0][1]["draining"] is True


def test_everybody_hears_of_it_with_the_load(bench):
    bench.turn(Drain(7))
    effects: list = []
    for _ in range(2):
        bench.now += 0.5
        effects += bench.node.handle(bench.now, "me", TurnEnds())
    loads = [effect.message for effect in effects if isinstance(effect, Send) and isinstance(effect.message, Load)]
    assert loads and all(load.draining and load.rows[0].room == 0 for load in loads)


def test_a_manager_asks_no_node_that_drains():
    bench = Managers()
    bench.start()
    bench.now += 10
    for node in ("a", "b"):
        bench.row(node, Offer("greet", "greeter"), room=4)
    bench.directory.ensure("a").draining = True
    assert bench.awarded(bench.submit())[0] == "b"
    assert bench.journal[-1].refusals == (("a", "A", "draining"),)
    bench.directory.ensure("b").draining = True
    bench.submit()
    assert (bench.task("me.1.2").state, bench.task("me.1.2").reason) == ("parked", "draining")
