"""Tasks that wait for people, and the people: they approve gates and send signals, from any node, again until they are heard.

Every tenth answer is said twice, and a signal that was acknowledged is never sent again: if it were lost, its task would wait for ever,
and the checker of endings says so.
"""

from __future__ import annotations

import json
from typing import Any

from mesh.core.inputs import Enquire, Submit
from mesh.core.work.gates import verdict_of
from mesh.ids import TaskId
from mesh.messages.signed import Signed
from mesh.sim.history import Asked
from mesh.sim.labour import Skill, expected
from mesh.sim.wait_steps import GATE, PAUSE, SIGNAL
from mesh.sim.workload import Clients, Wish
from mesh.sim.world import World

ASKING = Skill("asking", 0.01, idempotent=True, steps=(GATE, "quick", SIGNAL, PAUSE))
LOOK_S = 0.7
TWICE = 0.1


class People:
    """`rate` tasks per second that wait, until `until_s`; what they wait for comes as long as the run lasts."""

    def __init__(self, world: World, clients: Clients, *, rate: float, until_s: float) -> None:
        self._world, self._clients, self._rate, self._until_s = world, clients, rate, until_s
        self._rng = world.rng("people")
        self._count = 0
        self._untold: dict[TaskId, str] = {}
        """Tasks whose signal nobody has acknowledged yet, and its value."""
        if rate:
            world.at(1.0, self._next)
            world.at(1.5, self._look)

    def _next(self) -> None:
        world, rng = self._world, self._rng
        if world.now_s >= self._until_s:
            return
        self._count += 1
        argument = f"a{self._count}"
        wish = Wish(rng.choice(world.names), ASKING.name, argument, True, expected(ASKING, argument))

        def answered(ok: bool, body: dict[str, Any]) -> None:
            if ok:
                self._clients.acknowledged[body["task"]] = wish
                self._untold[body["task"]] = argument

        data = json.dumps({"x": argument}).encode()
        request = world.ask(wish.node, lambda number: Submit(number, wish.capability, data), answered)
        if request:
            world.history.add(Asked(world.now_s, wish.node, request, wish))
        world.after(rng.expovariate(self._rate), self._next)

    def _look(self) -> None:
        world, rng = self._world, self._rng
        at = rng.choice(world.names)
        world.ask(at, lambda number: Enquire(number, "waits"), lambda ok, body: self._approve(ok, body))
        for task, value in list(self._untold.items()):
            if rng.random() < 0.5:
                self._tell(task, value)
        world.after(LOOK_S * (0.5 + rng.random()), self._look)

    def _approve(self, ok: bool, body: dict[str, Any]) -> None:
        for row in body["tasks"] if ok else ():
            for _ in range(1 + (self._rng.random() < TWICE)):
                at = self._rng.choice(self._world.names)
                args = {"approve": True, "person": at, "input": row["input"]}
                verdict = verdict_of(row["task"], args, 0)
                words = (Signed(at, verdict, b"signed"),)
                self._world.ask(at, lambda number, row=row, args=args, words=words: Enquire(number, "answer", row["task"], args, words))  # type: ignore[misc]

    def _tell(self, task: TaskId, value: str) -> None:
        def answered(ok: bool, body: dict[str, Any]) -> None:
            if ok or body.get("code") == "task_ended":
                self._untold.pop(task, None)

        args = {"name": "news", "value": value, "event": f"of {task}"}
        self._world.ask(self._rng.choice(self._world.names), lambda number: Enquire(number, "signal", task, args), answered)
