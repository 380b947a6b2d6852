"""Honest load: calls to another node's `noop` at a steady rate, and how many were answered when."""

import asyncio
import time
from collections import defaultdict

from mesh import Agent, Context
from mesh.errors import MeshError

agent = Agent("caller")
BUCKET_S = 0.1


@agent.capability(timeout_s=3600)
async def load(ctx: Context, seconds: float, per_s: float, window: int) -> list[list[float]]:
    """`per_s` calls each second, answered or not; 0: always `window` in flight. Gives ``[at_s, answered, p50_us, p99_us]`` for each tenth
    of a second, on the machine's monotonic clock."""
    took: dict[int, list[float]] = defaultdict(list)
    end = time.monotonic() + seconds

    async def call() -> None:
        began = time.monotonic()
        try:
            await ctx.call("noop", text="x" * 40)
        except MeshError:  # not answered: not counted
            return
        now = time.monotonic()
        took[int(now / BUCKET_S)].append(1e6 * (now - began))

    async def again() -> None:
        while time.monotonic() < end:
            await call()

    async with asyncio.TaskGroup() as tasks:
        if per_s:
            due = time.monotonic()
            while due < end:
                due += 1 / per_s
                tasks.create_task(call())
                await asyncio.sleep(max(0.0, due - time.monotonic()))
        else:
            for _ in range(window):
                tasks.create_task(again())
    return [[bucket * BUCKET_S, len(times), *_middle_and_tail(sorted(times))] for bucket, times in sorted(took.items())]


def _middle_and_tail(times: list[float]) -> tuple[float, float]:
    return times[len(times) // 2], times[int(len(times) * 0.99)]
