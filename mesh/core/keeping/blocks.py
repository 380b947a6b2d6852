"""Blocks of one author's log as values: where one ends, what it weighs, how many travel at once, which entries it holds.

Knows no log and no disk: callers that read blocks back (a store, a simulated disk) share this, so that they answer alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from mesh.core.records.journal import roles
from mesh.ids import Hash, NodeId, content_hash
from mesh.messages.keeping import Block, Position, Yield
from mesh.messages.records import Guarded

TaleRow = tuple[int, Any, dict[Hash, bytes]]
"""An entry's number, the entry, and the bodies it names."""


def end_of(block: Block) -> Position:
    """The position of its last entry."""
    body = block.head.body
    return (block.term, body.seq if isinstance(body, Yield) else body.first + body.count - 1)


def bytes_of(block: Block) -> int:
    """What it takes on disk and on the wire, but for a little."""
    return len(block.head.raw) + sum(map(len, block.entries)) + sum(map(len, block.bodies))


def fitting(blocks: Iterable[Block], bytes_max: int, blocks_max: int) -> tuple[Block, ...]:
    """The first of them, as many as may travel at once; one at least, if there is any."""
    found: list[Block] = []
    size = 0
    for block in blocks:
        size += bytes_of(block)
        if found and (size > bytes_max or len(found) >= blocks_max):
            break
        found.append(block)
    return tuple(found)


def members_set(entries: Iterable[Any], term: int) -> tuple[NodeId, ...]:
    """Who keeps the log from the commit on that holds these entries, if it says so for `term`; empty: as before."""
    members: tuple[NodeId, ...] = ()
    for entry in entries:
        if type(entry) is Guarded and entry.term == term:
            members = entry.members
    return members


def rows_of(block: Block, decode: Callable[[bytes], Any]) -> Iterator[TaleRow]:
    """Its entries in order, each with those of the block's bodies that it names. Raises what `decode` raises."""
    if isinstance(block.head.body, Yield):
        return
    bodies = {content_hash(body): body for body in block.bodies}
    for seq, data in enumerate(block.entries, block.head.body.first):
        entry = decode(data)
        yield seq, entry, {name: bodies[name] for name, _, _ in roles(entry) if name in bodies}
