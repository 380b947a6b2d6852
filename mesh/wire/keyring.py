"""The ring of keys a node believes: members by the chains they showed, and statements by whom they were signed.

    alive, hello, welcome --carry their author's chain--> `introduce` --> member: key of today, keys of before, rights
    alive, suspect, left, commit, hello, welcome, binding, ... --`open`--> verified statement        revocations: `authorities.py`
    a block of a kept log: commit, yield with its votes --`open_kept`--> verified, also if its author was revoked since

Invariant: a `Signed` that leaves `open` was signed by its author, whom an unbroken chain from a root of this mesh vouches for and nobody
has revoked; it keeps the bytes it came as. Only in a kept log does who was revoked count, for what he signed. Expiry keeps strangers out,
but does not part members who know each other, except in mode ``ca``. Does not decide what a member may do (`authorization.py`). Source:
docs/protocol.md.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from mesh.ids import NodeId
from mesh.limits import MembershipLimits
from mesh.messages.keeping import Yield
from mesh.messages.membership import Alive, Left
from mesh.messages.records import Commit
from mesh.messages.session import Hello, Welcome
from mesh.messages.signed import Signed
from mesh.messages.trust import NODE, Binding
from mesh.wire import ed25519
from mesh.wire.authorities import TAGS as TRUST_TAGS
from mesh.wire.authorities import Authorities
from mesh.wire.authorization import Rights, rights_of
from mesh.wire.chain import Chain
from mesh.wire.codec import decode_object
from mesh.wire.objects import parts, signed_bytes
from mesh.wire.packing import Refusal
from mesh.wire.patterns import covers

MEMBERS_MAX = 4 * MembershipLimits().rows_max
"""Keys remembered. Only holders of a certificate get in; the first to come is the first forgotten, and introduces itself again."""
OPENED_BYTES_MAX = 8 * 1024 * 1024
"""Verified statements remembered, by size: a rumour comes from several sides, and is verified once."""
OLD_KEY_MS = 3_600_000
"""After a node took a new identity key, what it had signed with the old one and is still under way counts so long."""
STATEMENTS = (*TRUST_TAGS, "alive", "suspect", "left", "commit", "witness", "yield", "ballot", "binding", "hello", "welcome", "verdict")
"""Tags of what stands alone; other signed objects are opened elsewhere, or are parts of these."""
JOURNALED = ("commit", "yield")
"""Tags of what stands in a log for ever: whatever key its author had then counts."""


class Reading(NamedTuple):
    """How statements are read, by where they are found."""

    tags: Sequence[str]
    """Others are refused here. Nothing nests deeper than this says, or a few kilobytes would exhaust the stack."""
    lasting: Sequence[str] = JOURNALED
    """Tags of what counts under any key that its author ever had."""
    history: Sequence[str] = ()
    """Tags of what counts although its author has been revoked, or has expired, since."""


SAID = Reading(STATEMENTS)
KEPT = Reading(STATEMENTS, history=JOURNALED)
"""In the blocks of a log that is kept."""
GREETED = Reading(("alive", "binding"))
"""Inside a hello or welcome."""
VOTED = Reading(("ballot",), lasting=("ballot",))
"""Inside a yield: they are as old as it is."""
KEPT_VOTED = Reading(("ballot",), lasting=("ballot",), history=("ballot",))

EARLY_MS = 120_000
"""A certificate may begin so much later than our clock says: the issuer's may be ahead of it."""


@dataclass(slots=True)
class Member:
    """What the chain of a node says, and how its signatures are verified."""

    node: NodeId
    home: NodeId
    issuer: NodeId
    serial: int
    expires_ms: int
    chain: bytes
    key: bytes
    rights: Rights
    verify: ed25519.Verify
    before: tuple[ed25519.Verify, ...]
    """Earlier keys, the first one first: they count in journals for ever, and for the rest only the last, until `before_until_ms`."""
    before_until_ms: int
    key_before: bytes
    """The last of them, as it is."""
    past_meshes: tuple[str, ...]
    """In which its journal was written before: commits signed there count as well."""
    issuer_name: str
    home_name: str


@dataclass(frozen=True, slots=True)
class KeyringStatistics:
    backend: str
    members: int
    verified: int
    remembered: int
    """Statements that came again and were not verified again."""
    cached_bytes: int
    revoked: int
    refused: dict[str, int]
    """Statements turned down, by reason."""


class Keyring:
    """The keys of one mesh's members. `wall_ms` is Unix time, for validity."""

    def __init__(
        self,
        mesh: str,
        roots: Sequence[bytes],
        mode: str = "open",
        wall_ms: Callable[[], int] = lambda: int(time.time() * 1000),
    ) -> None:
        self.mesh = mesh
        self.authorities = Authorities(mesh, roots, mode)
        self._wall_ms = wall_ms
        self._members: dict[NodeId, Member] = {}
        self._gone: dict[NodeId, Member] = {}
        """Who was revoked, or was never met: no members, but their keys verify what they had signed in logs that are kept."""
        self._opened: dict[bytes, Signed] = {}
        self._opened_bytes = 0
        self._verified = 0
        self._remembered = 0
        self._refused: dict[str, int] = {}

    # ---- members

    def introduce(self, raw: bytes, *, recalled: bool = False) -> NodeId:
        """Learn a member from its chain; returns the node. A chain whose serial is not above the known one changes nothing.

        `recalled`: it was known in an earlier life of this node, so it may have expired since; and if it was revoked, its keys are kept for
        what it had signed in logs. Raises Refusal: ``revoked``, ``expired``, ``not_yet_valid``, ``other_home`` (the id belongs to another
        home), ``bad_certificate``, and those of `Chains.read`.
        """
        member = self._read_member(raw, recalled)
        self._keep(member)
        return member.node

    def _read_member(self, raw: bytes, recalled: bool = False) -> Member:
        chain = self.authorities.chains.read(raw)
        last = chain.last
        if last.level != NODE:
            raise Refusal("bad_certificate", last.subject)
        if self.authorities.revocation_of(chain.subjects) is not None:
            if recalled:  # only then: whoever could show us chains of a stolen home would push out those that count
                self._bury(self._member(chain, None))
            raise Refusal("revoked", last.subject)
        known = self._members.get(last.subject)
        if not recalled:
            self._check_time(chain, known)
        if known is not None and known.home != chain.certificates[1].subject:
            raise Refusal("other_home", last.subject)
        return self._member(chain, known)

    def _keep(self, member: Member) -> None:
        known = self._members.get(member.node)
        if known is not None and known.serial >= member.serial:
            return
        self._members[member.node] = member
        if len(self._members) > MEMBERS_MAX:
            del self._members[next(iter(self._members))]

    def _bury(self, member: Member) -> None:
        self._gone[member.node] = member
        if len(self._gone) > MEMBERS_MAX:
            del self._gone[next(iter(self._gone))]

    def _check_time(self, chain: Chain, known: Member | None) -> None:
        now_ms, node = self._wall_ms(), chain.last.subject
        if now_ms + EARLY_MS < chain.begins_ms:
            raise Refusal("not_yet_valid", node)
        if chain.expires_ms and now_ms > chain.expires_ms:
            is_known = known is not None and known.key == chain.last.key
            if not is_known or self.authorities.mode == "ca":
                raise Refusal("expired", node)

    def _member(self, chain: Chain, known: Member | None) -> Member:
        issuer, home, node = chain.certificates
        moved = known is not None and known.key != node.key
        return Member(
            node=node.subject,
            home=home.subject,
            issuer=issuer.subject,
            serial=node.serial,
            expires_ms=chain.expires_ms,
            chain=chain.raw,
            key=node.key,
            rights=rights_of(node.roles, node.offers, node.requests),
            verify=ed25519.verifier_of(node.key),
            before=tuple(ed25519.verifier_of(key) for key in node.past_keys),
            before_until_ms=self._wall_ms() + OLD_KEY_MS if moved else known.before_until_ms if known else 0,
            key_before=node.past_keys[-1] if node.past_keys else b"",
            past_meshes=node.past_meshes,
            issuer_name=issuer.name,
            home_name=home.name,
        )

    def member(self, node: NodeId) -> Member | None:
        """What is known of a node that was introduced, unless it was revoked or, in mode ``ca``, has expired since."""
        member = self._members.get(node)
        return None if member is None or self._ended(member) else member

    def _ended(self, member: Member) -> str:
        """Why a member is none any more. Empty: it is one."""
        if self.authorities.revocation_of((member.issuer, member.home, member.node)) is not None:
            return "revoked"
        is_over = member.expires_ms and self.authorities.mode == "ca" and self._wall_ms() > member.expires_ms
        return "expired" if is_over else ""

    def has_key(self, node: NodeId, key: bytes) -> bool:
        """Whether `key` is the identity key of a known member: that of today, or a little longer the one before."""
        member = self.member(node)
        if member is None:
            return False
        return member.key == key or (member.key_before == key and self._wall_ms() < member.before_until_ms)

    def members(self) -> list[Member]:
        """All known, in the order in which they were met."""
        return list(self._members.values())

    def learn_author(self, raw: bytes, authors: Container[NodeId]) -> None:
        """By its chain, one of the `authors` of a kept log, who may be gone: his keys count for what he signed in it, and nothing else. A
        chain that nobody needs, or that is not believed (under a root that was taken away since), changes nothing."""
        try:
            chain = self.authorities.chains.read(raw)
            node = chain.last.subject
            if chain.last.level == NODE and node in authors and node not in self._members and self._adds_keys(chain):
                self._bury(self._member(chain, None))
        except Refusal as refusal:
            self._refused[refusal.reason] = self._refused.get(refusal.reason, 0) + 1

    def _adds_keys(self, chain: Chain) -> bool:
        """Whoever holds a stolen home's key may certify any later key: what verified before must go on to."""
        known = self._gone.get(chain.last.subject)
        return known is None or (
            known.home == chain.certificates[1].subject and _keys(self.authorities.chains.read(known.chain)) < _keys(chain)
        )

    def chain_of(self, author: NodeId) -> bytes:
        """Of a member, or of who was one; empty: not known."""
        member = self._members.get(author) or self._gone.get(author)
        return member.chain if member is not None else b""

    def chains(self) -> list[bytes]:
        """Of all members, and of those who were revoked: what to remember for the next life. Not of those who never showed themselves."""
        revoked = [member.chain for member in self._gone.values() if self._ended(member) == "revoked"]
        return revoked + [member.chain for member in self._members.values()]

    def forget_revoked(self) -> list[NodeId]:
        """Drop the members whom a revocation concerns by now; returns who they were. They have counted for nothing since it was opened, but
        for what they had signed in logs that are kept."""
        gone = [node for node, member in self._members.items() if self._ended(member) == "revoked"]
        for node in gone:
            self._bury(self._members.pop(node))
        return gone

    # ---- signatures

    def verify(self, node: NodeId, data: bytes, signature: bytes) -> bool:
        """Whether `node`, a known member, signed exactly `data` (see `signed_bytes`): with its key of today, or a little longer with the
        one before."""
        member = self.member(node)
        if member is None:
            return False
        self._verified += 1
        return any(verify(signature, data) for verify in (member.verify, *self._key_before(member)))

    def _key_before(self, member: Member) -> tuple[ed25519.Verify, ...]:
        """The one that the key of today replaced, as long as it counts; those before it, perhaps given up because stolen, never again."""
        return member.before[-1:] if self._wall_ms() < member.before_until_ms else ()

    def open(self, raw: bytes) -> Signed:
        """The statement in `raw`, verified. Treat it as a value: mostly the same object is given again for the same bytes.

        An `alive`, `hello` or `welcome` carries its author's chain and introduces him; a revocation or an amendment counts from now on.
        Raises Refusal: ``unknown_author``, ``revoked``, ``expired``, ``bad_signature``, ``not_own`` (he speaks for somebody else, or shows
        what is another's), ``not_granted`` (he offers what he may not), ``unknown_object`` (nothing that is opened here), those of
        `introduce` and of `Authorities.open`, ``not_canonical``, ``malformed``, ...
        """
        return self._open_counted(raw, SAID)

    def open_kept(self, raw: bytes) -> Signed:
        """As `open`, for the head of a block in a kept log: there a commit or a `Yield`, with the votes in it, counts by any key that its
        author had, though he has been revoked or has expired since. Everything else only as `open` takes it. Raises Refusal: as `open`."""
        return self._open_counted(raw, KEPT)

    def _open_counted(self, raw: bytes, how: Reading) -> Signed:
        try:
            return self._open(raw, how)
        except Refusal as refusal:
            self._refused[refusal.reason] = self._refused.get(refusal.reason, 0) + 1
            raise

    def _open(self, raw: bytes, how: Reading) -> Signed:
        known = self._opened.get(raw)
        if known is not None and self.member(known.author) is not None:
            self._remembered += 1
            return known
        tag, author, body, signature = parts(raw)
        if tag not in how.tags:
            raise Refusal("unknown_object", author)
        if tag in TRUST_TAGS:
            self._verified += 1
            return self.authorities.open(raw)
        content = decode_object(tag, body, lambda inner: self._open(inner, _inside(tag, how)))
        member = self._author(author, content, is_history=tag in how.history)
        if not _is_own(author, content):
            raise Refusal("not_own", author)
        if not self._holds(member, tag, body, signature, is_lasting=tag in how.lasting):
            raise Refusal("bad_signature", author)
        if type(content) is Alive:
            if not all(covers(member.rights.offers, offer.capability) for offer in content.offers):
                raise Refusal("not_granted", author)
            self._keep(member)
        signed = Signed(author, content, raw)
        if tag == "yield" or "ballot" in how.lasting or self.member(author) is None:
            return signed  # elsewhere it would be judged differently, itself or what it holds: so it is, each time
        return self._remember(signed)

    def _author(self, author: NodeId, content: Any, is_history: bool) -> Member:
        """Who says it. An own row brings its author's chain; it counts once the row's signature has held, so nobody else can show it."""
        known = self._members.get(author)
        if type(content) is Alive and content.certificate and (known is None or known.chain != content.certificate):
            shown = self._read_member(content.certificate)
            if shown.node != author:
                raise Refusal("not_own", author)
            if known is None or known.serial < shown.serial:
                return shown
        if is_history and (past := known or self._gone.get(author)) is not None:
            return past
        if known is None:
            revoked = self.authorities.revocation_of(("", "", author)) is not None
            raise Refusal("revoked" if revoked else "unknown_author", author)
        if why := self._ended(known):
            raise Refusal(why, author)
        return known

    def _holds(self, member: Member, tag: str, body: bytes, signature: bytes, is_lasting: bool) -> bool:
        """Whether the member signed it: with the key of today, or one of before where that still counts."""
        self._verified += 1
        if is_lasting:
            meshes, keys = (self.mesh, *member.past_meshes), member.before
        else:
            meshes, keys = (self.mesh,), self._key_before(member)
        return any(verify(signature, signed_bytes(tag, mesh, body)) for mesh in meshes for verify in (member.verify, *keys))

    def _remember(self, signed: Signed) -> Signed:
        self._opened[signed.raw] = signed
        self._opened_bytes += len(signed.raw)
        while self._opened_bytes > OPENED_BYTES_MAX:
            oldest = next(iter(self._opened))
            del self._opened[oldest]
            self._opened_bytes -= len(oldest)
        return signed

    def statistics(self) -> KeyringStatistics:
        return KeyringStatistics(
            ed25519.BACKEND,
            len(self._members),
            self._verified,
            self._remembered,
            self._opened_bytes,
            sum(signed.body.__class__.__name__ == "Revocation" for signed in self.authorities.statements()),
            dict(self._refused),
        )


def _keys(chain: Chain) -> set[bytes]:
    """All that its node ever had, as far as it says."""
    return {chain.last.key, *chain.last.past_keys}


def _inside(tag: str, how: Reading) -> Reading:
    """How what a statement of this tag holds is read."""
    if tag != "yield":
        return GREETED
    return KEPT_VOTED if tag in how.history else VOTED


def _is_own(author: NodeId, content: Any) -> bool:
    """Whether it is for `author` to say: most statements are only for the node they are about."""
    if isinstance(content, Alive | Left | Binding):
        return content.node == author
    if isinstance(content, Commit):
        return content.author == author
    if isinstance(content, Yield):
        return content.taker == author
    if isinstance(content, Hello | Welcome):
        row, binding = content.alive, content.binding
        return isinstance(row.body, Alive) and isinstance(binding.body, Binding) and row.author == binding.author == author
    return True
