"""A keeper whose disk was put back: what it says no more, and how it comes to count again."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from mesh.core.directory import Directory, Row
from mesh.core.keeping.log import Log
from mesh.core.keeping.memory import Memory
from mesh.core.keeping.replica import LEADER, Keep, Peer, Replica, Say
from mesh.core.keeping.roster import Roster
from mesh.limits import KeepingLimits
from mesh.messages.keeping import Block, Ship, Shipped, Vote, VoteAsk
from mesh.messages.records import Commit
from mesh.messages.signed import Signed

ALL = ("A", "K1", "K2")
LIMITS = KeepingLimits()


def block(seq: int, members: tuple[str, ...] = ()) -> Block:
    return Block(1, Signed("A", Commit("A", 1, 0, seq, 1, b"", b"", 0)), members=members)


def replica(me: str, *, seq: int = 3, lapse: int = 0, members: tuple[str, ...] = ALL) -> Replica:
    log = Log("A")
    log.append(1, "A", seq, members)
    made = Replica("A", me, lambda at: (), log, term=1, stored=log.last)
    made.lapse = lapse
    if me == "A":
        made.role, made.kept = LEADER, log.last
        made.peers = {name: Peer(match=log.last, next=log.last, probing=False) for name in members if name != "A"}
    return made


def said(out: Any) -> list[Any]:
    return [item.message for item in out if isinstance(item, Say)]


# ---- the keeper


def test_who_may_have_forgotten_votes_neither_for_others_nor_for_itself() -> None:
    keeper = replica("K1", lapse=7)
    assert said(keeper.on_vote_ask("K2", VoteAsk("A", 2, 1, 3, True), willing=True)) == [Vote("A", 1, False, True)]
    assert said(keeper.on_vote_ask("K2", VoteAsk("A", 2, 1, 3), willing=True)) == [Vote("A", 2, False)]
    assert list(keeper.campaign()) == []


def test_it_goes_on_learning_and_says_with_everything_that_it_does_not_count() -> None:
    keeper = replica("K1", seq=2, lapse=7)
    out = list(keeper.on_ship("A", Ship("A", 1, 1, 2, 1, 2, (block(3),))))
    assert [type(item) for item in out] == [Keep, Say] and said(out) == [Shipped("A", 1, True, 1, 3, lapse=7)]


def test_it_counts_once_it_is_a_member_by_a_roster_from_after_it_named_its_lapse() -> None:
    keeper = replica("K1", lapse=7, members=("A", "K2"))
    early = Ship("A", 1, 1, 3, 1, 3, lapse=7)
    assert said(keeper.on_ship("A", early))[0].lapse == 7, "it is no member yet"
    assert said(keeper.on_ship("A", Ship("A", 1, 1, 3, 1, 3, (block(4, ALL),), lapse=6)))[0].lapse == 7, "that was another lapse"
    assert said(keeper.on_ship("A", Ship("A", 1, 1, 4, 1, 4, lapse=7)))[0].lapse == 0 == keeper.lapse
    assert said(keeper.on_vote_ask("K2", VoteAsk("A", 2, 1, 4), willing=True))[0].granted


def test_a_ship_that_names_what_it_had_shows_it_and_is_not_answered() -> None:
    keeper = replica("K1", seq=2)
    assert list(keeper.on_ship("A", Ship("A", 1, 1, 2, 1, 2, had_term=1, had_seq=3))) == []
    assert keeper.lapsed
    honest = replica("K1", seq=3)
    assert said(honest.on_ship("A", Ship("A", 1, 1, 3, 1, 3, had_term=1, had_seq=3))) and not honest.lapsed


# ---- the leader


def test_a_leader_does_without_who_has_forgotten_and_knows_who_it_is() -> None:
    author = replica("A")
    list(author.on_shipped("K1", Shipped("A", 1, True, 1, 2, lapse=7)))
    assert author.lapsed_peers() == ("K1",) and author.peers["K1"].match == (1, 2), "what it had said before is over"
    list(author.wrote(4))
    list(author.on_shipped("K1", Shipped("A", 1, True, 1, 4, lapse=7)))
    assert author.kept == (1, 3)
    list(author.on_shipped("K2", Shipped("A", 1, True, 1, 4)))
    assert author.kept == (1, 4)


def test_who_is_taken_in_after_naming_its_lapse_is_told_so() -> None:
    author = replica("A", members=("A", "K2"))
    list(author.teach("K1"))
    list(author.on_shipped("K1", Shipped("A", 1, True, 1, 3, lapse=7)))
    list(author.wrote(4, ALL))
    assert author.lapsed_peers() == () and author._ship("K1").message.lapse == 0, "it has not got the roster yet"
    list(author.on_shipped("K1", Shipped("A", 1, True, 1, 4, lapse=7)))
    assert author._ship("K1").message.lapse == 7
    assert author.kept == (1, 3), "it counts when it says that it does"
    list(author.on_shipped("K1", Shipped("A", 1, True, 1, 4)))
    assert author.kept == (1, 4)


def test_a_change_that_only_waits_is_not_taken_back() -> None:
    """Back to four of whom two have forgotten: that could never be kept."""
    author = replica("A", members=("A", "K1", "K2", "K3"))
    list(author.on_shipped("K3", Shipped("A", 1, True, 1, 3, lapse=7)))
    list(author.wrote(4, ALL))
    assert not author.is_hanging(), "who has forgotten is let go"
    list(author.on_shipped("K2", Shipped("A", 1, True, 1, 3, lapse=8)))
    assert author.lapsed_peers() == ("K2",) and not author.is_hanging(), "K1 will have it"
    list(author.on_shipped("K1", Shipped("A", 1, True, 1, 3, lapse=9)))
    assert author.is_hanging()


def test_who_was_only_about_to_be_let_go_is_not_taken_in_anew() -> None:
    """Others may lead by what it promised before it forgot: the change that would have told of that was not kept."""
    author = replica("A")
    list(author.on_shipped("K2", Shipped("A", 1, True, 1, 3)))
    list(author.on_shipped("K1", Shipped("A", 1, True, 1, 3, lapse=7)))
    list(author.wrote(4, ("A", "K2")))
    list(author.teach("K1"))
    list(author.on_shipped("K1", Shipped("A", 1, True, 1, 4, lapse=7)))
    list(author.wrote(5, ALL))
    assert author.lapsed_peers() == ("K1",) and author._ship("K1").message.lapse == 0
    list(author.on_shipped("K1", Shipped("A", 1, True, 1, 5, lapse=7)))
    assert author.kept == (1, 3)


@pytest.mark.parametrize(("lapsed", "kept"), [(("K1",), True), (("K1", "K2"), False)])
def test_an_author_with_one_keeper_who_forgot_knows_all_himself(lapsed: tuple[str, ...], kept: bool) -> None:
    """Nothing was ever decided without him; but two who forgot may have decided anything."""
    author = replica("A", members=("A", *lapsed))
    for keeper in lapsed:
        list(author.on_shipped(keeper, Shipped("A", 1, False, 1, 1, lapse=7)))
    list(author.wrote(4))
    assert (author.kept == (1, 4)) is kept


def test_a_keeper_who_forgot_is_replaced_and_if_there_is_nobody_leaves_and_comes_back() -> None:
    directory = Directory("A")
    for name in ("K1", "K2"):
        row: Row = directory.ensure(name)
        row.linked = True
    roster = Roster(directory, LIMITS)
    roster.look(0.0)
    roster.look(60.0)
    assert roster.next(60.0, ALL, ("K1",)) == ("A", "K2")
    assert roster.next(60.0, ("A", "K2")) == ("A", "K2", "K1")
    directory.ensure("K3").linked = True
    roster.look(60.0)
    roster.look(90.0)
    assert roster.next(90.0, ALL, ("K1",)) == (*ALL, "K3"), "first the new one"
    assert roster.next(90.0, (*ALL, "K3"), ("K1",)) == ("A", "K2", "K3")


# ---- after a start


def test_a_node_is_sure_when_all_members_have_said_what_they_know_or_after_a_while() -> None:
    memory, keeper = Memory(LIMITS, Random(1)), replica("K1")
    memory.began(10.0)
    assert memory.heard("A") and not memory.heard("A")
    assert not memory.is_sure(10.1, keeper)
    assert memory.is_sure(10.0 + LIMITS.doubt_s, keeper)
    memory.heard("K2")
    assert memory.is_sure(10.1, keeper)


def test_a_lapse_has_one_number_as_long_as_a_life_lasts() -> None:
    memory = Memory(LIMITS, Random(1))
    memory.fails()
    first = memory.lapse
    memory.fails()
    assert memory.lapse == first > 0
