"""The log of a task, read from any node of a mesh: whoever ran it has the lines, and whose are missing is said."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from mesh import Agent, Context
from mesh.errors import MeshError, NoSuchTask, UsageError
from mesh.testing import LocalMesh


def run(work: Any) -> Any:
    return asyncio.run(asyncio.wait_for(work, 20))


def talker() -> Agent:
    agent = Agent("talker")

    @agent.capability(idempotent=True)
    async def talk(ctx: Context) -> int:
        print(f"attempt {ctx.task.attempt} begins")
        await ctx.sleep(20)
        ctx.log("half")
        await ctx.sleep(20)
        return ctx.task.attempt

    @agent.capability(retries=1)
    async def stumble(ctx: Context) -> int:
        print("try", ctx.task.attempt)
        if ctx.task.attempt == 1:
            raise ValueError("not yet")
        return 1

    @agent.capability
    async def quiet() -> int:
        return 1

    return agent


def texts(document: dict[str, Any]) -> list[tuple[str, int, str]]:
    return [(line["node"], line["attempt"], line["text"]) for line in document["lines"]]


def test_a_log_outlives_its_task_and_its_managers_death() -> None:
    async def story() -> None:
        async with LocalMesh(nodes={"n1": [], "n2": [talker()], "n3": []}) as m:
            task = await m.submit("stumble")
            assert await task.result() == 1
            expected = [("n2", 1, "try 1"), ("n2", 2, "try 2")]
            for node in ("n1", "n2", "n3"):
                document = await m.at(node).logs(task.id)
                assert texts(document) == expected and document["missing"] == [] and document["state"] == "done"
            assert (await m.logs(task.id))["lines"][0]["stream"] == "stdout"
            await m.submit("quiet")
            again = await m.at("n1").logs(task.id, after=document["after"])
            assert again["lines"] == [] and again["after"] == document["after"]
            m.kill("n1")
            await m.sleep(10)
            document = await m.at("n3").logs(task.id)
            assert texts(document) == expected
            [missing] = document["missing"]
            assert "n1" in missing["reason"] and "cannot be reached" in missing["reason"]

    run(story())


def test_whose_log_is_missing_is_said() -> None:
    async def story() -> None:
        async with LocalMesh(nodes={"n1": [], "n2": [talker()], "n3": [talker()]}, seed=3) as m:
            task = await m.submit("talk")
            await m.sleep(1.0)
            first = (await task.status())["owner"]
            other = "n3" if first == "n2" else "n2"
            assert texts(await m.logs(task.id)) == [(first, 1, "attempt 1 begins")]
            m.kill(first)
            assert await task.result() == 2
            for wait_s, reason in ((0, "not in reach: its log is missing here"), (6, "has no log of it: it began anew since")):
                if wait_s:
                    m.restart(first)
                    await m.sleep(wait_s)
                document = await m.logs(task.id)
                assert texts(document) == [(other, 2, "attempt 2 begins"), (other, 2, "half")]
                [missing] = document["missing"]
                assert (missing["attempt"], missing["node"]) == (1, first) and reason in missing["reason"]

    run(story())


def test_a_quiet_task_misses_nothing_and_a_stranger_is_unknown() -> None:
    async def story() -> None:
        async with LocalMesh(nodes={"n1": [], "n2": [talker()]}) as m:
            task = await m.submit("quiet")
            await task.result()
            document = await m.logs(task.id)
            assert document["lines"] == [] and document["missing"] == []
            assert (await m.logs(node="n2"))["lines"] == []
            with pytest.raises(MeshError, match="nobody in reach has a log"):
                await m.logs("n1.9.9")
            with pytest.raises(NoSuchTask):
                await m.logs("nonsense")
            with pytest.raises(UsageError):
                await m.logs()
            m.kill("n2")
            await m.sleep(10)
            with pytest.raises(MeshError, match="n2 cannot be reached from here"):
                await m.logs(node="n2")

    run(story())
