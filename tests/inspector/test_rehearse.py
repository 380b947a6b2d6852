"""`mesh sim` on a real node: a run on record rehearsed and compared, its load recorded and rehearsed, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

TWO = """flow = "two"
input = { names = "array" }

[[step]]
id = "each"
uses = "greet"
map = "$input.names"
with = { name = "$item" }

[[step]]
id = "all"
uses = "greet"
needs = ["each"]
with = { name = "$string(size(steps.each))" }
"""


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "two.toml"
    path.write_text(TWO)
    return str(path)


def test_a_run_on_record_is_rehearsed_and_held_against_it(mesh: Callable[..., Any], node: Path, file: str, tmp_path: Path) -> None:
    home = ("--home", str(node))
    task = mesh("flow", "run", file, """names:=["Ann", "Bob", "Eve"]""", "--wait", "--json", *home).document["task"]
    found = mesh("sim", task, "--seeds", "1", "--json", *home).document
    assert (found["what"], found["name"], found["state"], found["tasks"], found["model"]) == ("flow", "two", "done", 4, "this mesh")
    assert found["compared"]["with"] == task and found["compared"]["real_ms"] > 0 and found["notes"] == []
    assert found["makespan_ms"]["median"] > 0 and [row["step"] for row in found["critical"]][-1] == "all"
    beside = mesh("sim", file, "--width", "each=3", "--compare", task, "--seeds", "1", *home)
    assert beside.code == 0 and f"{task} took" in beside.out
    load = tmp_path / "load.jsonl"
    recorded = mesh("sim", "--record", task, *home)
    load.write_text(recorded.out)
    head, *rows = [json.loads(line) for line in recorded.out.splitlines()]
    assert head["schema"] == "mesh.load/1" and sorted(row.get("step", "") for row in rows if row["capability"] == "greet") == [
        "all",
        "each[0]",
        "each[1]",
        "each[2]",
    ]
    again = mesh("sim", str(load), "--seeds", "1", "--nodes", "4", "--json")
    assert (again.code, again.document["what"], again.document["state"], len(again.document["nodes"])) == (0, "load", "done", 4)


def test_a_mesh_that_is_not_there_is_rehearsed_all_the_same(mesh: Callable[..., Any], file: str) -> None:
    words = ("sim", file, "--alone", "--nodes", "3", "--slots", "2", "--service", "greet=300ms", "--width", "each=12")
    ran = mesh(*words, "--seeds", "1", "--json")
    assert 900 < ran.document["makespan_ms"]["median"] < 2300 and ran.document["model"] == "flags"
    text = mesh(*words, "--seeds", "1").out
    assert text.startswith("two: ") and "13 tasks on 3 nodes with 6 slots" in text
    gone = ("--service", "greet=1s", "--nodes", "1", "--kill", "n1@1s")
    stuck = mesh("sim", file, "--alone", *gone, "--seeds", "1")
    assert stuck.code == 1 and "never" in stuck.out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ((), "what is to be rehearsed?"),
        (("{file}", "--alone"), "nobody knows how long these take: greet"),
        (("{file}", "--alone", "--service", "greet"), "has not the form NAME=VALUE"),
        (("{file}", "--alone", "--service", "greet=soon"), "is no time"),
        (("{file}", "--alone", "--service", "greet=1s", "--width", "each=many"), "is no whole number"),
        (("{file}", "--alone", "--service", "greet=1s", "--width", "all=2"), "is done once"),
        (("{file}", "--alone", "--service", "greet=1s", "--kill", "n9@1s"), "there is no node 'n9' to kill"),
        (("{file}", "--alone", "--service", "greet=1s", "--speed", "2x"), "--speed is for a recorded load"),
        (("{file}", "--alone", "--service", "greet=1s", "--overhead", "much"), "is no factor"),
        (("{file}", "--alone", "--service", "greet=1s", "--nodes", "9999"), "--nodes 9999 is out of range"),
        (("{file}", "--model", "{none}"), "No such file"),
        (("{none}",), "No such file"),
        (("{none}.jsonl",), "No such file"),
    ],
)
def test_what_cannot_be_rehearsed_is_refused(
    mesh: Callable[..., Any], file: str, tmp_path: Path, words: tuple[str, ...], told: str
) -> None:
    ran = mesh("sim", *(word.format(file=file, none=tmp_path / "none") for word in words), "--json")
    assert (ran.code, ran.document["schema"]) == (2, "mesh.error/1")
    assert told in ran.document["message"] and ran.document["fix"]
