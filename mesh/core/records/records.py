"""What is known of journals: opens the own one, gossips heads, keeps proofs of forks, answers questions about what is written.

    own commit (NewHead) --at most every heads_gossip_s--> HEADS to all linked peers --> co-signatures (witness.py) --> kept
    MemberLinked         --------------------------------> the whole table of heads, and every FORK
    Ask story|hash|body|audit --> ReadStory | ReadBody --> StoryRead | BodyRead --> Answer
    Audit, suspicious Refused --at most so many a minute--> Audited entries

Invariant: per author the newest heads are kept, and two commits that cannot both be in one journal become a proof that is kept for ever and
passed on once. A head of one's own, or a peer's co-signature of it, that the own disk does not know means that an old copy of the disk came
back to life or its end was cut off: `rolled_back` is set, for people to see, goes on record, and is never cleared. Does not verify
signatures (the wire did) and ships no entries by itself: who wants them asks.
Source: Certificate Transparency's gossip of signed tree heads; SSB's fork proofs.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from mesh.core.audit import SUSPICIOUS, Tally, audited
from mesh.core.deadlines import Deadlines
from mesh.core.directory import ReadDirectory
from mesh.core.inputs import (
    Audit,
    BodyRead,
    KeyReplaced,
    Leave,
    MemberLinked,
    NewHead,
    Remembered,
    Replay,
    Started,
    StoreFailed,
    StoryRead,
)
from mesh.core.keeping.inputs import RolledBack
from mesh.core.records.journal import AUDIT, conflict, last_of, newer
from mesh.core.records.witness import Cosigned, Cosigner, WitnessDue, is_witness
from mesh.effects import Append, Need, ReadBody, ReadStory, Refused, Remember, Send, Tell
from mesh.ids import NodeId
from mesh.limits import RecordsLimits
from mesh.messages.records import Audited, Commit, Fork, Heads, Opened, Rekeyed, Witnessed
from mesh.messages.signed import Signed
from mesh.messages.work import Answer, Ask

HEADS_PER_AUTHOR = 4
"""A fork shows against any of an author's last few heads, not only against the newest."""

LIVES_MAX = 64
"""Of this node, whose ends are remembered, to know what an earlier life cannot have signed. What still older ones signed is believed."""

ROLLED_BACK = "rolled_back"
"""What goes on record of it."""

OWN_HEADS = 256
"""Own commits of this life that are remembered, to know them again when a peer shows one."""

FIRST_TOKEN = 1 << 48
"""Tokens of reads are drawn from here on, so that completions of other machines' reads are never taken for ours."""


@dataclass(frozen=True, slots=True)
class HeadsDue:
    """The own newest head may be gossiped again."""


@dataclass(frozen=True, slots=True)
class TableDue:
    """Time to give one peer in turn the whole table, and to keep what is new in it."""


@dataclass(frozen=True, slots=True)
class Beginning:
    """What the first commit of this life has to say beside its incarnation: that the node is in another mesh than before (`mesh`), or signs
    with another key (`handovers`: from the key before to that of today)."""

    mesh: str = ""
    handovers: tuple[Rekeyed, ...] = ()


@dataclass(frozen=True, slots=True)
class TallyDue:
    """The minute of counted refusals is over."""


@dataclass(frozen=True, slots=True)
class RecordsStatistics:
    head_seq: int
    authors: int
    forks: int
    """Authors of whom a proof of a fork is known."""
    forked: tuple[NodeId, ...]
    rolled_back: str
    """Why this node's disk must be an old copy; empty while nothing says so."""
    failed: str
    """Why the journal cannot be written any more; empty while it can."""
    asks_waiting: int
    witnessed: tuple[tuple[NodeId, int], ...]
    """``(peer, entry)``: who has co-signed this node's journal, and up to where; furthest first."""
    witnesses_given: int


class Records:
    """One per node. `head` and `head_seq` are the last durable commit's hash and last entry; `incarnation` is this life's."""

    def __init__(
        self,
        directory: ReadDirectory,
        deadlines: Deadlines,
        limits: RecordsLimits,
        *,
        incarnation: int,
        name: str,
        head: bytes,
        head_seq: int,
        begins: Beginning | None = None,
    ) -> None:
        self._directory = directory
        self._deadlines = deadlines
        self._limits = limits
        self._incarnation = incarnation
        self._name = name
        self._opened_at = (head, head_seq)
        self._begins = begins or Beginning()
        self._head_seq = head_seq
        self._own: deque[Signed] = deque(maxlen=OWN_HEADS)
        self._heads: dict[NodeId, deque[Signed]] = {}
        self._forks: dict[NodeId, Fork] = {}
        self._unsaved: dict[NodeId, Signed] = {}
        self._gossiped_at_s = float("-inf")
        self._round = 0
        self._lives: deque[tuple[int, int]] = deque(maxlen=LIVES_MAX)
        """``(incarnation, number of the last entry before it)`` of each opening in the own journal."""
        self._rolled_back = ""
        self._to_admit = ""
        self._failed = ""
        self._token = FIRST_TOKEN
        self._asks: dict[int, tuple[NodeId, int]] = {}
        self._cosigner = Cosigner(directory, deadlines, limits, self._forks)
        self._cosigned = Cosigned(directory, limits, incarnation, head_seq)
        self._tally = Tally(directory.me, limits)
        self.inputs: dict[type, Any] = {
            Replay: self._on_replay,
            Remembered: self._on_remembered,
            Started: self._on_started,
            StoreFailed: self._on_store_failed,
            NewHead: self._on_new_head,
            KeyReplaced: self._do_replace_key,
            MemberLinked: self._on_member_linked,
            Heads: self._on_heads,
            Fork: self._on_fork,
            Witnessed: self._on_witnessed,
            Audit: self._do_audit,
            Leave: self._expire_tally,
            Refused: self._on_refused,
            Ask: self._on_ask,
            StoryRead: self._on_story_read,
            BodyRead: self._on_body_read,
            HeadsDue: self._expire_heads,
            TableDue: self._expire_table,
            WitnessDue: self._cosigner.expire,
            TallyDue: self._expire_tally,
        }

    # ---- the own journal

    def _on_replay(self, now_s: float, sender: NodeId, replay: Replay) -> None:
        """The chain was checked by the store. Where lives began tells what those before had signed; an old disk once admitted stays so."""
        entry = replay.entry
        if type(entry) is Opened:
            self._lives.append((entry.incarnation, replay.seq - 1))
        elif type(entry) is Audited and entry.what == ROLLED_BACK:
            self._rolled_back = entry.note

    def _on_started(self, now_s: float, sender: NodeId, started: Started) -> Iterator[Any]:
        head, seq = self._opened_at
        self._deadlines.set(TableDue(), now_s + self._table_s())
        self._lives.append((self._incarnation, seq))
        yield Append(Opened(self._incarnation, head, seq, self._name, self._begins.mesh))
        for handover in self._begins.handovers:
            yield Append(handover)
        if self._to_admit:
            yield from self._admit(now_s)
        elif self._rolled_back:
            yield Tell(RolledBack())

    def _do_replace_key(self, now_s: float, sender: NodeId, replaced: KeyReplaced) -> Iterator[Any]:
        yield Append(Rekeyed(replaced.old_key, replaced.new_key, replaced.proof, replaced.at_ms))

    def _on_new_head(self, now_s: float, sender: NodeId, new: NewHead) -> None:
        self._own.append(new.signed)
        self._cosigned.grew(new.signed)
        self._head_seq = last_of(new.signed.body)
        if self._deadlines.when(HeadsDue()) is None:
            self._deadlines.set(HeadsDue(), max(now_s, self._gossiped_at_s + self._limits.heads_gossip_s))

    def _on_store_failed(self, now_s: float, sender: NodeId, failed: StoreFailed) -> None:
        self._failed = failed.message

    # ---- gossip

    def _expire_heads(self, now_s: float, sender: NodeId, due: HeadsDue) -> Iterator[Any]:
        self._gossiped_at_s = now_s
        if self._own:
            for peer in self._linked():
                yield Send(peer, Heads((self._own[-1],)), need=Need.FREE)

    def _expire_table(self, now_s: float, sender: NodeId, due: TableDue) -> Iterator[Any]:
        self._deadlines.set(TableDue(), now_s + self._table_s())
        if self._unsaved or self._cosigned.changed:
            heads, self._unsaved = tuple(self._unsaved.values()), {}
            witnesses, self._cosigned.changed = tuple(self._cosigned.changed.values()), {}
            yield Remember(heads, tuple(self._forks.values()), witnesses, need=Need.FREE)
        peers = self._linked()
        if peers:
            self._round += 1
            yield from self._table_to(peers[self._round % len(peers)])

    def _table_s(self) -> float:
        return self._limits.heads_gossip_s * self._limits.heads_table_rounds

    def _on_member_linked(self, now_s: float, sender: NodeId, linked: MemberLinked) -> Iterator[Any]:
        yield from self._table_to(linked.node)
        for fork in self._forks.values():
            yield Send(linked.node, fork, need=Need.FREE)
        if (heads := self._heads.get(linked.node)) and linked.node not in self._forks:
            self._cosigner.learned(now_s, heads[-1])

    def _table_to(self, peer: NodeId) -> Iterator[Any]:
        """All newest heads, and of the peer's own all that are known: that is how he learns that his disk is an old copy."""
        newest = [heads[-1] for author, heads in self._heads.items() if author != peer]
        newest += self._heads.get(peer, ())
        if self._own:
            newest.append(self._own[-1])
        lots = iter(newest)
        while lot := tuple(islice(lots, self._limits.heads_message_max)):
            yield Send(peer, Heads(lot), need=Need.FREE)

    def _linked(self) -> list[NodeId]:
        me = self._directory.me
        return [row.node for row in self._directory.rows() if row.linked and row.node != me]

    def _on_heads(self, now_s: float, sender: NodeId, message: Heads) -> Iterator[Any]:
        if len(message.heads) > self._limits.heads_message_max:
            yield Refused("too_many_heads", sender)
            return
        for signed in message.heads:
            if not _is_head(signed):
                yield Refused("bad_head", sender)
            elif signed.author == self._directory.me:
                yield from self._check_own(sender, signed)
            else:
                yield from self._learn(now_s, signed)
        yield from self._admit(now_s)

    def _learn(self, now_s: float, signed: Signed) -> Iterator[Any]:
        """Keep a newer head, or find that it and a known one exclude each other."""
        known = self._heads.get(signed.author)
        if known is None:
            if len(self._heads) >= self._limits.heads_max:
                yield Refused("heads_full", signed.author)
                return
            known = self._heads[signed.author] = deque(maxlen=HEADS_PER_AUTHOR)
        for other in known:
            if conflict(signed.body, other.body):
                yield from self._proven(_proof(other, signed))
                return
        if not known or newer(signed.body, known[-1].body):
            known.append(signed)
            self._unsaved[signed.author] = signed
            self._cosigner.learned(now_s, signed)

    def _check_own(self, sender: NodeId, signed: Signed) -> Iterator[Any]:
        """A head in our own name: this life's newest are in `_own`, and what came before must end where the next life began."""
        commit: Commit = signed.body
        if self._own and commit == self._own[-1].body:
            return
        for own in self._own:
            if conflict(own.body, commit):
                yield from self._proven(_proof(own, signed))
                return
        end = next((seq for life, seq in self._lives if life > commit.incarnation), self._head_seq)
        if last_of(commit) > end or commit.incarnation > self._incarnation:
            self._note_rolled_back(f"this node signed entries up to {last_of(commit)}, which its disk does not hold")
            yield Refused("own_head_ahead", sender)

    # ---- forks

    def _on_fork(self, now_s: float, sender: NodeId, fork: Fork) -> Iterator[Any]:
        one, other = fork.one, fork.other
        if not (_is_head(one) and _is_head(other) and one.author == other.author == fork.author and conflict(one.body, other.body)):
            yield Refused("no_fork", sender)
        else:
            yield from self._proven(_proof(one, other))
            yield from self._admit(now_s)

    def _proven(self, fork: Fork) -> Iterator[Any]:
        """The first proof about an author is kept and passed on once; more say nothing new."""
        if fork.author in self._forks:
            return
        if len(self._forks) >= self._limits.forks_max:
            yield Refused("forks_full", fork.author)
            return
        self._keep(fork)
        yield Refused("fork", fork.author)
        yield Remember((), tuple(self._forks.values()), need=Need.FREE)
        for peer in self._linked():
            yield Send(peer, fork, need=Need.FREE)

    def _keep(self, fork: Fork) -> None:
        self._forks[fork.author] = fork
        if fork.author == self._directory.me:
            first, last = max(fork.one.body.first, fork.other.body.first), min(last_of(fork.one.body), last_of(fork.other.body))
            self._note_rolled_back(f"this node signed the entries {first} to {max(first, last)} twice, differently")

    def _note_rolled_back(self, why: str) -> None:
        if not self._rolled_back:
            why = f"{why}: an old copy of its folder came back, its end was cut off, or two nodes run on it"
            self._rolled_back = self._to_admit = why

    def _admit(self, now_s: float) -> Iterator[Any]:
        """On record, once: the next life of this node knows it too."""
        if self._to_admit:
            me, why, self._to_admit = self._directory.me, self._to_admit, ""
            yield Append(audited(Audit(ROLLED_BACK, me, me, why), int(now_s * 1000), self._limits))
            yield Tell(RolledBack())

    def _on_remembered(self, now_s: float, sender: NodeId, remembered: Remembered) -> None:
        """From our own disk, before `Started`. What does not fit the limits any more is left out."""
        for signed in remembered.heads[: self._limits.heads_max]:
            if _is_head(signed) and signed.author != self._directory.me:
                self._heads[signed.author] = deque((signed,), maxlen=HEADS_PER_AUTHOR)
        for fork in remembered.forks[: self._limits.forks_max]:
            if _is_head(fork.one) and _is_head(fork.other):
                self._keep(fork)
        for why in self._cosigned.remembered(remembered.witnesses, remembered.own):
            self._note_rolled_back(why)

    # ---- co-signatures

    def _on_witnessed(self, now_s: float, sender: NodeId, message: Witnessed) -> Iterator[Any]:
        if len(message.witnesses) > self._limits.heads_message_max:
            yield Refused("too_many_heads", sender)
            return
        for signed in message.witnesses:
            if not is_witness(signed, self._directory.me):
                yield Refused("bad_witness", sender)
            elif why := self._cosigned.take(signed):
                self._note_rolled_back(why)
                yield Refused("witness_differs", signed.author)
        yield from self._admit(now_s)

    def witnesses(self) -> tuple[Signed, ...]:
        """What peers have co-signed of this node's journal, as they signed it; what contradicts it first."""
        return self._cosigned.all()

    # ---- what goes on record

    def _do_audit(self, now_s: float, sender: NodeId, audit: Audit) -> Iterator[Any]:
        if audit.what == ROLLED_BACK:
            self._note_rolled_back(audit.note)
            yield from self._admit(now_s)
            return
        yield Append(audited(audit, int(now_s * 1000), self._limits))

    def _on_refused(self, now_s: float, _me: NodeId, refused: Refused) -> None:
        """Of any machine of this node."""
        if refused.reason in SUSPICIOUS:
            self._tally.note(now_s, refused.reason, refused.peer)
            if self._deadlines.when(TallyDue()) is None and self._tally.due_s is not None:
                self._deadlines.set(TallyDue(), self._tally.due_s)

    def _expire_tally(self, now_s: float, sender: NodeId, due: TallyDue | Leave) -> Iterator[Any]:
        for audit in self._tally.take():
            yield Append(audited(audit, int(now_s * 1000), self._limits))

    # ---- questions

    def _on_ask(self, now_s: float, sender: NodeId, ask: Ask) -> Iterator[Any]:
        if ask.question not in ("story", "hash", "body", AUDIT):
            return
        if len(self._asks) >= self._limits.asks_max:
            yield Refused("asks_full", sender)
            yield _no(sender, ask.ask, "busy", "this node answers too many questions at once", "ask again in a moment")
            return
        wish = _wish(ask.args)
        if wish is None:
            yield Refused("bad_ask", sender)
            yield _no(sender, ask.ask, "bad_question", "the question's arguments cannot be read", "ask with args {}")
            return
        self._token += 1
        self._asks[self._token] = (sender, ask.ask)
        if ask.question == "body":
            yield ReadBody(self._token, ask.key, need=Need.FREE)
        else:
            key, newest = ask.key, int(wish.get("limit", 0))
            if ask.question == AUDIT:
                key = f"{AUDIT}:{key}" if key else AUDIT
                most = self._limits.audit_gather_entries_max
                newest = min(newest or most, most) if wish.get("all") else newest
            yield ReadStory(self._token, ask.question, key, int(wish.get("since", 0)), newest, need=Need.FREE)

    def _on_story_read(self, now_s: float, sender: NodeId, read: StoryRead) -> Iterator[Any]:
        if asked := self._asks.pop(read.token, None):
            yield Send(asked[0], Answer(asked[1], True, read.body), need=Need.FREE)

    def _on_body_read(self, now_s: float, sender: NodeId, read: BodyRead) -> Iterator[Any]:
        asked = self._asks.pop(read.token, None)
        if asked is None:
            return
        if read.data is None:
            yield _no(
                *asked,
                "unknown_body",
                "this node does not have these bytes (or they were erased)",
                "ask the node that ran or managed the task",
            )
        else:
            yield Send(asked[0], Answer(asked[1], True, read.data), need=Need.FREE)

    def known_of(self, author: NodeId) -> int:
        """The last entry of another's journal of which a head is known here; 0: none."""
        heads = self._heads.get(author)
        return last_of(heads[-1].body) if heads else 0

    def statistics(self) -> RecordsStatistics:
        return RecordsStatistics(
            self._head_seq,
            len(self._heads) + bool(self._own),
            len(self._forks),
            tuple(sorted(self._forks)),
            self._rolled_back,
            self._failed,
            len(self._asks),
            self._cosigned.reach(),
            self._cosigner.given,
        )


def _is_head(signed: Signed) -> bool:
    body = signed.body
    return isinstance(body, Commit) and body.author == signed.author and body.count > 0 and body.first > 0


def _proof(one: Signed, other: Signed) -> Fork:
    """In one order, whoever finds it."""
    if (other.body.incarnation, other.body.first, other.body.merkle_root) < (one.body.incarnation, one.body.first, one.body.merkle_root):
        one, other = other, one
    return Fork(one.author, one, other)


def _wish(args: bytes) -> dict[str, Any] | None:
    """After which entry the story shall go on (`since`), how many of the newest are enough (`limit`); None if that makes no sense."""
    try:
        wish = json.loads(args or b"{}")
    except (ValueError, RecursionError):
        return None
    if not isinstance(wish, dict):
        return None
    numbers = (wish.get("since", 0), wish.get("limit", 0))
    return wish if all(type(number) is int and 0 <= number < 1 << 62 for number in numbers) else None


def _no(to: NodeId, ask: int, code: str, message: str, fix: str) -> Send:
    body = json.dumps({"code": code, "message": message, "fix": fix}).encode()
    return Send(to, Answer(ask, False, body), need=Need.FREE)
