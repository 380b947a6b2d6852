"""Which awards a contractor takes: the check that binds, made once, when the AWARD is here.

Invariant: a fence that is declined is remembered, so its duplicate is never accepted after all; nor is what was said to an earlier life,
which took what it had declined with it. Trusts no manager about another's task: that is the author of its id, or who has taken over from
him.
Promises nothing and starts nothing.
"""

from __future__ import annotations

from typing import Any

from mesh.core.work.enforcing import Enforcing
from mesh.core.work.holdings import Holdings, State
from mesh.core.work.load import LoadGossip
from mesh.core.work.slots import Slots
from mesh.core.work.terms import Terms
from mesh.effects import Refused
from mesh.ids import NodeId, content_hash
from mesh.limits import WorkLimits
from mesh.messages.work import Award, AwardItem


class Acceptance:
    def __init__(self, limits: WorkLimits, holdings: Holdings, slots: Slots, load: LoadGossip, terms: Terms, enforcing: Enforcing) -> None:
        self._limits, self._holdings, self._slots, self._load, self._terms = limits, holdings, slots, load, terms
        self._enforcing = enforcing
        self._began_ms = 0

    def start(self, now_s: float) -> None:
        self._began_ms = int(now_s * 1000)

    def refusal(self, now_s: float, manager: NodeId, item: AwardItem, award: Award, out: list[Any]) -> str:
        """Why it is declined; "" to accept. An older holding of the same task is let go for it.

        The fence that is held, from another manager than it is held for: said before that one took over, or was it taken over from.
        """
        task, fence = item.task, item.fence
        held = self._holdings.by_task.get(task)
        if not self._terms.may_speak(manager, task):
            out.append(Refused("not_manager", manager))
            return "not_manager"
        if fence <= self._holdings.seen(task) or (held is not None and fence <= held.fence):
            return "stale_fence"
        if held is not None:
            if held.state is State.RECOVERED and self._terms.reattaching:
                self._holdings.see(task, fence)
                return "not_ready"
            self._terms.withdraw(now_s, held, "superseded", out)
        reason = self._unfit(now_s, manager, item, award, out)
        if reason:
            self._holdings.see(task, fence)
        return reason

    def _unfit(self, now_s: float, manager: NodeId, item: AwardItem, award: Award, out: list[Any]) -> str:
        now_ms = int(now_s * 1000)
        if award.echo_ms > now_ms:
            out.append(Refused("future_stamp", manager))
            return "future_stamp"
        self._began_ms = min(self._began_ms, now_ms)  # a clock that was put back
        if award.echo_ms < self._began_ms or award.echo_ms + award.grant_ms <= now_ms:
            return "lease_past"
        if self._load.closed:
            return "draining"
        capability = self._slots.offered(item.capability)
        if capability is None:
            return "not_ready" if self._terms.reattaching else "incapable"
        if item.where and not self._slots.has_worker(item.capability, item.where):
            return "unlabelled"
        if not capability.breaker.admits():
            return "breaker_open"
        if item.left_ms and self._slots.cannot_end(capability, now_s, item.left_ms):
            return "deadline"
        if award.conditional and self._slots.room(capability) <= 0:
            return "busy"
        if (self._slots.queued >= self._limits.queue_max and capability.free() <= 0) or len(self._holdings) >= self._limits.tasks_max:
            return "busy"
        if item.durable and content_hash(item.input) != item.input_hash:
            out.append(Refused("input_hash_wrong", manager))
            return "input_hash_wrong"
        if reason := self._enforcing.refusal(item, manager):
            out.append(Refused("policy", manager))
        return reason

    def turn_away(self, now_s: float, manager: NodeId, name: str) -> int:
        """It was refused for want of room: it hears first when there is room again. Returns when to ask again, in milliseconds."""
        self._load.turned_away(manager, name)
        return self._slots.retry_after_ms(self._slots.capabilities[name], now_s)
