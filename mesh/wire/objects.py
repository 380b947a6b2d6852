"""Signed objects as bytes: ids, what exactly a signature covers, and the signer.

    msgpack [tag, author, body, signature]          signature over  "lanmesh/<tag>/v1" NUL, mesh id, body       (length-prefixed)

Invariant: nothing signed for one purpose, or in one mesh, can pass for another. Does not verify: `keyring.py` does, `chain.py` for
certificates. Sources: RFC 8032; docs/protocol.md.
"""

from __future__ import annotations

import base64
import hashlib
from functools import lru_cache

from mesh.ids import NodeId
from mesh.messages.signed import Signed
from mesh.wire import ed25519
from mesh.wire.codec import encode_object
from mesh.wire.packing import Refusal, pack, unpack_row


def node_id(identity_key: bytes) -> NodeId:
    """32 characters: lower-case base32 of BLAKE2b-160 over the purpose and the holder's first key."""
    return _id("lanmesh/node-id/v1", identity_key)


def mesh_id(genesis: bytes) -> str:
    """The name of a mesh on the wire: that of its genesis' bytes, made like a node id."""
    return _id("lanmesh/genesis/v1", genesis)


def _id(purpose: str, data: bytes) -> str:
    digest = hashlib.blake2b(purpose.encode() + b"\0" + data, digest_size=20).digest()
    return base64.b32encode(digest).decode().lower()


@lru_cache(64)
def domain(tag: str, mesh: str) -> bytes:
    """What stands before everything signed under `tag` in `mesh`."""
    name = mesh.encode()
    return f"lanmesh/{tag}/v1".encode() + b"\0" + len(name).to_bytes(4, "big") + name


def signed_bytes(tag: str, mesh: str, body: bytes) -> bytes:
    """Exactly what a signature under `tag` covers."""
    return domain(tag, mesh) + len(body).to_bytes(4, "big") + body


def body_bytes(raw: bytes) -> bytes:
    """The body inside a signed object's bytes, as its author encoded it: what the chain of commits hashes. Raises Refusal ``malformed``."""
    return parts(raw)[2]


def parts(raw: bytes) -> tuple[str, NodeId, bytes, bytes]:
    """Tag, author, body and signature. The outer array is canonical too, or one statement could travel under many guises.

    Raises Refusal: ``malformed``, ``bad_signature`` (its length), ``not_canonical``.
    """
    row = unpack_row(raw)
    if len(row) != 4:
        raise Refusal("malformed")
    tag, author, body, signature = row
    if type(tag) is not str or type(author) is not str or type(body) is not bytes or type(signature) is not bytes:
        raise Refusal("malformed")
    if len(signature) != ed25519.SIGNATURE_BYTES:
        raise Refusal("bad_signature")
    if pack(row) != raw:
        raise Refusal("not_canonical")
    return tag, author, body, signature


def handover_bytes(old_key: bytes, new_key: bytes) -> bytes:
    """What an identity key signs when it hands over to the next: in no mesh, since journals go on from one to another."""
    return signed_bytes("handover", "", old_key + new_key)


class Signer:
    """One private key, used for one mesh. `private_key` is the 32-byte seed. Raises ValueError for another length."""

    def __init__(self, node: NodeId, private_key: bytes, mesh: str) -> None:
        self.node = node
        self.mesh = mesh
        self.public_key, self._sign = ed25519.signer_of(private_key)
        self.signatures = 0

    def rekey(self, private_key: bytes) -> None:
        """Sign with another key from now on, as the same node."""
        self.public_key, self._sign = ed25519.signer_of(private_key)

    def sign(self, data: bytes) -> bytes:
        """64 bytes over `data` as it is: give `signed_bytes(...)`, never bare content."""
        self.signatures += 1
        return self._sign(data)

    def seal(self, signed: Signed) -> bytes:
        """The bytes of a statement as it travels; signs it, and keeps them in `signed.raw`, unless that was done.

        Raises ValueError for an unsigned statement of somebody else.
        """
        if not signed.raw:
            if signed.author != self.node:
                raise ValueError(f"{self.node} cannot sign for {signed.author}")
            tag, body = encode_object(signed.body, self.seal)
            signed.raw = pack((tag, signed.author, body, self.sign(signed_bytes(tag, self.mesh, body))))
        return signed.raw
