"""Amendments and revocations: who may say them, in which order, and that nothing is taken back."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from attacks.keys import NOT_REDUCED, SMALL_ORDER
from attacks.world import MESH, NOW_MS, Line, deed_of, line_of, sealed, signer_of

from mesh.messages.membership import Left
from mesh.messages.policy import Policy
from mesh.messages.signed import Signed
from mesh.messages.trust import HOME, ISSUER, NODE, Amendment, Revocation
from mesh.wire import authorities as authorities_module
from mesh.wire.authorities import MODES, ROOTS_MAX, Authorities
from mesh.wire.chain import join_chain
from mesh.wire.objects import Signer
from mesh.wire.packing import Refusal

LINE = line_of(2)
SIBLING = line_of(4)
ELSEWHERE = line_of(6, issuer=11)
"""Another home, under another issuer of the same root."""
NEW_ROOT, THIRD_ROOT = signer_of(71), signer_of(72)


def fresh(mode: str = "token", *roots: Signer) -> Authorities:
    return Authorities(MESH, [root.public_key for root in roots or (LINE.root,)], mode)


def amendment(seq: int, *roots: Signer, by: Signer | None = None, mode: str = "token", **changes: Any) -> bytes:
    body = Amendment(MESH, seq, tuple(root.public_key for root in roots), mode, "tests", NOW_MS)
    return sealed(by or LINE.root, dataclasses.replace(body, **changes)).raw


def revocation(target: Line, level: str, by: Signer, /, *, chain: bytes | None = None, **changes: Any) -> bytes:
    """Of the node, home or issuer of `target`, with its chain down to there."""
    size = (ISSUER, HOME, NODE).index(level) + 1
    subject = (target.issuer, target.home, target.node)[size - 1]
    shown = join_chain(target.certificates()[:size]) if chain is None else chain
    body = Revocation(MESH, level, subject.node, subject.node, "stolen", NOW_MS, shown)
    return sealed(by, dataclasses.replace(body, **changes)).raw


def refused(known: Authorities, raw: bytes, reason: str) -> None:
    before = known.statements(), known.roots, known.root_ids, known.mode, known.amendments
    with pytest.raises(Refusal) as caught:
        known.open(raw)
    assert caught.value.reason == reason
    assert before == (known.statements(), known.roots, known.root_ids, known.mode, known.amendments)


# ---- amendments


def test_an_amendment_changes_roots_and_mode() -> None:
    known = fresh("open")
    raw = amendment(1, LINE.root, NEW_ROOT)
    signed = known.open(raw)
    assert (signed.author, signed.raw) == (LINE.root.node, raw)
    assert known.root_ids == (LINE.root.node, NEW_ROOT.node) and known.roots == (LINE.root.public_key, NEW_ROOT.public_key)
    assert known.mode == "token" and known.amendments == 1 and known.statements() == [signed]
    assert known.open(raw) is signed and known.amendments == 1, "said again, it says nothing new"


def test_a_root_is_rotated_with_an_overlap_of_two() -> None:
    known = fresh()
    old, new = LINE, dataclasses.replace(LINE, root=NEW_ROOT)
    refused_chain(known, new)
    known.open(amendment(1, LINE.root, NEW_ROOT))
    assert known.chains.read(old.chain()) and known.chains.read(new.chain()), "both count"
    last = known.open(amendment(2, NEW_ROOT, by=LINE.root))
    assert known.open(last.raw) is last, "said again by who brought it, whose root counts no more"
    assert known.chains.read(new.chain())
    refused_chain(known, old)
    refused(known, amendment(3, LINE.root, by=LINE.root), "unknown_author")


def refused_chain(known: Authorities, line: Line) -> None:
    with pytest.raises(Refusal, match="bad_certificate"):
        known.chains.read(line.chain())


def test_amendments_come_one_after_the_other() -> None:
    known = fresh()
    for seq in (0, 2, 3, 2**40):
        refused(known, amendment(seq, LINE.root), "gap")
    known.open(amendment(1, LINE.root))
    refused(known, amendment(3, LINE.root), "gap")
    refused(known, amendment(0, LINE.root), "gap")
    known.open(amendment(2, LINE.root))
    assert known.amendments == 2


@pytest.mark.parametrize("before", MODES)
@pytest.mark.parametrize("after", (*MODES, "", "none", "TOKEN"))
def test_the_mode_only_becomes_stricter(before: str, after: str) -> None:
    known = fresh(before)
    raw = amendment(1, LINE.root, mode=after)
    if after in MODES[MODES.index(before) :]:
        known.open(raw)
        assert known.mode == after
    else:
        refused(known, raw, "downgrade")


def test_two_amendments_of_one_number_are_a_fork() -> None:
    known = fresh("token", LINE.root, NEW_ROOT)
    first = amendment(1, LINE.root, NEW_ROOT)
    known.open(first)
    refused(known, amendment(1, LINE.root), "fork")
    refused(known, amendment(1, LINE.root, NEW_ROOT, by=NEW_ROOT), "fork")
    known.open(amendment(2, NEW_ROOT, by=NEW_ROOT))
    assert known.open(first).raw == first, "an old one is judged by the roots of its time"
    refused(known, amendment(1, NEW_ROOT, by=NEW_ROOT), "fork")
    refused(known, amendment(1, THIRD_ROOT, by=THIRD_ROOT), "unknown_author")


def test_only_a_root_that_counts_amends() -> None:
    known = fresh()
    for signer in (LINE.issuer, LINE.home, LINE.node, NEW_ROOT, signer_of(5)):
        refused(known, amendment(1, NEW_ROOT, by=signer), "unknown_author")
        body = Amendment(MESH, 1, (NEW_ROOT.public_key,), "token", "tests", NOW_MS)
        refused(known, sealed(signer, body, LINE.root.node).raw, "bad_signature")
    refused(known, amendment(1, NEW_ROOT, by=signer_of(1, "other-mesh")), "bad_signature")
    refused(known, amendment(1, NEW_ROOT, mesh="other-mesh"), "other_mesh")
    refused(known, sealed(signer_of(1, "other-mesh"), Amendment("other-mesh", 1, (), "token", "x", 1)).raw, "other_mesh")


def test_roots_are_one_to_eight_good_keys() -> None:
    many = [signer_of(80 + n) for n in range(ROOTS_MAX + 1)]
    known = fresh()
    refused(known, amendment(1), "malformed")
    refused(known, amendment(1, *many), "malformed")
    for key in (*SMALL_ORDER, *NOT_REDUCED, b"", bytes(31), bytes(33)):
        refused(known, amendment(1, roots=(LINE.root.public_key, key)), "bad_key")
    known.open(amendment(1, *many[:ROOTS_MAX]))
    assert len(known.root_ids) == ROOTS_MAX


@pytest.mark.parametrize("key", [*SMALL_ORDER, *NOT_REDUCED, b""], ids=lambda key: key.hex()[:6] + key.hex()[-4:])
def test_a_genesis_has_good_keys_too(key: bytes) -> None:
    with pytest.raises(Refusal, match="bad_key"):
        Authorities(MESH, [LINE.root.public_key, key])


# ---- revocations


def revoked(known: Authorities, line: Line) -> str:
    """Whom of the line a revocation concerns."""
    found = known.revocation_of(known.chains.read(line.chain()).subjects)
    return found.body.level if found else ""


@pytest.mark.parametrize(
    ("level", "by", "reason"),
    [
        (NODE, "root", ""),
        (NODE, "issuer", ""),
        (NODE, "home", ""),
        (NODE, "node", ""),
        (HOME, "root", ""),
        (HOME, "issuer", ""),
        (HOME, "home", ""),
        (HOME, "node", "not_own"),
        (ISSUER, "root", ""),
        (ISSUER, "issuer", ""),
        (ISSUER, "home", "not_own"),
        (ISSUER, "node", "not_own"),
    ],
)
def test_who_may_revoke_whom(level: str, by: str, reason: str) -> None:
    known = fresh()
    raw = revocation(LINE, level, getattr(LINE, by))
    if reason:
        refused(known, raw, reason)
        assert revoked(known, LINE) == ""
    else:
        signed = known.open(raw)
        assert known.statements() == [signed] and revoked(known, LINE) == level
        assert known.open(raw) is signed and known.statements() == [signed]
    assert revoked(known, SIBLING) == (ISSUER if level == ISSUER and not reason else ""), "the same issuer's, another home's"
    assert revoked(known, ELSEWHERE) == ""


@pytest.mark.parametrize("level", (ISSUER, HOME, NODE))
def test_nobody_else_revokes(level: str) -> None:
    known = fresh()
    for signer in (signer_of(5), ELSEWHERE.issuer, ELSEWHERE.home, ELSEWHERE.node, SIBLING.home, SIBLING.node):
        refused(known, revocation(LINE, level, signer), "not_own")
        refused(known, revocation(LINE, level, signer, chain=b""), "unknown_author")
    for signer in (LINE.issuer, LINE.home, LINE.node):
        refused(known, revocation(LINE, level, signer, chain=b""), "unknown_author")


def test_a_revocation_is_signed_by_whom_it_names() -> None:
    known = fresh()
    body = Revocation(MESH, NODE, LINE.node.node, "x", "stolen", NOW_MS, LINE.chain())
    for author in (LINE.root, LINE.issuer, LINE.home, LINE.node):
        for signer in {LINE.root, LINE.issuer, LINE.home, LINE.node, signer_of(5)} - {author}:
            refused(known, sealed(signer, body, author.node).raw, "bad_signature")
        elsewhere = line_of(2, "other-mesh")
        for signer in (elsewhere.root, elsewhere.issuer, elsewhere.home, elsewhere.node):
            if signer.public_key == author.public_key:
                refused(known, sealed(signer, body).raw, "bad_signature")
    refused(known, revocation(LINE, NODE, LINE.root, mesh="other-mesh"), "other_mesh")


def test_the_chain_shown_ends_with_the_target() -> None:
    known = fresh()
    links = LINE.certificates()
    for level, chain in ((NODE, links[:2]), (NODE, links[:1]), (HOME, links), (HOME, links[:1]), (ISSUER, links), (ISSUER, links[:2])):
        refused(known, revocation(LINE, level, LINE.issuer, chain=join_chain(chain)), "not_own")
    refused(known, revocation(LINE, NODE, LINE.home, chain=SIBLING.chain()), "not_own")
    refused(known, revocation(LINE, NODE, LINE.home, level=HOME), "not_own")
    refused(known, revocation(LINE, NODE, LINE.home, chain=dataclasses.replace(LINE, root=NEW_ROOT).chain()), "bad_certificate")
    refused(known, revocation(LINE, NODE, LINE.home, chain=b"\xc0"), "malformed")


def test_no_home_revokes_what_is_not_its_own_by_certifying_it_first() -> None:
    """Its own certificate for another home's node, or for an issuer as if it were a node, is no chain."""
    known = fresh()
    for victim in (LINE.node, LINE.issuer, LINE.home, LINE.root):
        claim = dataclasses.replace(SIBLING, node=victim, first=None)
        for deed in (b"", deed_of(SIBLING.node, SIBLING.home.node), deed_of(LINE.node, LINE.home.node)):
            chain = claim.chain(node={"deed": deed})
            refused(known, revocation(claim, NODE, SIBLING.home, chain=chain), "bad_certificate")
    assert revoked(known, LINE) == ""


def test_an_issuer_revokes_no_issuer_by_admitting_it_as_a_home() -> None:
    """The names of homes are what issuers say, so levels are kept apart."""
    known = fresh()
    claim = dataclasses.replace(ELSEWHERE, home=signer_of(99, node=LINE.issuer.node))
    known.open(revocation(claim, HOME, ELSEWHERE.issuer))
    assert revoked(known, LINE) == revoked(known, SIBLING) == ""
    known.open(revocation(LINE, ISSUER, LINE.root))
    assert revoked(known, LINE) == ISSUER


def test_whom_nobody_knows_can_be_revoked_by_a_root_alone() -> None:
    known = fresh()
    stranger = dataclasses.replace(LINE, node=signer_of(88))
    signed = known.open(revocation(stranger, NODE, LINE.root, chain=b""))
    assert known.statements() == [signed] and revoked(known, stranger) == NODE and revoked(known, LINE) == ""


def test_one_revocation_of_a_target_is_enough() -> None:
    known = fresh()
    first = known.open(revocation(LINE, NODE, LINE.home))
    assert known.open(revocation(LINE, NODE, LINE.root)) is first and known.open(revocation(LINE, NODE, LINE.node, reason="x")) is first
    refused(known, revocation(LINE, NODE, signer_of(5)), "not_own")
    assert known.statements() == [first]


def test_the_table_is_bounded_and_a_root_is_heard_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """A home may make nodes without end and revoke them: it must not be able to stop its own revocation."""
    monkeypatch.setattr(authorities_module, "REVOCATIONS_MAX", 3)
    known = fresh()
    for seed in (81, 82, 83):
        known.open(revocation(dataclasses.replace(SIBLING, node=signer_of(seed)), NODE, SIBLING.home))
    refused(known, revocation(dataclasses.replace(SIBLING, node=signer_of(84)), NODE, SIBLING.home), "too_many")
    refused(known, revocation(LINE, NODE, LINE.home), "too_many")
    known.open(revocation(SIBLING, HOME, LINE.root))
    assert revoked(known, SIBLING) == HOME and len(known.statements()) == 4


# ---- what was said


def reopened(known: Authorities, *roots: Signer) -> Authorities:
    again = fresh("token", *roots)
    for signed in known.statements():
        again.open(signed.raw)
    return again


def test_what_was_said_can_be_said_again_in_that_order() -> None:
    """Also by a root that counts no more: what it had revoked stays revoked for who comes later."""
    known = fresh()
    known.open(revocation(SIBLING, HOME, LINE.root))
    known.open(amendment(1, LINE.root, NEW_ROOT))
    known.open(revocation(LINE, NODE, LINE.home))
    known.open(amendment(2, NEW_ROOT, by=NEW_ROOT, mode="ca"))
    known.open(revocation(ELSEWHERE, HOME, NEW_ROOT))
    again = reopened(known, LINE.root)
    assert again.statements() == known.statements() and len(again.statements()) == 5
    assert (again.roots, again.mode, again.amendments) == (known.roots, "ca", 2)
    for signed in known.statements():
        assert again.open(signed.raw) == signed, "and once more, in any order"


def test_other_statements_have_no_place_here() -> None:
    known = fresh()
    for signed in (sealed(LINE.root, Left(LINE.root.node, 1)), Signed("", None, deed_of(LINE.node, LINE.home.node)), LINE.binding()):
        refused(known, signed.raw, "unknown_object")
    refused(known, b"", "malformed")


# ---- policies


def policy(seq: int, by: Signer | None = None, text: str = "{}", *, chain: bytes = b"", **changes: Any) -> bytes:
    body = Policy(MESH, seq, text, "ann", "", NOW_MS, chain)
    return sealed(by or LINE.root, dataclasses.replace(body, **changes)).raw


def issuers_chain(line: Line) -> bytes:
    return join_chain(line.certificates()[:1])


def test_a_root_or_an_issuer_sets_a_policy() -> None:
    known = fresh()
    assert known.open(policy(1)).body.seq == 1
    raw = policy(2, LINE.issuer, chain=issuers_chain(LINE))
    assert known.open(raw) is known.open(raw), "said again, it says nothing new"
    assert len(known.statements()) == 2


def test_nobody_else_sets_one() -> None:
    known = fresh()
    refused(known, policy(1, LINE.issuer), "unknown_author")
    refused(known, policy(1, LINE.home, chain=issuers_chain(LINE)), "not_own")
    refused(known, policy(1, LINE.home, chain=join_chain(LINE.certificates()[:2])), "not_own")
    refused(known, policy(1, LINE.node, chain=join_chain(LINE.certificates()[:3])), "not_own")
    refused(known, policy(1, ELSEWHERE.issuer, chain=issuers_chain(LINE)), "not_own")
    refused(known, policy(1, mesh="another"), "other_mesh")
    refused(known, policy(0), "malformed")
    known.open(revocation(ELSEWHERE, ISSUER, ELSEWHERE.root))
    refused(known, policy(1, ELSEWHERE.issuer, chain=issuers_chain(ELSEWHERE)), "revoked")


def test_the_newest_policies_are_kept_whatever_the_order() -> None:
    some = [policy(seq) for seq in range(1, authorities_module.POLICIES_MAX + 4)]
    forwards, backwards = fresh(), fresh()
    for raw in some:
        forwards.open(raw)
    for raw in reversed(some):
        backwards.open(raw)
    kept = [{signed.raw for signed in known.statements()} for known in (forwards, backwards)]
    assert kept[0] == kept[1] == set(some[3:])


def test_policies_of_an_issuer_who_was_revoked_make_room_for_others() -> None:
    known = fresh()
    for number in range(authorities_module.POLICIES_MAX):
        known.open(policy((1 << 63) - 1 - number, LINE.issuer, chain=issuers_chain(LINE)))
    known.open(revocation(LINE, ISSUER, LINE.root))
    raw = policy(1)
    known.open(raw)
    assert raw in {signed.raw for signed in known.statements()}
