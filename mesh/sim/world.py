"""The world: many full nodes in one process, in virtual time, from one seed.

    heap of (time, number, host, life, sender, body) --pop--> host.turn --> node.handle --> effects --> new items
                                          host None: the world's own doings (faults, clients, workers, disks)

Invariant: the order of events is total (time, then number), and every random draw comes from a generator derived from the seed and a name,
so one more draw in node 3 does not reshuffle node 7. Decides nothing about the protocol. Style: FoundationDB, TigerBeetle's VOPR, turmoil.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from random import Random
from typing import Any

from mesh.core.assembly import build
from mesh.core.inputs import DialFailed, LinkDown, LinkUp, Proclaim, StoryRead
from mesh.core.records.journal import AUDIT
from mesh.core.triggers.calendar import Cron
from mesh.effects import ReadStory
from mesh.ids import NodeId
from mesh.limits import Limits
from mesh.messages.membership import Alive
from mesh.messages.signed import Signed
from mesh.messages.trust import NODE, Revocation
from mesh.sim.clock import HostClock
from mesh.sim.disk import Disk, Image
from mesh.sim.history import Admitted, History, Measured, Phase, PutBack, Viewed
from mesh.sim.host import WAKE, Host, door
from mesh.sim.network import Envelope, Network
from mesh.sim.old_disks import OldDisks
from mesh.sim.story import packed_audit, packed_story, touched
from mesh.sim.trace import Trace

Build = Callable[[Alive, Random, int, bytes], Any]
"""Makes a node: its own row, a generator, the last durable entry's number and head -> something with `.node` and `.directory`."""


CROWD_MAX = 200_000
"""Events in one millisecond."""


class Livelock(Exception):
    """Somebody asks to be called at once, again and again."""


class World:
    """`seed` and `names` fix everything. `history` receives what can be seen from outside."""

    def __init__(
        self,
        names: tuple[NodeId, ...],
        seed: int,
        *,
        history: History | None = None,
        trace: Trace | None = None,
        limits: Limits | None = None,
        build_node: Build | None = None,
        sync_s: float = 0.001,
        clock_spread_s: float = 1000.0,
        seeds: tuple[NodeId, ...] = (),
        cron: Cron | None = None,
    ) -> None:
        self.seed = seed
        self.names = names
        self.now_s = 0.0
        self.limits = limits or Limits()
        self.history = history or History()
        self.trace = trace or Trace()
        self.network = Network(self, lambda name: self.rng(f"network {name}"))
        self.seeds = tuple(door(name) for name in seeds or names[:2])
        self._build, self._cron = build_node, cron
        self._heap: list[tuple[float, int, Host | None, int, NodeId, Any]] = []
        self._count = 0
        self._request = 0
        self._crowd_s, self._crowd = 0.0, 0
        self.old_disks = OldDisks()
        self.revoked: dict[NodeId, None] = {}
        """By a statement that somebody upholds: for good."""
        self.on_down: Callable[[NodeId], None] = lambda node: None
        """Told of every node's process that ends."""
        self.wall_ms: Callable[[Host], int] = lambda host: host.clock.wall_ms(self.now_s)
        """Unix time as a host believes it."""
        self.hosts: dict[NodeId, Host] = {}
        for name in names:
            rng = self.rng(f"host {name}")
            clock = HostClock(offset_s=10.0 + clock_spread_s * rng.random())
            self.hosts[name] = Host(self, name, clock, Disk(name, sync_s), rng)

    def rng(self, name: str) -> Random:
        """The stream of draws that belongs to `name`. A text seeds `Random` through SHA-512: the same in every process."""
        return Random(f"{self.seed}/{name}")

    def build(self, me: Alive, random: Random, journal_seq: int, head: bytes) -> Any:
        if self._build is not None:
            return self._build(me, random, journal_seq, head)
        return build(me, random=random, limits=self.limits, journal_seq=journal_seq, head=head, cron=self._cron)

    # ---- events

    def push(self, at_s: float, host: NodeId, sender: NodeId, body: Any) -> None:
        """An input for the process that runs at `host` now. A later process never gets it."""
        self._count += 1
        target = self.hosts[host]
        heappush(self._heap, (at_s, self._count, target, target.life, sender, body))

    def at(self, at_s: float, what: Callable[[], None]) -> None:
        """Something the world does itself."""
        self._count += 1
        heappush(self._heap, (at_s, self._count, None, 0, "", what))

    def after(self, delay_s: float, what: Callable[[], None]) -> None:
        self.at(self.now_s + delay_s, what)

    def run(self, until_s: float) -> None:
        """Handle everything due up to `until_s`; the time is `until_s` afterwards."""
        heap, current = self._heap, self.network.current
        while heap and heap[0][0] <= until_s:
            at_s, _, host, life, sender, body = heappop(heap)
            self.now_s = at_s
            self._crowd += 1
            if at_s > self._crowd_s + 0.001:
                self._crowd_s, self._crowd = at_s, 0
            elif self._crowd > CROWD_MAX:
                raise Livelock(f"{CROWD_MAX} events at {at_s} s; the last is {type(body).__name__} for {host and host.name}: {body!r:.200}")
            if host is None:
                body()
                continue
            if life != host.life or not host.up:
                continue
            kind = type(body)
            if kind is Envelope:
                if not current(sender, host.name, body.link):
                    continue
            elif body is WAKE and at_s != host.armed_at:
                continue
            host.arrive(sender, body)
        self.now_s = until_s

    def next_at(self) -> float | None:
        return self._heap[0][0] if self._heap else None

    # ---- what the network needs

    def link_changed(self, host: NodeId, peer: NodeId, *, up: bool) -> None:
        here = self.hosts[host]
        if not here.up:
            return
        here.link_changed(peer)
        self.push(self.now_s, host, peer, LinkUp(self.hosts[peer].signed_row()) if up else LinkDown())

    def dial_ended(self, caller: NodeId, target: NodeId, reason: str) -> None:
        self.push(self.now_s, caller, caller, DialFailed(door(target), reason))

    def refuses(self, one: NodeId, other: NodeId) -> bool:
        return self.hosts[one].refuses(other) or self.hosts[other].refuses(one)

    def answers(self, host: NodeId) -> str:
        there = self.hosts[host]
        if there.up:
            return "frozen" if there.frozen else "open"
        return "off" if there.off else "refused"

    # ---- hosts

    def start(self, name: NodeId) -> None:
        """Unless it runs, or its disk cannot take the new life's number."""
        host = self.hosts[name]
        if not host.up and not host.disk.failing:
            self.trace.note(self.now_s, f"start {name}")
            host.start(tuple(seed for seed in self.seeds if seed != door(name)))

    def start_all(self, spread_s: float = 0.2) -> None:
        rng = self.rng("start")
        for name in self.names:
            self.after(spread_s * rng.random(), lambda name=name: self.start(name))  # type: ignore[misc]

    def crash(self, name: NodeId, *, keep_written: bool = False, power: bool = False, silent: bool = False, for_good: bool = False) -> None:
        host = self.hosts[name]
        if host.up:
            self.trace.note(self.now_s, f"crash {name} keep={keep_written} power={power} silent={silent}")
            host.stop(keep_written=keep_written, power=power, silent=silent, for_good=for_good)

    def put_back(self, name: NodeId, image: Image) -> None:
        """The machine goes down, and an older image of its disk is put into it."""
        self.crash(name, power=True)
        host = self.hosts[name]
        incarnation = host.disk.incarnation
        host.disk.put_back(image)
        record = PutBack(self.now_s, name, incarnation, image.seq, image.head, image.hlc)
        self.old_disks.note(record)
        self.history.add(record)

    def freeze(self, name: NodeId) -> None:
        """Stop the process, as SIGSTOP does: the kernel still acknowledges, until peers' heartbeats give the links up."""
        host = self.hosts[name]
        if host.frozen or not host.up:
            return
        self.trace.note(self.now_s, f"freeze {name}")
        host.frozen = True
        life = host.life

        def give_up() -> None:
            if host.frozen and host.life == life:
                for peer in self.names:
                    if peer != name:
                        self.network.hang_up(peer, name)

        self.after(4.0, give_up)

    def thaw(self, name: NodeId) -> None:
        host = self.hosts[name]
        if host.frozen:
            self.trace.note(self.now_s, f"thaw {name}")
            host.frozen = False
            host.drain_soon()

    def revoke(self, target: NodeId, at: NodeId) -> None:
        """The mesh's root revokes `target`, and says so to the node `at`."""
        self.trace.note(self.now_s, f"revoke {target} at {at}")
        body = Revocation("sim", NODE, target, target, "drawn", int(1000 * self.now_s))
        self.push(self.now_s, at, at, Proclaim(Signed("root", body)))

    def living(self) -> list[Host]:
        return [host for host in self.hosts.values() if host.up]

    # ---- clients and observers

    def ask(self, name: NodeId, command: Callable[[int], Any], answered: Callable[[bool, dict[str, Any]], None] | None = None) -> int:
        """Give a command (made from its request number) to a node, as a local client does. 0 if the node is down."""
        host = self.hosts[name]
        if not host.up:
            return 0
        self._request += 1
        request = self._request
        body = command(request)
        if answered is not None:
            host.requests[request] = answered
        self.push(self.now_s, name, name, body)
        return request

    def look(self) -> None:
        """Write into the history what every living node says of the mesh, and how long its queues are."""
        for host in self.living():
            rows = tuple((row.node, row.state, row.incarnation, row.version, tuple(row.offers)) for row in host.directory.rows())
            self.history.add(Viewed(self.now_s, host.name, rows))
            if host.name in self.old_disks.lives:
                self.history.add(Admitted(self.now_s, host.name, host.assembly.records.statistics().rolled_back))
            self.history.add(Measured(self.now_s, host.name, "outbox", host.outbox.statistics().waiting))
            self.history.add(Measured(self.now_s, host.name, "rows", len(rows)))

    def phase(self, name: str) -> None:
        self.trace.note(self.now_s, f"phase {name}")
        self.history.add(Phase(self.now_s, name))

    def story(self, host: Host, effect: ReadStory) -> StoryRead:
        if effect.question == "hash":
            return StoryRead(effect.token, touched(host.disk, effect.key))
        if effect.question == AUDIT:
            return StoryRead(effect.token, packed_audit(host.disk, effect.key, effect.since, effect.newest))
        return StoryRead(effect.token, packed_story(host.disk, effect.key, effect.since))
