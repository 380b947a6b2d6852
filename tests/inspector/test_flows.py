"""Flows by the command line, on a real node that nobody gave an agent for flows: what a person types and sees."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

BAD = """flow = "bad"

[[step]]
id = "a"
uses = "greet"
with = { name = "$input.who" }

[[step]]
id = "b"
uses = "greet"
with = { name = "$steps.c" }
needs = ["a"]
"""
STEERED = """flow = "steered"

[[step]]
id = "a"
uses = "careful"
with = { n = 3 }

[[step]]
id = "b"
uses = "broken"
with = { number = 1 }
needs = ["a"]
"""
CHANGE = """remove = ["b"]

[[add]]
id = "c"
uses = "greet"
with = { name = "$string(steps.a.out.n)" }
needs = ["a"]
"""
MANY = """flow = "many"
input = { names = { type = "array", default = ["Ann", "Bob"] } }

[[step]]
id = "each"
uses = "greet"
map = "$input.names"
with = { name = "$item" }

[[step]]
id = "never"
uses = "greet"
when = "$size(input.names) > 5"
with = { name = "Eve" }

[[step]]
id = "risky"
uses = "broken"
with = { number = 7 }
fallback = { uses = "greet", with = { name = "instead" } }
"""


@pytest.fixture
def written(tmp_path: Path) -> Callable[[str], str]:
    def write(text: str) -> str:
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.toml"
        path.write_text(text)
        return str(path)

    return write


def test_every_node_offers_flows_unless_it_is_told_not_to(mesh: Callable[..., Any], node: Path, bare: Path) -> None:
    own = [cap for cap in mesh("caps", "--all", "--home", str(node), "--json").document["caps"] if cap["capability"].startswith("mesh.")]
    assert [(cap["capability"], cap["offered_by"]) for cap in own] == [("mesh.flow", ["flows@otter"])]
    assert "mesh.flow" not in mesh("caps", "--home", str(node)).out + mesh("nodes", "--home", str(node)).out
    assert mesh("caps", "--all", "--home", str(bare), "--json").document["caps"] == []


def test_all_that_is_wrong_with_a_file_is_told_before_anything_runs(mesh: Callable[..., Any], node: Path, written: Any) -> None:
    home, file = ("--home", str(node)), written(BAD)
    before = len(mesh("tasks", *home, "--json").document["tasks"])
    for verb in ("run", "check", "plan"):
        ran = mesh("flow", verb, file, *home)
        assert ran.code == 2 and not ran.out
    lines = ran.err.splitlines()
    assert lines[0] == f"mesh: {file}: 2 problems" and lines[-1].startswith("try:  ")
    assert [line.strip().partition(": ")[0] for line in lines[1:3]] == [f"{file}:6", f"{file}:11"]
    assert "step 'a', with.name: " in lines[1] and "step 'b', with.name: " in lines[2]
    found = mesh("flow", "run", file, *home, "--json").document
    assert (found["schema"], found["code"]) == ("mesh.error/1", "bad_flow")
    assert len(mesh("tasks", *home, "--json").document["tasks"]) == before


def test_what_does_not_fit_what_is_offered_is_told_with_its_line(mesh: Callable[..., Any], node: Path, written: Any) -> None:
    home = ("--home", str(node))
    wrong = mesh("flow", "check", written(STEERED.replace("n = 3", 'm = "x"')), *home)
    assert wrong.code == 2 and ".toml: 2 problems" in wrong.err.splitlines()[0]
    assert ".toml:6: step 'a', with.m: careful has no argument 'm'" in wrong.err
    nobody = mesh("flow", "check", written(STEERED.replace("broken", "brokn")), *home)
    assert nobody.code == 0 and ".toml:10: step 'b', uses: nobody offers 'brokn' now" in nobody.err
    assert "did you mean 'broken'?" in nobody.err
    for words, named in ((["name=Ann"], "no input 'name'"), (["names=Ann"], "'names' is wrong")):
        ran = mesh("flow", "run", written(MANY), *words, *home)
        assert ran.code == 2 and named in ran.err


def test_what_became_of_each_step_is_shown(mesh: Callable[..., Any], node: Path, written: Any) -> None:
    home, file = ("--home", str(node)), written(MANY)
    plan = mesh("flow", "plan", file, *home, "--json").document
    assert [step["candidates"] for step in plan["steps"]] == [["greeter@otter"]] * 3
    ran = mesh("flow", "run", file, 'names:=["Ann", "Bob", "Cid"]', "--wait", *home)
    assert ran.code == 0 and '"never"' in ran.out
    task = ran.err.splitlines()[0].removeprefix("task ")
    told = [line for line in ran.err.splitlines() if line.startswith(("each[", "risky"))]
    assert {line.split()[0] for line in told} >= {"each[0]", "each[1]", "each[2]", "risky", "risky/fallback"}
    shown = mesh("flow", "show", task, *home, "--json").document
    states = {step["step"]: (step["state"], step["tasks"], step["degraded"]) for step in shown["steps"]}
    assert states == {"each": ("done", 3, False), "never": ("skipped", 0, False), "risky": ("done", 2, True)}
    text = mesh("flow", "show", task, *home).out
    assert "many, version 1: done" in text and "3 of 3" in text and "degraded: risky was done by greet, because " in text
    assert mesh("flow", "graph", task, *home, "--json").document["states"]["never"] == "skipped"
    assert 'label="risky\\nbroken\\ndone"' in mesh("flow", "graph", task, "--dot", *home).out
    [row] = [row for row in mesh("flow", "list", *home, "--json").document["flows"] if row["task"] == task]
    assert (row["flow"], row["state"], row["driver"]) == ("many", "done", "otter")
    other = mesh("flow", "show", shown["task"].rpartition(".")[0] + ".999999", *home)
    assert other.code == 5


def test_a_flow_is_paused_changed_and_goes_on(mesh: Callable[..., Any], node: Path, written: Any, eventually: Callable[..., Any]) -> None:
    home = ("--home", str(node))
    task = mesh("flow", "run", written(STEERED), *home).out.strip()
    gates = eventually(lambda: mesh("approvals", *home, "--json").document["gates"], "its gate")
    [row] = [row for row in mesh("tasks", *home, "--json").document["tasks"] if row["parent"] == task and row["step"] == "a"]
    assert "asks a person: mesh approvals" in mesh("flow", "list", *home).out
    assert mesh("flow", "pause", task, *home).code == 0
    assert mesh("approve", gates[0]["task"], *home).code == 0
    assert mesh("signal", row["task"], "go", *home).code == 0
    assert mesh("result", row["task"], *home).code == 0
    refused = mesh("flow", "patch", task, written(CHANGE.replace("remove = [", 'remove = ["a", ')), *home)
    assert refused.code == 2 and "'a' has begun already" in refused.err
    patched = mesh("flow", "patch", task, written(CHANGE), *home)
    assert patched.out == "taken, version 2: added c; removed b\n", patched.err
    shown = mesh("flow", "show", task, *home, "--json").document
    assert shown["paused"] and {step["step"]: step["state"] for step in shown["steps"]} == {"a": "done", "c": "waiting"}
    assert ", paused" in mesh("flow", "show", task, *home).out
    assert mesh("flow", "replay", task, *home).out.splitlines()[-1] == "it is paused"
    assert mesh("flow", "resume", task, *home).code == 0
    assert mesh("result", task, *home, "--json").document["result"]["output"] == {"c": "hello 3"}
    replay = mesh("flow", "replay", task, *home, "--json").document
    what = {step["name"].partition("~")[0]: step["what"] for step in replay["steps"] if step["capability"] != "mesh.wait"}
    assert what == {"a": "from the record", "c@2": "from the record"} and replay["agrees"]
    assert replay["result"] == mesh("result", task, *home, "--json").document["result"]
    other = mesh("flow", "replay", task, written(STEERED.replace("n = 3", "n = 4")), *home)
    assert other.code == 1 and "on record it has other arguments" in other.out
    again = mesh("flow", "pause", task, *home)
    assert again.code == 5 and "has ended" in again.err
    for verb in ("pause", "cancel"):
        assert mesh("flow", verb, row["task"], *home).code == 2, "a task that is no flow"
