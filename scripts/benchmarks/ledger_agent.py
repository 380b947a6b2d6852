"""Work that leaves a trace outside the mesh: one line when it starts, one when it ends, appended atomically to a ledger file."""

import asyncio
import os
import time

from mesh import Agent, Context

agent = Agent("ledger", concurrency=16)


def write(ledger: str, *words: object) -> None:
    line = " ".join(map(str, (*words, os.getpid(), time.clock_gettime(time.CLOCK_MONOTONIC)))) + "\n"
    handle = os.open(ledger, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(handle, line.encode())
    finally:
        os.close(handle)


async def _work(ctx: Context, ledger: str, seconds: float) -> int:
    write(ledger, "start", ctx.task.id, ctx.task.fence)
    await asyncio.sleep(seconds)
    write(ledger, "end", ctx.task.id, ctx.task.fence)
    return ctx.task.fence


@agent.capability(name="work.idempotent", idempotent=True)
async def idempotent(ctx: Context, ledger: str, seconds: float) -> int:
    """Sleep; may be run again at once."""
    return await _work(ctx, ledger, seconds)


@agent.capability(name="work.plain")
async def plain(ctx: Context, ledger: str, seconds: float) -> int:
    """Sleep; is run again when the lease of the lost run is over."""
    return await _work(ctx, ledger, seconds)
