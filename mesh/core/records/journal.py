"""The chain: entries become commits, one signature and one link each.

    commit n                          commit n+1
    first, count, merkle_root  <----  prev = sha256(body of commit n), first = last entry of n + 1
         |
      entry entry entry               leaf = sha256(0x00 || msgpack [kind, *fields])

Invariant: entry numbers are continuous over all incarnations of an author, and commits are totally ordered: a later one has no smaller
incarnation and begins after the earlier one's end. Two signed commits that cannot be ordered so are a *fork*: `conflict` says it from the
two alone. Writes no disk and knows no signature scheme: both are given. Sources: git's commit chain; RFC 6962.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from mesh.core.records import merkle
from mesh.ids import Hash, NodeId
from mesh.messages.records import (
    Accepted,
    Answered,
    Audited,
    Bound,
    CancelAsked,
    Checkpointed,
    Claimed,
    Closed,
    Commit,
    Decided,
    Effected,
    Ended,
    Finished,
    Intended,
    Lost,
    Parked,
    Spent,
    Stored,
    Submitted,
    Summed,
)
from mesh.messages.signed import Signed

FIRST_PREV = bytes(32)
"""`prev` of an author's very first commit."""


class JournalWriter:
    """Makes the commits of one incarnation.

    `seal` signs in place (fills `raw`) and returns the commit's hash: SHA-256 of the signed body bytes. `hlc` is the last commit's.
    """

    def __init__(
        self,
        author: NodeId,
        incarnation: int,
        *,
        seal: Callable[[Signed], bytes],
        head: bytes = FIRST_PREV,
        next_seq: int = 1,
        hlc: int = 0,
        epoch: int = 0,
    ) -> None:
        self._author = author
        self._incarnation = incarnation
        self._epoch = epoch
        self._seal = seal
        self._hlc = hlc
        self.head = head
        self.next_seq = next_seq

    def commit(self, entries: Sequence[bytes], wall_ms: int) -> Signed:
        """The signed commit over encoded `entries`, numbered from `next_seq` on. `wall_ms` (Unix time) may jump; stamps never do."""
        assert entries, "an empty commit says nothing"
        self._hlc = max(self._hlc + 1, wall_ms << 16)
        body = Commit(
            author=self._author,
            incarnation=self._incarnation,
            epoch=self._epoch,
            first=self.next_seq,
            count=len(entries),
            prev=self.head,
            merkle_root=merkle.root([merkle.leaf(entry) for entry in entries]),
            hlc=self._hlc,
        )
        signed = Signed(self._author, body)
        self.head = self._seal(signed)
        self.next_seq += len(entries)
        return signed


def last_of(commit: Commit) -> int:
    """Number of the commit's last entry."""
    return commit.first + commit.count - 1


def seal_of(commit: Signed) -> bytes:
    """SHA-256 of a commit as it was signed: names it to others, without reading it."""
    return hashlib.sha256(commit.raw).digest()


def wall_ms_of(commit: Commit) -> int:
    return commit.hlc >> 16


def newer(one: Commit, other: Commit) -> bool:
    """True if `one` is the later of two commits of an author."""
    return (one.incarnation, one.first, one.count) > (other.incarnation, other.first, other.count)


def conflict(one: Commit, other: Commit) -> bool:
    """True if two commits of one author prove a fork: they claim one place, or a later life begins before an earlier one's end."""
    if one.author != other.author or one == other:
        return False
    if (one.incarnation, one.first) > (other.incarnation, other.first):
        one, other = other, one
    return other.first <= last_of(one)


def roles(entry: Any) -> Iterator[tuple[Hash, str, str]]:
    """The content hashes an entry names: ``(hash, as, way)``. `way` is ``in`` or ``out``.

    `as`: ``input`` for arguments and files that were read, ``output`` for a result, ``file`` for a file that was made,
    ``checkpoint`` for what a handler kept, ``answer`` for what somebody said to a wait, ``value`` for what was written to a state.
    """
    kind = type(entry)
    if kind is Submitted or kind is Accepted:
        if entry.input:
            yield entry.input, "input", "in"
        if kind is Submitted:
            for file, _ in entry.files:
                yield file, "input", "in"
    elif kind is Checkpointed:
        yield entry.output, "checkpoint", "out"
    elif kind is Answered or kind is Stored:
        if entry.output:
            yield entry.output, "answer" if kind is Answered else "value", "out"
    elif kind is Finished or kind is Ended:
        if entry.output:
            yield entry.output, "output", "out"
        for file, _ in entry.files:
            yield file, "file", "out"


def bodies_of(entry: Any) -> tuple[Hash, ...]:
    """The bodies that an entry comes with, wherever it is copied to: files travel by themselves, the outcome of an effect has no role."""
    if type(entry) is Effected:
        return (entry.output,) if entry.output else ()
    return tuple(dict.fromkeys(name for name, role, _ in roles(entry) if role != "file"))


def _task_only(entry: Any) -> tuple[str, ...]:
    return (entry.task,)


def _task_and_hashes(entry: Any) -> tuple[str, ...]:
    found = [entry.task]
    if type(entry) is Submitted and entry.parent:
        found.append(entry.parent)
    found.extend(named for named, _, _ in roles(entry))
    return tuple(dict.fromkeys(found))


AUDIT = "audit"
"""The key of all audit entries; those about one node, task or file are also under ``audit:`` and its name."""


SUMMED = "summed"
"""The key of all entries that sum up what came before them."""


def _audit_and_subject(entry: Audited) -> tuple[str, ...]:
    return (AUDIT, f"{AUDIT}:{entry.about}") if entry.about else (AUDIT,)


_KEYS: dict[type, Callable[[Any], tuple[str, ...]]] = {
    **dict.fromkeys((Decided, Bound, Lost, Parked, CancelAsked, Closed, Intended, Effected, Spent, Claimed), _task_only),
    **dict.fromkeys((Submitted, Finished, Accepted, Ended, Checkpointed, Answered, Stored), _task_and_hashes),
    Audited: _audit_and_subject,
    Summed: lambda _entry: (SUMMED,),
}


def keys(entry: Any) -> tuple[str, ...]:
    """Under which keys an entry is found again: its task, that task's parent, every content hash it names; `AUDIT`. No duplicates."""
    find = _KEYS.get(type(entry))
    return find(entry) if find is not None else ()
