"""The mesh's policy in a whole mesh: who is refused, where work goes, what waits for people, what does not leave; at both ends."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from mesh import Agent, Context
from mesh.errors import MeshError, Refused, TaskFailed, UsageError
from mesh.policies import read_policy
from mesh.testing import LocalMesh


def run(story: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    @functools.wraps(story)
    def test() -> None:
        asyncio.run(asyncio.wait_for(story(), 30))

    return test


def agent(name: str = "a", **more: Any) -> Agent:
    made = Agent(name, **more)
    made.ran = []  # type: ignore[attr-defined]

    @made.capability
    async def pay(amount: int, ctx: Context) -> str:
        made.ran.append(amount)  # type: ignore[attr-defined]
        return f"paid {amount}"

    @made.capability(idempotent=True)
    async def where(ctx: Context, region: str = "") -> str:
        return name

    @made.capability(name="pay.instead")
    async def instead(amount: int) -> str:
        return f"instead {amount}"

    @made.capability
    async def parent(region: str, ctx: Context) -> list[str]:
        return [await ctx.step("one", "where"), await ctx.call("where")]

    @made.capability
    async def leak() -> str:
        return "-----BEGIN RSA PRIVATE KEY-----"

    @made.capability
    async def reach(key: str, ctx: Context) -> str:
        return str(await ctx.effect(key, lambda: "done"))

    return made


def rules(*rows: dict[str, Any]) -> dict[str, Any]:
    return {"policy": "tests", "rule": list(rows)}


async def set_at_all(m: LocalMesh, *rows: dict[str, Any]) -> int:
    """Set it, and wait until every living node is under it."""
    version = (await m.set_policy(rules(*rows)))["version"]
    for _ in range(50):
        if all(host.assembly.directory.rulebook.version == version for host in m.world.living()):
            return int(version)
        await m.sleep(0.05)
    raise AssertionError("it did not come to everybody")


async def refused(work: Any, code: str = "policy_denied") -> MeshError:
    with pytest.raises(MeshError) as caught:
        await work
    assert caught.value.body()["code"] == code, caught.value.body()
    return caught.value


@run
async def test_a_rule_refuses_from_the_next_task_on_and_is_named() -> None:
    async with LocalMesh(agents=[agent()]) as m:
        assert await m.call("pay", amount=1) == "paid 1"
        await set_at_all(m, {"id": "no-large", "match": {"capability": "pay", "input": {"amount": {"over": 10}}}, "deny": "too much"})
        assert await m.call("pay", amount=10) == "paid 10"
        for work in (m.call("pay", amount=11), m.submit("pay", amount=11), m.at("n3").call("pay", amount=11)):
            error = await refused(work)
            assert "'no-large'" in str(error) and "too much" in str(error)
        await m.rollback_policy(1, note="no")
        await set_at_all(m, {"id": "other", "deny": "x", "match": {"capability": "other"}})
        assert await m.call("pay", amount=11) == "paid 11"


@run
async def test_an_executor_refuses_what_a_manager_lets_through() -> None:
    """The manager is made to know no policy: whoever runs the work looks by himself."""
    served = agent()
    async with LocalMesh(nodes={"n1": [], "n2": [served]}) as m:
        await set_at_all(m, {"id": "never", "match": {"capability": "pay"}, "deny": "no"})
        from mesh.core.policy.rules import Rulebook

        m.world.hosts["n1"].assembly.directory.rulebook = Rulebook()
        task = await m.submit("pay", amount=1)
        await m.sleep(2.0)
        story = await task.why()
        assert any("policy:never" in str(entry) for entry in story) and served.ran == []  # type: ignore[attr-defined]


@run
async def test_required_labels_decide_where_it_runs_and_go_down_the_tree() -> None:
    eu, us = agent("eu", labels={"zone": "eu"}), agent("us", labels={"zone": "us"})
    async with LocalMesh(nodes={"n1": [us], "n2": [eu], "n3": [us]}) as m:
        await set_at_all(
            m, {"id": "eu-only", "match": {"capability": ["where", "parent"], "input": {"region": "eu"}}, "require": {"zone": "eu"}}
        )
        assert {await m.call("where", region="eu") for _ in range(6)} == {"eu"}
        assert await m.call("parent", region="eu") == ["eu", "eu"], "a step and a call of it are bound likewise"
        task = await m.submit("where", region="eu")
        assert await task.result() == "eu"
        submitted = next(entry for entry in await task.why() if entry["kind"] == "Submitted")
        assert submitted["rules"] == ["1", "eu-only"]
        await set_at_all(m, {"id": "not-eu", "match": {"capability": "where"}, "require": ["!zone=eu"]})
        assert {await m.call("where", region="eu") for _ in range(6)} == {"us"}


@run
async def test_a_gate_holds_work_back_until_people_have_passed_it() -> None:
    served = agent()
    async with LocalMesh(agents=[served]) as m:
        await set_at_all(m, {"id": "four-eyes", "match": {"capability": "pay"}, "approve": {"question": "Pay?", "quorum": 2}})
        task = await m.submit("pay", amount=5)
        await m.sleep(1.0)
        (gate,) = (await m.approvals())["gates"]
        assert gate["question"] == "Pay?" and gate["arguments"]["subject"] == {"capability": "pay", "arguments": {"amount": 5}}
        await m.at("n2").approve(gate["task"])
        await m.sleep(1.0)
        assert served.ran == []  # type: ignore[attr-defined]
        await m.at("n3").approve(gate["task"])
        assert await task.result() == "paid 5"
        denied = await m.submit("pay", amount=6)
        await m.sleep(1.0)
        (gate,) = (await m.approvals())["gates"]
        await m.at("n2").deny(gate["task"], note="not today")
        with pytest.raises(TaskFailed, match="not today"):
            await denied.result()
        assert served.ran == [5]  # type: ignore[attr-defined]


@run
async def test_a_gate_outlives_its_manager_and_power_cuts() -> None:
    served = agent()
    async with LocalMesh(agents=[served]) as m:
        await set_at_all(m, {"id": "gate", "match": {"capability": "pay"}, "approve": {}})
        task = await m.submit("pay", amount=5)
        while task.survives != "node-loss":
            await m.sleep(1.0)
            task = await m.submit("pay", amount=5)
        await m.sleep(1.0)
        gates = (await m.approvals())["gates"]
        gate = next(one for one in gates if one["parent"] == task.id)
        await m.at("n2").approve(gate["task"])
        m.kill("n1")
        result = await m.at("n2").result(task.id)
        assert result["result"] == "paid 5" and (await m.at("n3").policy())["version"] == 1
        m.power_cut()
        m.restart()
        await m.sleep(5.0)
        assert (await m.policy())["version"] == 1, "kept on disk"
        await refused(m.at("n1").call("nobody"), "no_such_capability")


@run
async def test_what_stands_in_line_is_held_to_a_new_policy() -> None:
    async with LocalMesh(nodes={"n1": [], "n2": []}) as m:
        parked = await m.submit("pay", amount=1)
        await m.sleep(1.0)
        await set_at_all(m, {"id": "never", "match": {"capability": "pay"}, "deny": "no more"})
        with pytest.raises(TaskFailed, match="no more"):
            await parked.result()


@run
async def test_results_that_leak_and_effects_that_are_not_allowed_do_not_leave() -> None:
    async with LocalMesh(agents=[agent()]) as m:
        await set_at_all(
            m,
            {"id": "leaks", "output": {"deny": ["private_key"]}},
            {
                "id": "night",
                "match": {"capability": "reach"},
                "effects": [{"keys": "pay/*", "deny": "not by night"}, {"keys": "mail/*", "approve": {}}],
            },
        )
        error = await refused(m.call("leak"), "task_failed")
        assert "BEGIN" not in str(error) and "private key" in str(error)
        assert await m.call("reach", key="read/1") == "done"
        with pytest.raises(MeshError, match="not by night"):
            await m.call("reach", key="pay/1")
        task = await m.submit("reach", key="mail/1")
        await m.sleep(2.0)
        (gate,) = (await m.approvals())["gates"]
        assert gate["arguments"]["subject"]["effect"] == "mail/1"
        await m.at("n2").approve(gate["task"])
        assert await task.result() == "done"


@run
async def test_work_is_sent_elsewhere_and_bounded() -> None:
    async with LocalMesh(agents=[agent()]) as m:
        await set_at_all(
            m,
            {"id": "detour", "match": {"capability": "pay"}, "route": "pay.instead"},
            {"id": "spare", "match": {"capability": "pay.gone"}, "fallback": "pay.instead"},
            {"id": "few", "match": {"capability": "pay.instead"}, "limit": 3, "rate": "100/1m"},
        )
        assert await m.call("pay", amount=1) == "instead 1" == await m.call("pay.gone", amount=1)
        await m.sleep(2.0)
        offer = m.world.hosts["n1"].assembly.directory.offering("pay.instead")[0].offers["pay.instead"]
        assert (offer.limit, offer.rate, offer.rate_ms) == (3, 100, 60_000)


@run
async def test_all_work_of_a_kind_has_a_budget() -> None:
    spender = agent()

    @spender.capability
    async def spend(usd: float, ctx: Context) -> str:
        await ctx.spend(usd=usd)
        return "spent"

    async with LocalMesh(agents=[spender]) as m:
        await set_at_all(m, {"id": "cheap", "match": {"capability": "spend"}, "at_most": {"budget": {"usd": 2}}})
        assert await (await m.submit("spend", usd=2)).result() == "spent"
        for options in ({}, {"budget": {"usd": 9}}):
            with pytest.raises(MeshError, match="usd"):
                await (await m.options(**options).submit("spend", usd=2.5)).result()
        with pytest.raises(MeshError, match="usd"):
            await (await m.options(budget={"usd": 1}).submit("spend", usd=2)).result()


@run
async def test_no_more_run_at_once_than_the_policy_has_it() -> None:
    busy: list[int] = []
    crowd = Agent("crowd", concurrency=4)

    @crowd.capability(idempotent=True)
    async def crowded(ctx: Context, number: int) -> int:
        busy.append(number)
        most.append(len(busy))
        await ctx.sleep(0.5)
        busy.remove(number)
        return number

    most: list[int] = []
    async with LocalMesh(agents=[crowd]) as m:
        await set_at_all(m, {"id": "few", "match": {"capability": "crowded"}, "limit": 2})
        tasks = [await m.submit("crowded", number=number) for number in range(8)]
        assert [await task.result() for task in tasks] == list(range(8))
    assert max(most) == 2


@run
async def test_it_is_shown_explained_and_rolled_back() -> None:
    async with LocalMesh(agents=[agent()]) as m:
        assert (await m.policy())["version"] == 0
        await set_at_all(m, {"id": "one", "match": {"capability": "pay"}, "deny": "x"})
        await set_at_all(m, {"id": "two", "match": {"capability": "other"}, "deny": "x"})
        said = await m.explain_policy("pay", amount=1)
        assert said["decision"] == "allow" and said["rules"] == []
        assert (await m.rollback_policy(1))["version"] == 3
        await m.sleep(1.0)
        shown = await m.policy()
        assert [row["version"] for row in shown["history"]] == [3, 2, 1] and shown["history"][0]["in_force"]
        said = await m.explain_policy("pay", amount=1)
        assert (said["decision"], said["rules"]) == ("deny", ["one"])
        with pytest.raises(UsageError):
            await m.rollback_policy(9)
        with pytest.raises(UsageError, match="no such key"):
            await m.set_policy(rules({"id": "x", "dney": "y"}))


@run
async def test_a_plain_call_waits_at_its_gate_too() -> None:
    async with LocalMesh(agents=[agent()]) as m:
        await set_at_all(m, {"id": "gate", "match": {"capability": "pay"}, "approve": {"expires": "5s"}})
        with pytest.raises((TaskFailed, Refused), match="in time"):
            await m.options(timeout_s=30).call("pay", amount=1)


@run
async def test_where_work_comes_from_is_known_however_far_down_a_plain_call_goes() -> None:
    """Also where no rule has a say on the way."""
    agents = []
    for name, below in (("outer", "inner"), ("inner", "leaf"), ("leaf", "")):
        made = Agent(name)

        @made.capability(name=name)
        async def calls(ctx: Context, below: str = below) -> str:
            return str(await ctx.call(below)) if below else "ran"

        agents.append(made)
    async with LocalMesh(nodes={"desk": [], "other": [], "x": agents[:1], "y": agents[1:2], "z": agents[2:]}) as m:
        await set_at_all(m, {"id": "not-desk", "match": {"capability": "leaf", "from": "desk"}, "deny": "not for the desk"})
        assert await m.at("other").call("outer") == "ran"
        with pytest.raises(MeshError, match="not for the desk"):
            await m.at("desk").call("outer")


@run
async def test_a_version_is_no_part_of_the_name_that_rules_are_about() -> None:
    async with LocalMesh(agents=[agent()]) as m:
        await set_at_all(m, {"id": "no", "match": {"capability": "pay"}, "deny": "x"})
        assert (await m.explain_policy("pay@^1", amount=1))["decision"] == "deny"
        with pytest.raises(UsageError, match="range of versions"):
            await m.explain_policy("pay@^^")


def test_an_empty_file_is_no_policy(tmp_path: Path) -> None:
    """A slip would end every rule; who means it says so."""
    file = tmp_path / "empty.toml"
    for text, fits in (("", False), ("# nothing\n", False), ('policy = "no rules"\n', True)):
        file.write_text(text)
        if fits:
            assert read_policy(file) == {"policy": "no rules"}
        else:
            with pytest.raises(UsageError, match="empty"):
                read_policy(file)
