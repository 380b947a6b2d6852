"""Four nodes, each with a worker: auctions, makespans, fan-out, tasks that two of three disks keep, response times under load."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from common import HERE, mesh, percentile
from echo import figures
from rows_pair import NOOP, TEXT, WINDOWS, cpu_per_1000, offered

from mesh import connect
from mesh.sim.makespan import perfect, stream

NODES = ("n1", "n2", "n3", "n4")
ALIKE, UNLIKE = (1.0, 1.0, 1.0, 1.0), (1.0, 1.0, 2.0, 4.0)
BATCHES = ((0.001, 1000), (0.01, 1000), (0.1, 200))
FANS = (100, 1000)
LOAD, SERVICE_S, JOBS = 0.85, 0.02, 2000


@asynccontextmanager
async def crew(speeds: Sequence[float]) -> AsyncIterator[tuple[Any, list[int]]]:
    """A client at the first node, and the pids of all nodes and workers. Warm: each has run every kind of work."""
    with mesh() as made:
        for node in NODES:
            made.node(node)
        for node, speed in zip(NODES, speeds, strict=True):
            fan = [HERE / "fan_agent.py"] if node == NODES[0] else []
            made.worker(HERE / "rows_agent.py", node, NOOP, *fan, environ={"SPEED": str(speed)})
        async with connect(home=made.home, node=NODES[0], timeout_s=120.0) as client:
            await offered(client, {"nap", "noop", "priced"}, len(NODES))
            await offered(client, {"fan"})
            await called(client, 0.001, 40)
            yield client, [process.pid for process in (*made.nodes.values(), *made.workers.values())]


async def crew_round(seconds: float, share: float, number: int) -> dict[str, float]:
    async with crew(ALIKE) as (client, pids):

        async def submit() -> None:
            await (await client.submit("noop", text=TEXT)).result(60.0)

        rows = {
            "auction of 4": await figures(lambda: client.call("priced", text=TEXT), seconds, ()),
            "submit, 4 nodes": await figures(submit, seconds, WINDOWS),
        }
        rows["submit, 4 nodes"]["cpu_s_per_1000"] = await cpu_per_1000(submit, pids)
        found = {f"mesh {what}/{key}": float(value) for what, row in rows.items() for key, value in row.items()}
        for nap_s, full in BATCHES:
            count = max(4, int(full * share))
            for how, do in (("call", called), ("submit, 4 nodes", submitted)):
                found[f"mesh {how}/{nap_s * 1000:g}ms x{full}"] = await do(client, nap_s, count) / (count * nap_s / len(NODES))
        for full in FANS:
            for how, durable in (("ctx.call", False), ("ctx.step", True)):
                began = time.perf_counter()
                await client.call("fan", count=max(1, int(full * share)), durable=durable)
                found[f"mesh {how}/1-{full}-1"] = time.perf_counter() - began
        return found | await under_load(client, int(JOBS * share), number)


async def unlike_round(share: float, nap_s: float = 0.02, full: int = 400) -> dict[str, float]:
    async with crew(UNLIKE) as (client, _):
        count = max(4, int(full * share))
        ideal_s = count * nap_s / sum(UNLIKE)
        return {
            f"mesh {how}/1,1,2,4": await do(client, nap_s, count) / ideal_s
            for how, do in (("call", called), ("submit, 4 nodes", submitted))
        }


async def called(client: Any, nap_s: float, count: int) -> float:
    """Seconds until all have answered."""
    began = time.perf_counter()
    await asyncio.gather(*(client.call("nap", seconds=nap_s) for _ in range(count)))
    return time.perf_counter() - began


async def submitted(client: Any, nap_s: float, count: int) -> float:
    began = time.perf_counter()

    async def one() -> None:
        await (await client.submit("nap", seconds=nap_s)).result(120.0)

    await asyncio.gather(*(one() for _ in range(count)))
    return time.perf_counter() - began


async def under_load(client: Any, count: int, seed: int) -> dict[str, float]:
    """Calls at chance times that take 85 % of four workers; response times over those of a perfect queue that costs nothing."""
    jobs = stream(seed, count, SERVICE_S, LOAD, ALIKE, 1)
    times: list[float] = []
    began = time.perf_counter()

    async def one(at_s: float, service_s: float) -> None:
        await asyncio.sleep(max(0.0, began + at_s - time.perf_counter()))
        await client.call("nap", seconds=service_s)
        times.append(time.perf_counter() - began - at_s)

    await asyncio.gather(*(one(job.at_s, job.service_s) for job in jobs))
    ideal = perfect(jobs, ALIKE).response_s
    return {
        f"mesh at 85 %/{name} over ideal": percentile(times, at) / percentile(list(ideal), at) for name, at in (("p50", 0.5), ("p99", 0.99))
    }
