"""Two nodes: one at a time and many in flight, by an agent's call, a script's call, and a task that is on disk before it is acknowledged;
and the same without signatures, and without waiting for the disk."""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from common import HERE, MESH, cpu_s, mesh, percentile
from echo import figures

from mesh import connect

NOOP, CALLER = HERE / "noop_agent.py", HERE / "caller_agent.py"
WINDOWS = (64, 512)
TEXT = "x" * 40


async def pair_round(seconds: float) -> dict[str, float]:
    found = await _measured("mesh ", seconds, MESH)
    for lesser in ("unsigned", "unsynced"):
        rows = await _measured(f"{lesser} ", seconds, (str(HERE / "lesser_node.py"), lesser))
        found |= {key: value for key, value in rows.items() if key.endswith("/per_s_512")}
    return {**found, "disk/fsync p50_us": fsync_us()}


async def _measured(name: str, seconds: float, program: Sequence[str]) -> dict[str, float]:
    with mesh() as made:
        for node in ("caller", "server"):
            made.node(node, program)
        made.worker(NOOP, "server")
        made.worker(CALLER, "caller")
        async with connect(home=made.home, node="caller") as client:
            await offered(client, {"noop", "measure"})
            pids = [process.pid for process in (*made.nodes.values(), *made.workers.values())]
            agent = await client.options(timeout_s=120).call("measure", seconds=seconds, windows=list(WINDOWS))
            agent.pop("calls")

            async def submit() -> None:
                await (await client.submit("noop", text=TEXT)).result(60.0)

            rows = {
                "ctx.call": agent,
                "call": await figures(lambda: client.call("noop", text=TEXT), seconds, WINDOWS),
                "submit, 2 nodes": await figures(submit, seconds, WINDOWS),
            }
            rows["call"]["cpu_s_per_1000"] = await cpu_per_1000(lambda: client.call("noop", text=TEXT), pids)
            rows["submit, 2 nodes"]["cpu_s_per_1000"] = await cpu_per_1000(submit, pids)
    return {f"{name}{what}/{key}": float(value) for what, row in rows.items() for key, value in row.items()}


async def offered(client: Any, wanted: set[str], workers: int = 1) -> None:
    """Until `client` knows of that many nodes that offer each."""
    while True:
        nodes = {cap["capability"]: len(cap["nodes"]) for cap in (await client.caps())["caps"]}
        if all(nodes.get(name, 0) >= workers for name in wanted):
            return
        await asyncio.sleep(0.05)


async def cpu_per_1000(one: Callable[[], Awaitable[Any]], pids: list[int], count: int = 1000, window: int = 64) -> float:
    """CPU seconds of the script and of all nodes and workers for a thousand of them."""
    left, everybody = count, [os.getpid(), *pids]

    async def loop() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            await one()

    before = cpu_s(everybody)
    await asyncio.gather(*(loop() for _ in range(window)))
    return (cpu_s(everybody) - before) * 1000 / count


def fsync_us(count: int = 200) -> float:
    times = []
    with tempfile.NamedTemporaryFile() as file:
        for _ in range(count):
            file.write(b"x" * 300)
            file.flush()
            began = time.perf_counter()
            os.fsync(file.fileno())
            times.append(time.perf_counter() - began)
    return percentile(times, 0.5) * 1e6
