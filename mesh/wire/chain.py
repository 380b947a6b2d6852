"""Chains of certificates: root -> issuer -> home -> node, each link signed by the one above, and never wider than it.

    chain = msgpack [issuer certificate, home certificate, node certificate]          or its first one or two links

Invariant: what `Chains.read` gives was signed from a root key down, belongs to this mesh, and grants nothing that the link above did not
have. Time is judged apart (`Chain.expires_ms`, `not_before_ms`), because what has expired may still be known. Does not know who is
revoked, and keeps no members (`keyring.py`). Source: SPKI's chains of authorization (RFC 2693); Nebula's and SSH's host certificates.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mesh.ids import NodeId
from mesh.messages.signed import Signed
from mesh.messages.trust import HOME, ISSUER, NODE, Certificate, Deed
from mesh.wire import ed25519
from mesh.wire.codec import decode_object
from mesh.wire.objects import node_id, parts, signed_bytes
from mesh.wire.packing import Refusal, pack, unpack_row
from mesh.wire.patterns import within

LEVELS = (ISSUER, HOME, NODE)
READ_MAX = 4096
"""Verified certificates remembered by their bytes: an issuer's is in every chain it began."""
PAST_KEYS_MAX = 16
PAST_MESHES_MAX = 16
GRANTS_MAX = 64
"""Roles, offers or requests in one certificate: each capability that its holder names later is held against all of them."""


def widens(child: Certificate, parent: Certificate) -> str:
    """In what `child` grants more than `parent` has: roles, offers, requests or life. Empty: in nothing."""
    if not set(child.roles) <= set(parent.roles):
        return "roles"
    if not within(child.offers, parent.offers):
        return "offers"
    if not within(child.requests, parent.requests):
        return "requests"
    if parent.level == ISSUER and parent.ttl_ms and not 0 < child.not_after_ms - child.not_before_ms <= parent.ttl_ms:
        return "life"
    return ""


@dataclass(frozen=True, slots=True)
class Chain:
    """A verified chain. `certificates` from the issuer's down; `raw` as it travels."""

    raw: bytes
    certificates: tuple[Certificate, ...]

    @property
    def last(self) -> Certificate:
        return self.certificates[-1]

    @property
    def subjects(self) -> tuple[NodeId, ...]:
        return tuple(one.subject for one in self.certificates)

    @property
    def expires_ms(self) -> int:
        """Unix time of the first link's end; 0: none ends."""
        return min((one.not_after_ms for one in self.certificates if one.not_after_ms), default=0)

    @property
    def begins_ms(self) -> int:
        return max(one.not_before_ms for one in self.certificates)


def join_chain(raws: Sequence[bytes]) -> bytes:
    """The bytes of a chain of these certificates."""
    return pack(tuple(raws))


def split_chain(raw: bytes) -> tuple[bytes, ...]:
    """The certificates' bytes in a chain's. Raises Refusal ``bad_certificate``."""
    links = unpack_row(raw)
    if not 1 <= len(links) <= len(LEVELS) or any(type(link) is not bytes for link in links) or pack(links) != raw:
        raise Refusal("bad_certificate")
    return links


class Chains:
    """Reads chains of one mesh. `root(id)` gives the function that verifies under that root key, if it counts today."""

    def __init__(self, mesh: str, root: Callable[[NodeId], ed25519.Verify | None]) -> None:
        self.mesh = mesh
        self._root = root
        self._read: dict[tuple[bytes, ...], Certificate] = {}
        """By its own bytes and those of every link above it: under other links it may be too wide."""
        self.verified = 0

    def read(self, raw: bytes) -> Chain:
        """The chain in `raw`. Raises Refusal: ``other_mesh``, ``bad_certificate``, ``bad_key``, ``widened``, and those of the codec."""
        links = split_chain(raw)
        found: list[Certificate] = []
        for at in range(len(links)):
            found.append(self._link(links[: at + 1], found[-1] if found else None))
        return Chain(raw, tuple(found))

    def root_of(self, raw: bytes) -> NodeId:
        """The root key, by id, under which the chain begins. Raises Refusal."""
        return parts(split_chain(raw)[0])[1]

    def _link(self, links: tuple[bytes, ...], above: Certificate | None) -> Certificate:
        """The last of `links`. The root is looked up each time: it may have been taken away since."""
        tag, author, body, signature = parts(links[-1])
        if above is None:
            verify = self._root(author)
        else:
            verify = ed25519.verifier_of(above.key) if author == above.subject else None
        if tag != "certificate" or verify is None:
            raise Refusal("bad_certificate")
        known = self._read.get(links)
        if known is not None:
            return known
        certificate: Certificate = decode_object(tag, body)
        self._check_shape(LEVELS[len(links) - 1], certificate)
        self.verified += 1
        if not verify(signature, signed_bytes(tag, self.mesh, body)):
            raise Refusal("bad_certificate", certificate.subject)
        if above is not None and widens(certificate, above):
            raise Refusal("widened", certificate.subject)
        self._check_id(certificate, author)
        self._read[links] = certificate
        if len(self._read) > READ_MAX:
            del self._read[next(iter(self._read))]
        return certificate

    def _check_shape(self, level: str, certificate: Certificate) -> None:
        if certificate.mesh != self.mesh:
            raise Refusal("other_mesh", certificate.subject)
        if certificate.level != level or len(certificate.past_keys) > PAST_KEYS_MAX or len(certificate.past_meshes) > PAST_MESHES_MAX:
            raise Refusal("bad_certificate", certificate.subject)
        if max(len(certificate.roles), len(certificate.offers), len(certificate.requests)) > GRANTS_MAX:
            raise Refusal("bad_certificate", certificate.subject)
        for key in (certificate.key, *certificate.past_keys):
            ed25519.check_key(key)

    def _check_id(self, certificate: Certificate, author: NodeId) -> None:
        """Whose id it is. A home's is what its issuer says; an issuer's is its key's; a node's is that of its first key, which vouched for
        its home when it was made: else any home could certify, or revoke, the nodes of others."""
        if certificate.level == HOME:
            return
        if certificate.level == ISSUER:
            is_own = certificate.subject == node_id(certificate.key)
        else:
            is_own = bool(certificate.deed) and self._vouched(certificate.deed) == (certificate.subject, author)
        if not is_own:
            raise Refusal("bad_certificate", certificate.subject)

    def _vouched(self, raw: bytes) -> tuple[NodeId, NodeId]:
        deed: Deed = read_deed(raw).body
        return deed.node, deed.home


def read_deed(raw: bytes) -> Signed:
    """A node's deed, verified under the first key it names. Raises Refusal ``bad_certificate``, ``bad_key``, and those of the codec."""
    tag, author, body, signature = parts(raw)
    if tag != "deed":
        raise Refusal("bad_certificate")
    deed: Deed = decode_object(tag, body)
    if not author == deed.node == node_id(deed.first_key):
        raise Refusal("bad_certificate", author)
    if not ed25519.verifier_of(deed.first_key)(signature, signed_bytes(tag, "", body)):
        raise Refusal("bad_certificate", author)
    return Signed(author, deed, raw)
