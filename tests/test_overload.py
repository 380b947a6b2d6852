"""A small mesh that is asked for ten times what it may hold: every way in refuses and says when to come back, and nothing grows."""

from __future__ import annotations

import asyncio
from dataclasses import asdict, replace
from typing import Any

from mesh import Agent, Context
from mesh.errors import MeshError, Overloaded
from mesh.limits import Limits
from mesh.testing import LocalMesh

MOST = 20
FLOOD = 10 * MOST
KEYS = 4


def run(work: Any) -> Any:
    return asyncio.run(asyncio.wait_for(work, 30))


def small(**changes: Any) -> Limits:
    limits = Limits()
    return replace(limits, work=replace(limits.work, tasks_max=MOST, ended_remembered=50, calls_remembered=50, shares_max=KEYS, **changes))


async def said(work: Any) -> Any:
    """The result, or the error of the mesh."""
    try:
        return await work
    except MeshError as error:
        return error


async def read(stream: Any) -> Any:
    return await said(stream.__anext__())


def sizes(m: LocalMesh) -> dict[str, int]:
    """The largest that any node's tables say of themselves."""
    most: dict[str, int] = {}
    for host in m.world.living():
        assembly = host.assembly
        for machine in (assembly.manager, assembly.contractor, assembly.desk):
            for name, value in asdict(machine.statistics()).items():
                if type(value) is not tuple:
                    most[name] = max(most.get(name, 0), int(value))
        most["deadlines"] = max(most.get("deadlines", 0), len(assembly.deadlines))
    return most


def worker(refused: list[Overloaded]) -> Agent:
    agent = Agent("worker", concurrency=2)

    @agent.capability
    async def work(ctx: Context) -> str:
        await ctx.sleep(1.0)
        return "done"

    @agent.capability
    async def rows(ctx: Context) -> str:
        await ctx.sleep(1.0)
        return "rows"

    @agent.capability
    async def parent(ctx: Context) -> str:
        """Asks for ten times as many children as there is room for, as steps and as calls."""
        steps = [said(ctx.step(f"s{number}", "work")) for number in range(FLOOD)]
        calls = [said(ctx.call("work")) for _ in range(FLOOD)]
        ends = await asyncio.gather(*steps, *calls)
        refused.extend(end for end in ends if isinstance(end, Overloaded))
        assert all(end == "done" or isinstance(end, Overloaded) for end in ends), ends
        assert "done" in ends
        return "parent"

    return agent


def test_every_way_in_refuses_with_a_time_to_come_back_and_no_table_grows_beyond_its_bound() -> None:
    async def story() -> None:
        refused: list[Overloaded] = []
        async with LocalMesh(nodes={"n1": [], "n2": [worker(refused)]}, limits=small(asks_max=FLOOD)) as m:
            before = sizes(m)
            flood: list[Any] = [said(m.options(share=f"t{number}").submit("work")) for number in range(FLOOD)]
            flood += [said(m.options(priority=number % 9 + 1).call("work")) for number in range(FLOOD)]
            flood += [read(m.stream("rows")) for _ in range(FLOOD)]
            flooding = asyncio.gather(*flood)
            largest = sizes(m)
            for _ in range(40):
                await m.sleep(0.25)
                largest = {name: max(size, largest[name]) for name, size in sizes(m).items()}
            ends = await flooding
            for way in (ends[:FLOOD], ends[FLOOD : 2 * FLOOD], ends[2 * FLOOD :]):
                errors = [end for end in way if isinstance(end, MeshError)]
                assert errors and all(isinstance(error, Overloaded) and 0.1 <= error.retry_after_s <= 5 for error in errors), errors
            taken = sum(not isinstance(end, MeshError) for end in ends)
            assert taken == MOST, "as many as there was room for, and no more"
            assert await m.submit("parent")
            await m.sleep(60.0)
            assert refused and all(error.retry_after_s > 0 for error in refused)
            largest = {name: max(size, largest[name]) for name, size in sizes(m).items()}
            bounds = {"live": MOST, "waiting": MOST, "held": MOST, "auctions": MOST, "streams": MOST, "readers_waiting": MOST}
            bounds |= {"queued": MOST, "ended_remembered": 50, "calls_remembered": 50, "share_keys": KEYS + 1}
            bounds |= {"asking": FLOOD, "steps": FLOOD, "prices_waiting": 0, "retries_waiting": MOST}
            assert {name: largest[name] for name, most in bounds.items() if largest[name] > most} == {}
            # A few timers for each task and each node, and what is about members.
            assert largest["deadlines"] <= before["deadlines"] + 6 * MOST + FLOOD
            after = sizes(m)
            gone = ("live", "waiting", "held", "streams", "readers_waiting", "queued", "asking", "steps", "input_bytes")
            assert {name: after[name] for name in gone if after[name]} == {}, "and all of it comes back"

    run(story())


def test_questions_and_steps_beyond_the_table_are_refused_as_overloaded() -> None:
    async def story() -> None:
        refused: list[Overloaded] = []
        async with LocalMesh(nodes={"n1": [worker(refused)]}, limits=small(asks_max=5)) as m:
            task = await m.submit("work")
            ends = await asyncio.gather(*(said(task.result()) for _ in range(20)))
            assert sum(isinstance(end, Overloaded) and end.retry_after_s == 1 for end in ends) == 15
            assert ends.count("done") == 5

    run(story())
