"""Which term each entry stands in, and what two logs have in common."""

from __future__ import annotations

from itertools import combinations

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


def guarded(*rosters: tuple[str, ...], outlaws: tuple[str, ...] = ()) -> Log:
    log = Log("A", outlaws)
    log.rosters += [Roster((1, number), members) for number, members in enumerate(rosters, 1)]
    return log


def test_a_majority_of_the_members_decides() -> None:
    log = guarded(("A", "K1", "K2"))
    assert log.decides(("A", "K2")) and log.decides(("K1", "K2"))
    assert not log.decides(("A",)) and not log.decides(("A", "K3"))


def test_from_one_to_two_the_author_still_decides_alone() -> None:
    log = guarded(("A", "K1"))
    assert log.decides(("A",)) and not log.decides(("K1",))
    assert not guarded(("A", "K1", "K2"), ("A", "K1")).decides(("A",)), "from three to two he does not"


def test_without_a_revoked_member_those_of_the_roster_before_are_needed() -> None:
    """They may not have heard of the revocation, nor of the newest roster, and decide without this one."""
    log = guarded(("A", "K1", "K2"), ("A", "K1"), outlaws=("K1",))
    assert log.electors == ("A", "K1", "K2")
    assert not log.decides(("A",))
    assert log.decides(("A", "K2"))


def test_any_two_sets_that_decide_meet() -> None:
    """Whoever knows of the revocation, or does not; whoever has the newest roster, or only the one before."""
    everybody = ("A", "K1", "K2", "K3")
    sets = [who for size in range(5) for who in combinations(everybody, size)]
    before = ("A", "K1", "K2")
    for newest in (("A", "K1"), ("A", "K2"), ("A", "K1", "K2", "K3")):
        views = [guarded(before, outlaws=out) for out in ((), *[(one,) for one in everybody[1:]])]
        views += [guarded(before, newest, outlaws=out) for out in ((), *[(one,) for one in everybody[1:]])]
        deciding = [set(who) for who in sets if any(view.decides(who) for view in views)]
        assert all(one & other for one in deciding for other in deciding)


def test_what_is_reached_is_what_enough_of_them_have() -> None:
    log = guarded(("A", "K1", "K2"))
    assert log.reached({"A": (1, 9), "K1": (1, 4), "K2": (1, 6)}.__getitem__) == (1, 6)
