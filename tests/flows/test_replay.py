"""What a driver would do again, and what became of each step: both from the record alone."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from mesh.flows.parsing import flow_of
from mesh.flows.record import belongs, told
from mesh.flows.replay import LEFT, Child, Record, replayed


def step(id: str, *needs: str, **more: Any) -> dict[str, Any]:
    return {"id": id, "uses": f"do.{id}", "with": {"n": 1}, "needs": list(needs), **more}


def again(steps: list[dict[str, Any]], children: dict[str, Child], effects: dict[str, Any] | None = None) -> tuple[dict[str, str], Any]:
    found = asyncio.run(replayed(flow_of({"flow": "f", "step": steps}), {}, Record("a.1.1", children, effects or {})))
    mine = {one["name"]: one["what"] for one in found["steps"] if not one["name"].startswith("signal/")}
    return mine, (found["state"], found["agrees"], found["error"])


def done(name: str, **more: Any) -> Child:
    return Child("a.1.2", f"do.{name}", "done", {"n": 1}, **more)


def test_what_is_done_comes_from_the_record_and_the_rest_would_run() -> None:
    steps = [step("a"), step("b", "a"), step("c", "a"), step("d", "b", "c")]
    what, ends = again(steps, {"a": done("a"), "b": Child("a.1.3", "do.b", "held", {"n": 1})})
    assert what == {"a": "from the record", "b": "under way", "c": "would run"} and ends == ("running", True, "")
    what, ends = again(steps, {name: done(name) for name in "abcd"})
    assert set(what.values()) == {"from the record"} and ends == ("done", True, "")


def test_an_edited_flow_is_held_against_the_record() -> None:
    children = {"a": done("a"), "b": done("b")}
    what, (_, agrees, _) = again([step("a"), step("b", "a", **{"with": {"n": 2}})], children)
    assert (what["b"], agrees) == ("differs", False)
    what, (_, agrees, _) = again([step("a"), step("x", "a")], children)
    assert (what["b"], what["x"], agrees) == ("not asked for", "would run", False)


def test_a_failure_is_undone_again_from_the_record() -> None:
    steps = [step("a", compensate="do.undo"), step("b", "a")]
    error = {"kind": "error", "message": "no space"}
    children = {"a": done("a"), "b": Child("a.1.3", "do.b", "failed", {"n": 1}, error=error)}
    what, ends = again(steps, children, {"commit/1": "a"})
    assert what["a/undo"] == "would run" and ends[0] == "running"
    what, ends = again(steps, {**children, "a/undo": Child("a.1.4", "do.undo", "done", {"n": 1})}, {"commit/1": "a"})
    assert what["a/undo"] == "from the record" and ends[0] == "failed" and "no space" in ends[2] and "undone: a" in ends[2]


def test_which_of_several_came_first_is_what_the_record_says() -> None:
    steps = [step("a"), step("b"), step("c", "a", "b", join="any", **{"with": {"n": "$has(steps.a) ? 1 : 2"}})]
    children = {"a": done("a"), "b": done("b"), "c": Child("a.1.5", "do.c", "done", {"n": 2})}
    assert again(steps, children, {"join/c": ["b"]})[1] == ("done", True, "")
    slower = children | {"a": Child("a.1.2", "do.a", LEFT, {"n": 1})}
    assert again(steps, slower, {"join/c": ["b"]})[0]["a"] == "under way"


@pytest.mark.parametrize(
    ("name", "steps", "part"),
    [
        ("a", ("a",), "work"),
        ("a[12]", ("a",), "work"),
        ("a#3", ("a",), "work"),
        ("a@2[3]", ("a",), "work"),
        ("a/fallback", ("a",), "fallback"),
        ("a[1]/undo", ("a",), "undo"),
        ("gate/a[1]~0123456789ab", ("a",), "gate"),
        ("gate/undo a~0123456789ab", ("a",), "undo"),
        (f"do.b@{'0' * 32}", ("b",), "work"),
        ("signal/mesh.flow/0", (), "work"),
        ("nobody", (), "work"),
    ],
)
def test_every_name_of_a_child_says_whose_it_is(name: str, steps: tuple[str, ...], part: str) -> None:
    flow = flow_of({"flow": "f", "step": [step("a"), step("b", cache=True)]})
    assert belongs(name, flow) == (steps, part)


def row(name: str, state: str, **more: Any) -> dict[str, Any]:
    return {"step": name, "state": state, "nodes": ["n1"], "attempts": 1, "reason": "", "begin_ms": 0, "end_ms": 5} | more


@pytest.mark.parametrize(
    ("rows", "state", "result", "said"),
    [
        ([], "held", None, "waiting"),
        ([], "failed", None, "unreached"),
        ([], "done", {"skipped": ["a"]}, "skipped"),
        ([row("a", "held")], "held", None, "running"),
        ([row("a", "parked", reason="no_capable")], "held", None, "parked"),
        ([row("gate/a~00", "waiting")], "held", None, "asks"),
        ([row("gate/a~00", "done")], "failed", None, "failed"),
        ([row("gate/a~00", "done")], "held", None, "answered"),
        ([row("a", "failed"), row("a/fallback", "done")], "held", None, "done"),
        ([row("a[0]", "done"), row("a[1]", "failed")], "failed", None, "failed"),
        ([row("a", "done"), row("a/undo", "done")], "failed", None, "undone"),
        ([row("a", "done"), row("a/undo", "held")], "held", None, "undoing"),
        ([row("a", "done"), row("a/undo", "failed"), row("gate/undo a~00", "waiting")], "held", None, "asks"),
        ([row("a", "done"), row("a/undo", "failed"), row("gate/undo a~00", "done")], "failed", None, "answered"),
        ([row("a", "cancelled")], "done", {"left": ["a"]}, "left"),
    ],
)
def test_how_a_step_stands(rows: list[dict[str, Any]], state: str, result: Any, said: str) -> None:
    [found] = told(flow_of({"flow": "f", "step": [step("a")]}), rows, state, result)
    assert found["state"] == said


def test_a_step_that_a_value_stands_for_is_done_and_degraded() -> None:
    flow = flow_of({"flow": "f", "step": [step("a") | {"fallback": {"value": 42}}]})
    [found] = told(flow, [row("a", "failed")], "held", None)
    assert (found["state"], found["degraded"]) == ("done", True)
