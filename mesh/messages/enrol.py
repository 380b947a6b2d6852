"""How a home becomes a member: said at a door by somebody who is none yet, under the home's key. Handled by the runtime, never by a core.

with a token    Join(invite, proof that he knows its secret)   -->   admission: genesis, certificates, what was said since
without one     Ask, again and again, until a person admits it by the code that both sides show
"""

from __future__ import annotations

from dataclasses import dataclass

from mesh.ids import NodeId


@dataclass(slots=True)
class Join:
    """`proof` is keyed with the invitation's secret, which never travels; it covers the door's key and everything here."""

    mesh: str
    invite: bytes
    home_key: bytes
    issuer_key: bytes
    name: str
    nonce: bytes
    proof: bytes = b""


@dataclass(slots=True)
class Ask:
    """Let me in, says a home that knows no token. The code that both sides show covers the door's key, `home_key` and `nonce`."""

    home_key: bytes
    issuer_key: bytes
    name: str
    nonce: bytes


@dataclass(slots=True)
class Admission:
    """The answer to either. `statements`: amendments and revocations; `own_issuer`: a certificate for `issuer_key`, or empty."""

    genesis: bytes
    statements: tuple[bytes, ...]
    chain: bytes
    own_issuer: bytes
    discovery_key: bytes
    doors: tuple[str, ...]


@dataclass(slots=True)
class Renewal:
    """By a home's key of today: give this home new certificates. `home_key` and `issuer_key` are new ones, or those of today; each that is
    new proves itself in `home_proof`, a signature over the same words."""

    mesh: str
    home: NodeId
    home_key: bytes
    issuer_key: bytes
    home_proof: bytes
    made_ms: int
