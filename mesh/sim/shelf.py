"""The simulated disk's shelf: blocks and states of logs, as `effects.Shelve` asked for them, and what `ReadShelf` and `ReadTale` find.

Invariant: only what is synced is in here (`disk.py` puts it in at the end of a sync), and it answers as `runtime/disk/shelf.py` does.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from heapq import merge
from typing import Any

from mesh.core.keeping.blocks import end_of, fitting, needed, newest_sum, page_of, rows_of, telling
from mesh.core.keeping.inputs import ShelfRead, TaleRead
from mesh.effects import LogState, ReadShelf, ReadTale, Shelve
from mesh.ids import NodeId, TaskId
from mesh.limits import RecordsLimits
from mesh.messages.keeping import Block, Position
from mesh.messages.records import Summed


class Shelf:
    """Of all authors."""

    def __init__(self) -> None:
        self.states: dict[NodeId, LogState] = {}
        self._ends: dict[NodeId, list[Position]] = {}
        self._blocks: dict[NodeId, list[Block]] = {}
        """By author, in order, as are the positions at which they end."""

    def __copy__(self) -> Shelf:
        twin = Shelf()
        twin.states = dict(self.states)
        twin._ends = {author: list(ends) for author, ends in self._ends.items()}
        twin._blocks = {author: list(blocks) for author, blocks in self._blocks.items()}
        return twin

    def put(self, effect: Shelve) -> None:
        self.states[effect.author] = effect.state
        ends, held = self._ends.setdefault(effect.author, []), self._blocks.setdefault(effect.author, [])
        if effect.cut is not None:
            keep = bisect_right(ends, effect.cut)
            del ends[keep:], held[keep:]
        for block in effect.blocks:
            end = end_of(block)
            at = bisect_left(ends, end)
            again = at + (ends[at : at + 1] == [end])
            ends[at:again], held[at:again] = [end], [block]

    def _between(self, author: NodeId, since: Position, until: Position) -> Iterator[Block]:
        ends, held = self._ends.get(author, []), self._blocks.get(author, [])
        for at in range(bisect_right(ends, since), bisect_right(ends, until)):
            yield held[at]

    def read(self, effect: ReadShelf, own: Iterable[Block], limits: RecordsLimits) -> ShelfRead:
        """`own`: blocks of the journal in that range, if it is the own log."""
        found = merge(own, self._between(effect.author, effect.since, effect.until), key=end_of)
        return ShelfRead(effect.token, fitting(found, effect.bytes_max, limits.ship_blocks_max))

    def tale(self, effect: ReadTale, limits: RecordsLimits) -> TaleRead:
        blocks = self._blocks.get(effect.author, [])
        summed = Summed(0) if effect.about else newest_sum(reversed(blocks), _entry_of)
        wanted = needed(summed, effect.since)
        return page_of((row for block in blocks for row in rows_of(block, _entry_of, wanted)), effect, limits.tale_bytes_max)

    def about(self, author: NodeId, task: TaskId) -> Iterator[tuple[Block, list[int]]]:
        """The commits of `author` that tell about `task` or its steps, and theirs, each with the numbers of those entries."""
        names: dict[TaskId, None] = {task: None}
        for block in self._blocks.get(author, []):
            if wanted := telling(block, names, _entry_of):
                yield block, wanted


def _entry_of(encoded: bytes) -> Any:
    return encoded.entry  # type: ignore[attr-defined]
