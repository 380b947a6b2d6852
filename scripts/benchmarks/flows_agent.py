"""A chain and a graph of no-ops, driven by an ordinary handler: by calls, which nobody keeps, or by steps, which are on record."""

import asyncio
from collections.abc import Awaitable

from mesh import Agent, Context

agent = Agent("flows-by-handler", concurrency=4)


def one(ctx: Context, name: str, durable: bool) -> Awaitable[str]:
    return ctx.step(name, "noop", text="x") if durable else ctx.call("noop", text="x")


@agent.capability(idempotent=True)
async def chain(ctx: Context, count: int, durable: bool) -> int:
    """One after the other."""
    for number in range(count):
        await one(ctx, f"s{number}", durable)
    return count


@agent.capability(idempotent=True)
async def graph(ctx: Context, needs: list[list[int]], durable: bool) -> int:
    """Each as soon as what it needs has ended; what it needs comes before it."""
    under_way: list[asyncio.Task[None]] = []

    async def step(number: int) -> None:
        for other in needs[number]:
            await under_way[other]
        await one(ctx, f"s{number}", durable)

    under_way.extend(asyncio.create_task(step(number)) for number in range(len(needs)))
    await asyncio.gather(*under_way)
    return len(needs)
