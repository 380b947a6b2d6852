"""Ids in words."""

from __future__ import annotations

from typing import Any

from mesh.runtime.trust.authority import Authority
from mesh.runtime.trust.identity import load_identity
from mesh.runtime.trust.names import namer


def test_whose_an_id_is(homes: Any) -> None:
    office = homes.Office(homes.founded("one"))
    one = load_identity(office.home.node())
    two = load_identity(homes.joined(office, "two", office.invite(issuer="yes")).node())
    one.keyring.introduce(two.chain)
    issuer, home, node = one.keyring.authorities.chains.read(two.chain).subjects
    called = two.credentials.chain.last.name
    name_of = namer(one.keyring, lambda id: "otter" if id == node else id)
    first = one.credentials.chain.certificates[0]
    assert [name_of(id) for id in (node, home, first.subject)] == ["otter", called, f"{first.name} (issuer)"] and issuer == first.subject
    assert [name_of(id) for id in one.keyring.authorities.root_ids] == ["root"] and name_of("nobody") == "nobody"
    one.keyring.authorities.open(Authority(one.credentials).revoke(one.keyring.authorities.chains.read(two.credentials.chain.raw), "").raw)
    one.keyring.forget_revoked()
    assert namer(one.keyring, lambda id: id)(home) == called, "whom was revoked still has a name"
