"""Shared values under every kind of fault: each place is one register. And each law of the checker is proven by a planted bug."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from mesh.core.work.scope import Scope
from mesh.core.work.scopes import Scopes
from mesh.effects import Need, Send
from mesh.sim.history import Verdict
from mesh.sim.run import main
from mesh.sim.scenario import Plan, Scenario

PLAN = ["--nodes", "5", "--faults", "all", "--until", "20", "--hard", "4", "--rate", "0.3", "--states", "6"]
Patch = pytest.MonkeyPatch


@pytest.mark.parametrize("seed", ["3"])
def test_what_was_acknowledged_is_read_and_versions_never_fork(seed: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*PLAN, "--seed", seed]) == 0, capsys.readouterr().out


def forgets_events(patch: Patch) -> None:
    patch.setattr(Scope, "repeated", lambda self, wanted: None)


def gives_out_versions_of_its_own(patch: Patch) -> None:
    """Whoever takes over counts on from where the last reader was, not from where the last writer was."""
    honest = Scope.apply

    def apply(self: Scope, entry: Any, data: bytes) -> None:
        honest(self, entry, data)
        self.version = max(1, self.version - 1) if self.version % 5 == 0 else self.version

    patch.setattr(Scope, "apply", apply)


def writes_over_anything(patch: Patch) -> None:
    honest = Scope.problem

    def problem(self: Scope, wanted: Any, limits: Any) -> Any:
        found = honest(self, wanted, limits)
        return None if found is not None and found["code"] == "version_conflict" else found

    patch.setattr(Scope, "problem", problem)


def answers_before_it_is_kept(patch: Patch) -> None:
    honest = Scopes._yes

    def yes(asker: Any, body: dict[str, Any]) -> Send:
        send = honest(asker, body)
        send.need = Need.FREE
        return send

    patch.setattr(Scopes, "_yes", staticmethod(yes))


def loses_every_seventh_write(patch: Patch) -> None:
    honest = Scope.apply

    def apply(self: Scope, entry: Any, data: bytes) -> None:
        before = dict(self.values)
        honest(self, entry, data)
        if entry.version % 7 == 0:
            self.values = before

    patch.setattr(Scope, "apply", apply)


class Looking(list[Verdict]):
    """The verdicts of a run, which ends with the first of one law: the rest would prove nothing."""

    def __init__(self, law: str) -> None:
        super().__init__()
        self._law = law

    def append(self, verdict: Verdict) -> None:
        super().append(verdict)
        assert verdict.invariant != self._law, "enough"


@pytest.mark.parametrize(
    ("plant", "law", "kinds"),
    [
        (forgets_events, "V1", ("crash", "pause_manager")),
        (gives_out_versions_of_its_own, "V1", ()),
        (writes_over_anything, "V3", ()),
        (answers_before_it_is_kept, "V2", ("cut_manager",)),
        (loses_every_seventh_write, "V4", ()),
    ],
)
def test_a_planted_bug_is_found(plant: Callable[[Patch], None], law: str, kinds: tuple[str, ...], monkeypatch: Patch) -> None:
    plant(monkeypatch)
    found: list[str] = []
    for seed in range(1, 7):
        scenario = Scenario(Plan(4, seed, kinds, 20.0, rate=0.2, hard=4.0, states=25.0, farewell=False))
        scenario.history.verdicts = Looking(law)
        found += [verdict.invariant for verdict in scenario.run().verdicts]
        if law in found:
            return
    pytest.fail(f"{law} was not broken: {found}")
