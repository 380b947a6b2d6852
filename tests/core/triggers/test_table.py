"""The table of schedules: whatever comes in whichever order, all nodes end with the same one."""

from __future__ import annotations

from itertools import permutations

from hypothesis import given
from hypothesis import strategies as st

from mesh.core.triggers.table import Table, merged
from mesh.messages.triggers import Mark, Plan, PlanRow

PLAN = (Plan("p", "c", every_ms=1000),)
marks = st.builds(
    lambda upto, fired, task: Mark("p", max(upto, fired), fired, task if fired else ""),
    st.integers(0, 5),
    st.integers(0, 5),
    st.sampled_from(["t", "u"]),
)
rows = st.builds(
    PlanRow, st.sampled_from(["p", "q"]), st.integers(1, 3), st.sampled_from(["a", "b"]), st.just(PLAN), st.booleans(), st.just(0)
)


@given(st.lists(marks, min_size=1, max_size=4))
def test_marks_end_the_same_in_every_order(said: list[Mark]) -> None:
    ends = set()
    for order in permutations(said):
        table = Table(9)
        for mark in (*order, *order):
            table.take_mark(mark)
        ends.add(repr(table.marks))
    assert len(ends) == 1


@given(st.lists(rows, max_size=4, unique_by=lambda row: (row.name, row.version, row.by)))
def test_rows_end_the_same_in_every_order(said: list[PlanRow]) -> None:
    """One node never says two things under one version."""
    ends = set()
    for order in permutations(said):
        table = Table(9)
        for row in (*order, *order):
            table.take_row(row)
        ends.add(repr(sorted(table.rows.items())))
    assert len(ends) == 1


def test_a_node_that_has_just_come_hides_no_missed_tick() -> None:
    assert merged(Mark("p", 100), Mark("p", 40, 40, "t")) == Mark("p", 40, 40, "t")
    assert merged(Mark("p", 100), Mark("p", 40)) == Mark("p", 40)
    assert merged(Mark("p", 50, 30, "t"), Mark("p", 40, 40, "u")) == Mark("p", 50, 40, "u")


def test_a_full_table_lets_go_of_what_is_over_and_of_nothing_else() -> None:
    table = Table(2)
    assert table.take_row(PlanRow("a", 1, "n", PLAN)) and table.take_row(PlanRow("b", 1, "n", (), since_ms=5))
    assert table.take_row(PlanRow("c", 1, "n", PLAN)) and list(table.rows) == ["a", "c"]
    assert not table.take_row(PlanRow("d", 1, "n", PLAN)) and list(table.rows) == ["a", "c"]
    assert table.take_row(PlanRow("c", 2, "n", (), since_ms=6)), "what is in it may always be changed"
    assert table.take_mark(Mark("a", 1)) and table.take_mark(Mark("b", 2)) and not table.take_mark(Mark("c", 3))
    table.forget({"a"})
    assert table.take_mark(Mark("c", 3)) and set(table.marks) == {"a", "c"}
