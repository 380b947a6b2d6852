"""Who is known to have taken over what: from votes, from the author's own log, and never from what was cut off again."""

from __future__ import annotations

from typing import Any

import pytest

from mesh.core.directory import DEAD, Directory, Heir
from mesh.core.keeping.hearsay import SINGLE_WORDS_MAX
from mesh.core.keeping.log import Log
from mesh.core.keeping.replica import LEADER, Peer, Replica
from mesh.core.keeping.takeover import Kept, Takeover
from mesh.effects import ReadTale, Send
from mesh.limits import KeepingLimits
from mesh.messages.keeping import Ballot, Block, Took, Yield
from mesh.messages.signed import Signed

AUTHOR, TAKER, OTHER = "A", "K1", "K2"


def yielded(term: int = 2, *, seq: int = 9, counter: int = 0, entries: int = 0, taker: str = TAKER) -> Signed:
    ballots = tuple(Signed(voter, Ballot(AUTHOR, term, taker)) for voter in (taker, OTHER))
    return Signed(taker, Yield(AUTHOR, term, seq, taker, 1 if counter else 0, counter, ballots, entries))


def takeover(me: str) -> tuple[Takeover, Directory]:
    directory = Directory(me)
    for node in (AUTHOR, TAKER, OTHER):
        directory.ensure(node).linked = True
    return Takeover(directory, KeepingLimits()), directory


def kept(me: str, *terms: tuple[int, str]) -> Kept:
    """The author's log at `me`: in these terms others took it over."""
    log = Log(AUTHOR)
    log.append(1, AUTHOR, 9)
    for term, leader in terms:
        log.append(term, leader, 9)
    made = Kept(Replica(AUTHOR, me, lambda at: (), log, term=log.last[0]))
    made.replica.kept = log.last
    return made


def reads(effects: Any) -> list[Any]:
    return [effect for effect in effects if type(effect) is ReadTale]


def said(effects: Any) -> list[tuple[str, Took]]:
    return [(effect.to, effect.message) for effect in effects if type(effect) is Send]


@pytest.mark.parametrize(("counter", "entries", "heir"), [(4, 0, Heir(1, 4, 2, TAKER, 9)), (0, 3, Heir(0, 0, 2, TAKER, 9)), (0, 0, None)])
def test_who_took_over_only_what_the_author_had_taken_over_himself_is_an_heir_too(counter: int, entries: int, heir: Heir | None) -> None:
    """And he says so; who took nothing is nobody to be asked."""
    machine, directory = takeover(OTHER)
    signed = yielded(counter=counter, entries=entries)
    list(machine.on_took(1.0, TAKER, Took((signed,))))
    assert directory.heirs.get(AUTHOR, []) == ([heir] if heir else [])

    machine, directory = takeover(TAKER)
    log = kept(TAKER, (2, TAKER))
    log.yields[2] = signed
    list(machine.settle(log))
    assert directory.heirs.get(AUTHOR, []) == ([heir] if heir else [])
    assert [took.yields for _, took in said(machine.announce((log,), OTHER))] == [(signed,) if heir else ()]


def test_an_author_knows_who_took_over_and_says_so_as_soon_as_that_is_safe_also_when_he_leads_again() -> None:
    machine, directory = takeover(AUTHOR)
    machine.note_takers([Block(term, yielded(term, counter=4, taker=taker)) for term, taker in ((2, OTHER), (3, TAKER))])
    own = kept(AUTHOR, (3, TAKER))
    assert said(machine.settle_own(own)) == [(peer, Took((), ((1, 4, 3, TAKER),))) for peer in (TAKER, OTHER)]
    assert directory.heirs[AUTHOR] == [Heir(1, 4, 3, TAKER, 9)], "term 2 was cut off again"


def test_each_taker_has_what_had_come_since_the_one_before() -> None:
    directory = Directory("me")
    for heir in (Heir(0, 0, 7, "c", 40), Heir(1, 5, 2, "a", 20), Heir(1, 9, 4, "b", 30), Heir(1, 9, 4, "b", 30)):
        directory.inherit("me", heir)
    assert [heir.term for heir in directory.heirs["me"]] == [2, 4, 7]
    assert [directory.taker_at(seq) for seq in (3, 20, 21, 30, 40, 41)] == ["a", "a", "b", "b", "c", ""]
    assert [directory.manager_of(f"me.1.{counter}") for counter in (5, 6, 9, 10)] == ["a", "b", "b", "me"]
    assert directory.taker_from("me") == "c"
    directory.settle("me", 7, (2,))
    assert [heir.term for heir in directory.heirs["me"]] == [2]
    directory.settle("me", 7, ())
    assert "me" not in directory.heirs


def gone(directory: Directory, *nodes: str) -> None:
    for node in nodes:
        row = directory.ensure(node)
        row.linked, row.state = False, DEAD


def test_where_author_and_taker_are_gone_two_others_are_believed() -> None:
    """`cat` drives a task of `A` by way of `K1`; whoever holds it has never heard of `K1`."""
    knowing = [takeover(name) for name in ("cat", "dan")]
    for machine, directory in knowing:
        directory.inherit(AUTHOR, Heir(1, 4, 2, TAKER))
        directory.ensure("holder").linked = True
        gone(directory, TAKER)
        assert said(machine.remember(TAKER)) == [], "its author can say it"
        gone(directory, AUTHOR)
    holder, believed = takeover("holder")
    believed.inherit(TAKER, Heir(1, 1, 5, "cat"))
    (first, *_), (second, *_) = ([took for to, took in said(machine.remember(AUTHOR)) if to == "holder"] for machine, _ in knowing)
    assert first == second == Took((), words=((AUTHOR, 1, 4, 2, TAKER),))
    for _ in range(2):
        list(holder.on_took(1.0, "cat", first))
        assert not believed.may_manage(f"{AUTHOR}.1.3", "cat")
    list(holder.on_took(1.0, "dan", second))
    assert believed.may_manage(f"{AUTHOR}.1.3", "cat") and not believed.may_manage(f"{AUTHOR}.1.3", "dan")


def test_who_comes_back_hears_of_those_who_are_gone() -> None:
    machine, directory = takeover("cat")
    directory.inherit(AUTHOR, Heir(1, 4, 2, TAKER))
    assert said(machine.announce((), OTHER)) == []
    gone(directory, AUTHOR, TAKER)
    assert said(machine.announce((), OTHER)) == [(OTHER, Took((), words=((AUTHOR, 1, 4, 2, TAKER),)))]


def test_what_one_alone_says_is_forgotten_some_time() -> None:
    machine, directory = takeover("cat")
    for term in range(SINGLE_WORDS_MAX + 1):
        list(machine.on_took(1.0, "dan", Took((), words=((AUTHOR, 1, 4, term, TAKER),))))
    for term in (1, 0):
        list(machine.on_took(1.0, "eve", Took((), words=((AUTHOR, 1, 4, term, TAKER),))))
    assert [heir.term for heir in directory.heirs[AUTHOR]] == [1]


def test_who_cannot_keep_what_he_would_take_over_helps_the_author_all_the_same() -> None:
    """Two of three, each with a block that the other's log lacks, could else wait for each other for good: the third has forgotten it."""
    machine, directory = takeover(TAKER)
    log = kept(TAKER, (2, OTHER))
    log.replica.role, log.replica.term, log.helps = LEADER, 3, True
    log.replica.peers = {AUTHOR: Peer(match=(1, 9))}
    directory.guard.leads = False
    assert not reads(machine.settle(log)) and not log.is_carrying(), "nothing is carried into a journal that nobody keeps"
    assert log.is_helping(directory)
    log.replica.peers[AUTHOR].match = (2, 9)
    assert not log.is_helping(directory), "he has it now"
    log.replica.peers[AUTHOR].match = (1, 9)
    directory.ensure(AUTHOR).linked = False
    assert not log.is_helping(directory), "he is gone: somebody has to take over"
    log.give_up()
    assert log.replica.role != LEADER and not log.helps

    log.replica.role, directory.guard.leads = LEADER, True
    assert reads(machine.settle(log)) and log.is_carrying()
