"""What a home that is no member yet says at a door, and what it is told: signed by the key it names, and by no other."""

from __future__ import annotations

import dataclasses
from typing import Any

import msgpack
import pytest
from attacks.keys import NOT_REDUCED, SMALL_ORDER
from attacks.world import MESH, line_of, sealed, signer_of

from mesh.messages.enrol import Admission, Ask, Join, Renewal
from mesh.messages.membership import Left
from mesh.wire.enrolment import home_proof_bytes, open_renewal, open_request, pack_admission, read_admission
from mesh.wire.objects import node_id, signed_bytes
from mesh.wire.packing import Refusal

LINE = line_of(2)
HOME = LINE.home
NEW = signer_of(90)
KEY = HOME.public_key
JOIN = Join(MESH, b"invite-1", KEY, b"", "otter", b"n" * 16, b"p" * 32)
ASK = Ask(KEY, b"", "otter", b"n" * 16)
RENEWAL = Renewal(MESH, HOME.node, KEY, b"", b"", 5)
ADMISSION = Admission(b"genesis", (b"one", b"two"), LINE.chain(), b"issuer", bytes(32), ("10.0.0.1:7710",))


def refused(reason: str, function: Any, *arguments: Any) -> None:
    with pytest.raises(Refusal) as caught:
        function(*arguments)
    assert caught.value.reason == reason


def renewal(**changes: Any) -> bytes:
    return sealed(HOME, dataclasses.replace(RENEWAL, **changes)).raw


def open_own(raw: bytes) -> Renewal:
    return open_renewal(raw, MESH, HOME.node, KEY)


# ---- requests


def test_a_request_is_signed_by_the_key_it_names() -> None:
    for body, mesh in ((JOIN, MESH), (ASK, "")):
        signed = open_request(sealed(HOME, body, mesh=mesh).raw, MESH)
        assert (signed.author, signed.body) == (HOME.node, body)
        refused("bad_signature", open_request, sealed(NEW, body, HOME.node, mesh=mesh).raw, MESH)
        refused("not_own", open_request, sealed(NEW, body, mesh=mesh).raw, MESH)
        refused("not_own", open_request, sealed(HOME, body, "x" * 32, mesh=mesh).raw, MESH)
        refused("bad_signature", open_request, sealed(HOME, body, mesh="other-mesh").raw, MESH)


def test_a_join_is_for_one_mesh_and_an_ask_for_any() -> None:
    refused("bad_signature", open_request, sealed(HOME, JOIN, mesh="").raw, MESH)
    refused("bad_signature", open_request, sealed(HOME, JOIN).raw, "other-mesh")
    refused("bad_signature", open_request, sealed(HOME, ASK).raw, MESH)
    assert open_request(sealed(HOME, ASK, mesh="").raw, "other-mesh")


@pytest.mark.parametrize("key", [*SMALL_ORDER[:3], NOT_REDUCED[0]], ids=lambda key: key.hex()[:6])
def test_keys_that_nobody_has_ask_for_nothing(key: bytes) -> None:
    for body, mesh in ((JOIN, MESH), (ASK, "")):
        weak = dataclasses.replace(body, home_key=key)
        refused("bad_key", open_request, sealed(HOME, weak, node_id(key), mesh=mesh).raw, MESH)
        issuer = dataclasses.replace(body, issuer_key=key)
        refused("bad_key", open_request, sealed(HOME, issuer, mesh=mesh).raw, MESH)
    refused("bad_key", open_own, renewal(home_key=key, home_proof=bytes(64)))
    refused("bad_key", open_own, renewal(issuer_key=key))


def test_an_issuers_key_may_come_along() -> None:
    body = dataclasses.replace(JOIN, issuer_key=NEW.public_key)
    assert open_request(sealed(HOME, body).raw, MESH).body == body
    for odd in (b"x", NEW.public_key[:31], NEW.public_key + b"x"):
        refused("bad_key", open_request, sealed(HOME, dataclasses.replace(JOIN, issuer_key=odd)).raw, MESH)


def test_other_objects_are_no_requests() -> None:
    for raw in (renewal(), LINE.row().raw, sealed(HOME, Left(HOME.node, 1)).raw, LINE.certificates()[1]):
        refused("malformed", open_request, raw, MESH)
    for raw in (sealed(HOME, JOIN).raw, sealed(HOME, ASK, mesh="").raw, LINE.row().raw):
        refused("malformed", open_own, raw)
    for junk in (b"", b"\xc0", b"\x90"):
        refused("malformed", open_request, junk, MESH)
        refused("malformed", open_own, junk)


# ---- renewals


def test_a_renewal_is_by_the_homes_key_of_today() -> None:
    assert open_own(renewal()) == RENEWAL
    assert open_own(renewal(issuer_key=NEW.public_key)).issuer_key == NEW.public_key
    refused("bad_signature", open_own, sealed(NEW, RENEWAL, HOME.node).raw)
    refused("bad_signature", open_renewal, renewal(), MESH, HOME.node, NEW.public_key)
    refused("bad_signature", open_own, sealed(HOME, RENEWAL, mesh="other-mesh").raw)
    refused("not_own", open_own, sealed(NEW, RENEWAL).raw)
    refused("not_own", open_own, renewal(home=NEW.node))
    refused("not_own", open_own, renewal(mesh="other-mesh"))
    refused("not_own", open_renewal, renewal(), MESH, NEW.node, KEY)
    refused("not_own", open_renewal, renewal(), "other-mesh", HOME.node, KEY)


def test_a_new_key_shows_that_somebody_has_it() -> None:
    wanted = dataclasses.replace(RENEWAL, home_key=NEW.public_key)
    good = NEW.sign(home_proof_bytes(wanted))
    assert open_own(renewal(home_key=NEW.public_key, home_proof=good)).home_key == NEW.public_key
    for bad in (b"", bytes(64), HOME.sign(home_proof_bytes(wanted)), NEW.sign(home_proof_bytes(RENEWAL)), good[:63]):
        refused("bad_signature", open_own, renewal(home_key=NEW.public_key, home_proof=bad))
    refused("bad_signature", open_own, renewal(home_key=NEW.public_key, home_proof=good, made_ms=6))
    elsewhere = dataclasses.replace(wanted, mesh="other-mesh")
    refused("bad_signature", open_own, renewal(home_key=NEW.public_key, home_proof=NEW.sign(home_proof_bytes(elsewhere))))


def test_what_a_new_key_signs_is_the_documented_words() -> None:
    words = HOME.node.encode() + KEY + (5).to_bytes(8, "big")
    assert home_proof_bytes(RENEWAL) == signed_bytes("renewal-proof", MESH, words)


# ---- admissions


def test_an_admission_is_read_as_it_was_packed() -> None:
    frame = pack_admission(ADMISSION)
    assert read_admission(frame) == ADMISSION
    assert msgpack.unpackb(frame)[:2] == ["admitted", 1]


def test_what_is_no_admission() -> None:
    frame = pack_admission(ADMISSION)
    row = msgpack.unpackb(frame)
    for other in (["turned", 1, "busy"], ["admitted"], [], ["admitted", 2, *row[2:]], ["admit", *row[1:]]):
        assert read_admission(msgpack.packb(other)) is None
    for bad in (b"", b"\xc0", frame[:-1], frame + b"\0", msgpack.packb({"a": 1})):
        refused("malformed", read_admission, bad)
    refused("malformed", read_admission, b"\xdc\x00" + bytes((frame[0] & 15,)) + frame[1:])
    for at in range(2, len(row)):
        refused("malformed", read_admission, msgpack.packb([*row[:at], 7, *row[at + 1 :]]))
    refused("malformed", read_admission, msgpack.packb(row[:5]))
    refused("malformed", read_admission, msgpack.packb([*row[:6], row[6][:31], *row[7:]]))
