"""The transport key of a node: CURVE25519, for its ROUTER and its DEALERs. Which node it belongs to, a signed binding says."""

from __future__ import annotations

from dataclasses import dataclass, field

import zmq
from zmq.utils import z85


@dataclass(frozen=True, slots=True)
class CurveKey:
    """32 raw bytes each."""

    public: bytes
    secret: bytes = field(repr=False)

    @classmethod
    def of(cls, secret: bytes) -> CurveKey:
        return cls(z85.decode(zmq.curve_public(z85.encode(secret))), secret)
