"""Timeouts, retries, cancellation and drains as handlers and callers meet them: whole nodes, virtual time."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from mesh import Agent, Context, Retry
from mesh.errors import DeclarationError, TaskCancelled, TaskFailed, TimedOut, UsageError
from mesh.limits import KeepingLimits, Limits
from mesh.testing import LocalMesh


def run(work: Any) -> Any:
    return asyncio.run(asyncio.wait_for(work, 20))


# ---- time


def test_a_handler_that_is_silent_is_stopped_and_its_work_done_elsewhere() -> None:
    agent, ran_on = Agent("worker"), []

    @agent.capability(heartbeat_timeout_s=3)
    async def work(ctx: Context) -> str:
        ran_on.append(ctx.task.attempt)
        if len(ran_on) == 1:
            await asyncio.Event().wait()
        for _ in range(5):
            await ctx.sleep(2)
            ctx.beat()
        return "done"

    async def story() -> None:
        async with LocalMesh(nodes={"n1": [], "n2": [agent], "n3": [agent]}) as m:
            task = await m.submit("work")
            assert await task.result() == "done"
            entries = await task.why()
            winners = [entry["winner"] for entry in entries if entry["kind"] == "Decided"]
            assert sorted(winners) == ["n2", "n3"] and ran_on == [1, 2]
            assert "failed:heartbeat" in [entry.get("reason") for entry in entries]

    run(story())


def test_what_a_handler_calls_has_no_more_time_than_it_has_itself() -> None:
    agent = Agent("nested")

    @agent.capability
    async def slow(ctx: Context) -> str:
        seen.append(("slow", ctx.task.deadline is not None))
        await ctx.sleep(60)
        return "late"

    @agent.capability(timeout_s=4)
    async def outer(ctx: Context) -> str:
        try:
            await ctx.call("slow")
        finally:
            seen.append(("outer", ctx.task.deadline is not None))
        return "never"

    seen: list[tuple[str, bool]] = []

    async def story() -> None:
        async with LocalMesh(agents=[agent]) as m:
            before_s = m.now_s
            with pytest.raises(TimedOut):
                await m.call("outer")
            assert 3.9 < m.now_s - before_s < 6
            await m.sleep(1)
            assert seen == [("slow", True), ("outer", True)]
            rows = (await m.tasks())["tasks"]
            assert {row["state"] for row in rows} <= {"failed", "cancelled"}

    run(story())


def test_options_bound_one_call_and_are_checked_where_they_are_given() -> None:
    agent = Agent("busy", concurrency=1)

    @agent.capability
    async def hold(ctx: Context, seconds: float) -> float:
        await ctx.sleep(seconds)
        return seconds

    async def story() -> None:
        async with LocalMesh(nodes={"n1": [agent]}) as m:
            with pytest.raises(UsageError):
                m.options(queue_timeout_s=0)
            with pytest.raises(TimedOut, match="did not end within 2 s"):
                await m.options(run_timeout_s=2).call("hold", seconds=50.0)
            await m.submit("hold", seconds=20.0)
            await m.submit("hold", seconds=20.0)
            task = await m.options(queue_timeout_s=3).submit("hold", seconds=1.0)
            with pytest.raises(TimedOut, match="queue timeout"):
                await task.result()

    run(story())


@pytest.mark.parametrize("name", ["timeout_s", "queue_timeout_s", "heartbeat_timeout_s"])
def test_a_timeout_that_makes_no_sense_is_refused_where_it_stands(name: str) -> None:
    with pytest.raises(DeclarationError, match=name):
        Agent("a").capability(name="work", **{name: 0})(lambda: None)  # type: ignore[call-overload]


def test_beat_from_a_plain_function() -> None:
    from mesh.sync import Context as BlockingContext

    agent = Agent("plain")

    @agent.capability(heartbeat_timeout_s=3)
    def work(ctx: BlockingContext) -> str:
        ctx.progress(0.5, "half")
        ctx.beat()
        return "done"

    async def story() -> None:
        async with LocalMesh(agents=[agent]) as m:
            assert await m.call("work") == "done"

    run(story())


# ---- retries


def test_a_handler_says_when_to_try_again_and_on_what_to_give_up() -> None:
    agent, tries = Agent("picky"), []

    @agent.capability(retries=3, give_up_on=(KeyError,))
    async def work(kind: str) -> str:
        tries.append(kind)
        if kind == "later" and len(tries) == 1:
            raise Retry(after_s=45)
        if kind == "never":
            raise KeyError("no such thing")
        return "done"

    async def story() -> None:
        async with LocalMesh(agents=[agent]) as m:
            before_s = m.now_s
            assert await (await m.submit("work", kind="later")).result() == "done"
            assert 45 < m.now_s - before_s < 50
            with pytest.raises(TaskFailed, match="no such thing"):
                await m.call("work", kind="never")
            assert tries == ["later", "later", "never"]

    run(story())


def test_a_handler_says_how_often_its_step_is_tried() -> None:
    agent, tries = Agent("a"), dict[str, int]()

    @agent.capability(retries=1)
    async def fails(name: str) -> str:
        tries[name] = tries.get(name, 0) + 1
        raise ValueError(name)

    @agent.capability
    async def drive(ctx: Context) -> None:
        for name, retries in (("as declared", None), ("never", 0), ("thrice", 3)):
            with pytest.raises(TaskFailed):
                await ctx.options(retries=retries).step(name, "fails", name=name)
        with pytest.raises(UsageError, match="retries=-1"):
            ctx.options(retries=-1)

    async def story() -> None:
        async with LocalMesh(agents=[agent]) as m:
            await (await m.submit("drive")).result()
            assert tries == {"as declared": 2, "never": 1, "thrice": 4}

    run(story())


@pytest.mark.parametrize("classes", [[KeyError], (1,), KeyError])
def test_give_up_on_takes_exception_classes(classes: Any) -> None:
    with pytest.raises(DeclarationError, match="give_up_on"):
        Agent("a").capability(name="work", give_up_on=classes)(lambda: None)


@pytest.mark.parametrize("after_s", [-1, float("nan"), 1e9])
def test_a_retry_after_that_is_no_time_is_refused(after_s: float) -> None:
    with pytest.raises(UsageError):
        Retry(after_s=after_s)


# ---- breakers


def test_a_node_that_goes_silent_again_and_again_is_left_alone_for_a_while() -> None:
    bad, good = Agent("worker"), Agent("worker")

    @bad.capability(name="work", heartbeat_timeout_s=1, idempotent=True)
    async def hang(n: int) -> str:
        await asyncio.Event().wait()
        return "never"

    @good.capability(name="work", heartbeat_timeout_s=1, idempotent=True)
    async def work(n: int) -> str:
        return "done"

    async def story() -> None:
        async with LocalMesh(nodes={"n1": [], "n2": [bad], "n3": [good]}) as m:
            refused: list[Any] = []
            for n in range(30):
                task = await m.submit("work", n=n)
                assert await task.result() == "done"
                decided = [entry for entry in await task.why() if entry["kind"] == "Decided"]
                refused += [refusal for entry in decided for refusal in entry["refusals"] if refusal[2] == "breaker_open"]
                if refused:
                    break
            assert refused[0][:2] == ["n2", "n2"]

    run(story())


# ---- cancellation


def tree() -> tuple[Agent, dict[str, float], list[str], Any]:
    """``top`` has two ``middle`` steps, each of which has two ``leaf`` steps that take a day. Who began, who was stopped and when."""
    agent, stopped, began = Agent("tree", concurrency=20), {}, []
    mesh: list[LocalMesh] = []

    async def noted(ctx: Context, what: str, work: Any) -> None:
        began.append(what)
        try:
            await work
        finally:
            stopped[what] = mesh[0].now_s

    @agent.capability
    async def leaf(ctx: Context, at: str) -> None:
        await noted(ctx, at, ctx.sleep(86400))

    @agent.capability
    async def middle(ctx: Context, at: str) -> None:
        await noted(ctx, at, asyncio.gather(*(ctx.step(n, "leaf", at=f"{at}.{n}") for n in "ab")))

    @agent.capability
    async def top(ctx: Context) -> None:
        await noted(ctx, "top", asyncio.gather(*(ctx.step(n, "middle", at=n) for n in "ab")))

    return agent, stopped, began, mesh


EVERYBODY = ["a", "a.a", "a.b", "b", "b.a", "b.b", "top"]


def test_a_cancellation_goes_down_the_whole_tree_at_once() -> None:
    agent, stopped, began, mesh = tree()

    async def story() -> None:
        async with LocalMesh(agents=[agent]) as m:
            mesh.append(m)
            task = await m.submit("top")
            while len(began) < 7:
                await m.sleep(0.1)
            at_s = m.now_s
            await task.cancel("changed my mind")
            with pytest.raises(TaskCancelled):
                await task.result()
            await m.sleep(1)
            assert sorted(stopped) == EVERYBODY
            assert max(stopped.values()) - at_s < 0.5
            assert {row["state"] for row in (await m.tasks())["tasks"]} == {"cancelled"}

    run(story())


def test_what_cannot_be_told_is_cancelled_when_its_lease_is_over() -> None:
    """Its node is cut off: nobody can say that it has stopped, and nobody waits longer than for the lease and the margin."""
    agent, _, began, mesh = tree()

    async def story() -> None:
        async with LocalMesh(nodes={"n1": [], "n2": [agent], "n3": [agent]}) as m:
            mesh.append(m)
            task = await m.submit("top")
            while len(began) < 7:
                await m.sleep(0.1)
            owners = {row["owner"] for row in (await m.tasks())["tasks"]}
            assert owners == {"n2", "n3"}
            m.partition(["n1", "n2"], ["n3"])
            at_s = m.now_s
            await task.cancel()
            while any(row["state"] != "cancelled" for row in (await m.at("n1").tasks())["tasks"]):
                await m.sleep(0.1)
            limits = m.world.limits.work
            # (A question to all waits `gather_s` for the node that is cut off.)
            assert m.now_s - at_s < limits.lease_s + limits.margin_s + limits.gather_s + 0.3

    run(story())


# ---- poison


def test_a_task_that_takes_down_three_nodes_is_put_away_until_a_person_frees_it() -> None:
    agent, ran = Agent("worker"), []

    @agent.capability(idempotent=True)
    async def work(ctx: Context) -> str:
        ran.append(ctx.task.id)
        if len(ran) <= 3:
            await ctx.sleep(60)
        return "done"

    async def story() -> None:
        # Without keepers: three of five nodes go for good, two of them perhaps those that would keep the journal of n1.
        nodes: dict[str, list[Agent]] = {"n1": [], "n2": [agent], "n3": [agent], "n4": [agent], "n5": [agent]}
        async with LocalMesh(nodes=nodes, limits=Limits(keeping=KeepingLimits(keepers=0))) as m:
            task = await m.submit("work")
            for attempt in range(1, 4):
                while len(ran) < attempt or (await task.status())["state"] != "held":  # what was not accepted ran nowhere
                    await m.sleep(0.05)
                m.kill((await task.status())["owner"])
            with pytest.raises(TaskFailed) as caught:
                await task.result()
            assert caught.value.kind == "poison" and "mesh retry" in caught.value.message
            again = (await m.at("n1").retry(task.id))["task"]
            assert (await m.at("n1").result(again))["result"] == "done"
            assert (await m.at("n1").task(again))["again"] == task.id

    run(story())


# ---- drain


def test_a_node_that_drains_ends_its_work_and_gets_no_more_until_it_is_undone() -> None:
    agent = Agent("worker", concurrency=1)

    @agent.capability
    async def work(ctx: Context, seconds: float) -> float:
        await ctx.sleep(seconds)
        return seconds

    async def story() -> None:
        async with LocalMesh(nodes={"n1": [], "n2": [agent], "n3": [agent]}) as m:
            client, there = m.at("n1"), m.at("n2")
            tasks = [await client.submit("work", seconds=8.0) for _ in range(4)]
            await m.sleep(0.5)
            before_s = m.now_s
            assert (await there.drain())["running"] == 1
            done = await there.drain(wait_s=60)
            assert (done["draining"], done["running"]) == (True, 0) and m.now_s - before_s < 12
            results = [await task.result() for task in tasks]
            assert results == [8.0] * 4
            for _ in range(3):
                task = await client.submit("work", seconds=0.1)
                await task.result()
                (decided,) = [entry for entry in await task.why() if entry["kind"] == "Decided"]
                assert decided["winner"] == "n3" and ["n2", "n2", "draining"] in [list(one) for one in decided["refusals"]]
            assert (await there.drain(undo=True))["draining"] is False
            await m.sleep(1)
            several = [await client.submit("work", seconds=5.0) for _ in range(4)]
            await m.sleep(1)
            assert {"n2", "n3"} <= {(await task.status())["owner"] for task in several}
            with pytest.raises(UsageError):
                await there.drain(wait_s=-1)

    run(story())
