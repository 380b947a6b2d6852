"""The chain's arithmetic: links, numbers, clocks, forks, and under which keys an entry is found."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from mesh.core.records import merkle
from mesh.core.records.journal import FIRST_PREV, JournalWriter, conflict, keys, last_of, newer, roles, wall_ms_of
from mesh.messages.claims import Cell, Choice, KeyRoster
from mesh.messages.records import (
    ENTRIES,
    Accepted,
    Answered,
    Audited,
    Bound,
    Calls,
    CancelAsked,
    Checkpointed,
    Claimed,
    Closed,
    Commit,
    Decided,
    Effected,
    Ended,
    Finished,
    Forgone,
    Freed,
    Guarded,
    Inherited,
    Intended,
    Leads,
    Lost,
    Opened,
    Parked,
    Planned,
    Rekeyed,
    Rolled,
    Rostered,
    Spent,
    Stored,
    Submitted,
    Summed,
    Sworn,
    Ticked,
    TookOver,
)
from mesh.messages.rollouts import Mark as RolloutMark
from mesh.messages.signed import Signed
from mesh.messages.triggers import Mark, PlanRow


def seal(signed: Signed) -> bytes:
    signed.raw = b"signed:" + repr(signed.body).encode()
    return hashlib.sha256(repr(signed.body).encode()).digest()


def writer(**more: Any) -> JournalWriter:
    return JournalWriter("a", 1, seal=seal, **more)


def test_commits_are_linked_and_numbered_without_gaps() -> None:
    journal = writer()
    one = journal.commit([b"x", b"y"], wall_ms=1000)
    two = journal.commit([b"z"], wall_ms=1001)
    assert one.body == Commit("a", 1, 0, 1, 2, FIRST_PREV, merkle.root([merkle.leaf(b"x"), merkle.leaf(b"y")]), 1000 << 16)
    assert two.body == Commit("a", 1, 0, 3, 1, seal(one), merkle.leaf(b"z"), 1001 << 16)
    assert two.raw and journal.head == seal(two) and journal.next_seq == 4
    assert (last_of(one.body), wall_ms_of(two.body)) == (2, 1001)


def test_stamps_grow_even_when_the_wall_clock_steps_back() -> None:
    journal = writer(hlc=5000 << 16)
    stamps = [journal.commit([b"x"], wall_ms=at).body.hlc for at in (4000, 4000, 6000, 5000)]
    assert stamps == sorted(set(stamps))
    assert stamps[0] == (5000 << 16) + 1 and stamps[2] == 6000 << 16


def test_the_next_life_goes_on_where_the_disk_ended() -> None:
    first = writer()
    first.commit([b"x"], wall_ms=1)
    second = JournalWriter("a", 2, seal=seal, head=first.head, next_seq=first.next_seq, hlc=1 << 16)
    again = second.commit([b"y"], wall_ms=2)
    assert (again.body.incarnation, again.body.first, again.body.prev) == (2, 2, first.head)


def commit(incarnation: int, first: int, count: int, root: bytes = b"r") -> Commit:
    return Commit("a", incarnation, 0, first, count, b"p", root, 0)


@pytest.mark.parametrize(
    "one,other,forked",
    [
        (commit(1, 1, 3), commit(1, 1, 3), False),
        (commit(1, 1, 3), commit(1, 4, 1), False),
        (commit(1, 1, 3), commit(2, 4, 1), False),
        (commit(1, 1, 3), commit(1, 1, 3, b"s"), True),
        (commit(1, 1, 3), commit(1, 3, 1), True),
        (commit(1, 1, 3), commit(1, 1, 2), True),
        (commit(1, 8, 1), commit(2, 3, 2), True),
        (commit(1, 8, 3), commit(2, 10, 1), True),
    ],
)
def test_conflict_is_what_cannot_be_one_journal(one: Commit, other: Commit, forked: bool) -> None:
    assert conflict(one, other) is forked
    assert conflict(other, one) is forked


def test_commits_of_two_authors_never_conflict() -> None:
    other = commit(1, 1, 3, b"s")
    other.author = "b"
    assert not conflict(commit(1, 1, 3), other)


def test_newer_goes_by_life_then_number() -> None:
    assert newer(commit(2, 5, 1), commit(1, 9, 1))
    assert newer(commit(1, 5, 1), commit(1, 4, 1))
    assert not newer(commit(1, 4, 1), commit(1, 4, 1))


IN, OUT, FILE, MADE = "i" * 64, "o" * 64, "f" * 64, "m" * 64


@pytest.mark.parametrize(
    "entry,expected",
    [
        (Opened(1, b"", 0), ()),
        (Submitted("t", "c", IN, "me", 0, 0, parent="p", files=((FILE, 3),)), ("t", "p", IN, FILE)),
        (Submitted("t", "c", IN, "me", 0, 0), ("t", IN)),
        (Decided("t", 1, "award", "r", "n", ()), ("t",)),
        (Bound("t", 1), ("t",)),
        (Lost("t", 1, "n", "r"), ("t",)),
        (Parked("t", "r"), ("t",)),
        (CancelAsked("t", "b", "r"), ("t",)),
        (Finished("t", 1, "done", output=OUT, files=((MADE, 1), (OUT, 2))), ("t", OUT, MADE)),
        (Finished("t", 1, "failed"), ("t",)),
        (Accepted("t", 1, "m", "c", IN), ("t", IN)),
        (Ended("t", 1, "ok", OUT, ((MADE, 1),)), ("t", OUT, MADE)),
        (Closed("t", 1), ("t",)),
        (Calls(3, b""), ()),
        (Audited("joined", "n", "m", "by invitation"), ("audit", "audit:n")),
        (Audited("refused", "", "m"), ("audit",)),
        (Rekeyed(b"a", b"b", b"p"), ()),
        (Guarded(1, ("a", "b")), ()),
        (Leads(1, ("a", "b")), ()),
        (Inherited("a", 2, 3), ()),
        (TookOver("a", 2), ()),
        (Forgone("a", 2), ()),
        (Checkpointed("t", 1, OUT), ("t", OUT)),
        (Intended("t", 1, "k", 1, False, "n"), ("t",)),
        (Effected("t", 1, "k", 1, OUT), ("t",)),
        (Spent("t", 1, 1, "k", (), (("usd", 20),)), ("t",)),
        (Claimed("t", "u"), ("t",)),
        (Rostered(KeyRoster("a/1", 1, ("a",)), True), ()),
        (Sworn(Cell("k", (1, 1, "a"), (0, 0, ""), Choice())), ()),
        (Freed((("k", "t"),)), ()),
        (Summed(9, (1, 4)), ("summed",)),
        (Answered("t", "n", "ann", output=OUT), ("t", OUT)),
        (Stored("t", "k", 3, OUT), ("t", OUT)),
        (Stored("t", "k", 4), ("t",)),
        (Planned(PlanRow("p", 1, "a")), ()),
        (Ticked(Mark("p", 1)), ()),
        (Rolled(RolloutMark(1, "c")), ()),
    ],
    ids=lambda value: type(value).__name__,
)
def test_keys(entry: Any, expected: tuple[str, ...]) -> None:
    assert keys(entry) == expected


def test_every_kind_of_entry_has_a_row_above() -> None:
    [mark] = test_keys.pytestmark  # type: ignore[attr-defined]
    assert {type(entry) for entry, _ in mark.args[1]} == set(ENTRIES)


def test_roles_tell_in_from_out() -> None:
    assert list(roles(Submitted("t", "c", IN, "me", 0, 0, files=((FILE, 3),)))) == [(IN, "input", "in"), (FILE, "input", "in")]
    assert list(roles(Ended("t", 1, "ok", OUT, ((MADE, 1),)))) == [(OUT, "output", "out"), (MADE, "file", "out")]
