"""Checkpoints: the next attempt goes on where the last one got to, whoever died in between."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from mesh import Agent, Context, File
from mesh.errors import Refused, TaskFailed, TooBig, UsageError
from mesh.sync import Context as BlockingContext
from mesh.testing import LocalMesh


def run(work: Any) -> Any:
    return asyncio.run(asyncio.wait_for(work, 20))


def counter(did: list[tuple[int, int]]) -> Agent:
    """Counts to ten, a second each; `did` is who did what."""
    agent = Agent("counter")

    @agent.capability(idempotent=True)
    async def count(ctx: Context) -> list[int]:
        done: list[int] = ctx.checkpointed or []
        while len(done) < 10:
            await ctx.sleep(1)
            did.append((ctx.task.attempt, len(done)))
            done.append(len(done))
            await ctx.checkpoint(done)
        return done

    return agent


@pytest.mark.parametrize("way", ["submit", "call"])
def test_a_successor_goes_on_where_the_killed_one_was(way: str) -> None:
    async def story() -> None:
        did: list[tuple[int, int]] = []
        agent = counter(did)
        async with LocalMesh(nodes={"n1": [], "n2": [agent], "n3": [agent]}) as m:
            work = asyncio.ensure_future(m.call("count") if way == "call" else (await m.submit("count")).result())
            await m.sleep(4.5)
            [row] = (await m.tasks())["tasks"]
            m.kill(row["owner"])
            assert await work == list(range(10))
            assert [i for _, i in did] == list(range(10)), "nothing twice, nothing left out"
            assert {attempt for attempt, _ in did} == {1, 2}
            kinds = [entry["kind"] for entry in (await m.at("n1").story(row["task"]))["entries"]]
            assert kinds.count("Checkpointed") == (10 if way == "submit" else 0)

    run(story())


def test_it_outlives_the_managers_restart() -> None:
    async def story() -> None:
        did: list[tuple[int, int]] = []
        agent = counter(did)
        async with LocalMesh(nodes={"n1": [], "n2": [agent], "n3": [agent]}) as m:
            task = await m.at("n1").submit("count")
            await m.sleep(4.5)
            owner = (await task.status())["owner"]
            m.kill("n1")
            m.kill(owner)
            await m.sleep(1)
            m.restart("n1")
            await m.sleep(1)
            answer = await m.at("n1").result(task.id)
            assert answer["result"] == list(range(10))
            first = [i for attempt, i in did if attempt == 1]
            assert first and [i for attempt, i in did if attempt == 2] == list(range(len(first), 10))

    run(story())


def test_what_cannot_be_kept_is_refused_at_the_call() -> None:
    agent, seen = Agent("a"), list[str]()

    @agent.capability
    async def keep(ctx: Context) -> None:
        for value, kind in (("x" * 65 * 1024, TooBig), (File.of(__file__), UsageError)):
            with pytest.raises(kind) as caught:
                await ctx.checkpoint(value)
            seen.append(caught.value.code)
        await ctx.checkpoint({"n": [1.5, None]})

    @agent.capability(retries=1)
    def blocking(ctx: BlockingContext) -> Any:
        if ctx.task.attempt == 1:
            ctx.checkpoint({"at": "one"})
            raise ValueError("again")
        return ctx.checkpointed

    async def story() -> None:
        async with LocalMesh(nodes={"n1": [], "n2": [agent]}) as m:
            await m.call("keep")
            assert seen == ["too_big", "usage"]
            assert await (await m.submit("blocking")).result() == {"at": "one"}
            failing = await m.options(retries=0).submit("blocking")
            with pytest.raises(TaskFailed, match="again"):
                await failing.result()

    run(story())


def test_a_twin_that_was_given_up_keeps_nothing_any_more() -> None:
    agent = Agent("a")
    refused: list[str] = []
    kept: list[Any] = []

    @agent.capability
    async def work(ctx: Context) -> str:
        kept.append(ctx.checkpointed)
        if ctx.task.attempt == 1:
            await ctx.checkpoint("first")
            await ctx.sleep(10)  # cut off meanwhile: its lease is over, and the task is somebody else's
            try:
                await ctx.checkpoint("stale")
            except Refused as error:
                refused.append(error.code)
                raise
        await ctx.sleep(10)
        return "done"

    async def story() -> None:
        async with LocalMesh(nodes={"n1": [], "n2": [agent], "n3": [agent]}) as m:
            task = await m.submit("work")
            await m.sleep(1)
            owner = (await task.status())["owner"]
            m.partition({owner}, {"n1", "n2", "n3"} - {owner})
            await m.sleep(12)
            m.heal()
            assert await task.result() == "done"
            await m.sleep(10)
            entries = (await m.at("n1").story(task.id))["entries"]
            assert [entry["kind"] for entry in entries].count("Checkpointed") == 1
            assert kept == [None, "first"]

    run(story())
