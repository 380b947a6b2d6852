"""A mutator that knows what it changes: msgpack, down into bytes that are msgpack themselves; and tokens, with a new checksum."""

from __future__ import annotations

import base64
import hashlib
import random
from typing import Any

import msgpack

from attacks.keys import SMALL_ORDER
from mesh.wire.token import PREFIX

NUMBERS = (0, 1, -1, 127, 128, 255, 256, 2**16, 2**31, 2**32 - 1, 2**53, 2**62, 2**63 - 1, 2**63, 2**64 - 1, -(2**63))
TEXTS = ("", "a", "*", "x" * 65, "x" * 300, "../a", "\0", "é", "node", "home", "issuer", "member")
SIZES = (0, 1, 16, 32, 33, 64)
EXTENSIONS = (msgpack.ExtType(5, b"x"), msgpack.Timestamp(1, 1))
ODD: tuple[Any, ...] = (None, True, False, 0.0, 1.5, float("inf"), float("nan"), [], [[]], {}, {"a": 1}, *EXTENSIONS)
ODD += (*NUMBERS, *TEXTS, *map(bytes, SIZES), *SMALL_ORDER)


def shuffled(data: bytes, size_max: int, chance: random.Random) -> bytes:
    """Something like `data`, mostly still well formed."""
    text = data.removeprefix(PREFIX.encode())
    if text != data:
        return _token(text, chance)[:size_max]
    for _ in range(chance.choice((1, 1, 1, 2, 4))):
        data = _msgpack(data, chance)
    return data[:size_max]


def _token(text: bytes, chance: random.Random) -> bytes:
    try:
        data = base64.urlsafe_b64decode(text + b"=" * (-len(text) % 4))[:-4]
    except ValueError:
        data = b""
    data = _msgpack(data, chance)
    check = hashlib.sha256(b"lanmesh/token/v1\0" + data).digest()[:4]
    return PREFIX.encode() + base64.urlsafe_b64encode(data + check).rstrip(b"=")


def _msgpack(data: bytes, chance: random.Random) -> bytes:
    value = _unpacked(data)
    if value is None or chance.random() < 0.2:
        return _bytes(data, chance)
    try:
        return msgpack.packb(_changed(value, chance, 0), unicode_errors="surrogatepass")
    except (ValueError, OverflowError, TypeError):
        return _bytes(data, chance)


def _unpacked(data: bytes) -> Any:
    try:
        value = msgpack.unpackb(data, strict_map_key=False)
    except (ValueError, TypeError, msgpack.UnpackException):
        return None
    return value if isinstance(value, list) else None


def _changed(value: Any, chance: random.Random, depth: int) -> Any:
    """One thing in it is different, wherever it is."""
    if isinstance(value, list) and value and depth < 12:
        at = chance.randrange(len(value))
        what = chance.random()
        if what < 0.75:
            return [*value[:at], _changed(value[at], chance, depth + 1), *value[at + 1 :]]
        if what < 0.8:
            return value[:at] + value[at + 1 :]
        if what < 0.85:
            return [*value[:at], value[at], *value[at:]]
        if what < 0.9:
            other = chance.randrange(len(value))
            value[at], value[other] = value[other], value[at]
            return value
        return [*value, chance.choice(ODD)] if what < 0.95 else chance.choice(ODD)
    if isinstance(value, bytes) and len(value) > 4 and chance.random() < 0.8:
        inner = _unpacked(value)
        if inner is not None:
            return msgpack.packb(_changed(inner, chance, depth + 1), unicode_errors="surrogatepass")
    return _other(value, chance)


def _other(value: Any, chance: random.Random) -> Any:
    if chance.random() < 0.4:
        return chance.choice(ODD)
    if isinstance(value, bytes):
        return _bytes(value, chance)
    if isinstance(value, str):
        return _bytes(value.encode(errors="replace"), chance).decode(errors="replace")
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return min(max(value + chance.choice((-1, 1, 256, -256, 1 << 32)), -(2**63)), 2**64 - 1)
    return chance.choice(ODD)


def _bytes(data: bytes, chance: random.Random) -> bytes:
    found = bytearray(data)
    at = chance.randrange(len(found) + 1)
    match chance.randrange(5):
        case 0 if at < len(found):
            found[at] ^= 1 << chance.randrange(8)
        case 1:
            found[at:at] = chance.randbytes(chance.choice((1, 1, 2, 8)))
        case 2:
            del found[at : at + chance.choice((1, 1, 2, 8))]
        case 3 if at < len(found):
            found[at] = chance.choice(b"\x00\x80\x90\xc0\xc1\xc4\xc9\xca\xcb\xd9\xdc\xdd\xde\xdf\xff")
        case _:
            del found[at:]
    return bytes(found)
