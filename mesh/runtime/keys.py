"""A home's keys: the genesis of its mesh, the root key that certifies, and each node's identity.

    genesis.json --hash--> mesh id          root.key --signs--> certificate --names--> identity.key's node id

Mode ``open``: the genesis is made by the home's first node, for this user and this machine only; its root key lies beside it, 0600. Meshes
of other users, of the demo and of tests have other genesis files, hence other ids and other roots: they never mix. Invariant: a key is made
once, under the home's lock, and never overwritten; a file that is there and unreadable is an error, not a reason for a new key. Issuers,
invitations and renewal are not here yet.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path

from mesh.ids import NodeId
from mesh.messages.session import Certificate
from mesh.messages.signed import Signed
from mesh.runtime.home import Home, HomeError, NodeFolder, read_private, write_atomic
from mesh.wire.ed25519 import SEED_BYTES, check_key, signer_of
from mesh.wire.packing import Refusal
from mesh.wire.signing import Keyring, Signer, mesh_id, node_id

_PREFIX = b"ed25519 "


@dataclass(frozen=True, slots=True)
class Genesis:
    """What a mesh is. `mesh` is the hash of `raw`, the file's bytes, and so pins everything in it."""

    mesh: str
    name: str
    mode: str
    root_public_key: bytes
    raw: bytes


@dataclass(frozen=True, slots=True)
class Identity:
    """All that a node needs to say who it is, and to check who others are."""

    node: NodeId
    name: str
    genesis: Genesis
    signer: Signer
    certificate: bytes
    serial: int
    keyring: Keyring
    """Knows this node already."""


def load_genesis(home: Home) -> Genesis:
    """The home's genesis; makes it, and its root key, where there is none. Raises HomeError."""
    home.make()
    with home.lock():
        return _genesis(home)


def load_identity(folder: NodeFolder) -> Identity:
    """The node's identity; makes key and certificate where there are none. Raises HomeError."""
    folder.make()
    with folder.home.lock():
        genesis = _genesis(folder.home)
        seed = _load_key(folder.identity_path)
        public, _ = signer_of(seed)
        node = node_id(public)
        keyring = Keyring(genesis.mesh, genesis.root_public_key)
        raw = read_private(folder.certificate_path) or b""
        certificate = _opened(keyring, raw, node)
        if certificate is None:
            raw = _certify(folder.home, genesis, node, public)
            certificate = _opened(keyring, raw, node)
            if certificate is None:
                path = _root_path(folder.home)
                raise HomeError(
                    f"{path} is not the root key of {_genesis_path(folder.home)}",
                    fix="restore both from one backup, or choose another --home",
                )
            write_atomic(folder.certificate_path, raw)
    return Identity(node, folder.name, genesis, Signer(node, seed, genesis.mesh), raw, certificate.serial, keyring)


def _opened(keyring: Keyring, raw: bytes, node: NodeId) -> Certificate | None:
    """The certificate, if it is this node's and holds in this mesh. Else it is made anew: the root key is here."""
    try:
        certificate = keyring.open(raw).body
    except Refusal:
        return None
    return certificate if isinstance(certificate, Certificate) and certificate.node == node else None


def _certify(home: Home, genesis: Genesis, node: NodeId, public_key: bytes) -> bytes:
    path = _root_path(home)
    if not path.exists():
        raise HomeError(
            f"{path} is gone, so no certificate can be made for a new node", fix="restore it from a backup, or choose another --home"
        )
    root = Signer(node_id(genesis.root_public_key), _load_key(path), genesis.mesh)
    now_ms = time.time_ns() // 1_000_000
    # Serials grow with time: of two certificates the later one counts. Valid since ever: a machine's clock may step back.
    return root.seal(Signed(root.node, Certificate(genesis.mesh, node, public_key, "member", now_ms, 0)))


def _genesis_path(home: Home) -> Path:
    return home.mesh_path / "genesis.json"


def _root_path(home: Home) -> Path:
    return home.mesh_path / "root.key"


def _genesis(home: Home) -> Genesis:
    path = _genesis_path(home)
    raw = read_private(path)
    if raw is None:
        public, _ = signer_of(_load_key(_root_path(home)))
        name = home.path.name if home.path.parent.name == "meshes" else "open"
        made = {
            "v": 1,
            "name": name,
            "mode": "open",
            "root": public.hex(),
            "created_ms": time.time_ns() // 1_000_000,
            "salt": os.urandom(16).hex(),
        }
        raw = json.dumps(made, indent=1).encode()
        write_atomic(path, raw)
    fix = f"restore {path} from a backup, or choose another --home"
    try:
        found = json.loads(raw)
        version, mode, name, root = found["v"], found["mode"], str(found["name"]), bytes.fromhex(found["root"])
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise HomeError(f"{path} is damaged: {type(error).__name__} {error}", fix=fix) from None
    if version != 1 or mode != "open":
        raise HomeError(
            f"{path}: field {'v' if version != 1 else 'mode'}: this version of lanmesh knows only v 1, mode open",
            fix="pip install -U lanmesh",
        )
    try:
        check_key(root)
    except Refusal:
        raise HomeError(f"{path}: field root: no Ed25519 public key", fix=fix) from None
    return Genesis(mesh_id(raw), name, mode, root, raw)


def _load_key(path: Path) -> bytes:
    """The private seed in `path`, made if there is none. Raises HomeError."""
    data = read_private(path)
    if data is None:
        seed = os.urandom(SEED_BYTES)
        write_atomic(path, _PREFIX + seed.hex().encode() + b"\n")
        return seed
    try:
        seed = bytes.fromhex(data.removeprefix(_PREFIX).decode("ascii"))
    except ValueError:
        seed = b""
    if not data.startswith(_PREFIX) or len(seed) != SEED_BYTES:
        raise HomeError(
            f"{path} holds no key: expected 'ed25519' and {2 * SEED_BYTES} hexadecimal digits",
            fix=f"restore {path} from a backup, or remove it: a new identity is made, and this node's id changes",
        )
    return seed
