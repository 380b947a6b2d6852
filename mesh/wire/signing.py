"""Who said it: signed objects, certificates, and the ring of keys a node believes.

    root key --signs--> certificate(node, identity key, role) --carried by--> alive, hello, welcome --introduce--> their author's key
    author's key --signs--> alive, suspect, left, commit, hello, welcome, envelopes

What is signed: ``lanmesh/<tag>/v1 NUL``, then mesh id and body, each with a four-byte length in front. So nothing signed for one purpose,
or in one mesh, can pass for another. Invariant: a `Signed` that leaves `Keyring.open` was signed by its author, whose key a certificate of
this mesh's root vouches for; it keeps the bytes it came as, and the same bytes are not verified twice. Does not decide what a member may
do (`authorization.py`). Sources: RFC 8032; docs/protocol.md.
"""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from mesh.ids import NodeId
from mesh.limits import MembershipLimits
from mesh.messages.membership import Alive, Left
from mesh.messages.records import Commit
from mesh.messages.session import Certificate, Hello, Welcome
from mesh.messages.signed import Signed
from mesh.wire import ed25519
from mesh.wire.codec import decode_object, encode_object
from mesh.wire.packing import Refusal, pack, unpack_row

MEMBERS_MAX = 4 * MembershipLimits().rows_max
"""Keys remembered. Only holders of a certificate get in; the first to come is the first forgotten, and introduces itself again."""

OPENED_BYTES_MAX = 8 * 1024 * 1024
"""Verified statements remembered, by size: a rumour comes from several sides, and is verified once."""


def node_id(identity_key: bytes) -> NodeId:
    """32 characters: lower-case base32 of BLAKE2b-160 over the purpose and the node's first identity key."""
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
    return _parts(raw)[2]


def _parts(raw: bytes) -> tuple[str, NodeId, bytes, bytes]:
    """Tag, author, body and signature. The outer array is canonical too, or one statement could travel under many guises."""
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


class Signer:
    """One private key, used for one mesh. `private_key` is the 32-byte seed. Raises ValueError for another length."""

    def __init__(self, node: NodeId, private_key: bytes, mesh: str) -> None:
        self.node = node
        self.mesh = mesh
        self.public_key, self._sign = ed25519.signer_of(private_key)
        self.signatures = 0

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


@dataclass(slots=True)
class Member:
    """What the certificate of a node says, and the function that verifies its signatures."""

    node: NodeId
    role: str
    serial: int
    not_after_ms: int
    certificate: bytes
    public_key: bytes
    verify: ed25519.Verify


@dataclass(frozen=True, slots=True)
class KeyringStatistics:
    backend: str
    members: int
    verified: int
    remembered: int
    """Statements that came again and were not verified again."""
    cached_bytes: int
    refused: dict[str, int]
    """Statements turned down, by reason."""


class Keyring:
    """The keys of one mesh's members, learned only from certificates that its root signed. `wall_ms` is Unix time, for their validity."""

    def __init__(self, mesh: str, root_public_key: bytes, wall_ms: Callable[[], int] = lambda: int(time.time() * 1000)) -> None:
        self.mesh = mesh
        self.root = node_id(root_public_key)
        self._root_verify = ed25519.verifier_of(root_public_key)
        self._wall_ms = wall_ms
        self._members: dict[NodeId, Member] = {}
        self._opened: dict[bytes, Signed] = {}
        self._opened_bytes = 0
        self._verified = 0
        self._remembered = 0
        self._refused: dict[str, int] = {}

    # ---- certificates

    def add_certificate(self, raw: bytes) -> NodeId:
        """Learn a member's key. Returns the node it is for; a certificate with a smaller serial than the known one changes nothing.

        Raises Refusal: ``other_mesh``, ``bad_certificate`` (not by the root, or the id is not the key's), ``expired``, ``not_yet_valid``,
        ``bad_key``, and those of the codec.
        """
        seen = self._opened.get(raw)
        certified: Certificate | None = seen.body if seen is not None and type(seen.body) is Certificate else None
        if certified is not None and certified.node in self._members:
            self._remembered += 1
            return certified.node
        tag, author, body, signature = _parts(raw)
        if tag != "certificate":
            raise Refusal("bad_certificate")
        certificate: Certificate = decode_object(tag, body)
        if certificate.mesh != self.mesh:
            raise Refusal("other_mesh", certificate.node)
        if author != self.root or certificate.node != node_id(certificate.identity_key):
            raise Refusal("bad_certificate", certificate.node)
        verify = ed25519.verifier_of(certificate.identity_key)
        if not self._check(self._root_verify, tag, body, signature):
            raise Refusal("bad_certificate", certificate.node)
        self._check_validity(certificate)
        self._remember(raw, Signed(author, certificate, raw))
        known = self._members.get(certificate.node)
        if known is None or known.serial < certificate.serial:
            self._members[certificate.node] = Member(
                certificate.node, certificate.role, certificate.serial, certificate.not_after_ms, raw, certificate.identity_key, verify
            )
        if len(self._members) > MEMBERS_MAX:
            del self._members[next(iter(self._members))]
        return certificate.node

    def _check_validity(self, certificate: Certificate) -> None:
        now_ms = self._wall_ms()
        if certificate.not_after_ms and now_ms > certificate.not_after_ms:
            raise Refusal("expired", certificate.node)
        if now_ms < certificate.not_before_ms:
            raise Refusal("not_yet_valid", certificate.node)

    def member(self, node: NodeId) -> Member | None:
        """What is known of a member whose certificate was seen and has not expired since."""
        member = self._members.get(node)
        if member is not None and member.not_after_ms and self._wall_ms() > member.not_after_ms:
            return None
        return member

    # ---- signatures

    def verify(self, node: NodeId, data: bytes, signature: bytes) -> bool:
        """Whether `node`, a known member, signed exactly `data` (see `signed_bytes`)."""
        member = self._members.get(node)
        if member is None:
            return False
        self._verified += 1
        return member.verify(signature, data)

    def open(self, raw: bytes) -> Signed:
        """The statement in `raw`, verified. Treat it as a value: the same object is given again for the same bytes.

        An `alive`, `hello` or `welcome` carries its author's certificate and introduces him. Raises Refusal: ``unknown_author``,
        ``bad_signature``, ``not_own`` (he speaks for somebody else), those of `add_certificate`, ``not_canonical``, ``malformed``, ...
        """
        try:
            return self._open(raw)
        except Refusal as refusal:
            self._refused[refusal.reason] = self._refused.get(refusal.reason, 0) + 1
            raise

    def _open(self, raw: bytes) -> Signed:
        known = self._opened.get(raw)
        if known is not None and (known.author in self._members or known.author == self.root):
            self._remembered += 1
            return known
        tag, author, body, signature = _parts(raw)
        if tag == "certificate":
            self.add_certificate(raw)
            return self._opened[raw]
        content = decode_object(tag, body, self.open)
        self._introduce(author, content)
        member = self._members.get(author)
        if member is None:
            raise Refusal("unknown_author", author)
        if _speaks_for(content) not in ("", author):
            raise Refusal("not_own", author)
        if not self._check(member.verify, tag, body, signature):
            raise Refusal("bad_signature", author)
        return self._remember(raw, Signed(author, content, raw))

    def _introduce(self, author: NodeId, content: Any) -> None:
        """An own row vouches for its author by the root's signature inside; who is inside a hello was introduced when that was opened."""
        if type(content) is not Alive or not content.certificate:
            return
        known = self._members.get(author)
        if (known is None or known.certificate != content.certificate) and self.add_certificate(content.certificate) != author:
            raise Refusal("not_own", author)

    def _check(self, verify: ed25519.Verify, tag: str, body: bytes, signature: bytes) -> bool:
        self._verified += 1
        return verify(signature, signed_bytes(tag, self.mesh, body))

    def _remember(self, raw: bytes, signed: Signed) -> Signed:
        self._opened[raw] = signed
        self._opened_bytes += len(raw)
        while self._opened_bytes > OPENED_BYTES_MAX:
            oldest = next(iter(self._opened))
            del self._opened[oldest]
            self._opened_bytes -= len(oldest)
        return signed

    def statistics(self) -> KeyringStatistics:
        return KeyringStatistics(
            ed25519.BACKEND, len(self._members), self._verified, self._remembered, self._opened_bytes, dict(self._refused)
        )


def _speaks_for(content: Any) -> NodeId:
    """The node whose word alone counts for such a statement; empty where anybody may say it."""
    if isinstance(content, Alive | Left):
        return content.node
    if isinstance(content, Commit):
        return content.author
    if isinstance(content, Hello | Welcome):
        return content.alive.author
    return ""
