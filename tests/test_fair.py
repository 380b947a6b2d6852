"""Priorities and share keys as callers meet them: whole nodes, virtual time."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from mesh import Agent, Context
from mesh.errors import UsageError
from mesh.testing import LocalMesh


def run(work: Any) -> Any:
    return asyncio.run(asyncio.wait_for(work, 30))


def worker(order: list[str], concurrency: int = 1) -> Agent:
    agent = Agent("worker", concurrency=concurrency)

    @agent.capability
    async def work(ctx: Context, name: str) -> str:
        order.append(name)
        await ctx.sleep(1.0)
        return name

    return agent


def test_the_greater_priority_starts_first_and_its_steps_and_calls_inherit_it() -> None:
    order: list[str] = []
    flow = Agent("flow")

    @flow.capability
    async def outer(ctx: Context) -> str:
        await ctx.step("one", "work", name="step")
        return str(await ctx.call("work", name="call"))

    async def story() -> None:
        async with LocalMesh(nodes={"n1": [flow], "n2": [worker(order)]}) as m:
            low = [await m.options(priority=2).submit("work", name=f"low{number}") for number in range(6)]
            urgent = await m.options(priority=9).submit("outer")
            assert await urgent.result() == "call"
            assert await low[-1].result() == "low5"
            # One runs and one waits at the worker's node when each of them comes; nothing else gets in between.
            assert order.index("step") <= 3 and order.index("call") <= order.index("step") + 3
            assert (await m.at("n1").task(low[0].id))["priority"] == 2
            steps = [row for row in (await m.tasks())["tasks"] if row["step"]]
            assert [row["priority"] for row in steps] == [9]

    run(story())


def test_low_work_gets_its_turn_under_a_flood_of_high_work() -> None:
    order: list[str] = []

    async def story() -> None:
        async with LocalMesh(nodes={"n1": [worker(order)]}) as m:
            high = m.options(priority=9)
            for number in range(90):
                await high.submit("work", name=f"high{number}")
            low = await m.options(priority=1).submit("work", name="low")
            began_s = m.now_s
            assert await low.result() == "low"
            assert 40 <= m.now_s - began_s <= 45, "8 steps of 5 s, and what ran just then"

    run(story())


def test_ten_tasks_of_one_tenant_do_not_wait_for_the_many_of_another() -> None:
    """Alone they take 3 s on 4 slots. Half of the slots are theirs now: 5 s, and what ran just then, beside 10,000 as beside 300."""

    async def story(others: int) -> float:
        order: list[str] = []
        agents = {"n1": [], "n2": [worker(order, 2)], "n3": [worker(order, 2)]}
        async with LocalMesh(nodes=agents) as m:
            big, small = m.options(share="big"), m.options(share="small")
            await asyncio.gather(*(big.submit("work", name="big") for _ in range(others)))
            await m.sleep(2.0 * bool(others))
            began_s = m.now_s
            tasks = [await small.submit("work", name="small") for _ in range(10)]
            for task in tasks:
                await task.result()
            return m.now_s - began_s

    alone_s, beside_s = run(story(0)), run(story(300))
    assert 3 <= alone_s < 4
    assert beside_s < 2.4 * alone_s, (alone_s, beside_s)


@pytest.mark.parametrize(
    "options", [{"priority": 0}, {"priority": 10}, {"priority": True}, {"share": ""}, {"share": "a\nb"}, {"share": "x" * 65}]
)
def test_what_is_no_priority_or_share_is_refused_at_the_call(options: dict[str, Any]) -> None:
    async def story() -> None:
        async with LocalMesh(agents=[worker([])]) as m:
            with pytest.raises(UsageError):
                m.options(**options)

    run(story())
