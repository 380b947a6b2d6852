"""One small suite over the three modes of a mesh: whoever manages the work, clients get the same answers."""

from __future__ import annotations

import asyncio
import functools
import hashlib
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest

from mesh import Agent, Context
from mesh.coordinator import coordinator
from mesh.core.policy.rules import CENTRAL, DECENTRALIZED, HYBRID
from mesh.errors import NodeLost, NoSuchCapability, Refused, TaskCancelled, TaskFailed, TimedOut
from mesh.files import File
from mesh.flows.agent import agent as flows
from mesh.testing import LocalMesh

Story = Callable[..., Coroutine[Any, Any, None]]
POLICIES: dict[str, dict[str, Any]] = {
    DECENTRALIZED: {"policy": "t", "rule": [{"id": "note", "match": {"capability": "add"}, "at_most": {"retries": 3}}]},
    HYBRID: {"policy": "t", "mode": "hybrid", "rule": [{"id": "critical", "match": {"capability": "add"}, "admit": "closed"}]},
    CENTRAL: {"policy": "t", "mode": "central", "rule": [{"id": "critical", "match": {"capability": "add"}, "admit": "closed"}]},
}


def over_modes(story: Story) -> Story:
    @pytest.mark.parametrize("mode", POLICIES)
    @functools.wraps(story)
    def test(mode: str) -> None:
        async def told() -> None:
            async with meshed(POLICIES[mode]) as m:
                await story(m, mode)

        asyncio.run(asyncio.wait_for(told(), 30))

    del test.__wrapped__  # type: ignore[attr-defined]
    return test  # type: ignore[return-value]


def worker(ran: list[str]) -> Agent:
    made = Agent("w")

    @made.capability(idempotent=True)
    async def add(a: int, b: int = 1) -> int:
        return a + b

    @made.capability(idempotent=True)
    async def slow(ctx: Context, name: str = "") -> str:
        ran.append(name)
        await ctx.sleep(5.0)
        return f"slow {name}"

    @made.capability(idempotent=True)
    async def parent(ctx: Context) -> list[int]:
        return [await ctx.step("one", "add", a=1), await ctx.call("add", a=2)]

    @made.capability(retries=0)
    async def fails() -> None:
        raise ValueError("no")

    @made.capability
    async def upper(text: File) -> File:
        out = text.path.parent / "upper.txt"
        out.write_bytes(text.path.read_bytes().upper())
        return File.of(out)

    return made


RAN: list[str] = []


@asynccontextmanager
async def meshed(policy: dict[str, Any]) -> AsyncIterator[LocalMesh]:
    RAN.clear()
    served = worker(RAN)
    nodes = {"n1": [coordinator(), served, flows], "n2": [coordinator(), served, flows], "n3": [served, flows], "n4": []}
    async with LocalMesh(nodes=nodes) as m:
        version = (await m.set_policy(policy))["version"]
        for _ in range(200):
            directories = [host.assembly.directory for host in m.world.living()]
            if all(one.rulebook.version == version and one.seat.holder for one in directories):
                break
            await m.sleep(0.05)
        yield m


def holder(m: LocalMesh) -> str:
    return str(m.world.hosts["n4"].assembly.directory.seat.holder)


def managed(m: LocalMesh) -> dict[str, int]:
    return {host.name: host.assembly.manager.statistics().done for host in m.world.living()}


@over_modes
async def test_calls_submits_keys_and_steps(m: LocalMesh, mode: str) -> None:
    client = m.at("n4")
    assert await client.call("add", a=1) == 2
    task = await client.submit("add", a=2, b=3)
    assert await task.result() == 5 and (await client.result(task.id))["state"] == "done"
    named = await asyncio.gather(*(m.at(f"n{i}").options(key="once").submit("add", a=7) for i in (1, 2, 3, 4)))
    assert len({one.id for one in named}) == 1 and await named[0].result() == 8
    with pytest.raises(Refused, match="was given to other work"):
        await client.options(key="once").submit("add", a=8)
    assert await (await client.submit("parent")).result() == [2, 3]
    with pytest.raises(NoSuchCapability, match="add"):
        await client.call("ad")
    assert [entry["kind"] for entry in await task.why()][-1] == "Finished"
    if mode == CENTRAL:
        assert [name for name, done in managed(m).items() if done] == [holder(m)], "one node makes all awards"


@over_modes
async def test_failures_cancels_and_retries(m: LocalMesh, mode: str) -> None:
    client = m.at("n4")
    with pytest.raises(TaskFailed, match="no"):
        await client.call("fails")
    failed = await client.submit("fails")
    with pytest.raises(TaskFailed, match="no"):
        await failed.result()
    again = await client.retry(failed.id)
    assert again["task"] != failed.id
    slow = await client.submit("slow", name="a")
    await m.sleep(1.0)
    assert (await client.cancel(slow.id))["state"] in ("cancelling", "cancelled")
    with pytest.raises(TaskCancelled):
        await slow.result()
    with pytest.raises(TimedOut):
        await client.options(timeout_s=1).call("slow", name="b")


@over_modes
async def test_files_and_a_flow(m: LocalMesh, mode: str) -> None:
    client = m.at("n4")
    given = m.folder / "hello.txt"
    given.write_text("hello")
    wanted = hashlib.sha256(b"HELLO").hexdigest()
    assert (await client.call("upper", text=File.of(given))).sha256 == wanted
    task = await client.submit("upper", text=File.of(given))
    assert (await task.result()).sha256 == wanted
    steps = [
        {"id": "one", "uses": "add", "with": {"a": "$input.a"}},
        {"id": "two", "uses": "add", "needs": ["one"], "with": {"a": "$steps.one"}},
    ]
    done = await client.call("mesh.flow", spec={"flow": "f", "input": {"a": "integer"}, "step": steps}, input={"a": 1})
    assert done["output"]["two"] == 3


@over_modes
async def test_a_contractor_is_killed(m: LocalMesh, mode: str) -> None:
    tasks = [await m.at("n4").submit("slow", name=str(number)) for number in range(3)]
    call = asyncio.create_task(m.at("n4").call("slow", name="call"))
    await m.sleep(1.0)
    victim = next(node for node in ("n3", "n2", "n1") if node != holder(m))
    m.kill(victim)
    assert [await task.result() for task in tasks] == ["slow 0", "slow 1", "slow 2"] and await call == "slow call"


def test_in_mode_central_work_waits_for_another_coordinator_or_is_managed_by_everybody_after_a_time() -> None:
    async def story() -> None:
        async with meshed({"policy": "t", "mode": {"name": "central", "open_after": "20s"}}) as m:
            lost = asyncio.create_task(m.at("n4").call("slow", name="lost"))
            await m.sleep(1.0)
            first = holder(m)
            m.world.crash(first)
            with pytest.raises(NodeLost, match="was lost before it answered"):
                await lost
            assert await m.at("n4").call("add", a=1) == 2, "another is in office"
            m.world.crash(holder(m))
            while holder(m):
                await m.sleep(0.1)
            began_s = m.now_s
            assert await m.at("n4").call("add", a=2) == 3 and m.now_s - began_s >= 19.0
            assert managed(m)["n4"] == 1

    asyncio.run(asyncio.wait_for(story(), 30))
