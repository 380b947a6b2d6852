"""Answers from the journal: bodies, stories with proofs, who touched a hash, and the export that outsiders verify.

    key --about--> entries --> their tasks' children (about the parent) and, backwards, the tasks that made the files they read

Invariant: everything read is checked against the commit it stands in, whose signature is verified here, before anybody sees it. Uses its
own read-only connection in the store's reader thread; never waits for the writer. Sees only what is synced.
"""

from __future__ import annotations

import json
from collections import Counter, deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from mesh.core.records import merkle
from mesh.core.records.inputs import OpenFound
from mesh.core.records.journal import last_of, roles
from mesh.core.records.story import Chapter, chapter, pack_story
from mesh.ids import Hash, NodeId, TaskId, author_of, content_hash
from mesh.limits import RecordsLimits
from mesh.messages.records import Accepted, Commit, Ended, Finished, Submitted
from mesh.runtime.disk import store_chain, store_memory, store_sums
from mesh.runtime.disk.sealing import Sealer
from mesh.runtime.disk.shelf import ShelfReader
from mesh.runtime.disk.store_file import UNREADABLE, StoreError, broken, check_file, connect, explain, get_meta
from mesh.runtime.disk.store_memory import Confirmed
from mesh.runtime.disk.store_rows import Rows
from mesh.wire.codec import decode_entry
from mesh.wire.packing import Refusal, pack

PRODUCERS_MAX = 16
"""A content made by more tasks than this (a constant answer) says nothing about where an input came from: not followed."""

PROOF_BYTES = 512
"""What a proof and an even share of its commit add to an entry in a packed story: at most 8 siblings of 32 bytes, and signed bytes."""

_COMMONPLACE = frozenset(content_hash(text) for text in (b"", b"{}", b"[]", b"null", b"true", b"false", b'""', b"0", b"1"))
"""Bodies so small that two tasks share them by chance."""


class Reader:
    """One read-only connection. Methods raise StoreError (a broken journal) and sqlite3.Error."""

    def __init__(self, rows: Rows, limits: RecordsLimits, verify: Callable[[bytes], bool], author: NodeId, damages: Counter[str]) -> None:
        self._rows, self._path = rows, rows.path
        self._limits = limits
        self._verify = verify
        self._author = author
        self.connection = self._connection = connect(rows.path, read_only=True)
        self.shelf = ShelfReader(self._connection, rows, author, limits, damages, verify)

    def close(self) -> None:
        self._connection.close()

    def body(self, name: Hash) -> bytes | None:
        return store_chain.read_body(self._connection, self._rows, name)

    def find_open(self, taken: int) -> OpenFound:
        return store_sums.find_open(self._connection, self._rows, self._author, self._verify, taken, self._limits)

    # ---- stories

    def story(self, key: str, since: int = 0) -> bytes:
        """A packed page of the story of `key`, a task or a content hash: its entries after number `since`.

        Of a task of another author that is not told here, what his shelved log tells: one page, which ends with it.
        """
        if author_of(key) and not self._submitted_here(key) and (chapters := list(self._shelved(key))):
            return pack_story(chapters)
        return self._page(sorted(seq for seq in self._about_all(key) if seq > since))

    def _submitted_here(self, task: TaskId) -> bool:
        """Whether this journal tells it from its beginning; else it holds at most what this node did for its manager."""
        return any(isinstance(entry, Submitted) and entry.task == task for _, entry in self._entries_about(task))

    def _shelved(self, task: TaskId) -> Iterator[Chapter]:
        """Of the task itself, and of all that it began."""
        left = self._limits.story_entries_max
        for block, wanted in self.shelf.about(author_of(task), task):
            leaves = [merkle.leaf(entry) for entry in block.entries]
            yield chapter(block.head.body, block.head.raw, list(block.entries), leaves, wanted[:left])
            left -= len(wanted)
            if left <= 0:
                return

    def under(self, key: str, since: int = 0, newest: int = 0) -> bytes:
        """A packed page of the entries under `key` alone, after number `since`: all, or the `newest` of them."""
        most = self._limits.story_entries_max
        order, limit = ("DESC", min(newest, most)) if newest else ("ASC", most)
        found = self._connection.execute(f"SELECT seq FROM about WHERE key=? AND seq>? ORDER BY seq {order} LIMIT ?", (key, since, limit))
        return self._page(sorted(seq for (seq,) in found))

    def _page(self, wanted: list[int]) -> bytes:
        """As many of the entries `wanted` as one answer may hold; the page says after which number the next one begins."""
        chapters: list[Chapter] = []
        limit = self._limits.story_bytes_max
        size = at = 0
        while at < len(wanted):
            if size >= limit:
                return pack_story(chapters, wanted[at - 1])
            commit, raw, entries, leaves = self._commit_with(wanted[at])
            end = at
            while end < len(wanted) and wanted[end] < commit.first + commit.count and (end == at or size < limit):
                size += (len(entries[wanted[end] - commit.first]) + PROOF_BYTES) * 4 // 3
                end += 1
            chapters.append(chapter(commit, raw, entries, leaves, wanted[at:end]))
            at = end
        return pack_story(chapters)

    def _about_all(self, key: str) -> set[int]:
        """Numbers of the entries of a story. Bounded: a story that grows beyond the limit ends there."""
        found: set[int] = set()
        seen = {key}
        todo = deque([key])
        while todo and len(found) < self._limits.story_entries_max:
            for seq, entry in self._entries_about(todo.popleft()):
                if seq in found:
                    continue
                found.add(seq)
                for other in self._related(entry):
                    if other not in seen:
                        seen.add(other)
                        todo.append(other)
        return found

    def _entries_about(self, key: str) -> Iterator[tuple[int, Any]]:
        rows = self._connection.execute(
            "SELECT seq, entry FROM about JOIN entries USING(seq) WHERE key=? ORDER BY seq LIMIT ?", (key, self._limits.story_entries_max)
        ).fetchall()
        for seq, data in rows:
            try:
                yield seq, decode_entry(self._rows.entry_out(seq, data))
            except Refusal as error:
                raise broken(self._path, f"entry {seq} cannot be read: {error.reason}") from None

    def _related(self, entry: Any) -> Iterator[str]:
        """The tasks an entry leads to: its own, and those that made what it reads. Children come by themselves: they name their parent."""
        if task := getattr(entry, "task", ""):
            yield task
        for name, _, way in roles(entry):
            if way == "in" and name not in _COMMONPLACE:
                yield from self._producers(name)

    def _producers(self, name: Hash) -> list[TaskId]:
        makers: dict[TaskId, None] = {}
        for _, entry in self._entries_about(name):
            if any(named == name and way == "out" for named, _, way in roles(entry)):
                makers[entry.task] = None
        return list(makers) if len(makers) <= PRODUCERS_MAX else []

    def _commit_with(self, seq: int) -> tuple[Commit, bytes, list[bytes], list[bytes]]:
        """The commit that holds entry `seq`, verified, with all its entries and their leaves."""
        row = self._connection.execute("SELECT raw FROM commits WHERE first<=? ORDER BY first DESC LIMIT 1", (seq,)).fetchone()
        if row is None or not self._verify(row[0]):
            raise broken(self._path, f"the commit that holds entry {seq} is missing or not signed by this node")
        commit = store_chain.peek(row[0])[0].body
        assert isinstance(commit, Commit), "what was verified as a commit is one"
        stored = self._connection.execute(
            "SELECT seq, entry FROM entries WHERE seq BETWEEN ? AND ? ORDER BY seq", (commit.first, commit.first + commit.count - 1)
        )
        entries = [self._rows.entry_out(each, data) for each, data in stored]
        return commit, row[0], entries, store_chain.check_root(self._path, commit, entries)

    # ---- hashes

    def touched(self, name: Hash) -> bytes:
        """JSON ``{"tasks": [...]}``: every task here that read or made the content `name`."""
        tasks: dict[tuple[TaskId, str, str], dict[str, Any]] = {}
        for _, entry in self._entries_about(name):
            for named, what, way in roles(entry):
                if named == name:
                    row = tasks.setdefault((entry.task, what, way), {"task": entry.task, "as": what, "way": way})
                    row.update(_who(entry))
        for (task, _, _), row in tasks.items():
            for _, entry in self._entries_about(task):
                if type(entry) in (Submitted, Accepted) and entry.task == task:
                    row.update(_who(entry))
                    break
        return json.dumps({"tasks": list(tasks.values())}, separators=(",", ":")).encode()


def _who(entry: Any) -> dict[str, Any]:
    kind = type(entry)
    if kind is Submitted:
        return {"capability": entry.capability, "step": entry.step, "parent": entry.parent, "by": entry.by}
    if kind is Accepted:
        return {"capability": entry.capability}
    if kind is Finished:
        return {"node": entry.node, "agent": entry.agent, "state": entry.state}
    return {"agent": entry.agent} if kind is Ended else {}


def export(path: Path, out: BinaryIO, sealer: Sealer | None = None) -> int:
    """Write a journal for outsiders: ``["lanmesh-journal", 1, author, mesh, key, head, seq]``, then a ``[raw commit, [entries]]`` each.

    msgpack values one after the other, not sealed, readable without this program (`scripts/verify`). Bodies stay at home. Safe beside a
    running node. Returns the number of entries. Raises StoreError, OSError.
    """
    rows = Rows(path, sealer)
    try:
        connection = connect(path, read_only=True)
    except UNREADABLE as error:
        raise explain(path, error) from error
    try:
        connection.execute("BEGIN")
        author, mesh, key = (get_meta(connection, name) or b"" for name in ("author", "mesh", "key"))
        newest = connection.execute("SELECT hash, first + count - 1 FROM commits ORDER BY first DESC LIMIT 1").fetchone()
        head, last = newest or (bytes(32), 0)
        out.write(pack(("lanmesh-journal", 1, author.decode(), mesh.decode(), key, head, last)))
        for _, raw, entries in store_chain.read_commits(connection, rows, author.decode()):
            out.write(pack((raw, entries)))
    except UNREADABLE as error:
        raise explain(path, error) from error
    finally:
        connection.close()
    return int(last)


def examine(rows: Rows, author: NodeId, verify: Callable[[bytes], bool], export_to: Path | None = None) -> dict[str, Any]:
    """The document of `Store.examine`. Uses a connection of its own, so that it may run beside the writer."""
    document: dict[str, Any] = {"ok": False, "problem": "", "author": author, "entries": 0, "commits": 0, "incarnation": 0, "head": ""}
    path = rows.path
    connection = connect(path, read_only=True)
    try:
        connection.execute("BEGIN")
        confirmed = Confirmed(connection, rows)
        for commit, raw, _ in store_chain.read_commits(connection, rows, author):
            confirmed.check(commit, raw)
            if not verify(raw):
                raise broken(path, f"the signature of the commit that ends with entry {last_of(commit)} is not this node's")
            document["entries"], document["incarnation"] = last_of(commit), commit.incarnation
            document["commits"] += 1
            document["head"] = content_hash(store_chain.peek(raw)[1])
        confirmed.check_end(document["entries"])
        store_chain.check_bodies(connection, rows)
        store_memory.check(connection, rows)
        check_file(path, connection)
        document["witnesses"] = confirmed.reach()
        document["ok"] = True
    except (StoreError, *UNREADABLE) as error:
        document["problem"] = str(error)
    finally:
        connection.close()
    if export_to is not None and document["ok"]:
        with export_to.open("wb") as out:
            export(path, out, rows.sealer)
        document["exported"] = str(export_to)
    return document
