"""Same seed, same code: the same trace, in any process (H1)."""

from __future__ import annotations

import json
import os
import subprocess
import sys

from mesh.sim.faults import KINDS
from mesh.sim.scenario import Plan, Scenario

PROGRAM = """
import sys
from mesh.sim.faults import KINDS
from mesh.sim.scenario import Plan, Scenario
print(Scenario(Plan(4, int(sys.argv[1]), KINDS, 20.0, rate=4.0), deep=True).run().trace_hash)
"""


def in_a_process(seed: int, hash_seed: str) -> str:
    environment = dict(os.environ, PYTHONHASHSEED=hash_seed)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(seed)], env=environment, capture_output=True, text=True, timeout=120, check=True
    )
    return done.stdout.strip()


def test_two_processes_with_other_hash_seeds_agree_on_every_byte() -> None:
    for seed in (11, 12, 13):
        assert in_a_process(seed, "1") == in_a_process(seed, "4242")


def test_twice_in_one_process() -> None:
    def once() -> tuple[str, int]:
        outcome = Scenario(Plan(4, 5, KINDS, 15.0), deep=True).run()
        return outcome.trace_hash, outcome.events

    assert once() == once()


def test_another_seed_is_another_run() -> None:
    hashes = {Scenario(Plan(3, seed, (), 5.0)).run().trace_hash for seed in (1, 2)}
    assert len(hashes) == 2


def test_the_command_line_tells_the_same_hash_as_the_library() -> None:
    arguments = ["--nodes", "3", "--seed", "9", "--faults", "crash,loss", "--until", "10", "--json"]
    done = subprocess.run([sys.executable, "-m", "mesh.sim.run", *arguments], capture_output=True, text=True, timeout=120, check=True)
    document = json.loads(done.stdout)
    assert document["schema"] == "mesh/simulate/1"
    assert document["violations"] == []
    assert document["trace_hash"] == Scenario(Plan(3, 9, ("crash", "loss"), 10.0)).run().trace_hash
    assert document["events"] > 0 and document["events_per_s"] > 0 and document["seed"] == 9
