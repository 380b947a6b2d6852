"""`LocalMesh`: a mesh inside a test, in virtual time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from mesh import Agent, Bid, Context, File
from mesh.errors import InvalidArgument, MeshError, NodeLost, NoNode, Overloaded, Refused, TaskFailed, TimedOut, UsageError
from mesh.limits import Limits, WorkLimits
from mesh.sync import Context as BlockingContext
from mesh.testing import LocalMesh


def greeter() -> Agent:
    agent = Agent("greeter")

    @agent.capability(idempotent=True)
    async def greet(name: str) -> str:
        return f"hello {name}"

    @agent.capability
    def shout(name: str) -> str:
        return name.upper()

    return agent


def run(work: Any) -> Any:
    return asyncio.run(asyncio.wait_for(work, 20))


def test_a_call_a_submission_and_its_story() -> None:
    async def story() -> None:
        async with LocalMesh(agents=[greeter()]) as m:
            assert await m.call("greet", name="Bob") == "hello Bob"
            assert await m.call("shout", name="Bob") == "BOB"
            task = await m.submit("greet", name="Ann")
            assert await task.result() == "hello Ann"
            kinds = [entry["kind"] for entry in await task.why()]
            assert kinds[0] == "Submitted" and kinds[-1] in ("Finished", "Closed") and "Decided" in kinds
            assert all(entry["verified"] for entry in await task.why())
            assert task.id in [row["task"] for row in (await m.tasks())["tasks"]]
            assert {row["name"] for row in (await m.nodes())["nodes"]} == {"n1", "n2", "n3"}

    run(story())


def test_what_is_submitted_under_one_key_is_one_task_from_every_node() -> None:
    async def story() -> None:
        async with LocalMesh(agents=[greeter()]) as m:
            tasks = [await m.at(node).options(key="bob").submit("greet", name="Bob") for node in ("n1", "n2", "n3", "n1")]
            assert len({task.id for task in tasks}) == 1 and await tasks[0].result() == "hello Bob"
            with pytest.raises(Refused, match="was given to other work") as refused:
                await m.at("n2").options(key="bob").submit("greet", name="Ann")
            assert refused.value.code == "key_taken" and tasks[0].id in refused.value.fix
            assert [entry["kind"] for entry in await tasks[0].why()][:2] == ["Submitted", "Claimed"]

    run(story())


def test_a_revoked_node_is_out_and_the_journals_say_so() -> None:
    async def story() -> None:
        async with LocalMesh(agents=[greeter()]) as m:
            client = m.at("n1")
            assert (await client.audit(everywhere=True))["entries"] == []
            m.world.revoke("n3", at="n1")
            await m.sleep(1)
            assert await m.call("greet", name="Bob") == "hello Bob"
            found = await client.audit("n3", everywhere=True)
            assert sorted((e["what"], e["about_name"], e["node"], e["verified"]) for e in found["entries"]) == [
                ("revoked", "n3", "n1", True),
                ("revoked", "n3", "n2", True),
            ]
            assert found["schema"] == "mesh.audit/1" and found["missing"] == []
            assert [e["node"] for e in (await client.audit())["entries"]] == ["n1"]

    run(story())


def test_thirty_days_and_a_retry_take_no_time() -> None:
    agent, days = Agent("patient"), 30 * 86400.0
    tries: list[float] = []

    @agent.capability(retries=3)
    async def wait(ctx: Context) -> int:
        tries.append(0)
        if len(tries) == 1:
            raise ValueError("not yet")
        await ctx.sleep(days)
        return len(tries)

    async def story() -> float:
        async with LocalMesh(agents=[agent]) as m:
            began = time.perf_counter()
            task = await m.submit("wait")
            assert await task.result() == 2
            assert m.now_s >= days
            return time.perf_counter() - began

    assert run(story()) < 2.0  # measured: tens of milliseconds; the bound is for busy machines


def test_a_killed_node_loses_its_work_to_another() -> None:
    agent, ran = Agent("worker"), list[int]()

    @agent.capability(idempotent=True)
    async def work(ctx: Context) -> int:
        ran.append(ctx.task.attempt)
        await ctx.sleep(20)
        return ctx.task.attempt

    async def story() -> None:
        async with LocalMesh(nodes={"n1": [], "n2": [agent], "n3": [agent]}, seed=7) as m:
            task = await m.submit("work")
            await m.sleep(1.0)
            owner = (await task.status())["owner"]
            m.kill(owner)
            assert await task.result() == 2
            assert (await task.status())["owner"] != owner
            assert ran == [1, 2]

    run(story())


def test_the_managers_restart_keeps_what_was_submitted() -> None:
    agent = Agent("worker")

    @agent.capability
    async def work(ctx: Context) -> str:
        await ctx.sleep(5)
        return "done"

    async def story() -> None:
        async with LocalMesh(nodes={"n1": [], "n2": [agent]}) as m:
            task = await m.at("n1").submit("work")
            await m.sleep(1.0)
            m.kill("n1")
            await m.sleep(1.0)
            m.restart("n1")
            await m.sleep(1.0)
            assert await m.at("n1").result(task.id) == {"schema": "mesh.result/1", "task": task.id, "state": "done", "result": "done"}

    run(story())


def test_a_partition_and_its_healing() -> None:
    agent = greeter()

    async def story() -> None:
        async with LocalMesh(nodes={"n1": [], "n2": [agent]}) as m:
            m.partition({"n1"}, {"n2"})
            await m.sleep(12)
            task = await m.at("n1").submit("greet", name="Bob")
            await m.sleep(5)
            assert (await task.status())["state"] == "parked"
            m.heal()
            assert await task.result() == "hello Bob"

    run(story())


def test_steps_run_once_though_their_flow_runs_twice() -> None:
    agent, counted = Agent("flow"), list[str]()

    @agent.capability(idempotent=True)
    async def count(name: str) -> str:
        counted.append(name)
        return name

    flow, tries = Agent("flows"), list[int]()

    @flow.capability(retries=2)
    async def chain(ctx: Context) -> list[str]:
        tries.append(1)
        first = await ctx.step("one", "count", name="a")
        if len(tries) == 1:
            raise RuntimeError("after the first step")
        both = await asyncio.gather(ctx.step("two", "count", name="b"), ctx.step("three", "count", name="c"))
        return [first, *both]

    async def story() -> None:
        async with LocalMesh(nodes={"n1": [flow], "n2": [agent]}) as m:
            task = await m.submit("chain")
            assert await task.result() == ["a", "b", "c"]
            assert sorted(counted) == ["a", "b", "c"] and len(tries) == 2

    run(story())


def test_timeouts_are_virtual() -> None:
    agent = Agent("slow")

    @agent.capability
    async def forever(ctx: Context) -> None:
        await ctx.sleep(1e9)

    @agent.capability
    def blocking(ctx: BlockingContext) -> str:
        ctx.sleep(3600)
        return "slept"

    async def story() -> None:
        async with LocalMesh(agents=[agent]) as m:
            with pytest.raises(TimedOut):
                await m.options(timeout_s=3600).call("forever")
            late = await m.options(timeout_s=30).submit("forever")
            with pytest.raises(MeshError, match="within 30 s"):
                await late.result()
            task = await m.submit("blocking")
            assert await task.result() == "slept"

    run(story())


def test_errors_are_those_of_a_real_mesh() -> None:
    agent = Agent("bad")

    @agent.capability
    async def broken(n: int) -> int:
        raise KeyError("lost")

    async def story() -> None:
        async with LocalMesh(agents=[agent]) as m:
            with pytest.raises(TaskFailed, match="lost"):
                await m.call("broken", n=1)
            with pytest.raises(InvalidArgument):
                await m.call("broken", n="many")
            with pytest.raises(MeshError, match="nobody here offers"):
                await m.call("brokn", n=1)
            with pytest.raises(UsageError, match="no node 'n9'"):
                m.kill("n9")

    run(story())


def test_a_client_of_a_killed_node_hears_of_it() -> None:
    agent = Agent("slow")

    @agent.capability
    async def forever(ctx: Context) -> None:
        await ctx.sleep(1e9)

    async def story() -> None:
        async with LocalMesh(agents=[agent]) as m:
            waiting = asyncio.create_task(m.at("n1").options(timeout_s=None).call("forever"))
            await m.sleep(1)
            m.kill("n1")
            with pytest.raises(NodeLost):
                await waiting

    run(story())


def test_bids_and_lifespans() -> None:
    closed: list[str] = []

    def priced(name: str, cost: float) -> Agent:
        agent = Agent(name)

        @agent.lifespan
        async def open() -> AsyncIterator[str]:
            yield name
            closed.append(name)

        @agent.capability(name="render")
        async def render(page: int, ctx: Context) -> str:
            return f"{ctx.lifespan} {page}"

        @agent.bid("render")
        async def price(page: int) -> Bid | None:
            return Bid(cost=cost) if page < 10 or name == "dear" else None

        return agent

    async def story() -> None:
        async with LocalMesh(nodes={"n1": [], "n2": [priced("cheap", 1)], "n3": [priced("dear", 9)]}) as m:
            assert await m.call("render", page=1) == "cheap 1"
            assert await m.call("render", page=20) == "dear 20"
        assert sorted(closed) == ["cheap", "dear"]

    run(story())


def test_files_travel(tmp_path: Path) -> None:
    agent = Agent("files")

    @agent.capability
    async def lines(raw: File) -> int:
        return len(raw.path.read_text().splitlines())

    async def story() -> None:
        (tmp_path / "data.csv").write_text("a\nb\nc\n" * 40_000)
        async with LocalMesh(nodes={"n1": [], "n2": [agent]}) as m:
            assert await m.call("lines", raw=File.of(tmp_path / "data.csv")) == 120_000

    run(story())


def test_the_same_seed_is_the_same_run() -> None:
    async def story(seed: int) -> str:
        async with LocalMesh(agents=[greeter()], seed=seed) as m:
            for number in range(5):
                await m.call("greet", name=str(number))
            m.kill("n2")
            await m.sleep(5)
            return m.world.trace.hash()

    assert run(story(3)) == run(story(3)) != run(story(4))


# ---- disks and power


def patient(tries: list[float], now_s: Any, days: float, *, blocking: bool) -> Agent:
    """Its capability fails until `days` have passed."""
    agent = Agent("patient")

    def attempt() -> int:
        tries.append(now_s())
        if tries[-1] < days * DAY_S:
            raise ConnectionError("the other side is still down")
        return len(tries)

    async def attempt_async() -> int:
        return attempt()

    agent.capability(name="fetch", retries=1000)(attempt if blocking else attempt_async)

    return agent


DAY_S = 86400.0
DAILY = Limits(work=WorkLimits(retry_min_s=2 * DAY_S, retry_max_s=2 * DAY_S))
"""A retry after up to two days."""


@pytest.mark.parametrize("blocking", [False, True], ids=["async", "plain"])
def test_thirty_days_of_retries_take_few_events(blocking: bool) -> None:
    tries: list[float] = []

    async def story() -> int:
        agent = patient(tries, lambda: m.now_s, 30, blocking=blocking)
        async with LocalMesh(agents=[agent], limits=DAILY) as m:
            before = m.world.trace.events
            task = await m.submit("fetch")
            assert await task.result() == len(tries)
            assert 30 * DAY_S <= m.now_s < 33 * DAY_S
            return m.world.trace.events - before

    events = run(story())
    assert 10 < len(tries) < 100
    # Ten days lived through would be 40 million: an idle mesh of three makes about 50 a second.
    assert events < 200 * len(tries)


def test_what_was_acknowledged_outlives_a_power_cut_of_everything() -> None:
    tries: list[float] = []

    async def story() -> None:
        agent = patient(tries, lambda: m.now_s, 30, blocking=False)
        async with LocalMesh(agents=[agent], limits=DAILY) as m:
            task = await m.submit("fetch")
            await m.sleep(10 * DAY_S)
            m.power_cut()
            with pytest.raises(NoNode):
                await m.call("fetch")
            await m.sleep(DAY_S)
            m.restart()
            assert await task.result() == len(tries)
            assert m.now_s >= 30 * DAY_S

    run(story())


def test_a_power_cut_takes_what_was_not_synced_and_nobody_was_told_of() -> None:
    async def story() -> None:
        async with LocalMesh(nodes={"n1": [], "n2": [greeter()]}) as m:
            m.slow_disk("n1", sync_s=4.0)
            submitting = asyncio.create_task(m.at("n1").submit("greet", name="Bob"))
            await m.sleep(1.0)
            assert not submitting.done(), "it is not on the disk yet"
            m.power_cut("n1")
            with pytest.raises(NodeLost):
                await submitting
            m.mend_disk("n1")
            m.restart("n1")
            await m.sleep(1.0)
            assert (await m.at("n1").tasks())["tasks"] == []
            assert await m.call("greet", name="Ann") == "hello Ann"

    run(story())


def test_a_slow_disk_delays_what_is_promised_and_not_what_is_only_called() -> None:
    async def story() -> None:
        async with LocalMesh(nodes={"n1": [], "n2": [greeter()]}) as m:
            m.slow_disk("n1", sync_s=4.0)
            began_s = m.now_s
            assert await m.call("greet", name="Ann") == "hello Ann"
            assert m.now_s - began_s < 1.0
            task = await m.submit("greet", name="Bob")
            assert m.now_s - began_s > 2.0
            assert await task.result() == "hello Bob"

    run(story())


def test_a_full_disk_ends_the_node_and_its_work_goes_elsewhere() -> None:
    agent, ran = Agent("worker"), list[int]()

    @agent.capability(idempotent=True)
    def work(ctx: BlockingContext) -> int:
        ran.append(ctx.task.attempt)
        ctx.sleep(20)
        return int(ctx.task.attempt)

    async def story() -> None:
        async with LocalMesh(nodes={"n1": [], "n2": [agent], "n3": [agent]}) as m:
            task = await m.submit("work")
            await m.sleep(1.0)
            owner = (await task.status())["owner"]
            m.fill_disk(owner)
            assert await task.result() == 2, "its end could not be written there"
            with pytest.raises(UsageError, match=f"the disk of {owner} is full"):
                m.restart(owner)
            m.mend_disk(owner)
            m.restart()
            await m.sleep(1.0)
            assert all(row["state"] == "alive" for row in (await m.nodes())["nodes"])

    run(story())


def test_a_timeout_of_days_counts_from_the_submission_through_a_power_cut() -> None:
    agent = Agent("slow")

    @agent.capability
    async def forever(ctx: Context) -> None:
        await ctx.sleep(1e9)

    async def story() -> None:
        async with LocalMesh(nodes={"n1": [], "n2": [agent]}) as m:
            task = await m.options(timeout_s=10 * DAY_S).submit("forever")
            await m.sleep(4 * DAY_S)
            assert (await task.status())["age_ms"] == pytest.approx(4 * DAY_S * 1000, rel=0.01)
            m.power_cut("n1")
            await m.sleep(DAY_S)
            m.restart()
            await m.sleep(1.0)
            with pytest.raises(MeshError, match="864000 s"):
                await task.result()
            assert m.now_s == pytest.approx(10 * DAY_S, rel=0.01)

    run(story())


def test_misuse_says_what_to_write() -> None:
    async def story() -> None:
        async with LocalMesh(agents=[greeter()]) as m:
            with pytest.raises(UsageError, match="n2 is up"):
                m.restart("n2")
            with pytest.raises(UsageError, match="a sync cannot take -1 s"):
                m.slow_disk("n2", sync_s=-1)
            with pytest.raises(UsageError, match="no node 'n9'"):
                m.power_cut("n1", "n9")
            assert len((await m.nodes())["nodes"]) == 3, "nothing was cut"

    run(story())
    for early in (LocalMesh(agents=[greeter()]).heal, lambda: LocalMesh(agents=[greeter()]).kill("n1")):
        with pytest.raises(UsageError, match="has not begun"):
            early()
    with pytest.raises(UsageError, match="either agents or nodes"):
        LocalMesh()


def test_a_flow_lends_its_slot_to_its_own_steps() -> None:
    """One slot in the whole mesh: a step queued behind its parent, which waits for it, would wait for ever."""
    agent = Agent("narrow", concurrency=1)

    @agent.capability
    async def leaf(x: int) -> int:
        return x

    @agent.capability
    async def flow(ctx: Context) -> list[int]:
        one = await ctx.step("one", "leaf", x=1)
        return [one, *await asyncio.gather(ctx.step("two", "leaf", x=2), ctx.call("leaf", x=3))]

    @agent.capability
    def blocking(ctx: BlockingContext) -> int:
        return int(ctx.step("one", "leaf", x=4))

    async def story() -> None:
        async with LocalMesh(nodes={"n1": [agent]}) as m:
            assert await (await m.submit("flow")).result() == [1, 2, 3]
            assert await m.call("blocking") == 4
            both = await asyncio.gather(*(m.call("flow") for _ in range(5)))
            assert both == [[1, 2, 3]] * 5

    run(story())


def test_a_full_node_says_when_to_come_back() -> None:
    async def story() -> None:
        limits = Limits(work=WorkLimits(tasks_max=1))
        async with LocalMesh(agents=[greeter()], limits=limits) as m:
            waits = await m.at("n1").submit("paint", wall="north")
            with pytest.raises(Overloaded, match="already manages 1 tasks") as refused:
                await m.at("n1").call("greet", name="Bob")
            assert refused.value.exit_code == 5 and refused.value.retry_after_s == 1.0
            await waits.cancel()
            assert await m.at("n1").call("greet", name="Bob") == "hello Bob"

    run(story())
