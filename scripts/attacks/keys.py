"""Public keys that must never count, as bytes: every encoding of a point of small order, and encodings that are not reduced."""

from __future__ import annotations

from mesh.wire.ed25519 import _P, _SMALL_ORDER_Y


def _encodings(y: int) -> list[bytes]:
    return [(each | sign << 255).to_bytes(32, "little") for each in (y, y + _P) if each < 2**255 for sign in (0, 1)]


SMALL_ORDER = tuple(sorted({key for y in _SMALL_ORDER_Y for key in _encodings(y)}))
NOT_REDUCED = tuple((_P + excess | sign << 255).to_bytes(32, "little") for excess in (2, 18) for sign in (0, 1))
