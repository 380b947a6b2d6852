"""One slot, as fast as SPEED says: naps, and a no-op whose price is asked for each time, so that every task of it is an auction."""

import asyncio
import os

from mesh import Agent, Bid

SPEED = float(os.environ.get("SPEED", "1"))
agent = Agent("rows", concurrency=1)


@agent.capability(idempotent=True)
async def nap(seconds: float) -> int:
    """Sleep as long as that much work takes here; which process it was."""
    await asyncio.sleep(seconds / SPEED)
    return os.getpid()


@agent.capability(idempotent=True)
async def priced(text: str) -> str:
    """Give back what came."""
    return text


@agent.bid("priced")
async def price(text: str) -> Bid:
    """The same everywhere: what is nearest and idle wins."""
    return Bid(cost=1.0)
