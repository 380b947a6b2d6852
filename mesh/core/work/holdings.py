"""What this node holds for others: one `Holding` per accepted task, grouped by manager.

    Award --> WAITING <--> READY --> RUNNING --> ENDED --> forgotten (RESULT_ACK, SUPERSEDED)
                 files, lease, an         ^
                 older handler's end      '-- RECOVERED: replayed after a restart, its worker not back yet

Invariant: at most one holding per task, under the highest fence seen; a fence once declined, revoked or forgotten is never accepted
again. Holds data and keeps its own books; decides nothing. Source: BLUEPRINT section 7, orchestration notes 4.4.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from mesh.core.work.turns import NO_TURN
from mesh.ids import NO_BAGGAGE, UNRANKED, Fence, Hash, NodeId, Rank, TaskId
from mesh.messages.work import AwardItem, Failure, Result


class State(enum.Enum):
    """Where a holding stands. Suspension is not a state: it is a lease that has ended."""

    NEW = enum.auto()
    WAITING = enum.auto()
    """For files, for a lease, or for an older handler of the same task to end."""
    READY = enum.auto()
    """In the queue of its capability."""
    RUNNING = enum.auto()
    ENDED = enum.auto()
    """`report` is set and owed to the manager."""
    RECOVERED = enum.auto()
    GONE = enum.auto()


class Holding:
    """One accepted award. `lease_end_ms` and `deadline_ms` (0: none) are on this node's clock; `order` says which came first."""

    __slots__ = (
        "aged",
        "attempt",
        "baggage",
        "budgets",
        "capability",
        "checkpoint",
        "deadline_ms",
        "durable",
        "fence",
        "heartbeat_ms",
        "input",
        "lease_end_ms",
        "manager",
        "missing",
        "order",
        "parent",
        "pins",
        "rank",
        "report",
        "rooted",
        "sent_s",
        "skip",
        "state",
        "stay_ms",
        "stream",
        "task",
        "timeout_ms",
        "turn",
        "version",
        "where",
    )

    def __init__(
        self,
        task: TaskId,
        fence: Fence,
        manager: NodeId,
        capability: str,
        input: bytes,
        durable: bool,
        lease_end_ms: int,
        order: int,
        timeout_ms: int = 0,
        attempt: int = 1,
        parent: TaskId = "",
        deadline_ms: int = 0,
        heartbeat_ms: int = 0,
    ) -> None:
        self.task = task
        self.fence = fence
        self.manager = manager
        self.capability = capability
        self.input = input
        self.durable = durable
        self.lease_end_ms = lease_end_ms
        self.order = order
        self.timeout_ms = timeout_ms
        self.attempt = attempt
        self.parent = parent
        self.checkpoint = b""
        """What an earlier attempt kept; empty: nothing."""
        self.stream, self.skip = False, 0
        """As in `AwardItem`."""
        self.where: tuple[str, ...] = ()
        self.budgets: tuple[str, ...] = ()
        self.pins: tuple[str, ...] = ()
        self.version = ""
        """Which runs it; empty: none yet."""
        self.stay_ms = 0
        self.rank: Rank = UNRANKED
        self.baggage = NO_BAGGAGE
        self.turn, self.aged = NO_TURN, 0
        """As in `turns.Waiting`."""
        self.deadline_ms = deadline_ms
        self.heartbeat_ms = heartbeat_ms
        self.state = State.NEW
        self.missing: dict[Hash, None] = {}
        self.report: Result | Failure | None = None
        self.sent_s = float("-inf")
        self.rooted = False
        """Its files were fetched for it: it does not move to another node."""


def awarded(now_s: float, item: AwardItem, manager: NodeId, lease_end_ms: int, order: int) -> Holding:
    """What an award makes when it is accepted."""
    holding = Holding(
        item.task,
        item.fence,
        manager,
        item.capability,
        item.input,
        item.durable,
        lease_end_ms,
        order,
        item.timeout_ms,
        item.attempt,
        item.parent,
        int(now_s * 1000) + item.left_ms if item.left_ms else 0,
        item.heartbeat_ms,
    )
    holding.checkpoint = item.checkpoint
    holding.stream, holding.skip, holding.where, holding.stay_ms = item.stream, item.skip, item.where, item.stay_ms
    holding.rank, holding.aged = item.rank, item.aged
    holding.budgets, holding.pins, holding.baggage = item.budgets, item.pins, item.baggage
    return holding


@dataclass(slots=True)
class HeldFor:
    """All that is held for one manager, and the timers of that pair."""

    manager: NodeId
    tasks: dict[TaskId, Holding] = field(default_factory=dict)
    lease_check_ms: int = 0
    """When the earliest lease may end; 0: no check is set. One check per manager instead of one deadline per task."""
    beating: bool = False
    resending: bool = False
    accepts: list[tuple[TaskId, Fence]] = field(default_factory=list)
    """Of plain calls, to be said at the end of the turn."""
    durable_accepts: list[tuple[TaskId, Fence]] = field(default_factory=list)


class Holdings:
    """The table. `remembered_max` bounds how many finished or declined fences are remembered (between that and half of it)."""

    def __init__(self, remembered_max: int) -> None:
        self.by_task: dict[TaskId, Holding] = {}
        self.by_manager: dict[NodeId, HeldFor] = {}
        self._order = 0
        self._half = max(1, remembered_max // 2)
        # Two generations: the older is dropped whole. Cheaper than evicting one by one, and a duplicate award outlives its lease sooner.
        self._seen: dict[TaskId, Fence] = {}
        self._seen_before: dict[TaskId, Fence] = {}

    def next_order(self) -> int:
        self._order += 1
        return self._order

    def held_for(self, manager: NodeId) -> HeldFor:
        pair = self.by_manager.get(manager)
        if pair is None:
            pair = self.by_manager[manager] = HeldFor(manager)
        return pair

    def add(self, holding: Holding) -> HeldFor:
        pair = self.held_for(holding.manager)
        assert holding.task not in self.by_task, "one holding per task"
        self.by_task[holding.task] = pair.tasks[holding.task] = holding
        return pair

    def rehome(self, holding: Holding, manager: NodeId) -> HeldFor:
        """It is held for another manager from now on."""
        self.by_manager[holding.manager].tasks.pop(holding.task, None)
        holding.manager = manager
        pair = self.held_for(manager)
        pair.tasks[holding.task] = holding
        return pair

    def drop(self, holding: Holding) -> None:
        """Forget it; its fence stays seen."""
        del self.by_task[holding.task]
        self.by_manager[holding.manager].tasks.pop(holding.task, None)
        self.see(holding.task, holding.fence)

    def forget_idle(self, pair: HeldFor) -> None:
        """Drop a manager for whom nothing is held and no timer runs."""
        if not (pair.tasks or pair.beating or pair.resending or pair.lease_check_ms or pair.accepts or pair.durable_accepts):
            self.by_manager.pop(pair.manager, None)

    def see(self, task: TaskId, fence: Fence) -> None:
        if fence > self.seen(task):
            self._seen[task] = fence
            if len(self._seen) > self._half:
                self._seen_before, self._seen = self._seen, {}

    def seen(self, task: TaskId) -> Fence:
        """The highest fence this node has answered for, of what it does not hold; 0: none remembered."""
        return self._seen.get(task) or self._seen_before.get(task) or 0

    def __len__(self) -> int:
        return len(self.by_task)
