"""How a home comes to belong to a mesh, and what a crash at any step of it leaves."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from mesh.runtime.home import Home, HomeError
from mesh.runtime.trust.authority import ISSUER_ROLE, Authority
from mesh.runtime.trust.credentials import Credentials, Paths
from mesh.runtime.trust.founding import complete, enter, found, open_up
from mesh.runtime.trust.identity import load_identity
from mesh.wire.objects import mesh_id


def opened_up(home: Home) -> Credentials:
    with home.lock():
        return open_up(home, "token", "lab")


@pytest.mark.parametrize("mode", ["open", "token", "ca"])
def test_a_new_mesh_has_this_home_as_its_root_and_first_issuer(mode: str, homes: Any) -> None:
    credentials = Credentials(homes.founded("one", mode))
    assert (credentials.mode, credentials.name) == (mode, "one")
    assert credentials.mesh == mesh_id(credentials.genesis.raw)
    assert credentials.chain.last.roles == ("member", ISSUER_ROLE) and credentials.chain.last.subject == credentials.home_id
    authority = Authority(credentials)
    assert authority.can_admit and authority.can_make_issuers and credentials.past == ()
    assert bool(credentials.chain.expires_ms) == (mode != "open")


def test_founding_twice_changes_nothing(homes: Any) -> None:
    home = homes.founded("one")
    before = {path: path.read_bytes() for path in home.mesh_path.iterdir()}
    with home.lock():
        found(home, "ca", "other")
    assert {path: path.read_bytes() for path in home.mesh_path.iterdir()} == before


def test_opening_up_keeps_mesh_home_and_nodes(homes: Any) -> None:
    home = homes.founded("one", "open")
    node, before = load_identity(home.node()), Credentials(home)
    after = opened_up(home)
    assert (after.mesh, after.home_id, after.home_key) == (before.mesh, before.home_id, before.home_key)
    assert (after.mode, after.name) == ("token", "lab") and (before.mode, before.name) == ("open", "one")
    assert after.chain.expires_ms > 0 == before.chain.expires_ms
    again = load_identity(home.node())
    assert again.node == node.node and again.serial > node.serial and again.expires_ms == after.chain.expires_ms


def test_a_home_without_its_root_key_cannot_open_up_and_stays_as_it_is(homes: Any) -> None:
    home = homes.founded("one", "open")
    Paths(home.mesh_path).root.unlink()
    with pytest.raises(HomeError, match=r"root\.key is gone"):
        opened_up(home)
    assert Credentials(home).mode == "open" and not Paths(home.mesh_path).pending.exists()


def test_entering_keeps_the_homes_keys_and_its_nodes_and_remembers_where_it_was(homes: Any) -> None:
    office = homes.Office(homes.founded("one"))
    home = homes.founded("two", "open")
    node, before = load_identity(home.node()), Credentials(home)
    admission = homes.admitted(office, home)
    with home.lock():
        after = enter(home, admission)
    assert after.mesh == Credentials(office.home).mesh != before.mesh and after.past == (before.mesh,)
    assert (after.home_id, after.home_key) == (before.home_id, before.home_key)
    assert after.discovery_key == Credentials(office.home).discovery_key != before.discovery_key
    assert not Paths(home.mesh_path).root.exists(), "the root of a mesh that is gone"
    again = load_identity(home.node())
    assert again.node == node.node and again.keyring.mesh == after.mesh
    assert Authority(after).can_admit and not Authority(after).can_make_issuers, "the second machine is an issuer, and not the root"


def test_where_it_was_before_is_remembered_once_and_in_order(homes: Any) -> None:
    offices = [homes.Office(homes.founded(name, "token")) for name in ("one", "two")]
    home = homes.home("three").make()
    for office in (*offices, offices[0]):
        admission = homes.admitted(office, home)
        with home.lock():
            enter(home, admission)
    first, second = (Credentials(office.home).mesh for office in offices)
    assert Credentials(home).mesh == first and Credentials(home).past == (second,)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("genesis", b"{}"),
        ("chain", b"\x90"),
        ("own_issuer", b"noise"),
        ("statements", (b"noise",)),
    ],
)
def test_an_admission_that_does_not_hold_together_changes_nothing(field: str, value: Any, homes: Any) -> None:
    office, home = homes.Office(homes.founded("one")), homes.founded("two", "open")
    admission = homes.admitted(office, home)
    before = {path: path.read_bytes() for path in home.mesh_path.iterdir()}
    with home.lock(), pytest.raises(HomeError):
        enter(home, replace(admission, **{field: value}))
    assert {path: path.read_bytes() for path in home.mesh_path.iterdir()} == before


def test_an_admission_for_another_home_or_by_another_mesh_is_refused(homes: Any) -> None:
    one, other = homes.Office(homes.founded("one")), homes.Office(homes.founded("other"))
    mine, theirs = homes.home("mine").make(), homes.home("theirs").make()
    for admission in (
        homes.admitted(one, theirs),
        replace(homes.admitted(one, mine), genesis=Credentials(other.home).genesis.raw),
        replace(homes.admitted(one, mine), chain=homes.admitted(other, mine).chain),
        replace(homes.admitted(one, mine), own_issuer=homes.admitted(other, mine, other.invite(issuer="yes")).own_issuer),
    ):
        with mine.lock(), pytest.raises(HomeError, match="does not hold together"):
            enter(mine, admission)
        assert not Credentials.exist(mine)


# ---- crashes


def test_a_crash_while_founding_completes_at_the_next_start(homes: Any, crashing: Callable[..., int]) -> None:
    def act(home: Home) -> None:
        with home.lock():
            found(home, "token", "lab")

    def look(home: Home) -> None:
        genesis = Paths(home.mesh_path).genesis
        raw = genesis.read_bytes() if genesis.exists() else None
        identity = load_identity(home.node())
        assert identity.credentials.mode == ("token" if raw else "open"), "before there is a genesis, nothing has happened"
        assert raw is None or identity.genesis.raw == raw

    assert crashing(lambda n: homes.home(f"h{n}").make(), act, look) > 5


def test_a_crash_while_opening_up_leaves_the_open_mesh_or_the_other(homes: Any, crashing: Callable[..., int]) -> None:
    nodes: dict[Home, Any] = {}

    def prepare(n: int) -> Home:
        home = homes.founded(f"h{n}", "open")
        nodes[home] = load_identity(home.node())
        return home  # type: ignore[no-any-return]

    def look(home: Home) -> None:
        began = Paths(home.mesh_path).pending.exists() or Credentials(home).mode == "token"
        identity = load_identity(home.node())
        assert (identity.node, identity.genesis) == (nodes[home].node, nodes[home].genesis)
        assert identity.credentials.mode == ("token" if began else "open")
        assert bool(identity.expires_ms) == began, "certificates are those of the mode"
        assert not Paths(home.mesh_path).pending.exists()
        opened_up(home)
        assert load_identity(home.node()).credentials.mode == "token"

    assert crashing(prepare, opened_up, look) > 3


def test_a_crash_while_entering_leaves_the_old_mesh_or_the_new_one(homes: Any, crashing: Callable[..., int]) -> None:
    office = homes.Office(homes.founded("one"))
    nodes: dict[Home, Any] = {}
    admissions: dict[Home, Any] = {}

    def prepare(n: int) -> Home:
        home = homes.founded(f"h{n}", "open")
        nodes[home] = load_identity(home.node())
        admissions[home] = homes.admitted(office, home, office.invite(issuer="yes"))
        return home  # type: ignore[no-any-return]

    def act(home: Home) -> None:
        with home.lock():
            enter(home, admissions[home])

    def look(home: Home) -> None:
        old, new = nodes[home].genesis.mesh, Credentials(office.home).mesh
        began = Paths(home.mesh_path).pending.exists() or (Credentials.exist(home) and Credentials(home).mesh == new)
        identity = load_identity(home.node())
        assert identity.node == nodes[home].node
        assert (identity.genesis.mesh, identity.credentials.past) == ((new, (old,)) if began else (old, ()))
        assert Authority(identity.credentials).can_admit
        act(home)
        assert load_identity(home.node()).genesis.mesh == new and Credentials(home).past == (old,)

    assert crashing(prepare, act, look) > 8


def test_what_is_pending_and_damaged_is_told(homes: Any) -> None:
    home = homes.founded("one", "open")
    pending = Paths(home.mesh_path).pending
    for content in (b"", b"noise", b"\x93\xa1a\xa1b\xa1c", json.dumps(["open_up"]).encode()):
        pending.write_bytes(content)
        pending.chmod(0o600)
        with home.lock(), pytest.raises(HomeError) as caught:
            complete(home)
        assert str(pending) in caught.value.message and f"remove {pending}" in caught.value.fix
    pending.unlink()
    with home.lock():
        complete(home)
