"""Invitations and codes: what a token says it says entirely, and its secret shows nowhere."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import hmac
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.messages.enrol import Join
from mesh.wire.objects import signed_bytes
from mesh.wire.packing import Refusal, pack
from mesh.wire.shapes import shape_of
from mesh.wire.token import DOORS_MAX, PREFIX, TOKEN_CHARACTERS_MAX, Token, code, knock_proof, proof, read_token, same

KEY = bytes(range(32))
TOKEN = Token("mesh-1", KEY, ("10.0.0.1:7710", "[fe80::1]:7710"), b"invite-1", b"s" * 16, 1_800_000_000_000)
JOIN = Join("mesh-1", b"invite-1", KEY, b"", "otter", b"n" * 16)


def refused(text: str) -> None:
    with pytest.raises(Refusal) as caught:
        read_token(text)
    assert caught.value.reason == "bad_token"


def made_of(row: Any) -> str:
    data = row if isinstance(row, bytes) else msgpack.packb(row)
    check = hashlib.sha256(b"lanmesh/token/v1\0" + data).digest()[:4]
    return PREFIX + base64.urlsafe_b64encode(data + check).decode().rstrip("=")


def test_a_token_says_what_it_was_made_of() -> None:
    text = TOKEN.encode()
    assert text.startswith("mesh1_") and "=" not in text
    assert read_token(text) == TOKEN
    assert text == made_of([TOKEN.mesh, KEY, list(TOKEN.doors), TOKEN.invite, TOKEN.secret, TOKEN.expires_ms])
    assert read_token(f"  {text[:20]}\n {text[20:]}\t") == TOKEN, "as a mail breaks it"


def test_a_token_does_not_show_its_secret() -> None:
    assert TOKEN.secret.decode() not in repr(TOKEN) and TOKEN.secret.hex() not in repr(TOKEN)
    assert TOKEN.invite.hex() in repr(TOKEN)


@pytest.mark.parametrize("size", range(6))
def test_every_length_has_its_padding(size: int) -> None:
    token = dataclasses.replace(TOKEN, mesh="m" * size)
    assert read_token(token.encode()) == token


def test_a_mistyped_token_is_none() -> None:
    text = TOKEN.encode()
    for at in range(len(text)):
        other = "A" if text[at] != "A" else "B"
        refused(text[:at] + other + text[at + 1 :])
        refused(text[:at])
    for bad in (
        "",
        "mesh1_",
        "mesh1_====",
        "mesh1_!",
        "mesh1_A",
        PREFIX + "é",
        text + "A",
        text.upper(),
        text.removeprefix(PREFIX),
    ):
        refused(bad)
    refused(PREFIX + "A" * TOKEN_CHARACTERS_MAX)


ROW: list[Any] = [TOKEN.mesh, KEY, list(TOKEN.doors), TOKEN.invite, TOKEN.secret, TOKEN.expires_ms]


@pytest.mark.parametrize(
    ("at", "odd"),
    [
        *[(0, each) for each in (b"m", 1, None)],
        *[(1, each) for each in (KEY[:31], KEY + b"x", "k" * 32, None)],
        *[(2, each) for each in ([], ["d"] * (DOORS_MAX + 1), [b"d"], [1], "door", [["d"]])],
        *[(3, each) for each in (b"invite", b"invite-12", "invite-1")],
        *[(4, each) for each in (b"s" * 15, b"s" * 17, "s" * 16)],
        *[(5, each) for each in (-1, 1.5, True, "1", None)],
    ],
)
def test_what_fits_no_field(at: int, odd: Any) -> None:
    refused(made_of([*ROW[:at], odd, *ROW[at + 1 :]]))


def test_what_is_no_row_of_six() -> None:
    for row in (ROW[:5], [*ROW, 1], [], {}, 5, b"", b"\xc1", b"\x96"):
        refused(made_of(row))
    assert read_token(made_of([*ROW[:2], ["d"] * DOORS_MAX, *ROW[3:5], 0])).expires_ms == 0


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(st.text(st.characters(max_codepoint=1000), max_size=60) | st.binary(max_size=90).map(lambda data: made_of(data)))
def test_any_text_is_a_token_or_none(text: str) -> None:
    for each in (text, PREFIX + text):
        try:
            token = read_token(each)
        except Refusal as refusal:
            assert refusal.reason == "bad_token"
        else:
            assert read_token(token.encode()) == token


def test_a_proof_covers_all_that_is_asked_and_the_door() -> None:
    good = proof(TOKEN.secret, KEY, JOIN)
    key = hashlib.blake2b(TOKEN.secret, digest_size=32, person=b"lanmesh/invite").digest()
    assert good == hmac.new(key, signed_bytes("join-proof", "mesh-1", KEY + pack(shape_of(Join).row(JOIN, None))), "sha256").digest()
    assert proof(TOKEN.secret, KEY, dataclasses.replace(JOIN, proof=good)) == good
    others = {proof(b"t" * 16, KEY, JOIN), proof(TOKEN.secret, KEY[::-1], JOIN)}
    for field in dataclasses.fields(Join):
        if field.name != "proof":
            value = getattr(JOIN, field.name)
            others.add(proof(TOKEN.secret, KEY, dataclasses.replace(JOIN, **{field.name: value + value[:1] if value else b"x"})))
    assert len(others) == 2 + len(dataclasses.fields(Join)) - 1 and good not in others


def test_proofs_are_compared_whole() -> None:
    assert same(b"abc", b"abc") and not same(b"abc", b"abd") and not same(b"abc", b"ab") and not same(b"", b"a")


def test_a_knock_is_for_one_door_one_side_and_one_time() -> None:
    good = knock_proof(b"d" * 32, "knock", b"n" * 16, KEY)
    assert good == hmac.new(b"d" * 32, signed_bytes("knock", "", b"n" * 16 + KEY), "sha256").digest()
    others = {
        knock_proof(b"e" * 32, "knock", b"n" * 16, KEY),
        knock_proof(b"d" * 32, "open", b"n" * 16, KEY),
        knock_proof(b"d" * 32, "knock", b"m" * 16, KEY),
        knock_proof(b"d" * 32, "knock", b"n" * 16, KEY[::-1]),
    }
    assert len(others) == 4 and good not in others


def test_a_code_can_be_read_aloud_and_differs_for_who_is_between() -> None:
    words = code(KEY, KEY[::-1], b"n" * 16)
    assert words == code(KEY, KEY[::-1], b"n" * 16)
    assert [len(word) for word in words.split("-")] == [5] * 4
    for word in words.split("-"):
        assert all(letter in "bdfghjklmnprstvz" for letter in word[::2]) and all(letter in "aiou" for letter in word[1::2])
    assert len({words, code(KEY[::-1], KEY, b"n" * 16), code(KEY, KEY, b"n" * 16), code(KEY, KEY[::-1], b"m" * 16)}) == 4


def test_every_bit_of_the_digest_is_in_the_code() -> None:
    """64 bits: no two numbers give one word."""
    from mesh.wire.token import _word

    assert len({_word(number) for number in range(2**16)}) == 2**16
    digest = hashlib.blake2b(KEY + KEY + b"n" * 16, digest_size=8, person=b"lanmesh/code").digest()
    assert code(KEY, KEY, b"n" * 16) == "-".join(_word(int.from_bytes(digest[at : at + 2], "big")) for at in (0, 2, 4, 6))
