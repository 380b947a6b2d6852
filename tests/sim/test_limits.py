"""Limits over the whole mesh, in the simulator: never exceeded, whoever dies or is cut off; and the checker sees it where they are."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from mesh.core.work import limit_owner
from mesh.core.work.limit_holder import LimitHolder
from mesh.core.work.limit_owner import LimitOwner
from mesh.sim.labour import Skill
from mesh.sim.scenario import Outcome, Plan, Scenario

SKILLS = (Skill("scarce", 0.4, limit=2), Skill("paced", 0.02, rate=4, idempotent=True))
KINDS = ("crash", "partition", "one_way", "worker_crash")


def run(seed: int, kinds: tuple[str, ...] = KINDS, until_s: float = 12.0) -> Outcome:
    plan = Plan(3, seed, kinds, until_s, rate=5.0, capabilities=("scarce", "paced"), farewell=False)
    return Scenario(plan, skills=SKILLS).run()


def test_crashes_and_partitions_exceed_no_limit_and_all_work_ends() -> None:
    outcome = run(2)
    assert outcome.verdicts == () and outcome.faults and outcome.tasks > 20


def _counts_nobody_else(patch: pytest.MonkeyPatch) -> None:
    def free(self: LimitOwner, _now_s: float, seat: object, pool: limit_owner.Pool, _but: str) -> int:
        seat.leases.setdefault(pool, {})  # type: ignore[attr-defined]
        return self._most(pool)

    patch.setattr(LimitOwner, "_free", free)


def _ends_leases_before_their_holders_do(patch: pytest.MonkeyPatch) -> None:
    before = LimitOwner._stamp

    def stamp(self: LimitOwner, now_s: float, node: str) -> tuple[int, float]:
        echo_ms, at_s = before(self, now_s, node)
        return echo_ms, at_s - 10.4

    patch.setattr(LimitOwner, "_stamp", stamp)


def _takes_slots_for_granted(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(LimitHolder, "_permit", lambda *_: True)


@pytest.mark.parametrize("plant", [_counts_nobody_else, _ends_leases_before_their_holders_do, _takes_slots_for_granted])
def test_a_planted_bug_is_caught(monkeypatch: pytest.MonkeyPatch, plant: Callable[[pytest.MonkeyPatch], None]) -> None:
    plant(monkeypatch)
    for seed in range(1, 5):
        if any(verdict.invariant == "L6" for verdict in run(seed, (), 5.0).verdicts):
            return
    raise AssertionError("nobody saw it")
