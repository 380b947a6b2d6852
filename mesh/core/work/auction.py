"""One auction: a question to a few nodes about one task, or a lot of like tasks, closed when all have answered or are gone.

    open --bid, refusal, gone--> ... --last answer or the safety timer--> closed: candidates and refusals
    closed: each bid is a capacity curve --the next task takes the best head--> the winner's curve moves on

Invariant: each asked node counts once; an answer of somebody who was not asked, or after the end, changes nothing.
Does not choose the winner.
"""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

from mesh.core.directory import Row
from mesh.core.work.task import Task
from mesh.ids import NodeId
from mesh.messages.records import Candidate
from mesh.messages.work import BidItem

VALUE_MAX_MS = 10**12


class Curve:
    """One bidder: what it said of the first task, and when it could start the others. `taken`: how many it has been given since."""

    __slots__ = ("bid", "slots", "starts_ms", "taken")

    def __init__(self, bid: Candidate, starts_ms: tuple[int, ...]) -> None:
        self.bid = bid
        self.starts_ms = starts_ms
        self.taken = 0
        self.slots = 1

    def skip(self, given: int, slots: int) -> None:
        """It was given so many by others of our auctions since it was asked. Those its curve has no room for only make it later."""
        self.slots = slots
        beyond = max(0, given - len(self.starts_ms))
        if beyond:
            last_ms = self.starts_ms[-1] if self.starts_ms else self.bid.start_ms
            self.starts_ms += (last_ms + max(1, beyond * max(1, self.bid.service_ms) // slots),)
        self.taken = min(given, len(self.starts_ms))

    def head(self) -> Candidate | None:
        """As it stands for the next task; None: it has no room for another."""
        if not self.taken:
            return self.bid
        if self.taken > len(self.starts_ms):
            return None
        return replace(self.bid, start_ms=self.starts_ms[self.taken - 1])


class Auction:
    __slots__ = ("asked", "bids", "count", "given", "refusals", "retry_after_ms", "round", "task", "until_s", "waiting")

    def __init__(
        self,
        round: int,
        task: Task,
        asked: list[Row],
        refusals: list[tuple[NodeId, str, str]],
        given: dict[NodeId, int],
        count: int = 1,
    ) -> None:
        self.round, self.task, self.count = round, task, count
        self.asked = {row.node: row.name for row in asked}
        self.waiting = dict.fromkeys(self.asked)
        self.bids: list[Curve] = []
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
        times_ms = (0, item.start_ms, *item.starts_ms, VALUE_MAX_MS)
        fair = all(a <= b for a, b in pairwise(times_ms)) and 0 <= item.service_ms <= VALUE_MAX_MS
        if item.task != self.task.id or not fair or not math.isfinite(item.cost) or not 0 <= item.cost <= VALUE_MAX_MS:
            return "bad_bid"
        del self.waiting[node]
        self.until_s[node] = until_s
        bid = Candidate(node, self.asked[node], item.start_ms, item.service_ms, item.cost, item.agent)
        self.bids.append(Curve(bid, tuple(item.starts_ms[: self.count - 1])))
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
