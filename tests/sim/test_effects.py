"""Keyed effects in a storm: executed once per key by a world that compares fences, and at most once where that was asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest

from mesh.core.work.effect_ledger import EffectLedger
from mesh.core.work.fold import Fold
from mesh.effects import Need, Send
from mesh.ids import award_number
from mesh.messages.records import Finished
from mesh.messages.work import EffectAnswer
from mesh.sim.faults import Fault
from mesh.sim.history import Appended, Learned, Reached
from mesh.sim.reaching import PAUSE_S, KeyedSink, Reaching
from mesh.sim.scenario import Plan, Scenario

Patch = pytest.MonkeyPatch
STORM = (
    Fault(4.0, "pause", ("n2",), 7.0, 0.5),
    Fault(6.0, "worker_crash", ("n3",), 0.5, 0.0),
    Fault(9.0, "crash", ("n1",), 2.0, 0.2),
    Fault(10.0, "slow_disk", ("n4",), 6.0, 0.3),
    Fault(14.0, "pause", ("n3",), 7.0, 0.5),
    Fault(17.0, "crash_lose_tail", ("n4",), 2.0, 0.9),
)
"""Contractors that are killed, and stopped for longer than their leases; managers that come back."""


SEEN = (
    "the world refused a stale fence",
    "a key came a second time, its outcome unknown",
    "a later attempt was given the outcome of an earlier one",
    "what must not repeat has failed instead",
)
"""What could go wrong was tried."""
SEEDS = range(3, 12)


@pytest.fixture(autouse=True)
def paused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every first attempt is stopped between its look at the lease and the deed, for longer than a lease."""
    monkeypatch.setattr(Reaching, "_pause_s", lambda self, run: PAUSE_S if award_number(run.effect.fence) == 1 else 0.0)


def scenario_of(seed: int, *, keep: bool = False) -> Scenario:
    return Scenario(Plan(4, seed, (), 22.0, rate=4.0, capabilities=("keyed", "once"), schedule=STORM, farewell=False), keep=keep)


def storm(seed: int) -> set[str]:
    """No promise is broken, every key is executed once; which of `SEEN` has happened."""
    scenario = scenario_of(seed, keep=True)
    assert scenario.run().verdicts == ()
    records = scenario.history.records
    reached = [record for record in records if type(record) is Reached]
    executed = {(record.task, record.key): record.fence for record in reached if record.executed}
    assert len(executed) == sum(record.executed for record in reached) > 50
    learned = [record for record in records if type(record) is Learned]
    ends = [record.entry.error for record in records if type(record) is Appended and type(record.entry) is Finished]
    happened = (
        any(not record.outcome for record in reached),
        any(record.outcome and not record.executed for record in reached),
        any(executed[record.task, record.key] != record.fence for record in learned),
        any("outcome_unknown" in error for error in ends),
    )
    return {what for what, has in zip(SEEN, happened, strict=True) if has}


def test_paused_killed_and_awarded_again_an_effect_happens_once_per_key() -> None:
    seen: set[str] = set()
    for seed in SEEDS:
        seen |= storm(seed)
        if seen == set(SEEN):
            return
    pytest.fail(f"in no seed: {set(SEEN) - seen}")


# ---- planted bugs


def the_go_does_not_wait(patch: Patch) -> None:
    """The intent may still be on its way to the disk when the deed is done."""
    patch.setattr(EffectLedger, "_go", lambda self, sender, ask, task, once: Send(sender, EffectAnswer(ask.ask, "go"), need=Need.FREE))


def outcomes_are_forgotten_at_restart(patch: Patch) -> None:
    patch.setattr(Fold, "_effected", lambda self, entry, bodies: None)


def outcomes_are_not_kept(patch: Patch) -> None:
    """Noted, says the manager, and the next attempt begins anew."""
    before = EffectLedger._record

    def record(now_s: float, task: Any, done: Any, entry: Any) -> Iterable[Any]:
        yield from before(now_s, task, done, entry)
        task.effects[done.key].done = False

    patch.setattr(EffectLedger, "_record", staticmethod(record))


def at_most_once_is_begun_again(patch: Patch) -> None:
    patch.setattr(EffectLedger, "_unknown", lambda self, sender, ask, task, intent: self._go(sender, ask, task, True))


def stale_attempts_may_begin_and_end_effects(patch: Patch) -> None:
    patch.setattr(EffectLedger, "_of", lambda self, sender, message: self._book.tasks.get(message.task))


def a_world_that_compares_no_fences(patch: Patch) -> None:
    patch.setattr(KeyedSink, "newer_than", lambda self, task, fence: False)


def a_world_that_knows_no_keys(patch: Patch) -> None:
    before = KeyedSink.do
    patch.setattr(KeyedSink, "do", lambda self, task, key, fence, once: before(self, task, key, fence, True))


BUGS: list[tuple[Callable[[Patch], None], str, int]] = [
    (the_go_does_not_wait, "E2", 0),
    (outcomes_are_forgotten_at_restart, "E1", 1),
    (outcomes_are_not_kept, "E1", 1),
    (at_most_once_is_begun_again, "E3", 0),
    (stale_attempts_may_begin_and_end_effects, "E6", 0),
    (a_world_that_compares_no_fences, "E5", 0),
    (a_world_that_knows_no_keys, "E1", 0),
]
"""With the key, by its place, before which first attempts are stopped."""


@pytest.mark.parametrize(("plant", "invariant", "key"), BUGS, ids=[f"{bug[0].__name__}-{bug[1]}" for bug in BUGS])
def test_a_planted_bug_is_caught(monkeypatch: Patch, plant: Callable[[Patch], None], invariant: str, key: int) -> None:
    plant(monkeypatch)
    if key:
        monkeypatch.setattr(
            Reaching, "_pause_s", lambda self, run: PAUSE_S if run.key == key and award_number(run.effect.fence) == 1 else 0.0
        )
    seen: dict[str, str] = {}
    for seed in SEEDS:
        scenario = scenario_of(seed)
        scenario._storm()
        for verdict in scenario.history.verdicts:
            seen.setdefault(verdict.invariant, verdict.text)
        if invariant in seen:
            return
    pytest.fail(f"{plant.__name__} got past {invariant}; caught: {seen}")
