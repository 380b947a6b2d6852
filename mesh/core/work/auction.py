"""One auction: a question to a few nodes about one task, closed when all have answered or are gone.

    open --bid, refusal, gone--> ... --last answer or the safety timer--> closed: candidates and refusals

Invariant: each asked node counts once; an answer of somebody who was not asked, or after the end, changes nothing.
Does not choose the winner.
"""

from __future__ import annotations

import math

from mesh.core.directory import Row
from mesh.core.work.task import Task
from mesh.ids import NodeId
from mesh.messages.records import Candidate
from mesh.messages.work import BidItem

VALUE_MAX_MS = 10**12


class Auction:
    __slots__ = ("asked", "bids", "given", "refusals", "retry_after_ms", "round", "task", "until_s", "waiting")

    def __init__(self, round: int, task: Task, asked: list[Row], refusals: list[tuple[NodeId, str, str]], given: dict[NodeId, int]) -> None:
        self.round, self.task = round, task
        self.asked = {row.node: row.name for row in asked}
        self.waiting = dict.fromkeys(self.asked)
        self.bids: list[Candidate] = []
        self.until_s: dict[NodeId, float] = {}
        """When each bid ends: this node may have been stopped since it came."""
        self.refusals = refusals
        self.given = given
        """What stood at each asked node when it was asked: what is awarded since is added to its bid."""
        self.retry_after_ms = 0

    def bid(self, node: NodeId, item: BidItem, until_s: float) -> str:
        """Empty, or why the bid is refused."""
        if node not in self.waiting:
            return "late_bid"
        fair = 0 <= item.start_ms <= VALUE_MAX_MS and 0 <= item.service_ms <= VALUE_MAX_MS
        if item.task != self.task.id or not fair or not math.isfinite(item.cost) or not 0 <= item.cost <= VALUE_MAX_MS:
            return "bad_bid"
        del self.waiting[node]
        self.until_s[node] = until_s
        self.bids.append(Candidate(node, self.asked[node], item.start_ms, item.service_ms, item.cost, item.agent))
        return ""

    def refuse(self, node: NodeId, reason: str, retry_after_ms: int = 0) -> bool:
        """False if nothing was asked of it, or it has answered."""
        if node not in self.waiting:
            return False
        del self.waiting[node]
        self.refusals.append((node, self.asked[node], reason))
        if retry_after_ms > 0:
            self.retry_after_ms = min(self.retry_after_ms or retry_after_ms, retry_after_ms)
        return True

    def out_of_time(self) -> None:
        for node in list(self.waiting):
            self.refuse(node, "silent")

    def out_of_reach(self) -> bool:
        """With no bid at all: everybody who was asked says that it could not end by its deadline."""
        return all(reason == "deadline" for node, _, reason in self.refusals if node in self.asked)

    def parked_reason(self) -> str:
        """With no bid at all: what to say of the wait. Busy is not incapable."""
        reasons = [reason for node, _, reason in self.refusals if node in self.asked]
        for reason in ("busy", "not_ready", "silent", "expired", "declined", "draining", "breaker_open", "deadline"):
            if reason in reasons:
                return "busy" if reason in ("not_ready", "silent", "expired") else reason
        return "no_capable"
