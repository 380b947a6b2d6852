"""Which term each entry stands in, and what two logs have in common."""

from __future__ import annotations

import pytest

from mesh.core.keeping.log import START, Log, Roster, Run


def log():
    """1..3 in term 1, taken over in term 2, 4..6 in term 3."""
    made = Log("A")
    made.append(1, "A", 3, ("A", "K1"))
    made.append(2, "K1", 3)
    made.append(3, "A", 6)
    return made


@pytest.mark.parametrize("at", [START, (1, 1), (1, 3), (2, 3), (3, 4), (3, 6)])
def test_it_has(at):
    assert log().has(at)


@pytest.mark.parametrize("at", [(1, 4), (2, 2), (2, 4), (3, 3), (3, 7), (4, 6)])
def test_it_has_not(at):
    assert not log().has(at)


@pytest.mark.parametrize(
    ("at", "floor"),
    [((1, 5), (1, 3)), ((2, 9), (2, 3)), ((3, 2), (1, 2)), ((3, 9), (3, 6)), ((4, 4), (3, 4)), ((1, 0), START)],
)
def test_where_another_log_may_still_be_equal(at, floor):
    assert log().floor(at) == floor


def test_truncating_forgets_runs_and_rosters():
    cut = log()
    cut.truncate((2, 3))
    assert (cut.last, cut.runs) == ((2, 3), [Run(1, 0, "A"), Run(2, 3, "K1")])
    cut.truncate((1, 2))
    assert (cut.last, cut.rosters) == ((1, 2), [Roster(START, ("A",))])


def test_what_is_taken_over_counts_once_it_is_safe():
    assert [log().taken_up_to(at) for at in ((1, 3), (2, 3), (3, 6))] == [0, 3, 3]
    assert log().run_after((1, 3)) == (Run(2, 3, "K1"), 3) and log().run_after((3, 6)) is None
