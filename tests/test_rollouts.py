"""Feature flags and staged rollouts in a whole mesh: decided once for each piece of work, kept whoever dies, ended by themselves."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from mesh import Agent, Context
from mesh.errors import TaskFailed
from mesh.flows.agent import agent as flows
from mesh.flows.checks import checked
from mesh.flows.reading import read_text
from mesh.flows.spec import document
from mesh.inspector.why import explain, show
from mesh.testing import LocalMesh

ROW = {"capability": "render", "from": "1", "to": "2.0", "share": 50, "failure_pct_max": 10, "runs_min": 4, "hold": "1m"}


def run(story: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    @functools.wraps(story)
    def test() -> None:
        asyncio.run(asyncio.wait_for(story(), 30))

    return test


async def rule(m: LocalMesh, *, at: str = "n1", **more: Any) -> None:
    """Another policy, and all are under it."""
    version = (await m.at(at).set_policy({"policy": "tests", **more}))["version"]
    for _ in range(50):
        if all(host.assembly.directory.rulebook.version == version for host in m.world.living()):
            return
        await m.sleep(0.05)
    raise AssertionError("it did not come to everybody")


def renderer(version: str, *, fails: bool = False, took_s: float = 0.02) -> Agent:
    agent = Agent(f"render-{version.replace('.', '-')}")

    @agent.capability(name="render", version=version, idempotent=True)
    async def render(ctx: Context) -> str:
        await ctx.sleep(took_s)
        if fails:
            raise ValueError("the new one is broken")
        return version

    return agent


def driver() -> Agent:
    agent = Agent("driver")

    @agent.capability(idempotent=True)
    async def look(ctx: Context) -> bool:
        return ctx.flag("new-model")

    @agent.capability(idempotent=True)
    async def drive(ctx: Context) -> list[Any]:
        """Sleeps between two looks; another attempt finds the first."""
        first = [ctx.flag("new-model"), await ctx.step("first", "look"), await ctx.step("render 1", "render")]
        await ctx.sleep(20)
        last = [ctx.flag("new-model"), await ctx.step("last", "look"), await ctx.call("look"), await ctx.step("render 2", "render")]
        return [*first, *last, ctx.flag("unheard", default=True)]

    return agent


def many(m: LocalMesh, count: int, capability: str = "render") -> Any:
    return asyncio.gather(*(m.call(capability) for _ in range(count)), return_exceptions=True)


@run
async def test_a_flag_that_is_flipped_changes_nothing_about_what_runs_whoever_dies() -> None:
    async with LocalMesh(nodes={"n1": [renderer("1")], "n2": [driver()], "n3": [driver()], "n4": []}) as m:
        await rule(m, flag=[{"name": "new-model"}])
        old = await m.submit("drive")
        while (await old.status())["survives"] != "node-loss" or (await old.status())["state"] != "held":
            await m.sleep(0.1)
        await m.sleep(1)
        await rule(m, flag=[{"name": "new-model", "default": True}])
        new = await m.submit("drive")
        assert await m.call("look") is True
        await m.sleep(1)
        m.kill("n1")  # who manages both
        await m.attach("n4", renderer("1"))
        assert (await m.at("n4").result(old.id))["result"] == [False, False, "1", False, False, False, "1", True]
        assert (await m.at("n4").result(new.id))["result"] == [True, True, "1", True, True, True, "1", True]


@run
async def test_a_share_of_new_work_goes_to_the_new_version_and_all_of_one_piece_of_work_to_one_side() -> None:
    async with LocalMesh(nodes={"n1": [renderer("1"), driver()], "n2": [renderer("2.0"), driver()]}) as m:
        assert set(await many(m, 30)) == {"1", "2.0"}, "without a rollout it goes anywhere"
        await rule(m, rollout=[ROW | {"share": 20, "runs_min": 1000}])
        got = await many(m, 200)
        assert 20 <= got.count("2.0") <= 60 and set(got) == {"1", "2.0"}
        assert {(one[2], one[6]) for one in await many(m, 20, "drive")} == {("1", "1"), ("2.0", "2.0")}
        assert await m.call("render@2.0") == "2.0"
        task = await m.submit("render")
        told = show(explain(task.id, (await task.result(), await task.why())[1]))
        assert "decided when its work began: render as version " in told and "ran last as version " in told
        await rule(m, rollout=[ROW | {"share": 0}])
        assert set(await many(m, 30)) == {"1"}
        await rule(m, rollout=[ROW | {"share": 100}])
        assert set(await many(m, 30)) == {"2.0"}
        (row,) = (await m.at("n2").policy())["rollouts"]
        assert row["share"] == 100 and row["failed"] == [0, 0] and not row["stopped"]


@run
async def test_a_new_version_that_fails_is_taken_back_by_itself_everywhere_and_for_good() -> None:
    async with LocalMesh(nodes={"n1": [renderer("1"), driver()], "n2": [renderer("2.0", fails=True)], "n3": [renderer("1")]}) as m:
        await rule(m, rollout=[ROW])
        kept = [await m.submit("render") for _ in range(16)]
        await m.sleep(3)
        ended = [await task.status() for task in kept]
        failed = [row["task"] for row in ended if row["state"] == "failed"]
        assert failed and {row["version"] for row in ended} == {"1", "2.0"}
        rows = [(await m.at(node).policy())["rollouts"][0] for node in ("n1", "n2", "n3")]
        assert {row["by"] for row in rows} == {"n1"} and all("more than 10 % fail: " in row["stopped"] for row in rows)
        assert set(await many(m, 20)) == {"1"}
        again = (await m.at("n1").retry(failed[0]))["task"]
        assert (await m.at("n1").result(again))["result"] == "1", "what is tried again is new work"
        assert set(await asyncio.gather(*(m.at("n3").call("render") for _ in range(20)))) == {"1"}
        audit = [entry for entry in (await m.at("n1").audit())["entries"] if entry["what"] == "rollout_stopped"]
        assert len(audit) == 1 and audit[0]["about"] == "render" and "runs of the new version failed" in audit[0]["note"]
        m.power_cut()
        m.restart()
        await m.sleep(5)
        assert set(await many(m, 20)) == {"1"}
        assert (await m.at("n3").policy())["rollouts"][0]["stopped"] == rows[0]["stopped"]
        await rule(m, rollout=[ROW], flag=[{"name": "other"}])
        assert (await m.at("n3").policy())["rollouts"][0]["stopped"], "a policy that changes something else begins nothing anew"
        await rule(m, rollout=[ROW | {"attempt": 2}])
        assert not (await m.at("n3").policy())["rollouts"][0]["stopped"], "another attempt does"


@run
async def test_a_new_version_that_is_slow_is_taken_back_and_what_began_on_its_side_ends_there() -> None:
    async with LocalMesh(nodes={"n1": [renderer("1", took_s=0.1), driver()], "n2": [renderer("2.0", took_s=0.4)]}) as m:
        await rule(m, rollout=[ROW | {"latency_pct_max": 150}])
        begun = [await m.submit("drive") for _ in range(8)]
        await many(m, 20)
        await m.sleep(2)
        (row,) = (await m.policy())["rollouts"]
        assert "takes more than 150 %" in row["stopped"] and row["took_ms"] == [100, 400]
        ends = [await task.result() for task in begun]
        assert {(one[2], one[6]) for one in ends} == {("1", "1"), ("2.0", "2.0")}


@run
async def test_nobody_waits_for_a_new_version_that_nobody_offers() -> None:
    async with LocalMesh(nodes={"n1": [renderer("1")], "n2": []}) as m:
        await rule(m, rollout=[ROW | {"share": 100}])
        assert set(await many(m, 10)) == {"1"}
        new = renderer("2.0")
        await m.attach("n2", new)
        await m.sleep(0.5)
        assert set(await many(m, 10)) == {"2.0"}
        slow = [await m.submit("render") for _ in range(40)]
        m.detach("n2", new)
        assert "1" in {await task.result() for task in slow}


@run
async def test_stages_follow_one_another_while_nothing_is_wrong() -> None:
    async with LocalMesh(nodes={"n1": [renderer("1")], "n2": [renderer("2.0")]}) as m:
        await rule(m, rollout=[{name: value for name, value in ROW.items() if name != "share"} | {"stages": [25, 100]}])
        await many(m, 40)
        assert (await m.policy())["rollouts"][0]["share"] == 25
        await m.sleep(61)
        assert [(await m.at(node).policy())["rollouts"][0]["share"] for node in ("n1", "n2")] == [100, 100]
        assert set(await many(m, 10)) == {"2.0"}


FLOW = """
flow = "f"
output = { old = "$steps.a == '1'", both = "$steps.b" }
[[step]]
id = "a"
uses = "render@1"
when = "$!flag.new_model && !flag[\\"new-model\\"] && !flag.nobody"
[[step]]
id = "pause"
uses = "nap"
[[step]]
id = "b"
uses = "say"
needs = ["a", "pause"]
with = { new = "$flag.new_model", unheard = "$flag.unheard" }
"""


@run
async def test_a_flow_reads_flags_as_they_were_when_it_began_and_binds_to_versions() -> None:
    agent = driver()

    @agent.capability
    async def nap(ctx: Context) -> None:
        await ctx.sleep(20)

    @agent.capability
    async def say(new: bool, unheard: bool) -> list[bool]:
        return [new, unheard]

    spec = document(checked(*read_text(FLOW)))
    async with LocalMesh(nodes={"n1": [flows, agent, renderer("1")], "n2": [renderer("2.0")]}) as m:
        await rule(m, flag=[{"name": "new-model"}])
        task = await m.submit("mesh.flow", spec=spec, input={})
        await m.sleep(1)
        await rule(m, flag=[{"name": "new-model", "default": True}])
        assert (await task.result())["output"] == {"old": True, "both": [False, False]}
        later = await m.submit("mesh.flow", spec=spec, input={})
        with pytest.raises(TaskFailed, match="step"):
            await later.result()


@run
async def test_an_old_version_need_not_rest_because_the_new_one_beside_it_fails() -> None:
    async with LocalMesh(nodes={"n1": [renderer("1"), renderer("2.0", fails=True)], "n2": [renderer("1")]}) as m:
        await rule(m, rollout=[ROW | {"failure_pct_max": 100}])
        got = [one for _ in range(4) for one in await many(m, 20)]
        assert 20 < sum(isinstance(one, TaskFailed) for one in got) < 60
        assert not any(row.load["render"].breaker for host in m.world.living() for row in host.directory.offering("render"))
