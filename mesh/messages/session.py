"""The door and the links: what is said before there is a session, and about sessions. Handled by the runtime, never by a core."""

from __future__ import annotations

from dataclasses import dataclass

from mesh.ids import NodeId
from mesh.messages.signed import Signed


@dataclass(slots=True)
class Hello:
    """At the door of `recipient` ("" when only the address is known). Signed; `alive` carries the sender's certificate and addresses."""

    v: int
    mesh: str
    alive: Signed
    recipient: NodeId
    nonce: bytes
    stamp_ms: int
    binding: Signed
    """Of the transport key with which the sender will connect, and under which it listens."""
    back: bool = True
    """Say HELLO at my door in return, so that each direction has a session. False in that return, and after a Stale."""


@dataclass(slots=True)
class Welcome:
    """The answer on the same connection. `session` is chosen by the receiver of what will be sent under it; echoes the nonce."""

    v: int
    mesh: str
    alive: Signed
    session: bytes
    nonce: bytes
    stamp_ms: int
    binding: Signed


@dataclass(slots=True)
class Turned:
    """The door says no. `reason`: other_mesh, bad_certificate, bad_signature, busy, version, self, malformed."""

    v: int
    reason: str


@dataclass(slots=True)
class Stale:
    """Rate-limited, signed answer to an envelope under a session that the sender of this does not know: say HELLO again."""

    session: bytes
