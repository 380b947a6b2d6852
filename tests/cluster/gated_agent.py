"""Work whose every start and end is written to a ledger file outside the mesh, and that ends when the test says so.

One line per event, appended in one write: ``start|end label task fence pid seconds``. A handler goes on when the file `gate` exists, or
`gate` with its process id appended: so a test lets exactly one of two twins finish. An empty gate is open, "sleep 0.5" opens by itself.
"""

import asyncio
import os
import time
from collections import deque
from collections.abc import AsyncIterator
from itertools import takewhile

from mesh import Agent, Context

agent = Agent("gated", concurrency=int(os.environ.get("GATED_SLOTS", "8")))
LOOK_EVERY_S = 0.01


def write(ledger: str, what: str, label: str, ctx: Context) -> None:
    line = f"{what} {label} {ctx.task.id} {ctx.task.fence} {os.getpid()} {time.clock_gettime(time.CLOCK_MONOTONIC)}\n"
    handle = os.open(ledger, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(handle, line.encode())
    finally:
        os.close(handle)


async def passed(gate: str) -> None:
    if gate.startswith("sleep "):
        await asyncio.sleep(float(gate.removeprefix("sleep ")))
        return
    while gate and not os.path.exists(gate) and not os.path.exists(f"{gate}.{os.getpid()}"):  # noqa: ASYNC110  a file is no event
        await asyncio.sleep(LOOK_EVERY_S)


async def work(ctx: Context, ledger: str, label: str, gate: str) -> int:
    write(ledger, "start", label, ctx)
    await passed(gate)
    write(ledger, "end", label, ctx)
    return ctx.task.fence


@agent.capability(name="plain")
async def plain(ctx: Context, ledger: str, label: str, gate: str = "") -> int:
    """Runs again only when the lease of the lost run is over."""
    return await work(ctx, ledger, label, gate)


@agent.capability(name="idempotent", idempotent=True)
async def idempotent(ctx: Context, ledger: str, label: str, gate: str = "") -> int:
    """May run again at once."""
    return await work(ctx, ledger, label, gate)


@agent.capability(name="flow")
async def flow(ctx: Context, ledger: str, label: str, gates: list[str]) -> list[int]:
    """One step after the other, each behind its own gate."""
    write(ledger, "start", label, ctx)
    fences = [await ctx.step(f"s{i}", "plain", ledger=ledger, label=f"{label}/s{i}", gate=gate) for i, gate in enumerate(gates)]
    write(ledger, "end", label, ctx)
    return fences


@agent.capability(name="rows", idempotent=True)
async def rows(ctx: Context, ledger: str, label: str, n: int, at: int, gate: str) -> AsyncIterator[int]:
    """The numbers below `n`; a gate stands before one of them."""
    write(ledger, "start", label, ctx)
    for i in range(n):
        if i == at:
            await ctx.checkpoint(i)
            await passed(gate)
        print(f"row {i} after {ctx.checkpointed}")
        yield i
    write(ledger, "end", label, ctx)


@agent.capability(name="spin")
async def spin(ctx: Context, ledger: str, label: str, seconds: float) -> int:
    """Blocks the worker's only event loop, in Python."""
    write(ledger, "start", label, ctx)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass
    write(ledger, "end", label, ctx)
    return ctx.task.fence


@agent.capability(name="grip")
async def grip(ctx: Context, ledger: str, label: str, seconds: float) -> int:
    """Blocks the whole process: one C call that keeps the GIL from its beginning to its end."""
    write(ledger, "start", label, ctx)
    end = time.monotonic() + seconds
    deque(takewhile(end.__gt__, iter(time.monotonic, None)), maxlen=0)
    write(ledger, "end", label, ctx)
    return ctx.task.fence


@agent.capability(name="echo")
async def echo(text: str) -> str:
    """No work at all."""
    return text
