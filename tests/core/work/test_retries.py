"""What is tried again, when, and how much of it: pauses, what a handler asks for, and the budget of the whole manager."""

from __future__ import annotations

import json
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from manager_bench import Bench
from workbench import Bench as Contractors
from workbench import entries, fence, sent, task_of

from mesh.core.inputs import HandlerEnded
from mesh.core.work.budget import RetryBudget
from mesh.core.work.waits import backoff_s
from mesh.limits import WorkLimits
from mesh.messages.membership import Offer
from mesh.messages.records import Ended, Finished
from mesh.messages.work import Accept, Ask, AwardItem, Failure


def bench_of(**limits: float) -> Bench:
    bench = Bench(**limits)
    bench.start()
    bench.now += 10
    bench.row("a", Offer("greet", "greeter", retries=3), room=1000)
    return bench


def fail(bench: Bench, item: AwardItem, retry_after_ms: int = 0) -> list:
    bench.hear("a")
    bench.load("a", room=1000)
    return bench.give(Failure(item.task, item.fence, "error", "no", True, retry_after_ms=retry_after_ms), "a")


def many(bench: Bench, count: int) -> list[AwardItem]:
    items = [bench.awarded(bench.submit())[1] for _ in range(count)]
    bench.give(Accept(tuple((item.task, item.fence) for item in items)), "a")
    return items


def test_the_pause_is_a_random_part_of_a_bound_that_doubles():
    limits = WorkLimits(retry_min_s=1.0, retry_max_s=8.0)
    for failures, most in ((1, 1.0), (2, 2.0), (3, 4.0), (4, 8.0), (9, 8.0), (10_000, 8.0)):
        pauses = [backoff_s(Random(seed), limits, failures) for seed in range(200)]
        assert 0 <= min(pauses) < 0.1 * most and 0.9 * most < max(pauses) < most


def test_the_handlers_wish_is_added_to_the_pause():
    bench = bench_of()
    (item,) = many(bench, 1)
    fail(bench, item, retry_after_ms=30_000)
    bench.after(30.0, hear=("a",))
    assert bench.task(item.task).state == "backoff"
    bench.after(0.3, hear=("a",))
    assert bench.task(item.task).state == "bidding"


def test_a_pause_that_ends_after_the_deadline_is_no_retry():
    bench = bench_of()
    _, item = bench.awarded(bench.submit(timeout_ms=5000))
    (finished,) = bench.entries(fail(bench, item, retry_after_ms=6000), Finished)
    assert json.loads(finished.error)["code"] == "error"  # why it failed, not "timeout"


def test_what_the_handler_asked_for_survives_the_contractors_restart():
    contractor = Contractors()
    contractor.attach("greet")
    contractor.turn(contractor.award(1, durable=True), "boss")
    error = {"kind": "error", "message": "later", "retryable": True, "retry_after_ms": 30_000}
    effects = contractor.turn(HandlerEnded(1, task_of(1), fence(), "error", error=error))
    (failure,) = sent(effects, Failure)
    (ended,) = [entry for entry in entries(effects) if type(entry) is Ended]
    assert failure.retry_after_ms == json.loads(ended.error)["retry_after_ms"] == 30_000


# ---- the budget


def test_beyond_the_budget_retries_wait_their_turn_and_are_seen():
    bench = bench_of(retry_burst=2.0, retry_floor_per_s=1.0, retry_share=0.0, retry_max_s=0.2)
    for item in many(bench, 5):
        fail(bench, item)
    bench.after(0.3, hear=("a",))
    bench.load("a", room=1000)
    states = [task.state for task in bench.manager.book.tasks.values()]
    assert (states.count("offered"), states.count("backoff")) == (2, 3)
    waiting = [task for task in bench.manager.book.tasks.values() if task.state == "backoff"]
    assert {task.reason for task in waiting} == {"retry_budget"}
    statistics = bench.manager.statistics()
    assert (statistics.retries, statistics.retries_delayed, statistics.retries_waiting) == (2, 3, 3)
    bench.after(1.0, hear=("a",))
    assert bench.manager.statistics().retries == 3
    bench.after(2.0, hear=("a",))
    assert (bench.manager.statistics().retries, bench.manager.statistics().retries_waiting) == (5, 0)


def test_one_that_is_cancelled_while_it_waits_takes_no_token():
    bench = bench_of(retry_burst=0.0, retry_floor_per_s=1.0, retry_share=0.0, retry_max_s=0.1)
    first, second = many(bench, 2)
    fail(bench, first)
    fail(bench, second)
    bench.after(0.2)
    assert {task.reason for task in bench.manager.book.tasks.values()} == {"retry_budget"}
    bench.give(Ask(1, "cancel", first.task), "a")
    bench.hear("a")
    bench.load("a", room=9)
    bench.after(1.3)
    assert [task.state for task in bench.manager.book.tasks.values()] == ["offered"]


def test_a_lost_worker_costs_nothing_of_the_budget():
    bench = bench_of(retry_burst=0.0, retry_floor_per_s=0.0)
    bench.row("b", Offer("greet", "greeter"), room=9)
    item = bench.held()
    holder = bench.task(item.task).holder
    assert bench.awarded(bench.give(Failure(item.task, item.fence, "worker_lost", "gone", True), holder))[0] != holder


@given(st.lists(st.tuples(st.floats(0, 10), st.integers(0, 50)), min_size=1, max_size=200))
def test_in_any_span_no_more_than_burst_floor_and_share(turns):
    limits = WorkLimits(retry_burst=5.0, retry_floor_per_s=2.0, retry_share=0.1)
    budget, now, given_, spent = RetryBudget(limits), 0.0, 0, []
    for pause, tasks in turns:
        now, given_ = now + pause, given_ + tasks
        if budget.spend(now, given_):
            spent.append((now, given_))
    for i, (at, before) in enumerate(spent):
        for j in range(i, len(spent)):
            until, after = spent[j]
            assert j - i + 1 <= 5.0 + 2.0 * (until - at) + 0.1 * (after - before) + 1e-6


@pytest.mark.parametrize("floor", [0.0, 0.001])
def test_the_wait_for_a_token_is_bounded(floor):
    budget = RetryBudget(WorkLimits(retry_burst=0.0, retry_floor_per_s=floor, retry_share=0.0))
    assert not budget.spend(1.0, 0) and 0 < budget.wait_s() <= WorkLimits().retry_max_s
