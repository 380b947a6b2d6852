"""Sealing at rest: one value of one row, encrypted and tied to its place.

    sealed = C1 01 | generation, 4 bytes | nonce, 12 bytes | ciphertext and tag
    tied to: what it belongs to (mesh, author), table with its schema, row key, generation

C1 begins no msgpack value and no UTF-8 text, so a value from before sealing is told apart by its first byte. Invariant: what `open` returns
was sealed by a holder of the key for exactly this place; a value that was edited, moved to another row or brought from another journal does
not open. That a whole older value of the same place came back is not seen here: the journal's chain sees it. Source: BLUEPRINT of age and
of SQLCipher's per-page seals; AES-GCM-SIV is RFC 8452, ChaCha20-Poly1305 RFC 8439.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Protocol

from cryptography.exceptions import InvalidTag, UnsupportedAlgorithm
from cryptography.hazmat.primitives.ciphers.aead import AESGCMSIV, ChaCha20Poly1305

from mesh.wire.packing import pack

MARK = b"\xc1\x01"
NONCE_BYTES = 12
TAG_BYTES = 16
KEY_BYTES = 32
_HEAD_BYTES = len(MARK) + 4
OVERHEAD_BYTES = _HEAD_BYTES + NONCE_BYTES + TAG_BYTES
"""What sealing adds to a value."""
_PURPOSE = "lanmesh/at-rest/v1"

CIPHERS = GCM_SIV, CHACHA = "aes-256-gcm-siv", "chacha20-poly1305"


class SealBroken(Exception):
    """A sealed value does not open. `reason`: ``malformed``, ``unknown_generation``, or ``not_authentic`` (edited, moved, foreign)."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Aead(Protocol):
    """What both ciphers offer."""

    def encrypt(self, nonce: bytes, data: bytes, associated_data: bytes | None) -> bytes: ...

    def decrypt(self, nonce: bytes, data: bytes, associated_data: bytes | None) -> bytes: ...


class Sealer(Protocol):
    """Seals the values of one journal. Both methods may be called from any thread."""

    vault: str
    """Which vault's keys these are."""

    def seal(self, table: str, key: str, plain: bytes) -> bytes: ...

    def open(self, table: str, key: str, sealed: bytes) -> bytes:
        """Raises SealBroken."""
        ...


def is_sealed(value: bytes) -> bool:
    return value[:1] == MARK[:1]


def best_cipher() -> str:
    """AES-256-GCM-SIV, which forgives a repeated nonce, where OpenSSL has it."""
    try:
        AESGCMSIV(bytes(KEY_BYTES))
    except UnsupportedAlgorithm:
        return CHACHA
    return GCM_SIV


def aead_of(cipher: str, key: bytes) -> Aead:
    """For one of `CIPHERS`. Raises UnsupportedAlgorithm if this machine's OpenSSL lacks it."""
    return AESGCMSIV(key) if cipher == GCM_SIV else ChaCha20Poly1305(key)


class KeySealer:
    """A `Sealer` of what belongs to `about`. `keys` gives a generation's cipher (KeyError: unknown), `newest` the generation that seals."""

    def __init__(self, vault: str, about: tuple[str, ...], keys: Callable[[int], Aead], newest: Callable[[], int]) -> None:
        self.vault = vault
        self._about, self._keys, self._newest = about, keys, newest
        self._prefixes: dict[tuple[str, int], bytes] = {}

    def seal(self, table: str, key: str, plain: bytes) -> bytes:
        generation, nonce = self._newest(), os.urandom(NONCE_BYTES)
        sealed = self._keys(generation).encrypt(nonce, plain, self._place(table, key, generation))
        return b"%b%b%b%b" % (MARK, generation.to_bytes(4, "big"), nonce, sealed)

    def open(self, table: str, key: str, sealed: bytes) -> bytes:
        """Raises SealBroken."""
        if sealed[:2] != MARK or len(sealed) < OVERHEAD_BYTES:
            raise SealBroken("malformed")
        generation = int.from_bytes(sealed[2:_HEAD_BYTES], "big")
        try:
            aead = self._keys(generation)
        except KeyError:
            raise SealBroken("unknown_generation") from None
        nonce, rest = sealed[_HEAD_BYTES : _HEAD_BYTES + NONCE_BYTES], sealed[_HEAD_BYTES + NONCE_BYTES :]
        try:
            return aead.decrypt(nonce, rest, self._place(table, key, generation))
        except InvalidTag:
            raise SealBroken("not_authentic") from None

    def _place(self, table: str, key: str, generation: int) -> bytes:
        """Associated data. The packed part ends where it says, so no key can be read as part of a table's name."""
        prefix = self._prefixes.get((table, generation))
        if prefix is None:
            prefix = self._prefixes[table, generation] = pack((_PURPOSE, *self._about, table, generation))
        return prefix + key.encode()
