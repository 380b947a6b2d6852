"""Labels and resources under every kind of fault; and the checker that watches them, proven by bugs."""

from __future__ import annotations

import pytest

from mesh.core.work import market, slots
from mesh.core.work.resources import Resources
from mesh.sim.faults import KINDS
from mesh.sim.scenario import Outcome, Plan, Scenario

FAULTS = tuple(kind for kind in KINDS if kind not in ("stale_disk", "revoke"))


def run(seed: int, kinds: tuple[str, ...] = FAULTS, until_s: float = 4.0) -> Outcome:
    return Scenario(Plan(4, seed, kinds, until_s, rate=8.0, capabilities=("bake", "roast", "near", "grill"), farewell=False)).run()


def test_what_is_picky_ends_where_it_fits() -> None:
    outcome = run(4, until_s=10.0)
    assert outcome.verdicts == () and outcome.tasks > 30


def test_a_resource_that_is_given_twice_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Resources, "more", Resources.most)
    assert {verdict.invariant for verdict in run(1, ()).verdicts} == {"O8"}


def test_a_label_that_is_not_looked_at_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(market, "fits", lambda *_: True)
    monkeypatch.setattr(slots, "fits_worker", lambda *_: True)
    assert {verdict.invariant for verdict in run(1, ()).verdicts} == {"O8"}
