"""What a person is told about certificates and about who may admit others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from mesh.runtime.clock import wall_ms
from mesh.runtime.trust.authority import HOME_LIFE_MS
from mesh.runtime.trust.identity import Identity, load_identity
from mesh.runtime.trust.trust_findings import trust_findings

DAY_MS = 86_400_000


def told(
    identity: Identity, *, renewal: str = "", turned_at: Mapping[str, str] | None = None, up: bool = True, later_ms: int = 0
) -> list[str]:
    found = trust_findings(identity, renewal, turned_at or {}, lambda node: up, wall_ms() + later_ms)
    assert all(fix.startswith(("mesh ", "wait")) for _, fix in found), "each with what to type"
    return [message for message, _ in found]


@pytest.fixture
def office(homes: Any) -> Any:
    return homes.Office(homes.founded("one"))


def test_of_an_open_mesh_there_is_nothing_to_tell(homes: Any) -> None:
    assert told(load_identity(homes.founded("one", "open").node()), renewal="no", later_ms=10**13) == []


def test_one_home_alone_needs_no_second_issuer(office: Any) -> None:
    assert told(load_identity(office.home.node())) == []


def test_the_only_issuer_of_several_homes_is_told(office: Any, homes: Any) -> None:
    one = load_identity(office.home.node())
    two = load_identity(homes.joined(office, "two", office.invite(issuer="no")).node())
    for first, other in ((one, two), (two, one)):
        first.keyring.introduce(other.chain)
        [message] = told(first)
        assert "only one machine can admit" in message
    three = load_identity(homes.joined(office, "three", office.invite(issuer="yes")).node())
    one.keyring.introduce(three.chain)
    assert told(one) == []


@pytest.mark.parametrize(("mode", "says"), [("token", "members who know this node keep it"), ("ca", "has expired")])
def test_an_expired_certificate_is_told_with_what_that_means(mode: str, says: str, homes: Any) -> None:
    identity = load_identity(homes.founded("one", mode).node())
    assert told(identity, later_ms=HOME_LIFE_MS[mode] - DAY_MS) == []
    [message] = told(identity, later_ms=HOME_LIFE_MS[mode] + DAY_MS)
    assert says in message and (mode == "token") == ("keep it" in message)


def test_one_that_was_not_renewed_in_time_says_why(office: Any) -> None:
    identity = load_identity(office.home.node())
    assert told(identity, renewal="nobody is linked") == [], "there is time"
    assert told(identity, later_ms=HOME_LIFE_MS["token"] - 10 * DAY_MS) == [], "nothing went wrong"
    [message] = told(identity, renewal="nobody is linked", later_ms=HOME_LIFE_MS["token"] - 10 * DAY_MS)
    assert "ends in 10.0 days" in message and "nobody is linked" in message


def test_what_doors_say_is_told_and_not_believed_against_friends(office: Any, homes: Any) -> None:
    one = load_identity(office.home.node())
    two = load_identity(homes.joined(office, "two").node())
    one.keyring.introduce(two.chain)
    door = "192.0.2.7:7710"
    assert told(one, turned_at={door: "revoked"}, up=True) == [], "others believe it, so the door is wrong or a liar"
    [message] = told(one, turned_at={door: "revoked"}, up=False)
    assert door in message and "revoked" in message
    assert told(one, turned_at={door: "timeout"}, up=False) == []
