"""Genesis, root, identities and certificates of a home."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from mesh.runtime.keys import load_genesis, load_identity
from mesh.wire.signing import mesh_id, node_id

from mesh.messages.membership import Alive
from mesh.messages.signed import Signed
from mesh.runtime.home import Home, HomeError
from mesh.wire.packing import Refusal


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


def row(identity: object) -> bytes:
    signed = Signed(identity.node, Alive(identity.node, 1, 1, identity.name, "d", "r", (), identity.certificate))
    return identity.signer.seal(signed)


def test_keys_are_made_once(home: Home) -> None:
    first = load_identity(home.node())
    again = load_identity(home.node())
    assert (first.node, first.certificate, first.genesis) == (again.node, again.certificate, again.genesis)
    assert first.node == node_id(first.signer.public_key) and first.genesis.mesh == mesh_id(first.genesis.raw) == first.signer.mesh
    assert first.keyring.member(first.node).role == "member" and first.serial > 0
    assert load_genesis(home) == first.genesis and first.genesis.mode == "open"


def test_nodes_of_one_home_know_each_other_and_nobody_else(home: Home, tmp_path: Path) -> None:
    one, two = load_identity(home.node()), load_identity(home.node("two"))
    stranger = load_identity(Home(tmp_path / "other").node())
    named = load_identity(Home.locate(home.path, "lab").node())
    assert len({one.node, two.node, stranger.node, named.node}) == 4
    assert len({one.genesis.mesh, stranger.genesis.mesh, named.genesis.mesh}) == 3 and named.genesis.name == "lab"
    assert one.keyring.open(row(two)).author == two.node
    for other in (stranger, named):
        with pytest.raises(Refusal) as caught:
            one.keyring.open(row(other))
        assert caught.value.reason == "other_mesh"


def test_everything_is_for_its_owner_only(home: Home) -> None:
    load_identity(home.node("two"))
    for path in home.path.rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


@pytest.mark.parametrize("name", ["mesh/root.key", "mesh/genesis.json", "node/identity.key", "node/certificate"])
@pytest.mark.parametrize("mode", [0o604, 0o640, 0o644, 0o660])
def test_open_keys_are_refused_with_the_chmod_line(name: str, mode: int, home: Home) -> None:
    load_identity(home.node())
    if name == "mesh/root.key":
        (home.path / "node" / "certificate").unlink()
    (home.path / name).chmod(mode)
    with pytest.raises(HomeError) as caught:
        load_identity(home.node())
    assert caught.value.fix == f"chmod 600 {home.path / name}"


@pytest.mark.parametrize(
    "content", [b"", b"\0" * 32, b"ed25519 ", b"ed25519 00", b"ed25519 " + b"zz" * 32, b"rsa " + b"00" * 32, b"\xff" * 80]
)
def test_a_damaged_key_is_an_error_and_stays(content: bytes, home: Home) -> None:
    load_identity(home.node())
    path = home.path / "node" / "identity.key"
    path.write_bytes(content)
    with pytest.raises(HomeError) as caught:
        load_identity(home.node())
    assert str(path) in caught.value.message and str(path) in caught.value.fix
    assert path.read_bytes() == content


GENESIS = {"v": 1, "name": "open", "mode": "open", "root": "00" * 32}


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("", "damaged"),
        ("[]", "damaged"),
        ("{}", "damaged"),
        ("[" * 5000, "damaged"),
        (json.dumps(GENESIS | {"v": 2}), "field v"),
        (json.dumps(GENESIS | {"mode": "token"}), "field mode"),
        (json.dumps(GENESIS | {"root": "00"}), "field root"),
        (json.dumps(GENESIS | {"root": "zz"}), "damaged"),
        (json.dumps(GENESIS | {"root": 5}), "damaged"),
    ],
)
def test_a_damaged_genesis_names_file_and_field(content: str, why: str, home: Home) -> None:
    load_identity(home.node())
    path = home.mesh_path / "genesis.json"
    path.write_text(content)
    with pytest.raises(HomeError) as caught:
        load_identity(home.node())
    assert str(path) in caught.value.message and why in caught.value.message and caught.value.fix


def test_a_genesis_with_a_bad_root_key_is_refused(home: Home) -> None:
    load_identity(home.node())
    (home.mesh_path / "genesis.json").write_text(json.dumps(GENESIS))
    with pytest.raises(HomeError, match="field root"):
        load_identity(home.node())


def test_a_lost_certificate_is_made_again_and_a_lost_root_is_told(home: Home) -> None:
    before = load_identity(home.node())
    (home.path / "node" / "certificate").unlink()
    after = load_identity(home.node())
    assert after.node == before.node and after.serial > before.serial
    (home.mesh_path / "root.key").unlink()
    assert load_identity(home.node()).node == before.node, "a certificate that holds needs no root"
    with pytest.raises(HomeError) as caught:
        load_identity(home.node("two"))
    assert "root.key is gone" in caught.value.message and "backup" in caught.value.fix


def test_a_root_key_of_another_mesh_is_told(home: Home, tmp_path: Path) -> None:
    load_identity(home.node())
    load_identity(Home(tmp_path / "other").node())
    os.replace(tmp_path / "other" / "mesh" / "root.key", home.mesh_path / "root.key")
    with pytest.raises(HomeError, match="not the root key"):
        load_identity(home.node("two"))
    assert not (home.path / "nodes" / "two" / "certificate").exists()


def test_a_certificate_of_another_node_is_replaced(home: Home) -> None:
    one, two = load_identity(home.node("one")), load_identity(home.node("two"))
    path = home.node("two").certificate_path
    path.write_bytes(one.certificate)
    assert load_identity(home.node("two")).node == two.node
    assert path.read_bytes() != one.certificate


def test_nodes_that_start_at_once_agree_on_one_genesis(home: Home) -> None:
    code = """
import sys
from pathlib import Path
from mesh.runtime.home import Home
from mesh.runtime.keys import load_identity
sys.stdin.read(1)
print(load_identity(Home(Path(sys.argv[1])).node(sys.argv[2])).genesis.mesh)
"""
    names = ["", "one", "two", "three"]
    children = [
        subprocess.Popen([sys.executable, "-c", code, str(home.path), name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for name in names
    ]
    meshes = {child.communicate("go", timeout=30)[0].strip() for child in children}
    assert len(meshes) == 1 and len(meshes.pop()) == 32
