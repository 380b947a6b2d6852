"""Whose tasks are not owed any more because the disk that held them was put back. Read by checkers, and by whoever asks about all tasks.

While a journal is on one disk alone, what was promised after an image was made is lost with that disk, and what the image says of its
tasks is old: fences may be given out twice. What is still owed is that the node says so (L3). With keepers nothing of this is excused.
"""

from __future__ import annotations

from collections.abc import Iterator

from mesh.ids import NodeId, TaskId, author_of
from mesh.sim.history import PutBack, Verdict


class OldDisks:
    """Whose disk was put back, and up to which of its lives."""

    def __init__(self) -> None:
        self.lives: dict[NodeId, int] = {}

    def note(self, record: PutBack) -> Iterator[Verdict]:
        self.lives[record.node] = record.incarnation
        return iter(())

    def __contains__(self, task: TaskId) -> bool:
        """Was `task` submitted in a life whose journal was put back?"""
        life = self.lives.get(author_of(task))
        return life is not None and int(task.split(".")[1]) <= life
