"""Users who submit under keys: many at once under one, on all nodes, and again later.

Draws from its own stream, so a run without keys is what it was before there were any.
"""

from __future__ import annotations

import json
from typing import Any

from mesh.core.inputs import Submit
from mesh.sim.history import Asked
from mesh.sim.labour import expected
from mesh.sim.workload import SKILLS, Clients, Wish
from mesh.sim.world import World

CROWD = 6
"""Submits of one key at about the same time."""
AGAIN_S = 20.0
"""And one more up to so much later."""


class KeyedClients:
    """`rate` keys per second, until `until_s`. What was acknowledged is owed like all other work."""

    def __init__(self, world: World, clients: Clients, *, rate: float, until_s: float) -> None:
        self._world, self._clients, self._rate, self._until_s = world, clients, rate, until_s
        self._rng = world.rng("keyed clients")
        self._count = 0
        if rate:
            world.at(1.0, self._next)

    def _next(self) -> None:
        if self._world.now_s >= self._until_s:
            return
        self._count += 1
        key = f"key {self._count}"
        for _ in range(CROWD):
            self._world.after(0.05 * self._rng.random(), lambda: self._submit(key))
        self._world.after(AGAIN_S * self._rng.random(), lambda: self._submit(key))
        self._world.after(self._rng.expovariate(self._rate), self._next)

    def _submit(self, key: str) -> None:
        if self._world.now_s >= self._until_s:
            return
        skill = next(skill for skill in SKILLS if skill.name == "quick")
        wish = Wish(self._rng.choice(self._world.names), skill.name, key, True, expected(skill, key), key)
        data = json.dumps({"x": key}).encode()

        def answered(ok: bool, body: dict[str, Any]) -> None:
            if ok:
                self._clients.acknowledged.setdefault(body["task"], wish)

        request = self._world.ask(wish.node, lambda number: Submit(number, wish.capability, data, key=key), answered)
        if request:
            self._world.history.add(Asked(self._world.now_s, wish.node, request, wish))
