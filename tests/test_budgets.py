"""Budgets over many nodes: what is spent never exceeds them, whoever dies, and what was reserved comes back."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from mesh import Agent, Context
from mesh.errors import BudgetExceeded
from mesh.testing import LocalMesh

CALL_USD = 0.04


def spending() -> tuple[Agent, list[float]]:
    """An agent whose leaves pay, and what they really paid, whatever became of their nodes."""
    agent, paid = Agent("buyers", concurrency=40), list[float]()

    @agent.capability(name="leaf", idempotent=True)
    async def leaf(ctx: Context, price: float, calls: int) -> int:
        bought = 0
        for _ in range(calls):
            try:
                async with ctx.reserve(usd=CALL_USD) as reserved:
                    await ctx.sleep(0.3)
                    paid.append(price)
                    reserved.spent(usd=price)
                bought += 1
            except BudgetExceeded:
                break
        return bought

    @agent.capability(name="team", idempotent=True)
    async def team(ctx: Context, price: float, calls: int) -> int:
        return sum(await asyncio.gather(*(one(ctx, "leaf", i, 0.12, price=price, calls=calls) for i in range(4))))

    @agent.capability(name="all", idempotent=True)
    async def whole(ctx: Context, price: float, calls: int) -> int:
        return sum(await asyncio.gather(*(one(ctx, "team", i, 0.4, price=price, calls=calls) for i in range(5))))

    async def one(ctx: Context, what: str, number: int, usd: float, **arguments: Any) -> int:
        """The last of each draws on what is left above it, the others have a budget of their own."""
        under = ctx.options(budget={"usd": usd}) if number else ctx
        try:
            found: int = await under.step(f"{what}{number}", what, **arguments)
        except BudgetExceeded:
            return 0
        return found

    return agent, paid


async def guarded(m: LocalMesh, budget: dict[str, float], capability: str, **arguments: Any) -> Any:
    """A task at n1 that survives the loss of any node, once two others keep its journal."""
    while (task := await m.at("n1").options(budget=budget).submit(capability, **arguments)).survives != "node-loss":
        await task.cancel()
        await m.sleep(0.5)
    return task


@pytest.mark.parametrize("price", (0.03, 0.04))
def test_a_fan_out_over_five_nodes_never_spends_more_than_its_budget_whoever_dies(price: float) -> None:
    agent, paid = spending()

    async def story() -> None:
        async with LocalMesh(nodes={f"n{i}": [agent] for i in range(1, 6)}, seed=7) as m:
            task = await guarded(m, {"usd": 1.5, "calls": 40}, "all", price=price, calls=6)
            paid.clear()
            for victim in ("n1", "n4"):
                await m.sleep(0.8)
                m.kill(victim)
            await m.sleep(2.0)
            m.restart("n1")
            answer = await m.at("n2").result(task.id)
            print(answer)
            row = (await m.at("n2").task(task.id))["budget"]["usd"]
            print(row, sum(paid))
            assert answer["state"] == "done" and answer["result"] > 10
            assert (row["budget"], row["reserved"]) == (1.5, 0)
            assert row["spent"] == row["used"] and row["spent"] + row["left"] == pytest.approx(1.5)
            # What nobody could settle counts in full, so what was really paid is never more.
            assert sum(paid) <= row["spent"] + 1e-9 <= 1.5 + 2e-9

    asyncio.run(asyncio.wait_for(story(), 20))
