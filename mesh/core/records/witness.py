"""Co-signed heads: what this node confirms of others' journals, and what others have confirmed of its own.

    newest head of another author, fits all that is known --round--> kept on disk --next round--> WITNESSED to the author (Cosigner)
    WITNESSED by a peer --fits the own journal?--> kept, the newest of each peer                                          (Cosigned)
                                               '--> contradiction: kept for ever, and said in words

Invariants: no node co-signs two heads of an author that exclude each other, not even across its own restarts, because a head is on disk
before anything is said of it and only a head that is newer than that and fits it is confirmed later; never a forked author's. The own
journal's end cannot be cut off or replaced behind what peers have confirmed without showing: `judge` says which entry it is about.
Does not verify signatures (the wire did). A peer that lies can raise a false alarm, under its own signature; it cannot hide a true one.
Source: Certificate Transparency's witnesses (RFC 9162, co-signed tree heads).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from mesh.core.deadlines import Deadlines
from mesh.core.directory import ReadDirectory
from mesh.core.records.journal import last_of, seal_of
from mesh.effects import Need, Remember, Send
from mesh.ids import NodeId
from mesh.limits import RecordsLimits
from mesh.messages.records import Commit, Witness, Witnessed
from mesh.messages.signed import Signed

OWN_COMMITS = 256
"""Newest own commits of this life that a peer's word is compared with; older ones at the next start, and by `mesh verify`."""


@dataclass(frozen=True, slots=True)
class WitnessDue:
    """Time to confirm the heads that were kept a round ago, and to keep those that have come since."""


class Cosigner:
    """For others. `forked`: authors of whom a proof is known."""

    def __init__(self, directory: ReadDirectory, deadlines: Deadlines, limits: RecordsLimits, forked: Container[NodeId]) -> None:
        self._directory = directory
        self._deadlines = deadlines
        self._limits = limits
        self._forked = forked
        self._fresh: dict[NodeId, Signed] = {}
        self._kept: dict[NodeId, Signed] = {}
        self._said: dict[NodeId, bytes] = {}
        self.given = 0

    def learned(self, now_s: float, head: Signed) -> None:
        """`head` is its author's newest, and fits all that is known of him."""
        if self._said.get(head.author) != seal_of(head):
            self._fresh[head.author] = head
            if self._deadlines.when(WitnessDue()) is None:
                self._deadlines.set(WitnessDue(), now_s + self._limits.witness_s)

    def expire(self, now_s: float, _me: NodeId, due: WitnessDue) -> Iterator[Any]:
        """An author without a link is left out: its head comes again with the link."""
        kept, self._kept = self._kept, self._fresh
        self._fresh = {}
        for author, head in kept.items():
            row = self._directory.get(author)
            if row is not None and row.linked and author not in self._forked:
                self._said[author] = seal_of(head)
                self.given += 1
                yield Send(author, Witnessed((self._sign(now_s, head),)), need=Need.FREE)
        if self._kept:
            self._deadlines.set(due, now_s + self._limits.witness_s)
            yield Remember(tuple(self._kept.values()), soon=True, need=Need.FREE)

    def _sign(self, now_s: float, head: Signed) -> Signed:
        commit: Commit = head.body
        body = Witness(commit.author, commit.incarnation, last_of(commit), seal_of(head), int(now_s * 1000))
        return Signed(self._directory.me, body)


class Cosigned:
    """By others, of the own journal: `incarnation` is this life's, `seq` its last entry. `changed` are those not kept on disk yet."""

    def __init__(self, directory: ReadDirectory, limits: RecordsLimits, incarnation: int, seq: int) -> None:
        self._directory = directory
        self._limits = limits
        self._incarnation = incarnation
        self._seq = seq
        self._commits: deque[Signed] = deque(maxlen=OWN_COMMITS)
        self._earlier: tuple[Signed, ...] = ()
        self._newest: dict[NodeId, Signed] = {}
        self._against: dict[NodeId, Signed] = {}
        """One of each peer, if it contradicts the journal: what follows it does not make it undone."""
        self.changed: dict[NodeId, Signed] = {}

    def grew(self, commit: Signed) -> None:
        """The own journal has a new commit, on disk."""
        self._commits.append(commit)
        self._seq = last_of(commit.body)

    def remembered(self, witnesses: Iterable[Signed], own: tuple[Signed, ...]) -> list[str]:
        """From the own disk; `own` are the commits that it holds in those places. What contradicts, in words."""
        self._earlier = own
        found = [why for signed in witnesses if is_witness(signed, self._directory.me) and (why := self.take(signed))]
        self.changed.clear()
        return found

    def take(self, signed: Signed) -> str:
        """Keep a peer's word. Answers how it contradicts the journal; empty: it fits, or it is too old to tell."""
        peer, why = signed.author, self.judge(signed)
        if why:
            if peer not in self._against and len(self._against) < self._limits.witnesses_max:
                self._against[peer] = self.changed[peer] = signed
            return why
        known = self._newest.get(peer)
        if known is None or _place(signed) > _place(known):
            self._newest[peer] = signed
            if peer not in self._against:
                self.changed[peer] = signed
            if len(self._newest) > self._limits.witnesses_max:
                furthest_behind = min(self._newest, key=lambda one: (_place(self._newest[one]), one))
                del self._newest[furthest_behind]
                self.changed.pop(furthest_behind, None)
        return ""

    def judge(self, signed: Signed) -> str:
        witness: Witness = signed.body
        name = self._directory.name_of(signed.author)
        if witness.incarnation > self._incarnation or witness.last > self._seq:
            return f"{name} co-signed entry {witness.last} of this node's journal, which ends with {self._seq}"
        holding = next((own for own in (*self._commits, *self._earlier) if own.body.first <= witness.last <= last_of(own.body)), None)
        if holding is not None and (last_of(holding.body), seal_of(holding)) != (witness.last, witness.head):
            return f"{name} co-signed another entry {witness.last} than this node's journal holds"
        return ""

    def reach(self) -> tuple[tuple[NodeId, int], ...]:
        """``(peer, entry)``: each has confirmed the journal up to there. Furthest first."""
        return tuple(sorted(((peer, one.body.last) for peer, one in self._newest.items()), key=lambda pair: (-pair[1], pair[0])))

    def all(self) -> tuple[Signed, ...]:
        """As signed, contradictions first."""
        return (*self._against.values(), *self._newest.values())


def is_witness(signed: Signed, author: NodeId) -> bool:
    """It is somebody's word about the journal of `author`, other than his own."""
    body = signed.body
    return isinstance(body, Witness) and body.author == author != signed.author and body.last > 0


def _place(signed: Signed) -> tuple[int, int]:
    return signed.body.incarnation, signed.body.last
