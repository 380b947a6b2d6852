"""Blocks of a log from another node: whoever ships them, they hold what their author signed, or the message is refused and says why."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from attacks.samples import commit, sample_of
from attacks.world import World, sealed

from mesh.limits import LinkLimits, RecordsLimits, WorkLimits
from mesh.messages.keeping import Ballot, Block, Ship, Vote, Yield
from mesh.wire.blocks import CHAINS_BYTES_MAX
from mesh.wire.envelope import HEADER_BYTES_MAX

LIMITS = RecordsLimits()


@pytest.fixture
def ship(world: World) -> Ship:
    made: Ship = sample_of(Ship, world)
    return made


def outcome(world: World, message: Any) -> str:
    world.forget_sessions()
    opened = world.open(world.seal([message]))
    return opened.refused[0][1] if opened.refused else "" if opened.messages[0].message == message else "changed"


def with_block(ship: Ship, **changes: Any) -> Ship:
    return replace(ship, blocks=(replace(ship.blocks[0], **changes), *ship.blocks[1:]))


def test_an_honest_one_comes_whole_with_the_bytes_its_authors_signed(world: World, ship: Ship) -> None:
    assert [type(block.head.body).__name__ for block in ship.blocks] == ["Commit", "Yield"]
    (received,) = world.open(world.seal([ship])).messages
    assert received.message == ship
    assert [block.head.raw for block in received.message.blocks] == [block.head.raw for block in ship.blocks]


@pytest.mark.parametrize(
    "entries",
    [(), (b"an entry",), (b"another", b"an entry"), (b"an entry", b"anothex"), (b"an entry", b"another", b"another")],
    ids=["none", "one less", "turned round", "changed", "one more"],
)
def test_entries_that_do_not_hash_to_the_signed_root_are_refused(world: World, ship: Ship, entries: tuple[bytes, ...]) -> None:
    assert outcome(world, with_block(ship, entries=entries)) == "entries_changed"


def test_a_commit_that_counts_other_entries_than_it_holds_is_refused(world: World, ship: Ship) -> None:
    """Signed by its author: two entries under a root of two, said to be three, or none at all."""
    for count in (3, 1, 0):
        head = sealed(world.a, replace(ship.blocks[0].head.body, count=count))
        assert outcome(world, with_block(ship, head=head)) == "entries_changed"
    empty = sealed(world.a, replace(ship.blocks[0].head.body, count=0, merkle_root=bytes(32)))
    assert outcome(world, with_block(ship, head=empty, entries=())) == "entries_changed"


def of_another_log(world: World, ship: Ship) -> Ship:
    return replace(ship, author=world.c.node)


def by_another(world: World, ship: Ship) -> Ship:
    head = ship.blocks[0].head
    return with_block(ship, head=sealed(world.c, head.body))


def in_anothers_name(world: World, ship: Ship) -> Ship:
    head = ship.blocks[0].head
    return with_block(ship, head=sealed(world.c, head.body, world.a.node))


def with_a_row(world: World, ship: Ship) -> Ship:
    return with_block(ship, head=world.rows["a"])


def yielded(world: World, ship: Ship, signer: Any, taker: str, **changes: Any) -> Ship:
    block = Block(2, sealed(signer, Yield(world.a.node, 2, 2, taker)))
    return replace(ship, blocks=(replace(block, **changes),))


WRONG: dict[str, tuple[Callable[[World, Ship], Ship], str]] = {
    "a block of another log": (of_another_log, "not_of_this_log"),
    "a commit that somebody else signed": (by_another, "not_own"),
    "a commit that somebody else signed in its author's name": (in_anothers_name, "bad_signature"),
    "a statement that is no block": (with_a_row, "not_a_block"),
    "a yield to somebody who did not say so": (lambda w, s: yielded(w, s, w.c, w.b.node), "not_own"),
    "a yield of another term": (lambda w, s: yielded(w, s, w.c, w.c.node, term=3), "not_a_block"),
    "a yield with entries": (lambda w, s: yielded(w, s, w.c, w.c.node, entries=(b"x",)), "not_a_block"),
    "a yield with bodies": (lambda w, s: yielded(w, s, w.c, w.c.node, bodies=(b"x",)), "not_a_block"),
    "a yield with members": (lambda w, s: yielded(w, s, w.c, w.c.node, members=("a",)), "not_a_block"),
    "a head by a stranger": (lambda w, s: with_block(s, head=commit(w, 2, w.stranger)), "unknown_author"),
    "too many blocks": (lambda w, s: replace(s, blocks=s.blocks[:1] * (LIMITS.ship_blocks_max + 1)), "malformed"),
    "too many entries": (lambda w, s: with_block(s, entries=(b"x",) * (LIMITS.commit_entries_max + 1)), "malformed"),
    "too many members": (lambda w, s: with_block(s, members=("a",) * (LIMITS.keepers_max + 1)), "malformed"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_wrong_is_refused_with_its_reason(what: str, world: World, ship: Ship) -> None:
    make, reason = WRONG[what]
    assert outcome(world, make(world, ship)) == reason


def test_so_many_are_taken(world: World, ship: Ship) -> None:
    assert outcome(world, replace(ship, blocks=ship.blocks[:1] * LIMITS.ship_blocks_max)) == ""
    assert outcome(world, replace(ship, blocks=())) == ""
    assert outcome(world, yielded(world, ship, world.c, world.c.node)) == ""


def test_a_ballot_is_its_voters_own(world: World) -> None:
    ballot = sealed(world.c, Ballot(world.a.node, 3, world.b.node))
    assert outcome(world, Vote(world.a.node, 3, True, False, (ballot,))) == ""
    forged = sealed(world.b, Ballot(world.a.node, 3, world.b.node), world.c.node)
    (received,) = world.open(world.seal([Vote(world.a.node, 3, True, False, (ballot, forged))], first_seq=2)).messages
    assert received.message.ballot == (ballot,), "a statement in a list is refused alone"


def test_a_yield_counts_for_ever_as_a_commit_does(world: World) -> None:
    """It lies in a log: its author may have taken a new key since, and another after that."""
    said = sealed(world.a, Yield(world.c.node, 2, 5, world.a.node))
    ballot = sealed(world.a, Ballot(world.c.node, 2, world.a.node))
    world.keyring.introduce(world.lines["a"].renewed(60).chain())
    world.now_ms += 10 * 3_600_000
    assert world.keyring.open(said.raw).body == said.body
    with pytest.raises(Exception, match="bad_signature"):
        world.keyring.open(ballot.raw)


def test_the_largest_block_fits_one_frame() -> None:
    """Whatever the author's store makes one commit of: up to the limit together, or one entry with the largest body and result."""
    largest = max(LIMITS.commit_bytes_max, WorkLimits().body_bytes_max + 64 * 1024)
    entries_overhead = LIMITS.commit_entries_max * (5 + 5)
    assert largest + entries_overhead + 4096 + CHAINS_BYTES_MAX + HEADER_BYTES_MAX < LinkLimits().frame_bytes_max
