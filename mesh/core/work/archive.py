"""What became of tasks that are not in the book: own ones that ended long ago, from the own journal; and those of other authors that
ended before this node took over from them, or that it only guards, from their shelved logs.

    questions about tasks not in the book --ReadTale, log by log of all that are kept here--> a fold of those tasks --> answers

Those who are known to have driven a task come first, but who drove it need not be known: he may have been revoked before he could say so.
Invariant: answers only what has ended: what lives is in somebody's book. A log is read once for all who asked before its reading began;
who asks meanwhile waits for the next reading, bounded. Keeps nothing of what it read.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

from mesh.core.directory import ReadDirectory
from mesh.core.keeping.inputs import TaleRead
from mesh.core.work.book import Effects
from mesh.core.work.fold import Fold
from mesh.core.work.task import Task, is_void
from mesh.effects import Need, ReadTale
from mesh.ids import NodeId, TaskId, author_of

WAITING_MAX = 64
"""Tasks that are looked for at once: each costs 1 us a block. Who is turned away asks again."""
ENTRIES_PER_PAGE = 2048
FIRST_TOKEN = 1 << 50
"""Tokens of reads are drawn from here on, apart from those of other machines."""

Then = Callable[[Task | None], Any]
"""What is sent when the reading is over; None: no log here knows such a task, or it lives."""
Questions = dict[TaskId, dict[Hashable, Then]]


class Archive:
    def __init__(self, directory: ReadDirectory) -> None:
        self._directory = directory
        self._token = FIRST_TOKEN
        self._waiting: Questions = {}
        self._read_for: Questions = {}
        self._logs: list[NodeId] = []
        self._fold = Fold()

    def ask(self, task: TaskId, asker: Hashable, then: Then) -> Effects:
        """Look for it in the logs that are kept here, and first in the own journal: the book has only what ended last.

        `asker`: whoever asks again before he is answered is answered once.
        """
        if asker in self._read_for.get(task, ()):
            return
        if not author_of(task) or (task not in self._waiting and len(self._waiting) >= WAITING_MAX):
            yield then(None)
            return
        self._waiting.setdefault(task, {})[asker] = then
        if not self._read_for:
            yield from self._begin()

    def _begin(self) -> Effects:
        """With all who wait; the last log is read first, and those who drove a task last are the likeliest to have ended it."""
        while self._waiting and not self._read_for:
            self._read_for, self._waiting = self._waiting, {}
            tellers = dict.fromkeys(node for task in self._read_for for node in self._directory.tellers_of(task))
            places = {node: place for place, node in enumerate(tellers)}
            kept = dict.fromkeys((*self._directory.guard.logs, self._directory.me))
            self._logs = sorted(kept, key=lambda log: len(places) if log == self._directory.me else places.get(log, -1))
            yield from self._next()

    def _next(self) -> Effects:
        """The next log, or the answers to those whose tasks are in none."""
        if self._logs and self._read_for:
            self._fold = Fold()
            yield self._page(0)
            return
        for task in list(self._read_for):
            yield from self._answer(task, None)

    def _answer(self, task: TaskId, found: Task | None) -> Effects:
        for then in self._read_for.pop(task).values():
            yield then(found)

    def _page(self, since: int) -> ReadTale:
        self._token += 1
        return ReadTale(self._token, self._logs[-1], since, ENTRIES_PER_PAGE, tuple(self._read_for), need=Need.FREE)

    def on_tale_read(self, _now_s: float, _me: NodeId, read: TaleRead) -> Effects:
        if read.token != self._token or not self._read_for:
            return
        cuts = self._directory.guard.cuts(self._logs[-1])
        for seq, entry, bodies in read.rows:
            # What comes after an end is a copy of its beginning, in what was taken over from others, or void itself.
            if getattr(entry, "task", "") in self._read_for and not self._has_ended(entry.task, cuts):
                self._fold.apply(entry, bodies, seq)
        if read.more and read.rows:
            yield self._page(read.rows[-1][0])
            return
        self._logs.pop()
        for task, found in self._fold.tasks.items():
            if self._has_ended(task, cuts):
                yield from self._answer(task, found)
        yield from self._next()
        yield from self._begin()

    def _has_ended(self, task: TaskId, cuts: tuple[int, ...]) -> bool:
        found = self._fold.tasks.get(task)
        return found is not None and found.ended and not is_void(found, cuts)
