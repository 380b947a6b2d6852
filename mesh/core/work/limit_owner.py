"""The owner of a limit: counts the slots that it has leased, and never leases more than there are.

    SLOT_ASK --a majority of who offers it follows this node--> leads --all have said what they hold, or a lease is over--> ready
             ready: as many as are free      leads, not ready yet: as many as the holder has already      does not lead: nothing

Invariant: what is counted of a limit is never more than the limit, and whatever may still be in use somewhere is counted. Two owners at
once would need two majorities of followers; each member follows one, and another only when its word to the last has run out. Keeps nothing
on disk: whoever restarts follows nobody, and is trusted with nothing, until what it may have said and held before is over.
Does not know what runs (`limit_holder.py`). It takes each view of who offers the capability for the same: where members come while the
network is split, a limit may be exceeded. Source: PaxosLease (Trencseni, Gazso, Reinhardt 2012), leases of Gray and Cheriton (1989).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from mesh.core.directory import LEFT, ReadDirectory, Row
from mesh.core.policy.rules import DECENTRALIZED
from mesh.effects import Need, Refused, Send
from mesh.ids import NodeId
from mesh.limits import WorkLimits
from mesh.messages.membership import Offer
from mesh.messages.slots import SlotAsk, SlotGrant, SlotItem

Pool = tuple[str, int]
"""One limit: its capability, and the window in which starts are counted; 0: what runs at once."""


def pools_of(offer: Offer) -> dict[Pool, int]:
    """The limits that an offer declares, and how much of each there is."""
    found = {(offer.capability, 0): offer.limit} if offer.limit > 0 else {}
    if offer.rate > 0 and offer.rate_ms > 0:
        found[offer.capability, offer.rate_ms] = offer.rate
    return found


def members_of(directory: ReadDirectory, capability: str) -> list[Row]:
    """Who offers it under a limit. Who is dead counts: it may only be out of sight."""
    rows = directory.offering(capability)
    return [row for row in rows if row.state != LEFT and not row.revoked and pools_of(row.offers[capability])]


def owner_of(directory: ReadDirectory, capability: str) -> NodeId:
    """The mesh's coordinator, where its mode has one in office; else of those in sight, by rendezvous hash; "": nobody offers it under a
    limit."""
    near = [row.node for row in members_of(directory, capability) if row.linked or row.node == directory.me]
    if near and coordinates(directory, directory.seat.holder):
        return directory.seat.holder
    return max(near, key=lambda node: hashlib.sha256(f"{capability}|{node}".encode()).digest(), default="")


def coordinates(directory: ReadDirectory, node: NodeId) -> bool:
    """In office, in sight, and in a mesh whose mode has it own the limits."""
    row = directory.get(node) if node and node == directory.seat.holder else None
    return row is not None and (row.linked or node == directory.me) and directory.rulebook.mode.name != DECENTRALIZED


@dataclass(slots=True)
class _Lease:
    """What one holder may have in use. `waits`: its newest ask, if it wants more than it got."""

    slots: int
    end_s: float
    ask: int
    waits: SlotItem | None = None


@dataclass(slots=True)
class _Seat:
    """This node as the owner of one capability's limits."""

    follow_until_s: dict[NodeId, float] = field(default_factory=dict)
    ready_s: float = float("inf")
    offered_s: dict[NodeId, float] = field(default_factory=dict)
    """When each of those who offer it was last seen to."""
    heard: dict[NodeId, None] = field(default_factory=dict)
    """Who has said what it holds, since this node leads."""
    leases: dict[Pool, dict[NodeId, _Lease]] = field(default_factory=dict)


class LimitOwner:
    def __init__(self, directory: ReadDirectory, limits: WorkLimits) -> None:
        self._directory, self._limits = directory, limits
        self._seats: dict[str, _Seat] = {}
        self.granted = 0
        self.inputs: dict[type, Any] = {SlotAsk: self._on_ask}

    def _on_ask(self, now_s: float, sender: NodeId, ask: SlotAsk) -> list[Any]:
        if ask.echo_ms > int(now_s * 1000):
            return [Refused("future_stamp", sender)]
        out: list[Any] = []
        given: list[tuple[str, int, int]] = []
        for item in ask.items:
            if not self._declares(sender, item):
                out.append(Refused("unknown_limit", sender))
                continue
            seat = self._follow(now_s, sender, ask, item.capability)
            if seat is None:
                continue
            slots = self._count(now_s, seat, sender, ask, item)
            if slots is not None:
                given.append((item.capability, item.window_ms, slots))
        if given:
            out.append(self._grant(now_s, sender, ask.ask, given))
        for capability in dict.fromkeys(item.capability for item in ask.items):
            out.extend(self._serve(now_s, capability, sender))
        return out

    def _declares(self, node: NodeId, item: SlotItem) -> bool:
        """Both offer it under this limit; or this node is coordinator, who owns what others offer."""
        both = (node,) if coordinates(self._directory, self._directory.me) else (node, self._directory.me)
        return all(
            (row := self._directory.get(one)) is not None
            and item.capability in row.offers
            and (item.capability, item.window_ms) in pools_of(row.offers[item.capability])
            for one in both
        )

    # ---- who leads

    def _leads(self, now_s: float, seat: _Seat, capability: str) -> bool:
        members = self._members(now_s, seat, capability)
        return 2 * sum(seat.follow_until_s.get(node, 0.0) > now_s for node in members) > len(members)

    def _members(self, now_s: float, seat: _Seat, capability: str) -> list[NodeId]:
        """Who offers it, or did so lately: whose workers are gone for a moment still counts."""
        for row in members_of(self._directory, capability):
            seat.offered_s[row.node] = now_s
        kept_s = now_s - self._limits.slots_lease_s - 2 * self._limits.margin_s
        for node in [node for node, at_s in seat.offered_s.items() if at_s < kept_s]:
            del seat.offered_s[node]
        return list(seat.offered_s)

    def _follow(self, now_s: float, sender: NodeId, ask: SlotAsk, capability: str) -> _Seat | None:
        """Take the sender's word that it follows. None: this node does not lead."""
        seat = self._seats.setdefault(capability, _Seat())
        led = self._leads(now_s, seat, capability)
        if not led:
            seat.leases, seat.heard = {}, {}
        if ask.follow_ms > 0:
            seat.follow_until_s[sender] = max(seat.follow_until_s.get(sender, 0.0), (ask.echo_ms + ask.follow_ms) / 1000)
        if not self._leads(now_s, seat, capability):
            return None
        if not led:
            window_s = max(pool[1] for row in members_of(self._directory, capability) for pool in pools_of(row.offers[capability])) / 1000
            seat.ready_s = now_s + self._limits.slots_lease_s + window_s + 2 * self._limits.margin_s
        if not ask.young:
            seat.heard[sender] = None
        if all(node in seat.heard for node in self._members(now_s, seat, capability)):
            seat.ready_s = min(seat.ready_s, now_s)
        return seat

    # ---- counting

    def _most(self, pool: Pool) -> int:
        """The least that anybody declares."""
        rows = members_of(self._directory, pool[0])
        return min((most for row in rows if (most := pools_of(row.offers[pool[0]]).get(pool, 0))), default=0)

    def _free(self, now_s: float, seat: _Seat, pool: Pool, but: NodeId) -> int:
        leases = seat.leases.setdefault(pool, {})
        for node in [node for node, lease in leases.items() if lease.end_s <= now_s]:
            del leases[node]
        return self._most(pool) - sum(lease.slots for node, lease in leases.items() if node != but)

    def _count(self, now_s: float, seat: _Seat, sender: NodeId, ask: SlotAsk, item: SlotItem) -> int | None:
        """How many the sender gets; None: its message is an old one."""
        pool = (item.capability, item.window_ms)
        free = self._free(now_s, seat, pool, sender)
        leases = seat.leases[pool]
        before = leases.get(sender)
        if before is not None and ask.ask <= before.ask:
            return None
        if ask.young:
            return 0
        wanted = item.want if now_s >= seat.ready_s else min(item.want, item.held)
        slots = max(0, min(wanted, free))
        # What it has until it hears of this counts as well: the grant may be lost.
        end_s = self._stamp(now_s, sender)[1] + self._limits.slots_lease_s + self._limits.margin_s + item.window_ms / 1000
        leases[sender] = _Lease(max(slots, item.held), end_s, ask.ask, item if slots < item.want else None)
        return slots

    def _grant(self, now_s: float, node: NodeId, ask: int, items: list[tuple[str, int, int]]) -> Send:
        self.granted += 1
        echo_ms = self._stamp(now_s, node)[0]
        return Send(node, SlotGrant(ask, tuple(items), echo_ms, int(1000 * self._limits.slots_lease_s)), need=Need.FREE)

    def _stamp(self, now_s: float, node: NodeId) -> tuple[int, float]:
        row = self._directory.get(node)
        if node == self._directory.me or row is None:
            return int(now_s * 1000), now_s
        return row.stamp_ms, row.stamp_at_s

    def _serve(self, now_s: float, capability: str, but: NodeId) -> list[Any]:
        """Something may have come free: those who wait get it."""
        seat, out = self._seats[capability], []  # type: tuple[_Seat, list[Any]]
        if now_s < seat.ready_s or not self._leads(now_s, seat, capability):
            return out
        for pool, leases in seat.leases.items():
            for node, lease in list(leases.items()):
                item = lease.waits
                if item is None or node == but or not (row := self._directory.get(node)) or not (row.linked or node == self._directory.me):
                    continue
                slots = min(item.want, self._free(now_s, seat, pool, node))
                if slots > lease.slots:
                    lease.slots, lease.waits = slots, item if slots < item.want else None
                    lease.end_s = self._stamp(now_s, node)[1] + self._limits.slots_lease_s + self._limits.margin_s + pool[1] / 1000
                    out.append(self._grant(now_s, node, lease.ask, [(*pool, slots)]))
        return out

    def leased(self, now_s: float, name_of: Callable[[NodeId], str]) -> list[dict[str, Any]]:
        """What is leased from here: ``{"capability", "most", "per", "leased": {node: slots}}`` for each limit."""
        return [
            {
                "capability": pool[0],
                "most": self._most(pool),
                "per": f" in {pool[1] / 1000:g} s" if pool[1] else " at once",
                "leased": {name_of(node): lease.slots for node, lease in leases.items() if lease.end_s > now_s},
            }
            for seat in self._seats.values()
            for pool, leases in seat.leases.items()
        ]

    def __len__(self) -> int:
        return sum(len(leases) for seat in self._seats.values() for leases in seat.leases.values())
