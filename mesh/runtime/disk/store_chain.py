"""Reading the chain back: the check at start, one commit with its entries, and what to replay.

Invariant: what these functions yield was signed by this journal's author, in this order, with nothing missing in between; else they raise
StoreError ``journal_broken`` with the place. At start every link, entry, count and digest is checked, and the newest commit's signature,
which covers all before it through the links; the older signatures are kept safe by their digests and verified one by one where a commit is
shown to anybody (`scripts/verify` does it for all). What a start leaves out (`store_sums.py`) is checked after it (`store_scrub.py`).
Repairs nothing except the index, which is a fold.
"""

from __future__ import annotations

import contextlib
import hashlib
import sqlite3
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from mesh.core.records import merkle
from mesh.core.records.journal import FIRST_PREV, keys, last_of
from mesh.ids import Fence, Hash, NodeId, TaskId
from mesh.messages.records import Accepted, Answered, Checkpointed, Commit, Effected, Ended, Finished, Stored, Submitted
from mesh.messages.signed import Signed
from mesh.runtime.disk.sealing import SealBroken
from mesh.runtime.disk.store_file import StoreError, broken
from mesh.runtime.disk.store_rows import Rows, explain_seal
from mesh.wire.codec import decode_entry, decode_object
from mesh.wire.packing import Refusal, unpack, unpack_row

_FINISHED = b"\xa8Finished"
_CLOSED = b"\xa6Closed"
REPLAYED_RESULTS_MAX = 1024
"""Results of tasks that have ended which are given back to the manager whole, the newest first to count."""


def peek(raw: bytes) -> tuple[Signed, bytes, bytes]:
    """A signed object from our own disk: itself, its body's bytes and its signature. Not verified. Raises Refusal."""
    row = unpack_row(raw)
    if len(row) != 4:
        raise Refusal("malformed")
    tag, author, body, signature = row
    if type(tag) is not str or type(author) is not str or type(body) is not bytes or type(signature) is not bytes:
        raise Refusal("malformed")
    return Signed(author, decode_object(tag, body), raw), body, signature


@dataclass(slots=True)
class ChainEnd:
    """Where a journal ends, what of it is replayed, and which of its tasks are over."""

    head: bytes = FIRST_PREV
    seq: int = 0
    commits: int = 0
    """That were walked."""
    incarnation: int = 0
    hlc: int = 0
    newest: bytes = b""
    needed: list[tuple[int, bytes]] = field(default_factory=list)
    """Of the entries up to `since` those that are replayed, read and checked."""
    since: int = 0
    """Not replayed, but for `needed`: the entries up to here."""
    walked_after: int = 0
    """Not walked: the commits up to this entry."""
    finished: set[TaskId] = field(default_factory=set)
    closed: set[tuple[TaskId, Fence]] = field(default_factory=set)
    results: deque[int] = field(default_factory=lambda: deque(maxlen=REPLAYED_RESULTS_MAX))
    """Numbers of the newest `Finished` entries: their results are replayed whole."""

    def note(self, seq: int, entry: bytes) -> None:
        """One that is replayed."""
        if entry.startswith(_FINISHED, 1):
            self.finished.add(unpack(entry)[1])
            self.results.append(seq)
        elif entry.startswith(_CLOSED, 1):
            _, task, fence, *_ = unpack(entry)
            self.closed.add((task, fence))


@dataclass(frozen=True, slots=True)
class Place:
    """Between two commits: the number of the last entry before it, the hash of the commit that holds that one, and its incarnation."""

    last: int = 0
    head: bytes | None = FIRST_PREV
    """None: not known; whatever the next commit says is believed, for the signature over all that follow."""
    incarnation: int = 0

    @property
    def low(self) -> int:
        """Rows after this: at the beginning also such as no journal has."""
        return self.last or -(1 << 62)


BEGINNING = Place()


def read_commits(
    connection: sqlite3.Connection, rows: Rows, author: NodeId, after: Place = BEGINNING
) -> Generator[tuple[Commit, bytes, list[bytes]], None, None]:
    """All commits after a place, checked against each other and their entries: ``(commit, raw, entries)``.

    Raises StoreError, sqlite3.Error.
    """
    path = rows.path
    head, last, incarnation = after.head, after.last, after.incarnation
    query = "SELECT first, count, raw, hash, digest FROM commits WHERE first > ? ORDER BY first"
    # Closed also where an error keeps this frame: an open cursor keeps its snapshot of the file.
    with (
        contextlib.closing(connection.execute("SELECT seq, entry FROM entries WHERE seq > ? ORDER BY seq", (after.low,))) as stored,
        contextlib.closing(connection.execute(query, (after.low,))) as commits,
    ):
        for row in commits:
            commit, raw, hashed = checked_row(path, row, author), row[2], row[3]
            if (head is not None and commit.prev != head) or commit.first != last + 1 or commit.incarnation < incarnation:
                what = f"the commit of entries {commit.first} to {last_of(commit)}"
                raise broken(path, f"{what} does not follow the one that ends with {last}")
            data = _entries_of(rows, commit, stored.fetchmany(commit.count))
            head, last, incarnation = hashed, last_of(commit), commit.incarnation
            yield commit, raw, data
        extra = stored.fetchone()
        if extra is not None:
            raise broken(path, f"entry {extra[0]} belongs to no commit")


def _entries_of(rows: Rows, commit: Commit, stored: list[tuple[Any, Any]]) -> list[bytes]:
    """The rows of a commit, opened: all of them, and those that were signed."""
    for at, seq in enumerate(range(commit.first, commit.first + commit.count)):
        if at >= len(stored) or stored[at][0] != seq:
            raise broken(rows.path, f"entry {seq} is missing")
    data = [rows.entry_out(seq, entry) for seq, entry in stored]
    check_root(rows.path, commit, data)
    return data


def read_needed(
    connection: sqlite3.Connection, rows: Rows, author: NodeId, verify: Callable[[bytes], bool], seqs: Iterable[int]
) -> Iterator[tuple[int, bytes]]:
    """These entries alone (numbers ascending), each checked with its commit, whose signature is verified.

    Raises StoreError, sqlite3.Error.
    """
    first, data = 1, list[bytes]()
    for seq in seqs:
        if seq >= first + len(data):
            query = "SELECT first, count, raw, hash, digest FROM commits WHERE first <= ? ORDER BY first DESC LIMIT 1"
            row = connection.execute(query, (seq,)).fetchone()
            commit = checked_row(rows.path, row, author) if row is not None else None
            if commit is None or last_of(commit) < seq or not verify(row[2]):
                raise broken(rows.path, f"the commit that holds entry {seq} is missing or not signed by this node")
            within = "SELECT seq, entry FROM entries WHERE seq BETWEEN ? AND ? ORDER BY seq"
            first, data = commit.first, _entries_of(rows, commit, connection.execute(within, (commit.first, last_of(commit))).fetchall())
        yield seq, data[seq - first]


def checked_row(path: Path, row: tuple[Any, Any, Any, Any, Any], author: NodeId) -> Commit:
    """The commit in one row, if all its columns agree."""
    first, count, raw, hashed, digest = row
    if type(raw) is not bytes or hashlib.sha256(raw).digest() != digest:
        raise broken(path, f"the commit that begins with entry {first} was changed on disk")
    try:
        signed, body, _ = peek(raw)
    except Refusal as error:
        raise broken(path, f"the commit that begins with entry {first} cannot be read: {error.reason}") from None
    commit = signed.body
    if not isinstance(commit, Commit) or signed.author != author or commit.author != author:
        raise broken(path, f"the commit that begins with entry {first} is not by {author}, whose journal this is")
    if (commit.first, commit.count, hashlib.sha256(body).digest()) != (first, count, hashed):
        raise broken(path, f"the commit that begins with entry {first} disagrees with its row")
    return commit


def check_root(path: Path, commit: Commit, entries: list[bytes]) -> list[bytes]:
    """The leaves of `entries`. Raises StoreError if they are not what the commit's author signed."""
    if all(type(entry) is bytes for entry in entries):
        leaves = [merkle.leaf(entry) for entry in entries]
        if merkle.root(leaves) == commit.merkle_root:
            return leaves
        raise broken(path, _what_changed(commit, leaves))
    raise broken(path, f"an entry between {commit.first} and {last_of(commit)} was changed on disk")


def _what_changed(commit: Commit, leaves: list[bytes]) -> str:
    """A root says that something is wrong with its entries, not with which; that two neighbours changed places can be tried out."""
    for at in range(len(leaves) - 1):
        swapped = [*leaves[:at], leaves[at + 1], leaves[at], *leaves[at + 2 :]]
        if merkle.root(swapped) == commit.merkle_root:
            return f"the entries {commit.first + at} and {commit.first + at + 1} changed places"
    return f"an entry between {commit.first} and {last_of(commit)} was changed on disk"


def place_before(connection: sqlite3.Connection, seq: int) -> Place:
    """Before the commit that holds entry `seq`."""
    [first] = connection.execute("SELECT max(first) FROM commits WHERE first <= ?", (seq,)).fetchone()
    return Place(first - 1, None) if type(first) is int and first > 1 else BEGINNING


def walk(connection: sqlite3.Connection, rows: Rows, author: NodeId, verify: Callable[[bytes], bool], end: ChainEnd) -> None:
    """Check the chain after entry `end.since`, and note its end in `end`; `verify` says whether the author signed those bytes.

    Raises StoreError, sqlite3.Error.
    """
    after = place_before(connection, end.since + 1)
    end.walked_after = after.last
    for commit, raw, entries in read_commits(connection, rows, author, after):
        end.commits += 1
        end.seq, end.incarnation, end.hlc, end.newest = last_of(commit), commit.incarnation, commit.hlc, raw
        for seq, entry in enumerate(entries, commit.first):
            if seq > end.since:
                end.note(seq, entry)
    if end.newest:
        end.head = hashlib.sha256(peek(end.newest)[1]).digest()
        if not verify(end.newest):
            raise broken(rows.path, f"the signature of its newest commit (entries up to {end.seq}) is not this node's")


def replay(connection: sqlite3.Connection, rows: Rows, end: ChainEnd) -> Iterator[tuple[int, Any, dict[Hash, bytes]]]:
    """What is needed, in order, with the bodies its machine needs again.

    Raises StoreError for an entry of a kind this version does not know.
    """
    stored = connection.execute("SELECT seq, entry FROM entries WHERE seq > ? ORDER BY seq", (end.since,))
    for seq, data in chain(end.needed, ((seq, rows.entry_out(seq, data)) for seq, data in stored)):
        try:
            entry = decode_entry(data)
        except Refusal as error:
            raise StoreError(
                "newer_entries",
                f"entry {seq} of {rows.path} was written by a newer version ({error.reason})",
                "start the version that wrote it, or upgrade: pip install -U lanmesh",
            ) from None
        wanted = _wanted(entry, seq, end)
        body = read_body(connection, rows, wanted) if wanted else None
        yield seq, entry, {} if body is None else {wanted: body}


def _wanted(entry: Any, seq: int, end: ChainEnd) -> Hash:
    """The body without which a machine could not go on after a restart; empty where it can."""
    kind = type(entry)
    if kind is Submitted:
        return "" if entry.task in end.finished else entry.input
    if kind is Effected:
        return "" if entry.task in end.finished else entry.output
    if kind is Accepted:
        return "" if (entry.task, entry.fence) in end.closed else entry.input
    if kind is Ended:
        return "" if (entry.task, entry.fence) in end.closed else entry.output
    if kind in (Checkpointed, Answered, Stored):
        return "" if entry.task in end.finished else entry.output
    if kind is Finished:
        return entry.output if seq >= end.results[0] else ""
    return ""


def read_body(connection: sqlite3.Connection, rows: Rows, name: Hash) -> bytes | None:
    """The body whose SHA-256 is `name`; None where it is unknown, erased, or no longer what it was (a flipped bit, another row's)."""
    row = connection.execute("SELECT data FROM bodies WHERE hash=?", (name,)).fetchone()
    if row is None:
        return None
    try:
        data = rows.body_out(name, row[0])
    except SealBroken:
        return None
    return data if _is_body(name, data) else None


def check_bodies(connection: sqlite3.Connection, rows: Rows) -> None:
    """Every body is what its name says. Raises StoreError for the first that is not, sqlite3.Error."""
    for name, stored in connection.execute("SELECT hash, data FROM bodies ORDER BY hash"):
        try:
            data = rows.body_out(name, stored)
        except SealBroken as error:
            raise broken(rows.path, f"the body {name} does not open ({explain_seal(error)})") from None
        if not _is_body(name, data):
            raise broken(rows.path, f"the body {name} was changed on disk")


def _is_body(name: Hash, data: Any) -> bool:
    return type(data) is bytes and hashlib.sha256(data).hexdigest() == name


class IndexCheck:
    """Compares the index with the entries, at the cost of one sum each: rows in any order give the same."""

    def __init__(self) -> None:
        self._rows = 0
        self._sum = 0

    def add(self, seq: int, entry: Any) -> None:
        for key in keys(entry):
            self._rows += 1
            self._sum += hash((key, seq))

    def found(self, rows: Iterable[tuple[Any, Any]]) -> None:
        """Rows of the index."""
        for row in rows:
            self._rows -= 1
            self._sum -= hash(row)

    def agrees(self) -> bool:
        return (self._rows, self._sum) == (0, 0)


def rebuild_index(connection: sqlite3.Connection, rows: Rows) -> None:
    """Make `about` again from the entries, in one transaction. Raises sqlite3.Error, StoreError, Refusal."""
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("DELETE FROM about")
    for seq, data in connection.execute("SELECT seq, entry FROM entries ORDER BY seq").fetchall():
        entry = decode_entry(rows.entry_out(seq, data))
        connection.executemany("INSERT INTO about VALUES(?, ?)", [(key, seq) for key in keys(entry)])
    connection.execute("COMMIT")
