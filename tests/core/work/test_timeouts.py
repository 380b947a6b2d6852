"""Time as a reason to end: how long work may wait, run, and be silent; and that deadlines only shrink on the way down."""

from __future__ import annotations

import json
from typing import Any

import manager_bench
import pytest
from manager_bench import Bench, started
from workbench import Bench as Contractors
from workbench import entries, fence, item_of, of, sent, task_of
from workbench import started as runs_of

from mesh.core.inputs import Call, HandlerEnded, HandlerProgress, HandlerWaits, OffersChanged
from mesh.effects import Execute, Stop
from mesh.limits import WorkLimits
from mesh.messages.membership import Offer
from mesh.messages.records import Decided, Ended, Finished, Lost
from mesh.messages.work import Award, Cfp, CfpItem, Decline, Failure, Refuse, Release, StepAsk


@pytest.fixture
def bench() -> Bench:
    return started()


def code(bench: Bench, task: str) -> str:
    error = bench.task(task).error
    return str(error["code"]) if error is not None else ""


# ---- queue


def test_work_that_nobody_takes_within_its_queue_timeout_fails(bench):
    bench.load("a", room=0)
    bench.submit(bounds=(2000, 0, 0))
    bench.after(1.9)
    assert bench.task("me.1.1").state != "failed"
    (finished,) = bench.entries(bench.after(0.2), Finished)
    assert json.loads(finished.error)["code"] == "timeout" and "queue timeout" in json.loads(finished.error)["message"]


def test_the_offers_queue_timeout_counts_where_the_caller_says_nothing(bench):
    bench.row("a", Offer("greet", "greeter", queue_timeout_ms=1000), room=0)
    bench.submit()
    bench.submit(bounds=(5000, 0, 0))
    bench.after(1.1)
    assert (bench.task("me.1.1").state, code(bench, "me.1.1")) == ("failed", "timeout")
    assert bench.task("me.1.2").state != "failed"


def test_an_offer_that_comes_later_brings_its_queue_timeout(bench):
    bench.submit("paint")
    bench.row("b", Offer("paint", "painter", queue_timeout_ms=1000), room=0)
    bench.give(OffersChanged("b"))
    bench.after(1.1)
    assert code(bench, "me.1.1") == "timeout"


def test_what_was_taken_in_time_is_not_ended_by_its_queue_timeout(bench):
    item = bench.held(bounds=(1000, 0, 0))
    bench.after(2.0, hear=("a",))
    assert bench.task(item.task).state == "held"


# ---- deadlines


def test_an_award_says_what_is_left_and_how_long_a_run_may_take(bench):
    bench.row("a", Offer("greet", "greeter", timeout_ms=900, heartbeat_ms=400), room=4)
    _, item = bench.awarded(bench.submit(timeout_ms=5000))
    assert (item.timeout_ms, item.left_ms, item.heartbeat_ms) == (900, 5000, 400)
    _, item = bench.awarded(bench.submit(bounds=(0, 300, 200)))
    assert (item.timeout_ms, item.left_ms, item.heartbeat_ms) == (300, 0, 200)


@pytest.mark.parametrize(("asked_ms", "left_ms"), [(0, 3000), (1000, 1000), (60_000, 3000)])
def test_a_step_never_gets_more_time_than_its_parent_has_left(bench, asked_ms, left_ms):
    bench.row("b", Offer("paint", "painter"), room=4)
    parent = bench.held(timeout_ms=5000)
    bench.after(2.0, hear=("a", "b"))
    bench.load("b", room=4)
    effects = bench.give(StepAsk(1, parent.task, parent.fence, "one", "paint", b"{}", asked_ms), "a")
    assert bench.awarded(effects)[1].left_ms == left_ms


def test_when_all_who_are_asked_decline_for_the_deadline_it_fails_at_once(bench):
    bench.row("a", Offer("greet", "greeter", priced=True), room=4)
    ((_, cfp),) = bench.sends(bench.submit(timeout_ms=700), Cfp)
    assert cfp.items[0].left_ms == 700
    bench.give(Refuse(cfp.round, (("me.1.1", "deadline"),)), "a")
    assert (bench.task("me.1.1").state, code(bench, "me.1.1")) == ("failed", "timeout")


def practised(contractor: Contractors, service_ms: int, runs: int = 8) -> None:
    """So many runs of so long have been measured."""
    for counter in range(100, 100 + runs):
        contractor.turn(contractor.award(counter), "boss")
        contractor.turn(HandlerEnded(1, task_of(counter), fence(), "ok", b"1", service_ms=service_ms))


def test_a_contractor_declines_what_cannot_end_in_time():
    contractor = Contractors()
    contractor.attach("greet")
    practised(contractor, 500)
    (decline,) = sent(contractor.turn(contractor.award(1, left_ms=400), "boss"), Decline)
    assert decline.items == ((task_of(1), fence(), "deadline"),)
    (refuse,) = sent(contractor.turn(Cfp(1, (CfpItem(task_of(2), "greet", "", b"", 0, left_ms=400),)), "boss"), Refuse)
    assert refuse.items == ((task_of(2), "deadline"),)
    assert runs_of(contractor.turn(contractor.award(3, left_ms=600), "boss")) == [(task_of(3), fence())]


def test_a_cold_start_alone_turns_nothing_away():
    contractor = Contractors()
    contractor.attach("greet")
    practised(contractor, 5000, runs=1)
    assert runs_of(contractor.turn(contractor.award(1, left_ms=400), "boss")) == [(task_of(1), fence())]


def test_time_in_the_queue_is_taken_from_the_run_and_what_is_too_late_is_given_back():
    contractor = Contractors()
    contractor.attach("greet")
    contractor.turn(contractor.award(1), "boss")
    contractor.turn(contractor.award(2, left_ms=2000, timeout_ms=5000), "boss")
    contractor.turn(contractor.award(3, left_ms=1000), "boss")
    contractor.at(contractor.now + 1.5)
    (execute,) = of(contractor.turn(HandlerEnded(1, task_of(1), fence(), "ok", b"1")), Execute)
    assert (execute.task, execute.timeout_ms) == (task_of(2), 500)
    (release,) = sent(contractor.turn(HandlerEnded(1, task_of(2), fence(), "ok", b"1")), Release)
    assert release.items == ((task_of(3), fence(), "deadline"),)


# ---- heartbeats


def silent(**offer: Any) -> Contractors:
    contractor = Contractors(WorkLimits(lease_s=60.0))
    contractor.attach("greet", **offer)
    award = Award((item_of(1, heartbeat_ms=2000, durable=True),), 60_000, 100_000)
    assert runs_of(contractor.turn(award, "boss"))
    return contractor


def test_a_silent_handler_is_stopped_and_reported_when_it_has_ended():
    contractor = silent()
    assert of(contractor.at(102.0), Stop) == []
    (stop,) = of(effects := contractor.at(103.0), Stop)
    assert stop.reason == "heartbeat" and sent(effects, Failure) == []  # it may still be at work
    effects = contractor.turn(HandlerEnded(1, task_of(1), fence(), "cancelled"))
    ((failure),) = sent(effects, Failure)
    assert (failure.kind, failure.retryable) == ("heartbeat", True)
    assert [entry.outcome for entry in entries(effects) if type(entry) is Ended] == ["heartbeat"]


def test_one_that_does_not_stop_is_reported_all_the_same_and_keeps_its_slot():
    contractor = silent()
    failure = sent(contractor.at(108.6), Failure)[0]
    assert failure.kind == "heartbeat"
    assert contractor.contractor.statistics().busy == 1


def test_idempotent_work_goes_elsewhere_without_waiting_for_its_end():
    failure = sent(silent(idempotent=True).at(103.0), Failure)[0]
    assert failure.kind == "heartbeat"


def test_progress_is_a_sign_of_life_and_so_is_waiting_for_a_step():
    contractor = silent()
    contractor.at(101.5)
    contractor.turn(HandlerProgress(1, task_of(1), fence(), 0.1, ""))
    assert of(contractor.at(103.4), Stop) == []
    contractor.turn(HandlerWaits(1, task_of(1), fence(), True))
    assert of(contractor.at(120.0), Stop) == []
    contractor.turn(HandlerWaits(1, task_of(1), fence(), False))
    assert of(contractor.at(121.9), Stop) == []
    assert len(of(contractor.at(123.0), Stop)) == 1


def test_the_manager_tries_what_was_stuck_elsewhere_whatever_its_retries_are(bench):
    bench.row("b", Offer("greet", "greeter"), room=4)
    item = bench.held()
    holder = bench.task(item.task).holder
    effects = bench.give(Failure(item.task, item.fence, "heartbeat", "silent", True), holder)
    assert [entry.reason for entry in bench.entries(effects, Lost)] == ["failed:heartbeat"]
    assert bench.awarded(effects)[0] == ({"a", "b"} - {holder}).pop()


def test_bounds_survive_a_restart(bench):
    bench.load("a", room=0)
    bench.submit(bounds=(60_000, 300, 200))
    again = manager_bench.Bench(incarnation=2)
    again.start(*bench.journal, bodies=bench.bodies)
    assert again.task("me.1.1").bounds == (60_000, 300, 200)
    again.row("a", Offer("greet", "greeter"), room=4)
    _, item = again.awarded(again.give(OffersChanged("a")))
    assert (item.timeout_ms, item.heartbeat_ms) == (300, 200)
    assert type(again.journal[-1]) is Decided


def test_a_plain_call_has_bounds_too(bench):
    bench.load("a", room=0)
    bench.give(Call(9, "greet", b"{}", bounds=(1000, 0, 0)))
    ((ok, body),) = bench.replies(bench.after(1.1))
    assert ok and body["error"]["code"] == "timeout"
