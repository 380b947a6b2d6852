"""A manager comes back from its own journal: it asks the holders before it awards anything again."""

from __future__ import annotations

import json

import pytest
from manager_bench import Bench, started

from mesh.core.directory import Guard, Heir
from mesh.core.inputs import Call, MemberDied, MemberLinked, MemberRevoked, OffersChanged
from mesh.core.keeping.inputs import Leading, LogSettled
from mesh.core.work.fold import Fold
from mesh.messages.membership import Offer
from mesh.messages.records import Finished, Lost
from mesh.messages.work import Answer, Ask, Award, Beat, BeatItem, Cancel, Reclaim, Reclaimed, Result, ResultAck, Superseded

GREET = Offer("greet", "greeter")


def again(before: Bench, *, meets: bool = True) -> Bench:
    """The same node, a moment later, from the journal that `before` wrote."""
    bench = Bench(incarnation=2)
    bench.now = before.now + 1.0
    bench.start(*before.journal, bodies=before.bodies)
    bench.restarted = bench.log[:]
    if meets:
        bench.row("a", GREET, room=4)
        bench.restarted += bench.give(MemberLinked("a"))
    return bench


@pytest.fixture
def before() -> Bench:
    return started()


def test_held_work_is_reclaimed_and_goes_on(before):
    item = before.held()
    bench = again(before)
    assert bench.sends(bench.restarted) == [("a", Reclaim(((item.task, item.fence),), 3000, 111_007))]
    assert bench.give(Reclaimed(((item.task, item.fence, "running"),)), "a") == []
    assert bench.task(item.task).state == "held"
    bench.hear("a")
    assert len(bench.sends(bench.give(Beat((BeatItem(item.task, item.fence, "running"),)), "a"))) == 1
    assert [e.state for e in bench.entries(bench.result(item, "a"), Finished)] == ["done"]


def test_offered_work_that_runs_there_is_bound_by_the_answer(before):
    _, item = before.awarded(before.submit())
    bench = again(before)
    bench.give(Reclaimed(((item.task, item.fence, "running"),)), "a")
    assert (bench.task(item.task).state, bench.task(item.task).attempts) == ("held", 1)


def test_unknown_is_awarded_again_under_a_new_fence(before):
    item = before.held()
    bench = again(before)
    effects = bench.give(Reclaimed(((item.task, item.fence, "unknown"),)), "a")
    assert [e.reason for e in bench.entries(effects, Lost)] == ["unknown"]
    to, award = bench.awarded(effects)
    assert (to, award.fence, award.input) == ("a", item.fence + 1, b"{}")


def test_a_result_that_waited_is_committed(before):
    item = before.held()
    bench = again(before)
    bench.give(Reclaimed(((item.task, item.fence, "result"),)), "a")
    effects = bench.result(item, "a")
    assert bench.sends(effects) == [("a", ResultAck(((item.task, item.fence),)))]


def test_reclaim_is_repeated_until_it_is_answered(before):
    item = before.held()
    bench = again(before)
    bench.now += 0.5
    bench.hear("a")
    assert len(bench.sends(bench.give(), Reclaim)) == 1
    bench.give(Reclaimed(((item.task, item.fence, "running"),)), "a")
    assert bench.sends(bench.after(0.6), Reclaim) == []


def test_nothing_is_awarded_again_before_a_lease_and_its_margin_from_the_start(before):
    before.held()
    bench = again(before, meets=False)
    bench.row("b", GREET, room=1)
    bench.give(OffersChanged("b"))
    assert bench.sends(bench.after(3.45, hear=("b",))) == []
    effects = bench.after(0.1)
    assert [e.reason for e in bench.entries(effects, Lost)] == ["lease_over"]
    assert bench.awarded(effects)[0] == "b"


IDEMPOTENT = Offer("greet", "greeter", idempotent=True)


def test_idempotent_work_of_a_former_life_goes_elsewhere_at_once_when_its_holder_is_gone(before):
    """No journal says that it is idempotent: who offers it does."""
    before.row("a", IDEMPOTENT, room=4)
    item = before.held()
    bench = again(before)
    bench.row("a", IDEMPOTENT, room=4, linked=False, state="dead")
    bench.row("b", IDEMPOTENT, room=4)
    effects = bench.give(MemberDied("a"))
    assert [e.reason for e in bench.entries(effects, Lost)] == ["dead"]
    node, award = bench.awarded(effects)
    assert (node, award.fence) == ("b", item.fence + 1)


def test_a_holder_that_was_gone_before_the_log_was_taken_over_brings_no_more_news(before):
    before.row("a", IDEMPOTENT, room=4)
    before.held()
    bench = Bench(incarnation=2)
    bench.now = before.now + 1.0
    bench.row("a", IDEMPOTENT, room=4, linked=False, state="dead")
    bench.row("b", IDEMPOTENT, room=4)
    effects = bench.start(*before.journal, bodies=before.bodies)
    assert [e.reason for e in bench.entries(effects, Lost)] == ["dead"]
    assert bench.awarded(effects)[0] == "b"


def test_work_that_waited_is_awarded_when_somebody_comes(before):
    before.directory.get("a").linked = False
    before.submit()
    assert before.task("me.1.1").state == "parked"
    bench = again(before)
    assert bench.awarded(bench.restarted)[1].task == "me.1.1"


def test_a_parked_task_is_not_written_as_parked_again(before):
    before.submit("paint")
    assert bench_entries(again(before)) == []


def bench_entries(bench: Bench) -> list:
    return bench.entries(bench.restarted)


def test_ended_tasks_keep_their_answer(before):
    item = before.held()
    before.result(item, "a")
    bench = again(before)
    assert bench_entries(bench) == []
    ((_, answer),) = bench.sends(bench.give(Ask(1, "result", item.task), "a"))
    assert answer.body == b'{"task":"me.1.1","state":"done","result":"hi"}'
    assert bench.sends(bench.result(item, "a")) == [("a", ResultAck(((item.task, item.fence),)))]


def test_a_cancel_that_was_asked_for_is_finished(before):
    item = before.held()
    before.give(Ask(1, "cancel", item.task), "b")
    bench = again(before, meets=False)
    assert bench.sends(bench.restarted, Cancel) == [("a", Cancel(((item.task, item.fence),), "cancelled"))]
    bench.row("a", GREET, room=4)
    bench.give(MemberLinked("a"))
    effects = bench.give(Beat((BeatItem(item.task, item.fence, "running"),)), "a")
    assert bench.sends(effects) == [("a", Cancel(((item.task, item.fence),), "cancelled"))]
    assert [e.state for e in bench.entries(bench.after(3.6), Finished)] == ["cancelled"]


def test_plain_calls_of_the_former_life_are_superseded(before):
    _, item = before.awarded(before.give(Call(1, "greet", b"{}")))
    bench = again(before)
    assert bench.sends(bench.give(Beat((BeatItem(item.task, item.fence, "running"),)), "a")) == [
        ("a", Superseded(((item.task, item.fence),)))
    ]
    assert bench.sends(bench.give(Result(item.task, item.fence, "", b""), "a")) == [("a", Superseded(((item.task, item.fence),)))]


def test_new_tasks_never_reuse_an_old_id(before):
    before.submit()
    bench = again(before)
    bench.give(Reclaimed((("me.1.1", 1 << 32 | 1, "unknown"),)), "a")
    bench.submit()
    assert "me.2.1" in bench.manager.book.tasks


def test_retries_and_faults_are_counted_over_the_restart(before):
    from mesh.messages.work import Failure

    item = before.held(retries=1)
    before.give(Failure(item.task, item.fence, "error", "boom", True), "a")
    bench = again(before)
    _, item = bench.awarded(bench.restarted)
    effects = bench.give(Failure(item.task, item.fence, "error", "boom", True), "a")
    assert [e.state for e in bench.entries(effects, Finished)] == ["failed"]


def test_the_fold_of_the_journal_is_what_the_manager_knows(before):
    for _ in range(6):
        before.submit()
    items = [item for _, m in before.sends(before.log, Award) for item in m.items]
    before.result(items[0], "a")
    before.result(items[1], "a")
    fold = Fold()
    for entry in before.journal:
        fold.apply(entry, before.bodies)
    for name, task in fold.tasks.items():
        live = before.task(name)
        shown = "pending" if live.state == "parked" and not live.parked_told else live.state
        assert (task.state, task.fence, task.holder, task.attempts) == (shown, live.fence, live.holder, live.attempts)


def test_steps_are_in_their_parents_after_a_restart(before):
    from mesh.messages.work import StepAsk, StepDone

    before.row("b", Offer("paint", "painter"), room=4)
    parent = before.held()
    _, child = before.awarded(before.give(StepAsk(1, parent.task, parent.fence, "one", "paint", b"{}"), "a"))
    before.result(child, "b")
    bench = again(before)
    bench.give(Reclaimed(((parent.task, parent.fence, "running"),)), "a")
    effects = bench.give(StepAsk(2, parent.task, parent.fence, "one", "paint", b"{}"), "a")
    assert bench.sends(effects) == [("a", StepDone(2, child.task, "done", b'"hi"', ended_ms=110000))]


def test_what_a_node_said_before_it_was_revoked_is_not_taken_once_the_keepers_follow(before):
    item = before.held()
    bench = Bench(incarnation=2)
    bench.directory.guard = Guard(leads=False)
    bench.start(*before.journal, bodies=before.bodies)
    bench.row("a", GREET, room=4)
    bench.row("b", GREET, room=4)
    assert bench.result(item, "a") == [], "whether the task is still this node's is not known yet"
    bench.directory.outlaw("a")
    bench.give(MemberRevoked("a"))
    assert bench.entries(bench.give(Leading(0)), Finished) == []
    assert bench.manager.book.counts["node_revoked"] == 1


def test_a_question_about_a_task_that_others_took_over_does_not_wait_for_the_keepers(before):
    item = before.held()
    bench = Bench(incarnation=2)
    bench.directory.guard = Guard(leads=False)
    bench.start(*before.journal, bodies=before.bodies)
    bench.row("b")
    question = Ask(4, "result", item.task, b"{}")
    assert bench.give(question, "a") == [], "nothing is known yet"
    bench.directory.inherit("me", Heir(1, 9, 2, "b"))
    (told,) = bench.sends(bench.give(LogSettled("me", 2, (2,))), Answer)
    assert told[0] == "a" and json.loads(told[1].body)["manager"] == "b"
    assert [to for to, _ in bench.sends(bench.give(question, "c"), Answer)] == ["c"], "now it is known"
    own = Ask(5, "result", "me.1.99", b"{}")
    assert bench.give(own, "a") == [], "what others did not take over waits on"
