"""Limits over the whole mesh as users meet them: real handlers on simulated nodes, virtual time."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from mesh import Agent, Context
from mesh.errors import DeclarationError
from mesh.testing import LocalMesh


def run(work: Any) -> Any:
    return asyncio.run(asyncio.wait_for(work, 30))


def test_no_more_run_at_once_over_all_nodes_than_the_limit_and_no_slot_is_left_unused() -> None:
    agent, running, most = Agent("scarce", concurrency=4), [0], [0]

    @agent.capability(limit=3)
    async def work(ctx: Context) -> None:
        running[0] += 1
        most[0] = max(most[0], running[0])
        await ctx.sleep(1.0)
        running[0] -= 1

    async def story() -> None:
        async with LocalMesh(nodes={"n1": [agent], "n2": [agent], "n3": [agent]}) as m:
            await m.sleep(3.0)  # until everybody is sure who else offers it
            began_s = m.now_s
            await asyncio.gather(*(m.at(f"n{number % 3 + 1}").call("work") for number in range(18)))
            assert most == [3]
            assert 6.0 <= m.now_s - began_s < 7.5, "six rounds of three"

    run(story())


def test_what_waits_for_a_slot_says_so() -> None:
    agent = Agent("scarce", concurrency=4)

    @agent.capability(limit=1)
    async def work(ctx: Context) -> None:
        await ctx.sleep(10.0)

    async def story() -> None:
        async with LocalMesh(nodes={"n1": [agent], "n2": [agent]}) as m:
            await m.sleep(3.0)
            tasks = [await m.submit("work") for _ in range(2)]
            await m.sleep(2.0)
            notes = {(await task.status())["note"] for task in tasks}
            assert notes == {"", "waits for a slot of its limit over the mesh"}
            await asyncio.gather(*(task.result() for task in tasks))

    run(story())


def test_no_second_sees_more_starts_than_the_rate() -> None:
    agent, starts = Agent("paced"), []

    async def story() -> None:
        async with LocalMesh(agents=[agent]) as m:
            clock.append(m)
            await asyncio.gather(*(m.at(f"n{number % 3 + 1}").call("work") for number in range(20)))
            assert all(later - earlier >= 1.0 for earlier, later in zip(starts, starts[5:], strict=False))
            assert starts[-1] - starts[0] < 6.0, "not much slower either"

    clock: list[LocalMesh] = []

    @agent.capability(rate="5/s")
    async def work() -> None:
        starts.append(clock[0].now_s)

    run(story())


def test_the_owner_of_the_limit_dies_and_what_runs_goes_on() -> None:
    agent, attempts = Agent("long", concurrency=4), []

    @agent.capability(limit=2)
    async def work(ctx: Context) -> str:
        attempts.append(ctx.task.id)
        await ctx.sleep(20.0)
        return "done"

    async def story() -> None:
        async with LocalMesh(nodes={"n1": [agent], "n2": [agent], "n3": [agent], "n4": []}) as m:
            tasks = [await m.at("n4").submit("work") for _ in range(4)]
            await m.sleep(5.0)
            seen = {host.name: host.assembly.contractor.statistics() for host in m.world.living()}
            owner = max(seen, key=lambda name: seen[name].limit_leases)
            assert seen[owner].limit_leases and sum(one.busy for one in seen.values()) == 2
            m.kill(owner)
            assert [await task.result() for task in tasks] == ["done"] * 4
            assert len(attempts) == 4 + seen[owner].busy, "what ran elsewhere was not stopped for want of an owner"
            assert sum(host.assembly.contractor.statistics().limit_stopped for host in m.world.living()) == 0

    run(story())


@pytest.mark.parametrize("bounds", [{"limit": 0}, {"limit": 1.5}, {"rate": "10"}, {"rate": "0/s"}, {"rate": 10}, {"rate": "1/d"}])
def test_what_is_no_limit_is_refused_where_it_is_declared(bounds: dict[str, Any]) -> None:
    with pytest.raises(DeclarationError):

        @Agent("a").capability(**bounds)
        def work() -> None: ...
