"""What is said of trust: revocations, amendments and policies, held for good and told to everybody before anything else.

    Proclaim (here, or kept from an earlier life) --.                .--> Uphold: keys, links, door, disk --> Outlawed --> membership
    TRUST (a peer's) -------------------------------+--> new? held --+--> Audited, once per statement and node
                                                                     '--> TRUST to every linked peer but the one it came from
    PING, ACK, DIGEST with another digest than ours --> all that is held, to that peer

Invariant: the set only grows (of policies the newest `policies_max` are held, those of revoked issuers last), and two nodes that talk come
to hold the same one, because the digest rides in every beat: who lacks a statement gets it from whoever notices. Order of arrival does not
matter, and a statement that is known is not told on again. Two nodes that cannot agree (a table is full) tell each other ever more seldom.
Believes what the wire has verified, signature and right to say it; decides nothing about whose certificates hang together (the runtime
does, and tells `Outlawed`), which policy is in force (`policy/register.py`), nor what a revoked node's row or work becomes.
Source: Serf and memberlist (keyring messages, push-pull); a grow-only set is the simplest CRDT.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from mesh.core.audit import audited
from mesh.core.directory import Directory
from mesh.core.inputs import Audit, MemberLinked, Proclaim, Replay
from mesh.core.policy.inputs import Stated
from mesh.effects import Append, Need, Refused, Send, Tell, Uphold
from mesh.ids import NodeId
from mesh.limits import Limits
from mesh.messages.membership import Ack, Digest, Ping
from mesh.messages.policy import Policy
from mesh.messages.records import Audited
from mesh.messages.signed import Signed
from mesh.messages.trust import ISSUER, Amendment, Revocation
from mesh.messages.trust import Trust as TrustMessage

REVOKED, AMENDED, RULED = "revoked", "amended", "policy_set"
"""`what` of the entries."""

POLICY, REVOCATION = "policy", "revocation"

DIGEST_MASK = (1 << 63) - 1
"""The wire's integers have 63 bits."""

PEERS_MAX = 4096
"""Peers whose digest differs, remembered so that they are told in measure."""

Effects = Iterator[Any]


@dataclass(frozen=True, slots=True)
class TrustStatistics:
    statements: int
    revocations: int
    digest: int
    told: int
    """Messages sent."""
    differing: int
    """Peers whose set is another one, as far as is known."""


@dataclass(slots=True)
class _Gap:
    """When a peer that differs may be told all again."""

    until_s: float
    gap_s: float


class Trust:
    """One per node. Writes the directory's `trust`, which membership sends along."""

    def __init__(self, directory: Directory, limits: Limits) -> None:
        self._directory = directory
        self._limits = limits.trust
        self._records_limits = limits.records
        self._held: dict[tuple[str, ...], Signed] = {}
        self._of_members = 0
        self._gaps: dict[NodeId, _Gap] = {}
        self._on_record: dict[tuple[str, str, str, str], None] = {}
        """What earlier lives wrote: a statement is audited once per node, not once per start."""
        self._revocations = 0
        self._told = 0
        self.inputs: dict[type, Any] = {
            Replay: self._do_replay,
            Proclaim: self._do_proclaim,
            TrustMessage: self._on_trust,
            MemberLinked: self._on_member_linked,
            Ping: self._on_digest,
            Ack: self._on_digest,
            Digest: self._on_digest,
        }

    # ---- statements

    def _do_replay(self, _now_s: float, _me: NodeId, replay: Replay) -> None:
        """Rebuilds nothing: the statements themselves are kept by the runtime, and come as `Proclaim`."""
        entry = replay.entry
        if type(entry) is Audited and entry.what in (REVOKED, AMENDED, RULED):
            self._on_record[entry.what, entry.about, entry.by, entry.note] = None

    def _do_proclaim(self, now_s: float, me: NodeId, proclaim: Proclaim) -> Effects:
        return self._take(now_s, me, (proclaim.signed,))

    def _on_trust(self, now_s: float, sender: NodeId, message: TrustMessage) -> Effects:
        if len(message.statements) > self._limits.message_statements_max:
            yield Refused("too_many_statements", sender)
            return
        yield from self._take(now_s, sender, message.statements)

    def _take(self, now_s: float, sender: NodeId, statements: Iterable[Signed]) -> Effects:
        """Hold what is new, enforce it, put it on record, and tell everybody else at once."""
        fresh: list[Signed] = []
        for signed in statements:
            identity = identity_of(signed)
            if identity is None:
                yield Refused("no_statement", sender)
            elif identity not in self._held:
                if self._full(signed):
                    yield Refused("trust_full", signed.author)
                    continue
                if not self._hold(identity, signed):
                    continue  # of all policies one of the oldest: nobody holds it any more
                fresh.append(signed)
                yield Uphold(signed, need=Need.FREE)
                yield Tell(Stated(signed))
                yield from self._record(now_s, signed)
        for peer in self._linked() if fresh else ():
            if peer != sender:
                yield from self._tell(peer, fresh)

    def _full(self, signed: Signed) -> bool:
        limits = self._limits
        return len(self._held) >= limits.statements_max or (_of_member(signed) and self._of_members >= limits.members_statements_max)

    def _hold(self, identity: tuple[str, ...], signed: Signed) -> bool:
        """False: not held after all, since newer ones take its place."""
        self._held[identity] = signed
        policies = [one for one in self._held if one[0] == POLICY] if identity[0] == POLICY else []
        if len(policies) > self._limits.policies_max:
            gone = {one[3] for one in self._held if one[0] == REVOCATION and one[2] == ISSUER}
            oldest = min(policies, key=lambda one: (one[3] not in gone, *age_of(one)))
            del self._held[oldest]
            if oldest == identity:
                return False
            self._sum(oldest, -1)
        self._sum(identity, 1)
        self._of_members += _of_member(signed)
        self._revocations += type(signed.body) is Revocation
        return True

    def _sum(self, identity: tuple[str, ...], sign: int) -> None:
        """A sum, so that the order in which statements came leaves no trace in it."""
        digest = hashlib.blake2b("\0".join(identity).encode(), digest_size=8).digest()
        self._directory.trust = (self._directory.trust + sign * int.from_bytes(digest)) & DIGEST_MASK

    def _record(self, now_s: float, signed: Signed) -> Effects:
        entry = audited(_audit(signed), int(now_s * 1000), self._records_limits)
        key = (entry.what, entry.about, entry.by, entry.note)
        if key not in self._on_record:
            self._on_record[key] = None
            yield Append(entry)

    # ---- telling

    def _linked(self) -> list[NodeId]:
        me = self._directory.me
        return [row.node for row in self._directory.rows() if row.linked and row.node != me]

    def _tell(self, peer: NodeId, statements: Iterable[Signed]) -> Effects:
        """In lots of bounded size."""
        lot: list[Signed] = []
        size = 0
        for signed in statements:
            weight = len(signed.raw) or _size_of(signed)
            if lot and (len(lot) >= self._limits.message_statements_max or size + weight > self._limits.message_bytes_max):
                yield self._message(peer, lot)
                lot, size = [], 0
            lot.append(signed)
            size += weight
        if lot:
            yield self._message(peer, lot)

    def _message(self, peer: NodeId, lot: list[Signed]) -> Send:
        self._told += 1
        return Send(peer, TrustMessage(tuple(lot)), need=Need.FREE)

    def _on_member_linked(self, _now_s: float, _me: NodeId, linked: MemberLinked) -> None:
        """Both ends ping a new link at once, and compare: who differs is told then, without a gap."""
        self._gaps.pop(linked.node, None)

    def _on_digest(self, now_s: float, sender: NodeId, message: Ping | Ack | Digest) -> Effects | None:
        """In every beat, so kept short: mostly they agree."""
        if message.trust == self._directory.trust:
            if self._gaps:
                self._gaps.pop(sender, None)
            return None
        return self._differs(now_s, sender)

    def _differs(self, now_s: float, sender: NodeId) -> Effects:
        """One of the two lacks something, or both do: each sends all it has. (Who holds nothing is noticed by the other.)"""
        gap = self._gaps.get(sender)
        if not self._held or (gap is not None and now_s < gap.until_s):
            return
        gap_s = self._limits.gap_s if gap is None else min(2 * gap.gap_s, self._limits.gap_max_s)
        self._gaps[sender] = _Gap(now_s + gap_s, gap_s)
        if len(self._gaps) > PEERS_MAX:
            del self._gaps[next(iter(self._gaps))]
        yield from self._tell(sender, self._held.values())

    # ---- for those who look

    def statements(self) -> tuple[Signed, ...]:
        """All that is held, oldest first."""
        return tuple(self._held.values())

    def statistics(self) -> TrustStatistics:
        return TrustStatistics(len(self._held), self._revocations, self._directory.trust, self._told, len(self._gaps))


def identity_of(signed: Signed) -> tuple[str, ...] | None:
    """What makes a statement a new one; None if it is none of trust. Who revokes the same again, for another reason, says nothing new; two
    amendments of one number by one key are both kept, whichever the wire goes by."""
    body = signed.body
    if type(body) is Revocation:
        return REVOCATION, body.mesh, body.level, body.target, signed.author
    if type(body) is Amendment:
        return "amendment", body.mesh, str(body.seq), signed.author, body.mode, *(root.hex() for root in body.roots)
    if type(body) is Policy:
        return POLICY, body.mesh, str(body.seq), signed.author, hashlib.sha256(body.text.encode()).hexdigest()
    return None


def age_of(identity: tuple[str, ...]) -> tuple[int, str, str]:
    """Of a policy: the greater, the newer; the newest counts."""
    return int(identity[2]), identity[3], identity[4]


def _of_member(signed: Signed) -> bool:
    """Not by a root: it shows the chain in which its author stands."""
    return type(signed.body) is Revocation and bool(signed.body.certificate)


def _audit(signed: Signed) -> Audit:
    body = signed.body
    if type(body) is Revocation:
        return Audit(REVOKED, body.target, signed.author, f"{body.level} {body.name}" + (f": {body.reason}" if body.reason else ""))
    if type(body) is Policy:
        note = f": {body.note}" if body.note else ""
        return Audit(RULED, hashlib.sha256(body.text.encode()).hexdigest(), signed.author, f"version {body.seq} by {body.person}{note}")
    roots = " ".join(root.hex()[:16] for root in body.roots)
    return Audit(AMENDED, body.mesh, signed.author, f"number {body.seq}, mode {body.mode}, roots {roots}")


def _size_of(signed: Signed) -> int:
    """About how many bytes a statement takes that was made here and not signed yet."""
    return 512 + len(getattr(signed.body, "certificate", b"")) + len(getattr(signed.body, "text", ""))
