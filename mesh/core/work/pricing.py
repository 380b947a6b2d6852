"""Answers to calls for proposals: bids from the true queue, priced by the agent where it wants to, refusals with reasons.

    CFP --> for each item: refuse | bid | ask the worker's @agent.bid --price_timeout_s--> bid | refuse declined | refuse not_ready
            (of a lot: one bid, a capacity curve)
        <-- at most one BID and one REFUSE per CFP, when every item has its answer

Invariant: every item of a CFP is answered exactly once, in bounded time. A bid binds nothing: the check that binds is at the award.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from mesh.core.deadlines import Deadlines
from mesh.core.inputs import Priced
from mesh.core.work.load import LoadGossip
from mesh.core.work.slots import Capability, Slots, Worker
from mesh.effects import Need, Price, Refused, Send
from mesh.ids import NodeId, TaskId
from mesh.limits import WorkLimits
from mesh.messages.work import Bid, BidItem, Cfp, CfpItem, Refuse


@dataclass(frozen=True, slots=True)
class PriceDue:
    manager: NodeId
    round: int


@dataclass(slots=True)
class _Answer:
    """What has been answered of one CFP, and which workers still think: ``task -> (worker id, capability, ahead of it in this CFP)``."""

    manager: NodeId
    round: int
    bids: list[BidItem] = field(default_factory=list)
    refusals: list[tuple[TaskId, str]] = field(default_factory=list)
    retry_after_ms: int = 0
    thinking: dict[TaskId, tuple[int, str, int]] = field(default_factory=dict)


class Pricing:
    """Handles CFP and Priced. `unready`: set while workers may still come back after a restart; `closed`: while draining."""

    def __init__(self, deadlines: Deadlines, limits: WorkLimits, slots: Slots, load: LoadGossip) -> None:
        self._deadlines = deadlines
        self._limits = limits
        self._slots = slots
        self._load = load
        self._open: dict[tuple[NodeId, int], _Answer] = {}
        self._asked: dict[tuple[int, TaskId], dict[NodeId, None]] = {}
        self.unready = False
        self.bids = 0
        self.refusals = 0
        self.inputs: dict[type, Any] = {Cfp: self._on_cfp, Priced: self._do_priced, PriceDue: self._expire_price}

    def _on_cfp(self, now_s: float, manager: NodeId, cfp: Cfp) -> Iterator[Any]:
        if (manager, cfp.round) in self._open:
            yield Refused("duplicate_cfp", manager)
            return
        answer = _Answer(manager, cfp.round)
        ahead: dict[str, int] = {}
        for item in cfp.items:
            if item.task in answer.thinking:
                continue
            yield from self._consider(now_s, answer, item, ahead)
        if answer.thinking:
            self._open[manager, cfp.round] = answer
            self._deadlines.set(PriceDue(manager, cfp.round), now_s + self._limits.price_timeout_s)
        else:
            yield from self._say(answer)

    def _consider(self, now_s: float, answer: _Answer, item: CfpItem, ahead: dict[str, int]) -> Iterator[Any]:
        capability = self._slots.offered(item.capability)
        if self._load.closed:
            answer.refusals.append((item.task, "draining"))
            return
        if capability is None:
            answer.refusals.append((item.task, "not_ready" if self.unready else "incapable"))
            return
        if not capability.breaker.admits():
            answer.refusals.append((item.task, "breaker_open"))
            return
        if item.left_ms and self._slots.cannot_end(capability, now_s, item.left_ms):
            answer.refusals.append((item.task, "deadline"))
            return
        before = ahead.get(item.capability, 0)
        room = self._slots.room(capability) - before
        if room <= 0:
            answer.refusals.append((item.task, "busy"))
            answer.retry_after_ms = max(answer.retry_after_ms, self._slots.retry_after_ms(capability, now_s))
            self._load.turned_away(answer.manager, item.capability)
            return
        pricer = self._pricer(capability)
        count = max(1, min(item.count, room, self._limits.lot_max)) if pricer is None else 1
        ahead[item.capability] = before + count
        if pricer is None:
            self._bid(now_s, answer, item.task, capability, before, count=count)
        elif len(self._open) >= self._limits.queue_max:
            answer.refusals.append((item.task, "not_ready"))
        else:
            answer.thinking[item.task] = (pricer.worker, item.capability, before)
            self._asked.setdefault((answer.round, item.task), {})[answer.manager] = None
            yield Price(pricer.worker, answer.round, item.task, item.capability, item.input, need=Need.FREE)

    @staticmethod
    def _pricer(capability: Capability) -> Worker | None:
        return next((worker for worker in capability.workers if worker.offers[capability.name].priced), None)

    def _bid(
        self,
        now_s: float,
        answer: _Answer,
        task: TaskId,
        capability: Capability,
        ahead: int,
        cost: float = 0.0,
        eta_ms: int | None = None,
        count: int = 1,
    ) -> None:
        start_ms, *later_ms = self._slots.starts_ms(capability, now_s, ahead, count)
        service_ms = self._slots.service_ms(capability) if eta_ms is None else max(0, eta_ms)
        worker = capability.freest() or capability.workers[0]
        answer.bids.append(BidItem(task, start_ms, service_ms, cost, worker.agent, tuple(later_ms)))

    def _do_priced(self, now_s: float, _me: NodeId, priced: Priced) -> Iterator[Any]:
        askers = self._asked.get((priced.round, priced.task), {})
        for manager in list(askers):
            answer = self._open[manager, priced.round]
            worker, name, ahead = answer.thinking[priced.task]
            if worker != priced.worker:
                continue
            self._settled(answer, priced.task)
            capability = self._slots.offered(name)
            if capability is None:
                answer.refusals.append((priced.task, "incapable"))
            elif priced.cost is None or not 0.0 <= priced.cost < float("inf"):
                answer.refusals.append((priced.task, "declined"))
            else:
                self._bid(now_s, answer, priced.task, capability, ahead, float(priced.cost), priced.eta_ms)
            yield from self._close_if_done(answer)
            return
        yield Refused("price_not_asked")

    def _settled(self, answer: _Answer, task: TaskId) -> None:
        del answer.thinking[task]
        askers = self._asked[answer.round, task]
        del askers[answer.manager]
        if not askers:
            del self._asked[answer.round, task]

    def _expire_price(self, _now_s: float, _me: NodeId, due: PriceDue) -> Iterator[Any]:
        answer = self._open.get((due.manager, due.round))
        if answer is not None:
            yield from self._give_up(answer, list(answer.thinking))

    def worker_gone(self, worker: int) -> Iterator[Any]:
        """What it was thinking about is refused: not ready."""
        for answer in list(self._open.values()):
            yield from self._give_up(answer, [task for task, (asked, _, _) in answer.thinking.items() if asked == worker])

    def _give_up(self, answer: _Answer, tasks: list[TaskId]) -> Iterator[Any]:
        for task in tasks:
            self._settled(answer, task)
            answer.refusals.append((task, "not_ready"))
        yield from self._close_if_done(answer)

    def _close_if_done(self, answer: _Answer) -> Iterator[Any]:
        if not answer.thinking:
            del self._open[answer.manager, answer.round]
            self._deadlines.clear(PriceDue(answer.manager, answer.round))
            yield from self._say(answer)

    def _say(self, answer: _Answer) -> Iterator[Any]:
        self.bids += len(answer.bids)
        self.refusals += len(answer.refusals)
        if answer.bids:
            ttl_ms = int(2000 * self._limits.auction_timeout_s)
            yield Send(answer.manager, Bid(answer.round, tuple(answer.bids), ttl_ms), need=Need.FREE)
        if answer.refusals:
            yield Send(answer.manager, Refuse(answer.round, tuple(answer.refusals), answer.retry_after_ms), need=Need.FREE)

    def waiting(self) -> int:
        """Calls for proposals that wait for an agent's price."""
        return len(self._open)
