"""Private keys in files of their own: one line, ``ed25519 <64 hexadecimal digits>`` (or ``curve``, ``secret``), 0600.

Invariant: a key is made once and never overwritten; a file that is there and unreadable is an error, not a reason for a new key. Taking the
next key into use is a rename, so a crash leaves the old or the new one.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from mesh.runtime.home import HomeError, read_private, write_atomic
from mesh.wire import ed25519

KEY_BYTES = 32
IDENTITY, TRANSPORT, SECRET = "ed25519", "curve", "secret"
NEXT = ".next"
"""Behind the name of a key that is to be taken into use."""


@dataclass(frozen=True, slots=True)
class PastKey:
    """An earlier identity key, the one that followed it, and its signature over both (`handover_bytes`)."""

    old: bytes
    new: bytes
    proof: bytes


@dataclass(frozen=True, slots=True)
class Lives:
    """What a node's journal may hold from before: identity keys, the first one first, and ids of meshes."""

    keys: tuple[PastKey, ...] = ()
    meshes: tuple[str, ...] = ()


def read_key(path: Path, kind: str = IDENTITY) -> bytes | None:
    """The 32 bytes in `path`; None if there is no such file. Raises HomeError for a damaged or open one."""
    data = read_private(path)
    if data is None:
        return None
    prefix = kind.encode() + b" "
    try:
        key = bytes.fromhex(data.removeprefix(prefix).decode("ascii"))
    except ValueError:
        key = b""
    if not data.startswith(prefix) or len(key) != KEY_BYTES:
        raise HomeError(
            f"{path} holds no key: expected '{kind}' and {2 * KEY_BYTES} hexadecimal digits",
            fix=f"restore {path} from a backup, or begin anew: mv {path.parent} {path.parent}.old",
        )
    return key


def public_of(seed: bytes) -> bytes:
    """The public key of an Ed25519 seed."""
    return ed25519.signer_of(seed)[0]


def write_key(path: Path, key: bytes, kind: str = IDENTITY) -> bytes:
    """Keep `key` durably; returns it. Raises HomeError."""
    write_atomic(path, kind.encode() + b" " + key.hex().encode() + b"\n")
    return key


def make_key(path: Path, kind: str = IDENTITY) -> bytes:
    """The key in `path`, made from the system's randomness if there is none. Raises HomeError."""
    found = read_key(path, kind)
    return found if found is not None else write_key(path, os.urandom(KEY_BYTES), kind)


# ---- rotation


def next_of(path: Path) -> Path:
    """Where the key lies that is to follow the one in `path`."""
    return path.with_name(path.name + NEXT)


def prepare_key(path: Path, kind: str = IDENTITY) -> bytes:
    """The next key, on disk beside the one in use; the same one again after a crash."""
    return make_key(next_of(path), kind)


def adopt_key(path: Path) -> None:
    """Take the next key into use: a rename, so that a crash leaves one or the other."""
    os.replace(next_of(path), path)
