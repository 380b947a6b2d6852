"""What this node keeps of others' logs, in its journal's file: signed commits with entries and bodies, and what it knows of each log.

    Shelve --writer thread, with the commits around it--> shelf, shelf_states --> Shelved, after the sync
    ReadShelf, ReadTale --reader thread--> blocks, entries             ShelfKnown, before a life starts, <-- states

Invariant: a block that is read back is the one that was written at its place (its seal opens, and its entries hash to the root that its
author signed). Where a row is damaged reading ends with what is good before it, and the damage is counted: the node goes on, and others
have the same blocks. Of a tale only that is read which its author has not summed up as over. Blocks of the own log are the journal's
commits; only what others added to it lies here. Verifies no signature: the wire did before anything was kept.
"""

from __future__ import annotations

import sqlite3
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from heapq import merge
from typing import Any, TypeVar

from mesh.core.keeping.blocks import SUMMED_MARK, TaleRow, end_of, fitting, members_set, needed, newest_sum, page_of, rows_of, telling
from mesh.core.keeping.inputs import ShelfKnown, ShelfRead, TaleRead
from mesh.core.records.journal import bodies_of, last_of
from mesh.effects import LogState, ReadShelf, ReadTale, Shelve
from mesh.ids import Hash, NodeId, TaskId
from mesh.limits import RecordsLimits
from mesh.messages.keeping import Block, Position
from mesh.messages.records import Summed
from mesh.messages.signed import Signed
from mesh.runtime.disk import store_chain
from mesh.runtime.disk.sealing import SealBroken
from mesh.runtime.disk.store_file import broken
from mesh.runtime.disk.store_rows import Rows
from mesh.wire.blocks import check_block
from mesh.wire.codec import decode_entry, decode_object
from mesh.wire.objects import parts
from mesh.wire.packing import Refusal, pack, unpack_row
from mesh.wire.shapes import shape_of

_BLOCK, _STATE = shape_of(Block), shape_of(LogState, kept=True)

T = TypeVar("T")


class Damaged(Exception):
    """A row is not what was written there."""


# ---- writing


def put(connection: sqlite3.Connection, rows: Rows, effect: Shelve) -> None:
    """Within the caller's transaction. Every head is signed by now. Raises sqlite3.Error."""
    author = effect.author
    state = rows.shelf_in(author, pack(_STATE.row(effect.state, None)))
    connection.execute("INSERT OR REPLACE INTO shelf_states VALUES(?, ?)", (author, state))
    if effect.cut is not None:
        connection.execute("DELETE FROM shelf WHERE author=? AND (term, seq) > (?, ?)", (author, *effect.cut))
    for block in effect.blocks:
        term, seq = end_of(block)
        data = rows.shelf_in(_place(author, term, seq), pack(_BLOCK.row(block, None)))
        connection.execute("INSERT OR REPLACE INTO shelf VALUES(?, ?, ?, ?)", (author, term, seq, data))


# ---- reading


def known(connection: sqlite3.Connection, rows: Rows, damages: Counter[str]) -> Iterator[ShelfKnown]:
    """What earlier lives knew of each log, in order of its author; a damaged state is left out. Raises sqlite3.Error."""
    # Cast: damage may have made a text of it, which need not be one.
    for author, stored in connection.execute("SELECT author, CAST(state AS BLOB) FROM shelf_states ORDER BY author"):
        try:
            state = _STATE.read(unpack_row(rows.shelf_out(author, stored)), None)
        except (SealBroken, Refusal):
            damages["shelf_state_damaged"] += 1
            continue
        yield ShelfKnown(author, state)


class ShelfReader:
    """On the reader thread, over its connection. Methods raise StoreError (a broken journal) and sqlite3.Error."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        rows: Rows,
        me: NodeId,
        limits: RecordsLimits,
        damages: Counter[str],
        verify: Callable[[bytes], bool],
    ) -> None:
        self._connection, self._rows, self._me, self._limits, self._damages = connection, rows, me, limits, damages
        self._verify = verify
        """Whether this node signed a commit."""
        self._sum: tuple[Any, Summed] = None, Summed(0)
        """Whose log was read last for what is needed of it, its last position then, and the newest sum in it."""

    def read(self, effect: ReadShelf) -> ShelfRead:
        since, until = effect.since, effect.until
        own = self._own(since, until) if effect.author == self._me else iter(())
        found = merge(own, self._kept(effect.author, since, until), key=end_of)
        return ShelfRead(effect.token, fitting(_good(found, self._damages), effect.bytes_max, self._limits.ship_blocks_max))

    def tale(self, effect: ReadTale) -> TaleRead:
        """A damaged block, and an entry of a kind that this version does not know, end it: then `more` is True, and nothing comes."""
        damaged = self._damages.total()
        rows = self._told_here(effect) if effect.author == self._me else self._tale(effect.author, effect.since, effect.about)
        page = page_of(_good(rows, self._damages), effect, self._limits.tale_bytes_max)
        page.more = page.more or self._damages.total() > damaged
        return page

    def _told_here(self, effect: ReadTale) -> Iterator[TaleRow]:
        """Of the own journal: what it tells about the tasks that are asked for. (The rest is no tale, but a replay.)"""
        found: dict[int, None] = {}
        for task in effect.about:
            found |= dict.fromkeys(seq for (seq,) in self._connection.execute("SELECT seq FROM about WHERE key=?", (task,)))
        seqs = sorted(seq for seq in found if seq > effect.since)
        for seq, data in store_chain.read_needed(self._connection, self._rows, self._me, self._verify, seqs):
            entry = _decoded(data)
            yield seq, entry, self._bodies_by_name(entry)

    def about(self, author: NodeId, task: TaskId) -> Iterator[tuple[Block, list[int]]]:
        """The commits of `author` that tell about `task` or its steps, and theirs, each with the numbers of those entries."""
        yield from _good(self._about(author, {task: None}), self._damages)

    def _about(self, author: NodeId, names: dict[TaskId, None]) -> Iterator[tuple[Block, list[int]]]:
        for block in self._blocks("author=?", (author,), names):
            if wanted := telling(block, names, _decoded):
                yield block, wanted

    def _tale(self, author: NodeId, since: int, about: tuple[TaskId, ...]) -> Iterator[TaleRow]:
        """All that is told about these tasks; or, about none, what is needed to go on."""
        summed = Summed(0) if about else self._newest_sum(author)
        wanted = needed(summed, since)
        for block in self._open_blocks(author, summed, since):
            yield from rows_of(block, _decoded, wanted)
        for block in self._blocks("author=? AND seq > ?", (author, max(since, summed.upto)), about):
            yield from rows_of(block, _decoded, wanted)

    def _newest_sum(self, author: NodeId) -> Summed:
        """Kept until the log grows: a tale is read page by page."""
        query = "SELECT term, seq FROM shelf WHERE author=? ORDER BY term DESC, seq DESC LIMIT 1"
        newest = (author, self._connection.execute(query, (author,)).fetchone())
        if newest != self._sum[0]:
            blocks = self._blocks("author=?", (author,), (SUMMED_MARK.decode(),), order="term DESC, seq DESC")
            self._sum = newest, newest_sum(blocks, _decoded)
        return self._sum[1]

    def _open_blocks(self, author: NodeId, summed: Summed, since: int) -> Iterator[Block]:
        """Those up to the sum's end in which something is still open."""
        ends = self._connection.execute(
            "SELECT seq, term FROM shelf WHERE author=? AND seq > ? ORDER BY term, seq", (author, since)
        ).fetchall()
        last = -1
        for seq in summed.open:
            at = bisect_left(ends, (seq, -1))
            if seq > since and at != last and at < len(ends) and ends[at][0] <= summed.upto:
                last = at
                yield from self._blocks("author=? AND seq=? AND term=?", (author, *ends[at]))

    def _kept(self, author: NodeId, since: Position, until: Position) -> Iterator[Block]:
        return self._blocks("author=? AND (term, seq) > (?, ?) AND (term, seq) <= (?, ?)", (author, *since, *until))

    def _blocks(self, where: str, values: tuple[Any, ...], about: Collection[str] = (), order: str = "term, seq") -> Iterator[Block]:
        """`about`: those that name one of these tasks, which may grow meanwhile. An entry is a text in which ids stand as they are:
        the rest need not be decoded."""
        query = f"SELECT author, term, seq, CAST(block AS BLOB) FROM shelf WHERE {where} ORDER BY {order}"
        for author, term, seq, stored in self._connection.execute(query, values):
            try:
                data = self._rows.shelf_out(_place(author, term, seq), stored)
                if about and not any(task.encode() in data for task in about):
                    continue
                block: Block = _BLOCK.read(unpack_row(data), _peek)
                check_block(block, author)
            except (SealBroken, Refusal) as error:
                raise Damaged(str(error)) from None
            if end_of(block) != (term, seq):
                raise Damaged("another place's")
            yield block

    def _own(self, since: Position, until: Position) -> Iterator[Block]:
        """The own commits in that range of entries, as blocks of the later one's term."""
        query = "SELECT raw FROM commits WHERE first >= coalesce((SELECT max(first) FROM commits WHERE first <= ?), 0) ORDER BY first"
        for (raw,) in self._connection.execute(query, (since[1] + 1,)):
            try:
                signed = store_chain.peek(raw)[0]
            except Refusal as error:
                raise broken(self._rows.path, f"a commit after entry {since[1]} cannot be read: {error.reason}") from None
            if last_of(signed.body) > until[1]:
                return
            if last_of(signed.body) > since[1]:
                yield self._own_block(until[0], signed)

    def _own_block(self, term: int, signed: Signed) -> Block:
        first, last = signed.body.first, last_of(signed.body)
        stored = self._connection.execute("SELECT seq, entry FROM entries WHERE seq BETWEEN ? AND ? ORDER BY seq", (first, last)).fetchall()
        data = [self._rows.entry_out(seq, entry) for seq, entry in stored]
        store_chain.check_root(self._rows.path, signed.body, data)
        entries = [decode_entry(entry) for entry in data]
        names = dict.fromkeys(name for entry in entries for name in bodies_of(entry))
        return Block(term, signed, tuple(data), tuple(self._bodies(names)), members_set(entries, term))

    def _bodies_by_name(self, entry: Any) -> dict[Hash, bytes]:
        bodies = ((name, store_chain.read_body(self._connection, self._rows, name)) for name in bodies_of(entry))
        return {name: body for name, body in bodies if body is not None}

    def _bodies(self, names: dict[Hash, None]) -> Iterator[bytes]:
        for name in names:
            body = store_chain.read_body(self._connection, self._rows, name)
            if body is not None:
                yield body


def _good(found: Iterator[T], damages: Counter[str]) -> Iterator[T]:
    """What comes before the first damage, which is counted."""
    try:
        yield from found
    except Damaged:
        damages["shelf_block_damaged"] += 1


def _place(author: NodeId, term: int, seq: int) -> str:
    return f"{author}/{term}/{seq}"


def _decoded(data: bytes) -> Any:
    try:
        return decode_entry(data)
    except Refusal as error:
        raise Damaged(error.reason) from None


def _peek(raw: bytes) -> Signed:
    """A head, and the ballots in it: nothing nests deeper."""
    tag, author, body, _ = parts(raw)
    return Signed(author, decode_object(tag, body, lambda inside: store_chain.peek(inside)[0]), raw)
