"""The holder's half of limits over the whole mesh: nothing of a limited capability starts here without a leased slot for it.

    work is ready --no slot--> SLOT_ASK to the owner (`limit_owner.py`), and every slots_ask_s --SLOT_GRANT--> it starts
    the lease is not renewed --a task's lease before its end--> no more starts, and what runs is stopped
    a slot of a rate is in use from a start until its window is over

Invariant: between two asks the slots that are used here never grow beyond what was granted for the newest ask. Once this node has said that
it follows an owner it says so to no other before that word is over, its own clock's drift included. Stopping early, by a task's lease, lets
a worker whose node is gone or stands still notice by itself, and in time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from mesh.core.deadlines import Deadlines
from mesh.core.directory import ReadDirectory
from mesh.core.work.limit_owner import Pool, members_of, owner_of, pools_of
from mesh.core.work.running import Running
from mesh.core.work.slots import Capability, Slots
from mesh.effects import Need, Refused, Send
from mesh.ids import NodeId
from mesh.limits import WorkLimits
from mesh.messages.membership import Offer
from mesh.messages.slots import SlotAsk, SlotGrant, SlotItem

SOON_S = 0.01
"""Between two asks: what becomes ready, or ends, in a burst is told together."""
SETTLE_S = 0.9
"""What offers take to become known to everybody, with room to spare: below `slots_ask_s`, so that the next ask follows."""
DRIFT = 1.02
"""What a window is taken for: clocks differ by 1 % at most."""


@dataclass(frozen=True, slots=True)
class SlotsDue:
    """Ask the owners."""


@dataclass(frozen=True, slots=True)
class SlotsLapse:
    """The first lease may be over, as far as it is used."""


@dataclass(frozen=True, slots=True)
class WindowOver:
    """One more may start, of a capability whose rate was used up."""

    capability: str


@dataclass(slots=True)
class _Allowance:
    slots: int
    end_s: float


class LimitHolder:
    def __init__(
        self, directory: ReadDirectory, deadlines: Deadlines, limits: WorkLimits, slots: Slots, running: Running, incarnation: int
    ) -> None:
        self._directory, self._deadlines, self._limits = directory, deadlines, limits
        self._slots, self._running = slots, running
        self._lived_before = incarnation > 1
        self._started_s = 0.0
        self._due_s = float("inf")
        self._asked_s = float("-inf")
        self._last_ask = 0
        self._views: dict[str, tuple[tuple[NodeId, ...], float]] = {}
        """Who offers each, and since when that has not changed."""
        self._asked: dict[str, tuple[NodeId, int]] = {}
        self._follows: dict[str, tuple[NodeId, float]] = {}
        self._allowed: dict[Pool, _Allowance] = {}
        self._starts: dict[Pool, deque[float]] = {}
        self.asks = 0
        self.stopped = 0
        self._wanted: dict[Pool, int] = {}
        self._offers: dict[str, Offer] = {}
        slots.permit, slots.began, slots.waits, slots.limited = self._permit, self._began, self._waits, self._is_limited
        self.inputs: dict[type, Any] = {
            SlotGrant: self._on_grant,
            SlotsDue: self._expire_due,
            SlotsLapse: self._expire_lapse,
            WindowOver: self._expire_window,
        }

    def start(self, now_s: float) -> None:
        self._started_s = now_s

    # ---- what the slots ask

    def _pools(self, capability: Capability | None) -> dict[Pool, int]:
        """The limits of a capability of this node."""
        offer = self._offers.get(capability.name) if capability is not None else None
        return pools_of(offer) if offer is not None else {}

    def _is_limited(self, capability: str) -> bool:
        offer = self._offers.get(capability)
        return offer is not None and offer.limit > 0

    def _permit(self, now_s: float, capability: Capability) -> bool:
        """May one more of it start?"""
        for pool in self._pools(capability):
            allowed = self._allowed.get(pool)
            if allowed is None or now_s >= allowed.end_s:
                return False
            if self._used(now_s, pool) >= allowed.slots:
                if pool[1] and allowed.slots:
                    self._deadlines.set(WindowOver(capability.name), self._starts[pool][0] + DRIFT * pool[1] / 1000)
                return False
        return True

    def _waits(self, now_s: float, capability: Capability) -> None:
        """Something is ready: ask, if more could be used than was asked for. What the owner lacks it sends when it has it."""
        if any(self._want(now_s, capability, pool) > self._wanted.get(pool, 0) for pool in self._pools(capability)):
            self._soon(now_s)

    def _want(self, now_s: float, capability: Capability, pool: Pool) -> int:
        want = self._used(now_s, pool) + len(capability.queue)
        return want if pool[1] else min(want, capability.slots())

    def _began(self, now_s: float, capability: Capability) -> None:
        for pool in self._pools(capability):
            if pool[1]:
                self._starts.setdefault(pool, deque()).append(now_s)

    def ended(self, now_s: float, name: str) -> None:
        """A handler has ended: if nothing here waits for its slot it goes back."""
        capability = self._slots.offered(name)
        if capability is not None and self._pools(capability) and not len(capability.queue):
            self._soon(now_s)

    def _used(self, now_s: float, pool: Pool) -> int:
        if not pool[1]:
            return sum(run.capability == pool[0] for run in self._slots.runs.values())
        starts = self._starts.setdefault(pool, deque())
        while starts and starts[0] + DRIFT * pool[1] / 1000 <= now_s:
            starts.popleft()
        return len(starts)

    # ---- asking

    def offers_changed(self, now_s: float, offers: tuple[Offer, ...]) -> None:
        """What this node says that it offers is what holds here: of several versions the tightest, and what the policy adds."""
        self._offers = {offer.capability: offer for offer in offers}
        self._soon(now_s)

    def _soon(self, now_s: float) -> None:
        due_s = max(now_s, self._asked_s + SOON_S)
        if due_s < self._due_s:
            self._due_s = due_s
            self._deadlines.set(SlotsDue(), due_s)

    def _expire_due(self, now_s: float, _me: NodeId, due: SlotsDue) -> Iterator[Any]:
        self._due_s = float("inf")
        lots: dict[tuple[NodeId, bool], list[SlotItem]] = {}
        limited = False
        for capability in self._slots.capabilities.values():
            pools = self._pools(capability)
            limited = limited or bool(pools)
            owner = owner_of(self._directory, capability.name) if pools else ""
            if owner:
                lots.setdefault((owner, self._may_follow(now_s, capability.name, owner)), []).extend(
                    self._item(now_s, capability, pool) for pool in pools
                )
        for (owner, follow), items in lots.items():
            yield self._ask(now_s, owner, follow, items)
        if limited:
            self._asked_s, self._due_s = now_s, now_s + self._limits.slots_ask_s
            self._deadlines.set(due, self._due_s)

    def _item(self, now_s: float, capability: Capability, pool: Pool) -> SlotItem:
        used = self._used(now_s, pool)
        want = self._wanted[pool] = self._want(now_s, capability, pool)
        allowed = self._allowed.get(pool)
        if allowed is not None:
            allowed.slots = min(allowed.slots, max(used, want))
        held = allowed.slots if allowed is not None and now_s < allowed.end_s else 0
        return SlotItem(pool[0], pool[1], want, max(used, held), used)

    def _ask(self, now_s: float, owner: NodeId, follow: bool, items: list[SlotItem]) -> Send:
        self.asks += 1
        self._last_ask = max(self._last_ask + 1, int(now_s * 1000) << 20)
        echo_ms, stamp_at_s = self._stamp(now_s, owner)
        follow_ms = int(1000 * self._limits.lease_s) if follow and echo_ms else 0
        for item in items:
            self._asked[item.capability] = (owner, self._last_ask)
            if follow_ms:
                self._follows[item.capability] = (owner, stamp_at_s + self._limits.lease_s + self._limits.margin_s)
        window_s = max(item.window_ms for item in items) / 1000
        young_s = self._limits.slots_lease_s + DRIFT * window_s + 2 * self._limits.margin_s
        young = self._lived_before and now_s < self._started_s + young_s
        return Send(owner, SlotAsk(self._last_ask, tuple(items), echo_ms, follow_ms, young), need=Need.FREE)

    def _stamp(self, now_s: float, node: NodeId) -> tuple[int, float]:
        row = self._directory.get(node)
        if node == self._directory.me or row is None:
            return int(now_s * 1000), now_s
        return row.stamp_ms, row.stamp_at_s

    def _may_follow(self, now_s: float, capability: str, owner: NodeId) -> bool:
        """Nobody else has this node's word, not even from an earlier life, and who offers it is not just becoming known."""
        members = tuple(row.node for row in members_of(self._directory, capability))
        known, since_s = self._views.get(capability, ((), now_s))
        if known != members:
            since_s = now_s
        self._views[capability] = (members, since_s)
        if now_s - since_s < SETTLE_S:
            return False
        if self._lived_before and now_s < self._started_s + self._limits.lease_s + self._limits.margin_s:
            return False
        followed, until_s = self._follows.get(capability, (owner, 0.0))
        return followed == owner or now_s >= until_s

    # ---- answers

    def _on_grant(self, now_s: float, sender: NodeId, grant: SlotGrant) -> list[Any]:
        if grant.echo_ms > int(now_s * 1000):
            return [Refused("future_stamp", sender)]
        out: list[Any] = []
        end_s = (grant.echo_ms + grant.grant_ms) / 1000 - self._limits.lease_s
        for name, window_ms, slots in grant.items:
            if self._asked.get(name) != (sender, grant.ask):
                out.append(Refused("slots_not_asked", sender))
                continue
            self._allowed[name, window_ms] = _Allowance(slots, end_s)
            self._watch(end_s)
            self._fill(now_s, name, out)
        return out

    def _fill(self, now_s: float, name: str, out: list[Any]) -> None:
        for worker in list(self._slots.workers.values()):
            if name in worker.offers:
                self._running.fill(now_s, worker, out)

    def _expire_window(self, now_s: float, _me: NodeId, due: WindowOver) -> list[Any]:
        out: list[Any] = []
        self._fill(now_s, due.capability, out)
        return out

    def _watch(self, end_s: float) -> None:
        first_s = min(allowed.end_s for allowed in self._allowed.values())
        self._deadlines.set(SlotsLapse(), min(first_s, end_s))

    def _expire_lapse(self, now_s: float, _me: NodeId, _lapse: SlotsLapse) -> list[Any]:
        """Without a lease nothing of it goes on: its slots are about to be somebody else's."""
        out: list[Any] = []
        for pool in [pool for pool, allowed in self._allowed.items() if allowed.end_s <= now_s]:
            del self._allowed[pool]
            for run in list(self._slots.runs.values()):
                if run.capability == pool[0] and not pool[1] and not run.stopping:
                    self.stopped += 1
                    self._running.stop(now_s, run, "limit", out)
        if self._allowed:
            self._watch(float("inf"))
        return out
