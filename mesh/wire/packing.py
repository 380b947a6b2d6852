"""Strict msgpack: the one place where bytes become values, and the one packer.

    bytes --unpack--> nested tuples of str, int, float, bool, bytes, None        no maps, no extension types, no lists
          <--pack----

Invariant: `unpack` returns or raises `Refusal`, for any bytes at all, in time and memory proportional to their number: nesting stops at
the 1,024 levels of msgpack's own stack, and a body larger than 64 KiB may not hold more than 65,536 values (a megabyte of one-byte values
would become 30 to 80 of them in memory). Does not know any message. Source: the msgpack specification.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import msgpack

from mesh.ids import NodeId
from mesh.limits import LinkLimits

BODY_BYTES_MAX = LinkLimits().frame_bytes_max
NODES_MAX = 65_536
"""Values in one body. Every value takes at least one byte, so smaller bodies need no count."""


class Refusal(Exception):
    """Input from outside was turned down. `reason` is snake_case and is counted; `peer` is the claimed sender, where one was readable."""

    def __init__(self, reason: str, peer: NodeId = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.peer = peer


_unpackb = partial(msgpack.unpackb, raw=False, use_list=False, strict_map_key=True, max_map_len=0, max_ext_len=0)

# A lone surrogate (JSON can spell one) becomes "?" instead of an exception in the middle of a flush.
_packer = msgpack.Packer(use_bin_type=True, autoreset=True, unicode_errors="replace")


def pack(value: Any) -> bytes:
    """Shortest forms, as msgpack's C packer writes them. Raises TypeError, OverflowError or ValueError for other values."""
    packed: bytes = _packer.pack(value)
    return packed


def unpack(data: bytes) -> Any:
    """One msgpack value, all of `data`. Raises Refusal: ``too_big``, ``too_many_values``, ``malformed``."""
    if len(data) > BODY_BYTES_MAX:
        raise Refusal("too_big")
    if len(data) > NODES_MAX:
        _bound_values(data)
    try:
        return _unpackb(data)
    except (ValueError, msgpack.UnpackException):
        raise Refusal("malformed") from None


def unpack_row(data: bytes) -> tuple[Any, ...]:
    """As `unpack`, where only an array will do."""
    row = unpack(data)
    if type(row) is not tuple:
        raise Refusal("malformed")
    return row


def is_canonical(value: Any, data: bytes) -> bool:
    """Whether `data` is the one and only encoding of `value`, which was unpacked from it."""
    try:
        return pack(value) == data
    except (TypeError, ValueError):  # an extension type or a map in a field that we do not know; nested deeper than the packer goes
        return False


_FIXED = {0xCA: 4, 0xCB: 8, 0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8, 0xD0: 1, 0xD1: 2, 0xD2: 4, 0xD3: 8}
_FIXED |= {0xD4: 2, 0xD5: 3, 0xD6: 5, 0xD7: 9, 0xD8: 17}
_SIZED = {0xC4: (1, 0), 0xC5: (2, 0), 0xC6: (4, 0), 0xD9: (1, 0), 0xDA: (2, 0), 0xDB: (4, 0), 0xC7: (1, 1), 0xC8: (2, 1), 0xC9: (4, 1)}
_ARRAYS = {0xDC: 2, 0xDD: 4}


def _bound_values(data: bytes) -> None:
    """Walk the heads without building anything. Raises Refusal ``too_many_values`` or, where a length runs past the end, ``malformed``."""
    at, values, owed, size = 0, 0, 1, len(data)
    while owed:
        if at >= size:
            raise Refusal("malformed")
        head = data[at]
        at += 1
        owed -= 1
        values += 1
        if head < 0x80 or head >= 0xE0 or head in (0xC0, 0xC2, 0xC3):
            continue
        if 0x90 <= head < 0xA0:
            owed += head & 0x0F
        elif 0xA0 <= head < 0xC0:
            at += head & 0x1F
        elif width := _FIXED.get(head):
            at += width
        elif sized := _SIZED.get(head):
            width, more = sized
            at += width + more + int.from_bytes(data[at : at + width], "big")
        elif width := _ARRAYS.get(head):
            owed += int.from_bytes(data[at : at + width], "big")
            at += width
        elif head != 0x80:  # maps, and the byte msgpack never uses
            raise Refusal("malformed")
        if values + owed > NODES_MAX:
            raise Refusal("too_many_values")
