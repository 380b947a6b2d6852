"""What a home has to show: what is refused when it is read, and rotations of its keys that a crash interrupted."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mesh.errors import Refused
from mesh.runtime.home import Home, HomeError, write_atomic
from mesh.runtime.trust.authority import Authority, Grant
from mesh.runtime.trust.credentials import Credentials, Paths, read_past, write_statements
from mesh.runtime.trust.genesis import read_genesis
from mesh.runtime.trust.keyfiles import adopt_key, make_key, next_of, prepare_key, public_of, read_key
from mesh.runtime.trust.succession import amend_root, finish_root, keep_issuer, replace_home_key, replace_issuer_key
from mesh.wire.packing import Refusal, pack


@pytest.fixture
def home(homes: Any) -> Home:
    return homes.founded("one")  # type: ignore[no-any-return]


def test_a_home_without_a_mesh_says_what_to_type(homes: Any) -> None:
    home = homes.home("none").make()
    assert not Credentials.exist(home)
    with pytest.raises(HomeError) as caught:
        Credentials(home)
    assert "mesh init" in caught.value.fix and "mesh join TOKEN" in caught.value.fix


PRIVATE = ("genesis.json", "discovery.key", "home.key", "membership", "statements", "root.key", "issuer.key", "issuer", "past")


@pytest.mark.parametrize("name", PRIVATE)
@pytest.mark.parametrize("mode", [0o604, 0o640, 0o644, 0o660])
def test_open_files_are_refused_with_the_chmod_line(name: str, mode: int, home: Home) -> None:
    write_statements(Paths(home.mesh_path), ())
    write_atomic(Paths(home.mesh_path).past, b"[]")
    path = home.mesh_path / name
    path.chmod(mode)
    with pytest.raises(HomeError) as caught:
        credentials = Credentials(home)
        assert credentials.root_signer() and credentials.issuer_signer() and credentials.past is None
    assert caught.value.fix == f"chmod 600 {path}" and f"{mode:o}" in caught.value.message


@pytest.mark.parametrize("name", ["home.key", "discovery.key"])
@pytest.mark.parametrize("content", [None, b"", b"\0" * 32, b"ed25519 ", b"ed25519 00", b"ed25519 " + b"zz" * 32, b"rsa " + b"00" * 32])
def test_a_lost_or_damaged_key_is_an_error_and_no_new_one_is_made(name: str, content: bytes | None, home: Home) -> None:
    path = home.mesh_path / name
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(HomeError) as caught:
        Credentials(home)
    assert str(path) in caught.value.message and str(path) in caught.value.fix
    assert (path.read_bytes() if path.exists() else None) == content


GENESIS = {"v": 1, "name": "open", "mode": "open", "root": "00" * 32}


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("", "damaged"),
        ("[]", "damaged"),
        ("{}", "damaged"),
        ("[" * 5000, "damaged"),
        ("5", "damaged"),
        (json.dumps(GENESIS | {"v": 2}), "field v"),
        (json.dumps(GENESIS | {"mode": "closed"}), "field mode"),
        (json.dumps(GENESIS | {"mode": ["token"]}), "field mode"),
        (json.dumps(GENESIS | {"root": "00"}), "field root"),
        (json.dumps(GENESIS), "field root"),
        (json.dumps(GENESIS | {"root": "zz"}), "damaged"),
        (json.dumps(GENESIS | {"root": 5}), "damaged"),
    ],
)
def test_a_damaged_genesis_names_file_and_field(content: str, why: str, home: Home) -> None:
    path = home.mesh_path / "genesis.json"
    path.write_text(content)
    with pytest.raises(HomeError) as caught:
        Credentials(home)
    assert str(path) in caught.value.message and why in caught.value.message and caught.value.fix


def test_another_genesis_makes_everything_else_foreign(home: Home, homes: Any) -> None:
    other = Paths(homes.founded("other").mesh_path)
    (home.mesh_path / "genesis.json").write_bytes(other.genesis.read_bytes())
    with pytest.raises(HomeError, match="does not hold in this mesh"):
        assert Credentials(home).chain


@pytest.mark.parametrize("content", [b"", b"noise", pack((b"noise",)), pack(("text",)), pack((1, 2)), b"\x91" * 2000])
def test_damaged_statements_and_memberships_are_told(content: bytes, home: Home) -> None:
    paths = Paths(home.mesh_path)
    write_atomic(paths.statements, content)
    with pytest.raises(HomeError) as caught:
        Credentials(home)
    assert str(paths.statements) in caught.value.message and "backup" in caught.value.fix
    paths.statements.unlink()
    write_atomic(paths.membership, content)
    with pytest.raises(HomeError, match="does not hold") as caught:
        assert Credentials(home).chain
    assert "backup" in caught.value.fix and "mesh join TOKEN" in caught.value.fix


def test_a_membership_of_another_home_is_told(home: Home, homes: Any) -> None:
    office = homes.Office(home)
    other = homes.joined(office, "two")
    os.replace(Paths(other.mesh_path).membership, Paths(home.mesh_path).membership)
    with pytest.raises(HomeError, match="is not for the key"):
        assert Credentials(home).chain


@pytest.mark.parametrize("content", [b"", b"{}", b"5", b"[1]", b"[", b"\xff"])
def test_a_damaged_past_is_told(content: bytes, home: Home) -> None:
    write_atomic(Paths(home.mesh_path).past, content)
    with pytest.raises(HomeError, match="past is damaged"):
        read_past(Paths(home.mesh_path))


def test_new_certificates_are_kept_only_if_they_are_for_this_home(home: Home, homes: Any) -> None:
    office = homes.Office(home)
    other, credentials = Credentials(homes.joined(office, "two")), Credentials(home)
    with pytest.raises(Refusal, match="not_own"):
        credentials.keep_chain(other.chain.raw)
    with pytest.raises(Refusal, match="bad_certificate"):
        credentials.keep_chain(b"\x90")
    with pytest.raises(Refusal, match="not_own"):
        credentials.keep_chain(pack((Paths(home.mesh_path).issuer.read_bytes(),)))
    fresh = Authority(credentials).admit(credentials.home_id, credentials.home_key, "again", Grant())
    credentials.keep_chain(fresh)
    assert Credentials(home).chain.raw == fresh == credentials.chain.raw


def test_an_issuers_or_root_key_that_does_not_fit_is_none(home: Home, homes: Any) -> None:
    other = Paths(homes.founded("other").mesh_path)
    paths = Paths(home.mesh_path)
    for mine, theirs in ((paths.root, other.root), (paths.issuer_key, other.issuer_key)):
        mine.write_bytes(theirs.read_bytes())
    credentials = Credentials(home)
    assert credentials.root_signer() is None and credentials.issuer_signer() is None
    assert not Authority(credentials).can_admit and not Authority(credentials).can_make_issuers
    paths.root.unlink()
    paths.issuer.unlink()
    assert credentials.root_signer() is None and credentials.issuer_signer() is None


# ---- rotations that a crash interrupts: the home is whole at any moment


def in_use(home: Home) -> tuple[bytes, bytes, bytes]:
    """Public keys of home, issuer and root. All of them work, or this fails."""
    credentials = Credentials(home)
    issuer, root = credentials.issuer_signer(), credentials.root_signer()
    assert issuer is not None and root is not None
    authority = Authority(credentials)
    authority.admit("somebody", public_of(b"s" * 32), "somebody", Grant())
    authority.certify_issuer(public_of(b"i" * 32), "somebody")
    assert credentials.chain.last.key == credentials.home_key == public_of(read_key(credentials.paths.home_key) or b"")
    assert public_of(read_key(credentials.paths.issuer_key) or b"") == issuer[0].public_key
    return credentials.home_key, issuer[0].public_key, root.public_key


@pytest.mark.parametrize("rotate", [replace_home_key, replace_issuer_key, amend_root])
def test_a_crash_while_a_key_is_replaced(rotate: Callable[[Home], None], homes: Any, crashing: Callable[..., int]) -> None:
    before: dict[Home, tuple[bytes, bytes, bytes]] = {}

    def prepare(n: int) -> Home:
        home: Home = homes.founded(f"h{n}")
        before[home] = in_use(home)
        return home

    def look(home: Home) -> None:
        known = Credentials(home)
        assert Authority(known).can_admit, "also before anybody has tidied up"
        with home.lock():
            known.settle()
        after = in_use(home)
        assert sum(one != other for one, other in zip(before[home], after, strict=True)) <= 1
        if rotate is amend_root and len(Credentials(home).authorities.roots) > 1:
            with pytest.raises(Refused, match="not finished"):
                rotate(home)
        else:
            rotate(home)
        assert in_use(home) != before[home], "said again, it is done"
        assert not any(next_of(path).exists() for path in (known.paths.home_key, known.paths.issuer_key, known.paths.root))

    assert crashing(prepare, rotate, look) >= 3


def test_a_crash_while_the_old_root_is_given_up(homes: Any, crashing: Callable[..., int]) -> None:
    def prepare(n: int) -> Home:
        home: Home = homes.founded(f"h{n}")
        amend_root(home)
        replace_issuer_key(home)
        with home.lock():
            credentials = Credentials(home)
            credentials.keep_chain(
                Authority(credentials).admit(credentials.home_id, credentials.home_key, "one", Grant(("member", "issuer")))
            )
        return home

    def look(home: Home) -> None:
        with home.lock():
            Credentials(home).settle()
        credentials, retired = Credentials(home), home.mesh_path / "root.key.old"
        in_use(home)
        assert retired.exists() == (len(credentials.authorities.roots) == 2), "a root key that counts no more is not kept"

    assert crashing(prepare, finish_root, look) >= 2


def test_a_prepared_key_that_was_never_certified_stays_for_the_next_time(homes: Any) -> None:
    home = homes.founded("one")
    paths = Paths(home.mesh_path)
    prepared = [prepare_key(path) for path in (paths.home_key, paths.issuer_key, paths.root)]
    before = in_use(home)
    with home.lock():
        Credentials(home).settle()
    assert in_use(home) == before
    assert prepared == [prepare_key(path) for path in (paths.home_key, paths.issuer_key, paths.root)]


def test_an_issuers_certificate_for_another_key_is_refused(home: Home, homes: Any) -> None:
    credentials = Credentials(home)
    before = Paths(home.mesh_path).issuer.read_bytes()
    with pytest.raises(Refusal, match="not_own"):
        keep_issuer(credentials, Authority(credentials).certify_issuer(public_of(b"x" * 32), "x"))
    assert Paths(home.mesh_path).issuer.read_bytes() == before


def test_without_a_root_or_an_issuer_nothing_is_replaced(homes: Any) -> None:
    office = homes.Office(homes.founded("one"))
    second, third = homes.joined(office, "two"), homes.joined(office, "three")
    replace_home_key(second)
    for act, home in ((replace_issuer_key, second), (amend_root, second), (replace_home_key, third)):
        before = Credentials(home).chain.raw
        with pytest.raises(Refused):
            act(home)
        assert Credentials(home).chain.raw == before
    assert finish_root(office.home) is None


def test_a_key_is_made_once(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    path = tmp_path / "key"
    assert read_key(path) is None
    key = make_key(path)
    assert make_key(path) == key == read_key(path) and path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(HomeError, match="holds no key: expected 'curve'"):
        read_key(path, "curve")
    with pytest.raises(FileNotFoundError):
        adopt_key(path)


def test_a_genesis_is_read_as_it_was_made(home: Home) -> None:
    credentials = Credentials(home)
    assert read_genesis(credentials.genesis.raw, "somewhere") == credentials.genesis
