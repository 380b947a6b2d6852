"""Rules of the policy, and what peers and users may send: nothing of it is a bug of ours, and nothing stops a node."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mesh.core.inputs import Submit
from mesh.core.node import Node
from mesh.core.policy.document import rulebook
from mesh.core.policy.inputs import PolicyChanged
from mesh.core.policy.rules import Rulebook
from mesh.core.work.passing import packed, work_in
from mesh.core.work.task import BACKOFF, GATED
from mesh.messages.membership import Offer
from mesh.messages.work import Ask, Decline, Placement, StepAsk, StepDone

from .manager_bench import Bench, started

GATE = {"id": "ask", "match": {"capability": "greet"}, "approve": {}}


def under(bench: Bench, *rules: dict[str, Any]) -> list[Any]:
    found = rulebook({"rule": list(rules)}, 1)
    assert isinstance(found, Rulebook), found
    bench.directory.rulebook = found
    return bench.give(PolicyChanged(1))


def test_declines_that_are_too_many_and_a_gate_that_comes_with_the_last() -> None:
    """It was an assertion: who waits for a gate cannot pause."""
    bench = started()
    node, item = bench.awarded(bench.submit())
    task = bench.task(item.task)
    task.declines = 3
    under(bench, GATE)
    bench.give(Decline(((item.task, item.fence, "policy:ask"),)), node)
    assert task.state == BACKOFF
    bench.after(30, hear=("a",))
    assert task.state == GATED, "its gate is put, after the pause"
    assert [child.capability for child in (task.children or {}).values()] == ["mesh.wait"]


@pytest.mark.parametrize("data", [b'"\\ud800"', b"no json", b"\xff", b"[" * 5000, b"1" * 5000], ids=["half", "text", "byte", "deep", "int"])
def test_arguments_that_no_question_can_show_are_asked_about_by_their_hash(data: bytes) -> None:
    bench = started()
    under(bench, GATE)
    bench.submit(data=data)
    (gate,) = [task for task in bench.manager.book.tasks.values() if task.capability == "mesh.wait"]
    assert set(json.loads(gate.input)["subject"]) == {"capability", "arguments_hash"}


def passed(**changed: Any) -> Any:
    head, _, given = packed(Submit(1, "greet", b"{}", key="k", files=(("0" * 64, 3),))).partition(b"\n")
    return work_in(2, "greet", json.dumps(json.loads(head) | changed).encode() + b"\n" + given)


@pytest.mark.parametrize(
    "changed",
    [
        {"timeout_ms": 1 << 64},
        {"bounds": [0, 0, 1 << 64]},
        {"retries": 1 << 64},
        {"retries": -2},
        {"files": [["no hash", 3]]},
        {"files": [["0" * 64, -1]]},
        {"submit": False, "parent": "no task!"},
    ],
    ids=str,
)
def test_work_of_another_node_that_no_journal_could_keep_is_no_work(changed: dict[str, Any]) -> None:
    assert passed() == Submit(2, "greet", b"{}", key="k", files=(("0" * 64, 3),))
    assert passed(**changed) is None


def test_work_that_wants_a_version_passes_through_another_node() -> None:
    work = Submit(2, "greet", b"{}", placement=Placement(("@^2", "zone=eu")))
    assert work_in(2, "greet", packed(work)) == work


def test_labels_that_a_policy_puts_there_are_ruled_about_at_once() -> None:
    """Whoever runs it sees them: were they not looked at here, he would decline it for ever."""
    bench = started()
    bench.row("a", Offer("greet", "greeter", labels=(("zone=eu",),)), room=0)
    bench.load("a", 0)
    bench.submit()
    (task,) = bench.manager.book.tasks.values()
    rule = {"id": "not-there", "match": {"capability": "greet", "labels": ["zone=eu"]}, "deny": "closed"}
    under(bench, {"id": "eu", "match": {"capability": "greet"}, "require": ["zone=eu"]}, rule)
    assert (task.state, (task.error or {}).get("rule")) == ("failed", "not-there")


@pytest.mark.parametrize("name", ["policy/ask/admission/0", "policy/ask~0123456789abcdef", "policy/x"])
def test_no_handler_takes_the_names_of_gates(name: str) -> None:
    bench = started()
    item = bench.held()
    effects = bench.give(StepAsk(1, item.task, item.fence, name, "other", b"{}", 0), "a")
    ((_, done),) = bench.sends(effects, StepDone)
    assert done.state == "refused" and json.loads(done.error)["code"] == "bad_step_name"


def test_for_whom_another_node_s_work_is_made_is_on_record() -> None:
    """A coordinator manages it: were it forgotten with its life, rules about where work comes from would not hold after it."""
    bench = started()
    bench.directory.seat.holder = "me"
    bench.node = Node("me", (bench.manager, bench.elsewhere, bench.manager.forwarding), bench.deadlines)
    bench.give(Ask(1 << 62, "manage", "greet", packed(Submit(1, "greet", b"{}"))), "desk")
    (task,) = bench.manager.book.tasks.values()
    after = Bench(incarnation=2)
    after.start(*bench.journal, bodies=bench.bodies)
    assert [one.manager.book.origins.of(task.id) for one in (bench, after)] == ["desk", "desk"]
    assert after.task(task.id).origin == "desk"
