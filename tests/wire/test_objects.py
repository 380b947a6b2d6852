"""Signed objects as bytes: names, what exactly a signature covers, one encoding, and who may sign."""

from __future__ import annotations

import base64
import hashlib
from typing import Any

import msgpack
import pytest
from attacks.samples import commit, honest, opened
from attacks.world import World, sealed

from mesh.messages import SIGNED
from mesh.messages.membership import Left
from mesh.messages.records import Commit
from mesh.messages.session import Hello
from mesh.messages.signed import Signed
from mesh.wire.codec import encode_object
from mesh.wire.objects import Signer, body_bytes, domain, handover_bytes, mesh_id, node_id, parts, signed_bytes
from mesh.wire.packing import Refusal


def refused(raw: bytes, reason: str) -> None:
    with pytest.raises(Refusal) as caught:
        parts(raw)
    assert caught.value.reason == reason


def test_node_id_is_the_documented_hash() -> None:
    key = bytes(range(32))
    expected = base64.b32encode(hashlib.blake2b(b"lanmesh/node-id/v1\0" + key, digest_size=20).digest()).decode().lower()
    assert node_id(key) == expected and len(expected) == 32


def test_mesh_id_is_the_documented_hash() -> None:
    genesis = b"any bytes"
    expected = base64.b32encode(hashlib.blake2b(b"lanmesh/genesis/v1\0" + genesis, digest_size=20).digest()).decode().lower()
    assert mesh_id(genesis) == expected != node_id(genesis)


def test_signed_bytes_are_the_documented_ones() -> None:
    assert signed_bytes("left", "mm", b"body") == b"lanmesh/left/v1\0" + b"\0\0\0\2mm" + b"\0\0\0\4body"
    assert signed_bytes("left", "mé", b"") == b"lanmesh/left/v1\0" + b"\0\0\0\3m\xc3\xa9" + b"\0\0\0\0"
    assert domain("a", "b") != domain("b", "a")


def test_body_bytes_are_what_the_author_encoded(world: World) -> None:
    signed = commit(world, 1)
    assert body_bytes(signed.raw) == encode_object(signed.body)[1]


@pytest.mark.parametrize("tag", sorted(SIGNED))
def test_parts_are_those_that_were_put_together(tag: str, world: World) -> None:
    signed = honest(tag, world)
    found, author, body, signature = parts(signed.raw)
    assert (found, author, body) == (tag, signed.author, encode_object(signed.body)[1]) and len(signature) == 64
    assert opened(tag, world, signed.raw) == signed.body


def test_an_outer_array_has_one_encoding(world: World) -> None:
    raw = world.rows["a"].raw
    tag, author, data, signature = msgpack.unpackb(raw)
    assert raw[0] == 0x94
    refused(b"\xdc\x00\x04" + raw[1:], "not_canonical")
    refused(msgpack.packb([tag, author, data, signature, 1]), "malformed")
    refused(msgpack.packb([tag, author, data]), "malformed")
    for size in (0, 63, 65):
        refused(msgpack.packb([tag, author, data, bytes(size)]), "bad_signature")
    row: list[Any] = [tag, author, data, signature]
    for at, odd in ((0, b"alive"), (0, 1), (1, b"a"), (1, None), (2, "text"), (2, []), (3, "s" * 64), (3, 5)):
        refused(msgpack.packb([*row[:at], odd, *row[at + 1 :]]), "malformed")
    for other in (b"", b"\xc0", b"\x01", raw[:-1], raw + b"\0", msgpack.packb({"tag": 1})):
        refused(other, "malformed")


def test_sealing_signs_once_and_only_for_oneself(world: World) -> None:
    signed = Signed(world.a.node, Left(world.a.node, 1))
    raw = world.a.seal(signed)
    count = world.a.signatures
    assert world.a.seal(signed) is raw is signed.raw and world.a.signatures == count
    assert world.c.seal(signed) is raw, "a statement of somebody else travels as it came"
    with pytest.raises(ValueError, match="cannot sign for"):
        world.c.seal(Signed(world.a.node, Left(world.a.node, 1)))


def test_what_is_inside_is_signed_too(world: World) -> None:
    row, binding = Signed(world.a.node, Left(world.a.node, 1)), Signed(world.a.node, Left(world.a.node, 2))
    count = world.a.signatures
    world.a.seal(Signed(world.a.node, Hello(1, world.mesh, row, "", bytes(16), 5, binding)))
    assert row.raw and binding.raw and world.a.signatures == count + 3


def test_a_signer_counts_and_signs_what_it_is_given(world: World) -> None:
    signer = Signer("n", b"\x07" * 32, "m")
    assert signer.signatures == 0
    assert signer.sign(b"data") == signer.sign(b"data") != signer.sign(b"else") and signer.signatures == 3
    with pytest.raises(ValueError, match="32 bytes"):
        Signer("n", b"\x07" * 31, "m")
    assert sealed(world.a, Commit(world.a.node, 1, 0, 1, 1, bytes(32), bytes(32), 5)).raw == Signer(
        world.a.node, b"\x02" * 32, world.mesh
    ).seal(Signed(world.a.node, Commit(world.a.node, 1, 0, 1, 1, bytes(32), bytes(32), 5)))


def test_a_key_is_handed_over_in_no_mesh() -> None:
    assert handover_bytes(b"o" * 32, b"n" * 32) == signed_bytes("handover", "", b"o" * 32 + b"n" * 32)
