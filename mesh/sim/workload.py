"""What users do during a run: they submit, call, wait, ask and cancel, on any node, and notice what they were promised.

Draws from its own stream. Every submission whose answer came is *acknowledged*; the ownership checkers hold the mesh to that.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from mesh.core.inputs import Call, Enquire, Submit
from mesh.ids import NodeId, TaskId
from mesh.messages.work import Placement
from mesh.sim.history import Asked
from mesh.sim.labour import Sink, Skill, Worker, expected
from mesh.sim.world import World

SKILLS = (
    Skill("quick", 0.005, idempotent=True),
    Skill("count", 0.05, idempotent=True, fail_rate=0.1, retries=4),
    Skill("effect", 0.3, spread=0.8),
    Skill("long", 2.0, spread=0.7),
    Skill("priced", 0.05, priced=True),
    Skill("brittle", 0.02, fail_rate=0.5, retries=1),
    Skill("flow", 0.01, steps=("quick", "effect", "count")),
    Skill("keyed", 0.1, fail_rate=0.2, retries=3, keys=("mail", "bill")),
    Skill("once", 0.1, fail_rate=0.2, retries=3, keys=("pay",), once=True),
)
PICKY = (
    Skill("bake", 0.4, idempotent=True, needs=(("oven", 1000),)),
    Skill("roast", 0.2, needs=(("oven", 400),)),
    Skill("near", 0.1, where=("zone=eu",)),
    Skill("grill", 0.1, idempotent=True, needs=(("oven", 500),), where=("oven", "zone=us")),
    Skill("ragged", 0.05, spread=1.2, idempotent=True, hedge=True),
)
"""What runs only where it fits, or twice if it is slow. In a run that names one, every second node is in zone eu, the rest in us, and all
but one have an oven."""
RARE = ("priced", "flow", "brittle")
"""Not on every node."""


@dataclass(frozen=True, slots=True)
class Wish:
    """One task that a client wanted."""

    node: NodeId
    capability: str
    argument: str
    durable: bool
    expected: Any
    """What its result must be."""
    key: str = ""
    """Under which it was submitted."""


class Staff:
    """The workers of all hosts: who offers what, how fast, and bringing them back after faults."""

    def __init__(self, world: World, skills: tuple[Skill, ...] = SKILLS) -> None:
        self._world = world
        self._skills = skills
        self._picky = any(skill in PICKY for skill in skills)
        self.sink = Sink()
        self._workers: dict[NodeId, list[Worker]] = {name: [] for name in world.names}
        self._count = 0
        self._rng = world.rng("staff")
        self._shape: dict[NodeId, tuple[tuple[Skill, ...], int, float]] = {}
        for at, name in enumerate(world.names):
            mine = tuple(skill for skill in skills if skill.name not in RARE or at < 2 or self._rng.random() < 0.4)
            self._shape[name] = (mine, self._rng.randint(1, 4), self._rng.choice((1.0, 1.0, 2.0, 4.0)))

    def revive(self, name: NodeId) -> None:
        """Attach what still lives to the node that runs now, or start anew if nothing does. Takes the moment a process takes."""
        self._world.after(0.01 + 0.1 * self._rng.random(), lambda: self._revive(name))

    def _revive(self, name: NodeId) -> None:
        host = self._world.hosts[name]
        if not host.up:
            return
        living = [worker for worker in self._workers[name] if worker.alive]
        if not living:
            skills, concurrency, speed = self._shape[name]
            self._count += 1
            labels, resources = self._machine(name)
            skills = tuple(skill for skill in skills if not skill.needs or resources)
            living = [Worker(self._world, host, self.sink, self._count, skills, concurrency, speed, labels=labels, resources=resources)]
        self._workers[name] = living
        for worker in living:
            if host.workers.get(worker.number) is not worker:
                worker.attach()

    def _machine(self, name: NodeId) -> tuple[tuple[str, ...], tuple[tuple[str, int], ...]]:
        """Its labels and resources."""
        at = self._world.names.index(name)
        if not self._picky:
            return (), ()
        zone = f"zone={('eu', 'us')[at % 2]}"
        return ((zone,), ()) if not at else (("oven=gas", zone), (("oven", 1000),))

    def skill(self, name: str) -> Skill:
        return next(skill for skill in self._skills if skill.name == name)


def _heard(_ok: bool, _body: dict[str, Any]) -> None:
    """Of a call it counts only that it is answered; with what, the checkers look at."""


class Clients:
    """`rate` wishes per second over the whole mesh, until `until_s`."""

    def __init__(
        self, world: World, *, rate: float, until_s: float, capabilities: tuple[str, ...], skills: tuple[Skill, ...] = SKILLS
    ) -> None:
        self._world = world
        self._rng = world.rng("clients")
        self._rate = rate
        self._until_s = until_s
        self._capabilities = capabilities
        self._skills = {skill.name: skill for skill in skills}
        self._count = 0
        self.wishes: dict[int, Wish] = {}
        self.acknowledged: dict[TaskId, Wish] = {}
        self.cancelled: dict[TaskId, None] = {}
        world.at(1.0, self._next)

    def _next(self) -> None:
        if self._world.now_s >= self._until_s:
            return
        self._wish()
        if self._rng.random() < 0.15 and self.acknowledged:
            self._curious()
        self._world.after(self._rng.expovariate(self._rate), self._next)

    def _wish(self) -> None:
        rng = self._rng
        self._count += 1
        argument = str(self._count)
        data = json.dumps({"x": argument}).encode()
        node, capability = rng.choice(self._world.names), rng.choice(self._capabilities)
        durable = rng.random() < 0.7
        wish = Wish(node, capability, argument, durable, expected(self._skills[capability], argument))
        timeout_ms = rng.choice((0, 0, 0, 20_000))
        placement = Placement(self._skills[capability].where, hedge=self._skills[capability].hedge)
        if durable:
            request = self._world.ask(
                node,
                lambda number: Submit(number, capability, data, timeout_ms, placement=placement),
                lambda ok, body: self._acked(wish, ok, body),
            )
        else:
            request = self._world.ask(
                node, lambda number: Call(number, capability, data, timeout_ms or 30_000, placement=placement), _heard
            )
        if request:
            self.wishes[request] = wish
            self._world.history.add(Asked(self._world.now_s, node, request, wish))

    def _acked(self, wish: Wish, ok: bool, body: dict[str, Any]) -> None:
        if ok:
            self.acknowledged[body["task"]] = wish

    def _curious(self) -> None:
        """Ask about some task from any node, or cancel it."""
        rng = self._rng
        task = rng.choice(list(self.acknowledged))
        node = rng.choice(self._world.names)
        question = rng.choice(("task", "result", "tasks", "story", "cancel"))
        if question == "cancel":
            self.cancelled[task] = None
        args = {"by": "a client", "reason": "changed my mind"} if question == "cancel" else {}
        self._world.ask(node, lambda number: Enquire(number, question, "" if question == "tasks" else task, args))
