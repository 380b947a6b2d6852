"""Fixed keys, one mesh with three members and a stranger, and one sample of every class that travels."""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass
from typing import Any, get_args, get_origin, get_type_hints

import pytest

from mesh.messages.membership import Alive, Offer, Suspect
from mesh.messages.records import Commit
from mesh.messages.session import Certificate
from mesh.messages.signed import Signed
from mesh.wire import ed25519
from mesh.wire.codec import encode, kind_of
from mesh.wire.envelope import Batch, Expectations, Opened, Session, frame_message, open_envelope, seal_flush
from mesh.wire.signing import Keyring, Signer, mesh_id, node_id

NOW_MS = 1_800_000_000_000
SESSION = b"session-A-to-B--"
OTHER_SESSION = b"session-C-to-B--"


def signer_from(seed: int, mesh: str) -> Signer:
    key = bytes([seed]) * 32
    return Signer(node_id(ed25519.signer_of(key)[0]), key, mesh)


def certificate(root: Signer, signer: Signer, **changes: Any) -> Signed:
    fields = {"mesh": root.mesh, "node": signer.node, "identity_key": signer.public_key, "role": "member", "serial": 1, "not_before_ms": 0}
    signed = Signed(root.node, Certificate(**(fields | changes)))
    root.seal(signed)
    return signed


def own_row(root: Signer, signer: Signer, name: str) -> Signed:
    offers = (Offer("greet", "greeter", tags=("polite",)),)
    raw = certificate(root, signer).raw
    signed = Signed(signer.node, Alive(signer.node, 1, 1, name, "127.0.0.1:7710", "127.0.0.1:7711", offers, raw))
    signer.seal(signed)
    return signed


@dataclass
class World:
    """`a` and `c` are members that `b` knows; `b` receives; `stranger` has a key and no certificate."""

    mesh: str
    root: Signer
    a: Signer
    b: Signer
    c: Signer
    stranger: Signer
    rows: dict[str, Signed]
    keyring: Keyring
    sessions: dict[bytes, Session]
    expect: Expectations

    def seal(self, messages: list[Any], signer: Signer | None = None, **changes: Any) -> list[bytes]:
        """The frames of one honest envelope from `a` to `b`, or with `changes` to its batch."""
        signer = signer or self.a
        parts = [frame_message(kind_of(message), encode(message, signer.seal), number) for number, message in enumerate(messages, 1)]
        fields = {"recipient": self.b.node, "session": SESSION, "first_seq": 1, "echo_ms": 0, "parts": parts} | changes
        return seal_flush(signer, [Batch(**fields)], sent_ms=NOW_MS, stamp_ms=77, cert_serial=1, journal_head=bytes(32))[0]

    def open(self, frames: list[bytes]) -> Opened:
        return open_envelope(self.keyring, frames, self.expect)

    def sample(self, cls: type) -> Any:
        return sample_of(cls, self)


def make_world() -> World:
    root_public = ed25519.signer_of(b"\x01" * 32)[0]
    mesh = mesh_id(b"genesis of the tests")
    root = Signer(node_id(root_public), b"\x01" * 32, mesh)
    a, b, c, stranger = (signer_from(seed, mesh) for seed in (2, 3, 4, 5))
    rows = {"a": own_row(root, a, "otter"), "b": own_row(root, b, "badger"), "c": own_row(root, c, "crane")}
    keyring = Keyring(mesh, root_public, lambda: NOW_MS)
    for row in rows.values():
        keyring.open(row.raw)
    sessions = {SESSION: Session(a.node, SESSION), OTHER_SESSION: Session(c.node, OTHER_SESSION)}
    expect = Expectations(b.node, sessions, lambda: NOW_MS)
    return World(mesh, root, a, b, c, stranger, rows, keyring, sessions, expect)


@pytest.fixture
def world() -> World:
    return make_world()


# ---- one sample of each class, the same in every run

_EXACT = {"session": SESSION, "nonce": b"n" * 16, "prev": bytes(32), "merkle_root": bytes(range(32)), "identity_key": bytes(range(32))}
_IDS = {"fence": 1 << 32 | 3, "hlc": NOW_MS << 16, "retries": 2, "total": -1, "attempt": 1, "not_after_ms": 2 * NOW_MS}


def sample_of(cls: type, world: World) -> Any:
    """An object with every field set to something that is not its default. Statements inside are by real members."""
    hints = get_type_hints(cls)
    return cls(**{field.name: _value(hints[field.name], field.name, world) for field in dataclasses.fields(cls)})


def _value(hint: Any, name: str, world: World) -> Any:
    if hint is Signed:
        return (
            world.rows["a"]
            if name == "alive"
            else _commit(world, 1 if name == "one" else 2)
            if name in ("one", "other")
            else world.rows["c"]
        )
    if get_origin(hint) is tuple:
        args = get_args(hint)
        if args == (Signed, ...):
            return _statements(name, world)
        items = args[:1] * 2 if args[-1] is Ellipsis else args
        return tuple(_value(item, f"{name}{index}", world) for index, item in enumerate(items))
    if dataclasses.is_dataclass(hint):
        return sample_of(hint, world)
    if name == "certificate":
        return certificate(world.root, world.a).raw
    if hint is bool:
        return True
    if hint is int:
        return _IDS.get(name, 1000 + len(name))
    if hint is float:
        return 0.25
    if hint is bytes:
        return _EXACT.get(name, b'{"name":"Bob"}') if name != "head" else bytes(32)
    return _text(name, world)


def _text(name: str, world: World) -> str:
    if name in ("node", "author", "manager", "winner", "target", "recipient"):
        return world.a.node
    if name in ("mesh",):
        return world.mesh
    if "task" in name or name in ("parent", "child"):
        return f"{world.a.node}.12.345"
    if name in ("input", "output", "file", "input_hash", "output_hash", "files0", "files1") or name.startswith("files"):
        return hashlib.sha256(name.encode()).hexdigest()
    return f"{name}-1"


def _commit(world: World, number: int) -> Signed:
    signed = Signed(world.a.node, Commit(world.a.node, 12, 0, 1, number, bytes(32), bytes(range(32)), NOW_MS << 16))
    world.a.seal(signed)
    return signed


def _statements(name: str, world: World) -> tuple[Signed, ...]:
    if name == "heads":
        return _commit(world, 1), _commit(world, 2)
    if name == "votes":
        vote = Signed(world.c.node, Suspect(world.a.node, 1, 1, True))
        world.c.seal(vote)
        return (vote,)
    return world.rows["a"], world.rows["c"]
