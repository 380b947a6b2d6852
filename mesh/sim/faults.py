"""Faults: an explicit list drawn from the seed, so that a failure can be told, replayed and made smaller.

Swarm: each seed first draws which kinds are on and how hard; "everything always" hides bugs. Single-node isolation comes first among the
partitions: most failures in life need only that. Every fault ends before the storm does, or with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from random import Random

from mesh.ids import NodeId
from mesh.sim.history import ClockBroken
from mesh.sim.labour import Worker
from mesh.sim.world import World

KINDS = (
    "delay",
    "loss",
    "duplicate",
    "reorder",
    "one_way",
    "partition",
    "stall",
    "crash",
    "crash_lose_tail",
    "pause",
    "slow_node",
    "slow_disk",
    "clock_offset",
    "clock_step",
    "clock_rate",
    "worker_crash",
    "revoke",
)

DRIFT = 0.01
"""The declared bound: within it leases alone keep two holders apart."""


@dataclass(frozen=True, slots=True)
class Fault:
    """`nodes`: whom it hits (one side of a cut). `amount` is seconds, a chance or a rate, as the kind needs it."""

    at_s: float
    kind: str
    nodes: tuple[NodeId, ...]
    span_s: float
    amount: float

    def __str__(self) -> str:
        return f"{self.at_s:.3f} {self.kind} {','.join(self.nodes)} for {self.span_s:.3f} s, {self.amount:.4g}"


def parse(text: str) -> tuple[str, ...]:
    """``all``, ``none`` or names with commas between. Raises ValueError naming what is unknown and what there is."""
    if text == "all":
        return KINDS
    if text in ("none", ""):
        return ()
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",")))
    unknown = [name for name in names if name not in KINDS]
    if unknown:
        raise ValueError(f"unknown fault {', '.join(map(repr, unknown))}; there are: {', '.join(KINDS)}")
    return names


def draw(rng: Random, names: tuple[NodeId, ...], kinds: tuple[str, ...], until_s: float, *, swarm: bool = True) -> tuple[Fault, ...]:
    """The schedule of one seed, in order of time. With `swarm` about half of `kinds` are on, each with a rate of its own."""
    on = [kind for kind in kinds if not swarm or len(kinds) == 1 or rng.random() < 0.5]
    faults: list[Fault] = []
    for kind in on:
        if kind == "revoke":
            faults.extend(_draw_revocation(rng, names, until_s))
            continue
        rate = 0.02 * 4 ** rng.random() * (1 if kind in _GLOBAL else len(names) ** 0.5)
        at_s = _START_S + rng.expovariate(rate)
        if kind == "clock_offset":
            faults.extend(Fault(0.0, kind, (name,), until_s, rng.uniform(-3600, 3600)) for name in names)
            continue
        while at_s < until_s:
            faults.append(_draw_one(rng, names, kind, at_s, until_s))
            at_s += rng.expovariate(rate)
    return tuple(sorted(faults, key=lambda fault: (fault.at_s, fault.kind, fault.nodes)))


def _draw_revocation(rng: Random, names: tuple[NodeId, ...], until_s: float) -> Iterable[Fault]:
    """At most one a run, and not in the smallest meshes: it is for good."""
    if len(names) >= 3:
        yield Fault(rng.uniform(_START_S, max(_START_S, 0.7 * until_s)), "revoke", tuple(rng.sample(names, 2)), 0.0, 0.0)


_START_S = 2.0
_GLOBAL = ("delay", "loss", "duplicate", "reorder", "partition")


def _draw_one(rng: Random, names: tuple[NodeId, ...], kind: str, at_s: float, until_s: float) -> Fault:
    low, high = _SPANS[kind]
    span_s = min(low * (high / low) ** rng.random(), until_s - at_s)
    nodes: tuple[NodeId, ...] = (rng.choice(names),)
    if kind == "partition" and rng.random() < 0.4 and len(names) > 3:
        nodes = tuple(sorted(rng.sample(names, rng.randint(2, len(names) // 2))))
    elif kind in ("one_way", "stall") and rng.random() < 0.6:
        nodes = tuple(rng.sample(names, min(2, len(names))))
    elif kind in ("delay", "loss", "duplicate", "reorder"):
        nodes = ()
    return Fault(at_s, kind, nodes, span_s, _AMOUNTS[kind](rng))


_SPANS: dict[str, tuple[float, float]] = {
    "delay": (1.0, 20.0),
    "loss": (1.0, 20.0),
    "duplicate": (1.0, 20.0),
    "reorder": (1.0, 20.0),
    "one_way": (0.2, 15.0),
    "partition": (0.2, 20.0),
    "stall": (0.1, 3.5),
    "crash": (0.05, 10.0),
    "crash_lose_tail": (0.05, 10.0),
    "pause": (0.1, 10.0),
    "slow_node": (1.0, 10.0),
    "slow_disk": (1.0, 10.0),
    "clock_step": (0.1, 0.1),
    "clock_rate": (1.0, 30.0),
    "worker_crash": (0.05, 2.0),
}


def _log_uniform(low: float, high: float) -> Callable[[Random], float]:
    return lambda rng: low * (high / low) ** rng.random()


def _rate(rng: Random) -> float:
    """Mostly within the declared drift; one in five far outside."""
    return 0.5 * 4 ** rng.random() if rng.random() < 0.2 else 1 + rng.uniform(-DRIFT, DRIFT) * 0.9


_AMOUNTS: dict[str, Callable[[Random], float]] = {
    "delay": _log_uniform(0.005, 0.3),
    "loss": _log_uniform(0.01, 0.2),
    "duplicate": _log_uniform(0.01, 0.3),
    "reorder": _log_uniform(0.001, 0.05),
    "one_way": lambda rng: 0.0,
    "partition": lambda rng: 0.0,
    "stall": lambda rng: 0.0,
    "crash": lambda rng: rng.random(),
    "crash_lose_tail": lambda rng: rng.random(),
    "pause": lambda rng: rng.random(),
    "slow_node": _log_uniform(0.0002, 0.004),
    "slow_disk": _log_uniform(0.01, 1.0),
    "clock_step": lambda rng: rng.uniform(-3600, 3600),
    "clock_rate": _rate,
    "worker_crash": lambda rng: 0.0,
}


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
        self._world.trace.note(self._world.now_s, str(fault))
        self.done[fault.kind] = self.done.get(fault.kind, 0) + 1
        end = getattr(self, f"_{fault.kind}")(fault)
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

    # ---- trust

    def _revoke(self, fault: Fault) -> None:
        """The first node loses its certificate; the second, or whoever runs instead of it, is told first."""
        victim, *_ = fault.nodes
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
