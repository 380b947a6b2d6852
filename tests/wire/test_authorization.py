"""The table role x kind: every cell decided, denied by default."""

from __future__ import annotations

import pytest

from mesh.messages import KINDS
from mesh.wire.authorization import NEEDS, RIGHTS, ROLES, as_markdown, may_say


def test_every_kind_needs_a_right_and_nothing_else_is_in_the_table() -> None:
    assert set(NEEDS) == set(KINDS.values())
    assert set(NEEDS.values()) == set(RIGHTS)


@pytest.mark.parametrize("role", [*ROLES, "stranger", ""])
@pytest.mark.parametrize("kind", [*KINDS, 0, 9999])
def test_every_cell(role: str, kind: int) -> None:
    assert may_say(role, kind) == (kind in KINDS and NEEDS[KINDS[kind]] in ROLES.get(role, frozenset()))


def test_a_new_kind_is_denied_until_somebody_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(KINDS, 9999, type("New", (), {}))
    assert not may_say("member", 9999)
    assert "| 9999 | New | nobody may | no |" in as_markdown()


def test_the_table_for_the_documentation_has_every_kind() -> None:
    table = as_markdown()
    for kind, cls in KINDS.items():
        assert f"| {kind} | {cls.__name__} | {NEEDS[cls]} | yes |" in table
