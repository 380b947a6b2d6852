"""What a start leaves out, verified after it: every commit and entry from the first on, then the index; a piece at a time.

Invariant: when it is done, all has been checked that a start which walks everything checks. Damage ends the node, as damage that any other
read meets does, and its next start walks everything. Runs in the store's reading thread, between reads, and holds no transaction over a
pause. An index that disagrees is no damage: who made the scrub has it made again.
"""

from __future__ import annotations

import hashlib
import sqlite3
import time
from collections.abc import Iterator

from mesh.core.records.journal import last_of
from mesh.ids import NodeId
from mesh.limits import RecordsLimits
from mesh.runtime.disk.store_chain import BEGINNING, ChainEnd, IndexCheck, Place, read_commits
from mesh.runtime.disk.store_rows import Rows
from mesh.wire.codec import decode_entry
from mesh.wire.objects import body_bytes
from mesh.wire.packing import Refusal


class Scrub:
    """Of a journal of which `end.since` entries were left out. `step` when it is `due_s`."""

    def __init__(self, connection: sqlite3.Connection, rows: Rows, author: NodeId, limits: RecordsLimits, end: ChainEnd) -> None:
        self._connection, self._rows, self._author, self._limits, self._end = connection, rows, author, limits, end
        self._index: IndexCheck | None = IndexCheck()
        """None: an entry is of a kind that this version does not know, so what the index should be is not known."""
        self._pieces = self._all_pieces()
        self.commits = 0
        """Of those that were not walked, how many have been verified."""
        self.index_differs = False
        self.done = end.since == 0
        self.due_s = time.monotonic() + limits.scrub_pause_s

    def step(self) -> None:
        """One piece. Raises StoreError, sqlite3.Error."""
        self.done = next(self._pieces, None) is None
        self.due_s = time.monotonic() + self._limits.scrub_pause_s

    def _all_pieces(self) -> Iterator[int]:
        place = BEGINNING
        while place.last < self._end.seq:
            place = self._piece_of_chain(place)
            yield place.last
        if self._index is not None:
            yield from self._all_of_index(self._index)

    def _piece_of_chain(self, after: Place) -> Place:
        """To the end of what was there at the start: so its first link to what was walked is checked, too."""
        last, raw, incarnation = after.last, b"", 0
        commits = read_commits(self._connection, self._rows, self._author, after)
        for commit, raw, entries in commits:  # noqa: B007 - the last one is asked for below
            last, incarnation = last_of(commit), commit.incarnation
            self.commits += last <= self._end.walked_after
            self._note(commit.first, entries)
            if last - after.last >= self._limits.scrub_entries or last >= self._end.seq:
                break
        commits.close()
        assert raw, "the end was there when this life began"
        return Place(last, hashlib.sha256(body_bytes(raw)).digest(), incarnation)

    def _note(self, first: int, entries: list[bytes]) -> None:
        try:
            for seq, entry in enumerate(entries, first):
                if self._index is not None:
                    self._index.add(seq, decode_entry(entry))
        except Refusal:
            self._index = None

    def _all_of_index(self, index: IndexCheck) -> Iterator[int]:
        """Its rows about what was there at the start, in order of their keys."""
        query = "SELECT key, seq FROM about WHERE (key, seq) > (?, ?) ORDER BY key, seq LIMIT ?"
        at: tuple[str, int] = ("", 0)
        while found := self._connection.execute(query, (*at, 8 * self._limits.scrub_entries)).fetchall():
            index.found(row for row in found if row[1] <= self._end.seq)
            at = found[-1]
            yield self._end.seq
        self.index_differs = not index.agrees()
