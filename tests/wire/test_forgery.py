"""The forgery matrix, a few cells of every row and attack, and honest traffic. `scripts/attack forgery` runs it whole."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import pytest
from attacks import honest, objects
from attacks.envelopes import Envelopes
from attacks.forgery import EXEMPT, FAMILIES, SORTS, missing
from attacks.matrix import Range
from attacks.objects import Objects
from attacks.verdict import verdict
from attacks.world import World

from mesh.messages import KINDS, SIGNED
from mesh.messages.membership import Ping

SEED = 20_270_115


def _samples() -> dict[str, dict[str, list[Any]]]:
    found: dict[str, dict[str, list[Any]]] = {}
    for family in FAMILIES:
        rows = found.setdefault(family.name, {})
        for at, cell in family.sample(SEED):
            rows.setdefault(cell.attack.name, []).append((at, cell))
    return found


SAMPLES = _samples()


@pytest.mark.parametrize(
    ("family", "attack"),
    [(family, attack.name) for family in FAMILIES for attack in family.attacks],
    ids=lambda value: value if isinstance(value, str) else value.name.replace(" ", "_"),
)
def test_every_row_under_every_attack(family: Any, attack: str) -> None:
    """Refused for exactly the right reason, nothing has changed, and honest traffic still opens."""
    scene = Range(family)
    cells = SAMPLES[family.name][attack]
    assert cells
    assert [why for at, cell in cells for why in (scene.judge(at, cell)[1],) if why] == []


def test_the_matrix_has_more_than_ten_thousand_cells_and_every_row() -> None:
    rows = Counter(cell.subject for family in FAMILIES for _, cell in family.cells(SEED))
    assert rows.total() > 10_000
    assert set(rows) == {f"message {cls.__name__}" for cls in KINDS.values()} | {f"signed {tag}" for tag in SIGNED}
    assert min(rows.values()) > 200


def test_every_sort_of_attack_is_made_on_every_row_or_is_exempt_with_a_reason() -> None:
    assert missing() == []
    made = {attack.name for family in FAMILIES for attack in family.attacks}
    assert {name for names in SORTS.values() for name in names} <= made
    for (row, sort), why in EXEMPT.items():
        assert row.startswith("signed ") and row.removeprefix("signed ") in SIGNED and sort in SORTS and why


def test_a_new_kind_or_object_without_rows_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    @dataclass
    class New:
        number: int

    monkeypatch.setitem(SIGNED, "new", New)
    assert {sort for row, sort in missing() if row == "signed new"} >= {"expired", "revoked", "wrong role", "wrong binding", "redirected"}
    monkeypatch.setitem(KINDS, 9999, New)
    with pytest.raises(KeyError, match="New"):
        list(Envelopes().cells())


def test_every_tag_is_in_one_group() -> None:
    groups = (objects.CHAIN, objects.TRUST, objects.HOMES, objects.OWN, objects.OPEN_TO_ALL)
    assert sorted(tag for group in groups for tag in group) == sorted(SIGNED)


def test_a_cell_can_fail() -> None:
    """Something honest where an attack is expected is reported, and so is a wrong reason."""
    at, cell = next((at, cell) for at, cell in Envelopes().sample(SEED) if cell.attack.name == "too_many")
    lenient = type(cell.attack)("too_many", lambda stage, _: stage.honest, cell.attack.reasons)
    outcome, why = Range(Envelopes()).judge(at, type(cell)(cell.subject, lenient, None))
    assert outcome == "ACCEPTED" and "not too_many_messages" in why
    wrong = type(cell.attack)("too_many", cell.attack.strike, lambda stage, _: frozenset(("replayed",)), cell.attack.variants)
    assert "not replayed" in Range(Envelopes()).judge(at, type(cell)(cell.subject, wrong, 33))[1]
    at, cell = next((at, cell) for at, cell in Objects().sample(SEED) if cell.attack.name == "said_again")
    silent = type(cell.attack)("said_again", lambda stage, _: stage.world.lines["e"].row().raw, lambda stage, _: frozenset(("ACCEPTED",)))
    assert "something has changed" in Range(Objects()).judge("alive", type(cell)("signed alive", silent, None))[1]


def test_the_second_opinion_lets_honest_frames_pass() -> None:
    world = World()
    frames = world.seal([Ping(1)])
    assert verdict(world, frames, signed=True) == "" and verdict(world, frames) == "bad_signature"


def test_no_honest_message_is_refused() -> None:
    tally = honest.run(3000, SEED)
    assert not tally.refused and tally.sent >= 3000
    assert set(tally.kinds) == {cls.__name__ for cls in KINDS.values()}
