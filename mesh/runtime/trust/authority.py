"""What a home with keys to sign with may do: certify issuers, homes and its own nodes; amend the roots; revoke.

    root.key --certify_issuer, amend, revoke--> ...      issuer.key --admit, revoke--> homes      home.key --certify_node--> nodes

Invariant: what is signed here would pass every receiver's checks (it is read back through the same chain rules before it leaves); each act
is told to `audit`. Lives are limited by the trust mode. Keeps no lists and talks to nobody.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from mesh.errors import Refused
from mesh.ids import NodeId
from mesh.messages.policy import Policy
from mesh.messages.signed import Signed
from mesh.messages.trust import HOME, ISSUER, NODE, Amendment, Certificate, Revocation
from mesh.runtime.trust.credentials import Credentials
from mesh.wire.chain import PAST_MESHES_MAX, Chain, join_chain, split_chain
from mesh.wire.objects import Signer, node_id
from mesh.wire.packing import Refusal

DAY_MS = 86_400_000
HOME_LIFE_MS = {"open": 0, "token": 90 * DAY_MS, "ca": 7 * DAY_MS}
"""How long a home's certificate lasts, by trust mode; any issuer renews it from half of it on. 0: for ever (this machine only)."""
ISSUER_LIFE_MS = {"open": 0, "token": 730 * DAY_MS, "ca": 90 * DAY_MS}
BEGINS_EARLIER_MS = 120_000
"""A certificate counts from a little before it was made: the clocks of a LAN differ by seconds."""
ISSUER_ROLE = "issuer"


@dataclass(frozen=True, slots=True)
class Grant:
    """What a member may do: roles, and patterns of capability names it may offer and ask for."""

    roles: tuple[str, ...] = ("member",)
    offers: tuple[str, ...] = ("*",)
    requests: tuple[str, ...] = ("*",)


def _unix_ms() -> int:
    return time.time_ns() // 1_000_000


class Authority:
    """Signs for one home. `wall_ms` gives Unix time."""

    def __init__(self, credentials: Credentials, wall_ms: Callable[[], int] = _unix_ms) -> None:
        self.credentials = credentials
        self._wall_ms = wall_ms

    @property
    def can_admit(self) -> bool:
        return self.credentials.issuer_chain() is not None

    @property
    def can_make_issuers(self) -> bool:
        return self.credentials.usable(self.credentials.root_signer) is not None

    # ---- certificates

    def certify_issuer(self, key: bytes, name: str) -> bytes:
        """A certificate for an issuer's key. Raises Refused where the root key is not here."""
        root = self._root()
        life_ms = ISSUER_LIFE_MS[self.credentials.mode]
        home_ms = HOME_LIFE_MS[self.credentials.mode]
        roles = ("member", "worker", "requester", "observer", "approver", ISSUER_ROLE)
        return self._sign(
            root, ISSUER, node_id(key), key, name, life_ms, Grant(roles), ttl_ms=home_ms + BEGINS_EARLIER_MS if home_ms else 0
        )

    def admit(self, home: NodeId, key: bytes, name: str, grant: Grant, life_ms: int = 0) -> bytes:
        """The chain (issuer, home) of a member. `life_ms` 0: the mode's. Raises Refused: this home admits nobody, or not so widely."""
        issuer, issuer_raw = self._issuer()
        longest = HOME_LIFE_MS[self.credentials.mode]
        life_ms = min(life_ms, longest) if life_ms and longest else longest
        raw = self._sign(issuer, HOME, home, key, name, life_ms, grant)
        return self._checked(join_chain((issuer_raw, raw)))

    def certify_node(self, node: NodeId, key: bytes, name: str, *, deed: bytes = b"", past_keys: tuple[bytes, ...] = ()) -> bytes:
        """The chain of one of this home's nodes: it can do what the home can, as long as the home can, and was where the home was."""
        chain, home = self.credentials.chain, self.credentials.home_signer()
        own = chain.last
        certificate = self._certificate(NODE, node, key, name, 0, Grant(own.roles, own.offers, own.requests))
        certificate.not_after_ms = chain.expires_ms
        certificate.deed, certificate.past_keys = deed, past_keys
        certificate.past_meshes = self.credentials.past[-PAST_MESHES_MAX:]
        raw = home.seal(Signed(home.node, certificate))
        return self._checked(join_chain((*split_chain(chain.raw), raw)))

    def _sign(
        self, signer: Signer, level: str, subject: NodeId, key: bytes, name: str, life_ms: int, grant: Grant, ttl_ms: int = 0
    ) -> bytes:
        certificate = self._certificate(level, subject, key, name, life_ms, grant)
        certificate.ttl_ms = ttl_ms
        return signer.seal(Signed(signer.node, certificate))

    def _certificate(self, level: str, subject: NodeId, key: bytes, name: str, life_ms: int, grant: Grant) -> Certificate:
        now_ms = self._wall_ms()
        # Serials grow with time: of two certificates the later one counts.
        return Certificate(
            mesh=self.credentials.mesh,
            level=level,
            subject=subject,
            key=key,
            name=name,
            serial=now_ms,
            not_before_ms=max(0, now_ms - BEGINS_EARLIER_MS) if life_ms else 0,
            not_after_ms=now_ms + life_ms if life_ms else 0,
            roles=grant.roles,
            offers=grant.offers,
            requests=grant.requests,
        )

    def _checked(self, raw: bytes) -> bytes:
        try:
            self.credentials.authorities.chains.read(raw)
        except Refusal as refusal:
            what = "that is more than this home may give" if refusal.reason == "widened" else f"it would not hold: {refusal.reason}"
            raise Refused(f"no certificate was made: {what}", fix="mesh trust", code=refusal.reason) from None
        return raw

    # ---- statements

    def amend(self, roots: tuple[bytes, ...], mode: str, name: str, signer: Signer | None = None) -> Signed:
        """Say which root keys count from now on, and in which mode. Kept on disk before it is given. Raises Refused, HomeError."""
        credentials = self.credentials
        root = signer or self._root()
        seq = credentials.authorities.amendments + 1
        signed = Signed(root.node, Amendment(credentials.mesh, seq, roots, mode, name, self._wall_ms()))
        return self._say(signed, root)

    def revoke(self, chain: Chain, reason: str) -> Signed:
        """Say that nobody may believe the last one of `chain` any more. Raises Refused if that is not for this home to say."""
        target = chain.last
        signer = self._revoker(chain)
        revocation = Revocation(self.credentials.mesh, target.level, target.subject, target.name, reason, self._wall_ms(), chain.raw)
        return self._say(Signed(signer.node, revocation), signer)

    def revoke_issuer(self, key: bytes, name: str, reason: str) -> Signed:
        """Say that nobody may believe an issuer's key any more, nor whom it admitted. Raises Refused where the root key is not here."""
        root = self._root()
        revocation = Revocation(self.credentials.mesh, ISSUER, node_id(key), name, reason, self._wall_ms())
        return self._say(Signed(root.node, revocation), root)

    def _revoker(self, chain: Chain) -> Signer:
        if (root := self.credentials.root_signer()) is not None:
            return root
        issuer = self.credentials.issuer_signer()
        for signer in (issuer[0] if issuer else None, self.credentials.home_signer()):
            if signer is not None and signer.node in chain.subjects and chain.last.level != ISSUER:
                return signer
        raise Refused(
            f"this home can revoke only its own nodes and the homes it admitted, and {chain.last.name} was admitted elsewhere",
            fix="mesh revoke, on the machine where the mesh was made or where it was invited: mesh trust",
            code="not_own",
        )

    def _say(self, signed: Signed, signer: Signer) -> Signed:
        raw = signer.seal(signed)
        try:
            said = self.credentials.authorities.open(raw)
        except Refusal as refusal:
            raise Refused(f"this cannot be said: {refusal.reason}", fix="mesh trust", code=refusal.reason) from None
        self.credentials.keep_statements()
        return said

    def rule(self, text: str, seq: int, person: str, note: str) -> Signed:
        """The mesh's policy from now on, as version `seq`: by the root's key where it lies here, else by the issuer's. Raises Refused."""
        signer, certificate = self.credentials.root_signer(), b""
        if signer is None:
            signer, raw = self._issuer()
            certificate = join_chain((raw,))
        policy = Policy(self.credentials.mesh, seq, text, person, note, self._wall_ms(), certificate)
        return self._say(Signed(signer.node, policy), signer)

    # ---- keys

    def _root(self) -> Signer:
        root = self.credentials.root_signer()
        if root is None:
            raise Refused(
                "the root key of this mesh is not on this machine", fix="do it on the machine where `mesh init` was typed", code="no_root"
            )
        return root

    def _issuer(self) -> tuple[Signer, bytes]:
        issuer = self.credentials.issuer_signer()
        if issuer is None:
            raise Refused(
                "this machine cannot admit members", fix="mesh grant issuer NODE, on the machine where the mesh was made", code="no_issuer"
            )
        return issuer
