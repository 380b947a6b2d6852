"""Labels and resources as users write them, and in a mesh: work goes where it fits, and no machine is asked for more than it has."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from mesh import Agent, Context
from mesh.errors import DeclarationError, MeshError, NoSuchLabel, UsageError
from mesh.labels import amounts_in, amounts_of, labels_of, state
from mesh.sync import Context as BlockingContext
from mesh.testing import LocalMesh


def run(work: Any) -> Any:
    return asyncio.run(asyncio.wait_for(work, 20))


def test_labels_are_a_mapping_or_words() -> None:
    assert labels_of({"zone": "eu", "gpu": True, "rack": 4}) == labels_of(["rack=4", "zone=eu", "gpu"]) == ("gpu", "rack=4", "zone=eu")
    assert labels_of(None) == ()


@pytest.mark.parametrize("given", ["zone=eu", {"zone": False}, {"zone": "a b"}, ["=eu"], ["zone="], ["gpu", "gpu=1"], {4: "eu"}, [3]])
def test_what_is_no_label_is_said_so(given: Any) -> None:
    with pytest.raises(UsageError, match="labels"):
        labels_of(given)


def test_amounts_are_thousandths() -> None:
    assert amounts_of({"memory_gib": 0.5, "gpu": 2}) == amounts_in(["gpu=2", "memory_gib=0.5"]) == (("gpu", 2000), ("memory_gib", 500))
    for wrong in ({"gpu": 0}, {"gpu": "1"}, {"g p u": 1}, {"gpu": float("nan")}, {"gpu": True}):
        with pytest.raises(UsageError, match="resources"):
            amounts_of(wrong)
    with pytest.raises(UsageError, match="--resource"):
        amounts_in(["gpu"])


def trainer(runs: list[str], **machine: Any) -> Agent:
    agent = Agent("trainer", **machine)

    @agent.capability(needs={"gpu": 0.5}, idempotent=True)
    async def train(ctx: Context, name: str) -> str:
        runs.append(name)
        assert len(runs) <= 2, "half a GPU each, and there is one"
        await ctx.sleep(1.0)
        runs.remove(name)
        return name

    @agent.capability
    async def where() -> str:
        return str(machine["labels"]["zone"])

    @agent.capability
    async def guide(ctx: Context, zones: list[str]) -> list[str]:
        steps = [await ctx.options(where={"zone": zone}).step(zone, "where") for zone in zones]
        return steps + [await ctx.options(where=[f"zone={zone}"]).call("where") for zone in zones]

    @agent.capability
    def blocking_guide(ctx: BlockingContext, zone: str) -> list[str]:
        elsewhere = ctx.options(where={"zone": zone})
        return [elsewhere.step("there", "where"), elsewhere.call("where")]

    @agent.capability
    async def impatient(ctx: Context) -> str:
        with pytest.raises(UsageError, match="a timeout of -1"):
            ctx.options(timeout_s=-1)
        try:
            await ctx.options(where={"zone": "jp"}, timeout_s=5).step("far", "where")
        except MeshError as error:
            return error.code
        return "somebody has it"

    return agent


def test_what_a_capability_needs_its_agent_must_have() -> None:
    with pytest.raises(DeclarationError, match=r"needs gpu=0\.5, and it has 0; mesh run FILE --resource gpu=AMOUNT"):
        trainer([], labels={"zone": "eu"}).offers()
    agent = trainer([], labels={"zone": "eu", "gpu": True})
    state(agent, ("zone=us",), (("gpu", 1000),))
    assert (agent.labels, agent.offers()[0].needs) == (("gpu", "zone=us"), (("gpu", 500),))
    with pytest.raises(DeclarationError, match="agent 'x': resources"):
        Agent("x", resources={"gpu": -1})


def test_a_handler_says_where_its_steps_and_calls_go() -> None:
    async def story() -> None:
        nodes = {zone: [trainer([], labels={"zone": zone}, resources={"gpu": 1})] for zone in ("eu", "us")}
        async with LocalMesh(nodes=nodes) as m:
            assert await m.call("guide", zones=["us", "eu"]) == ["us", "eu", "us", "eu"]
            for zone in ("eu", "us"):
                assert await m.call("blocking_guide", zone=zone) == [zone, zone]
            task = await m.submit("impatient")
            assert await task.result() == "timed_out" and 5 <= m.now_s < 10
            assert "no_label: nobody has zone=jp" in str(await task.why())

    run(story())


def test_in_a_mesh_work_goes_where_it_fits_and_waits_visibly_where_nobody_does() -> None:
    async def story() -> None:
        runs: dict[str, list[str]] = {"eu": [], "us": []}
        nodes = {name: [trainer(runs[name], labels={"zone": name}, resources={"gpu": 1})] for name in runs}
        async with LocalMesh(nodes=nodes) as m:
            for zone in runs:
                assert [await m.options(where={"zone": zone}).call("where") for _ in range(3)] == [zone] * 3
            began_s = m.now_s
            done = await asyncio.gather(*(m.call("train", name=str(number)) for number in range(8)))
            assert done == [str(number) for number in range(8)] and m.now_s - began_s < 3.5
            with pytest.raises(NoSuchLabel, match="nobody has zone=jp; nearest: zone=eu, zone=us"):
                await m.options(where={"zone": "jp"}).call("where")
            task = await m.options(where=["zone=jp"]).submit("where")
            await m.sleep(0.1)
            assert (await task.status())["reason"] == "no_label: nobody has zone=jp; nearest: zone=eu, zone=us"
            assert [entry["reason"] for entry in await task.why() if entry["kind"] == "Parked"] == [(await task.status())["reason"]]
            await task.cancel()

    run(story())
