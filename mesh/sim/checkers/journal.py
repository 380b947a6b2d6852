"""The record. Reads what was appended, what was synced, and the heads that nodes show each other.

L1  append-only: numbers without gaps over all lives, one chain of commits, no head ever shown that is not on it
L2  verifiable: every commit's root is that of its entries (computed here again, sharing no code with the node)
L3  each life opens with an entry that cites the last durable head: a crash shows as lost tail, never as a fork
L4  what is co-signed is the end of a commit that was, exactly
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from mesh.effects import Send
from mesh.ids import NodeId
from mesh.messages.records import Fork, Heads, Opened, Witnessed
from mesh.messages.signed import Signed
from mesh.sim.history import Appended, NodeUp, Outward, PutBack, Synced, Takes, Verdict


def tree_root(entries: tuple[bytes, ...]) -> bytes:
    """The Merkle root, written a second time on purpose."""
    level = [hashlib.sha256(b"\x00" + entry).digest() for entry in entries]
    while len(level) > 1:
        pairs = [hashlib.sha256(b"\x01" + level[i] + level[i + 1]).digest() for i in range(0, len(level) - 1, 2)]
        level = pairs + (level[-1:] if len(level) % 2 else [])
    return level[0]


class JournalChecker:
    def __init__(self) -> None:
        self._last_seq: dict[NodeId, int] = {}
        self._opening: dict[NodeId, NodeUp] = {}
        self._chain: dict[NodeId, tuple[int, bytes, int]] = {}
        self._shown: dict[tuple[NodeId, int, int], bytes] = {}
        self._ends: dict[tuple[NodeId, int, int], bytes] = {}
        self._old: dict[NodeId, None] = {}
        self.watches: tuple[type, ...] = (Heads, Fork, Witnessed)
        self.takes: Takes = {
            NodeUp: self._node_up,
            Appended: self._appended,
            Synced: self._synced,
            Outward: self._outward,
            PutBack: self._put_back,
        }

    def _node_up(self, record: NodeUp) -> Iterator[Verdict]:
        self._opening[record.node] = record
        self._last_seq[record.node] = record.seq
        return iter(())

    def _put_back(self, record: PutBack) -> Iterator[Verdict]:
        """Its chain goes on from the image's end, and what others prove of that is true."""
        self._old[record.node] = None
        self._chain[record.node] = (record.seq, record.head, record.hlc)
        return iter(())

    def _appended(self, record: Appended) -> Iterator[Verdict]:
        last = self._last_seq.get(record.node, 0)
        if record.seq != last + 1:
            yield Verdict(record.at_s, "L1", f"{record.node} appended number {record.seq} after {last}")
        self._last_seq[record.node] = record.seq
        opening = self._opening.pop(record.node, None)
        if opening is None:
            return
        entry = record.entry
        if type(entry) is not Opened:
            yield Verdict(
                record.at_s, "L3", f"{record.node} began incarnation {opening.incarnation} with {type(entry).__name__}, not Opened"
            )
        elif (entry.incarnation, entry.head, entry.seq) != (opening.incarnation, opening.head, opening.seq):
            yield Verdict(
                record.at_s, "L3", f"{record.node} opened with {entry}; its disk had head {opening.head.hex()[:8]} at {opening.seq}"
            )

    def _synced(self, record: Synced) -> Iterator[Verdict]:
        commit = record.commit.body
        last, head, hlc = self._chain.get(record.node, (0, bytes(32), 0))
        if commit.first != last + 1 or commit.first + commit.count - 1 != record.seq or commit.count != len(record.entries):
            yield Verdict(record.at_s, "L1", f"{record.node} committed {commit.first}+{commit.count} after {last}")
        if commit.prev != head:
            yield Verdict(record.at_s, "L1", f"{record.node}: commit {commit.first} does not follow the one before")
        if commit.hlc <= hlc:
            yield Verdict(record.at_s, "L1", f"{record.node}: the stamp of commit {commit.first} does not grow")
        if commit.merkle_root != tree_root(record.entries):
            yield Verdict(record.at_s, "L2", f"{record.node}: the root of commit {commit.first} is not that of its entries")
        self._chain[record.node] = (record.seq, record.commit_hash, commit.hlc)
        self._shown[(record.node, commit.incarnation, commit.first)] = record.commit.raw
        self._ends[(record.node, commit.incarnation, record.seq)] = hashlib.sha256(record.commit.raw).digest()

    def _outward(self, record: Outward) -> Iterator[Verdict]:
        if type(record.effect) is not Send:
            return
        message = record.effect.message
        if type(message) is Heads:
            for head in message.heads:
                yield from self._judge_head(record, head)
        elif type(message) is Fork and message.author not in self._old:
            yield Verdict(record.at_s, "L1", f"{record.node} holds a proof that {message.author} forked")
        elif type(message) is Witnessed:
            for one in message.witnesses:
                if self._ends.get((one.body.author, one.body.incarnation, one.body.last)) != one.body.head:
                    yield Verdict(record.at_s, "L4", f"{one.author} co-signs what is not entry {one.body.last} of {one.body.author}")

    def _judge_head(self, record: Outward, head: Signed) -> Iterator[Verdict]:
        known = self._shown.get((head.author, head.body.incarnation, head.body.first))
        if known != head.raw:
            what = "another commit than the one" if known else "a commit that never was"
            yield Verdict(record.at_s, "L1", f"{record.node} shows {what} of {head.author} at {head.body.first}")
