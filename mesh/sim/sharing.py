"""Users who share values: they open states by name, read, write, write over a version they have read, and delete, through any node.

What is not answered, or refused, is said again, often through another node, under the same event: so a checker can tell whether it counted
once. Draws from its own stream, so a run without them is what it was before there were any.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from mesh.core.inputs import Enquire, Submit
from mesh.ids import NodeId, TaskId
from mesh.messages.scopes import STATE, scope_key
from mesh.sim.history import Asked, Touched
from mesh.sim.workload import Wish
from mesh.sim.world import World

SCOPES = ("prices", "limits")
PLACES = ("a", "b", "c")
AGAIN_S = 3.0
TRIES_MAX = 12
FINAL_S = 10.0


@dataclass(frozen=True, slots=True)
class Touch:
    """One reading or writing of a value. `event` "": a reading. `value` None: delete. `over`: the version it must stand at; -1: any."""

    scope: str
    place: str
    event: str = ""
    value: str | None = None
    over: int = -1
    final: bool = False
    """After all faults: it has to be answered."""


class Sharers:
    """`rate` readings and writings per second, until `until_s`."""

    def __init__(self, world: World, *, rate: float, until_s: float) -> None:
        self._world, self._rate, self._until_s = world, rate, until_s
        self._rng = world.rng("sharers")
        self._count = 0
        self._tasks: dict[str, TaskId] = {}
        self._read: dict[tuple[str, str], int] = {}
        """The newest version that somebody has read."""
        self._done: dict[str, None] = {}
        if rate:
            world.at(1.0, self._next)

    def _next(self) -> None:
        world, rng = self._world, self._rng
        if world.now_s >= self._until_s:
            return
        scope, place = rng.choice(SCOPES), rng.choice(PLACES)
        if scope not in self._tasks:
            self._open(scope)
        elif rng.random() < 0.4:
            self._touch(Touch(scope, place), 1)
        else:
            self._count += 1
            version = self._read.get((scope, place), 0)
            over = version if rng.random() < 0.6 else -1
            value = None if over > 0 and rng.random() < 0.2 else f"v{self._count}"
            self._touch(Touch(scope, place, f"e{self._count}", value, over), TRIES_MAX)
        world.after(rng.expovariate(self._rate), self._next)

    def _open(self, scope: str) -> None:
        node, data, key = self._rng.choice(self._world.names), json.dumps({"name": scope}).encode(), scope_key(scope)

        def answered(ok: bool, body: dict[str, Any]) -> None:
            if ok:
                self._tasks[scope] = body["task"]

        request = self._world.ask(node, lambda number: Submit(number, STATE, data, key=key), answered)
        if request:
            self._world.history.add(Asked(self._world.now_s, node, request, Wish(node, STATE, scope, True, None, key)))

    def _touch(self, touch: Touch, tries: int) -> None:
        if tries <= 0 or touch.event in self._done:
            return
        node = self._rng.choice(self._world.names)
        args: dict[str, Any] = {"key": touch.place}
        if touch.event:
            args |= {"event": touch.event, "if_version": touch.over}
            args |= {"delete": True} if touch.value is None else {"value": touch.value}

        def answered(ok: bool, body: dict[str, Any]) -> None:
            if ok and touch.event:
                self._done[touch.event] = None
            elif ok:
                self._read[touch.scope, touch.place] = body["version"]
            elif body.get("code") == "version_conflict":
                self._done[touch.event] = None

        self._say(node, touch, args, answered)
        if touch.event:
            self._world.after(AGAIN_S * (0.2 + self._rng.random()), lambda: self._touch(touch, tries - 1))

    def _say(self, node: NodeId, touch: Touch, args: dict[str, Any], answered: Any) -> None:
        task, question = self._tasks[touch.scope], "write" if touch.event else "read"
        request = self._world.ask(node, lambda number: Enquire(number, question, task, args), answered)
        if request:
            self._world.history.add(Touched(self._world.now_s, node, request, touch))

    def last_look(self) -> None:
        """Everything is calm: what stands everywhere, as every node says."""
        for scope, task in self._tasks.items():
            if task.partition(".")[0] in self._world.revoked or task in self._world.old_disks:
                continue
            for place in PLACES:
                for host in self._world.living():
                    if host.name not in self._world.revoked:
                        self._say(host.name, Touch(scope, place, final=True), {"key": place}, lambda ok, body: None)
        if self._tasks:
            self._world.run(self._world.now_s + FINAL_S)
