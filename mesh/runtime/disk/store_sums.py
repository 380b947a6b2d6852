"""What a start reads: the entries that the newest `Summed` names, and the chain from there on; and how the next one is made.

    | ... open ...... open . | ........ Summed .... newest |         read: the open ones, each with its commit; and all after `upto`
                             upto                                     left to the scrub: the rest

Invariant: what is replayed was signed by this journal's author. The newest commit's signature covers, through the links, all that is
walked, the sum included; an entry before that is checked with its own commit and that one's signature. Where no sum is found, or what is
found under its key is none, everything is walked.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from typing import Any

from mesh.core.records.inputs import OpenFound
from mesh.core.records.journal import SUMMED
from mesh.core.records.still_open import sum_up
from mesh.ids import NodeId
from mesh.limits import RecordsLimits
from mesh.messages.records import Summed
from mesh.runtime.disk import store_chain
from mesh.runtime.disk.store_chain import ChainEnd
from mesh.runtime.disk.store_file import broken
from mesh.runtime.disk.store_rows import Rows
from mesh.wire.codec import decode_entry
from mesh.wire.packing import Refusal

Verify = Callable[[bytes], bool]
BREATH_ENTRIES, BREATH_S = 256, 0.001
"""Threads share one interpreter: so often whoever sums up lets the loop run."""


def newest(connection: sqlite3.Connection, rows: Rows) -> Summed:
    """As it stands there, not verified; of nothing, if there is none. Raises StoreError, sqlite3.Error."""
    query = "SELECT seq, entry FROM about JOIN entries USING(seq) WHERE key=? ORDER BY seq DESC LIMIT 1"
    row = connection.execute(query, (SUMMED,)).fetchone()
    try:
        found = decode_entry(rows.entry_out(*row)) if row is not None else None
    except Refusal:
        found = None
    return found if isinstance(found, Summed) and found.upto < row[0] else Summed(0)


def begin(connection: sqlite3.Connection, rows: Rows, author: NodeId, verify: Verify, *, whole: bool) -> ChainEnd:
    """Check what is replayed. `whole`: all there is. Raises StoreError, sqlite3.Error."""
    summed = Summed(0) if whole else newest(connection, rows)
    end = ChainEnd(since=summed.upto)
    for seq, entry in store_chain.read_needed(connection, rows, author, verify, summed.open):
        end.needed.append((seq, entry))
        end.note(seq, entry)
    store_chain.walk(connection, rows, author, verify, end)
    return end


def find_open(connection: sqlite3.Connection, rows: Rows, author: NodeId, verify: Verify, taken: int, limits: RecordsLimits) -> OpenFound:
    """From the newest sum on, at most `sum_read_max` entries further. Raises StoreError, sqlite3.Error."""
    summed = newest(connection, rows)

    def needed() -> Iterator[tuple[int, bytes]]:
        yield from store_chain.read_needed(connection, rows, author, verify, summed.open)
        after = store_chain.place_before(connection, summed.upto + 1)
        for commit, _, entries in store_chain.read_commits(connection, rows, author, after):
            for seq, entry in enumerate(entries, commit.first):
                if seq > summed.upto + limits.sum_read_max:
                    return
                if seq > summed.upto:
                    yield seq, entry

    def decoded() -> Iterator[tuple[int, Any]]:
        for count, (seq, entry) in enumerate(needed(), 1):
            if count % BREATH_ENTRIES == 0:
                time.sleep(BREATH_S)
            try:
                yield seq, decode_entry(entry)
            except Refusal as error:
                raise broken(rows.path, f"entry {seq} cannot be read: {error.reason}") from None

    return sum_up(author, decoded(), taken, limits)
