"""What why, lineage, task and tasks say of work in each state, from real stories of a simulated mesh."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from mesh import Agent, Context
from mesh.errors import NodeLost
from mesh.inspector import use, why
from mesh.testing import LocalMesh


def run(work: Any) -> Any:
    return asyncio.run(asyncio.wait_for(work, 20))


def worker() -> Agent:
    agent = Agent("worker")

    @agent.capability(retries=0)
    async def work(ctx: Context, seconds: float) -> str:
        await ctx.sleep(seconds)
        if not seconds:
            raise ValueError("no time")
        return "done"

    return agent


async def shown(m: LocalMesh, task: str) -> list[str]:
    return why.show(why.explain(task, (await m.at("n1").story(task))["entries"])).splitlines()


def test_why_says_how_a_task_ended_that_has_no_result() -> None:
    async def story() -> None:
        async with LocalMesh(nodes={"n1": [worker()]}) as m:
            waiting = await m.options(where=["gpu"]).submit("work", seconds=1.0)
            await m.sleep(1)
            assert any(line.startswith("not awarded yet: no_label: ") for line in await shown(m, waiting.id))
            await waiting.cancel("not needed any more")
            lines = await shown(m, waiting.id)
            assert any(line.startswith("never awarded: no_label: ") for line in lines)
            [end] = [line for line in lines if line.startswith("cancelled by ")]
            assert end.endswith(": not needed any more")
            bad = await m.submit("work", seconds=0.0)
            while (await bad.status())["state"] != "failed":
                await m.sleep(0.1)
            assert "failed: ValueError: no time" in await shown(m, bad.id)
            good = await m.submit("work", seconds=1.0)
            await good.result()
            assert not [line for line in await shown(m, good.id) if line.startswith(("cancelled", "failed", "to be"))]

    run(story())


def test_what_is_done_is_done_to_the_last_percent() -> None:
    agent = Agent("worker")

    @agent.capability
    async def work(ctx: Context) -> str:
        ctx.progress(0.94, "note 3.75 of 4.0")
        await ctx.sleep(3)
        ctx.progress(1.0)
        return "done"

    async def story() -> None:
        async with LocalMesh(nodes={"n1": [agent]}) as m:
            task = await m.submit("work")
            await m.sleep(2)
            row = await task.status()
            assert (row["state"], row["progress"], row["note"]) == ("held", 0.94, "note 3.75 of 4.0")
            await task.result()
            for row in (await task.status(), (await m.tasks())["tasks"][0]):
                assert (row["state"], row["progress"], row["note"]) == ("done", 1.0, "")
            m.kill("n1")
            m.restart("n1")
            assert ((await m.at("n1").task(task.id))["progress"]) == 1.0

    run(story())


def test_who_waits_for_a_task_at_a_node_that_dies_is_told_to_ask_again() -> None:
    """Not to start that node: the task outlives it, and any other node answers."""

    async def story() -> None:
        async with LocalMesh(nodes={"n1": [worker()]}) as m:
            task = await m.submit("work", seconds=60.0)
            waiting = asyncio.create_task(use.ended(m.at("n1"), task.id, 3600))
            await m.sleep(1)
            m.kill("n1")
            with pytest.raises(NodeLost) as error:
                await waiting
            assert (error.value.fix, error.value.exit_code) == (f"mesh result {task.id}", 3)

    run(story())
