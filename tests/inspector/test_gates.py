"""Approvals and signals by the command line, on a real node: what a person sees, and what is on record."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def wait_for_gate(mesh: Callable[..., Any], node: Path, eventually: Callable[..., Any]) -> Callable[[str], dict[str, Any]]:
    """The one gate of a task, once it waits."""

    def wait(task: str) -> dict[str, Any]:
        [gate] = eventually(lambda: mesh("approvals", task, "--home", str(node), "--json").document["gates"], f"a gate of {task}")
        return dict(gate)

    return wait


def test_a_gate_is_seen_answered_and_on_record_with_its_signature(
    mesh: Callable[..., Any], node: Path, tmp_path: Path, wait_for_gate: Callable[..., Any]
) -> None:
    home = ("--home", str(node))
    task = mesh("submit", "careful", "n:=3", *home).out.strip()
    gate = wait_for_gate(task)
    seen = mesh("approvals", *home).out
    assert "pay it?" in seen and '{"n": 3}' in seen and "0 of 1" in seen
    whole = mesh("approvals", gate["task"], *home).out
    assert f"mesh approve {gate['task']}" in whole and '"n": 3' in whole
    assert "1 wait for an approval; mesh approvals" in mesh("status", *home).out
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


def test_a_denial_and_what_is_refused(mesh: Callable[..., Any], node: Path, wait_for_gate: Callable[..., Any]) -> None:
    home = ("--home", str(node))
    task = mesh("submit", "careful", "n:=3", *home).out.strip()
    gate = wait_for_gate(task)
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


@pytest.fixture(scope="module")
def verifier() -> Any:
    """The independent verifier, as a module."""
    loader = SourceFileLoader("independent_verifier", str(Path(__file__).parents[2] / "scripts" / "verify"))
    module = module_from_spec(spec_from_loader(loader.name, loader))  # type: ignore[arg-type]
    loader.exec_module(module)
    return module


def test_an_outsider_can_tell_who_approved_what_and_no_manager_can_make_it_up(
    wait_for_gate: Callable[..., Any],
    mesh: Callable[..., Any],
    node: Path,
    verifier: Any,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    home = ("--home", str(node))
    task = mesh("submit", "careful", "n:=4", *home).out.strip()
    gate = wait_for_gate(task)["task"]
    assert mesh("approve", gate, "--note", "fine", "--output", "5", *home).code == 0
    exported = tmp_path / "journal"
    assert mesh("verify", "--export", str(exported), *home).code == 0
    monkeypatch.setattr("sys.argv", ["verify", str(exported)])
    assert verifier.main() == 0
    assert "each signed, under the root key" in capsys.readouterr().out

    _, name, _, _, _, commits = verifier.read_export(exported)
    entries = [verifier.canonical(entry, "an entry") for _, rows in commits for entry in rows]
    asked = next(entry for entry in entries if entry[0] == "Submitted" and entry[1] == gate)
    answered = next(entry for entry in entries if entry[0] == "Answered" and entry[1] == gate)
    other = next(entry for entry in entries if entry[0] == "Submitted" and entry[1] != gate)

    def judged(changed: dict[int, Any], submitted: list[Any] = asked) -> None:
        gates = verifier.Gates()
        gates.follow("Submitted", submitted, name, "there")
        gates.follow("Answered", [changed.get(at, field) for at, field in enumerate(answered)], name, "here")
        assert gates.answers == 1

    judged({})
    word = answered[8]
    flipped = word[:-1] + bytes([word[-1] ^ 1])
    for changed in ({1: task}, {2: "somebody"}, {3: "somebody else"}, {4: False}, {5: "no"}, {6: ""}, {8: flipped}):
        with pytest.raises(verifier.Bad):
            judged(changed)
    with pytest.raises(verifier.Bad, match="other inputs"):
        judged({}, [*asked[:3], other[3], *asked[4:]])
