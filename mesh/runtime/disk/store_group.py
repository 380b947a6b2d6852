"""What the writer takes from its queue at once, and how that becomes rows: one group, one transaction, one fsync.

    queue: entry entry blocks entry | entry ...        a group ends before it is longer, or larger, than one commit may be

Invariant: a group's entries are one commit, in the order in which they were queued; a commit with its bodies fits one frame on the wire,
unless it is a single entry. Does not decide when to write, and signs nothing.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from mesh.core.keeping.blocks import bytes_of
from mesh.core.records.journal import keys
from mesh.effects import Remember, Shelve
from mesh.ids import Hash
from mesh.limits import RecordsLimits
from mesh.messages.signed import Signed
from mesh.runtime.disk import shelf, store_memory
from mesh.runtime.disk.store_rows import Rows
from mesh.wire.codec import encode_entry

Queued = tuple[int, Any, dict[Hash, bytes]]
"""An entry's number, the entry, and the bodies that come with it."""
Item = Queued | Shelve


@dataclass(slots=True)
class Group:
    """Some of the queue's head: the entries, encoded as `data`, and what is to be kept of others' logs."""

    entries: list[Queued] = field(default_factory=list)
    data: list[bytes] = field(default_factory=list)
    bodies: dict[Hash, bytes] = field(default_factory=dict)
    """In order of first mention."""
    shelved: list[Shelve] = field(default_factory=list)

    @property
    def length(self) -> int:
        """How many items of the queue it took."""
        return len(self.entries) + len(self.shelved)


def gather(ahead: Iterable[Item], limits: RecordsLimits) -> Group:
    """As many of the items `ahead` as one commit may hold by size; at least one, if there is any. Raises what `encode_entry` raises."""
    group = Group()
    size = 0
    for item in ahead:
        data = b""
        if isinstance(item, Shelve):
            size += sum(map(bytes_of, item.blocks))
        else:
            data = encode_entry(item[1])
            size += len(data) + sum(len(body) for name, body in item[2].items() if name not in group.bodies)
        if group.length and size > limits.commit_bytes_max:
            break
        if isinstance(item, Shelve):
            group.shelved.append(item)
        else:
            group.entries.append(item)
            group.data.append(data)
            group.bodies.update(item[2])
    return group


def insert(connection: sqlite3.Connection, rows: Rows, group: Group, signed: Signed | None, head: bytes, remember: list[Remember]) -> None:
    """Within the caller's transaction. `signed`: the commit over the group's entries, `head` its hash. Raises sqlite3.Error."""
    if signed is not None:
        commit, raw = signed.body, signed.raw
        connection.execute(
            "INSERT INTO commits VALUES(?, ?, ?, ?, ?)", (commit.first, commit.count, raw, head, hashlib.sha256(raw).digest())
        )
        entries = [(seq, rows.entry_in(seq, entry)) for (seq, _, _), entry in zip(group.entries, group.data, strict=True)]
        connection.executemany("INSERT INTO entries VALUES(?, ?)", entries)
        connection.executemany("INSERT INTO about VALUES(?, ?)", [(key, seq) for seq, entry, _ in group.entries for key in keys(entry)])
        if group.bodies:
            bodies = [(name, rows.body_in(name, body)) for name, body in group.bodies.items()]
            connection.executemany("INSERT OR IGNORE INTO bodies VALUES(?, ?)", bodies)
    for effect in group.shelved:
        shelf.put(connection, rows, effect)
    for one in remember:
        store_memory.keep(connection, rows, one)
