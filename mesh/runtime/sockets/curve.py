"""The transport key of a node: a CURVE25519 pair for its ROUTER and its DEALERs. Which node it belongs to, a signed binding says.

It encrypts and nothing else: it never signs, and it is not made from the identity key. Source: CurveZMQ (RFC 26).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import zmq
from zmq.utils import z85

KEY_BYTES = 32


@dataclass(frozen=True, slots=True)
class CurveKey:
    """32 raw bytes each. Raises ValueError for any other length."""

    public: bytes
    secret: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if len(self.public) != KEY_BYTES or len(self.secret) != KEY_BYTES:
            raise ValueError(f"a transport key has {KEY_BYTES} bytes on each side")

    @classmethod
    def make(cls) -> CurveKey:
        """A new one, from the operating system's randomness."""
        public, secret = zmq.curve_keypair()
        return cls(z85.decode(public), z85.decode(secret))

    @classmethod
    def of(cls, secret: bytes) -> CurveKey:
        """The pair that this secret half belongs to. Raises ValueError if it is not 32 bytes long."""
        if len(secret) != KEY_BYTES:
            raise ValueError(f"the secret half of a transport key has {KEY_BYTES} bytes")
        return cls(z85.decode(zmq.curve_public(z85.encode(secret))), secret)
