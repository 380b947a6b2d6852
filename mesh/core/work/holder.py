"""What a manager has at one node, and what it is about to tell it. Said once per turn, by `book.py`; holds no rule."""

from __future__ import annotations

from collections import deque

from mesh.core.directory import Row
from mesh.core.work.task import Task
from mesh.ids import Fence, NodeId, TaskId
from mesh.messages.work import Award, AwardItem


class Holder:
    __slots__ = (
        "ack_due",
        "acks",
        "award_due",
        "awards",
        "base",
        "cancels",
        "dirty",
        "ghosts",
        "kept_acks",
        "lease_due",
        "load_at_s",
        "node",
        "out",
        "reborn",
        "reclaims",
        "renewals",
        "revokes",
        "sent",
        "superseded",
        "tasks",
    )

    def __init__(self, node: NodeId) -> None:
        self.node = node
        self.tasks: dict[TaskId, Task] = {}
        self.out: dict[str, int] = {}
        """Awards of ours that stand there, by capability."""
        self.base: dict[str, int] = {}
        """`out` when the node's newest load came: the difference corrects that load."""
        self.load_at_s = float("-inf")
        self.awards: dict[int, list[tuple[Task, AwardItem]]] = {}
        self.acks: list[tuple[TaskId, Fence]] = []
        self.kept_acks: list[tuple[TaskId, Fence]] = []
        self.renewals: list[tuple[TaskId, Fence]] = []
        self.superseded: list[tuple[TaskId, Fence]] = []
        self.revokes: list[tuple[TaskId, Fence]] = []
        self.cancels: dict[tuple[str, bool], list[tuple[TaskId, Fence]]] = {}
        """By reason and durability."""
        self.sent: deque[tuple[float, Award]] = deque()
        """Awards that may still be unanswered, oldest first."""
        self.ghosts: dict[TaskId, Fence] = {}
        """Awards taken away from it without its word: revoked when it is back."""
        self.reclaims: dict[TaskId, Fence] = {}
        """Asked after a restart, not answered yet."""
        self.reborn = False
        """That restart was its own: it may have to wait for its workers before it can answer."""
        self.dirty = self.award_due = self.lease_due = self.ack_due = False

    def hush(self) -> None:
        """It is spoken to no more: revoked."""
        self.acks, self.kept_acks, self.renewals, self.superseded, self.revokes = [], [], [], [], []
        self.cancels, self.awards, self.ghosts, self.reclaims = {}, {}, {}, {}
        self.sent.clear()

    def correction(self, row: Row, capability: str) -> int:
        """Work given to it since its newest load was heard, less what came back since."""
        if row.load_at_s != self.load_at_s:
            self.load_at_s = row.load_at_s
            self.base = dict(self.out)
        return self.out.get(capability, 0) - self.base.get(capability, 0)
