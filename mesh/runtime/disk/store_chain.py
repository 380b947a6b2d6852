"""Reading the chain back: the check at start, one commit with its entries, and what to replay.

Invariant: what these functions yield was signed by this journal's author, in this order, with nothing missing in between; else they raise
StoreError ``journal_broken`` with the place. At start every link, entry, count and digest is checked, and the newest commit's signature,
which covers all before it through the links; the older signatures are kept safe by their digests and verified one by one where a commit is
shown to anybody (`scripts/verify` does it for all). Repairs nothing except the index, which is a fold.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mesh.core.records import merkle
from mesh.core.records.journal import FIRST_PREV, keys, last_of
from mesh.ids import Fence, Hash, NodeId, TaskId
from mesh.messages.records import Accepted, Checkpointed, Commit, Effected, Ended, Finished, Submitted
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
    """Where a journal ends, and which of its tasks are over."""

    head: bytes = FIRST_PREV
    seq: int = 0
    commits: int = 0
    incarnation: int = 0
    hlc: int = 0
    newest: bytes = b""
    finished: set[TaskId] = field(default_factory=set)
    closed: set[tuple[TaskId, Fence]] = field(default_factory=set)
    results_from: int = 0
    """Number of the oldest `Finished` entry whose result is replayed whole."""


def read_commits(connection: sqlite3.Connection, rows: Rows, author: NodeId) -> Iterator[tuple[Commit, bytes, list[bytes]]]:
    """All commits in order, checked against each other and their entries: ``(commit, raw, entries)``. Raises StoreError, sqlite3.Error."""
    path = rows.path
    head, last, incarnation = FIRST_PREV, 0, 0
    stored = connection.execute("SELECT seq, entry FROM entries ORDER BY seq")
    for first, count, raw, hashed, digest in connection.execute("SELECT first, count, raw, hash, digest FROM commits ORDER BY first"):
        commit = _checked_row(path, first, count, raw, hashed, digest, author)
        if commit.prev != head or commit.first != last + 1 or commit.incarnation < incarnation:
            raise broken(path, f"the commit of entries {commit.first} to {last_of(commit)} does not follow the one that ends with {last}")
        entries = stored.fetchmany(commit.count)
        for seq in range(commit.first, commit.first + commit.count):
            if seq - commit.first >= len(entries) or entries[seq - commit.first][0] != seq:
                raise broken(path, f"entry {seq} is missing")
        data = [rows.entry_out(seq, entry) for seq, entry in entries]
        check_root(path, commit, data)
        head, last, incarnation = hashed, last_of(commit), commit.incarnation
        yield commit, raw, data
    extra = stored.fetchone()
    if extra is not None:
        raise broken(path, f"entry {extra[0]} belongs to no commit")


def _checked_row(path: Path, first: Any, count: Any, raw: Any, hashed: Any, digest: Any, author: NodeId) -> Commit:
    """The commit in one row, if all its columns agree."""
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


def walk(connection: sqlite3.Connection, rows: Rows, author: NodeId, verify: Callable[[bytes], bool]) -> ChainEnd:
    """Check the whole chain; `verify` says whether the author signed those bytes. Raises StoreError, sqlite3.Error."""
    end = ChainEnd()
    results: list[int] = []
    for commit, raw, entries in read_commits(connection, rows, author):
        end.commits += 1
        end.seq, end.incarnation, end.hlc, end.newest = last_of(commit), commit.incarnation, commit.hlc, raw
        for seq, entry in enumerate(entries, commit.first):
            if entry.startswith(_FINISHED, 1):
                end.finished.add(unpack(entry)[1])
                results.append(seq)
            elif entry.startswith(_CLOSED, 1):
                _, task, fence, *_ = unpack(entry)
                end.closed.add((task, fence))
    if end.newest:
        end.head = hashlib.sha256(peek(end.newest)[1]).digest()
        if not verify(end.newest):
            raise broken(rows.path, f"the signature of its newest commit (entries up to {end.seq}) is not this node's")
    end.results_from = results[-REPLAYED_RESULTS_MAX] if len(results) >= REPLAYED_RESULTS_MAX else 0
    return end


def replay(connection: sqlite3.Connection, rows: Rows, end: ChainEnd) -> Iterator[tuple[int, Any, dict[Hash, bytes]]]:
    """Every entry in order with the bodies its machine needs again. Raises StoreError for an entry of a kind this version does not know."""
    for seq, data in connection.execute("SELECT seq, entry FROM entries ORDER BY seq"):
        try:
            entry = decode_entry(rows.entry_out(seq, data))
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
    if kind is Checkpointed:
        return "" if entry.task in end.finished else entry.output
    if kind is Finished:
        return entry.output if seq >= end.results_from else ""
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

    def agrees(self, connection: sqlite3.Connection) -> bool:
        rows = total = 0
        for row in connection.execute("SELECT key, seq FROM about"):
            rows += 1
            total += hash(row)
        return (rows, total) == (self._rows, self._sum)


def rebuild_index(connection: sqlite3.Connection, rows: Rows) -> None:
    """Make `about` again from the entries, in one transaction. Raises sqlite3.Error, StoreError, Refusal."""
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("DELETE FROM about")
    for seq, data in connection.execute("SELECT seq, entry FROM entries ORDER BY seq").fetchall():
        entry = decode_entry(rows.entry_out(seq, data))
        connection.executemany("INSERT INTO about VALUES(?, ?)", [(key, seq) for key in keys(entry)])
    connection.execute("COMMIT")
