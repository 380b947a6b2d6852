"""Ids in words."""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any

import pytest

from mesh.errors import Refused
from mesh.messages.trust import HOME, NODE
from mesh.runtime.trust.authority import Authority
from mesh.runtime.trust.identity import load_identity
from mesh.runtime.trust.names import namer
from mesh.runtime.trust.office import Office
from mesh.wire.objects import Signer


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


def test_who_is_called_so_is_found_though_a_certificate_holds_no_more(homes: Any) -> None:
    """One that was away while the root was rotated must not keep the others from being listed, named or revoked."""
    office = homes.Office(homes.founded("one"))
    one = load_identity(office.home.node())
    two = load_identity(homes.joined(office, "two", office.invite(issuer="no")).node())
    one.keyring.introduce(two.chain)
    desk = Office(SimpleNamespace(identity=one, assembly=SimpleNamespace(directory=SimpleNamespace(name_of=lambda id: id))))
    called = two.credentials.chain.last.name
    assert desk._chain_of(called, HOME).last.subject == two.credentials.home_id
    assert desk._chain_of(two.node[:6], NODE).last.subject == two.node
    for word in ("", two.node[:5], "nobody"):
        with pytest.raises(Refused, match="no member is called"):
            desk._chain_of(word, NODE)
    root = one.credentials.root_signer()
    following = Signer("", os.urandom(32), one.credentials.mesh)
    one.keyring.authorities.open(Authority(one.credentials).amend((following.public_key,), "token", "lab", root).raw)
    assert namer(one.keyring, lambda id: id)(two.credentials.home_id) == called
    with pytest.raises(Refused, match="holds no more"):
        desk._chain_of(called, HOME)
    with pytest.raises(Refused, match="no member is called"):
        desk._chain_of("nobody", HOME)
