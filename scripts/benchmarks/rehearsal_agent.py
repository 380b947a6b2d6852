"""Handlers that sleep, SLOTS at once: work whose time is known, so that several nodes fit on one machine."""

import asyncio
import os

from mesh import Agent

agent = Agent("rehearsal", concurrency=int(os.environ.get("SLOTS", "2")))


@agent.capability(idempotent=True)
async def noop(text: str) -> str:
    """Give back what came."""
    return text


@agent.capability(idempotent=True)
async def prepare(seconds: float) -> float:
    """Always about as long."""
    await asyncio.sleep(seconds)
    return seconds


@agent.capability(idempotent=True)
async def shard(seconds: float) -> float:
    """Some are long."""
    await asyncio.sleep(seconds)
    return seconds


@agent.capability(idempotent=True)
async def merge(seconds: float) -> float:
    """Always about as long."""
    await asyncio.sleep(seconds)
    return seconds
