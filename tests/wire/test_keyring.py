"""The ring of keys: who is let in and by what, which key counts for what and how long, and that whoever is revoked is heard no more."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from attacks.samples import commit, honest
from attacks.world import MESH, NOW_MS, OTHER_SESSION, Line, World, deed_of, line_of, sealed, signer_of

from mesh.messages.membership import Left, Offer, Ping, Rumours, Suspect
from mesh.messages.records import Commit, Heads
from mesh.messages.session import Hello, Welcome
from mesh.messages.signed import Signed
from mesh.messages.trust import HOME, ISSUER, NODE, Amendment, Revocation, Trust
from mesh.wire import ed25519, keyring
from mesh.wire.chain import LEVELS, join_chain
from mesh.wire.keyring import EARLY_MS, OLD_KEY_MS, Keyring
from mesh.wire.objects import body_bytes, signed_bytes
from mesh.wire.packing import Refusal, pack

NEW = line_of(50)
"""A member that nobody here has met."""


def refused(world: World, raw: bytes, reason: str) -> None:
    """It is refused under that reason, and nothing has changed."""
    before = world.state()
    with pytest.raises(Refusal) as caught:
        world.keyring.open(raw)
    assert caught.value.reason == reason
    assert before == world.state()


def not_introduced(world: World, chain: bytes, reason: str, **how: bool) -> None:
    before = world.state()
    with pytest.raises(Refusal) as caught:
        world.keyring.introduce(chain, **how)
    assert caught.value.reason == reason and before == world.state()


def hello(line: Line, cls: type = Hello, **changes: Any) -> Signed:
    fields = {"v": 1, "mesh": MESH, "alive": line.row(), "nonce": bytes(16), "stamp_ms": 5, "binding": line.binding()}
    fields |= {"recipient": ""} if cls is Hello else {"session": bytes(16)}
    return sealed(line.node, cls(**(fields | changes)))


def revoke(world: World, level: str, line: Line, by: Any = None) -> None:
    size = LEVELS.index(level) + 1
    subject = (line.issuer, line.home, line.node)[size - 1]
    chain = join_chain(line.certificates()[:size])
    world.keyring.open(sealed(by or line.root, Revocation(MESH, level, subject.node, "x", "stolen", NOW_MS, chain)).raw)


# ---- introductions


def test_a_chain_introduces(world: World) -> None:
    chain = NEW.chain(node={"serial": 7, "not_after_ms": NOW_MS + 5, "roles": ("member",), "offers": ("a*",), "requests": ("b",)})
    assert world.keyring.introduce(chain) == NEW.node.node
    member = world.keyring.member(NEW.node.node)
    assert member is not None and member in world.keyring.members()
    assert (member.node, member.home, member.issuer) == (NEW.node.node, NEW.home.node, NEW.issuer.node)
    assert (member.serial, member.expires_ms, member.chain, member.key) == (7, NOW_MS + 5, chain, NEW.node.public_key)
    assert (member.rights.roles, member.rights.offers, member.rights.requests) == (("member",), ("a*",), ("b",))
    assert world.keyring.verify(NEW.node.node, b"data", NEW.node.sign(b"data"))
    assert not world.keyring.verify(NEW.node.node, b"data", NEW.home.sign(b"data"))
    assert not world.keyring.verify("nobody", b"data", NEW.node.sign(b"data"))


@pytest.mark.parametrize("make", [Line.row, hello, lambda line: hello(line, Welcome)], ids=["alive", "hello", "welcome"])
def test_own_row_hello_and_welcome_introduce_their_author(make: Any, world: World) -> None:
    raw = make(NEW).raw
    assert world.keyring.member(NEW.node.node) is None
    assert world.keyring.open(raw).author == NEW.node.node
    assert world.keyring.member(NEW.node.node) is not None


def test_a_row_that_its_author_did_not_sign_introduces_nobody(world: World) -> None:
    """Chains are public: whoever could show another's under a bad signature could also show a false one first."""
    row = NEW.row()
    for forged in (
        pack(("alive", row.author, body_bytes(row.raw), bytes(64))),
        sealed(signer_of(5), row.body, row.author).raw,
        sealed(NEW.home, row.body, row.author).raw,
    ):
        refused(world, forged, "bad_signature")
    assert world.keyring.member(NEW.node.node) is None


def test_a_home_cannot_take_a_node_that_nobody_has_met(world: World) -> None:
    """Not with a chain of its own for it, and not by being first."""
    thief = world.lines["c"].home
    claim = dataclasses.replace(NEW, home=thief)
    for deed in (b"", deed_of(NEW.node, NEW.home.node), deed_of(thief, thief.node)):
        chain = claim.chain(node={"deed": deed})
        not_introduced(world, chain, "bad_certificate")
        refused(world, sealed(thief, NEW.row(chain=chain).body, NEW.node.node).raw, "bad_certificate")
    assert world.keyring.open(NEW.row().raw).author == NEW.node.node


def test_a_node_stays_with_its_home(world: World) -> None:
    """Even one that vouched for two homes: the first that was met counts."""
    other = world.lines["c"].home
    both = dataclasses.replace(world.lines["a"], home=other)
    chain = both.chain(node={"serial": 9})
    not_introduced(world, chain, "other_home")
    not_introduced(world, chain, "other_home", recalled=True)
    refused(world, both.row(chain=chain).raw, "other_home")


@pytest.mark.parametrize("size", (1, 2))
def test_homes_and_issuers_are_no_members(size: int, world: World) -> None:
    chain = join_chain(NEW.certificates()[:size])
    not_introduced(world, chain, "bad_certificate")
    refused(world, NEW.row(chain=chain).raw, "bad_certificate")


def test_somebody_elses_chain_does_not_introduce(world: World) -> None:
    stranger = dataclasses.replace(NEW, node=world.stranger)
    refused(world, stranger.row(chain=world.lines["a"].chain()).raw, "not_own")
    refused(world, stranger.row(chain=NEW.chain()).raw, "not_own")
    assert world.keyring.member(NEW.node.node) is None
    refused(world, stranger.row(chain=b"").raw, "unknown_author")
    refused(world, world.lines["a"].row(chain=world.lines["c"].chain()).raw, "not_own")


def test_a_row_without_a_chain_does_for_who_is_known(world: World) -> None:
    assert world.keyring.open(world.lines["a"].row(chain=b"").raw).author == world.a.node
    refused(world, NEW.row(chain=b"").raw, "unknown_author")


def test_the_larger_serial_counts(world: World) -> None:
    line = world.lines["a"]
    assert (
        world.keyring.introduce(line.chain(node={"serial": 9, "roles": ("observer",)} | {}, home={"roles": ("member", "observer")}))
        == line.node.node
    )
    for serial in (3, 8, 9):
        assert world.keyring.introduce(line.chain(node={"serial": serial})) == line.node.node
        assert world.keyring.open(line.row(chain=line.chain(node={"serial": serial}), offers=()).raw)
        member = world.keyring.member(line.node.node)
        assert member is not None and (member.serial, member.rights.roles) == (9, ("observer",))
    world.keyring.open(line.row(chain=line.chain(node={"serial": 11})).raw)
    member = world.keyring.member(line.node.node)
    assert member is not None and member.serial == 11, "an own row brings its author's renewed chain"


def test_roles_of_the_certificate_are_the_rights_of_the_member(world: World) -> None:
    chain = NEW.chain(home={"roles": ("observer", "worker")}, node={"roles": ("observer",)})
    world.keyring.introduce(chain)
    member = world.keyring.member(NEW.node.node)
    assert member is not None and member.rights.rights == {"belong", "observe"}


# ---- time


def test_a_certificate_may_begin_a_little_later_than_now(world: World) -> None:
    for level in LEVELS:
        line = dataclasses.replace(NEW, node=signer_of(120 + LEVELS.index(level)))
        world.keyring.introduce(line.chain(**{level: {"not_before_ms": NOW_MS + EARLY_MS}}))
        late = dataclasses.replace(NEW, node=signer_of(130 + LEVELS.index(level)))
        chain = late.chain(**{level: {"not_before_ms": NOW_MS + EARLY_MS + 1}})
        not_introduced(world, chain, "not_yet_valid")
        refused(world, late.row(chain=chain).raw, "not_yet_valid")
        world.now_ms += 1
        assert world.keyring.introduce(chain)
        world.now_ms -= 1


@pytest.mark.parametrize("mode", ("open", "token", "ca"))
@pytest.mark.parametrize("level", LEVELS)
def test_who_expired_does_not_get_in(level: str, mode: str) -> None:
    world = World(mode)
    chain = NEW.chain(**{level: {"not_after_ms": NOW_MS - 1}})
    not_introduced(world, chain, "expired")
    refused(world, NEW.row(chain=chain).raw, "expired")
    assert world.keyring.introduce(NEW.chain(**{level: {"not_after_ms": NOW_MS}})), "until its last millisecond it counts"


def with_end(world: World, level: str) -> tuple[Line, bytes]:
    """A member whose chain ends in a second."""
    chain = NEW.chain(**{level: {"not_after_ms": NOW_MS + 1000}})
    world.keyring.open(NEW.row(chain=chain).raw)
    return NEW, chain


@pytest.mark.parametrize("mode", ("open", "token"))
@pytest.mark.parametrize("level", LEVELS)
def test_expiry_does_not_part_those_who_know_each_other(level: str, mode: str) -> None:
    world = World(mode)
    line, chain = with_end(world, level)
    world.now_ms += 5000
    assert world.keyring.member(line.node.node) is not None
    assert world.keyring.open(line.row(chain=chain, version=2).raw).author == line.node.node
    assert world.keyring.open(sealed(line.node, Left(line.node.node, 1)).raw)
    again = line.chain(
        node={"serial": 2}, **({level: {"not_after_ms": NOW_MS + 2000}} if level != NODE else {HOME: {"not_after_ms": NOW_MS + 2000}})
    )
    assert world.keyring.open(line.row(chain=again).raw), "nor does a newer chain that has ended as well"
    moved = line.renewed(60).chain(home={"not_after_ms": NOW_MS + 2000})
    refused(world, line.renewed(60).row(chain=moved).raw, "expired")


@pytest.mark.parametrize("level", LEVELS)
def test_expiry_ends_membership_where_a_ca_rules(level: str) -> None:
    world = World("ca")
    line, chain = with_end(world, level)
    said, row = sealed(line.node, Left(line.node.node, 1)).raw, line.row(chain=chain).raw
    world.now_ms += 1000
    assert world.keyring.open(said) and world.keyring.open(row)
    world.now_ms += 1
    assert world.keyring.member(line.node.node) is None
    assert not world.keyring.verify(line.node.node, b"data", line.node.sign(b"data"))
    for raw in (said, row, line.row(chain=chain, version=2).raw, line.row(chain=b"", version=3).raw, hello(line).raw):
        if raw != hello(line).raw:
            refused(world, raw, "expired")
    world.keyring.open(line.row(chain=line.chain(node={"serial": 2}), version=4).raw)
    assert world.keyring.member(line.node.node) is not None and world.keyring.open(said), "renewed, it is back"


def test_who_was_known_in_an_earlier_life_may_have_expired_since() -> None:
    for mode in ("open", "token", "ca"):
        world = World(mode)
        chain = NEW.chain(node={"not_after_ms": NOW_MS - 1})
        assert world.keyring.introduce(chain, recalled=True) == NEW.node.node
        assert (world.keyring.member(NEW.node.node) is None) == (mode == "ca")
        early = dataclasses.replace(NEW, node=signer_of(51)).chain(node={"not_before_ms": NOW_MS + 10**9})
        assert world.keyring.introduce(early, recalled=True)


def test_recalled_does_not_mean_believed(world: World) -> None:
    not_introduced(world, line_of(50, root=9).chain(), "bad_certificate", recalled=True)
    not_introduced(world, join_chain(NEW.certificates()[:2]), "bad_certificate", recalled=True)
    revoke(world, NODE, NEW)
    not_introduced(world, NEW.chain(), "revoked", recalled=True)


# ---- a new identity key


def test_after_a_new_key_the_old_one_counts_an_hour_and_in_journals_for_ever(world: World) -> None:
    old, new = world.lines["a"], world.lines["a"].renewed(60)
    before = [sealed(old.node, Left(old.node.node, number)).raw for number in range(3)]
    commits = [commit(world, number).raw for number in range(3)]
    rows = [old.row(chain=b"", version=version).raw for version in range(3)]
    hellos = [hello(old, alive=old.row(chain=b""), stamp_ms=stamp).raw for stamp in range(3)]
    envelopes = [world.seal([Ping(1)], first_seq=number) for number in (1, 2, 3)]
    world.keyring.open(new.row(version=5).raw)
    member = world.keyring.member(old.node.node)
    assert member is not None and member.key == new.node.public_key and member.before_until_ms == NOW_MS + OLD_KEY_MS
    for at, later_ms in ((0, 0), (1, OLD_KEY_MS - 1)):
        world.now_ms = NOW_MS + later_ms
        for raws in (before, commits, rows, hellos):
            assert world.keyring.open(raws[at]).author == old.node.node
        assert world.open(envelopes[at]).messages, "what was under way arrives"
    world.now_ms = NOW_MS + OLD_KEY_MS
    for raws in (before, rows, hellos):
        refused(world, raws[2], "bad_signature")
    with pytest.raises(Refusal, match="bad_signature"):
        world.open(envelopes[2])
    assert world.open(world.seal([Ping(1)], new.node, first_seq=9)).messages
    assert world.keyring.open(commits[2]).author == old.node.node
    world.now_ms = NOW_MS * 2
    assert world.keyring.open(commit(world, 9).raw) and world.keyring.open(sealed(new.node, commit(world, 10).body).raw)
    refused(world, sealed(signer_of(61), commit(world, 11).body, old.node.node).raw, "bad_signature")


def test_only_the_key_before_lives_on_and_none_that_was_left_earlier(world: World) -> None:
    """A key that was given up because it was stolen must not come back for an hour with the next one."""
    first, second, third = world.lines["a"], world.lines["a"].renewed(60), world.lines["a"].renewed(61)
    past = (first.node.public_key, second.node.public_key)
    world.keyring.introduce(second.chain())
    world.now_ms += OLD_KEY_MS
    world.keyring.introduce(third.chain(node={"serial": 3, "past_keys": past}))
    refused(world, sealed(first.node, Left(world.a.node, 1)).raw, "bad_signature")
    with pytest.raises(Refusal, match="bad_signature"):
        world.open(world.seal([Ping(1)], first.node))
    assert not world.keyring.verify(world.a.node, b"data", first.node.sign(b"data"))
    for line in (second, third):
        assert world.keyring.open(sealed(line.node, Left(world.a.node, 2)).raw)
        assert world.keyring.verify(world.a.node, b"data", line.node.sign(b"data"))
        assert world.keyring.open(sealed(line.node, commit(world, 1).body).raw)
    assert world.keyring.open(commit(world, 2).raw), "in journals all of them count"


def test_a_renewed_chain_does_not_make_the_old_key_count_longer(world: World) -> None:
    new = world.lines["a"].renewed(60)
    world.keyring.introduce(new.chain())
    world.now_ms += OLD_KEY_MS - 1
    world.keyring.introduce(new.chain(node={"serial": 3}))
    world.now_ms += 1
    refused(world, sealed(world.a, Left(world.a.node, 1)).raw, "bad_signature")


def test_who_is_met_only_after_it_took_a_new_key_is_heard_under_that_alone(world: World) -> None:
    new = NEW.renewed(60)
    world.keyring.open(new.row().raw)
    refused(world, sealed(NEW.node, Left(NEW.node.node, 1)).raw, "bad_signature")
    assert world.keyring.open(sealed(NEW.node, Commit(NEW.node.node, 1, 0, 1, 1, bytes(32), bytes(32), 5)).raw)


def test_an_older_chain_does_not_bring_the_old_key_back(world: World) -> None:
    old, new = world.lines["a"], world.lines["a"].renewed(60)
    world.keyring.introduce(new.chain())
    world.now_ms += OLD_KEY_MS
    refused(world, old.row(version=3).raw, "bad_signature")
    assert world.keyring.introduce(old.chain()) == old.node.node
    member = world.keyring.member(old.node.node)
    assert member is not None and member.key == new.node.public_key


def test_a_journal_goes_on_in_another_mesh() -> None:
    """What a node signed for the mesh its home was in before counts in its journal, and nowhere else."""
    world = World()
    was_there = {"past_meshes": ("mesh-before",), "serial": 5}
    world.keyring.introduce(world.lines["a"].chain(node=was_there))
    before = signer_of(2, "mesh-before")
    body = commit(world, 1).body
    assert world.keyring.open(sealed(before, body).raw).author == world.a.node
    refused(world, sealed(before, Left(world.a.node, 1)).raw, "bad_signature")
    refused(world, sealed(signer_of(2, "mesh-never"), body).raw, "bad_signature")
    refused(world, sealed(signer_of(4, "mesh-before"), dataclasses.replace(body, author=world.c.node)).raw, "bad_signature")
    world.keyring.introduce(world.lines["a"].renewed(60).chain(node=was_there | {"serial": 6}))
    assert world.keyring.open(sealed(before, dataclasses.replace(body, count=9)).raw), "also with a key it had then"


# ---- statements


def test_what_came_before_is_not_verified_again(world: World) -> None:
    raw = hello(world.lines["a"]).raw
    first = world.keyring.open(raw)
    verified = world.keyring.statistics().verified
    remembered = world.keyring.statistics().remembered
    assert world.keyring.open(raw) is first
    assert world.keyring.statistics().verified == verified and world.keyring.statistics().remembered == remembered + 1


def test_statements_say_what_was_said(world: World) -> None:
    signed = sealed(world.c, Suspect(world.a.node, 1, 1))
    opened = world.keyring.open(signed.raw)
    assert (opened.author, opened.body, opened.raw) == (world.c.node, signed.body, signed.raw), "anybody may suspect anybody"


def test_nobody_speaks_for_another(world: World) -> None:
    a, c = world.lines["a"], world.lines["c"]
    for body in (
        Left(a.node.node, 1),
        commit(world, 1).body,
        dataclasses.replace(a.row().body, certificate=b""),
        dataclasses.replace(a.row().body, certificate=c.chain()),
        a.binding().body,
    ):
        refused(world, sealed(c.node, body).raw, "not_own")


@pytest.mark.parametrize("cls", (Hello, Welcome))
def test_a_hello_shows_the_row_and_the_binding_of_who_says_it(cls: type, world: World) -> None:
    a, c = world.lines["a"], world.lines["c"]
    assert world.keyring.open(hello(a, cls).raw)
    for changes in (
        {"alive": c.row()},
        {"binding": c.binding()},
        {"binding": a.row()},
        {"alive": a.binding()},
        {"alive": a.binding(), "binding": a.row()},
    ):
        refused(world, hello(a, cls, **changes).raw, "not_own")
    refused(world, hello(a, cls, binding=c.binding(node=a.node.node)).raw, "not_own")
    refused(world, hello(a, cls, binding=sealed(c.node, a.binding().body, a.node.node)).raw, "bad_signature")
    for inner in (Left(a.node.node, 1), Suspect(c.node.node, 1, 1)):
        refused(world, hello(a, cls, binding=sealed(a.node, inner)).raw, "unknown_object")
    refused(world, hello(a, cls, alive=honest("revocation", world)).raw, "unknown_object")
    assert not world.keyring.authorities.statements()


def test_hellos_do_not_nest(world: World) -> None:
    """Neither one in another, nor a thousand: it is refused at the first, before the stack is."""
    a = world.lines["a"]
    inner = hello(a)
    refused(world, hello(a, alive=inner).raw, "unknown_object")
    world.keyring.open(inner.raw)
    refused(world, hello(a, alive=inner).raw, "not_own")
    raw = b"x"
    while len(raw) < 250_000:
        raw = pack(("hello", "", pack((1, "", raw, "", bytes(16), 0, b"x")), bytes(64)))
    refused(world, raw, "unknown_object")
    opened = world.open(world.seal([Rumours((Signed("", None, raw),))]))
    assert opened.messages[0].message == Rumours(())


def test_parts_of_chains_do_not_stand_alone(world: World) -> None:
    for tag in ("certificate", "deed"):
        refused(world, honest(tag, world).raw, "unknown_object")


def test_a_row_offers_only_what_was_granted(world: World) -> None:
    chain = NEW.chain(home={"offers": ("ocr.*", "sing")}, node={"offers": ("ocr.*", "sing")})
    good = (Offer("ocr.pages", "g"), Offer("sing", "g"))
    for offers in ((Offer("pay", "g"),), (*good, Offer("pay", "g")), (Offer("singer", "g"),)):
        refused(world, NEW.row(chain=chain, offers=offers).raw, "not_granted")
    assert world.keyring.open(NEW.row(chain=chain, offers=good).raw).body.offers == good
    assert world.keyring.open(NEW.row(chain=chain, offers=(), version=2).raw)


def test_statements_of_another_mesh(world: World) -> None:
    elsewhere = line_of(2, "other-mesh")
    for signed in (elsewhere.row(chain=b""), sealed(elsewhere.node, Left(world.a.node, 1)), elsewhere.binding()):
        refused(world, signed.raw, "bad_signature")
    refused(world, elsewhere.row().raw, "other_mesh")
    other = Keyring("other-mesh", [world.root.public_key], "token", lambda: NOW_MS)
    with pytest.raises(Refusal, match="other_mesh"):
        other.open(world.rows["a"].raw)


def test_a_new_root_is_another_mesh_even_with_the_same_name(world: World) -> None:
    other = Keyring(MESH, [signer_of(9).public_key], "token", lambda: NOW_MS)
    with pytest.raises(Refusal, match="bad_certificate"):
        other.open(world.rows["a"].raw)


# ---- revoked


@pytest.mark.parametrize("sweep", (False, True))
@pytest.mark.parametrize("level", LEVELS)
def test_nothing_of_who_is_revoked_opens_any_more(level: str, sweep: bool, world: World) -> None:
    a = world.lines["a"]
    said = [world.rows["a"], sealed(a.node, Left(a.node.node, 1)), commit(world, 1), hello(a), a.binding()]
    for signed in said:
        world.keyring.open(signed.raw)
    envelope = world.seal([Ping(1)])
    revoke(world, level, a)
    if sweep:
        assert a.node.node in world.keyring.forget_revoked() and not world.keyring.forget_revoked()
    assert world.keyring.member(a.node.node) is None
    assert not world.keyring.verify(a.node.node, b"data", a.node.sign(b"data"))
    for signed in said:
        with pytest.raises(Refusal) as caught:
            world.keyring.open(signed.raw)
        # Swept, it is a stranger; what brings a chain, or is about a revoked node itself, still says why.
        assert caught.value.reason == "revoked" or (sweep and caught.value.reason == "unknown_author")
    refused(world, a.row(version=9).raw, "revoked")
    refused(world, a.row(chain=a.chain(node={"serial": 9})).raw, "revoked")
    not_introduced(world, a.chain(), "revoked")
    with pytest.raises(Refusal, match="unknown_sender"):
        world.open(envelope)
    survivors = {"e"} if level == ISSUER else set(world.lines) - {"a"}
    world.keyring.open(world.rows["e"].raw)
    for name in survivors:
        assert world.keyring.member(world.lines[name].node.node) is not None, name


def test_a_revocation_in_a_message_counts_at_once(world: World) -> None:
    a = world.lines["a"]
    body = Revocation(MESH, HOME, a.home.node, "x", "stolen", NOW_MS, join_chain(a.certificates()[:2]))
    row, own = (
        world.seal([Trust((sealed(a.issuer, body),)), Rumours((world.rows["a"],))], world.c, session=OTHER_SESSION),
        world.seal([Ping(1)]),
    )
    opened = world.open(row)
    assert len(opened.messages) == 2 and opened.messages[1].message == Rumours(())
    with pytest.raises(Refusal, match="unknown_sender"):
        world.open(own)
    assert world.keyring.statistics().refused == {"revoked": 1} and world.keyring.statistics().revoked == 1


def test_another_node_of_a_revoked_home_does_not_get_in(world: World) -> None:
    sibling = dataclasses.replace(world.lines["a"], node=signer_of(77))
    revoke(world, HOME, world.lines["a"], world.lines["a"].home)
    not_introduced(world, sibling.chain(), "revoked")


def test_a_revoked_node_does_not_take_its_home_along(world: World) -> None:
    sibling = dataclasses.replace(world.lines["a"], node=signer_of(77))
    revoke(world, NODE, world.lines["a"], world.a)
    assert world.keyring.introduce(sibling.chain()) == sibling.node.node


def test_when_a_root_is_taken_away_members_stay_and_nobody_comes(world: World) -> None:
    new = signer_of(71)
    for seq, roots, by in ((1, (world.root, new), world.root), (2, (new,), new)):
        world.keyring.open(sealed(by, Amendment(MESH, seq, tuple(root.public_key for root in roots), "token", "x", NOW_MS)).raw)
    assert world.keyring.open(world.rows["a"].raw) and world.open(world.seal([Ping(1)])).messages
    assert world.keyring.open(world.lines["a"].row(chain=world.rows["a"].body.certificate, version=2).raw)
    refused(world, NEW.row().raw, "bad_certificate")
    refused(world, world.lines["a"].row(chain=world.lines["a"].chain(node={"serial": 9})).raw, "bad_certificate")
    under_new = dataclasses.replace(world.lines["a"], root=new)
    assert world.keyring.open(under_new.row(chain=under_new.chain(node={"serial": 9})).raw)


def test_who_was_revoked_before_it_was_met_is_told_so(world: World) -> None:
    revoke(world, NODE, NEW)
    refused(world, sealed(NEW.node, Left(NEW.node.node, 1)).raw, "revoked")
    refused(world, sealed(signer_of(77), Left(signer_of(77).node, 1)).raw, "unknown_author")


def test_another_chain_of_the_same_serial_changes_nothing(world: World) -> None:
    other = world.lines["a"].renewed(60)
    refused(world, other.row(chain=other.chain(node={"serial": 1}), version=9).raw, "bad_signature")


@pytest.mark.parametrize("mode", ["token", "ca"])
def test_whoever_is_known_may_show_an_expired_chain_where_no_ca_rules(mode: str) -> None:
    world = World(mode)
    chain = world.lines["a"].chain(node={"serial": 2, "not_after_ms": NOW_MS - 1})
    if mode == "ca":
        not_introduced(world, chain, "expired")
    else:
        assert world.keyring.introduce(chain) == world.a.node


def test_whose_key_a_key_is(world: World) -> None:
    old, new = world.lines["a"], world.lines["a"].renewed(60)
    node, before, now = old.node.node, old.node.public_key, new.node.public_key
    assert world.keyring.has_key(node, before) and not world.keyring.has_key(node, b"") and not world.keyring.has_key(node, now)
    assert not world.keyring.has_key("nobody", before)
    world.keyring.introduce(new.chain())
    world.keyring.introduce(new.chain(node={"serial": 3}))
    world.now_ms += OLD_KEY_MS - 1
    assert world.keyring.has_key(node, now) and world.keyring.has_key(node, before) and not world.keyring.has_key(node, b"~")
    assert world.keyring.open(sealed(old.node, Left(node, 1)).raw), "a new certificate does not end the old key's hour"
    world.now_ms += 1
    assert world.keyring.has_key(node, now) and not world.keyring.has_key(node, before)
    third = world.lines["a"].renewed(61)
    world.keyring.introduce(third.chain(node={"serial": 4, "past_keys": (before, now)}))
    assert world.keyring.has_key(node, now) and not world.keyring.has_key(node, before), "of the past ones the last alone"


# ---- bounds


def test_the_memory_of_statements_is_bounded(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keyring, "OPENED_BYTES_MAX", 2000)
    raws = [sealed(world.a, Suspect(world.b.node, 1, number)).raw for number in range(50)]
    for raw in raws:
        world.keyring.open(raw)
    assert 2000 - len(raws[0]) < world.keyring.statistics().cached_bytes <= 2000
    verified = world.keyring.statistics().verified
    world.keyring.open(raws[-1])
    assert world.keyring.statistics().verified == verified
    world.keyring.open(raws[0])
    assert world.keyring.statistics().verified == verified + 1


def test_the_ring_of_keys_is_bounded_and_who_was_forgotten_may_come_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keyring, "MEMBERS_MAX", len(world.keyring.members()))
    world.keyring.open(NEW.row().raw)
    assert len(world.keyring.members()) == keyring.MEMBERS_MAX == world.keyring.statistics().members
    assert world.keyring.member(world.a.node) is None
    refused(world, sealed(world.a, Left(world.a.node, 1)).raw, "unknown_author")
    assert world.keyring.open(world.rows["a"].raw).author == world.a.node
    assert world.keyring.member(world.a.node) is not None


def test_a_full_ring_forgets_nobody(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keyring, "MEMBERS_MAX", len(world.keyring.members()) + 1)
    before = world.keyring.members()
    world.keyring.open(NEW.row().raw)
    assert world.keyring.members()[:-1] == before
    raw = sealed(world.a, Suspect(world.b.node, 1, 1)).raw
    monkeypatch.setattr(keyring, "OPENED_BYTES_MAX", world.keyring.statistics().cached_bytes + len(raw))
    world.keyring.open(raw)
    assert world.keyring.statistics().cached_bytes == keyring.OPENED_BYTES_MAX


def test_refusals_are_counted_by_reason_once_each(world: World) -> None:
    for _ in range(3):
        refused(world, b"\xc0", "malformed")
    refused(world, hello(world.lines["a"], alive=sealed(world.c, world.rows["a"].body, world.a.node)).raw, "bad_signature")
    assert world.keyring.statistics().refused == {"malformed": 3, "bad_signature": 1}
    assert world.keyring.statistics().backend == ed25519.BACKEND


def test_statements_of_a_message_are_judged_one_by_one(world: World) -> None:
    forged = Signed(world.c.node, None, sealed(world.stranger, Left(world.c.node, 1), world.c.node).raw)
    part = Heads((commit(world, 1), forged, commit(world, 2)))
    opened = world.open(world.seal([part]))
    assert opened.messages[0].message == Heads((commit(world, 1), commit(world, 2)))


def test_signatures_are_counted_when_they_are_checked(world: World) -> None:
    verified = world.keyring.statistics().verified
    world.keyring.verify(world.a.node, signed_bytes("x", MESH, b""), bytes(64))
    assert world.keyring.statistics().verified == verified + 1
    world.keyring.verify("nobody", b"", bytes(64))
    assert world.keyring.statistics().verified == verified + 1
    revoke(world, NODE, NEW)
    assert world.keyring.statistics().verified == verified + 2


def test_a_ring_starts_open_and_empty() -> None:
    ring = Keyring(MESH, [line_of(2).root.public_key])
    assert ring.authorities.mode == "open" and not ring.members() and ring.statistics().refused == {}
    counted = ring.statistics()
    assert (counted.verified, counted.remembered, counted.cached_bytes, counted.revoked) == (0, 0, 0, 0)
    assert ring.open(NEW.row().raw), "and its clock is that of the machine"
