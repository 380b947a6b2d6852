"""Who may say whom the mesh believes: its root keys, and what they and those below them have said since the genesis.

    genesis roots --Amendment 1--> roots --Amendment 2--> roots of today          each signed by a root that counted before it
    Revocation: by a root of today, or by somebody in the target's own chain
    Policy: by a root of today, or by an issuer

Invariant: what `open` gives is true and counts from then on; nothing is ever taken back. The trust mode only becomes stricter. Does not
tell anybody (`core/membership/trust.py`), keeps no file, knows no members. Source: The Update Framework's root rotation.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

from mesh.ids import NodeId
from mesh.messages.policy import Policy
from mesh.messages.signed import Signed
from mesh.messages.trust import ISSUER, Amendment, Revocation
from mesh.wire import ed25519
from mesh.wire.chain import LEVELS, Chains
from mesh.wire.codec import decode_object
from mesh.wire.objects import node_id, parts, signed_bytes
from mesh.wire.packing import Refusal

MODES = ("open", "token", "ca")
"""From the loosest to the strictest."""
ROOTS_MAX = 8
REVOCATIONS_MAX = 512
"""About a kilobyte each, with the chain of whom they concern; all of them fit one file and one answer."""
POLICIES_MAX = 16
"""The newest are kept (`TrustLimits.policies_max`)."""
TAGS = ("revocation", "amendment", "policy")


class Authorities:
    """Of one mesh. `roots` are the genesis' root keys; `mode` its trust mode. Raises Refusal ``bad_key``."""

    def __init__(self, mesh: str, roots: Sequence[bytes], mode: str = "open") -> None:
        self.mesh = mesh
        self.mode = mode
        self.roots = tuple(roots)
        self._verify = {node_id(key): ed25519.verifier_of(key) for key in roots}
        self._amended: list[tuple[dict[NodeId, ed25519.Verify], Signed]] = []
        """Each amendment, with the roots that counted before it."""
        self._revoked: dict[tuple[str, NodeId], Signed] = {}
        """By level too: a home's id is what its issuer says, and must not be able to stand for an issuer's."""
        self._said: list[Signed] = []
        self._policies: list[Signed] = []
        """The oldest first; they stand in `_said` too."""
        self.chains = Chains(mesh, self._verify_under)

    def _verify_under(self, root: NodeId) -> ed25519.Verify | None:
        return self._verify.get(root)

    @property
    def root_ids(self) -> tuple[NodeId, ...]:
        return tuple(self._verify)

    @property
    def amendments(self) -> int:
        return len(self._amended)

    def statements(self) -> list[Signed]:
        """All that was said since the genesis, in the order in which it was heard: so it can be opened again, whoever counts today."""
        return self._said[:]

    def revocation_of(self, subjects: Iterable[NodeId]) -> Signed | None:
        """The revocation of any of them: an issuer, its home, the home's node, or the first one or two of these (`Chain.subjects`)."""
        if not self._revoked:  # asked several times for each envelope
            return None
        for place in zip(LEVELS, subjects, strict=False):
            if (found := self._revoked.get(place)) is not None:
                return found
        return None

    # ---- statements

    def open(self, raw: bytes) -> Signed:
        """The statement, verified; from now on it counts.

        Raises Refusal: ``unknown_author``, ``bad_signature``, ``other_mesh``, ``gap`` (an amendment before it is missing), ``downgrade``,
        ``fork`` (another amendment of that number is known), ``not_own`` (a revocation by somebody it is not for), ``too_many`` (never of a
        root), ``revoked`` (a policy of an issuer who was), ``unknown_object``, and those of the codec and of chains.
        """
        tag, author, body, signature = parts(raw)
        if tag not in TAGS:
            raise Refusal("unknown_object", author)
        content = decode_object(tag, body)
        if content.mesh != self.mesh:
            raise Refusal("other_mesh", author)
        if isinstance(content, Amendment):
            return self._amend(Signed(author, content, raw), body, signature)
        if isinstance(content, Policy):
            return self._rule(Signed(author, content, raw), body, signature)
        assert isinstance(content, Revocation), "nothing else is opened here"
        return self._revoke(Signed(author, content, raw), body, signature)

    def _amend(self, signed: Signed, body: bytes, signature: bytes) -> Signed:
        amendment: Amendment = signed.body
        seq = amendment.seq
        if seq > len(self._amended) + 1 or seq < 1:
            raise Refusal("gap", signed.author)
        before = self._amended[seq - 1][0] if seq <= len(self._amended) else self._verify
        verify = before.get(signed.author)
        if verify is None:
            raise Refusal("unknown_author", signed.author)
        if not verify(signature, signed_bytes("amendment", self.mesh, body)):
            raise Refusal("bad_signature", signed.author)
        if seq <= len(self._amended):
            if self._amended[seq - 1][1].raw != signed.raw:
                raise Refusal("fork", signed.author)
            return self._amended[seq - 1][1]
        if amendment.mode not in MODES or MODES.index(amendment.mode) < MODES.index(self.mode):
            raise Refusal("downgrade", signed.author)
        if not 1 <= len(amendment.roots) <= ROOTS_MAX:
            raise Refusal("malformed", signed.author)
        fresh = {node_id(key): ed25519.verifier_of(key) for key in amendment.roots}
        self._amended.append((self._verify, signed))
        self._said.append(signed)
        self._verify, self.roots, self.mode = fresh, amendment.roots, amendment.mode
        return signed

    def _revoke(self, signed: Signed, body: bytes, signature: bytes) -> Signed:
        revocation: Revocation = signed.body
        place = revocation.level, revocation.target
        known = self._revoked.get(place)
        if known is not None and known.raw == signed.raw:
            return known
        verify = self._verify.get(signed.author) or self._in_chain(signed.author, revocation)
        if not verify(signature, signed_bytes("revocation", self.mesh, body)):
            raise Refusal("bad_signature", signed.author)
        if known is not None:  # one is enough
            return known
        if len(self._revoked) >= REVOCATIONS_MAX and signed.author not in self._verify:
            raise Refusal("too_many", signed.author)
        self._revoked[place] = signed
        self._said.append(signed)
        return signed

    def _rule(self, signed: Signed, body: bytes, signature: bytes) -> Signed:
        known = next((one for one in self._policies if one.raw == signed.raw), None)
        if known is not None:
            return known
        verify = self._verify.get(signed.author) or self._as_issuer(signed.author, signed.body)
        if not verify(signature, signed_bytes("policy", self.mesh, body)):
            raise Refusal("bad_signature", signed.author)
        if signed.body.seq < 1:
            raise Refusal("malformed", signed.author)
        self._policies.append(signed)
        self._policies.sort(key=lambda one: (one.body.seq, one.author, hashlib.sha256(one.body.text.encode()).hexdigest()))
        self._said.append(signed)
        if len(self._policies) > POLICIES_MAX:
            revoked = [one for one in self._policies if self.revocation_of((one.author,)) is not None]
            oldest = (revoked or self._policies)[0]
            self._policies.remove(oldest)
            self._said.remove(oldest)
        return signed

    def _as_issuer(self, author: NodeId, policy: Policy) -> ed25519.Verify:
        """The key of an author who is no root: an issuer whose certificate stands, and who was not revoked."""
        if not policy.certificate:
            raise Refusal("unknown_author", author)
        chain = self.chains.read(policy.certificate)
        if len(chain.certificates) != 1 or (chain.last.level, chain.last.subject) != (ISSUER, author):
            raise Refusal("not_own", author)
        if self.revocation_of(chain.subjects) is not None:
            raise Refusal("revoked", author)
        return ed25519.verifier_of(chain.last.key)

    def _in_chain(self, author: NodeId, revocation: Revocation) -> ed25519.Verify:
        """The key of an author who is no root: he must stand in the chain of whom he revokes."""
        if not revocation.certificate:
            raise Refusal("unknown_author", author)
        chain = self.chains.read(revocation.certificate)
        if (chain.last.level, chain.last.subject) == (revocation.level, revocation.target):
            for certificate in chain.certificates:
                if certificate.subject == author:
                    return ed25519.verifier_of(certificate.key)
        raise Refusal("not_own", author)
