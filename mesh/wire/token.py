"""Invitations: the token a person carries from one machine to the next, and the codes two people compare.

    mesh1_<base64url of [mesh, door key, doors, invitation, secret, expiry, role] and 4 bytes of checksum>

Invariant: the token pins mesh and door before anything is sent, and its secret never travels: `proof` is keyed with it. Does not know
whether an invitation was used (`runtime/trust/invites.py`). Sources: kubeadm's pinned discovery; HMAC, RFC 2104; proquints (Wilkerson
2009).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from dataclasses import dataclass, replace

from mesh.messages.enrol import Join
from mesh.wire.objects import signed_bytes
from mesh.wire.packing import Refusal, pack, unpack_row
from mesh.wire.shapes import shape_of

PREFIX = "mesh1_"
SECRET_BYTES = 16
INVITE_BYTES = 8
DOORS_MAX = 8
TOKEN_CHARACTERS_MAX = 1024
_CHECK_BYTES = 4


@dataclass(frozen=True, slots=True)
class Token:
    """`doors`: ``host:port`` of the one node that takes it, whose identity key is `door_key`. `expires_ms`: Unix time."""

    mesh: str
    door_key: bytes
    doors: tuple[str, ...]
    invite: bytes
    secret: bytes
    expires_ms: int

    def __repr__(self) -> str:
        return f"Token({self.invite.hex()}, secret hidden)"

    def encode(self) -> str:
        data = pack((self.mesh, self.door_key, self.doors, self.invite, self.secret, self.expires_ms))
        return PREFIX + base64.urlsafe_b64encode(data + _check(data)).decode().rstrip("=")


def _check(data: bytes) -> bytes:
    return hashlib.sha256(b"lanmesh/token/v1\0" + data).digest()[:_CHECK_BYTES]


def read_token(text: str) -> Token:
    """The token in `text`, white space around and within ignored. Raises Refusal ``bad_token``: no token, cut, or mistyped."""
    text = "".join(text.split())
    if not text.startswith(PREFIX) or len(text) > TOKEN_CHARACTERS_MAX:
        raise Refusal("bad_token")
    body = text.removeprefix(PREFIX)
    try:
        data = base64.b64decode(body + "=" * (-len(body) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise Refusal("bad_token") from None
    data, check = data[:-_CHECK_BYTES], data[-_CHECK_BYTES:]
    if _check(data) != check:
        raise Refusal("bad_token")
    try:
        return _checked(unpack_row(data))
    except Refusal:
        raise Refusal("bad_token") from None


def _checked(row: tuple[object, ...]) -> Token:
    kinds = (str, bytes, tuple, bytes, bytes, int)
    if len(row) != len(kinds) or any(type(value) is not kind for value, kind in zip(row, kinds, strict=True)):
        raise Refusal("bad_token")
    token = Token(*row)  # type: ignore[arg-type]
    sizes = (len(token.door_key), len(token.invite), len(token.secret))
    if sizes != (32, INVITE_BYTES, SECRET_BYTES) or not 1 <= len(token.doors) <= DOORS_MAX or token.expires_ms < 0:
        raise Refusal("bad_token")
    if not all(type(door) is str for door in token.doors):
        raise Refusal("bad_token")
    return token


def proof(secret: bytes, door_key: bytes, join: Join) -> bytes:
    """32 bytes that only who knows the invitation's secret can make, for this very request at this very door."""
    row = shape_of(Join).row(replace(join, proof=b""), None)
    key = hashlib.blake2b(secret, digest_size=32, person=b"lanmesh/invite").digest()
    return hmac.digest(key, signed_bytes("join-proof", join.mesh, door_key + pack(row)), "sha256")


def same(one: bytes, other: bytes) -> bool:
    """Equal, in a time that does not tell where they differ."""
    return hmac.compare_digest(one, other)


# ---- doors of a mesh know each other before either says who it is


def knock_proof(discovery_key: bytes, side: str, nonce: bytes, door_key: bytes) -> bytes:
    """What a dialler (``knock``) and a door (``open``) show each other first: each knows the mesh's discovery key."""
    return hmac.digest(discovery_key, signed_bytes(side, "", nonce + door_key), "sha256")


# ---- codes

_CONSONANTS, _VOWELS = "bdfghjklmnprstvz", "aiou"


def code(door_key: bytes, home_key: bytes, nonce: bytes) -> str:
    """Four pronounceable words, 64 bits, that two people compare by eye: a third party between them would make them differ."""
    digest = hashlib.blake2b(door_key + home_key + nonce, digest_size=8, person=b"lanmesh/code").digest()
    return "-".join(_word(int.from_bytes(digest[at : at + 2], "big")) for at in range(0, 8, 2))


def _word(number: int) -> str:
    letters = [
        _CONSONANTS[number >> 12],
        _VOWELS[number >> 10 & 3],
        _CONSONANTS[number >> 6 & 15],
        _VOWELS[number >> 4 & 3],
        _CONSONANTS[number & 15],
    ]
    return "".join(letters)
