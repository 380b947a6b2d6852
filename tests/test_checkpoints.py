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
            if way == "submit":
                assert (await m.at("n3").checkpoint(row["task"]))["checkpoint"] == list(range(4))
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


def looper(did: list[int], every: int = 20, rounds: int = 10) -> Agent:
    """A loop that is long, and forgets what it has done every so many turns."""
    agent = Agent("looper")

    @agent.capability(idempotent=True)
    async def one(ctx: Context, i: int) -> int:
        await ctx.sleep(0.1)
        did.append(i)
        return i

    @agent.capability(idempotent=True)
    async def loop(ctx: Context) -> list[Any]:
        state: dict[str, Any] = ctx.checkpointed or {"round": 0, "sum": 0, "told": []}
        while state["round"] < rounds:
            for turn in range(every):
                state["sum"] += await ctx.step(f"turn {turn}", "one", i=state["round"] * every + turn)
            if state["round"] % 2:
                state["told"].append(await ctx.signal("news"))
            state["round"] += 1
            await ctx.checkpoint(state, anew=True)
        return [state["sum"], state["told"]]

    return agent


def test_a_loop_that_begins_anew_takes_bounded_room_and_repeats_no_step_whoever_dies() -> None:
    """Signals that came early wait for the round that asks for them."""

    async def story() -> None:
        did: list[int] = []
        agent = looper(did)
        async with LocalMesh(nodes={"n1": [], "n2": [agent], "n3": [agent], "n4": [agent]}) as m:
            while (task := await m.at("n1").submit("loop")).survives != "node-loss":
                await task.cancel()
                await m.sleep(1)
                did.clear()
            for number in range(5):  # more than it waits for just now: the later ones are not lost when it begins anew
                await m.at("n4").signal(task.id, "news", number)
            killed: list[str] = []
            result = asyncio.ensure_future(m.at("n4").result(task.id))
            while not result.done():
                books = [host.assembly.manager.book for host in m.world.living()]
                for mine in [book.tasks[task.id] for book in books if task.id in book.tasks]:
                    assert len(mine.children or {}) <= 20 + 6, "the steps of one round, and signals"
                if len(killed) < 2 and len(did) > (50, 120)[len(killed)]:
                    killed.append(("n1", "n2")[len(killed)])
                    m.kill(killed[-1])
                    if killed == ["n1", "n2"]:
                        m.restart("n1")  # two of the three that keep a journal may not be gone at once
                await m.sleep(0.5)
            assert (await result)["result"] == [sum(range(200)), [0, 1, 2, 3, 4]]
            assert len(killed) == 2 and len(set(did)) == 200
            assert len(did) <= 200 + len(killed), "what was under way may run twice, what had ended does not"

    run(story())


def test_after_a_restart_it_knows_only_the_steps_of_its_newest_round() -> None:
    async def story() -> None:
        did: list[int] = []
        agent = looper(did, rounds=6)
        async with LocalMesh(nodes={"n1": [agent], "n2": []}) as m:
            task = await m.at("n1").submit("loop")
            while len(did) < 30:
                await m.sleep(0.01)
            m.power_cut("n1")
            m.restart("n1")
            for number in range(3):
                await m.at("n1").signal(task.id, "news", number)
            assert (await m.at("n1").result(task.id))["result"] == [sum(range(120)), [0, 1, 2]]
            assert sorted(set(did)) == list(range(120)) and len(did) <= 120 + 1, "a step that was under way may run twice, none else"

    run(story())
