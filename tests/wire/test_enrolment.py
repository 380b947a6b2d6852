"""What a home says at a door before it is a member, and the answer, as bytes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from attacks.world import sealed, signer_of
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.messages.enrol import Admission, Ask, Join, Renewal
from mesh.wire.enrolment import home_proof_bytes, open_renewal, open_request, pack_admission, read_admission
from mesh.wire.objects import Signer, node_id
from mesh.wire.packing import Refusal, pack, unpack_row

MESH, NONCE = "m" * 32, b"n" * 16
HOME, NEXT, OTHER = (signer_of(seed, MESH) for seed in (50, 51, 52))
SMALL_ORDER = (1).to_bytes(32, "little")
JOIN = Join(MESH, b"invite-1", HOME.public_key, OTHER.public_key, "otter", NONCE, b"p" * 32)
ASK = Ask(HOME.public_key, OTHER.public_key, "otter", NONCE)


def reason(call: Any, *args: Any) -> str:
    with pytest.raises(Refusal) as caught:
        call(*args)
    return caught.value.reason


def test_requests_are_opened_under_the_key_they_name() -> None:
    for body, mesh in ((JOIN, MESH), (ASK, ""), (replace(JOIN, issuer_key=b""), MESH)):
        opened = open_request(sealed(HOME, body, mesh=mesh).raw, MESH)
        assert (opened.author, opened.body) == (HOME.node, body)


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (sealed(OTHER, JOIN).raw, "not_own"),
        (sealed(OTHER, JOIN, HOME.node).raw, "bad_signature"),
        (sealed(HOME, JOIN, OTHER.node).raw, "not_own"),
        (sealed(HOME, JOIN, mesh="another").raw, "bad_signature"),
        (sealed(HOME, JOIN, mesh="").raw, "bad_signature"),
        (sealed(HOME, ASK).raw, "bad_signature"),
        (sealed(HOME, replace(JOIN, home_key=SMALL_ORDER), mesh=MESH).raw, "not_own"),
        (sealed(HOME, replace(JOIN, issuer_key=SMALL_ORDER)).raw, "bad_key"),
        (sealed(HOME, replace(JOIN, issuer_key=b"short")).raw, "bad_key"),
        (sealed(HOME, Renewal(MESH, HOME.node, HOME.public_key, b"", b"", 1)).raw, "malformed"),
        (b"", "malformed"),
        (b"noise", "malformed"),
        (pack(("join", HOME.node, b"", bytes(64))), "malformed"),
        (pack(("join", HOME.node, b"\x90", bytes(64))), "malformed"),
        (pack(("join", HOME.node, b"\x90", b"short")), "bad_signature"),
    ],
)
def test_requests_that_are_refused(raw: bytes, why: str) -> None:
    assert reason(open_request, raw, MESH) == why


def test_every_bit_of_a_request_counts() -> None:
    for body, mesh in ((JOIN, MESH), (ASK, "")):
        raw = sealed(HOME, body, mesh=mesh).raw
        for at in range(len(raw)):
            assert reason(open_request, raw[:at] + bytes([raw[at] ^ 1 << at % 8]) + raw[at + 1 :], MESH)


def test_a_key_of_small_order_speaks_for_nobody() -> None:
    weak = Signer("", b"w" * 32, MESH)
    weak.node = node_id(SMALL_ORDER)
    assert reason(open_request, sealed(weak, replace(JOIN, home_key=SMALL_ORDER)).raw, MESH) in ("bad_key", "bad_signature")


def renewal(home_key: bytes = HOME.public_key, prover: Signer | None = None, **changes: Any) -> Renewal:
    body = replace(Renewal(MESH, HOME.node, home_key, OTHER.public_key, b"", 1_700_000_000_000), **changes)
    return replace(body, home_proof=prover.sign(home_proof_bytes(body))) if prover else body


def test_a_renewal_by_the_key_of_today_with_or_without_a_next_one() -> None:
    for body in (renewal(), renewal(NEXT.public_key, NEXT), renewal(issuer_key=b"")):
        assert open_renewal(sealed(HOME, body).raw, MESH, HOME.node, HOME.public_key) == body


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (sealed(OTHER, renewal()).raw, "not_own"),
        (sealed(NEXT, renewal(NEXT.public_key, NEXT), HOME.node).raw, "bad_signature"),
        (sealed(HOME, renewal(), mesh="another").raw, "bad_signature"),
        (sealed(HOME, renewal(mesh="another")).raw, "not_own"),
        (sealed(HOME, renewal(home=OTHER.node)).raw, "not_own"),
        (sealed(HOME, renewal(NEXT.public_key)).raw, "bad_signature"),
        (sealed(HOME, renewal(NEXT.public_key, OTHER)).raw, "bad_signature"),
        (sealed(HOME, replace(renewal(NEXT.public_key, NEXT), made_ms=5)).raw, "bad_signature"),
        (sealed(HOME, renewal(SMALL_ORDER)).raw, "bad_key"),
        (sealed(HOME, renewal(issuer_key=SMALL_ORDER)).raw, "bad_key"),
        (sealed(HOME, JOIN).raw, "malformed"),
        (b"noise", "malformed"),
    ],
)
def test_renewals_that_are_refused(raw: bytes, why: str) -> None:
    assert reason(open_renewal, raw, MESH, HOME.node, HOME.public_key) == why


def test_a_renewal_counts_only_for_the_home_that_is_asked_about() -> None:
    raw = sealed(HOME, renewal()).raw
    assert reason(open_renewal, raw, MESH, OTHER.node, HOME.public_key) == "not_own"
    assert reason(open_renewal, raw, MESH, HOME.node, OTHER.public_key) == "bad_signature"


# ---- the answer

ADMISSION = Admission(b"genesis", (b"one", b"two"), b"chain", b"", b"k" * 32, ("192.168.1.20:7710",))


def test_an_admission_is_read_as_it_was_packed() -> None:
    assert read_admission(pack_admission(ADMISSION)) == ADMISSION


@pytest.mark.parametrize("frame", [pack(()), pack(("turned", 1, "used")), pack(("admitted",)), pack(("admitted", 2, 3))])
def test_something_else_is_none(frame: bytes) -> None:
    assert read_admission(frame) is None


@pytest.mark.parametrize("at", range(6))
@pytest.mark.parametrize("value", [5, None, ("x", 5), "text", b"bytes", -1])
def test_an_admission_of_wrong_types_is_malformed(at: int, value: object) -> None:
    row = unpack_row(pack_admission(ADMISSION))
    changed = (*row[: 2 + at], value, *row[3 + at :])
    if type(value) is not type(row[2 + at]):
        assert reason(read_admission, pack(changed)) == "malformed"


def test_a_longer_form_of_the_same_admission_is_malformed() -> None:
    frame = pack_admission(ADMISSION)
    assert frame[0] == 0x98
    assert reason(read_admission, b"\xdc\x00\x08" + frame[1:]) == "malformed"


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_whatever_comes_is_read_or_refused(data: bytes) -> None:
    for call in (lambda: read_admission(data), lambda: open_request(data, MESH), lambda: read_admission(b"\x98\xa8admitted\x01" + data)):
        try:
            assert call() is None
        except Refusal as refusal:
            assert refusal.reason.replace("_", "").isalpha()
