"""The command line: exit codes, documents, and what it says about wrong arguments."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mesh.core.outbox import Outbox
from mesh.sim import run
from mesh.sim.faults import KINDS, draw, parse
from mesh.sim.scenario import Plan, Scenario
from mesh.sim.world import World


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--nodes", "0"], "not between 1 and 1000"),
        (["--nodes", "many"], "not a whole number"),
        (["--seed", "-1"], "not between"),
        (["--faults", "earthquake"], "unknown fault 'earthquake'; there are: delay"),
        (["--until", "nan"], "not between"),
        (["--until", "1e999"], "not between"),
        (["--until", ""], "not a number"),
        (["--seeds", "3", "--trace", "x"], "leave --seeds out"),
        (["--hard", "0"], "not between 0.1 and 100 times"),
        (["--frobnicate"], "unrecognized"),
    ],
)
def test_wrong_arguments_exit_2_and_say_what_would_be_right(arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run.main(arguments)
    assert ended.value.code == 2
    told = capsys.readouterr().err
    assert says in told and "try: scripts/simulate" in told


def test_a_clean_run_exits_0_with_one_document(capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main(["--nodes", "3", "--faults", "none", "--until", "5", "--json"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line)["violations"] == []


def test_a_violation_exits_1_with_the_command_that_repeats_it(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(Outbox, "may_leave", lambda self, effect: True)
    assert run.main(["--nodes", "3", "--seed", "4", "--faults", "crash", "--until", "6", "--rate", "3"]) == 1
    assert "scripts/simulate --nodes 3 --seed 4 --faults crash --until 6 --rate 3" in capsys.readouterr().out


def test_a_trace_has_a_line_per_event(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main(["--nodes", "2", "--faults", "none", "--until", "4", "--json", "--trace", str(tmp_path / "t")]) == 0
    events = json.loads(capsys.readouterr().out)["events"]
    lines = (tmp_path / "t").read_text().splitlines()
    assert sum(not line.startswith("-") for line in lines) == events


def test_fault_lists() -> None:
    assert parse("all") == KINDS and parse("none") == () and parse("crash, loss") == ("crash", "loss")


def test_the_swarm_turns_each_kind_on_in_some_seeds_and_off_in_others() -> None:
    def kinds(seed: int) -> set[str]:
        world: Any = World(("a", "b", "c", "d"), seed, build_node=lambda *_: None)
        return {fault.kind for fault in draw(world.rng("faults"), world.names, KINDS, 60.0)}

    seen = [kinds(seed) for seed in range(40)]
    for kind in KINDS:
        assert 0 < sum(kind in one for one in seen) < 40, kind


def test_every_kind_of_fault_is_reached_and_survived() -> None:
    """One seed per kind alone: none of them needs another to be harmless."""
    for kind in KINDS:
        outcome = Scenario(Plan(3, 22, (kind,), 15.0, rate=4.0, farewell=False, hard=6.0)).run()
        assert outcome.faults.get(kind), kind
        assert outcome.verdicts == (), (kind, outcome.verdicts[0], outcome.plan.command)


def test_several_seeds_say_how_many_faults_of_each_kind_and_what_never_happened() -> None:
    total = run.Total()
    for seed in (1, 2):
        total.add(run.run_one(Plan(3, seed, ("crash", "late_effect"), 8.0, rate=4.0, farewell=False, hard=5.0)))
    text = total.text(("crash", "late_effect", "revoke"))
    crashes, late = (int(part.split()[-1]) for part in text.splitlines()[1].removeprefix("faults: ").split(", "))
    assert crashes and late and f"{crashes + late} faults" in text.splitlines()[0]
    assert "never drawn: revoke\n" in text
    assert "reached: " in text and "an old disk was found out" in text.split("never reached: ")[1]
