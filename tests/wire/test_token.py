"""Tokens, proofs and codes: what a person carries, and what it proves."""

from __future__ import annotations

import base64
import re
from dataclasses import fields, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.messages.enrol import Join
from mesh.wire.packing import Refusal, pack
from mesh.wire.token import PREFIX, TOKEN_CHARACTERS_MAX, Token, _check, code, knock_proof, proof, read_token

TOKEN = Token("m" * 32, bytes(range(32)), ("192.168.1.20:7710",), b"invite-1", b"s" * 16, 1_800_000_000_000)
JOIN = Join("m" * 32, b"invite-1", b"h" * 32, b"i" * 32, "otter", b"n" * 16)


def refused(text: str) -> None:
    with pytest.raises(Refusal) as caught:
        read_token(text)
    assert caught.value.reason == "bad_token"


def test_a_token_is_read_as_it_was_made_and_fits_one_line() -> None:
    text = TOKEN.encode()
    assert read_token(text) == TOKEN and re.fullmatch(r"mesh1_[A-Za-z0-9_-]+", text) and len(text) < 250


@pytest.mark.parametrize("around", [" {} ", "\n{}\n", "\t{}\r\n", "\u00a0{}"])
def test_white_space_around_and_within_is_ignored(around: str) -> None:
    text = TOKEN.encode()
    assert read_token(around.format(text)) == TOKEN
    assert read_token(around.format(" \n".join(text[at : at + 60] for at in range(0, len(text), 60)))) == TOKEN


def test_cut_anywhere_it_is_no_token() -> None:
    text = TOKEN.encode()
    for end in range(len(text)):
        refused(text[:end])
    for start in range(1, len(text)):
        refused(text[start:])


def test_one_character_mistyped_anywhere_it_is_no_token() -> None:
    text = TOKEN.encode()
    for at, was in enumerate(text):
        for other in "aZ0_-=+ é":
            changed = text[:at] + other + text[at + 1 :]
            if other != was:
                refused(changed)
        if at:
            swapped = text[: at - 1] + text[at] + text[at - 1] + text[at + 1 :]
            if swapped != text:
                refused(swapped)


@pytest.mark.parametrize(
    "text", ["", "mesh1_", "mesh1", "mesh2_" + TOKEN.encode()[6:], "MESH1_" + TOKEN.encode()[6:], TOKEN.encode() * 2, "x" * 5000, "mesh1_é"]
)
def test_what_is_no_token(text: str) -> None:
    refused(text)


def forged(row: object) -> str:
    """Bytes with a checksum that holds."""
    data = pack(row)
    return PREFIX + base64.urlsafe_b64encode(data + _check(data)).decode().rstrip("=")


ROW = (TOKEN.mesh, TOKEN.door_key, TOKEN.doors, TOKEN.invite, TOKEN.secret, TOKEN.expires_ms)


@pytest.mark.parametrize(
    ("at", "value"),
    [
        *((0, 5), (1, b"short"), (1, "x" * 32), (2, ()), (2, (5,)), (2, ("a:1",) * 9), (2, "a:1"), (3, b""), (3, b"x" * 9)),
        *((4, b"s" * 15), (4, b""), (5, -1), (5, "soon"), (5, 1.5), (5, None), (5, True)),
    ],
)
def test_whose_fields_are_wrong_is_none(at: int, value: object) -> None:
    assert read_token(forged(ROW)) == TOKEN
    refused(forged((*ROW[:at], value, *ROW[at + 1 :])))


@pytest.mark.parametrize("row", [(), ROW[:5], (*ROW, 1), 5, "text", None])
def test_whose_shape_is_wrong_is_none(row: object) -> None:
    refused(forged(row))


def test_a_token_that_is_too_long_is_none() -> None:
    doors = tuple(f"{'x' * 200}:{n}" for n in range(5))
    text = replace(TOKEN, doors=doors).encode()
    assert len(text) > TOKEN_CHARACTERS_MAX
    refused(text)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300))
def test_whatever_bytes_are_in_it_it_is_read_or_refused(data: bytes) -> None:
    for text in (PREFIX + base64.urlsafe_b64encode(data + _check(data)).decode().rstrip("="), data.decode("latin-1"), PREFIX + data.hex()):
        with pytest.raises(Refusal):
            read_token(text)


def test_the_secret_does_not_show_in_its_repr() -> None:
    assert "s" * 16 not in repr(TOKEN) and TOKEN.secret.hex() not in repr(TOKEN) and "hidden" in repr(TOKEN)


# ---- proofs


def test_the_proof_covers_every_field_the_door_and_the_secret() -> None:
    honest = proof(TOKEN.secret, TOKEN.door_key, JOIN)
    others = {proof(b"t" * 16, TOKEN.door_key, JOIN), proof(TOKEN.secret, bytes(32), JOIN)}
    for each in fields(Join):
        value = getattr(JOIN, each.name)
        changed = value + "x" if isinstance(value, str) else bytes([(value or b"\0")[0] ^ 1]) + value[1:]
        if each.name == "proof":
            assert proof(TOKEN.secret, TOKEN.door_key, replace(JOIN, proof=b"p" * 32)) == honest, "it does not cover itself"
        else:
            others.add(proof(TOKEN.secret, TOKEN.door_key, replace(JOIN, **{each.name: changed})))
    assert len(honest) == 32 and honest not in others and len(others) == 2 + len(fields(Join)) - 1


def test_what_moves_from_one_field_to_its_neighbour_is_another_proof() -> None:
    one = replace(JOIN, home_key=b"h" * 31, issuer_key=b"x" + b"i" * 32)
    other = replace(JOIN, home_key=b"h" * 31 + b"x", issuer_key=b"i" * 32)
    assert proof(TOKEN.secret, TOKEN.door_key, one) != proof(TOKEN.secret, TOKEN.door_key, other)


def test_a_knock_cannot_be_turned_into_an_answer() -> None:
    words = {
        knock_proof(key, side, nonce, door)
        for key in (b"k" * 32, b"l" * 32)
        for side in ("knock", "open")
        for nonce in (b"1", b"2")
        for door in (b"d", b"e")
    }
    assert len(words) == 16


# ---- codes


def test_a_code_is_four_words_that_can_be_said() -> None:
    said = code(bytes(32), b"h" * 32, b"n" * 16)
    assert re.fullmatch(r"([bdfghjklmnprstvz][aiou][bdfghjklmnprstvz][aiou][bdfghjklmnprstvz]-){3}[bdfghjklmnprstvz][aiou].*", said)
    assert len(said) == 23 and said == code(bytes(32), b"h" * 32, b"n" * 16)


def test_a_code_covers_the_door_the_home_and_the_request() -> None:
    codes = {
        code(door, home, nonce) for door in (b"d" * 32, b"e" * 32) for home in (b"h" * 32, b"i" * 32) for nonce in (b"n" * 16, b"o" * 16)
    }
    assert len(codes) == 8


def test_codes_use_all_their_bits() -> None:
    codes = [code(bytes(32), bytes(32), n.to_bytes(16, "big")) for n in range(2000)]
    assert len(set(codes)) == 2000
    for at in range(23):
        assert len({one[at] for one in codes}) == (1 if at % 6 == 5 else 4 if at % 6 in (1, 3) else 16)
