"""Work that leaves a trace outside the mesh: lines appended to a ledger file, each in one write and on disk before the handler goes on.

start|end TASK FENCE PID SECONDS        a handler begins, and is done
deed|known TASK FENCE PID SECONDS       what a keyed effect does to the world, and that its handler was told what is on record
"""

import asyncio
import contextlib
import os
import sqlite3
import time

from mesh import Agent, Context
from mesh.errors import OutcomeUnknown

agent = Agent("ledger", concurrency=24)
PART = 0.8
"""Of a handler's time comes before its effect."""


def write(ledger: str, what: str, ctx: Context) -> int:
    line = f"{what} {ctx.task.id} {ctx.task.fence} {os.getpid()} {time.clock_gettime(time.CLOCK_MONOTONIC)}\n"
    handle = os.open(ledger, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(handle, line.encode())
        os.fdatasync(handle)
    finally:
        os.close(handle)
    return ctx.task.fence


@agent.capability(name="work.idempotent", idempotent=True)
async def idempotent(ctx: Context, ledger: str, seconds: float) -> int:
    """Sleep; may be run again at once."""
    write(ledger, "start", ctx)
    await asyncio.sleep(seconds)
    return write(ledger, "end", ctx)


@agent.capability(name="work.plain")
async def plain(ctx: Context, ledger: str, seconds: float) -> int:
    """Sleep; is run again when the lease of the lost run is over."""
    write(ledger, "start", ctx)
    await asyncio.sleep(seconds)
    return write(ledger, "end", ctx)


@agent.capability(name="work.keyed")
async def keyed(ctx: Context, ledger: str, seconds: float) -> int:
    """A deed under a key: whoever comes after a known outcome gets that."""
    write(ledger, "start", ctx)
    await asyncio.sleep(seconds * PART)
    await ctx.effect("deed", lambda: write(ledger, "deed", ctx))
    write(ledger, "known", ctx)
    await asyncio.sleep(seconds * (1 - PART))
    return write(ledger, "end", ctx)


@agent.capability(name="work.once")
async def once(ctx: Context, ledger: str, seconds: float) -> int:
    """A deed that nobody can compare: it is begun at most once."""
    write(ledger, "start", ctx)
    await asyncio.sleep(seconds * PART)
    with contextlib.suppress(OutcomeUnknown):
        await ctx.effect("deed", lambda: write(ledger, "deed", ctx), at_most_once=True)
    await asyncio.sleep(seconds * (1 - PART))
    return write(ledger, "end", ctx)


@agent.capability(name="work.tx")
async def tx(ctx: Context, ledger: str, seconds: float) -> int:
    """A row in a database beside the ledger, which has no other guard against a second one than ``ctx.tx``."""
    write(ledger, "start", ctx)
    await asyncio.sleep(seconds * PART)

    def row(db: sqlite3.Connection) -> int:
        db.execute("INSERT INTO deeds VALUES (?, ?)", (ctx.task.id, ctx.task.fence))
        return ctx.task.fence

    await ctx.tx(f"{ledger}.sqlite", row)
    await asyncio.sleep(seconds * (1 - PART))
    return write(ledger, "end", ctx)
