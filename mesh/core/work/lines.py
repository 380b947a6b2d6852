"""Who waits for an award of one capability, at nodes with the same labels. Holds no rule about who gets work (`placing.py`)."""

from __future__ import annotations

from mesh.core.work.task import Task
from mesh.core.work.turns import Shares, Turns
from mesh.ids import NodeId


class Line:
    """Who waits for an award of one capability and these labels, in turns; of one rank first come first served, and what was lost or given
    back first. `name`: as `Task.line` gives it."""

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
        "turns",
        "where",
    )

    def __init__(self, capability: str, turns: Turns[Task], where: tuple[str, ...] = (), name: str = "") -> None:
        self.capability, self.where, self.name = capability, where, name or capability
        self.turns = turns
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

    def first(self, now_s: float, *, plain: bool = False) -> Task | None:
        """`plain`: of those that are not durable."""
        if not plain:
            return self.turns.first(now_s)
        return self.turns.first_that(now_s, lambda task: not task.durable)

    def stands(self, task: Task) -> bool:
        return self.turns.stands(task.id, task)

    def remove(self, task: Task) -> None:
        self.turns.remove(task.id, task)

    def took(self, now_s: float, shares: Shares, task: Task, service_ms: int) -> None:
        """It is awarded: its share key has had about so much more."""
        task.charged_ms = max(1, service_ms)
        shares.charge(task.turn[1], task.charged_ms)
        self.turns.took(now_s, task)

    def __len__(self) -> int:
        return len(self.turns)


def recount(shares: Shares, task: Task, had_ms: int) -> None:
    """Its newest award is over: so much is what its share key has had of it."""
    if task.charged_ms:
        shares.correct(task.turn[1], had_ms - task.charged_ms)
        task.charged_ms = 0
