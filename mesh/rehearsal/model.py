"""What a rehearsal is told of a mesh: who offers what, how fast, how long it takes, what goes wrong, and what the mesh itself costs.

    mesh caps, mesh tasks --recorded.py--.
    model.toml -----------reading.py-----+--> Model --stage.py--> a world of full nodes
    --nodes --slots --service -----------'

Invariant: plain values. Nothing here decides what runs where: that is left to the nodes' own cores.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from mesh.errors import UsageError
from mesh.labels import Amounts
from mesh.messages.membership import Offer
from mesh.rehearsal.service import Service

NODES_MAX = 200
SLOTS_MAX = 1024
NETWORK_S, JITTER_S, SYNC_S, TURN_S = 0.0004, 0.0003, 0.0015, 0.00018
"""Measured: with these, a chain, a fan of 1,000 no-ops and single durable tasks take as long as on real nodes of one machine with two cores
(`scripts/bench rehearsal --calibrate`)."""
DRIVER_S = 0.7
"""What it takes to start the process that drives flows, on a node that has not driven one lately (`runtime/stock.py`)."""
WARM_S = 120.0
"""So long that process stays."""
GATE = "rehearsal.people"
"""What people do who answer gates."""


@dataclass(frozen=True, slots=True)
class Overheads:
    """What the mesh itself costs: a message's way, a disk's sync, what a node computes for each thing that comes in (one after the other),
    and `driver_s`, the start of the process that drives flows, where none is up."""

    network_s: float = NETWORK_S
    jitter_s: float = JITTER_S
    sync_s: float = SYNC_S
    turn_s: float = TURN_S
    driver_s: float = DRIVER_S

    def times(self, factor: float) -> Overheads:
        return Overheads(
            self.network_s * factor, self.jitter_s * factor, self.sync_s * factor, self.turn_s * factor, self.driver_s * factor
        )


@dataclass(frozen=True, slots=True)
class Capability:
    """`fails`: the share of runs that fail, and may be tried again. `service` None: nobody knows; it counts as nothing, and is named."""

    name: str
    service: Service | None = None
    fails: float = 0.0
    retries: int = 0
    idempotent: bool = True
    limit: int = 0
    rate: int = 0
    rate_ms: int = 0
    needs: Amounts = ()
    timeout_ms: int = 0
    on_lost: str = "retry"

    def offer(self, agent: str) -> Offer:
        return Offer(
            self.name,
            agent,
            idempotent=self.idempotent,
            retries=self.retries,
            limit=self.limit,
            rate=self.rate,
            rate_ms=self.rate_ms,
            needs=self.needs,
            timeout_ms=self.timeout_ms,
            on_lost=self.on_lost,
        )


@dataclass(frozen=True, slots=True)
class Crew:
    """One worker process of a node: so many handlers at once. `offers` empty: all there is. `speed` divides service times; `takes` are
    those that are known of this very one."""

    agent: str = "crew"
    slots: int = 8
    speed: float = 1.0
    offers: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    resources: Amounts = ()
    takes: tuple[tuple[str, Service], ...] = ()


@dataclass(frozen=True, slots=True)
class Node:
    name: str
    crews: tuple[Crew, ...]
    warm: bool = False
    """The process that drives flows is up there."""


@dataclass(frozen=True, slots=True)
class Fault:
    """The machine `node` is gone at `at_s`, and back so much later; 0: not again."""

    at_s: float
    node: str
    back_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Model:
    nodes: tuple[Node, ...] = ()
    capabilities: tuple[Capability, ...] = ()
    overheads: Overheads = Overheads()
    faults: tuple[Fault, ...] = ()
    gate: Service | None = None
    """How long people take to answer; None: nothing, which is said."""
    policy: dict[str, Any] | None = None
    """The document of the mesh's policy."""
    alone_s: float = 0.0
    gap_s: float = 0.0
    """What the mesh cost, as it was measured (`calibrating.Cost`); 0: it was not."""
    came_from: str = "flags"
    notes: tuple[str, ...] = field(default=())

    def capability(self, name: str) -> Capability | None:
        return next((one for one in self.capabilities if one.name == name), None)

    def offered(self, crew: Crew) -> tuple[Capability, ...]:
        return tuple(one for one in self.capabilities if not crew.offers or one.name in crew.offers)

    def takes(self, crew: Crew, capability: str) -> Service | None:
        """On that crew."""
        known = dict(crew.takes).get(capability)
        if known is not None:
            return known
        one = self.capability(capability)
        return None if one is None or one.service is None else one.service.times(1 / crew.speed)

    def with_capabilities(self, changed: dict[str, Capability]) -> Model:
        """Those in place of what was said of them before; what is known of single crews is dropped with it."""
        kept = {one.name: one for one in self.capabilities} | changed
        nodes = []
        for node in self.nodes:
            crews = [replace(crew, takes=tuple(row for row in crew.takes if row[0] not in changed)) for crew in node.crews]
            nodes.append(replace(node, crews=tuple(crews)))
        return replace(self, capabilities=tuple(kept.values()), nodes=tuple(nodes))

    def resized(self, count: int) -> Model:
        """So many nodes: the known ones, again and again. Raises UsageError."""
        if not 1 <= count <= NODES_MAX:
            raise UsageError(f"--nodes {count} is out of range", fix=f"give a number from 1 to {NODES_MAX}")
        if not self.nodes:
            return replace(self, nodes=tuple(Node(f"n{number + 1}", (Crew(),)) for number in range(count)))
        nodes = []
        for number in range(count):
            like, turn = self.nodes[number % len(self.nodes)], number // len(self.nodes)
            nodes.append(replace(like, name=f"{like.name}+{turn}") if turn else like)
        return replace(self, nodes=tuple(nodes))

    def of_names(self, names: list[str]) -> Model:
        return replace(self, nodes=tuple(Node(name, (Crew(),)) for name in names))

    def offering(self, names: list[str]) -> Model:
        """Everybody who offers some things only offers these too."""
        nodes = []
        for node in self.nodes:
            crews = [replace(crew, offers=(*crew.offers, *names) if crew.offers else ()) for crew in node.crews[:1]]
            nodes.append(replace(node, crews=(*(crews or [Crew(offers=tuple(names))] if names else crews), *node.crews[1:])))
        return replace(self, nodes=tuple(nodes))

    def with_slots(self, slots: int) -> Model:
        nodes = [replace(node, crews=tuple(replace(crew, slots=slots) for crew in node.crews)) for node in self.nodes]
        return replace(self, nodes=tuple(nodes))

    def checked(self) -> Model:
        """Raises UsageError."""
        names = [node.name for node in self.nodes]
        if not names:
            raise UsageError("the model has no nodes", fix="--nodes 3, or [[nodes]] with count = 3 in the model")
        if len(names) > NODES_MAX:
            raise UsageError(f"the model has {len(names)} nodes", fix=f"give at most {NODES_MAX}")
        for name in names:
            if names.count(name) > 1:
                raise UsageError(f"two nodes of the model are called {name!r}", fix="give each its own name")
        for fault in self.faults:
            if fault.node not in names:
                raise UsageError(f"there is no node {fault.node!r} to kill", fix=f"the nodes are: {', '.join(names[:20])}")
        return self
