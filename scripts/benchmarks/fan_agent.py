"""One task, then many, then one: by calls, which nobody keeps, or by steps, which are on record."""

import asyncio

from mesh import Agent, Context

agent = Agent("fan", concurrency=4)


@agent.capability(idempotent=True)
async def fan(ctx: Context, count: int, durable: bool) -> int:
    """How many came back."""
    if durable:
        first = await ctx.step("first", "noop", text="x")
        parts = await asyncio.gather(*(ctx.step(f"part {number}", "noop", text=first) for number in range(count)))
        return len(await ctx.step("last", "noop", text="x" * len(parts)))
    first = await ctx.call("noop", text="x")
    parts = await asyncio.gather(*(ctx.call("noop", text=first) for _ in range(count)))
    return len(await ctx.call("noop", text="x" * len(parts)))
