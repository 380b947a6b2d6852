"""Which entries of a journal are copies: the log of another author, told again by whoever takes over from him; and what becomes of them.

A copy stands in drafts, one inside the other where the author himself had copied from a third: its *path*, the outermost draft first. Own
entries have the empty path. `TookOver` makes the tasks of one draft those of whoever holds it; `Forgone` takes it back.
"""

from __future__ import annotations

from typing import Any, Generic, TypeVar

from mesh.ids import NodeId, TaskId
from mesh.messages.records import Forgone, Inherited, Opened, TookOver
from mesh.sim.history import Appended

Draft = tuple[NodeId, int]
"""Whose tasks, and in which term they were taken over."""
Path = tuple[Draft, ...]
Kept = TypeVar("Kept")


class Copies:
    """Ask once for every entry that is appended, in order."""

    def __init__(self) -> None:
        self._open: dict[NodeId, list[tuple[Draft, int]]] = {}
        """Per node: the drafts it is copying, and how many entries of each are left."""

    def path(self, record: Appended) -> Path:
        entry = record.entry
        left = [] if type(entry) is Opened else [(draft, left - 1) for draft, left in self._open.get(record.node, ()) if left]
        path = tuple(draft for draft, _ in left)
        if type(entry) is Inherited:
            left.append(((entry.author, entry.term), entry.count))
        self._open[record.node] = left
        return path

    def down(self, node: NodeId) -> None:
        """What it had not copied by then it never copies."""
        self._open.pop(node, None)


class Drafts(Generic[Kept]):
    """What nodes hold of others' tasks and do not drive yet: something is kept of each task, by its path."""

    def __init__(self) -> None:
        self._held: dict[NodeId, dict[tuple[Path, TaskId], Kept]] = {}

    def keep(self, node: NodeId, path: Path, task: TaskId, kept: Kept) -> None:
        self._held.setdefault(node, {})[path, task] = kept

    def at(self, node: NodeId, path: Path, task: TaskId) -> Kept | None:
        return self._held.get(node, {}).get((path, task))

    def resolve(self, node: NodeId, path: Path, entry: Any) -> dict[TaskId, Kept]:
        """`entry` begins, forgoes or takes over a draft within `path`. Returns what `node` drives itself from now on."""
        outer, driven = (*path, (entry.author, entry.term)), {}
        held = self._held.get(node, {})
        for (inner, task), kept in [row for row in held.items() if row[0][0][: len(outer)] == outer]:
            del held[inner, task]
            if type(entry) is TookOver:
                place = path + inner[len(outer) :]
                if place:
                    held[place, task] = kept
                else:
                    driven[task] = kept
        return driven


RESOLVING = (Inherited, TookOver, Forgone)
"""The entries that `Drafts.resolve` is told of."""
