"""What became of tasks of another author that ended before this node took over from him, or that it only guards: read from his shelved log.

    question about a task not in the book --ReadTale, page by page--> a fold of that one task and what it names --> answer

Invariant: answers only what has ended: what lives is in somebody's book. One question reads at a time, the rest wait in line, bounded.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from mesh.core.keeping.inputs import TaleRead
from mesh.core.work.book import Effects
from mesh.core.work.fold import Fold
from mesh.core.work.task import Task
from mesh.effects import Need, ReadTale
from mesh.ids import NodeId, TaskId, author_of

WAITING_MAX = 64
ENTRIES_PER_PAGE = 2048
FIRST_TOKEN = 1 << 50
"""Tokens of reads are drawn from here on, apart from those of other machines."""

Then = Callable[[Task | None], Any]
"""What is sent when the reading is over; None: that log knows no such task, or it lives."""


class Archive:
    def __init__(self, me: NodeId) -> None:
        self._me = me
        self._token = FIRST_TOKEN
        self._line: deque[tuple[TaskId, Then]] = deque()
        self._fold = Fold()

    def ask(self, task: TaskId, then: Then) -> Effects:
        """Look for it in the log of its author. Nothing can be found of the own one here: the book has that."""
        if author_of(task) in ("", self._me) or len(self._line) >= WAITING_MAX:
            yield then(None)
            return
        self._line.append((task, then))
        if len(self._line) == 1:
            yield self._begin()

    def _begin(self) -> ReadTale:
        self._fold = Fold()
        return self._page(0)

    def _page(self, since: int) -> ReadTale:
        self._token += 1
        return ReadTale(self._token, author_of(self._line[0][0]), since, ENTRIES_PER_PAGE, need=Need.FREE)

    def on_tale_read(self, _now_s: float, _me: NodeId, read: TaleRead) -> Effects:
        if read.token != self._token or not self._line:
            return
        task, then = self._line[0]
        for seq, entry, bodies in read.rows:
            if getattr(entry, "task", "") == task:
                self._fold.apply(entry, bodies, seq)
        if read.more and read.rows:
            yield self._page(read.rows[-1][0])
            return
        self._line.popleft()
        found = self._fold.tasks.get(task)
        yield then(found if found is not None and found.ended else None)
        if self._line:
            yield self._begin()
