"""A measuring stick for allocation: one trace of tasks, a mesh of full nodes that does it, and a perfect central queue beside it.

    trace (arrival, service) --submitted or called--> mesh, in virtual time --> when each task ended
                             --first come first served, no message takes time--> perfect --> the same
    lower bound of a batch: max(all work / all speed, the longest task on the fastest node)

Each task brings its own service time, so that both do the same work; nobody who decides can see it. Judges nothing: it returns figures.
"""

from __future__ import annotations

import heapq
import json
from collections.abc import Callable
from dataclasses import dataclass
from math import exp, log
from random import Random
from typing import Any

from mesh.core.inputs import Call, Submit
from mesh.limits import Limits
from mesh.sim.labour import Sink, Skill, Worker
from mesh.sim.scenario import names_of
from mesh.sim.world import World

SETTLED_S = 3.0
"""Nodes have met and told their load."""
WORK = "work"
SPREAD = 0.5
"""Of the log-normal service times: their coefficient of variation is 0.53, which is how wrong the average is about a single task."""


@dataclass(frozen=True, slots=True)
class Job:
    at_s: float
    service_s: float
    """On a node of speed 1."""
    manager: int = 0
    """To whom it is given: the index of the node."""


@dataclass(frozen=True, slots=True)
class Measured:
    """Of one trace. Seconds; `response_s` from being asked for to the end of the handler."""

    makespan_s: float
    response_s: tuple[float, ...]


def lognormal(rng: Random, mean_s: float) -> float:
    return mean_s * exp(rng.gauss(0.0, SPREAD) - SPREAD * SPREAD / 2)


def batch(seed: int, count: int, mean_s: float) -> tuple[Job, ...]:
    """All at once, at one node."""
    rng = Random(f"{seed}/batch")
    return tuple(Job(0.0, lognormal(rng, mean_s)) for _ in range(count))


def stream(seed: int, count: int, mean_s: float, load: float, speeds: tuple[float, ...], managers: int) -> tuple[Job, ...]:
    """At chance times, so that `load` of all speed is used; each at one of the first `managers` nodes."""
    rng = Random(f"{seed}/stream")
    rate, at_s, jobs = load * sum(speeds) / mean_s, 0.0, []
    for _ in range(count):
        at_s -= log(1.0 - rng.random()) / rate
        jobs.append(Job(at_s, lognormal(rng, mean_s), int(rng.random() * managers)))
    return tuple(jobs)


def lower_bound_s(jobs: tuple[Job, ...], speeds: tuple[float, ...]) -> float:
    """No schedule of a batch is shorter."""
    return max(sum(job.service_s for job in jobs) / sum(speeds), max(job.service_s for job in jobs) / max(speeds))


def perfect(jobs: tuple[Job, ...], speeds: tuple[float, ...]) -> Measured:
    """One line in front of all nodes, first come first served, the fastest free node next; nothing on the way takes time."""
    free = [(0.0, -speed) for speed in speeds]
    heapq.heapify(free)
    ends, responses = [], []
    for job in jobs:
        idle = [entry for entry in free if entry[0] <= job.at_s]
        free_s, negative = min(idle, key=lambda entry: entry[1]) if idle else free[0]
        free.remove((free_s, negative))
        end_s = max(free_s, job.at_s) + job.service_s / -negative
        free.append((end_s, negative))
        heapq.heapify(free)
        ends.append(end_s)
        responses.append(end_s - job.at_s)
    return Measured(max(ends), tuple(responses))


class Yard:
    """A mesh of nodes with one worker and one slot each, of these speeds."""

    def __init__(
        self, seed: int, speeds: tuple[float, ...], *, durable: bool, limits: Limits | None = None, idempotent: bool = True
    ) -> None:
        self.world = World(names_of(len(speeds)), seed, limits=limits)
        self._durable, self._speeds = durable, speeds
        self._ended: dict[int, float] = {}
        skill = Skill(WORK, 0.1, idempotent=True)
        sink = Sink()
        self.world.start_all()
        for number, (name, speed) in enumerate(zip(self.world.names, speeds, strict=True), 1):
            worker = Worker(self.world, self.world.hosts[name], sink, number, (skill,), 1, speed, over=self._over)
            self.world.at(0.5, worker.attach)
        self.world.run(SETTLED_S)

    def _over(self, argument: Any) -> None:
        self._ended[int(argument)] = self.world.now_s

    def do(self, jobs: tuple[Job, ...], within_s: float = 3600.0) -> Measured:
        """Have it all done. Raises TimeoutError if that takes longer than `within_s`."""
        world, began_s = self.world, self.world.now_s
        self._ended.clear()
        for number, job in enumerate(jobs):
            world.at(began_s + job.at_s, self._asking(number, job))
        while len(self._ended) < len(jobs):
            if world.now_s > began_s + within_s:
                raise TimeoutError(f"{len(jobs) - len(self._ended)} of {len(jobs)} tasks have not ended after {within_s} s")
            world.run(world.now_s + 0.5)
        ends = [self._ended[number] - began_s for number in range(len(jobs))]
        return Measured(max(ends), tuple(end_s - job.at_s for end_s, job in zip(ends, jobs, strict=True)))

    def _asking(self, number: int, job: Job) -> Callable[[], None]:
        data = json.dumps({"x": str(number), "s": job.service_s}).encode()

        def ask() -> None:
            kind = Submit if self._durable else Call
            self.world.ask(self.world.names[job.manager], lambda request: kind(request, WORK, data))

        return ask


def percentile(values: tuple[float, ...], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]
