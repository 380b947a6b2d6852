"""One rehearsal of a flow: the interpreter that drives real flows, on full nodes in virtual time, over crews that only take time.

    flow --mesh.flow--> its driver's node --steps--> negotiated, placed, queued, tried again as ever --> crews --> Outcome

Invariant: the same model, flow and seed give the same outcome: what a piece of work takes is drawn from the seed, its name and its attempt,
never from the order in which things happened.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from random import Random
from typing import Any

from mesh import Agent, Context
from mesh.client import Task
from mesh.effects import Execute
from mesh.errors import MeshError, TaskFailed
from mesh.flows.inputs import input_of
from mesh.flows.interpreter import interpret
from mesh.flows.reading import flow_from
from mesh.flows.spec import FLOW, document
from mesh.rehearsal.crew import Deed
from mesh.rehearsal.flowing import Rehearsable
from mesh.rehearsal.ledger import Ledger, Work
from mesh.rehearsal.model import Crew, Fault, Model
from mesh.rehearsal.outcome import Outcome, since
from mesh.rehearsal.stage import QUIET_S, SETTLE_S, Stage, limits_of
from mesh.sim.history import History
from mesh.testing import LocalMesh

LOOK_S = 10.0


@dataclass(frozen=True, slots=True)
class Known:
    """What a recorded run says of one piece of work."""

    seconds: float | None = None
    output: bytes = b"null"
    outcome: str = "ok"


class FlowDeeds:
    """What becomes of each piece of a flow's work."""

    def __init__(self, model: Model, seed: int, ledger: Ledger, recorded: Mapping[str, Known]) -> None:
        self._model, self._seed, self._ledger, self._recorded = model, seed, ledger, recorded
        self.began, self.ended = ledger.began, ledger.ended

    def deed(self, execute: Execute, crew: Crew) -> Deed:
        work = self._ledger.work(execute.task, execute.capability)
        chance = Random(f"{self._seed}/{self._path(work)}/{execute.attempt}")
        known = self._recorded.get(work.step) if self._is_own(work) else None
        drawn, failing = chance.random(), chance.random()
        service = self._model.takes(crew, execute.capability)
        seconds = service.draw(drawn) if service is not None else 0.0
        if known is not None and known.seconds is not None:
            seconds = known.seconds
        if known is not None:
            return Deed(seconds, known.outcome, known.output)
        capability = self._model.capability(execute.capability)
        return Deed(seconds, "error" if capability is not None and failing < capability.fails else "ok")

    def _is_own(self, work: Work) -> bool:
        """Of the flow itself, not of one inside it, whose steps may be called the same."""
        above = self._ledger.works.get(work.parent)
        return above is not None and not above.parent

    def _path(self, work: Work) -> str:
        names = [work.step]
        while (above := self._ledger.works.get(work.parent)) is not None:
            work = above
            names.append(work.step)
        return "/".join(names)


def rehearse_flow(made: Rehearsable, model: Model, seed: int, recorded: Mapping[str, Known] | None = None) -> Outcome:
    """Until it has ended, or never will."""
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):  # what drivers log
        return asyncio.run(_rehearsed(made, model.checked(), seed, recorded or {}))


async def _rehearsed(made: Rehearsable, model: Model, seed: int, recorded: Mapping[str, Known]) -> Outcome:
    start_s = model.overheads.driver_s
    drivers = {node.name: [_driver(0.0 if node.warm else start_s)] for node in model.nodes}
    m = LocalMesh(nodes=drivers, seed=seed, limits=limits_of(model))
    ledger = Ledger(lambda: m.now_s)
    m.world.history = History([ledger])
    stage = Stage(m.world, model, FlowDeeds(model, seed, ledger, recorded))
    async with m:
        stage.attach()
        while not stage.all_known():
            await m.sleep(0.05)
        stage.begin_costs()
        await m.sleep(SETTLE_S)
        began_s = m.now_s
        faults = [asyncio.ensure_future(_strike(m, stage, fault)) for fault in model.faults]
        task = await m.submit(FLOW, spec=document(made.flow), input=made.given)
        state, error = await _until_over(m, ledger, task)
        for fault in faults:
            fault.cancel()
        await asyncio.gather(*faults, return_exceptions=True)
        return _outcome(seed, state, error, task.id, ledger, model, began_s, m)


def _driver(start_s: float) -> Agent:
    """As `mesh.flows.agent`, whose process has to be started first."""
    agent = Agent("flows", concurrency=256)
    starts = iter([start_s])

    @agent.capability(name=FLOW, idempotent=True)
    async def run(ctx: Context, spec: dict[str, Any], input: dict[str, Any] | None = None) -> dict[str, Any]:
        if first_s := next(starts, 0.0):
            await ctx.sleep(first_s)
        flow = flow_from(spec)
        return await interpret(flow, input_of(flow, input or {}), ctx)

    return agent


async def _strike(m: LocalMesh, stage: Stage, fault: Fault) -> None:
    await m.sleep(fault.at_s)
    m.kill(fault.node)
    if fault.back_s:
        await m.sleep(fault.back_s)
        m.restart(fault.node)
        stage.attach(fault.node)


async def _until_over(m: LocalMesh, ledger: Ledger, task: Task) -> tuple[str, str]:
    """How it ended. Stuck: no crew works, and nothing has been written down for a while."""
    waiting = asyncio.ensure_future(_end_of(m, task.id))
    try:
        while True:
            looking = asyncio.ensure_future(m.sleep(LOOK_S))
            await asyncio.wait({waiting, looking}, return_when=asyncio.FIRST_COMPLETED)
            if waiting.done():
                looking.cancel()
                await asyncio.gather(looking, return_exceptions=True)
                return waiting.result()
            if not ledger.running and m.now_s > ledger.last_s + QUIET_S:
                return "stuck", ""
    finally:
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)


async def _end_of(m: LocalMesh, task: str) -> tuple[str, str]:
    """Asked again at another node where the one that was asked dies."""
    while True:
        try:
            document = await m._any().result(task)
        except TaskFailed as error:
            return "failed", error.message
        except MeshError:
            await m.sleep(0.5)
            continue
        return str(document["state"]), str((document.get("error") or {}).get("message") or "")


def _outcome(seed: int, state: str, error: str, root: str, ledger: Ledger, model: Model, began_s: float, m: LocalMesh) -> Outcome:
    works = [work for work in ledger.works.values() if work.submitted_s >= began_s]
    whole = ledger.works.get(root)
    end_s = whole.finished_s if whole is not None and whole.finished_s >= 0 else m.now_s
    first_s = whole.submitted_s if whole is not None else began_s
    slots = {node.name: sum(crew.slots for crew in node.crews) for node in model.nodes}
    for work in works:
        since(work, first_s)
    return Outcome(seed, state, end_s - first_s, works, root, error, slots, m.world.trace.events)
