"""Tags that members recognize and nobody else can make, follow or guess."""

from __future__ import annotations

import pytest

from mesh.runtime.lan.blinding import DAY_MS, TEXT_BYTES_MAX, Blinding, day_of, in_clear

OURS, THEIRS = Blinding(bytes(range(32))), Blinding(bytes(32))
DAY = 20_000


def test_a_tag_is_the_same_for_all_members_and_for_nobody_else() -> None:
    assert OURS.mesh(DAY) == Blinding(bytes(range(32))).mesh(DAY) == "3f5621ffe7f5b56f"
    assert OURS.mesh(DAY) != THEIRS.mesh(DAY)
    assert OURS.capability("ocr", DAY) != THEIRS.capability("ocr", DAY)


def test_a_tag_is_another_each_day_and_holds_from_yesterday_to_tomorrow() -> None:
    assert len({OURS.mesh(day) for day in range(DAY, DAY + 100)}) == 100
    assert [day for day in range(DAY - 5, DAY + 6) if OURS.accepts(OURS.mesh(day), DAY)] == [DAY - 1, DAY, DAY + 1]
    assert not OURS.accepts(THEIRS.mesh(DAY), DAY) and not OURS.accepts("", DAY)


def test_the_day_begins_at_midnight_utc() -> None:
    assert day_of(0) == 0 and day_of(DAY_MS - 1) == 0 and day_of(DAY_MS) == 1


def test_capability_tags_tell_no_names_no_order_and_no_day() -> None:
    tags = OURS.capabilities(["b", "a", "b"], DAY)
    assert tags == "".join(sorted([OURS.capability("a", DAY), OURS.capability("b", DAY)])) and len(tags) == 2 * 8
    assert OURS.capability("a", DAY) != OURS.capability("a", DAY + 1) != OURS.mesh(DAY + 1)[:8]
    assert OURS.capabilities([], DAY) == ""


def test_what_is_said_fits_one_text_string() -> None:
    names = [f"capability-{number:04}" for number in range(1000)]
    assert TEXT_BYTES_MAX - 8 < len(OURS.capabilities(names, DAY)) <= TEXT_BYTES_MAX
    assert TEXT_BYTES_MAX - 20 < len(in_clear(names)) <= TEXT_BYTES_MAX
    assert in_clear(["b", "a", "b"]) == "a,b" and in_clear(["a,b", "übung"]) == ""


@pytest.mark.parametrize("size", [0, 16, 31, 33, 64])
def test_a_key_of_another_length_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match=f"not {size}"):
        Blinding(bytes(size))
