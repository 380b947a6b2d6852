"""Carries out a schedule of faults: what each kind does to the world, and how it ends.

    Fault --at its time--> _<kind>(fault) --> what ends it, after its span or with the storm

Counts what was done, by kind. An aimed fault lies in wait, for as long as it would last, until there is somebody to hit; else it was none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from mesh.core.inputs import MemberAlive, MemberDied, MemberSuspected, MemberUnreachable
from mesh.ids import NodeId
from mesh.sim.faults import AIMED, DRIFT, Fault
from mesh.sim.history import ClockBroken
from mesh.sim.labour import Worker
from mesh.sim.whole import is_kept, is_whole, may_forget
from mesh.sim.world import World

MAY_MISS = (*AIMED, "false_alarm")
LOOK_S = 0.1
"""Until an aimed fault looks again."""


def _drawn(names: list[NodeId], amount: float) -> NodeId:
    """One of them, the first ones rather than the last; empty if there is none."""
    return names[int(len(names) * amount * amount)] if names else ""


class Injector:
    """Carries a schedule out. `revive(name)` brings workers back to a host; `calm` ends whatever is still going on."""

    def __init__(self, world: World, faults: Iterable[Fault], revive: Callable[[NodeId], None]) -> None:
        self._world = world
        self._revive = revive
        self._ends: dict[int, Callable[[], None]] = {}
        self._count = 0
        self.done: dict[str, int] = {}
        self._reporting = True
        for fault in faults:
            world.at(fault.at_s, lambda fault=fault: self._begin(fault))  # type: ignore[misc]

    def calm(self) -> None:
        """End every fault now, in the order they began, and begin no more."""
        self._reporting = False
        for number in sorted(self._ends):
            self._finish(number)

    def _begin(self, fault: Fault) -> None:
        if not self._reporting:
            return
        end = getattr(self, f"_{fault.kind}")(fault)
        if end is None and fault.kind in MAY_MISS:
            if self._world.now_s < fault.at_s + fault.span_s:
                self._world.after(LOOK_S, lambda: self._begin(fault))
            return
        self._world.trace.note(self._world.now_s, str(fault))
        self.done[fault.kind] = self.done.get(fault.kind, 0) + 1
        if end is not None:
            self._count += 1
            number = self._count
            self._ends[number] = end
            self._world.after(fault.span_s, lambda: self._finish(number))

    def _finish(self, number: int) -> None:
        end = self._ends.pop(number, None)
        if end is not None:
            end()

    # ---- the network

    def _weather(self, name: str, amount: float) -> Callable[[], None]:
        weather = self._world.network.weather
        setattr(weather, name, amount)
        return lambda: setattr(weather, name, 0.0)

    def _delay(self, fault: Fault) -> Callable[[], None]:
        return self._weather("delay_s", fault.amount)

    def _loss(self, fault: Fault) -> Callable[[], None]:
        """Segments resent, and now and then a message lost for good, as from a full queue."""
        loss, drop = self._weather("loss", fault.amount), self._weather("drop", fault.amount / 10)

        def end() -> None:
            loss()
            drop()

        return end

    def _duplicate(self, fault: Fault) -> Callable[[], None]:
        return self._weather("duplicate", fault.amount)

    def _reorder(self, fault: Fault) -> Callable[[], None]:
        return self._weather("reorder_s", fault.amount)

    def _replay(self, fault: Fault) -> Callable[[], None]:
        return self._weather("replay_s", fault.amount)

    def _others(self, nodes: tuple[NodeId, ...]) -> list[NodeId]:
        return [name for name in self._world.names if name not in nodes]

    def _pairs(self, fault: Fault) -> list[tuple[NodeId, NodeId]]:
        if len(fault.nodes) == 2:
            return [(fault.nodes[0], fault.nodes[1])]
        return [(fault.nodes[0], other) for other in self._others(fault.nodes)]

    def _one_way(self, fault: Fault) -> Callable[[], None]:
        return self._cut_all(self._pairs(fault))

    def _stall(self, fault: Fault) -> Callable[[], None]:
        pairs, network = self._pairs(fault), self._world.network
        for pair in pairs:
            network.hold(*pair)

        def end() -> None:
            for pair in pairs:
                network.let_go(*pair)

        return end

    def _cut_all(self, pairs: list[tuple[NodeId, NodeId]]) -> Callable[[], None]:
        network = self._world.network
        for pair in pairs:
            network.cut(*pair)

        def end() -> None:
            for pair in pairs:
                network.mend(*pair)

        return end

    def _partition(self, fault: Fault) -> Callable[[], None]:
        pairs = [pair for one in fault.nodes for other in self._others(fault.nodes) for pair in ((one, other), (other, one))]
        return self._cut_all(pairs)

    # ---- hosts

    def _crash(self, fault: Fault) -> Callable[[], None]:
        """kill -9: what was being written may have reached the disk; workers live on. `amount` draws which."""
        (name,) = fault.nodes
        self._world.crash(name, keep_written=fault.amount < 0.5)
        return lambda: self._back(name)

    def _crash_lose_tail(self, fault: Fault) -> Callable[[], None]:
        """Power lost: workers too, the unsynced tail is gone, half of the time nobody gets a reset."""
        (name,) = fault.nodes
        self._world.crash(name, keep_written=False, power=True, silent=fault.amount < 0.5)
        return lambda: self._back(name)

    def _back(self, name: NodeId) -> None:
        self._world.start(name)
        self._revive(name)

    def _pause(self, fault: Fault) -> Callable[[], None]:
        (name,) = fault.nodes
        self._world.freeze(name)
        return lambda: self._world.thaw(name)

    def _slow_node(self, fault: Fault) -> Callable[[], None]:
        host = self._world.hosts[fault.nodes[0]]
        host.input_cost_s = fault.amount
        return lambda: setattr(host, "input_cost_s", 0.0)

    def _slow_disk(self, fault: Fault) -> Callable[[], None]:
        disk = self._world.hosts[fault.nodes[0]].disk
        disk.slow_s = fault.amount
        return lambda: setattr(disk, "slow_s", 0.0)

    # ---- clocks

    def _clock_offset(self, fault: Fault) -> None:
        self._world.hosts[fault.nodes[0]].clock.wall_offset_s = fault.amount

    def _clock_step(self, fault: Fault) -> None:
        """The wall clock steps either way; in one of four also the machine's own clock leaps ahead, as after a suspend nobody saw."""
        host = self._world.hosts[fault.nodes[0]]
        host.clock.wall_offset_s += fault.amount
        if fault.amount > 1800:
            self._world.history.add(ClockBroken(self._world.now_s, host.name))
            host.clock.leap(self._world.now_s, fault.amount / 600)
            host.rearm()

    def _clock_rate(self, fault: Fault) -> Callable[[], None]:
        host, world = self._world.hosts[fault.nodes[0]], self._world
        if abs(fault.amount - 1) > DRIFT:
            world.history.add(ClockBroken(world.now_s, host.name))
        host.clock.set_rate(world.now_s, fault.amount)
        host.rearm()

        def end() -> None:
            host.clock.set_rate(world.now_s, 1.0)
            host.rearm()

        return end

    # ---- disks that fail

    def _disk_full(self, fault: Fault) -> Callable[[], None]:
        return self._failing(fault, "full")

    def _sync_error(self, fault: Fault) -> Callable[[], None]:
        """The next sync ends with an error: what it wrote may be on the disk, or not."""
        return self._failing(fault, "broken")

    def _failing(self, fault: Fault, how: str) -> Callable[[], None]:
        (name,) = fault.nodes
        disk = self._world.hosts[name].disk
        disk.failing = how

        def end() -> None:
            disk.failing = ""
            self._back(name)

        return end

    def _stale_disk(self, fault: Fault) -> Callable[[], None]:
        """A copy of the disk is made now; after its end, once that may be, the machine goes down and comes back with it, in the life after
        that of the copy."""
        (name,) = fault.nodes
        host = self._world.hosts[name]
        life, image = host.life, host.disk.image()

        def end() -> None:
            if host.up and host.life == life and may_forget(self._world, name, image):
                self._world.put_back(name, image)
                self._world.after(0.1 + fault.amount, lambda: self._back(name))
            elif host.up and host.life == life and self._reporting:
                self._world.after(LOOK_S, end)
            else:
                self.done[fault.kind] -= 1  # it was none

        return end

    # ---- aimed at who owns something

    def _pause_manager(self, fault: Fault) -> Callable[[], None] | None:
        return self._pause_one(_drawn(self._managers(), fault.amount))

    def _pause_holder(self, fault: Fault) -> Callable[[], None] | None:
        return self._pause_one(_drawn(self._holders(), fault.amount))

    def _pause_one(self, name: NodeId) -> Callable[[], None] | None:
        if not name:
            return None
        self._world.freeze(name)
        return lambda: self._world.thaw(name)

    def _cut_manager(self, fault: Fault) -> Callable[[], None] | None:
        """A manager with a minority: alone, or, where there are enough others, with one beside him."""
        manager = _drawn(self._managers(), fault.amount)
        if not manager:
            return None
        others = self._others((manager,))
        side = (manager, _drawn(others, (7 * fault.amount) % 1)) if len(others) >= 3 and fault.amount < 0.5 else (manager,)
        return self._partition(Fault(fault.at_s, fault.kind, side, fault.span_s, fault.amount))

    def _managers(self) -> list[NodeId]:
        """Who manages most comes first."""
        living = [host for host in self._world.living() if not host.frozen]
        live = {host.name: host.assembly.manager.statistics().live for host in living}
        return sorted((name for name in live if live[name]), key=lambda name: (-live[name], name))

    def _holders(self) -> list[NodeId]:
        running = {host.name: sum(len(worker.running) for worker in host.workers.values()) for host in self._world.living()}
        return sorted((name for name in running if running[name]), key=lambda name: (-running[name], name))

    def _late_effect(self, fault: Fault) -> Callable[[], None]:
        """Handlers there stop between the look at their lease and what they do then, as a machine does that is out of memory."""
        host = self._world.hosts[fault.nodes[0]]
        host.effect_late_s = fault.amount
        return lambda: setattr(host, "effect_late_s", 0.0)

    def _false_alarm(self, fault: Fault) -> Callable[[], None] | None:
        """A node is told that one which holds work is gone, and a little later that it is not: a second award while the first stands."""
        (name,) = fault.nodes
        world = self._world
        holder = _drawn([one for one in self._holders() if one != name], fault.amount)
        if not holder or not world.hosts[name].up:
            return None
        alarms = (MemberSuspected(holder, False), MemberUnreachable(holder), MemberDied(holder))
        world.push(world.now_s, name, name, alarms[int(3 * ((5 * fault.amount) % 1))])
        return lambda: world.push(world.now_s, name, name, MemberAlive(holder))

    # ---- trust

    def _revoke(self, fault: Fault) -> None:
        """The first node loses its certificate; the second, or whoever runs instead of it, is told first."""
        victim, *_ = fault.nodes
        if not is_whole(self._world) or not is_kept(self._world, victim):
            return
        for name in (*fault.nodes[1:], *self._world.names):
            if name != victim and self._world.hosts[name].up and not self._world.hosts[name].frozen:
                self._world.revoke(victim, name)
                return

    # ---- workers

    def _worker_crash(self, fault: Fault) -> Callable[[], None]:
        (name,) = fault.nodes
        workers: list[Worker] = list(self._world.hosts[name].workers.values())
        for worker in workers:
            worker.die()
        return lambda: self._revive(name)
