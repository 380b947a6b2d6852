"""Who waits for an award of one capability, at nodes with the same labels. Holds no rule about who gets work (`placing.py`)."""

from __future__ import annotations

from itertools import chain

from mesh.core.work.task import Task
from mesh.ids import NodeId, TaskId


class Line:
    """First come first served; work that was lost or given back goes first. `name`: as `Task.line` gives it."""

    __slots__ = (
        "backlog_due",
        "bidding",
        "capability",
        "force",
        "fresh",
        "hinted",
        "name",
        "promised",
        "quiet",
        "shown",
        "tasks",
        "urgent",
        "where",
    )

    def __init__(self, capability: str, where: tuple[str, ...] = (), name: str = "") -> None:
        self.capability, self.where, self.name = capability, where, name or capability
        self.urgent: dict[TaskId, Task] = {}
        self.tasks: dict[TaskId, Task] = {}
        self.fresh: list[Task] = []
        """In line since the last look at it: not yet shown as parked."""
        self.bidding = 0
        self.hinted: dict[NodeId, None] = {}
        """Who was told that work waits here, and will pull when it falls idle."""
        self.promised = 0
        """How many of those in line the open auctions ask for as well: they will be awarded to whoever bids for them."""
        self.backlog_due = False
        self.quiet = False
        """An auction had no bid. No more questions until there is news of room, or it is time to ask again; new arrivals are no news."""
        self.shown = False
        """All but `fresh` are shown as parked, because nobody can take them."""
        self.force = False
        """The next look auctions its first task, whatever the cached load says."""

    def first(self, *, plain: bool = False) -> Task | None:
        """`plain`: of those that are not durable."""
        for task in chain(self.urgent.values(), self.tasks.values()):
            if not (plain and task.durable):
                return task
        return None

    def remove(self, task: Task) -> None:
        if self.urgent.pop(task.id, None) is None:
            self.tasks.pop(task.id, None)

    def __len__(self) -> int:
        return len(self.urgent) + len(self.tasks)
