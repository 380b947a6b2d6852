"""What a home with keys may say: certificates that hold at every receiver, revocations that are its to make, amendments of roots."""

from __future__ import annotations

from typing import Any

import pytest

from mesh.errors import Refused
from mesh.ids import NodeId
from mesh.messages.trust import HOME, ISSUER, NODE
from mesh.runtime.home import Home
from mesh.runtime.trust.authority import HOME_LIFE_MS, ISSUER_LIFE_MS, ISSUER_ROLE, Authority, Grant
from mesh.runtime.trust.credentials import Credentials
from mesh.runtime.trust.identity import load_identity
from mesh.runtime.trust.keyfiles import public_of
from mesh.runtime.trust.succession import amend_root
from mesh.wire.authorities import Authorities
from mesh.wire.chain import Chain
from mesh.wire.objects import node_id

SOMEBODY = public_of(b"s" * 32)


@pytest.fixture
def town(homes: Any) -> tuple[Home, Home, Home]:
    """The root's home, a second issuer, and a member whom the second admitted."""
    office = homes.Office(homes.founded("one"))
    second = homes.joined(office, "two")
    return office.home, second, homes.joined(homes.Office(second), "three")


def authority(home: Home) -> Authority:
    return Authority(Credentials(home))


def chain_of(home: Home, level: str) -> Chain:
    credentials = Credentials(home)
    return credentials.authorities.chains.read(load_identity(home.node()).chain if level == NODE else credentials.chain.raw)


@pytest.mark.parametrize("mode", ["open", "token", "ca"])
def test_lives_are_those_of_the_mode(mode: str, homes: Any) -> None:
    home = homes.founded("one", mode)
    credentials = Credentials(home)
    chain = credentials.authorities.chains.read(authority(home).admit("h" * 32, SOMEBODY, "x", Grant()))
    issuer, last = chain.certificates
    if mode == "open":
        assert (issuer.not_after_ms, last.not_after_ms, issuer.ttl_ms) == (0, 0, 0)
    else:
        assert last.not_after_ms - last.not_before_ms == issuer.ttl_ms == HOME_LIFE_MS[mode] + 120_000
        assert issuer.not_after_ms - issuer.not_before_ms == ISSUER_LIFE_MS[mode] + 120_000
        short = credentials.authorities.chains.read(authority(home).admit("h" * 32, SOMEBODY, "x", Grant(), life_ms=1000)).last
        assert short.not_after_ms - short.not_before_ms == 1000 + 120_000
        long = credentials.authorities.chains.read(authority(home).admit("h" * 32, SOMEBODY, "x", Grant(), life_ms=10**15)).last
        assert long.not_after_ms == pytest.approx(last.not_after_ms, abs=60_000), "no longer than the mode's"


def test_a_node_can_do_what_its_home_can_as_long_as_it_can(homes: Any) -> None:
    office = homes.Office(homes.founded("one"))
    home = homes.joined(office, "two", office.invite(Grant(("worker",), ("ocr.*",), ("scan",))))
    node, own = chain_of(home, NODE).last, Credentials(home).chain
    assert (node.roles, node.offers, node.requests) == (("worker",), ("ocr.*",), ("scan",))
    assert chain_of(home, NODE).expires_ms == own.expires_ms


@pytest.mark.parametrize("grant", [Grant(("emperor",)), Grant(("member", "emperor")), Grant(("member", ISSUER_ROLE, "root"))])
def test_nothing_wider_than_the_issuers_own_is_given(grant: Grant, town: Any) -> None:
    for home in town[:2]:
        with pytest.raises(Refused) as caught:
            authority(home).admit("h" * 32, SOMEBODY, "x", grant)
        assert caught.value.code == "widened"


def test_a_bad_key_gets_no_certificate(town: Any) -> None:
    for key in (b"", b"short", (1).to_bytes(32, "little")):
        with pytest.raises(Refused) as caught:
            authority(town[0]).admit("h" * 32, key, "x", Grant())
        assert caught.value.code in ("bad_key", "malformed")


def revokers(town: Any, level: str) -> list[bool]:
    """Whether each home may revoke that of the third, which the second admitted."""
    target, may = chain_of(town[2], level), []
    for home in town:
        try:
            signed = authority(home).revoke(target, "sold")
        except Refused as refused:
            assert refused.code == "not_own"
            may.append(False)
        else:
            assert (signed.body.level, signed.body.target, signed.body.reason) == (level, target.last.subject, "sold")
            assert Credentials(home).authorities.revocation_of(target.subjects) is not None, "kept on disk before it is given"
            may.append(True)
    return may


@pytest.mark.parametrize("level", [HOME, NODE])
def test_root_the_issuer_who_admitted_and_the_home_itself_may_revoke(level: str, town: Any) -> None:
    assert revokers(town, level) == [True, True, True]


def test_nobody_else_may(town: Any) -> None:
    target = chain_of(town[0], NODE)
    for home in town[1:]:
        with pytest.raises(Refused) as caught:
            authority(home).revoke(target, "envy")
        assert caught.value.code == "not_own" and not Credentials(home).authorities.statements()


def test_every_other_member_believes_a_revocation(town: Any) -> None:
    signed = authority(town[1]).revoke(chain_of(town[2], HOME), "sold")
    genesis = Credentials(town[0]).genesis
    others = Authorities(genesis.mesh, (genesis.root_public_key,), "token")
    assert others.open(signed.raw).body.target == Credentials(town[2]).home_id


def test_an_issuer_is_revoked_by_the_root_alone(town: Any) -> None:
    key = Credentials(town[1]).issuer_signer()
    assert key is not None
    with pytest.raises(Refused) as caught:
        authority(town[1]).revoke_issuer(key[0].public_key, "two", "sold")
    assert caught.value.code == "no_root"
    signed = authority(town[0]).revoke_issuer(key[0].public_key, "two", "sold")
    assert (signed.body.level, signed.body.target) == (ISSUER, node_id(key[0].public_key))
    subjects: tuple[NodeId, ...] = chain_of(town[2], NODE).subjects
    assert Credentials(town[0]).authorities.revocation_of(subjects) is not None, "with all it admitted"


def test_roots_are_amended_by_a_root_that_counts(town: Any) -> None:
    with pytest.raises(Refused) as caught:
        authority(town[1]).amend((SOMEBODY,), "token", "mine")
    assert caught.value.code == "no_root"
    with pytest.raises(Refused) as caught:
        authority(town[0]).amend((), "token", "lab")
    assert caught.value.code == "malformed"
    with pytest.raises(Refused) as caught:
        authority(town[0]).amend(Credentials(town[0]).authorities.roots, "open", "lab")
    assert caught.value.code == "downgrade" and Credentials(town[0]).mode == "token"
    signed = amend_root(town[0])
    assert signed.body.seq == 1 and len(Credentials(town[0]).authorities.roots) == 2
    assert Credentials(town[0]).name == "one"
