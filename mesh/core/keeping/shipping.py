"""Where the blocks come from that a leader ships: the newest own ones from memory, all others from disk, one page at a time.

    own commits --note--> recent (bounded)        blocks(at): in recent? give; a page read for `at`? give; else nothing, and a read is asked

Invariant: what is given follows the position asked for, in order and without a gap, and is in the log as it is now. Reads are asked once
per log at a time.
"""

from __future__ import annotations

from collections import deque

from mesh.core.keeping.blocks import bytes_of, end_of, fitting
from mesh.core.keeping.log import Log, Run
from mesh.effects import Need, ReadShelf
from mesh.ids import NodeId
from mesh.limits import KeepingLimits
from mesh.messages.keeping import Block, Position


class Shipping:
    def __init__(self, me: NodeId, limits: KeepingLimits, blocks_max: int) -> None:
        self._me, self._limits, self._blocks_max = me, limits, blocks_max
        self._recent: deque[Block] = deque()
        self._recent_bytes = 0
        self._recent_after: Position | None = None
        """The position that the first of `_recent` follows; None: nothing is there."""
        self._pages: dict[NodeId, tuple[Position, tuple[Block, ...]]] = {}
        self._asked: dict[int, tuple[NodeId, Position]] = {}
        self._wanted: list[ReadShelf] = []
        self._token = 0

    def note(self, before: Position, block: Block) -> None:
        """An own commit was added to the own log after `before`."""
        if not self._recent or end_of(self._recent[-1]) != before:
            self.forget_recent()
            self._recent_after = before
        self._recent.append(block)
        self._recent_bytes += bytes_of(block)
        while self._recent_bytes > self._limits.recent_bytes_max and len(self._recent) > 1:
            gone = self._recent.popleft()
            self._recent_bytes -= bytes_of(gone)
            self._recent_after = end_of(gone)

    def forget_recent(self) -> None:
        self._recent.clear()
        self._recent_bytes, self._recent_after = 0, None

    def blocks(self, log: Log, at: Position) -> tuple[Block, ...]:
        """What follows `at` in the log, as much as one SHIP takes; nothing if it must be read first, or if nothing follows."""
        run = log.run_after(at)
        if run is None:
            return ()
        if log.author == self._me and self._has_recent(log, at):
            following: list[Block] = []
            for block in reversed(self._recent):  # mostly the last one: never look at all of them for it
                if end_of(block) <= at:
                    break
                following.append(block)
            return fitting(reversed(following), self._limits.ship_bytes_max, self._blocks_max)
        page = self._pages.get(log.author)
        if page is not None and page[0] == at and log.has(end_of(page[1][-1])):
            return page[1]
        self._read(log, at, *run)
        return ()

    def _has_recent(self, log: Log, at: Position) -> bool:
        """Whether recent blocks follow `at` in the log as it is now: others may have led it since they were noted, and cut it short."""
        if self._recent_after is None or not self._recent_after <= at < end_of(self._recent[-1]):
            return False
        return log.has(end_of(self._recent[-1]))

    def _read(self, log: Log, at: Position, run: Run, end: int) -> None:
        if any(author == log.author for author, _ in self._asked.values()):
            return
        self._token -= 1
        self._asked[self._token] = (log.author, at)
        self._wanted.append(ReadShelf(self._token, log.author, at, (run.term, end), self._limits.ship_bytes_max, need=Need.FREE))

    def wanted(self) -> list[ReadShelf]:
        """The reads that were asked for since."""
        wanted, self._wanted = self._wanted, []
        return wanted

    def read(self, token: int, blocks: tuple[Block, ...]) -> NodeId:
        """A page has come. Answers whose it is; "": nobody asked."""
        author, at = self._asked.pop(token, ("", (0, 0)))
        if author and blocks:
            self._pages[author] = (at, blocks)
        return author
