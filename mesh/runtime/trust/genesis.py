"""The genesis of a mesh: one small JSON file whose hash is the mesh's id, and which so pins its first root key.

    {"v": 1, "name", "mode": open | token | ca, "root": hex, "created_ms", "salt"}

Invariant: it never changes; what changes later (roots, mode, name) is said by amendments. Mode ``open``: made by a home's first node, for
this account and machine; meshes of other users, of the demo and of tests have other genesis files, so they never mix.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass

from mesh.runtime.home import HomeError
from mesh.wire import ed25519
from mesh.wire.authorities import MODES
from mesh.wire.objects import mesh_id
from mesh.wire.packing import Refusal

GENESIS_BYTES_MAX = 4096


@dataclass(frozen=True, slots=True)
class Genesis:
    """`mesh` is the hash of `raw`, the file's bytes."""

    mesh: str
    name: str
    mode: str
    root_public_key: bytes
    raw: bytes


def make_genesis(name: str, mode: str, root_public_key: bytes) -> Genesis:
    made = {
        "v": 1,
        "name": name,
        "mode": mode,
        "root": root_public_key.hex(),
        "created_ms": time.time_ns() // 1_000_000,
        "salt": os.urandom(16).hex(),
    }
    return read_genesis(json.dumps(made, indent=1).encode(), "the new genesis")


def read_genesis(raw: bytes, where: str) -> Genesis:
    """The genesis in `raw`. Raises HomeError, naming `where` it was."""
    fix = f"restore {where} from a backup, or choose another --home"
    try:
        found = json.loads(raw)
        version, mode, name, root = found["v"], found["mode"], str(found["name"]), bytes.fromhex(found["root"])
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise HomeError(f"{where} is damaged: {type(error).__name__} {error}", fix=fix) from None
    if version != 1 or mode not in MODES:
        field = "v" if version != 1 else "mode"
        raise HomeError(
            f"{where}: field {field}: this version of lanmesh knows only v 1, modes {', '.join(MODES)}", fix="pip install -U lanmesh"
        )
    try:
        ed25519.check_key(root)
    except Refusal:
        raise HomeError(f"{where}: field root: no Ed25519 public key", fix=fix) from None
    return Genesis(mesh_id(raw), name, mode, root, raw)
