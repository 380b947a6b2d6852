"""What stands in a kept log counts as when it was written, whoever was revoked or took new keys since; what is said today does not."""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import Any

import pytest
from attacks.samples import commit, sample_of
from attacks.world import E_SESSION, NOW_MS, OTHER_SESSION, SESSION, Line, World, line_of, sealed

from mesh.core.deadlines import Deadlines
from mesh.core.directory import Directory, Heir
from mesh.core.keeping.keepers import Keepers
from mesh.effects import Refused
from mesh.limits import Limits
from mesh.messages.keeping import Ballot, Block, Ship, Took, Vote, Yield
from mesh.messages.membership import Left, Ping, Rumours
from mesh.messages.records import Heads
from mesh.messages.signed import Signed
from mesh.messages.trust import HOME, ISSUER, NODE, Revocation
from mesh.wire.blocks import add_chains
from mesh.wire.chain import LEVELS, join_chain
from mesh.wire.keyring import OLD_KEY_MS, Keyring
from mesh.wire.objects import Signer
from mesh.wire.packing import Refusal


def revoke(world: World, line: Line, level: str = NODE, *, sweep: bool = True) -> None:
    size = LEVELS.index(level) + 1
    subject = (line.issuer, line.home, line.node)[size - 1].node
    chain = join_chain(line.certificates()[:size])
    world.keyring.open(sealed(line.root, Revocation(world.mesh, level, subject, "x", "stolen", NOW_MS, chain)).raw)
    if sweep:
        world.keyring.forget_revoked()


def take_over(author: Signer, taker: Signer, voters: list[Signer], term: int = 2) -> Signed:
    """That `taker` took the log of `author` over, with these votes."""
    ballots = tuple(sealed(voter, Ballot(author.node, term, taker.node)) for voter in voters)
    return sealed(taker, Yield(author.node, term, 2, taker.node, 12, 7, ballots, 3))


def history(world: World) -> Ship:
    """The log of a, which c took over once by its own vote and the requester's: two blocks."""
    ship: Ship = sample_of(Ship, world)
    first, second = ship.blocks
    return replace(ship, blocks=(first, replace(second, head=take_over(world.a, world.c, [world.c, world.lines["requester"].node]))))


def outcome(world: World, message: Any, signer: Signer | None = None, session: bytes = OTHER_SESSION) -> str:
    world.forget_sessions()
    opened = world.open(world.seal([message], signer or world.c, session=session))
    return opened.refused[0][1] if opened.refused else "" if opened.messages[0].message == message else "changed"


def renewed_twice(world: World, name: str) -> Line:
    """That member takes a new identity key, and later another: the hour in which the key before counts is over for the first."""
    first = world.lines[name]
    second, third = (first.renewed(sum(name.encode()) % 50 + at) for at in (130, 190))
    world.keyring.introduce(second.chain())
    world.now_ms += 2 * OLD_KEY_MS
    world.keyring.introduce(third.chain(node={"serial": 3, "past_keys": (first.node.public_key, second.node.public_key)}))
    world.now_ms += 2 * OLD_KEY_MS
    return third


# ---- revoked since


@pytest.mark.parametrize("sweep", [False, True], ids=["just now", "and dropped"])
@pytest.mark.parametrize("level", [NODE, HOME])
@pytest.mark.parametrize("who", ["a", "c", "requester"], ids=["the author", "who had taken over", "who had voted"])
def test_a_kept_log_is_taught_whole_though_somebody_in_it_was_revoked(who: str, level: str, sweep: bool, world: World) -> None:
    ship = history(world)
    signer, session = (world.a, SESSION) if who == "c" else (world.c, OTHER_SESSION)
    revoke(world, world.lines[who], level, sweep=sweep)
    assert outcome(world, ship, signer, session) == ""


def test_also_if_an_issuer_was_revoked_with_all_it_had_admitted(world: World) -> None:
    ship = history(world)
    e = world.lines["e"]
    world.keyring.open(e.row().raw)
    revoke(world, world.lines["a"], ISSUER)
    assert outcome(world, ship, e.node, E_SESSION) == ""


def test_the_keys_of_the_revoked_are_remembered_for_the_next_life(world: World) -> None:
    ship = history(world)
    revoke(world, world.lines["c"])
    kept = world.keyring.chains()
    assert world.lines["c"].chain() in kept
    world.keyring = _next_life(world, kept)
    assert world.keyring.member(world.c.node) is None and world.keyring.chains() != []
    assert outcome(world, ship, world.a, SESSION) == ""


def _next_life(world: World, chains: list[bytes]) -> Keyring:
    fresh = Keyring(world.mesh, (world.root.public_key,), world.mode, lambda: world.now_ms)
    for said in world.keyring.authorities.statements():
        fresh.authorities.open(said.raw)
    refusals = []
    for chain in chains:
        try:
            fresh.introduce(chain, recalled=True)
        except Refusal as refusal:
            refusals.append(refusal.reason)
    assert refusals == ["revoked"]
    return fresh


def test_whoever_shows_chains_of_a_stolen_home_adds_no_keys(world: World) -> None:
    revoke(world, world.lines["c"], HOME)
    before = world.keyring.chains()
    sibling = replace(world.lines["c"], node=line_of(90).node)
    with pytest.raises(Refusal, match="revoked"):
        world.keyring.introduce(sibling.chain())
    with pytest.raises(Refusal, match="revoked"):
        world.keyring.open(sibling.row().raw)
    assert world.keyring.chains() == before


def test_the_keys_of_the_revoked_are_bounded(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    ship = history(world)
    monkeypatch.setattr("mesh.wire.keyring.MEMBERS_MAX", 1)
    revoke(world, world.lines["c"])
    assert outcome(world, ship, world.a, SESSION) == ""
    revoke(world, world.lines["requester"])
    assert outcome(world, ship, world.a, SESSION) == "revoked"


def test_where_a_ca_rules_history_outlasts_certificates() -> None:
    world = World("ca")
    ship = history(world)
    line = world.lines["c"]
    world.keyring.introduce(line.chain(node={"serial": 5, "not_after_ms": NOW_MS + 1}))
    world.now_ms += 2
    assert world.keyring.member(world.c.node) is None
    assert outcome(world, ship, world.a, SESSION) == ""


def test_only_as_history_does_a_revoked_node_count(world: World) -> None:
    """Opened, and remembered, as history first: it counts in no other place."""
    ship = history(world)
    head, took = ship.blocks[0].head, ship.blocks[1].head
    old = sealed(world.a, Left(world.a.node, 1))
    revoke(world, world.lines["a"])
    assert outcome(world, ship) == ""
    with pytest.raises(Refusal, match="unknown_sender"):
        outcome(world, ship, world.a, SESSION)
    for raw in (head.raw, old.raw):
        with pytest.raises(Refusal, match="revoked"):
            world.keyring.open(raw)
    assert outcome(world, Heads((head,))) == "changed" and outcome(world, Rumours((old,))) == "changed"
    assert outcome(world, Took((take_over(world.c, world.a, [world.a, world.c]),))) == "changed"
    assert outcome(world, Took((took,))) == "", "who took over from him is believed as before"
    assert outcome(world, replace(ship, blocks=(Block(1, world.rows["a"]),))) == "revoked", "and nothing but blocks of a log in a SHIP"


def test_history_is_under_his_own_key_whoever_brings_it(world: World) -> None:
    ship = history(world)
    revoke(world, world.lines["a"])
    block = ship.blocks[0]
    forged = sealed(world.stranger, block.head.body, world.a.node)
    assert outcome(world, replace(ship, blocks=(replace(block, head=forged),))) == "bad_signature"
    anothers = replace(block, head=sealed(world.c, block.head.body))
    assert outcome(world, replace(ship, blocks=(anothers,))) == "not_own"
    never_met = replace(ship, author=world.stranger.node, blocks=(replace(block, head=commit(world, 2, world.stranger)),))
    assert outcome(world, never_met) == "unknown_author"


def test_a_revoked_voter_proves_nothing_where_he_is_asked_today(world: World) -> None:
    """In a TOOK his vote is dropped, also if the same bytes came in a SHIP before: with a stolen key one member would be a majority."""
    ship = history(world)
    revoke(world, world.lines["requester"])
    assert outcome(world, ship, world.a, SESSION) == ""
    world.forget_sessions()
    (received,) = world.open(world.seal([Took((ship.blocks[1].head,))], world.c, session=OTHER_SESSION)).messages
    assert [ballot.author for ballot in received.message.yields[0].body.ballots] == [world.c.node]


# ---- by somebody who was never met here


def taught(world: World, pupil: World) -> Ship:
    """A log of a stranger to the pupil, which c, whom it knows, teaches it: with the stranger's chain, as c's node adds it."""
    e = world.lines["e"]
    world.keyring.open(e.row().raw)
    block = history(world).blocks[0]
    head = sealed(e.node, replace(block.head.body, author=e.node.node))
    ship = Ship(e.node.node, 1, 0, 0, 0, 0, (replace(block, head=head),))
    assert outcome(pupil, ship) == "unknown_author"
    revoke(world, e)
    add_chains(ship, world.keyring, (world.c.node, world.b.node))
    assert ship.chains == (world.rows["e"].body.certificate,)
    return ship


@pytest.mark.parametrize("told", [False, True], ids=["of a stranger", "of somebody revoked before"])
def test_a_new_keeper_is_taught_a_log_whose_author_it_never_met(told: bool, world: World) -> None:
    pupil = World()
    ship = taught(world, pupil)
    if told:
        revoke(pupil, world.lines["e"])
    assert outcome(pupil, ship) == ""
    assert pupil.keyring.chain_of(ship.author) == ship.chains[0], "it can teach others in turn"
    assert (ship.chains[0] in pupil.keyring.chains()) == told, "in the next life nobody is a member by another's word"
    assert pupil.keyring.member(ship.author) is None
    with pytest.raises(Refusal, match="revoked" if told else "unknown_author"):
        pupil.keyring.open(ship.blocks[0].head.raw)


def test_a_chain_in_a_ship_teaches_nothing_that_its_blocks_do_not_need(world: World) -> None:
    pupil = World()
    ship = taught(world, pupil)
    row = world.lines["e"]
    other = replace(row, home=world.lines["c"].home)
    useless = (line_of(50).chain(), line_of(6, root=9).chain(), join_chain(row.certificates()[:2]), b"noise", world.lines["a"].chain())
    before = pupil.state(windows=False)
    assert outcome(pupil, replace(ship, chains=useless)) == "unknown_author"
    assert pupil.state(windows=False) == before and pupil.keyring.chain_of(line_of(50).node.node) == b""
    assert outcome(pupil, ship) == ""
    stolen = replace(row, node=line_of(78).node)
    stolen.node.node = row.node.node
    for chain in (
        row.chain(node={"serial": 9}),
        replace(other, first=row.node).renewed(77).chain(),
        replace(stolen, first=row.node).chain(node={"serial": 9, "past_keys": ()}),
    ):
        assert outcome(pupil, replace(ship, chains=(chain,))) == ""
        assert pupil.keyring.chain_of(ship.author) == ship.chains[0], "it adds no key of the same home, or takes one away"
    newer = row.renewed(77).chain()
    assert outcome(pupil, replace(ship, chains=(newer,))) == "" and pupil.keyring.chain_of(ship.author) == newer


def test_whom_the_receiver_knows_is_not_shown(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    ship = history(world)
    add_chains(ship, world.keyring, (world.a.node, world.c.node))
    assert ship.chains == ()
    add_chains(ship, world.keyring, (world.a.node,))
    assert ship.chains == (world.rows["c"].body.certificate,)
    assert outcome(world, replace(ship, chains=ship.chains * 65)) == "malformed"
    monkeypatch.setattr("mesh.wire.blocks.CHAINS_BYTES_MAX", 10)
    add_chains(ship, world.keyring, (world.a.node,))
    assert ship.chains == (), "it must fit a frame"


# ---- other keys since


def test_votes_for_a_take_over_outlast_the_keys_they_were_signed_with(world: World) -> None:
    """From the voters' keys to the heir in the directory, with real signatures all the way."""
    took = take_over(world.c, world.a, [world.a, world.lines["requester"].node])
    for name in ("requester", "a"):
        line = renewed_twice(world, name)
    frames = world.seal([Took((took,))], line.node)
    (received,) = world.open(frames).messages
    directory = Directory(world.b.node)
    keepers = Keepers(directory, Deadlines(), Limits(), Random(1), journal_seq=0)
    effects = list(keepers.inputs[Took](0.0, world.a.node, received.message))
    assert effects == [] and directory.heirs == {world.c.node: [Heir(12, 7, 2, world.a.node, 2)]}


def test_with_one_vote_forged_it_is_no_proof(world: World) -> None:
    """The same way, with a vote in the name of a member by a key that it never had."""
    requester = world.lines["requester"].node
    false = sealed(world.stranger, Ballot(world.c.node, 2, world.a.node), requester.node)
    true = sealed(world.a, Ballot(world.c.node, 2, world.a.node))
    took = sealed(world.a, Yield(world.c.node, 2, 2, world.a.node, 12, 7, (true, false), 3))
    (received,) = world.open(world.seal([Took((took,))])).messages
    directory = Directory(world.b.node)
    keepers = Keepers(directory, Deadlines(), Limits(), Random(1), journal_seq=0)
    assert list(keepers.inputs[Took](0.0, world.a.node, received.message)) == [Refused("bad_yield", world.a.node)]
    assert directory.heirs == {}


def test_a_shipped_take_over_has_all_its_votes_after_new_keys(world: World) -> None:
    ship = history(world)
    renewed_twice(world, "requester")
    line = renewed_twice(world, "c")
    assert outcome(world, ship, line.node) == ""


def test_a_bare_vote_is_of_todays_key(world: World) -> None:
    """Also if the same ballot counted, a moment ago, inside an old take-over."""
    took = take_over(world.c, world.a, [world.lines["requester"].node])
    ballot = took.body.ballots[0]
    line = renewed_twice(world, "requester")
    assert outcome(world, Took((took,)), world.a, SESSION) == ""
    assert outcome(world, Vote(world.c.node, 2, True, False, (ballot,))) == "changed"
    with pytest.raises(Refusal, match="bad_signature"):
        world.keyring.open(ballot.raw)
    today = sealed(line.node, ballot.body)
    assert outcome(world, Vote(world.c.node, 2, True, False, (today,))) == ""


def test_only_votes_are_inside_a_take_over(world: World) -> None:
    """Nothing else is opened there: no row introduces anybody, no take-over holds another."""
    row, inner = world.lines["e"].row(), take_over(world.a, world.c, [world.c])
    took = sealed(world.c, replace(inner.body, ballots=(row, inner, *inner.body.ballots)))
    assert [type(one.body) for one in world.keyring.open(took.raw).body.ballots] == [Ballot]
    assert world.keyring.member(row.author) is None


def test_a_take_over_heard_before_its_voter_was_met_counts_afterwards(world: World) -> None:
    e = world.lines["e"]
    took = take_over(world.c, world.a, [world.a, e.node])
    assert len(world.keyring.open(took.raw).body.ballots) == 1
    world.keyring.open(e.row().raw)
    assert len(world.keyring.open(took.raw).body.ballots) == 2


def test_commits_are_still_verified_once_wherever_they_come(world: World) -> None:
    head = commit(world, 1)
    world.keyring.open_kept(head.raw)
    verified = world.keyring.statistics().verified
    assert world.keyring.open(head.raw) == head and world.keyring.open_kept(head.raw) == head
    assert world.keyring.statistics().verified == verified
    assert world.open(world.seal([Ping(1)])).messages
