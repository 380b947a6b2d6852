"""Whom the mesh believes: certificates, and what is said about them later. Signed by keys, not by nodes; told on to everybody, for good.

    root key --issuer--> issuer key --home--> home key --node--> node's identity key        each link only narrows
    root: Amendment             issuer, root, or the one concerned: Revocation              identity key: Binding of a transport key

The id of a key's holder is the hash of his *first* key; a certificate maps the id to the key of today.
"""

from __future__ import annotations

from dataclasses import dataclass

from mesh.ids import NodeId
from mesh.messages.signed import Signed

ISSUER, HOME, NODE = "issuer", "home", "node"
"""The three levels of a chain below the root."""


@dataclass(slots=True)
class Certificate:
    """`author` lets `subject` speak with `key`, within what is listed. `not_after_ms` is Unix time; 0: none (open mesh)."""

    mesh: str
    level: str
    subject: NodeId
    key: bytes
    name: str
    serial: int
    not_before_ms: int
    not_after_ms: int = 0
    roles: tuple[str, ...] = ("member",)
    """Of an issuer: the roles it may give."""
    offers: tuple[str, ...] = ("*",)
    """Patterns of capability names that may be offered: a name, or a beginning followed by ``*``."""
    requests: tuple[str, ...] = ("*",)
    ttl_ms: int = 0
    """Of an issuer: the longest life it may give; 0: any."""
    past_keys: tuple[bytes, ...] = ()
    """Earlier keys of the subject, the first one first: what was signed with them before still counts in journals."""
    deed: bytes = b""
    """Of a node: its signed `Deed`, so that no home can certify, or revoke, another home's node."""
    past_meshes: tuple[str, ...] = ()
    """Of a node: ids of the meshes its home was in before, the latest last. Its journal goes on; what it signed there counts in it."""


@dataclass(slots=True)
class Deed:
    """By a node's first key, once, when it is made, in no mesh: this node id belongs to that home, wherever it goes."""

    node: NodeId
    home: NodeId
    first_key: bytes


@dataclass(slots=True)
class Binding:
    """By a node's identity key: `curve_key` is its transport key from now on. A larger `seq` replaces a smaller one."""

    mesh: str
    node: NodeId
    curve_key: bytes
    seq: int
    made_ms: int


@dataclass(slots=True)
class Revocation:
    """`target` is not believed any more: a node, a home (with all its nodes) or an issuer (with all it admitted).

    By a root key; or by somebody in the target's own chain, which `certificate` then shows: the issuer that admitted its home, the home a
    node belongs to, or the target itself.
    """

    mesh: str
    level: str
    target: NodeId
    name: str
    reason: str
    at_ms: int
    certificate: bytes = b""


@dataclass(slots=True)
class Amendment:
    """By a root key that counts before it: these root keys count from now on, and the trust mode is this. `seq` grows by one."""

    mesh: str
    seq: int
    roots: tuple[bytes, ...]
    mode: str
    name: str
    at_ms: int


@dataclass(slots=True)
class RenewAsk:
    """To a member that may issue: a signed `Renewal` of the sender's home."""

    renewal: bytes


@dataclass(slots=True)
class Granted:
    """From a member that may issue: new certificates for the receiver's home. `issuer` is one for its issuer key, or empty."""

    chain: bytes
    issuer: bytes = b""


@dataclass(slots=True)
class Trust:
    """Revocations and amendments, each signed by its author. Sent before all else."""

    statements: tuple[Signed, ...]
