"""Approvals and signals by the command line, on a real node: what a person sees, and what is on record."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


def wait_for_gate(mesh: Callable[..., Any], home: Path, task: str) -> dict[str, Any]:
    while not (gates := mesh("approvals", task, "--home", str(home), "--json").document["gates"]):
        pass
    [gate] = gates
    return dict(gate)


def test_a_gate_is_seen_answered_and_on_record_with_its_signature(mesh: Callable[..., Any], node: Path, tmp_path: Path) -> None:
    home = ("--home", str(node))
    task = mesh("submit", "careful", "n:=3", *home).out.strip()
    gate = wait_for_gate(mesh, node, task)
    seen = mesh("approvals", *home).out
    assert "pay it?" in seen and '{"n": 3}' in seen and "0 of 1" in seen
    whole = mesh("approvals", gate["task"], *home).out
    assert f"mesh approve {gate['task']}" in whole and '"n": 3' in whole
    assert "nobody has answered yet" in mesh("why", gate["task"], *home).out

    (tmp_path / "other.json").write_text('{"n": 2}')
    answer = mesh("approve", task, "--note", "less", "--output", f"@{tmp_path / 'other.json'}", *home)
    assert answer.out == f"{gate['task']}: approved\n"
    assert mesh("signal", task, "go", '"now"', "--event", "e1", *home).out == f"{task} was told go\n"
    result = mesh("result", task, *home, "--json").document["result"]
    assert result == {"ok": True, "out": {"n": 2}, "told": "now"}

    story = mesh("why", gate["task"], *home, "--json").document
    [said] = [event for event in story["events"] if event["kind"] == "Answered"]
    assert (said["node"], said["note"], said["approve"]) == ("otter", "less", True) and said["word"] and story["verified"]
    assert "approved by" in mesh("why", gate["task"], *home).out
    assert mesh("approvals", *home).out == "nothing waits for an approval\n"


def test_a_denial_and_what_is_refused(mesh: Callable[..., Any], node: Path) -> None:
    home = ("--home", str(node))
    task = mesh("submit", "careful", "n:=3", *home).out.strip()
    gate = wait_for_gate(mesh, node, task)
    assert mesh("deny", gate["task"], "--note", "no", *home).out == f"{gate['task']}: denied\n"
    again = mesh("approve", gate["task"], *home)
    assert again.code == 5 and "no gate" in again.err and "try:  mesh approvals" in again.err
    wrong = mesh("signal", gate["task"], "go", *home)
    assert wrong.code == 5 and "has ended" in wrong.err
    assert mesh("signal", task, "go", *home).code == 0
    assert mesh("result", task, *home, "--json").document["result"]["ok"] is False
    late = mesh("signal", task, "go", *home)
    assert late.code == 5 and f"try:  mesh task {task}" in late.err


@pytest.mark.parametrize(
    "words",
    [
        ("approve", "x.1.1", "--output", "{"),
        ("approve", "x.1.1", "--output", "@nowhere.json"),
        ("signal", "x.1.1", "a/b", "3"),
        ("signal", "x.1.1", "go", "yes"),
    ],
)
def test_bad_input_is_told_before_anything_is_sent(words: tuple[str, ...], mesh: Callable[..., Any], node: Path) -> None:
    ran = mesh(*words, "--home", str(node))
    assert ran.code == 2 and "try:  " in ran.err, ran.err
    assert json.loads(mesh(*words, "--home", str(node), "--json").out)["fix"]
