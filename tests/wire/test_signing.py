"""Signed objects and the ring of keys: who is believed, and what is refused under which reason."""

from __future__ import annotations

import base64
import hashlib
from typing import Any

import msgpack
import pytest

from mesh.messages import SIGNED
from mesh.messages.membership import Alive, Left, Suspect
from mesh.messages.records import Commit
from mesh.messages.session import Certificate, Hello, Welcome
from mesh.messages.signed import Signed
from mesh.wire import ed25519, signing
from mesh.wire.codec import encode_object
from mesh.wire.packing import Refusal
from mesh.wire.signing import Keyring, Signer, body_bytes, mesh_id, node_id, signed_bytes

NOW_MS = 1_800_000_000_000


def refused(keyring: Keyring, raw: bytes, reason: str) -> None:
    members = keyring.statistics().members
    with pytest.raises(Refusal) as caught:
        keyring.open(raw)
    assert caught.value.reason == reason
    assert keyring.statistics().members == members


def sealed(signer: Signer, body: Any) -> Signed:
    signed = Signed(signer.node, body)
    signer.seal(signed)
    return signed


def certified(world: Any, signer: Signer, root: Signer | None = None, **changes: Any) -> bytes:
    root = root or world.root
    fields = {"mesh": root.mesh, "node": signer.node, "identity_key": signer.public_key, "role": "member", "serial": 1, "not_before_ms": 0}
    return sealed(root, Certificate(**(fields | changes))).raw


def row(signer: Signer, certificate: bytes, node: str = "") -> Signed:
    return sealed(signer, Alive(node or signer.node, 1, 1, "x", "127.0.0.1:1", "127.0.0.1:2", (), certificate))


def body_of(world: Any, tag: str) -> tuple[Signer, Any]:
    """An honest body for each tag, and who signs it."""
    body = world.sample(SIGNED[tag])
    if tag == "certificate":
        body.node, body.identity_key = world.a.node, world.a.public_key
        return world.root, body
    return world.a, body


# ---- names


def test_node_id_is_the_documented_hash() -> None:
    key = bytes(range(32))
    expected = base64.b32encode(hashlib.blake2b(b"lanmesh/node-id/v1\0" + key, digest_size=20).digest()).decode().lower()
    assert node_id(key) == expected and len(expected) == 32
    assert mesh_id(key) != expected


def test_signed_bytes_are_the_documented_ones() -> None:
    assert signed_bytes("left", "mm", b"body") == b"lanmesh/left/v1\0" + b"\0\0\0\2mm" + b"\0\0\0\4body"


def test_body_bytes_are_what_the_author_encoded(world: Any) -> None:
    commit = Commit(world.a.node, 1, 0, 1, 1, bytes(32), bytes(32), 5)
    assert body_bytes(sealed(world.a, commit).raw) == encode_object(commit)[1]


# ---- honest


@pytest.mark.parametrize("tag", sorted(SIGNED))
def test_honest_objects_open_once_verified(tag: str, world: Any) -> None:
    signer, body = body_of(world, tag)
    raw = sealed(signer, body).raw
    first = world.keyring.open(raw)
    assert (first.author, first.body, first.raw) == (signer.node, body, raw)
    verified = world.keyring.statistics().verified
    assert world.keyring.open(raw) is first
    assert world.keyring.statistics().verified == verified


def test_sealing_signs_once_and_only_for_oneself(world: Any) -> None:
    signed = Signed(world.a.node, Left(world.a.node, 1))
    raw = world.a.seal(signed)
    count = world.a.signatures
    assert world.a.seal(signed) is raw is signed.raw and world.a.signatures == count
    assert world.c.seal(signed) is raw, "a statement of somebody else travels as it came"
    with pytest.raises(ValueError, match="cannot sign for"):
        world.c.seal(Signed(world.a.node, Left(world.a.node, 1)))


def test_own_row_hello_and_welcome_introduce_their_author(world: Any) -> None:
    for number, make in enumerate((lambda r: r, *(lambda r, cls=cls: hello(r, cls) for cls in (Hello, Welcome)))):
        signer = Signer("", bytes([50 + number]) * 32, world.mesh)
        signer.node = node_id(signer.public_key)

        def hello(own: Signed, cls: type, signer: Signer = signer) -> Signed:
            third = "" if cls is Hello else bytes(16)
            return sealed(signer, cls(1, world.mesh, own, third, bytes(16), 5))

        raw = make(row(signer, certified(world, signer))).raw
        assert world.keyring.member(signer.node) is None
        assert world.keyring.open(raw).author == signer.node
        assert world.keyring.member(signer.node).role == "member"
        assert world.keyring.verify(signer.node, b"data", signer.sign(b"data"))


# ---- forged, tampered, redirected: every tag x every attack


@pytest.mark.parametrize("tag", sorted(SIGNED))
def test_every_bit_counts(tag: str, world: Any) -> None:
    signer, body = body_of(world, tag)
    raw = sealed(signer, body).raw
    for bit in range(0, len(raw) * 8, 3 if len(raw) > 400 else 1):
        changed = bytearray(raw)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(Refusal):
            world.keyring.open(bytes(changed))
    for size in range(len(raw)):
        with pytest.raises(Refusal):
            world.keyring.open(raw[:size])
    with pytest.raises(Refusal):
        world.keyring.open(raw + b"\0")


@pytest.mark.parametrize("tag", sorted(SIGNED))
def test_another_members_signature_does_not_do(tag: str, world: Any) -> None:
    signer, body = body_of(world, tag)
    _, author, data, _ = msgpack.unpackb(sealed(signer, body).raw)
    forged = world.c.sign(signed_bytes(tag, world.mesh, data))
    refused(world.keyring, msgpack.packb([tag, author, data, forged]), "bad_certificate" if tag == "certificate" else "bad_signature")


@pytest.mark.parametrize("tag", sorted(SIGNED))
def test_another_authors_name_does_not_do(tag: str, world: Any) -> None:
    signer, body = body_of(world, tag)
    _, _, data, signature = msgpack.unpackb(sealed(signer, body).raw)
    with pytest.raises(Refusal):
        world.keyring.open(msgpack.packb([tag, world.c.node, data, signature]))


@pytest.mark.parametrize("other", sorted(SIGNED))
@pytest.mark.parametrize("tag", sorted(SIGNED))
def test_no_kind_passes_for_another(tag: str, other: str, world: Any) -> None:
    if tag != other:
        signer, body = body_of(world, tag)
        _, author, data, signature = msgpack.unpackb(sealed(signer, body).raw)
        with pytest.raises(Refusal):
            world.keyring.open(msgpack.packb([other, author, data, signature]))


@pytest.mark.parametrize("tag", sorted(SIGNED))
def test_signatures_of_another_mesh_do_not_hold(tag: str, world: Any) -> None:
    signer, body = body_of(world, tag)
    elsewhere = Signer(signer.node, (b"\x01" if signer is world.root else b"\x02") * 32, "other-mesh")
    assert elsewhere.public_key == signer.public_key
    raw = elsewhere.seal(Signed(signer.node, body))
    refused(world.keyring, raw, "bad_certificate" if tag == "certificate" else "bad_signature")


@pytest.mark.parametrize("tag", sorted(set(SIGNED) - {"certificate"}))
def test_strangers_are_unknown(tag: str, world: Any) -> None:
    _, body = body_of(world, tag)
    if tag == "alive":
        body.node, body.certificate = world.stranger.node, b""
    if tag == "commit":
        body.author = world.stranger.node
    refused(world.keyring, sealed(world.stranger, body).raw, "unknown_author")


@pytest.mark.parametrize("tag", ["alive", "left", "commit", "hello", "welcome"])
def test_nobody_speaks_for_another(tag: str, world: Any) -> None:
    _, body = body_of(world, tag)
    if tag == "alive":
        body.certificate = b""
    refused(world.keyring, sealed(world.c, body).raw, "not_own")


def test_anybody_may_suspect(world: Any) -> None:
    assert world.keyring.open(sealed(world.c, Suspect(world.a.node, 1, 1)).raw).author == world.c.node


def test_an_outer_array_has_one_encoding(world: Any) -> None:
    raw = world.rows["a"].raw
    tag, author, data, signature = msgpack.unpackb(raw)
    assert raw[0] == 0x94
    refused(world.keyring, b"\xdc\x00\x04" + raw[1:], "not_canonical")
    refused(world.keyring, msgpack.packb([tag, author, data, signature, 1]), "malformed")
    refused(world.keyring, msgpack.packb([tag, author, data, signature[:63]]), "bad_signature")
    refused(world.keyring, msgpack.packb([tag, author, data.decode("latin-1"), signature]), "malformed")
    refused(world.keyring, msgpack.packb(["nothing", author, data, signature]), "unknown_object")


def test_a_signed_body_has_one_encoding(world: Any) -> None:
    """Even signed by its author: two encodings of one statement would be two statements."""
    data = b"\x92" + msgpack.packb(world.a.node) + b"\xcc\x01"
    signature = world.a.sign(signed_bytes("left", world.mesh, data))
    refused(world.keyring, msgpack.packb(["left", world.a.node, data, signature]), "not_canonical")


# ---- certificates


def test_certificates_that_are_refused(world: Any) -> None:
    new = Signer("", b"\x33" * 32, world.mesh)
    new.node = node_id(new.public_key)
    elsewhere = Signer(world.root.node, b"\x01" * 32, "other-mesh")
    own_root = Signer(node_id(ed25519.signer_of(b"\x44" * 32)[0]), b"\x44" * 32, world.mesh)
    weak = bytes(32)
    cases = {
        "other_mesh": [certified(world, new, elsewhere)],
        "bad_certificate": [
            certified(world, new, own_root),
            certified(world, new, new),
            certified(world, new, node=world.a.node),
            certified(world, new, identity_key=world.a.public_key),
        ],
        "expired": [certified(world, new, not_after_ms=NOW_MS - 1)],
        "not_yet_valid": [certified(world, new, not_before_ms=NOW_MS + 1)],
        "bad_key": [certified(world, new, node=node_id(weak), identity_key=weak)],
    }
    for reason, raws in cases.items():
        for raw in raws:
            refused(world.keyring, raw, reason)
            refused(world.keyring, row(new, raw).raw, reason)
    assert world.keyring.member(new.node) is None
    with pytest.raises(Refusal, match="bad_certificate"):
        world.keyring.add_certificate(world.rows["a"].raw)


def test_a_certificate_of_somebody_else_does_not_introduce(world: Any) -> None:
    refused(world.keyring, row(world.stranger, certified(world, world.a)).raw, "not_own")


def test_a_new_root_is_another_mesh_even_with_the_same_name(world: Any) -> None:
    other = Keyring(world.mesh, ed25519.signer_of(b"\x44" * 32)[0], lambda: NOW_MS)
    refused(other, world.rows["a"].raw, "bad_certificate")


def test_the_later_serial_counts(world: Any) -> None:
    assert world.keyring.add_certificate(certified(world, world.a, serial=9, role="observer")) == world.a.node
    assert world.keyring.add_certificate(certified(world, world.a, serial=3)) == world.a.node
    member = world.keyring.member(world.a.node)
    assert (member.serial, member.role) == (9, "observer")
    world.keyring.open(row(world.a, certified(world, world.a, serial=11)).raw)
    assert world.keyring.member(world.a.node).serial == 11, "an own row brings its author's renewed certificate"


def test_membership_ends_with_the_certificate() -> None:
    now = [NOW_MS]
    public = ed25519.signer_of(b"\x01" * 32)[0]
    root, keyring = Signer(node_id(public), b"\x01" * 32, "m"), Keyring("m", public, lambda: now[0])
    member = Signer("", b"\x02" * 32, "m")
    member.node = node_id(member.public_key)
    certificate = Certificate("m", member.node, member.public_key, "member", 1, 0, NOW_MS + 1000)
    keyring.add_certificate(sealed(root, certificate).raw)
    assert keyring.member(member.node) is not None
    now[0] += 1001
    assert keyring.member(member.node) is None
    assert keyring.open(sealed(member, Left(member.node, 1)).raw).author == member.node, "what it signed while it was a member stays true"


# ---- bounds


def test_the_memory_of_statements_is_bounded(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signing, "OPENED_BYTES_MAX", 2000)
    raws = [sealed(world.a, Suspect(world.b.node, 1, number)).raw for number in range(50)]
    for raw in raws:
        world.keyring.open(raw)
    assert world.keyring.statistics().cached_bytes <= 2000
    verified = world.keyring.statistics().verified
    world.keyring.open(raws[-1])
    world.keyring.open(raws[0])
    assert world.keyring.statistics().verified == verified + 1


def test_the_ring_of_keys_is_bounded_and_who_was_forgotten_may_come_again(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signing, "MEMBERS_MAX", 3)
    new = Signer("", b"\x33" * 32, world.mesh)
    new.node = node_id(new.public_key)
    world.keyring.open(row(new, certified(world, new)).raw)
    assert world.keyring.statistics().members == 3 and world.keyring.member(world.a.node) is None
    assert world.keyring.open(world.rows["a"].raw).author == world.a.node
    assert world.keyring.member(world.a.node) is not None


def test_refusals_are_counted_by_reason(world: Any) -> None:
    for _ in range(3):
        refused(world.keyring, b"\xc0", "malformed")
    assert world.keyring.statistics().refused == {"malformed": 3}
    assert world.keyring.statistics().backend == ed25519.BACKEND
    assert not world.keyring.verify("nobody", b"", bytes(64))
