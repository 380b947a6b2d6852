"""Steps: one child per name, replayed to every later attempt of the parent."""

from __future__ import annotations

import json

import pytest
from manager_bench import Bench, started

from mesh.core.inputs import BodyRead, Call, OffersChanged
from mesh.effects import Need, ReadBody, Send
from mesh.ids import content_hash
from mesh.messages.membership import Offer
from mesh.messages.records import CancelAsked, Finished, Submitted
from mesh.messages.work import Accept, Ask, Cancel, Failure, Release, StepAsk, StepDone, StepSeen


@pytest.fixture
def bench() -> Bench:
    bench = started()
    bench.row("b", Offer("paint", "painter"), room=4)
    return bench


def step(bench: Bench, parent, name: str = "one", node: str = "a", ask: int = 1, **changed):
    fields = {"capability": "paint", "input": b'{"c":"red"}'} | changed
    return bench.give(StepAsk(ask, parent.task, parent.fence, name, **fields), node)


def done(effects) -> list[StepDone]:
    return [e.message for e in effects if type(e) is Send and type(e.message) is StepDone]


def code(effects) -> str:
    (message,) = done(effects)
    assert message.state == "refused"
    return json.loads(message.error)["code"]


def test_a_step_is_a_child_task_and_its_end_is_told(bench):
    parent = bench.held()
    effects = step(bench, parent)
    (entry,) = bench.entries(effects, Submitted)
    assert (entry.parent, entry.step, entry.by) == (parent.task, "one", "greeter")
    assert bench.sends(effects, StepSeen) == [("a", StepSeen(1, "me.1.2"))]
    node, child = bench.awarded(effects)
    assert (node, child.parent, child.durable) == ("b", parent.task, True)
    effects = bench.result(child, "b", b'"red"')
    assert done(effects) == [StepDone(1, "me.1.2", "done", b'"red"', ended_ms=110000)]
    assert [e.need for e in effects if type(e) is Send and type(e.message) is StepDone] == [Need.KEPT]


def test_a_step_has_the_tries_that_its_parent_gives_it(bench):
    parent = bench.held()
    entries = [bench.entries(step(bench, parent, f"s{tries}", retries=tries), Submitted)[0] for tries in (-1, 0, 3)]
    assert [entry.retries for entry in entries] == [-1, 0, 3]


def test_asking_again_starts_nothing_and_answers_from_the_record(bench):
    parent = bench.held()
    _, child = bench.awarded(step(bench, parent))
    effects = step(bench, parent, ask=2)
    assert bench.sends(effects) == [("a", StepSeen(2, "me.1.2"))] and bench.entries(effects) == []
    assert [message.ask for message in done(bench.result(child, "b"))] == [1, 2]
    assert done(step(bench, parent, ask=3)) == [StepDone(3, "me.1.2", "done", b'"hi"', ended_ms=110000)]


def test_the_next_attempt_of_the_parent_gets_the_same_results(bench):
    parent = bench.held()
    _, child = bench.awarded(step(bench, parent))
    bench.result(child, "b")
    _, again = bench.awarded(bench.give(Release(((parent.task, parent.fence, "draining"),)), "a"))
    assert done(step(bench, again, ask=9)) == [StepDone(9, child.task, "done", b'"hi"', ended_ms=110000)]
    assert code(step(bench, parent)) == "stale_fence"


def test_a_large_result_is_read_back_from_the_store(bench):
    parent = bench.held()
    _, child = bench.awarded(step(bench, parent))
    big = json.dumps("x" * 10_000).encode()
    bench.result(child, "b", big)
    ((read),) = [e for e in step(bench, parent, ask=2) if type(e) is ReadBody]
    assert read.hash == content_hash(big)
    assert done(bench.give(BodyRead(read.token, big))) == [StepDone(2, child.task, "done", big, ended_ms=110000)]
    assert bench.give(BodyRead(read.token, big)) == [] == bench.give(BodyRead(1, b""))
    ((read),) = [e for e in bench.give(Ask(4, "result", child.task), "b") if type(e) is ReadBody]
    ((_, answer),) = bench.sends(bench.give(BodyRead(read.token, big)))
    assert json.loads(answer.body)["result"] == "x" * 10_000


@pytest.mark.parametrize("changed", [{"capability": "greet"}, {"input": b"{}"}])
def test_other_work_under_the_same_name_is_refused(bench, changed):
    parent = bench.held()
    step(bench, parent)
    assert code(step(bench, parent, **changed)) == "step_changed"


def test_only_the_holder_under_the_newest_fence_may_ask(bench):
    parent = bench.held()
    assert code(step(bench, parent, node="b")) == "stale_fence"
    parent.fence += 1
    assert code(step(bench, parent)) == "stale_fence"
    parent.task = "me.1.99"
    assert code(step(bench, parent)) == "parent_ended"
    parent.task = "other.1.1"
    assert code(step(bench, parent)) == "not_my_task"


def test_a_step_counts_as_the_accept_that_is_still_on_its_way(bench):
    _, parent = bench.awarded(bench.submit())
    assert bench.awarded(step(bench, parent))[0] == "b"
    assert bench.task(parent.task).state == "held"


def test_a_failed_step_is_told_with_its_error(bench):
    parent = bench.held()
    _, child = bench.awarded(step(bench, parent))
    bench.give(Accept(((child.task, child.fence),)), "b")
    (message,) = done(bench.give(Failure(child.task, child.fence, "error", "no red", False), "b"))
    assert (message.state, json.loads(message.error)["message"]) == ("failed", "no red")


def test_cancelling_a_parent_cancels_its_steps(bench):
    parent = bench.held()
    _, child = bench.awarded(step(bench, parent))
    effects = bench.give(Ask(7, "cancel", parent.task), "b")
    assert [entry.task for entry in bench.entries(effects, CancelAsked)] == [parent.task, child.task]
    assert bench.sends(effects, Cancel) == [
        ("a", Cancel(((parent.task, parent.fence),), "cancelled")),
        ("b", Cancel(((child.task, child.fence),), "parent cancelled")),
    ]


def test_a_parents_end_takes_open_steps_with_it(bench):
    parent = bench.held()
    step(bench, parent, "two", capability="nothing")
    effects = bench.result(parent, "a")
    assert [(entry.task, entry.state) for entry in bench.entries(effects, Finished)] == [("me.1.1", "done"), ("me.1.2", "cancelled")]


def test_a_durable_step_nobody_offers_waits_for_somebody(bench):
    parent = bench.held()
    effects = step(bench, parent, capability="dance")
    assert done(effects) == []
    bench.row("c", Offer("dance", "dancer"), room=1)
    assert bench.awarded(bench.give(OffersChanged("c")))[0] == "c"


def test_a_step_of_a_plain_call_is_plain(bench):
    _, parent = bench.awarded(bench.give(Call(1, "greet", b"{}")))
    bench.give(Accept(((parent.task, parent.fence),)), "a")
    effects = step(bench, parent)
    assert bench.entries(effects) == [] and not bench.awarded(effects)[1].durable
    assert {e.need for e in effects if type(e) is Send} == {Need.FREE}


def test_a_steps_files_are_at_its_worker_too(bench):
    parent = bench.held()
    _, child = bench.awarded(step(bench, parent, files=(("f" * 64, 3),)))
    assert (child.files, child.sources) == ((("f" * 64, 3),), ("me", "a"))


def test_a_step_whose_parents_end_is_on_disk_without_it_is_cancelled_after_the_restart(bench):
    """The two entries of one turn may be on either side of a crash."""
    parent = bench.held()
    step(bench, parent)
    journal = [*bench.journal, Finished(parent.task, parent.fence, "done", "a")]
    again = Bench(incarnation=2)
    effects = again.start(*journal, bodies=bench.bodies)
    assert [entry.reason for entry in again.entries(effects, CancelAsked)] == ["parent ended"]
    assert again.task("me.1.2").state == "cancelling"
