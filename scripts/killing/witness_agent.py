"""The ready-made agents that $KILLS_AGENTS names, unchanged but for this: what they do leaves lines in $KILLS_LEDGER, outside the mesh.

start|end TASK FENCE PID SECONDS        a handler begins, and is done
deed|known TASK FENCE PID SECONDS       what a keyed effect does to the world, and that its handler was told what is on record
"""

import importlib
import os
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from mesh import Agent, Context
from mesh.agent import Capability
from mesh.capture import current

LEDGER = os.environ["KILLS_LEDGER"]


def write(what: str, task: str, fence: int) -> None:
    line = f"{what} {task} {fence} {os.getpid()} {time.clock_gettime(time.CLOCK_MONOTONIC)}\n"
    handle = os.open(LEDGER, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(handle, line.encode())  # one write: a kill leaves it whole or leaves it out
    finally:
        os.close(handle)


def note(what: str) -> None:
    run: Any = current.get()
    write(what, run.task, run.fence)


def witnessed(capability: Capability) -> Capability:
    function = capability.function

    async def later(**arguments: Any) -> Any:
        note("start")
        result = await function(**arguments)
        note("end")
        return result

    def now(**arguments: Any) -> Any:
        note("start")
        result = function(**arguments)
        note("end")
        return result

    return replace(capability, function=later if capability.is_async else now)


bare = Context.effect


async def effect(self: Context, key: str, function: Callable[[], Any], **how: Any) -> Any:
    def deed() -> Any:
        write("deed", self.task.id, self.task.fence)
        return function()

    outcome = await bare(self, key, deed, **how)
    write("known", self.task.id, self.task.fence)
    return outcome


Context.effect = effect  # type: ignore[method-assign, assignment]


def load(name: str) -> Agent:
    agent: Agent = importlib.import_module(f"mesh_agents.{name}").agent
    for each, capability in agent.capabilities.items():
        agent.capabilities[each] = witnessed(capability)
    return agent


globals().update({f"agent_{name}": load(name) for name in os.environ["KILLS_AGENTS"].split()})
