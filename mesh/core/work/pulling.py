"""Late rebinding, the contractor's half: an idle node asks the full ones for work that waits there, and gives up its own for idle ones.

    slot falls idle --managers that told of a backlog, then nodes that told they are full, one after the other--> PULL
    PULL --something waits here, and would be done sooner there--> RELEASE to its manager, naming the puller --> AWARD, new fence

Invariant: only work that has not started moves, and only through its manager. Nobody asks while no peer has said that work may wait there,
and no more than `pulls_max` times for each handler that ended. Short work, and work whose files have come, stays.
Source: late binding of Sparrow (Ousterhout et al., 2013), with work stealing in place of reservations.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Any

from mesh.core.deadlines import Deadlines
from mesh.core.directory import ALIVE, ReadDirectory, Row
from mesh.core.work.fitting import fits
from mesh.core.work.holdings import Holding, Holdings, State
from mesh.core.work.load import LoadGossip
from mesh.core.work.reports import Pulled, Reports
from mesh.core.work.slots import Capability, Slots, Worker
from mesh.effects import Need, Send
from mesh.ids import PRIORITY_DEFAULT, NodeId
from mesh.limits import WorkLimits
from mesh.messages.work import Backlog, Pull

_QUEUED = (State.WAITING, State.READY)


@dataclass(frozen=True, slots=True)
class PullDue:
    """Nobody let go of anything yet: ask the next."""

    capability: str


class Pulling:
    def __init__(
        self,
        directory: ReadDirectory,
        deadlines: Deadlines,
        limits: WorkLimits,
        random: Random,
        holdings: Holdings,
        slots: Slots,
        load: LoadGossip,
        reports: Reports,
    ) -> None:
        self._directory, self._deadlines, self._limits, self._random = directory, deadlines, limits, random
        self._holdings, self._slots, self._load, self._reports = holdings, slots, load, reports
        self._tries: dict[str, int] = {}
        """Capabilities that are being pulled: how many PULLs are left."""
        self._backlogs: dict[str, dict[NodeId, None]] = {}
        """Managers with work in line, by capability, the longest known first."""
        self.pulls = 0
        self.given_up = 0
        self.inputs: dict[type, Any] = {PullDue: self._expire_pull, Pull: self._on_pull, Backlog: self._on_backlog}

    # ---- an idle node asks

    def fell_idle(self, now_s: float, worker: Worker, out: list[Any]) -> None:
        """A handler in `worker` has ended, and its queue had nothing for the slot."""
        if worker.free() <= 0 or self._load.closed:
            return
        for name in worker.offers:
            capability = self._slots.capabilities[name]
            if self._pullable(capability):
                self._tries[name] = self._limits.pulls_max
                self._ask(now_s, capability, out)

    def _pullable(self, capability: Capability) -> bool:
        return not capability.queued and capability.breaker.admits() and capability.service_ms >= self._limits.pull_service_ms_min

    def _ask(self, now_s: float, capability: Capability, out: list[Any]) -> None:
        name = capability.name
        node = self._next_manager(name) or self._next_full(now_s, name)
        if not node:
            self._tries.pop(name, None)
            return
        self.pulls += 1
        out.append(Send(node, Pull(name, self._directory.me, self._slots.service_ms(capability)), need=Need.FREE))
        self._tries[name] -= 1
        self._deadlines.set(PullDue(name), now_s + self._limits.pull_wait_s)

    def _next_manager(self, name: str) -> NodeId:
        """Who has waited longest; it goes to the end, so that who does not answer is not asked twice in a row."""
        known = self._backlogs.get(name)
        for node in list(known or ()):
            assert known is not None
            del known[node]
            row = self._directory.get(node)
            if row is not None and row.linked:
                known[node] = None
                return node
        return ""

    def _on_backlog(self, now_s: float, manager: NodeId, backlog: Backlog) -> list[Any]:
        out: list[Any] = []
        name = backlog.capability
        capability = self._slots.offered(name)
        known = self._backlogs.setdefault(name, {}) if capability is not None else {}
        if backlog.count > 0:
            known[manager] = None
        else:
            known.pop(manager, None)
        answer = name in self._tries
        if capability is None or capability.free() <= 0 or not self._pullable(capability) or self._load.closed:
            return out
        if backlog.count > 0 and not answer:
            self._tries[name] = self._limits.pulls_max
            self._ask(now_s, capability, out)
        elif not backlog.count and answer and self._tries[name] > 0:
            self._ask(now_s, capability, out)
        return out

    def _next_full(self, now_s: float, name: str) -> NodeId:
        """Of two by chance the one with the longer queue: idle nodes must not all go to the same."""
        full = [row for row in self._directory.offering(name) if self._may_have_some(now_s, row, name)]
        if not full:
            return ""
        two = [full[int(self._random.random() * len(full))] for _ in range(2)]
        return max(two, key=lambda row: row.load[name].queued).node

    def _may_have_some(self, now_s: float, row: Row, name: str) -> bool:
        if row.node == self._directory.me or not row.linked or row.state != ALIVE or now_s - row.load_at_s > self._limits.load_fresh_s:
            return False
        load = row.load.get(name)
        return load is not None and load.busy >= load.slots > 0

    def _expire_pull(self, now_s: float, _me: NodeId, due: PullDue) -> list[Any]:
        out: list[Any] = []
        capability = self._slots.offered(due.capability)
        idle = capability is not None and capability.free() > 0 and self._pullable(capability) and not self._load.closed
        if capability is not None and idle and self._tries.get(due.capability, 0) > 0:
            self._ask(now_s, capability, out)
        else:
            self._tries.pop(due.capability, None)
        return out

    # ---- a full one lets go

    def _on_pull(self, now_s: float, _sender: NodeId, pull: Pull) -> list[Any]:
        """The first in the queue that would be done sooner there, the way included."""
        out: list[Any] = []
        capability = self._slots.offered(pull.capability)
        if capability is None or not capability.queued or pull.node == self._directory.me:
            return out
        queued = [h for h in self._holdings.by_task.values() if h.state in _QUEUED and h.capability == pull.capability]
        queued.sort(key=lambda holding: -(holding.rank[0] or PRIORITY_DEFAULT))
        service_ms = self._slots.service_ms(capability)
        starts_ms = self._slots.waits_ms(capability, now_s)
        row = self._directory.get(pull.node)
        offer = row.offers.get(pull.capability) if row is not None else None
        for holding, start_ms in zip(queued, starts_ms, strict=False):
            if holding.where and (offer is None or not fits(offer, holding.where)):
                continue
            if holding.rooted or start_ms + service_ms <= pull.service_ms + self._limits.pull_cost_ms + holding.stay_ms:
                continue
            self._give_up(now_s, holding, Pulled(pull.node, pull.service_ms, start_ms, service_ms), out)
            break
        return out

    def _give_up(self, now_s: float, holding: Holding, pulled: Pulled, out: list[Any]) -> None:
        self.given_up += 1
        self._reports.release(now_s, holding, "pulled", out, pulled)
        self._load.note(now_s)
