"""Co-signed heads by literal effects: when this node confirms others' journals, and what others' confirmations say of its own."""

from __future__ import annotations

from typing import Any

import pytest

from mesh.core.deadlines import Deadlines
from mesh.core.directory import Directory
from mesh.core.inputs import MemberLinked, NewHead, Remembered, Started
from mesh.core.records.journal import seal_of
from mesh.core.records.records import Records, TableDue
from mesh.effects import Need, Refused, Remember, Send
from mesh.limits import RecordsLimits
from mesh.messages.records import Commit, Fork, Heads, Parked, Witness, Witnessed
from mesh.messages.signed import Signed

FREE = Need.FREE


def commit(author: str, first: int, count: int = 1, incarnation: int = 1, root: bytes = b"r") -> Signed:
    raw = f"{author} {first} {count} {incarnation} {root!r}".encode()
    return Signed(author, Commit(author, incarnation, 0, first, count, b"p", root, first << 16), raw)


def witness(peer: str, last: int, head: bytes, incarnation: int = 3, author: str = "me") -> Signed:
    return Signed(peer, Witness(author, incarnation, last, head, 9), raw=b"w%d" % last)


class Bench:
    """A records machine of node `me` (incarnation 3, 20 entries on disk), linked to b and c."""

    def __init__(self, **limits: Any) -> None:
        self.deadlines = Deadlines()
        self.directory = Directory("me", "otter")
        for node in ("b", "c", "d"):
            self.directory.ensure(node).linked = node != "d"
        self.records = Records(
            self.directory, self.deadlines, RecordsLimits(**limits), incarnation=3, name="otter", head=b"h" * 32, head_seq=20
        )

    def give(self, item: Any, sender: str = "me", now_s: float = 0.0) -> list[Any]:
        return list(self.records.inputs[type(item)](now_s, sender, item) or ())

    def due(self, now_s: float) -> list[Any]:
        effects: list[Any] = []
        for deadline in self.deadlines.pop_due(now_s):
            effects += self.give(deadline, now_s=now_s)
        return effects

    def learn(self, *heads: Signed, now_s: float = 0.0) -> None:
        for head in heads:
            self.give(Heads((head,)), "c", now_s)

    def said(self, effects: list[Any]) -> list[tuple[str, int]]:
        """To whom, and up to which entry."""
        return [(e.to, one.body.last) for e in effects if type(e) is Send and type(e.message) is Witnessed for one in e.message.witnesses]

    @property
    def doubt(self) -> str:
        return self.records.statistics().rolled_back


# ---- for others


def test_a_head_is_kept_first_and_confirmed_a_round_later() -> None:
    bench, head = Bench(), commit("b", 7)
    bench.learn(head, now_s=100.0)
    assert bench.due(109.9) == []
    assert bench.due(110.0) == [Remember((head,), soon=True, need=FREE)]
    signed = Signed("me", Witness("b", 1, 7, seal_of(head), 120_000))
    assert bench.due(120.0) == [Send("b", Witnessed((signed,)), need=FREE)]
    assert bench.due(500.0) == [], "the same head is not confirmed again"
    assert bench.records.statistics().witnesses_given == 1


def test_however_often_a_head_moves_it_is_confirmed_once_a_round() -> None:
    bench = Bench()
    said: list[tuple[float, tuple[str, int]]] = []
    for number in range(600):
        at_s = 100.0 + number / 10
        bench.learn(commit("b", 1 + number), now_s=at_s)
        said += [(at_s, one) for one in bench.said(bench.due(at_s))]
    assert [round(at_s) for at_s, _ in said] == [120, 130, 140, 150]
    assert said[0][1] == ("b", 101), "the head that was kept a round ago, not the newest"


def test_a_forked_author_is_never_confirmed() -> None:
    bench = Bench()
    bench.learn(commit("b", 7), now_s=100.0)
    bench.due(110.0)
    bench.learn(commit("b", 7, root=b"other"), now_s=115.0)
    assert bench.said(bench.due(120.0)) == []
    bench.learn(commit("b", 9), now_s=121.0)
    bench.give(MemberLinked("b"), now_s=122.0)
    assert bench.said([*bench.due(131.0), *bench.due(141.0), *bench.due(151.0)]) == []


def test_a_fork_heard_of_from_others_stops_it_too() -> None:
    bench = Bench()
    bench.learn(commit("b", 7), now_s=100.0)
    bench.due(110.0)
    bench.give(Fork("b", commit("b", 3), commit("b", 3, root=b"x")), "c", 115.0)
    assert bench.said(bench.due(120.0)) == []


def test_after_a_restart_what_was_kept_forbids_another_head_for_the_same_place() -> None:
    bench = Bench()
    bench.give(Remembered((commit("b", 7, 3),)))
    bench.learn(commit("b", 8), now_s=100.0)  # the place is taken by the one that an earlier life confirmed
    assert bench.said([*bench.due(110.0), *bench.due(120.0), *bench.due(130.0)]) == []
    assert bench.records.statistics().forked == ("b",)


def test_an_author_without_a_link_is_confirmed_when_it_is_back() -> None:
    bench = Bench()
    bench.learn(commit("d", 7), now_s=100.0)
    assert bench.said([*bench.due(110.0), *bench.due(120.0), *bench.due(130.0)]) == []
    bench.directory.ensure("d").linked = True
    bench.give(MemberLinked("d"), now_s=200.0)
    assert bench.said([*bench.due(210.0), *bench.due(220.0)]) == [("d", 7)]
    bench.give(MemberLinked("d"), now_s=300.0)
    assert bench.said([*bench.due(310.0), *bench.due(320.0)]) == [], "it has not moved"


# ---- of the own journal


def grown(bench: Bench, *counts: int) -> list[Signed]:
    """Own commits from entry 21 on."""
    made, first = [], 21
    for count in counts:
        made.append(commit("me", first, count, incarnation=3))
        bench.give(NewHead(made[-1]))
        first += count
    return made


def test_what_fits_is_kept_the_newest_of_each_peer_and_written_down_in_time() -> None:
    bench = Bench()
    one, other = grown(bench, 3, 4)
    for peer, head, last in (("b", one, 23), ("c", one, 23), ("b", other, 27), ("b", one, 23)):
        assert bench.give(Witnessed((witness(peer, last, seal_of(head)),)), peer) == []
    assert bench.records.statistics().witnessed == (("b", 27), ("c", 23)) and bench.doubt == ""
    bench.give(Started(), now_s=100.0)
    [kept] = [effect for effect in bench.due(108.0) if type(effect) is Remember]
    assert [signed.body.last for signed in kept.witnesses] == [27, 23]
    assert not [effect for effect in bench.due(116.0) if type(effect) is Remember], "once"


@pytest.mark.parametrize(
    ("last", "head", "incarnation", "says"),
    [
        (24, b"x" * 32, 3, "b co-signed entry 24 of this node's journal, which ends with 23"),
        (23, b"x" * 32, 4, "b co-signed entry 23 of this node's journal, which ends with 23"),
        (23, b"x" * 32, 3, "b co-signed another entry 23 than this node's journal holds"),
        (22, b"x" * 32, 3, "b co-signed another entry 22 than this node's journal holds"),
    ],
    ids=["beyond the end", "of a later life", "another head", "where no commit ends"],
)
def test_what_does_not_fit_is_named_with_its_entry(last: int, head: bytes, incarnation: int, says: str) -> None:
    bench = Bench()
    grown(bench, 3)
    refused, on_record, _ = bench.give(Witnessed((witness("b", last, head, incarnation),)), "b")
    assert refused == Refused("witness_differs", "b")
    assert (on_record.entry.what, on_record.entry.note) == ("rolled_back", bench.doubt)
    assert bench.doubt.startswith(says)
    bench.give(Witnessed((witness("c", 23, seal_of(commit("me", 21, 3, 3))),)), "c")
    assert bench.doubt.startswith(says), "never cleared"


def test_a_contradiction_is_what_the_next_life_hears_whatever_the_peer_says_later() -> None:
    bench = Bench()
    [own] = grown(bench, 3)
    bench.give(Witnessed((witness("b", 40, b"x" * 32),)), "b")
    bench.give(Witnessed((witness("b", 23, seal_of(own)),)), "b")
    bench.give(Started(), now_s=100.0)
    [kept] = [effect for effect in bench.due(108.0) if type(effect) is Remember]
    assert [signed.body.last for signed in kept.witnesses] == [40]


def test_right_after_a_restart_a_cut_tail_shows_before_anything_starts() -> None:
    bench = Bench()
    bench.give(Remembered((), (), (witness("b", 31, b"x" * 32, 2), witness("c", 20, b"y" * 32, 2)), ()))
    assert bench.doubt.startswith("b co-signed entry 31 of this node's journal, which ends with 20")


def test_right_after_a_restart_a_replaced_entry_shows() -> None:
    own = commit("me", 15, 6, 2)
    honest, forged = Bench(), Bench()
    honest.give(Remembered((), (), (witness("b", 20, seal_of(own), 2),), (own,)))
    forged.give(Remembered((), (), (witness("b", 20, b"x" * 32, 2),), (own,)))
    assert honest.doubt == "" and honest.records.statistics().witnessed == (("b", 20),)
    assert forged.doubt.startswith("b co-signed another entry 20 than this node's journal holds")


@pytest.mark.parametrize(
    "signed",
    [
        witness("b", 21, b"x" * 32, author="c"),
        witness("me", 21, b"x" * 32),
        witness("b", 0, b"x" * 32),
        Signed("b", Parked("t", "r")),
    ],
    ids=["anothers journal", "by itself", "no entry", "no co-signature"],
)
def test_what_is_no_word_about_this_journal_is_refused(signed: Signed) -> None:
    bench = Bench()
    assert bench.give(Witnessed((signed,)), "b") == [Refused("bad_witness", "b")]
    assert bench.records.witnesses() == () and bench.doubt == ""


def test_more_peers_than_are_kept_cost_the_one_that_is_furthest_behind() -> None:
    bench = Bench(witnesses_max=2)
    one, other = grown(bench, 3, 4)
    for peer, head, last in (("b", other, 27), ("c", one, 23), ("d", other, 27)):
        bench.give(Witnessed((witness(peer, last, seal_of(head)),)), peer)
    assert bench.records.statistics().witnessed == (("b", 27), ("d", 27))


def test_a_message_over_the_limit_is_refused() -> None:
    bench = Bench(heads_message_max=1)
    two = Witnessed((witness("b", 20, b""), witness("b", 20, b"")))
    assert bench.give(two, "b") == [Refused("too_many_heads", "b")]


def test_the_table_is_due_as_before() -> None:
    bench = Bench()
    bench.give(Started(), now_s=100.0)
    assert bench.deadlines.when(TableDue()) == 108.0
