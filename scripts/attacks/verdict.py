"""What a receiver must say to three frames, worked out a second time from the protocol's page: the checks in their order, nothing shared.

Signatures are taken on trust (`signed`), and windows are fresh: the attacks on both say themselves what they expect.
"""

from __future__ import annotations

import hashlib
from typing import Any

import msgpack

from attacks.world import World

_STAMP = range(2**53 + 1)
_SHAPE: tuple[Any, ...] = (
    lambda v: type(v) is int,
    *[lambda v: type(v) is str and 1 <= len(v) <= 64] * 3,
    lambda v: type(v) is bytes and len(v) == 16,
    lambda v: type(v) is int and 1 <= v <= 2**62,
    lambda v: type(v) is int and v >= 1,
    *[lambda v: type(v) is int and v in _STAMP] * 3,
    lambda v: type(v) is int and 0 <= v < 2**63,
    lambda v: type(v) is bytes and len(v) in (0, 32),
    lambda v: type(v) is bytes and len(v) == 32,
)


def verdict(world: World, frames: list[bytes], *, signed: bool = False, carrier: str = "") -> str:
    """The one reason; empty: it opens."""
    if len(frames) != 3 or len(frames[2]) < 68:
        return "frames"
    header, payload, proof = frames
    if len(header) > 512 or len(payload) > 1024 * 1024 or len(proof) > 68 + 12 * 32:
        return "too_big"
    row = _row(header)
    if row and type(row[0]) is int and row[0] != 1:
        return "version"
    if row is None or len(row) != len(_SHAPE) or not all(fits(value) for fits, value in zip(_SHAPE, row)):
        return "malformed"
    if msgpack.packb(row) != header:
        return "malformed"
    return _context(world, row, payload, carrier) or _proof(proof) or ("" if signed else "bad_signature")


def _row(header: bytes) -> list[Any] | None:
    try:
        row = msgpack.unpackb(header, strict_map_key=False)
    except (ValueError, TypeError, msgpack.UnpackException):
        return None
    return row if type(row) is list else None


def _context(world: World, row: list[Any], payload: bytes, carrier: str) -> str:
    _, mesh, sender, recipient, session, _, count, *_, digest = row
    members = {member.node for member in world.keyring.members()}
    found = world.sessions.get(session)
    checks = (
        (mesh != world.mesh, "other_mesh"),
        (recipient != world.expect.me, "not_for_me"),
        (count > 32 or (count > 1 and len(payload) > 64 * 1024), "too_many_messages"),
        (carrier and carrier != sender, "wrong_link"),
        (sender not in members, "unknown_sender"),
        (found is None, "stale_session"),
        (found is not None and found.peer != sender, "wrong_sender"),
        (digest != hashlib.sha256(payload).digest(), "payload_changed"),
        (not _framed(payload, count), "bad_framing"),
    )
    return next((reason for failed, reason in checks if failed), "")


def _framed(payload: bytes, count: int) -> bool:
    """Whether it is `count` messages and no more: each a head of 26 bytes, which begins with the length of the body after it."""
    for _ in range(count):
        if len(payload) < 26:
            return False
        payload = payload[26 + int.from_bytes(payload[:4], "big") :] if len(payload) >= 26 + int.from_bytes(payload[:4], "big") else b"!"
    return not payload


def _proof(proof: bytes) -> str:
    """Of one envelope alone in its flush, as all are here."""
    return "" if proof[64:] == b"\0\0\0\1" else "bad_proof"
