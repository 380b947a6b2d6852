"""What others signed, kept beside the journal: newest heads of other authors, proofs of forks, co-signatures of the journal itself.

    Remember --keep--> peer_heads, forks, witnesses --recall--> Remembered, before the next life starts
                                              '--Confirmed--> does the journal still hold what peers have co-signed?

Invariant: one head per author, one co-signature per peer (its newest, or the one that contradicts the journal: the core says which).
Nothing is verified again here: rows that cannot be read are left out, and whoever shows a co-signature to people verifies it first. Who can
write this file can also delete these rows; that his cut shows then is up to the peers, who hold the newer head themselves.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mesh.core.inputs import Remembered
from mesh.core.records.journal import last_of, seal_of
from mesh.effects import Remember
from mesh.ids import NodeId, short
from mesh.messages.records import Commit, Fork, Witness
from mesh.messages.signed import Signed
from mesh.runtime.disk.store_chain import peek
from mesh.runtime.disk.store_file import broken
from mesh.wire.packing import Refusal


def keep(connection: sqlite3.Connection, effect: Remember) -> None:
    """Within the caller's transaction. Raises sqlite3.Error."""
    connection.executemany("INSERT OR REPLACE INTO peer_heads VALUES(?, ?)", [(head.author, head.raw) for head in effect.heads])
    connection.executemany(
        "INSERT OR IGNORE INTO forks VALUES(?, ?, ?)", [(one.author, one.one.raw, one.other.raw) for one in effect.forks]
    )
    connection.executemany("INSERT OR REPLACE INTO witnesses VALUES(?, ?)", [(one.author, one.raw) for one in effect.witnesses])


def recall(connection: sqlite3.Connection) -> Remembered:
    """For the records machine, before `Started`. Raises sqlite3.Error."""
    forks: list[Fork] = []
    for author, one, other in connection.execute("SELECT author, one, other FROM forks ORDER BY author, one, other"):
        first, second = _peek_or_none(one), _peek_or_none(other)
        if first and second:
            forks.append(Fork(author, first, second))
    witnesses = tuple(_witnesses(connection))
    heads = tuple(_signed(connection, "SELECT raw FROM peer_heads ORDER BY author"))
    return Remembered(heads, tuple(forks), witnesses, tuple(_holding(connection, witnesses)))


def _signed(connection: sqlite3.Connection, query: str) -> Iterator[Signed]:
    for (raw,) in connection.execute(query):
        if (one := _peek_or_none(raw)) is not None:
            yield one


def _witnesses(connection: sqlite3.Connection) -> Iterator[Signed]:
    for one in _signed(connection, "SELECT raw FROM witnesses ORDER BY author"):
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


def _peek_or_none(raw: Any) -> Signed | None:
    try:
        return peek(raw)[0]
    except (Refusal, TypeError):
        return None


class Confirmed:
    """Compares a journal, commit by commit, with what peers have co-signed of it. Raises StoreError ``journal_broken`` with the entry."""

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self._path = path
        self._by_last: dict[int, list[Signed]] = {}
        for witness in _witnesses(connection):
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
