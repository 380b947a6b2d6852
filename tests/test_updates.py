"""Updates in a whole mesh: each reaches the handler once and has one answer, whoever runs it, whoever manages it, whoever asks again."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from mesh import Agent, Context, File
from mesh.errors import NoSuchTask, Refused, TimedOut, TooBig, UsageError
from mesh.sync import Context as BlockingContext
from mesh.testing import LocalMesh


def run(work: Any) -> Any:
    return asyncio.run(asyncio.wait_for(work, 30))


def counter(heard: list[Any]) -> Agent:
    """Adds what it is told to a sum, and answers with that, until it is told to stop."""
    agent = Agent("counter")

    @agent.capability(idempotent=True)
    async def count(ctx: Context) -> int:
        total = 0
        async for update in ctx.updates("add"):
            heard.append((ctx.task.attempt, update.value))
            if update.value is None:
                await update.reply("bye")
                return total
            if update.value < 0:
                await update.refuse(f"{update.value} is below 0")
                continue
            total += update.value
            await update.reply(total)
        return -1

    return agent


async def guarded(m: LocalMesh, capability: str) -> Any:
    while (task := await m.at("n1").submit(capability)).survives != "node-loss":
        await task.cancel()
        await m.sleep(0.5)
    return task


def test_answers_come_back_and_a_repeated_update_gets_the_first_one() -> None:
    heard: list[Any] = []

    async def story() -> None:
        async with LocalMesh(agents=[counter(heard)]) as m:
            task = await m.submit("count")
            assert await m.at("n3").update(task.id, "add", 2, event="e1") == 2
            assert await asyncio.gather(*(m.at(node).update(task.id, "add", 3, event="e2") for node in ("n1", "n2", "n3"))) == [5, 5, 5]
            with pytest.raises(Refused, match="-1 is below 0") as refused:
                await m.update(task.id, "add", -1, event="e3")
            assert refused.value.code == "update_refused"
            with pytest.raises(Refused, match="-1 is below 0"):
                await m.update(task.id, "add", 7, event="e3")
            assert await m.update(task.id, "add", 100, event="e1") == 2
            assert await m.update(task.id, "add") == "bye" and await task.result() == 5
            assert await m.at("n2").update(task.id, "add", 1, event="e2") == 5
            with pytest.raises(Refused, match="has ended"):
                await m.update(task.id, "add", 1)
            assert [value for _, value in heard] == [2, 3, -1, None]

    run(story())


def test_the_handler_and_the_manager_die_and_every_update_counts_once() -> None:
    heard: list[Any] = []
    agent = counter(heard)

    async def story() -> None:
        async with LocalMesh(nodes={"n1": [], "n2": [agent], "n3": [agent], "n4": []}) as m:
            task = await guarded(m, "count")
            assert await m.at("n4").update(task.id, "add", 2, event="e1") == 2
            owner = (await task.status())["owner"]
            m.kill(owner)
            assert await m.at("n4").update(task.id, "add", 3, event="e2") == 5
            m.restart(owner)
            await m.sleep(4)
            m.kill("n1")
            await m.sleep(4)
            assert await m.at("n4").update(task.id, "add", 9, event="e1") == 2
            assert await m.at("n4").update(task.id, "add", 4, event="e3") == 9
            m.power_cut()
            m.restart()
            await m.sleep(4)
            assert await m.at("n2").update(task.id, "add", 9, event="e2") == 5
            assert await m.at("n4").update(task.id, "add", event="e4") == "bye"
            assert (await m.at("n4").result(task.id))["result"] == 9
            last = heard[-1][0]
            assert [value for attempt, value in heard if attempt == last] == [2, 3, 4, None]

    run(story())


def test_a_function_answers_while_the_work_goes_on_and_what_it_raises_is_the_refusal() -> None:
    agent = Agent("a")

    @agent.capability
    async def work(ctx: Context) -> list[Any]:
        limits = [1]

        async def change(limit: int) -> int:
            if limit > 9:
                raise ValueError("too much")
            limits.append(limit)
            await ctx.sleep(0.1)
            return limit

        async with ctx.answering("limit", change), ctx.answering("limits", lambda _: limits):
            await ctx.signal("go")
        left = await ctx.update("limit", timeout_s=1000)
        await left.reply("late")
        return limits

    async def story() -> None:
        async with LocalMesh(agents=[agent]) as m:
            task = await m.submit("work")
            assert await m.update(task.id, "limit", 5) == 5
            with pytest.raises(Refused, match="ValueError: too much"):
                await m.update(task.id, "limit", 10)
            assert await m.update(task.id, "limits") == [1, 5]
            await m.signal(task.id, "go")
            await m.sleep(1)
            assert await m.update(task.id, "limit", 6) == "late"
            assert await task.result() == [1, 5]

    run(story())


def test_what_cannot_be_asked_or_answered_is_said_at_the_call() -> None:
    agent, seen = Agent("a"), list[str]()

    @agent.capability
    def blocking(ctx: BlockingContext) -> Any:
        update = ctx.update("ask")
        for answer in (File.of(__file__), "x" * 600_000):
            with pytest.raises((UsageError, TooBig)) as caught:
                update.reply(answer)
            seen.append(caught.value.code)
        update.reply(update.value)
        update.refuse("too late")
        with pytest.raises(TimedOut, match="signal ~ask did not come"):
            ctx.update("ask", timeout_s=2)
        ctx.signal("go")

    async def story() -> None:
        async with LocalMesh(agents=[agent]) as m:
            task = await m.submit("blocking")
            assert await m.update(task.id, "ask", {"n": 1}) == {"n": 1} and seen == ["usage", "too_big"]
            for name, value, error in (("a/b", 1, UsageError), ("ask", File.of(__file__), UsageError), ("ask", "x" * 600_000, TooBig)):
                with pytest.raises(error):
                    await m.update(task.id, name, value)
            with pytest.raises(NoSuchTask):
                await m.update("n1.1.99", "ask")
            with pytest.raises(TimedOut):
                await m.update(task.id, "nobody", event="e1", timeout_s=0.5)
            unanswered = asyncio.ensure_future(m.at("n2").update(task.id, "nobody", event="e1"))
            await m.sleep(3)
            await m.signal(task.id, "go")
            await task.result()
            with pytest.raises(Refused, match="ended before it answered") as refused:
                await unanswered
            assert refused.value.code == "update_unanswered"

    run(story())
