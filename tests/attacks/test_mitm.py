"""Somebody stands between two machines and changes what passes: they do not meet, nothing of his is taken, nothing is readable."""

from __future__ import annotations

import asyncio

import pytest

pytestmark = pytest.mark.attack


@pytest.mark.hosts
def test_whatever_he_changes_they_believe_nothing_and_meet_when_he_is_gone(spaces: None) -> None:
    from attacks.mitm import between, story

    modes = ["mechanism NULL", "bit of INITIATE", "old WELCOME", "bit of a later TLS record", "MESSAGE twice"]
    with between() as made:
        rows = asyncio.run(story(made, modes, 3.0))
    assert [row["mode"] for row in rows] == [*modes, "his own TLS", "forged mDNS record", "(he is gone)"]
    for row in rows:
        assert not row.get("accepted") and row["readable"] == "-" and row["recovered s"] is not None, row
        assert row["linked"] == (row["mode"] in ("MESSAGE twice", "(he is gone)")), row
        assert row.get("changed", 1), row
