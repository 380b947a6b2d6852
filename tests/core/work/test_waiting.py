"""The manager's rules for waits: on record first, only what fits, and the same outcome for whoever manages later."""

from __future__ import annotations

import json
from typing import Any

import pytest
from manager_bench import Bench, started

from mesh.core.inputs import Call, Submit
from mesh.core.work.gates import verdict_of, wait_of
from mesh.core.work.task import WAITING, Said, Task
from mesh.effects import Append, Need, Send
from mesh.ids import content_hash
from mesh.messages.records import Answered, Finished, Submitted
from mesh.messages.signed import Signed
from mesh.messages.waits import WAIT, Verdict
from mesh.messages.work import Answer, Ask, StepAsk, StepDone, StepSeen

GATE = {"wait": "gate", "name": "pay", "question": "pay?", "subject": 3}


def waits(bench: Bench, parent: Any, arguments: dict[str, Any], name: str = "gate/pay~1", timeout_ms: int = 0, ask: int = 1) -> list[Any]:
    data = json.dumps(arguments).encode()
    return bench.give(StepAsk(ask, parent.task, parent.fence, name, WAIT, data, timeout_ms), "a")


def gate(bench: Bench, timeout_ms: int = 0, **rules: Any) -> Task:
    """A gate that waits, as a step of a task that `a` runs."""
    waits(bench, bench.held(), GATE | rules, timeout_ms=timeout_ms)
    return bench.task("me.1.2")


def answer(bench: Bench, gate: Task, node: str = "b", **changed: Any) -> tuple[list[Any], dict[str, Any]]:
    fields = {"task": gate.id, "input": gate.input_hash, "approve": True, "person": "ann"} | changed
    word = Signed(fields.pop("author", node), Verdict(**fields), b"as signed")
    effects = bench.give(Ask(7, "answer", gate.id, b"{}", (word,)), node)
    [said] = [effect.message for effect in effects if type(effect) is Send and type(effect.message) is Answer]
    return effects, json.loads(said.body) | {"ok": said.ok}


def test_nobody_is_asked_to_run_it_and_an_answer_is_on_record_before_anybody_hears_of_it() -> None:
    bench = started()
    effects = waits(bench, bench.held(), GATE)
    assert [type(entry) for entry in bench.entries(effects)] == [Submitted]
    assert bench.sends(effects, StepSeen) == [("a", StepSeen(1, "me.1.2"))]
    task = bench.task("me.1.2")
    assert task.state == WAITING
    effects, said = answer(bench, task, note="fine", output=b'{"n":2}')
    answered, finished = bench.entries(effects)
    digest = content_hash(b'{"n":2}')
    assert answered == Answered(task.id, "b", "ann", True, "fine", digest, "", b"as signed", int(bench.now * 1000))
    assert isinstance(finished, Finished) and (finished.state, finished.node) == ("done", "me")
    assert next(effect.bodies for effect in effects if type(effect) is Append) == {digest: b'{"n":2}'}
    [(node, done)] = bench.sends(effects, StepDone)
    by = [{"node": "b", "person": "ann", "note": "fine"}]
    assert node == "a" and json.loads(done.output) == {"approved": True, "expired": False, "by": by, "edited": True, "output": {"n": 2}}
    assert {effect.need for effect in effects if type(effect) is Send} == {Need.KEPT}
    assert said["ok"] and said["state"] == "done"


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        ({"author": "c"}, "unsigned_verdict"),
        ({"task": "me.1.99"}, "unsigned_verdict"),
        ({"input": content_hash(b"other")}, "gate_changed"),
        ({"output": b"{"}, "bad_output"),
    ],
)
def test_what_does_not_fit_is_refused_counted_and_changes_nothing(changed: dict[str, Any], code: str) -> None:
    bench = started()
    task = gate(bench)
    effects, said = answer(bench, task, **changed)
    assert (said["ok"], said["code"]) == (False, code) and said["fix"]
    assert bench.entries(effects) == [] and task.state == WAITING and task.said == ()
    assert bench.refused(effects) == [code]


def test_without_a_signed_word_nothing_is_answered() -> None:
    bench = started()
    task = gate(bench)
    effects = bench.give(Ask(7, "answer", task.id, json.dumps({"approve": True}).encode()), "b")
    assert bench.refused(effects) == ["unsigned_verdict"] and task.state == WAITING


def test_a_successor_and_a_next_life_come_to_the_same() -> None:
    """The manager ended between the last answer and what follows from it."""
    bench = started()
    task = gate(bench, quorum=2)
    answer(bench, task, "b")
    answer(bench, task, "c")
    written, bodies = bench.journal, bench.bodies
    assert type(written[-1]) is Finished
    again = Bench(incarnation=2)
    effects = again.start(*written[:-1], bodies=bodies)
    assert [entry.task for entry in again.entries(effects, Finished)] == [task.id]


def test_a_wait_whose_arguments_are_none_fails_and_says_what_is_wrong() -> None:
    bench = started()
    effects = waits(bench, bench.held(), {"wait": "gate", "question": "pay?", "quorum": 0})
    [(_, done)] = bench.sends(effects, StepDone)
    assert done.state == "failed" and json.loads(done.error)["code"] == "bad_wait"


@pytest.mark.parametrize(
    "arguments",
    [
        b"[]",
        b"{}",
        b'{"wait":"x"}',
        b'{"wait":"signal","name":3}',
        b'{"wait":"gate"}',
        b'{"wait":"gate","question":"q","approvers":"n1"}',
        b'{"wait":"gate","question":"q","approvers":["a"],"quorum":2}',
        b'{"wait":"gate","question":"q","quorum":true}',
        b'{"wait":"gate","question":"q","separate":"no"}',
        b'{"wait":"gate","question":"q","on_expire":"escalate"}',
    ],
)
def test_arguments_of_a_wait(arguments: bytes) -> None:
    assert isinstance(wait_of(arguments), str)


@pytest.mark.parametrize("field", ["approve", "input", "person", "note"])
def test_a_clients_answer_is_read_field_by_field(field: str) -> None:
    args: dict[str, Any] = {"approve": True, "input": "x", "person": "ann", "note": "n", "edited": True, "output": [1]}
    assert verdict_of("t", args, 5) == Verdict("t", "x", True, "ann", "n", b"[1]", 5)
    assert verdict_of("t", args | {field: 3}, 5) is None


def test_the_answers_of_a_task_are_bounded_by_its_nodes() -> None:
    """One a node: a person who says yes again and again says it once; who says no after a yes has said no."""
    bench = started()
    task = gate(bench, quorum=2)
    for _ in range(3):
        answer(bench, task, "b")
    assert task.said == (Said("b", "ann", True, word=b"as signed"),)
    answer(bench, task, "b", approve=False)
    assert json.loads(bench.task(task.id).output or b"")["approved"] is False


@pytest.mark.parametrize("command", [Submit, Call])
def test_nobody_submits_a_wait_by_itself(command: Any) -> None:
    """It would stand among the gates for ever, and belong to no task."""
    bench = started()
    [(ok, body)] = bench.replies(bench.give(command(7, WAIT, json.dumps(GATE).encode())))
    assert not ok and body["code"] == "is_step" and bench.manager.book.tasks == {}
