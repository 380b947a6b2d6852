"""Runs cases in one mesh of five at a time, kills a node now and then, and has every case judged."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from random import Random
from typing import Any

from graphs.generate import Case, case
from graphs.judge import Event, Kill, faults
from mesh import Agent, Context
from mesh.client import Mesh
from mesh.errors import NoNode, NoSuchTask, TaskFailed, TimedOut
from mesh.flows.agent import FLOW
from mesh.flows.agent import agent as flows
from mesh.flows.checks import checked
from mesh.flows.spec import document
from mesh.testing import LocalMesh

NODES = ("n1", "n2", "n3", "n4", "n5")


class Campaign:
    """`kills`: how many nodes die while the lot runs; one at a time, each back after a while."""

    def __init__(self, seeds: range, *, kills: int) -> None:
        self._cases = {seed: case(seed) for seed in seeds}
        self._kills_wanted = kills
        self._random = Random(seeds.start)
        self.events: dict[int, list[Event]] = {seed: [] for seed in seeds}
        self.kills: list[Kill] = []
        self.found: dict[int, list[str]] = {}
        self._mesh: LocalMesh

    async def run(self) -> dict[int, list[str]]:
        """The faults of each case that has any."""
        async with LocalMesh(nodes={name: [self._worker(name), flows] for name in NODES}, seed=self._random.randint(1, 1 << 30)) as mesh:
            self._mesh = mesh
            await asyncio.gather(self._kill(), *(self._judge(each) for each in self._cases.values()))
        return {seed: found for seed, found in self.found.items() if found}

    def _worker(self, node: str) -> Agent:
        agent = Agent("worker", concurrency=64)

        def note(what: str, case: int, work: str) -> None:
            self.events[case].append(Event(self._mesh.now_s, what, work, node))

        async def perform(ctx: Context, case: int, step: str, index: int | None, suffix: str = "") -> dict[str, Any]:
            it = self._cases[case]
            known = it.flow.step(step)
            many = "" if index is None else f"[{index}]" if known is not None and known.map is not None else f"#{index + 1}"
            work = f"{step}{many}{suffix}"
            note("begin", case, work)
            await ctx.sleep(it.seconds.get(f"{step}{many}", 0.05))
            if work in it.fails:
                note("fail", case, work)
                raise ValueError(f"{work} fails")
            note("done", case, work)
            return {"turn": (index or 0) + 1, "until": it.turns.get(step, 1)}

        @agent.capability(idempotent=True)
        async def work(ctx: Context, case: int, step: str, index: int | None, takes: dict[str, Any]) -> dict[str, Any]:
            return await perform(ctx, case, step, index)

        @agent.capability(idempotent=True)
        async def instead(ctx: Context, case: int, step: str, index: int | None, takes: dict[str, Any]) -> dict[str, Any]:
            return await perform(ctx, case, step, index, "/fallback")

        @agent.capability(idempotent=True)
        async def undo(ctx: Context, case: int, step: str, index: int | None, takes: dict[str, Any]) -> dict[str, Any]:
            return await perform(ctx, case, step, index, "/undo")

        return agent

    async def _judge(self, it: Case) -> None:
        await self._mesh.sleep(Random(it.seed).random() * (2 + 6 * self._kills_wanted))
        given = {f"go_{name}": go for name, go in it.conditions.items()}
        task = await self._patiently(lambda m: m.options(key=f"case/{it.seed}").submit(FLOW, spec=document(checked(it.flow)), input=given))
        outcome, error = {}, ""
        try:
            outcome = self._mesh.at("n1").value_of(await self._patiently(lambda m: m.result(task.id)))
        except TaskFailed as failed:
            error = failed.message
        self.found[it.seed] = faults(it, outcome, error, self.events[it.seed], self.kills)

    async def _patiently(self, ask: Callable[[Mesh], Awaitable[Any]]) -> Any:
        """Ask another node where one went down, or knows too little yet."""
        while True:
            try:
                return await ask(self._mesh._any())
            except (NoNode, NoSuchTask, TimedOut):
                await self._mesh.sleep(0.5)

    async def _kill(self) -> None:
        for _ in range(self._kills_wanted):
            await self._mesh.sleep(self._random.uniform(0.5, 3))
            node = self._victim()
            self.kills.append(Kill(self._mesh.now_s, node))
            self._mesh.kill(node)
            await self._mesh.sleep(self._random.uniform(1, 4))
            self._mesh.restart(node)
            await self._mesh.sleep(3)  # its keepers are back before the next one goes

    def _victim(self) -> str:
        """As a rule the node that drives most flows."""
        if self._random.random() < 0.3:
            return self._random.choice(NODES)
        driven = {name: sum(len(one.runner.held()) for one in self._mesh._attachments[name] if one._agent is flows) for name in NODES}
        return max(NODES, key=lambda name: driven[name])
