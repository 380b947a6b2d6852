"""Faults: an explicit list drawn from the seed, so that a failure can be told, replayed and made smaller.

Swarm: each seed first draws which kinds are on and how hard; "everything always" hides bugs. Single-node isolation comes first among the
partitions: most failures in life need only that. Some kinds are *aimed*: which node they hit is seen when they begin (`injector.py`), for
a pause or a cut threatens ownership only where somebody owns something. Every fault ends before the storm does, or with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from random import Random

from mesh.ids import NodeId

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
    "pause_manager",
    "pause_holder",
    "cut_manager",
    "late_effect",
    "false_alarm",
    "replay",
    "disk_full",
    "sync_error",
    "stale_disk",
)
AIMED = ("pause_manager", "pause_holder", "cut_manager")
"""At whoever manages, or runs, work when they begin."""

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


def draw(
    rng: Random, names: tuple[NodeId, ...], kinds: tuple[str, ...], until_s: float, *, swarm: bool = True, hard: float = 1.0
) -> tuple[Fault, ...]:
    """The schedule of one seed, in order of time. With `swarm` about half of `kinds` are on, each with a rate of its own, times `hard`."""
    on = [kind for kind in kinds if not swarm or len(kinds) == 1 or rng.random() < 0.5]
    faults: list[Fault] = []
    for kind in on:
        if kind == "revoke":
            faults.extend(_draw_revocation(rng, names, until_s))
            continue
        rate = hard * 0.02 * 4 ** rng.random() * (1 if kind in _GLOBAL else len(names) ** 0.5)
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
_GLOBAL = ("delay", "loss", "duplicate", "reorder", "partition", "replay", "stale_disk")


def _draw_one(rng: Random, names: tuple[NodeId, ...], kind: str, at_s: float, until_s: float) -> Fault:
    low, high = _SPANS[kind]
    span_s = min(low * (high / low) ** rng.random(), until_s - at_s)
    nodes: tuple[NodeId, ...] = (rng.choice(names),)
    if kind == "partition" and rng.random() < 0.4 and len(names) > 3:
        nodes = tuple(sorted(rng.sample(names, rng.randint(2, len(names) // 2))))
    elif kind in ("one_way", "stall") and rng.random() < 0.6:
        nodes = tuple(rng.sample(names, min(2, len(names))))
    elif kind in ("delay", "loss", "duplicate", "reorder", "replay", *AIMED):
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
    "pause_manager": (1.0, 12.0),
    "pause_holder": (1.0, 12.0),
    "cut_manager": (1.0, 20.0),
    "late_effect": (0.5, 5.0),
    "false_alarm": (0.1, 5.0),
    "replay": (1.0, 20.0),
    "disk_full": (0.1, 8.0),
    "sync_error": (0.05, 3.0),
    "stale_disk": (3.0, 20.0),
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
    "pause_manager": lambda rng: rng.random(),
    "pause_holder": lambda rng: rng.random(),
    "cut_manager": lambda rng: rng.random(),
    "late_effect": _log_uniform(0.1, 8.0),
    "false_alarm": lambda rng: rng.random(),
    "replay": _log_uniform(0.01, 5.0),
    "disk_full": lambda rng: 0.0,
    "sync_error": lambda rng: 0.0,
    "stale_disk": lambda rng: rng.random(),
}
