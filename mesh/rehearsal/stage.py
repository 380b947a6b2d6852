"""The stage of a rehearsal: full nodes in virtual time, whose workers only take time.

    Model --> World (network, disks, what each node computes for an input) --> crews attached --> faults at their times

Everything that decides runs as it does on real machines: negotiation, placement, pulling, hedging, retries, limits, leases, keepers.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from mesh.limits import Limits
from mesh.rehearsal.crew import Deeds, Pretender
from mesh.rehearsal.governing import govern, rehearsed_rules
from mesh.rehearsal.model import GATE, Crew, Model
from mesh.sim.trace import Trace
from mesh.sim.world import World

FIRST_CREW = 1000
"""Numbers of workers below are those of the mesh's own agents."""
CALM_S = 20.0
"""How often a silent link is probed and an unchanged load is told again, where no machine fails: nothing gets lost there, nobody has to be
found dead, and with 50 nodes these take most of the time. What changes is told at once as ever."""
PEOPLE_SLOTS = 1024
SETTLE_S = 2.0
"""Virtual time before it begins: everybody has told his load, and knows who keeps his journal."""
QUIET_S = 120.0
"""Nothing has happened for so long, and nobody works on anything: it will not end by itself."""


def limits_of(model: Model) -> Limits:
    """Those of real nodes."""
    limits = Limits()
    if model.faults:
        return limits
    membership, work = replace(limits.membership, probe_interval_s=CALM_S), replace(limits.work, load_fresh_s=CALM_S)
    return replace(limits, membership=membership, work=work)


class _Events(Trace):
    """Counts, and hashes nothing: a rehearsal is compared by what came of it."""

    __slots__ = ()

    def add(self, at_s: float, host: str, sender: str, body: Any) -> None:
        self.events += 1


class Stage:
    """Puts a model into a world that was just made."""

    def __init__(self, world: World, model: Model, deeds: Deeds) -> None:
        self.world, self.model, self._deeds = world, model, deeds
        world.trace = _Events()
        overheads = model.overheads
        world.network.set_way(overheads.network_s, overheads.jitter_s)
        for host in world.hosts.values():
            host.disk.sync_s = overheads.sync_s

    def begin_costs(self) -> None:
        """The policy is in force, and what comes in costs time: finding each other is no part of a rehearsal."""
        rules, _ = rehearsed_rules(self.model.policy)
        if rules is not None:
            govern(self.world, rules)
        for host in self.world.hosts.values():
            host.input_cost_s = self.model.overheads.turn_s

    def attach(self, name: str | None = None) -> None:
        """Every crew, or those of one node that has come back."""
        number = FIRST_CREW
        for node in self.model.nodes:
            crews = [*node.crews]
            if node is self.model.nodes[0] and self.model.capability(GATE) is not None:
                crews.append(Crew("people", PEOPLE_SLOTS, offers=(GATE,)))
            for crew in crews:
                number += 1
                if name in (None, node.name):
                    Pretender(self.world, self.world.hosts[node.name], number, self.model, crew, self._deeds).attach()

    def all_known(self) -> bool:
        """Does everybody know what everybody offers?"""
        wanted = {node.name for node in self.model.nodes if any(self.model.offered(crew) for crew in node.crews)}
        return all(wanted <= {row.node for row in host.directory.rows() if row.offers} for host in self.world.living())
