"""Budgets over many nodes: what is spent never exceeds them, whoever dies, and what was reserved comes back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from mesh import Agent, Context
from mesh.errors import BudgetExceeded, TaskFailed, UsageError
from mesh.options import how_of
from mesh.runtime.params_local import COMMANDS
from mesh.runtime.params_local import how_of as how_from
from mesh.runtime.protocol_local import BadFrame
from mesh.spends import spent_of
from mesh.sync import Context as Blocking
from mesh.testing import LocalMesh

CALL_USD = 0.04


def spending() -> tuple[Agent, list[float]]:
    """An agent whose leaves pay, and what they really paid, whatever became of their nodes."""
    agent, paid = Agent("buyers", concurrency=40), list[float]()

    @agent.capability(name="leaf", idempotent=True)
    async def leaf(ctx: Context, price: float, calls: int) -> int:
        bought = 0
        for _ in range(calls):
            try:
                async with ctx.reserve(usd=CALL_USD) as reserved:
                    await ctx.sleep(0.3)
                    paid.append(price)
                    reserved.spent(usd=price)
                bought += 1
            except BudgetExceeded:
                break
        return bought

    @agent.capability(name="team", idempotent=True)
    async def team(ctx: Context, price: float, calls: int) -> int:
        return sum(await asyncio.gather(*(one(ctx, "leaf", i, 0.12, price=price, calls=calls) for i in range(4))))

    @agent.capability(name="all", idempotent=True)
    async def whole(ctx: Context, price: float, calls: int) -> int:
        return sum(await asyncio.gather(*(one(ctx, "team", i, 0.4, price=price, calls=calls) for i in range(5))))

    async def one(ctx: Context, what: str, number: int, usd: float, **arguments: Any) -> int:
        """The last of each draws on what is left above it, the others have a budget of their own."""
        under = ctx.options(budget={"usd": usd}) if number else ctx
        try:
            found: int = await under.step(f"{what}{number}", what, **arguments)
        except BudgetExceeded:
            return 0
        return found

    return agent, paid


async def guarded(m: LocalMesh, budget: dict[str, float], capability: str, **arguments: Any) -> Any:
    """A task at n1 that survives the loss of any node, once two others keep its journal."""
    while (task := await m.at("n1").options(budget=budget).submit(capability, **arguments)).survives != "node-loss":
        await task.cancel()
        await m.sleep(0.5)
    return task


@pytest.mark.parametrize(("price", "cut"), ((0.03, False), (0.04, False), (0.02, True)))
def test_a_fan_out_over_five_nodes_never_spends_more_than_its_budget_whoever_dies(price: float, cut: bool) -> None:
    agent, paid = spending()

    async def story() -> None:
        async with LocalMesh(nodes={f"n{i}": [agent] for i in range(1, 6)}, seed=7) as m:
            task = await guarded(m, {"usd": 1.5, "calls": 40}, "all", price=price, calls=6)
            paid.clear()
            await m.sleep(0.8)
            if cut:
                m.partition(["n1", "n3"], ["n2", "n4", "n5"])  # its manager goes on on the smaller side, and another on the other
                await m.sleep(4.0)
                m.power_cut("n4")
                await m.sleep(1.0)
                m.heal()
                m.restart("n4")
            else:
                m.kill("n1")
                await m.sleep(0.8)
                m.kill("n4")
                await m.sleep(2.0)
                m.restart("n1")
            answer = await m.at("n2").result(task.id)
            row = (await m.at("n2").task(task.id))["budget"]["usd"]
            assert answer["state"] == "done" and answer["result"] > 10
            assert (row["budget"], row["reserved"]) == (1.5, 0)
            assert row["spent"] == row["used"] and row["spent"] + row["left"] == pytest.approx(1.5)
            # What nobody could settle counts in full, so what was really paid is never more.
            assert sum(paid) <= row["spent"] + 1e-9 <= 1.5 + 2e-9

    asyncio.run(asyncio.wait_for(story(), 20))


def told(nodes: int, agent: Agent, story: Callable[[LocalMesh], Any], seed: int = 3) -> Any:
    async def run() -> Any:
        async with LocalMesh(nodes={f"n{i}": [agent] for i in range(1, nodes + 1)}, seed=seed) as m:
            return await story(m)

    return asyncio.run(asyncio.wait_for(run(), 20))


def test_what_does_not_fit_is_refused_naming_what_is_left_and_the_fix() -> None:
    agent = Agent("worker")

    @agent.capability(name="leaf")
    async def leaf(ctx: Context) -> float:
        return (await ctx.budget())["usd"]

    @agent.capability(name="parent")
    async def parent(ctx: Context) -> list[Any]:
        found: list[Any] = [await ctx.budget()]
        await ctx.spend(usd=0.25)
        for usd in (0.751, 0.75):
            try:
                found.append(await ctx.options(budget={"usd": usd}).step(f"s{usd}", "leaf"))
            except BudgetExceeded as error:
                found += [error.code, error.message, error.fix]
        try:
            await ctx.spend(usd=1)
        except BudgetExceeded as error:
            found.append(error.message)
        return [*found, await ctx.budget()]

    async def story(m: LocalMesh) -> tuple[str, list[Any], Any]:
        task = await m.options(budget={"usd": 1}).submit("parent")
        return task.id, await task.result(), await task.status()

    name, found, status = told(1, agent, story)
    left, code, message, fix, given, refused, after = found
    assert (left, code, given, after) == ({"usd": 1.0}, "over_budget", 0.75, {"usd": 0.75})
    assert message == f"the step 's0.751' takes usd=0.751, and 0.75 of 1 is left in the budget of {name} (0.25 spent, 0 reserved)"
    assert "mesh submit --budget usd=" in fix and "takes usd=1, and 0.75 of 1 is left" in refused
    assert status["budget"]["usd"] == {"used": 0.25, "of": name, "budget": 1.0, "spent": 0.25, "reserved": 0.0, "left": 0.75}


def test_what_is_named_counts_once_over_all_attempts_and_what_is_not_counts_again() -> None:
    agent, tries = Agent("worker"), list[bool]()

    @agent.capability(name="twice", retries=1)
    async def twice(ctx: Context) -> dict[str, float]:
        await ctx.spend("draft", tokens=100)
        await ctx.spend(tokens=7)
        async with ctx.reserve("print", tokens=50) as reserved:
            reserved.spent(tokens=30)
        tries.append(reserved.known)
        if len(tries) == 1:
            raise RuntimeError("once more")
        return await ctx.budget()

    async def story(m: LocalMesh) -> Any:
        return await (await m.options(budget={"tokens": 1000}).submit("twice")).result()

    assert told(1, agent, story) == {"tokens": 1000 - 100 - 2 * 7 - 30} and tries == [False, True]


def test_what_was_reserved_counts_as_it_is_settled_and_in_full_where_nobody_says() -> None:
    agent = Agent("worker")

    @agent.capability(name="one")
    async def one(ctx: Context) -> list[float]:
        found = []
        for said in ({"usd": 0.1}, {"usd": 0.9}, {}, None):
            async with ctx.reserve(usd=0.5) as reserved:
                if said is not None:
                    reserved.spent(**said)
            found.append(round((await ctx.budget())["usd"], 3))
        with pytest.raises(ZeroDivisionError):
            async with ctx.reserve(usd=0.5):
                raise ZeroDivisionError
        return [*found, round((await ctx.budget())["usd"], 3)]

    async def story(m: LocalMesh) -> Any:
        return await (await m.options(budget={"usd": 10}).submit("one")).result()

    # A call that cost more than was reserved for it counts in full: it has been paid.
    assert told(1, agent, story) == [9.9, 9.0, 9.0, 8.5, 8.0]


def test_a_plain_call_spends_what_it_was_given_and_no_more() -> None:
    agent, seen = Agent("worker", concurrency=8), dict[str, Any]()

    @agent.capability(name="leaf")
    async def leaf(ctx: Context, usd: float) -> dict[str, float]:
        await ctx.spend(usd=usd)
        return await ctx.budget()

    @agent.capability(name="deep")
    async def deep(ctx: Context) -> float:
        return sum(await asyncio.gather(*(ctx.options(budget={"usd": 0.2}).call("pay", usd=0.1) for _ in range(2))))

    @agent.capability(name="pay")
    async def pay(ctx: Context, usd: float) -> float:
        await ctx.spend(usd=usd)
        return usd

    @agent.capability(name="parent")
    async def parent(ctx: Context) -> dict[str, float]:
        given = ctx.options(budget={"usd": 1})
        seen["inside"] = await given.call("leaf", usd=0.4)
        for key, at, usd in (("beyond its own", given, 1.1), ("without", ctx, 0.1)):
            with pytest.raises(TaskFailed, match="is left in the budget of") as failed:
                await at.call("leaf", usd=usd)
            seen[key] = failed.value.kind
        with pytest.raises(BudgetExceeded, match="takes usd=9"):
            await ctx.options(budget={"usd": 9}).call("leaf", usd=0)
        seen["deep"] = await ctx.options(budget={"usd": 1, "calls": 2}).call("deep")
        with pytest.raises(TaskFailed, match="takes calls=2, and 1 of 1 is left"):
            await ctx.options(budget={"usd": 1, "calls": 1}).call("pair")
        return await ctx.budget()

    @agent.capability(name="pair")
    async def pair(ctx: Context) -> None:
        await ctx.options(budget={"calls": 1}).call("pay", usd=0)

    async def story(m: LocalMesh) -> Any:
        task = await m.options(budget={"usd": 5, "calls": 20}).submit("parent")
        left = await task.result()
        # A call by a client may have a budget too; it lives as long as the call.
        with pytest.raises(TaskFailed, match=r"takes usd=0.3, and 0.2 of 0.2 is left"):
            await m.options(budget={"usd": 0.2}).call("pay", usd=0.3)
        return left, (await task.status())["budget"]

    left, budget = told(3, agent, story)
    assert seen == {"inside": {"calls": 0.0, "usd": 0.6}, "beyond its own": "over_budget", "without": "over_budget", "deep": 0.2}
    # Four calls were begun, one of which began two; and `pair`.
    assert left == {"usd": 4.4, "calls": 20 - 3 - 3 - 1}
    assert (budget["usd"]["spent"], budget["usd"]["reserved"], budget["calls"]["reserved"]) == (0.6, 0, 0)


def test_seconds_are_those_that_handlers_run_and_whoever_waits_for_steps_does_not() -> None:
    agent = Agent("worker", concurrency=8)

    @agent.capability(name="nap")
    async def nap(ctx: Context, seconds: float) -> None:
        await ctx.sleep(seconds)

    @agent.capability(name="naps")
    async def naps(ctx: Context, seconds: list[float], own: float = 0.0) -> dict[str, float]:
        await asyncio.gather(*(ctx.step(f"nap{i}", "nap", seconds=one) for i, one in enumerate(seconds)))
        await ctx.sleep(own)
        return await ctx.budget()

    async def story(m: LocalMesh) -> list[Any]:
        found: list[Any] = []
        task = await m.options(budget={"time_s": 20}).submit("naps", seconds=[4.0, 6.0, 0.2], own=3.0)
        await task.result()
        found.append((await task.status())["budget"]["time_s"])
        began_s = m.now_s
        with pytest.raises(TaskFailed, match="have run for the 20 s of its budget"):
            await (await m.options(budget={"time_s": 20}).submit("naps", seconds=[30.0] * 4)).result()
        found.append(m.now_s - began_s)
        began_s = m.now_s
        with pytest.raises(TaskFailed, match="have run for the 2 s of its budget"):
            await m.options(budget={"time_s": 2}).call("nap", seconds=50)
        return [*found, m.now_s - began_s]

    row, four, one = told(2, agent, story)
    # (Time that is skipped shows in no clock of a handler: of each run the half second until its first beat is not seen here.)
    assert row["reserved"] == 0 and 13.2 - 4 * 0.5 <= row["spent"] <= 13.4, row
    # Four at once use twenty seconds up in five.
    assert 5.0 <= four <= 6.5 and 2.0 <= one <= 3.5, (four, one)


def test_work_without_a_budget_adds_up_what_it_spends() -> None:
    agent = Agent("worker")

    @agent.capability(name="leaf")
    def leaf(ctx: Blocking) -> dict[str, float]:
        ctx.spend(tokens=5)
        with ctx.reserve(tokens=100) as reserved:
            reserved.spent(tokens=11)
        return ctx.budget()

    @agent.capability(name="parent")
    async def parent(ctx: Context) -> Any:
        found = [await ctx.step(f"s{i}", "leaf") for i in range(3)]
        await ctx.checkpoint(1, anew=True)
        return [*found, await ctx.step("s0", "leaf")]

    async def story(m: LocalMesh) -> Any:
        task = await m.submit("parent")
        return await task.result(), (await task.status())["budget"]

    left, budget = told(1, agent, story)
    assert left == [{}] * 4 and budget == {"tokens": {"used": 64.0, "of": ""}}


def test_a_policy_bounds_the_budget_of_what_is_submitted_or_called() -> None:
    agent = Agent("worker")

    @agent.capability(name="parent")
    async def parent(ctx: Context) -> dict[str, float]:
        await ctx.step("left", "left")
        return await ctx.budget()

    @agent.capability(name="left")
    async def left(ctx: Context) -> dict[str, float]:
        return await ctx.budget()

    async def story(m: LocalMesh) -> list[Any]:
        await m.set_policy({"policy": "p", "rule": [{"id": "r", "match": {"capability": "*"}, "at_most": {"budget": {"usd": 5}}}]})
        await m.sleep(1)
        found = [await m.call("left")]
        budgets: tuple[dict[str, float], ...] = ({}, {"usd": 9, "calls": 3}, {"usd": 2})
        return found + [await (await m.options(budget=budget).submit("parent")).result() for budget in budgets]

    assert told(1, agent, story) == [{"usd": 5.0}, {"usd": 5.0}, {"usd": 5.0, "calls": 2.0}, {"usd": 2.0}]


@pytest.mark.parametrize(
    ("budget", "message"),
    (
        ({"usd": -1}, "budget: usd is -1"),
        ({"usd": float("nan")}, "budget: usd is nan"),
        ({"usd": float("inf")}, "budget: usd is inf"),
        ({"usd": 0}, "budget: usd is 0"),
        ({"usd": True}, "budget: usd is True"),
        ({"usd": "5"}, "budget: usd is '5'"),
        ({"usd": 1e13}, "budget: usd is 1"),
        ({"a b": 1}, "budget: 'a b' is no name"),
        ({"calls": 1.5}, "budget: 1.5 calls"),
        ({f"n{i}": 1 for i in range(40)}, "budget: 40 of them"),
        ([("usd", 1)], r"budget is \[\('usd', 1\)\]"),
    ),
)
def test_a_budget_that_is_none_is_refused_with_the_fix(budget: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message) as refused:
        how_of(**HOW, budget=budget)
    assert refused.value.fix


HOW: dict[str, Any] = dict.fromkeys(("queue_timeout_s", "run_timeout_s", "heartbeat_timeout_s", "where", "priority", "share"))
HOW |= {"near": "", "apart": "", "hedge": False}


@pytest.mark.parametrize(
    ("amounts", "message"),
    (
        ({}, "nothing is spent"),
        ({"usd": -0.1}, "usd=-0.1 cannot be spent"),
        ({"usd": float("nan")}, "usd=nan cannot be spent"),
        ({"usd": 1e13}, "cannot be spent"),
        ({"usd": "1"}, "cannot be spent"),
        ({"calls": 1}, "calls is kept by the mesh itself"),
        ({"time_s": 1}, "time_s is kept by the mesh itself"),
        ({"a b": 1}, "'a b' is no name"),
        ({f"n{i}": 1 for i in range(40)}, "40 names"),
    ),
)
def test_what_cannot_be_spent_is_refused_with_the_fix(amounts: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message) as refused:
        spent_of(amounts)
    assert refused.value.fix


def test_what_is_finer_than_a_thousandth_counts_as_one() -> None:
    assert spent_of({"usd": 0.0001, "tokens": 1200, "eur": 0.3}) == [["eur", 300], ["tokens", 1_200_000], ["usd", 1]]


def test_what_a_client_says_of_a_budget_is_looked_at_by_its_node() -> None:
    for amounts in (
        "5",
        [["usd", 1.5]],
        [["usd", -1]],
        [["usd", True]],
        [["", 1]],
        [["usd", 1], ["usd", 2]],
        [[f"n{i}", 1] for i in range(40)],
    ):
        with pytest.raises(BadFrame, match="bad_budget"):
            how_from({"budget": amounts})
        with pytest.raises(BadFrame, match="bad_amounts"):
            COMMANDS["spend"]({"task": "t", "fence": 1, "call": 1, "kind": "spend", "amounts": amounts})
    assert how_from({"budget": [["usd", 0]]})[3] == (("usd", 0),)
