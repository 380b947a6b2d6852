"""Seeds that once failed, and what they found. What is drawn from a seed changes with the simulator: see the commit that added each."""

from __future__ import annotations

import pytest

from mesh.sim.run import main

THEN = (
    "delay,loss,duplicate,reorder,one_way,partition,stall,crash,crash_lose_tail,pause,slow_node,slow_disk,"
    "clock_offset,clock_step,clock_rate,worker_crash,revoke"
)
"""All kinds there were when the first of these seeds failed."""
KEPT = f"{THEN},pause_manager,pause_holder,cut_manager,late_effect,false_alarm,replay,disk_full,sync_error"
PAST = {
    "a worker came back with a flow whose steps had all ended": ("101628", THEN, "60", "5", "1"),
    "a sync was heard of before the one before it, by a host that had been stopped": ("500108", THEN, "60", "5", "1"),
    "a crash was judged by what the manager heard after it": ("1053", THEN, "60", "2", "1"),
    "a draft counted though its writer had lost it to others": ("70156", KEPT, "40", "3", "3"),
    "an effect was asked for at who had lost its task again": ("71054", KEPT, "40", "3", "3"),
    "two keepers waited for a revoked one": ("75038", KEPT, "40", "3", "3"),
    "a task had ended at a node that was revoked before all knew that it had driven it": ("80144", KEPT, "40", "3", "3"),
    "who had taken over only what was inherited was believed by nobody": ("76069", KEPT, "40", "3", "3"),
    "steps were asked for at who had lost their task again, after a restart": ("91149", KEPT, "40", "3", "3"),
    "a leader shipped nothing to whom he had let go and needed again": ("80208", KEPT, "40", "3", "3"),
    "two led in one term, since one did not count a revoked keeper": ("72011", KEPT, "40", "3", "3"),
    "an author that was led asked too early, and never again": ("200092", f"{KEPT},stale_disk", "40", "3", "3"),
    "of two keepers each was needed to lead by the other, and the third had forgotten": ("250497", f"{KEPT},stale_disk", "40", "3", "3"),
    "a call was judged before its time was over": ("120366", KEPT, "40", "3", "3"),
}


@pytest.mark.parametrize(("seed", "faults", "until", "rate", "hard"), PAST.values(), ids=PAST.keys())
def test_a_past_seed_is_clean(seed: str, faults: str, until: str, rate: str, hard: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--nodes", "5", "--seed", seed, "--faults", faults, "--until", until, "--rate", rate, "--hard", hard]
    assert main(arguments) == 0, capsys.readouterr().out
