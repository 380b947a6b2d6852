"""What others signed, kept beside the journal: newest heads of other authors, proofs of forks, co-signatures of the journal itself.

    Remember --keep--> peer_heads, forks, witnesses --recall--> Remembered, before the next life starts
                                              '--Confirmed--> does the journal still hold what peers have co-signed?

Invariant: one head per author, one co-signature per peer (its newest, or the one that contradicts the journal: the core says which).
No signature is verified again here, but a seal is: rows that do not open, or cannot be read, are left out, and `check` names them. Whoever
shows a co-signature to people verifies it first. Who can write this file can also delete these rows; that his cut shows then is up to the
peers, who hold the newer head themselves.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from typing import Any

from mesh.core.inputs import Remembered
from mesh.core.records.journal import last_of, seal_of
from mesh.effects import Remember
from mesh.ids import NodeId, short
from mesh.messages.records import Commit, Fork, Witness
from mesh.messages.signed import Signed
from mesh.runtime.disk.sealing import SealBroken
from mesh.runtime.disk.store_chain import peek
from mesh.runtime.disk.store_file import broken
from mesh.runtime.disk.store_rows import Rows
from mesh.wire.packing import Refusal


def keep(connection: sqlite3.Connection, rows: Rows, effect: Remember) -> None:
    """Within the caller's transaction. Raises sqlite3.Error."""
    for table, signed in (("peer_heads", effect.heads), ("witnesses", effect.witnesses)):
        kept = [(one.author, rows.memory_in(f"{table}/{one.author}", one.raw)) for one in signed]
        connection.executemany(f"INSERT OR REPLACE INTO {table} VALUES(?, ?)", kept)
    for fork in effect.forks:
        one, other = (rows.memory_in(f"forks/{fork.author}", each.raw) for each in (fork.one, fork.other))
        connection.execute(
            "INSERT INTO forks SELECT ?, ?, ? WHERE NOT EXISTS(SELECT 1 FROM forks WHERE author=?)", (fork.author, one, other, fork.author)
        )


def recall(connection: sqlite3.Connection, rows: Rows) -> Remembered:
    """For the records machine, before `Started`. Raises sqlite3.Error."""
    forks: list[Fork] = []
    for author, one, other in connection.execute("SELECT author, one, other FROM forks ORDER BY author, one, other"):
        first, second = (_opened_or_none(rows, f"forks/{author}", each) for each in (one, other))
        if first and second:
            forks.append(Fork(author, first, second))
    witnesses = tuple(_witnesses(connection, rows))
    return Remembered(tuple(_signed(connection, rows, "peer_heads")), tuple(forks), witnesses, tuple(_holding(connection, witnesses)))


def check(connection: sqlite3.Connection, rows: Rows) -> None:
    """Every row is as it was written. Raises StoreError for the first that is not, sqlite3.Error."""
    for table, columns in (("peer_heads", "raw, raw"), ("witnesses", "raw, raw"), ("forks", "one, other")):
        for author, *stored in connection.execute(f"SELECT author, {columns} FROM {table} ORDER BY author"):
            if not all(_opened_or_none(rows, f"{table}/{author}", each) for each in stored):
                raise broken(rows.path, f"what {author} signed, kept beside it in {table}, was changed on disk")


def _signed(connection: sqlite3.Connection, rows: Rows, table: str) -> Iterator[Signed]:
    for author, raw in connection.execute(f"SELECT author, raw FROM {table} ORDER BY author"):
        if (one := _opened_or_none(rows, f"{table}/{author}", raw)) is not None:
            yield one


def _witnesses(connection: sqlite3.Connection, rows: Rows) -> Iterator[Signed]:
    for one in _signed(connection, rows, "witnesses"):
        if isinstance(one.body, Witness):
            yield one


def _holding(connection: sqlite3.Connection, witnesses: tuple[Signed, ...]) -> Iterator[Signed]:
    """The own commits in which the entries lie that `witnesses` name, each once."""
    seen: dict[int, None] = {}
    for witness in witnesses:
        row = connection.execute(
            "SELECT first, raw FROM commits WHERE first<=? ORDER BY first DESC LIMIT 1", (witness.body.last,)
        ).fetchone()
        if row is not None and row[0] not in seen and (commit := _peek_or_none(row[1])) is not None:
            seen[row[0]] = None
            yield commit


def _opened_or_none(rows: Rows, row: str, stored: Any) -> Signed | None:
    try:
        return _peek_or_none(rows.memory_out(row, stored))
    except SealBroken:
        return None


def _peek_or_none(raw: Any) -> Signed | None:
    try:
        return peek(raw)[0]
    except (Refusal, TypeError):
        return None


class Confirmed:
    """Compares a journal, commit by commit, with what peers have co-signed of it. Raises StoreError ``journal_broken`` with the entry."""

    def __init__(self, connection: sqlite3.Connection, rows: Rows) -> None:
        self._path = rows.path
        self._by_last: dict[int, list[Signed]] = {}
        for witness in _witnesses(connection, rows):
            self._by_last.setdefault(witness.body.last, []).append(witness)
        self._lasts = sorted(self._by_last)
        self._at = 0

    def check(self, commit: Commit, raw: bytes) -> None:
        """The next commit, in order."""
        while self._at < len(self._lasts) and (named := self._lasts[self._at]) <= last_of(commit):
            self._at += 1
            for witness in self._by_last[named]:
                if (named, witness.body.head) != (last_of(commit), seal_of(Signed(commit.author, commit, raw))):
                    raise broken(self._path, f"{short(witness.author)} co-signed another entry {named} than it holds: it was replaced")

    def check_end(self, seq: int) -> None:
        """The journal ends with entry `seq`."""
        if self._at < len(self._lasts):
            named = self._lasts[-1]
            who = ", ".join(short(witness.author) for witness in self._by_last[named])
            raise broken(self._path, f"it ends with entry {seq}, and {who} co-signed it up to entry {named}: its end was cut off")

    def reach(self) -> list[tuple[NodeId, int]]:
        """Who has co-signed, and up to which entry, furthest first."""
        return [(witness.author, last) for last in reversed(self._lasts) for witness in self._by_last[last]]
