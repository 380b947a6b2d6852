"""Measures calls from inside a handler: what an agent that uses other agents sees."""

import sys
from pathlib import Path

from mesh import Agent, Context

sys.path.insert(0, str(Path(__file__).parent))
from echo import figures

agent = Agent("caller")


@agent.capability
async def measure(ctx: Context, seconds: float, size: int = 40, windows: list[int] = [64]) -> dict[str, float]:  # noqa: B006  never changed
    """p50, p99 one at a time, calls/s with so many in flight; `size`: bytes of the argument, which comes back."""
    calls, text = 0, "x" * size

    async def call() -> None:
        nonlocal calls
        calls += 1
        await ctx.call("noop", text=text)

    found = await figures(call, seconds, tuple(windows))
    return {**found, "calls": float(calls)}
