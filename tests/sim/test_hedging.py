"""Second attempts under faults; and the checkers that watch them, proven by bugs. Here half of all work counts as slow."""

from __future__ import annotations

import pytest

from mesh.core.work import hedging, latencies
from mesh.core.work.budget import HedgeBudget
from mesh.limits import Limits, WorkLimits
from mesh.sim.scenario import Plan, Scenario

FAULTS = ("loss", "partition", "crash", "pause", "worker_crash", "pause_manager", "cut_manager", "clock_rate", "replay")


@pytest.fixture(autouse=True)
def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latencies, "LATE", 0.5)
    monkeypatch.setattr(latencies, "SAMPLES_MIN", 5)


def run(seed: int, kinds: tuple[str, ...] = (), until_s: float = 3.0, share: float = 0.5) -> Scenario:
    limits = Limits(work=WorkLimits(hedge_share=share))
    scenario = Scenario(Plan(3, seed, kinds, until_s, rate=25.0, capabilities=("ragged",), farewell=False), limits=limits)
    scenario.run()
    return scenario


def won(scenario: Scenario) -> int:
    return sum(host.assembly.manager.statistics().hedges_won for host in scenario.world.living())


def test_second_attempts_under_faults_break_no_promise() -> None:
    scenario = run(3, FAULTS, 8.0)
    assert scenario.history.verdicts == [] and won(scenario) > 5


def test_a_result_under_the_slow_ones_fence_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hedging, "next_fence", lambda fence: fence)
    assert {verdict.invariant for verdict in run(1).history.verdicts} == {"O4"}


def test_second_attempts_of_everything_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HedgeBudget, "spend", lambda budget, given: True)
    assert {verdict.invariant for verdict in run(1, share=0.05).history.verdicts} == {"F5"}
