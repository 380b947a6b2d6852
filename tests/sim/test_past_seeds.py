"""Seeds that once failed, and what they found. What is drawn from a seed changes with the simulator: see the commit that added each."""

from __future__ import annotations

import pytest

from mesh.sim.run import main

PAST = {
    "a worker came back with a flow whose steps had all ended": ["--nodes", "5", "--seed", "101628", "--rate", "5"],
    "a sync was heard of before the one before it, by a host that had been stopped": ["--nodes", "5", "--seed", "500108", "--rate", "5"],
    "a crash was judged by what the manager heard after it": ["--nodes", "5", "--seed", "1053"],
}


THEN = (
    "delay,loss,duplicate,reorder,one_way,partition,stall,crash,crash_lose_tail,pause,slow_node,slow_disk,"
    "clock_offset,clock_step,clock_rate,worker_crash,revoke"
)
"""All kinds there were when these seeds failed."""


@pytest.mark.parametrize("arguments", PAST.values(), ids=PAST.keys())
def test_a_past_seed_is_clean(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*arguments, "--faults", THEN, "--until", "60"]) == 0, capsys.readouterr().out
