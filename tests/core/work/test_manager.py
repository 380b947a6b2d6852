"""From the question to the committed result: what leaves, in which order, with which need of the disk."""

from __future__ import annotations

import json

import pytest
from manager_bench import Bench, started

from mesh.core.directory import Guard
from mesh.core.inputs import Call, FileFetched, FileWanted, RequestGone, Submit
from mesh.core.work.taking import KEEPERS_COME_S, UNLED_S
from mesh.effects import Append, Need, Reply, Send
from mesh.ids import content_hash
from mesh.messages.membership import Offer
from mesh.messages.records import Bound, Calls, CancelAsked, Candidate, Decided, Finished, Lost, Submitted
from mesh.messages.work import (
    Accept,
    Answer,
    Ask,
    Award,
    AwardItem,
    Cancel,
    Cancelled,
    Failure,
    Result,
    ResultAck,
    Revoke,
    Superseded,
)

FENCE = 1 << 32
RULE = "least (start_ms + service_ms) * calibration_pct // 100 + transfer_ms + round(1000 * cost) wins; ties: least sha256(task|fence|node)"
INPUT = content_hash(b"{}")
HI = content_hash(b'"hi"')


@pytest.fixture
def bench() -> Bench:
    return started()


def test_a_submit_is_written_decided_and_awarded_in_that_order(bench):
    assert bench.submit(timeout_ms=5000, by="bob") == [
        Append(Submitted("me.1.1", "greet", INPUT, "bob", 5000, -1, at_ms=110_000), {INPUT: b"{}"}),
        Reply(1, True, {"task": "me.1.1", "survives": "restart"}, need=Need.KEPT, after=1),
        Append(Decided("me.1.1", FENCE + 1, "award", RULE, "a", (Candidate("a", "A", 0, 10, 0.0, "greeter", version="1"),), (), 110_000)),
        Send(
            "a",
            Award(
                (AwardItem("me.1.1", FENCE + 1, "greet", INPUT, b"{}", True, left_ms=5000),),
                grant_ms=3000,
                echo_ms=110_007,
                conditional=True,
            ),
            need=Need.KEPT,
            after=2,
        ),
    ]


def test_accept_binds_and_a_result_is_committed_before_it_is_acknowledged(bench):
    _, item = bench.awarded(bench.submit())
    assert bench.give(Accept(((item.task, item.fence),)), "a") == [Append(Bound(item.task, item.fence, 110_000), lazy=True)]
    assert bench.task(item.task).state == "held"
    assert bench.give(Accept(((item.task, item.fence),)), "a") == []  # a duplicate
    assert bench.result(item, "a", agent="greeter", service_ms=3) == [
        Append(Finished(item.task, item.fence, "done", "a", "greeter", HI, service_ms=3, at_ms=110_000), {HI: b'"hi"'}),
        Send("a", ResultAck(((item.task, item.fence),)), need=Need.KEPT, after=4),
    ]


def test_a_result_without_its_accept_counts_as_both(bench):
    _, item = bench.awarded(bench.submit())
    assert [type(e) for e in bench.entries(bench.result(item, "a"))] == [Bound, Finished]


def test_a_repeated_result_is_acknowledged_again_and_committed_once(bench):
    item = bench.held()
    bench.result(item, "a")
    assert bench.result(item, "a") == [Send("a", ResultAck(((item.task, item.fence),)), need=Need.KEPT, after=4)]


def test_a_plain_call_writes_nothing_and_needs_nothing_of_the_disk(bench):
    effects = bench.give(Call(9, "greet", b"{}"))
    to, item = bench.awarded(effects)
    assert (to, item.durable, [e.need for e in effects]) == ("a", False, [Need.FREE])
    effects = bench.result(item, "a")
    assert effects == [
        Reply(9, True, {"task": "me.1.1", "state": "done", "output": b'"hi"', "files": []}, need=Need.FREE),
    ]
    effects = bench.after(0.1)
    assert bench.sends(effects) == [("a", ResultAck(((item.task, item.fence),)))]
    assert [type(entry) for entry in bench.entries(effects)] == [Calls]
    assert bench.journal[0].count == 1


def test_the_acknowledgement_of_a_plain_call_leaves_with_the_next_award(bench):
    _, first = bench.awarded(bench.give(Call(9, "greet", b"{}")))
    bench.load("a", room=3)
    assert bench.sends(bench.result(first, "a")) == []
    acknowledged, awarded = (message for _, message in bench.sends(bench.give(Call(10, "greet", b"{}"))))
    assert (acknowledged.items, type(awarded)) == (((first.task, first.fence),), Award)


def test_awards_of_one_turn_travel_together(bench):
    for request in range(3):
        bench.give(Call(request, "greet", b"{}"), end=False)
    ((_, award),) = bench.sends(bench.give(Submit(7, "greet", b"{}"), end=False) + bench.give(), Award)[:1]
    assert [item.task for item in award.items] == ["me.1.1", "me.1.2", "me.1.3"]


def test_a_result_under_an_old_fence_or_from_somebody_else_is_superseded(bench):
    item = bench.held()
    bench.row("b", Offer("greet", "greeter"))
    effects = bench.result(item, "b")
    assert bench.sends(effects) == [("b", Superseded(((item.task, item.fence),)))]
    assert bench.refused(effects) == ["superseded"]
    assert bench.task(item.task).state == "held"
    assert bench.manager.statistics().late_results == 1


def test_a_result_that_is_not_what_its_hash_says_is_refused(bench):
    item = bench.held()
    assert bench.refused(bench.give(Result(item.task, item.fence, INPUT, b'"hi"'), "a")) == ["bad_output_hash"]
    assert bench.task(item.task).state == "held"


# ---- files


def test_a_result_with_files_is_committed_only_when_they_are_here(bench):
    item = bench.held()
    file = "f" * 64
    assert bench.result(item, "a", files=((file, 12),)) == []
    assert bench.elsewhere.wanted == [FileWanted(file, 12, ("a",))]
    assert bench.task(item.task).state == "committing"
    effects = bench.give(FileFetched(file, True))
    assert [entry.files for entry in bench.entries(effects, Finished)] == [((file, 12),)]
    assert bench.sends(effects) == [("a", ResultAck(((item.task, item.fence),)))]


def test_a_result_whose_files_cannot_be_had_is_run_again(bench):
    item = bench.held()
    file = "f" * 64
    bench.result(item, "a", files=((file, 12),))
    for _ in range(2):
        assert bench.give(FileFetched(file, False)) == []
        bench.after(1.0, hear=("a",))
    assert len(bench.elsewhere.wanted) == 3
    effects = bench.give(FileFetched(file, False))
    assert [entry.reason for entry in bench.entries(effects, Lost)] == ["failed:no_file"]
    assert ("a", Superseded(((item.task, item.fence),))) in bench.sends(effects)
    assert bench.awarded(effects)[1].fence == item.fence + 1


# ---- failures


def fail(bench, item, node="a", kind="error", retryable=True, message="boom"):
    return bench.give(Failure(item.task, item.fence, kind, message, retryable), node)


def test_a_failure_is_final_unless_retries_are_left(bench):
    item = bench.held()
    effects = fail(bench, item)
    (entry,) = bench.entries(effects, Finished)
    assert (entry.state, json.loads(entry.error)["code"], json.loads(entry.error)["message"]) == ("failed", "error", "boom")
    assert bench.sends(effects) == [("a", ResultAck(((item.task, item.fence),)))]


def test_a_retry_waits_a_random_part_of_a_growing_pause(bench):
    item = bench.held(retries=1)
    effects = fail(bench, item)
    assert [entry.reason for entry in bench.entries(effects, Lost)] == ["failed:error"]
    assert bench.task(item.task).state == "backoff"
    _, again = bench.awarded(bench.after(0.2))
    assert (again.fence, again.attempt) == (item.fence + 1, 2)
    bench.give(Accept(((again.task, again.fence),)), "a")
    assert [entry.state for entry in bench.entries(fail(bench, again), Finished)] == ["failed"]


def test_a_failure_that_is_not_retryable_is_final(bench):
    item = bench.held(retries=5)
    assert [e.state for e in bench.entries(fail(bench, item, kind="invalid_argument", retryable=False), Finished)] == ["failed"]


def test_the_offer_says_how_often_to_retry_when_the_submit_does_not(bench):
    bench.row("a", Offer("greet", "greeter", retries=1), room=4)
    fail(bench, bench.held())
    assert bench.task("me.1.1").state == "backoff"


def test_a_lost_worker_sends_the_work_elsewhere_at_once(bench):
    item = bench.held()
    bench.row("b", Offer("greet", "greeter"), room=1)
    effects = fail(bench, item, kind="worker_lost")
    assert bench.awarded(effects)[0] == "b"
    assert bench.entries(effects, Decided)[0].refusals == (("a", "A", "failed_before"),)


def test_work_that_takes_three_workers_with_it_is_failed(bench):
    item = bench.held()
    for _ in range(2):
        _, item = bench.awarded(fail(bench, item, kind="worker_lost"))
    (entry,) = bench.entries(fail(bench, item, kind="worker_lost"), Finished)
    assert (entry.state, json.loads(entry.error)["code"]) == ("failed", "worker_lost")


def test_work_that_must_not_repeat_fails_with_its_worker(bench):
    bench.row("a", Offer("greet", "greeter", on_lost="fail"), room=4)
    (entry,) = bench.entries(fail(bench, bench.held(), kind="worker_lost"), Finished)
    assert json.loads(entry.error)["code"] == "node_lost"


# ---- cancel and timeout


def cancel(bench, task, ask=5):
    return bench.give(Ask(ask, "cancel", task, b'{"by":"bob","reason":"no need"}'))


def answers(effects):
    return [(e.message.ask, e.message.ok, json.loads(e.message.body)) for e in effects if type(e) is Send and type(e.message) is Answer]


def test_what_is_held_is_cancelled_when_its_holder_says_so(bench):
    item = bench.held()
    effects = bench.give(Ask(5, "cancel", item.task, b'{"by":"bob","reason":"no need"}'), "b")
    assert answers(effects) == [(5, True, {"task": item.task, "state": "cancelling"})]
    assert bench.entries(effects) == [CancelAsked(item.task, "bob", "no need", 110_000)]
    assert bench.sends(effects, Cancel) == [("a", Cancel(((item.task, item.fence),), "no need"))]
    effects = bench.give(Cancelled(((item.task, item.fence),)), "a")
    assert [entry.state for entry in bench.entries(effects, Finished)] == ["cancelled"]


def test_a_result_that_comes_while_cancelling_is_not_committed(bench):
    item = bench.held()
    bench.give(Ask(5, "cancel", item.task), "b")
    effects = bench.result(item, "a")
    assert [entry.state for entry in bench.entries(effects, Finished)] == ["cancelled"]
    assert bench.sends(effects) == [("a", Superseded(((item.task, item.fence),)))]


def test_a_silent_holder_delays_a_cancel_by_no_more_than_its_lease(bench):
    item = bench.held()
    bench.give(Ask(5, "cancel", item.task), "b")
    assert [entry.state for entry in bench.entries(bench.after(3.4), Finished)] == []
    assert [entry.state for entry in bench.entries(bench.after(0.2), Finished)] == ["cancelled"]


def test_what_waits_in_line_is_cancelled_at_once(bench):
    bench.submit("nothing")
    effects = bench.give(Ask(5, "cancel", "me.1.1"), "b")
    assert [type(entry) for entry in bench.entries(effects)] == [CancelAsked, Finished]
    assert answers(effects) == [(5, True, {"task": "me.1.1", "state": "cancelled"})]


def test_a_timeout_fails_the_task_and_stops_its_holder(bench):
    item = bench.held(timeout_ms=2000)
    bench.after(1.9, hear=("a",))
    effects = bench.after(0.2)
    (entry,) = bench.entries(effects, Finished)
    assert json.loads(entry.error)["code"] == "timeout"
    assert bench.sends(effects) == [("a", Cancel(((item.task, item.fence),), "timeout"))]
    assert bench.sends(bench.give(Accept(((item.task, item.fence),)), "a")) == []


def test_a_call_dies_with_its_caller(bench):
    _, item = bench.awarded(bench.give(Call(9, "greet", b"{}")))
    assert bench.sends(bench.give(RequestGone(9))) == [("a", Cancel(((item.task, item.fence),), "the caller is gone"))]
    assert bench.replies(bench.give(Cancelled(((item.task, item.fence),)), "a")) == []
    assert bench.task(item.task).state == "cancelled"


# ---- questions


def test_questions_about_a_task_are_answered(bench):
    item = bench.held(by="bob")
    ((_, ok, row),) = answers(bench.give(Ask(1, "task", item.task), "b"))
    assert ok and row["state"] == "held" and row["owner"] == "A" and row["award"] == 1 and row["attempts"] == 1 and row["by"] == "bob"
    ((_, _, rows),) = answers(bench.give(Ask(2, "tasks", ""), "b"))
    assert [r["task"] for r in rows["tasks"]] == [item.task]
    assert bench.give(Ask(3, "result", item.task), "b") == []
    assert answers(bench.result(item, "a")) == [(3, True, {"task": item.task, "state": "done", "result": "hi"})]
    assert answers(bench.give(Ask(4, "result", item.task), "b")) == [(4, True, {"task": item.task, "state": "done", "result": "hi"})]
    ((_, ok, error),) = answers(bench.unknown(Ask(5, "task", "me.1.77"), "b"))
    assert not ok and error["code"] == "unknown_task"


def test_a_call_tells_its_story_while_it_is_remembered():
    bench = Bench(calls_remembered=1, ended_remembered=1)
    bench.start()
    bench.row("a", Offer("greet", "greeter"), room=4)
    for request in (1, 2):
        bench.result(bench.awarded(bench.give(Call(request, "greet", b"{}")))[1], "a")
    assert bench.manager.call_story("me.1.1") is None
    ((_, ok, story),) = answers(bench.give(Ask(1, "call_story", "me.1.2"), "b"))
    assert ok and [entry["kind"] for entry in story["entries"]] == ["Submitted", "Decided", "Finished"]
    bench.after(0.1)
    assert bench.journal[-1].count == 2


def test_the_calls_entry_is_the_root_over_the_stories_leaves(bench):
    import hashlib

    leaves = []
    for request in range(3):
        _, item = bench.awarded(bench.give(Call(request, "greet", b"{}")))
        bench.result(item, "a")
        leaves.append(hashlib.sha256(b"\x00" + bench.manager.call_story(item.task)["leaf"].encode()).digest())
    bench.after(0.1)
    left = hashlib.sha256(b"\x01" + leaves[0] + leaves[1]).digest()
    assert bench.journal[-1].merkle_root == hashlib.sha256(b"\x01" + left + leaves[2]).digest()


def test_without_a_majority_of_its_keepers_nothing_durable_is_taken_and_it_is_said_whom_to_start():
    bench = started()
    bench.row("b", linked=False)
    bench.row("c", linked=False)
    bench.after(KEEPERS_COME_S)
    bench.directory.guard = Guard(keepers=("b", "c"))
    ((ok, body),) = bench.replies(bench.submit())
    assert (ok, body["code"]) == (False, "no_majority") and "cannot be reached" in body["message"]
    assert body["fix"].startswith("mesh up --name B,")


def test_keepers_that_are_here_and_do_not_follow_are_told_of_once_it_is_no_election_any_more():
    bench = started()
    bench.row("b")
    bench.row("c")
    bench.directory.guard = Guard(keepers=("b", "c"), unled_since_s=bench.now)
    bench.after(UNLED_S - 0.1)
    assert bench.replies(bench.submit())[0][0]
    bench.after(0.2)
    ((ok, body),) = bench.replies(bench.submit())
    assert (ok, body["code"]) == (False, "no_majority") and "B and C" in body["message"] and "do not follow it" in body["message"]


def test_a_full_manager_and_an_oversized_input_say_so():
    bench = Bench(tasks_max=1, body_bytes_max=10)
    bench.start()
    assert [(ok, body["code"]) for ok, body in bench.replies(bench.give(Call(1, "greet", b"x" * 11)))] == [(False, "too_big")]
    bench.submit()
    assert [(ok, body["code"]) for ok, body in bench.replies(bench.give(Submit(2, "greet", b"{}")))] == [(False, "overloaded")]


def test_work_for_this_node_itself_leaves_without_waiting_for_another_turn():
    bench = Bench()
    bench.elsewhere.inputs[Award] = lambda now, me, award: bench.elsewhere.local.append(award)
    bench.elsewhere.inputs[Revoke] = bench.elsewhere.inputs[ResultAck] = lambda now, me, message: None
    from mesh.core.node import Node

    bench.node = Node("me", (bench.manager, bench.elsewhere), bench.deadlines)
    bench.start()
    bench.row("me", Offer("greet", "greeter"), room=1)
    bench.give(Call(1, "greet", b"{}"))
    (award,) = bench.elsewhere.local
    assert award.echo_ms == 100_000
    effects = bench.node.handle(bench.now, "me", Result(award.items[0].task, award.items[0].fence, HI, b'"hi"'))
    assert [body["state"] for _, body in bench.replies(effects)] == ["done"]
