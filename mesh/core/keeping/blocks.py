"""Blocks of one author's log as values: where one ends, what it weighs, how many travel at once, which entries it holds.

Knows no log and no disk: callers that read blocks back (a store, a simulated disk) share this, so that they answer alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from mesh.core.keeping.inputs import TaleRead
from mesh.core.records.journal import bodies_of, keys
from mesh.effects import ReadTale
from mesh.ids import Hash, NodeId, TaskId, content_hash
from mesh.messages.keeping import Block, Position, Yield
from mesh.messages.records import Guarded, Submitted, Summed

TOLD_MAX = 1024
"""Tasks of one story from a shelf: each costs 0.1 us a block, where a block that names none need not be decoded."""

SUMMED_MARK = b"Summed"
"""In the first bytes of such an entry, as encoded: the rest need not be decoded to find one."""

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


def telling(block: Block, names: dict[TaskId, None], decode: Callable[[bytes], Any]) -> list[int]:
    """Numbers of its entries about the tasks in `names` or their steps. Steps that begin here are added to `names`: what follows is told of
    them too."""
    found: list[int] = []
    for seq, entry, _ in rows_of(block, decode):
        if any(key in names for key in keys(entry)):
            found.append(seq)
            if type(entry) is Submitted and len(names) < TOLD_MAX:
                names[entry.task] = None
    return found


def page_of(rows: Iterable[TaleRow], effect: ReadTale, bytes_max: int) -> TaleRead:
    """The first of them, as many as one page may hold."""
    page: list[TaleRow] = []
    size = 0
    for row in rows:
        if page and (len(page) >= effect.entries_max or size >= bytes_max):
            return TaleRead(effect.token, tuple(page), True)
        page.append(row)
        size += sum(map(len, row[2].values()))
    return TaleRead(effect.token, tuple(page), False)


def rows_of(block: Block, decode: Callable[[bytes], Any], wanted: Callable[[int], bool] = lambda _seq: True) -> Iterator[TaleRow]:
    """Those of its entries whose numbers are `wanted`, in order, each with those of the block's bodies that it names.

    Raises what `decode` raises.
    """
    if isinstance(block.head.body, Yield):
        return
    bodies = {content_hash(body): body for body in block.bodies}
    for seq, data in enumerate(block.entries, block.head.body.first):
        if wanted(seq):
            entry = decode(data)
            yield seq, entry, {name: bodies[name] for name in bodies_of(entry) if name in bodies}


# ---- what its author has summed up


def newest_sum(blocks: Iterable[Block], decode: Callable[[bytes], Any]) -> Summed:
    """The last one in them, which come newest first; of nothing, if there is none."""
    for block in blocks:
        for data in reversed(block.entries):
            if SUMMED_MARK in data[:8] and isinstance(found := decode(data), Summed):
                return found
    return Summed(0)


def needed(summed: Summed, since: int) -> Callable[[int], bool]:
    """Whether the entry of this number is part of a tale that goes on after `since`."""
    still_open = frozenset(summed.open)
    return lambda seq: seq > since and (seq > summed.upto or seq in still_open)
