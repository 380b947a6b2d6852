"""The mesh's coordinator in a whole mesh: it dies, is paused, cut off, split in two; what it admits waits for it, and nothing else does."""

from __future__ import annotations

import asyncio
import functools
import json
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any

import pytest

from mesh import Agent, Context
from mesh.coordinator import coordinator
from mesh.effects import Refused
from mesh.errors import MeshError, TaskFailed
from mesh.messages.signed import Signed
from mesh.messages.waits import Verdict
from mesh.messages.work import Ask
from mesh.testing import LocalMesh

STANDBYS = ("n1", "n2", "n3")


def run(story: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    @functools.wraps(story)
    def test() -> None:
        asyncio.run(asyncio.wait_for(story(), 30))

    return test


def worker() -> Agent:
    made = Agent("w")
    made.ran = []  # type: ignore[attr-defined]

    @made.capability(idempotent=True)
    async def pay(amount: int) -> str:
        made.ran.append(amount)  # type: ignore[attr-defined]
        return f"paid {amount}"

    @made.capability(idempotent=True)
    async def plain(n: int) -> int:
        return n

    @made.capability(idempotent=True, limit=2)
    async def scarce(ctx: Context) -> str:
        await ctx.sleep(1.0)
        return "done"

    return made


def five(served: Agent | None = None, decide: Any = None) -> LocalMesh:
    agents = [served or worker()]
    return LocalMesh(nodes={f"n{i}": [*agents, *([coordinator(decide)] if f"n{i}" in STANDBYS else [])] for i in range(1, 6)})


def rule(admit: Any = "closed", **more: Any) -> dict[str, Any]:
    return {"policy": "t", "mode": "hybrid", "rule": [{"id": "critical", "match": {"capability": "pay"}, "admit": admit, **more}]}


def seat(m: LocalMesh, node: str = "n5") -> Any:
    return m.world.hosts[node].assembly.directory.seat


async def in_office(m: LocalMesh, *but: str, nodes: tuple[str, ...] = ("n4", "n5")) -> str:
    """Who is, as soon as these nodes know."""
    for _ in range(200):
        holders = {seat(m, node).holder for node in nodes}
        if len(holders) == 1 and (found := holders.pop()) and found not in but:
            return str(found)
        await m.sleep(0.05)
    raise AssertionError("nobody is in office")


async def under(m: LocalMesh, policy: dict[str, Any]) -> str:
    """Set it, and wait until everybody is under it, and somebody in office."""
    version = (await m.at("n5").set_policy(policy))["version"]
    while any(host.assembly.directory.rulebook.version != version for host in m.world.living()):
        await m.sleep(0.05)
    return await in_office(m)


async def timed(m: LocalMesh, work: Coroutine[Any, Any, Any]) -> tuple[Any, float]:
    began_s = m.now_s
    return await work, m.now_s - began_s


@run
async def test_of_several_that_stand_by_one_holds_the_office_and_another_when_its_machine_is_gone() -> None:
    """Its manager dies, then it: the office is a task, under the next fence."""
    async with five() as m:
        first = await in_office(m)
        epoch = seat(m).epoch
        shown = await m.at("n5").coordinator()
        assert shown["holder"] == first and sorted([*shown["standing_by"], first]) == list(STANDBYS)
        assert shown["task"] and shown["mode"] == "decentralized"
        while (await m.at("n5").task(shown["task"]))["survives"] != "node-loss":
            await m.sleep(0.5)
        m.kill(first)
        began_s = m.now_s
        second = await in_office(m, first)
        assert m.now_s - began_s <= 3.0 and seat(m).epoch > epoch
        manager = (await m.at("n5").task(shown["task"]))["task"].split(".")[0]
        assert second in STANDBYS and manager in STANDBYS


@run
async def test_critical_work_waits_for_the_coordinator_and_nothing_else_does() -> None:
    served = worker()
    async with five(served) as m:
        holder = await under(m, rule())
        for work in (m.at("n5").call("pay", amount=1), m.at("n4").call("pay", amount=2)):
            _, took_s = await timed(m, work)
            assert took_s < 0.1
        task = await m.at("n5").submit("pay", amount=3)
        assert await task.result() == "paid 3"
        said = next(entry for entry in await task.why() if entry["kind"] == "Answered")
        assert (said["node"], said["person"]) == (holder, "coordinator")
        m.kill(holder)
        waits = asyncio.create_task(timed(m, m.at("n5").call("pay", amount=4)))
        _, took_s = await timed(m, m.at("n4").call("plain", n=1))
        assert took_s < 1.0, "it asks nobody; an award to the dead node costs half a second"
        answer, took_s = await waits
        assert answer == "paid 4" and took_s <= 3.0
        shown = await m.at("n5").coordinator()
        assert shown["admitted"] >= 4 and shown["holder"] != holder, "the books went with the office"


@run
async def test_paused_it_admits_nothing_and_goes_on_where_it_was_whoever_holds_it() -> None:
    async with five() as m:
        holder = await under(m, rule({"open_after": "1s"}))
        await m.at("n5").switch_coordinator("pause")
        await m.sleep(1.5)
        task = await m.at("n5").submit("pay", amount=1)
        await m.sleep(5.0)
        shown = await m.at("n5").coordinator()
        assert (shown["paused"], shown["waiting"]) == (True, 1), "it is in office: the rule for its absence does not count"
        (gate,) = shown["gates"]
        assert (gate["for"], gate["parent"]) == ("coordinator", task.id)
        with pytest.raises(MeshError) as caught:
            await m.at("n4").approve(gate["task"])
        assert caught.value.body()["code"] == "for_coordinator"
        while (await m.at("n5").task(shown["task"]))["survives"] != "node-loss":
            await m.sleep(0.5)
        m.kill(holder)
        await in_office(m, holder)
        await m.sleep(3.0)
        assert (await m.at("n5").coordinator())["paused"]
        await m.at("n5").switch_coordinator("resume")
        assert await task.result() == "paid 1"


@run
async def test_while_there_is_none_it_waits_goes_by_the_last_decision_or_starts_after_a_time_as_its_rule_says() -> None:
    rules = {
        "policy": "t",
        "mode": "hybrid",
        "rule": [
            {"id": "shut", "match": {"capability": "pay", "input": {"amount": {"under": 10}}}, "admit": "closed"},
            {"id": "known", "match": {"capability": "pay", "input": {"amount": {"under": 20}}}, "admit": {"cached": "60s"}},
            {"id": "late", "match": {"capability": "pay"}, "admit": {"open_after": "20s"}},
        ],
    }
    async with five() as m:
        await under(m, rules)
        assert await m.at("n5").call("pay", amount=11) == "paid 11"
        m.power_cut(*STANDBYS)
        while seat(m).holder or seat(m, "n4").holder:
            await m.sleep(0.1)
        gone_s = m.now_s
        shut = asyncio.create_task(m.at("n5").options(timeout_s=600).call("pay", amount=1))
        _, took_s = await timed(m, m.at("n5").call("pay", amount=12))
        assert took_s < 1.0, "as it was decided for this rule and capability"
        late = asyncio.create_task(m.at("n5").call("pay", amount=25))
        await m.sleep(10.0)
        assert not late.done()
        while not late.done():
            await m.sleep(0.5)
        assert late.result() == "paid 25" and 19.0 <= m.now_s - gone_s <= 22.0
        audit = [entry for entry in (await m.at("n5").audit())["entries"] if entry["what"] == "opened_without_coordinator"]
        assert len(audit) == 1 and "rule late" in audit[0]["note"]
        await m.sleep(60.0)
        other = asyncio.create_task(m.at("n5").options(timeout_s=600).call("pay", amount=13))
        await m.sleep(5.0)
        assert not other.done() and not shut.done(), "the decision has run out; closed stays closed"
        m.restart("n1", "n2", "n3")
        assert await shut == "paid 1" and await other == "paid 13"


@run
async def test_cut_off_from_the_rest_it_admits_nothing_and_another_does() -> None:
    """Two coordinators, one on each side: only that of the majority puts anything on record."""
    served = worker()
    async with five(served) as m:
        holder = await under(m, rule())
        task = (await m.at("n5").coordinator())["task"]
        while (await m.at("n5").task(task))["survives"] != "node-loss":
            await m.sleep(0.5)
        manager = task.split(".")[0]
        keepers = (manager, *m.world.hosts[manager].directory.guard.keepers)
        aside = next(node for node in m.world.names if node not in keepers and node != holder)
        others = [node for node in m.world.names if node not in (holder, aside)]
        epoch, beside = seat(m).epoch, others[-1]
        m.partition([holder, aside], others)
        alone = asyncio.create_task(m.at(aside).options(timeout_s=300).call("pay", amount=1))
        assert await m.at(beside).call("pay", amount=2) == "paid 2"
        assert seat(m, beside).holder in others and seat(m, beside).epoch > epoch
        await m.sleep(10.0)
        assert not alone.done() and served.ran == [2], "its side has no majority of the office's keepers"  # type: ignore[attr-defined]
        assert seat(m, aside).holder == "", "and says so itself, once its lease is over"
        m.heal()
        assert await alone == "paid 1"
        assert {seat(m, node).epoch for node in m.world.names} == {seat(m, beside).epoch}


@run
async def test_a_word_of_an_older_epoch_or_of_who_is_no_coordinator_is_refused() -> None:
    served = worker()
    async with five(served) as m:
        first = await under(m, rule())
        stale = seat(m).epoch
        m.world.crash(first)
        await in_office(m, first)
        m.restart(first)
        await m.sleep(3.0)
        await m.at("n5").switch_coordinator("pause")
        await m.sleep(1.5)
        task = await m.at("n5").submit("pay", amount=1)
        await m.sleep(1.0)
        (gate,) = (await m.at("n5").approvals())["gates"]
        good = Verdict(gate["task"], gate["input"], True, "coordinator", epoch=stale, scope="critical pay")
        n5 = m.world.hosts["n5"]

        def say(sender: str, verdict: Verdict, reason: str) -> None:
            word = Ask(0, "admitted", gate["task"], b"{}", (Signed(sender, verdict),))
            made = n5.assembly.node.handle(n5.clock.read(m.world.now_s), sender, word)
            assert any(isinstance(effect, Refused) and effect.reason == reason for effect in made)

        say(first, good, "stale_epoch")
        say(first, replace(good, epoch=seat(m).epoch), "stale_epoch")
        say("n4", replace(good, epoch=seat(m).epoch), "not_coordinator")
        say(seat(m).holder, replace(good, epoch=seat(m).epoch, input="0" * 64), "bad_admission")
        await m.sleep(5.0)
        assert served.ran == [] and (await task.status())["state"] == "gated"  # type: ignore[attr-defined]
        await m.at("n5").switch_coordinator("resume")
        assert await task.result() == "paid 1"


@run
async def test_a_notice_that_is_none_does_not_reach_whoever_holds_the_office() -> None:
    """Any node that may ask for work may send one: the handler failed at it, and the office with it."""
    async with five() as m:
        holder = await under(m, rule({"limit": 5}))
        row = {"gate": "n4.1.1", "input": "0" * 64, "rule": "critical", "capability": "pay", "task": "n4.1.2", "terms": {}}
        bad = (
            {"gate": "n4.1.1"},
            row | {"terms": {"rate": 5}},
            row | {"terms": {"limit": "x"}},
            row | {"gate": "no task!"},
            row | {"rule": []},
        )
        for one in bad:
            m.world.hosts[holder].arrive("n4", Ask(0, "admit", "", json.dumps({"gates": [one]}).encode()))
            await m.sleep(2.0)
        await m.at("n5").call("pay", amount=2)
        held = [f"critical {number}.{'x' * 2000}" for number in range(400)]  # more than a checkpoint takes
        m.world.hosts[holder].arrive("n4", Ask(0, "admit", "", json.dumps({"held": held}).encode()))
        await m.sleep(5.0)
        stays = seat(m)
        assert (stays.holder, stays.epoch[1]) == (holder, m.world.hosts[holder].assembly.directory.seat.mine[1])
        assert await m.at("n5").call("pay", amount=1) == "paid 1"


@run
async def test_whoever_runs_it_looks_at_the_admission_himself() -> None:
    """The manager is made to know no policy, and hands the work out unasked."""
    from mesh.core.policy.rules import Rulebook

    served = worker()
    async with LocalMesh(nodes={"n1": [coordinator()], "n4": [], "n5": [served]}) as m:
        await under(m, rule())
        m.world.hosts["n4"].assembly.directory.rulebook = Rulebook()
        task = await m.at("n4").submit("pay", amount=1)
        await m.sleep(2.0)
        assert any("policy:critical" in str(entry) for entry in await task.why()) and served.ran == []  # type: ignore[attr-defined]


@run
async def test_it_counts_by_the_terms_of_a_rule_and_a_function_has_the_last_word() -> None:
    asked: list[Any] = []

    async def decide(row: dict[str, Any]) -> bool | str | None:
        asked.append(row["arguments"])
        if row["arguments"]["amount"] == 99:
            raise ValueError("no idea")
        return "not on a Friday" if row["arguments"]["amount"] == 13 else True

    async with five(decide=decide) as m:
        await under(m, rule({"absent": "closed", "rate": "2/10s", "total": 4}))
        began_s = m.now_s
        with pytest.raises(TaskFailed, match="not on a Friday"):
            await m.at("n5").call("pay", amount=13)
        for number in range(4):
            await m.at("n5").call("pay", amount=number)
        assert 9.0 <= m.now_s - began_s <= 14.0, "two in ten seconds"
        with pytest.raises(TaskFailed, match="4 in all"):
            await m.at("n5").call("pay", amount=5)
        assert {"amount": 13} in asked and (await m.at("n4").coordinator())["rules"]["critical"]["total"] == 4


@run
async def test_no_more_of_a_rule_run_at_once_than_it_admits() -> None:
    served, running, most = Agent("w"), [0], [0]

    @served.capability
    async def pay(ctx: Context) -> None:
        running[0] += 1
        most[0] = max(most[0], running[0])
        await ctx.sleep(5.0)
        running[0] -= 1

    async with five(served) as m:
        await under(m, rule({"limit": 2}))
        began_s = m.now_s
        tasks = [await m.at(f"n{i}").submit("pay") for i in (1, 2, 4, 5)]
        await asyncio.gather(*(task.result() for task in tasks))
        assert most == [2] and m.now_s - began_s < 40.0


@run
async def test_it_owns_the_limits_over_the_mesh_and_what_was_leased_goes_on_without_it() -> None:
    async with five() as m:
        holder = await under(m, {"policy": "t", "mode": "hybrid"})
        await m.sleep(5.0)
        await asyncio.gather(*(m.at(node).call("scarce") for node in ("n4", "n5")))
        (limit,) = (await m.at(holder).coordinator())["here"]["limits"]
        assert (limit["capability"], limit["most"]) == ("scarce", 2)
        runs = [asyncio.create_task(m.at(node).options(retries=0).call("scarce")) for node in ("n4", "n5")]
        await m.sleep(0.2)
        m.world.crash(holder)
        assert await asyncio.gather(*runs) == ["done", "done"]
        assert await m.at("n4").call("scarce") == "done"


@run
async def test_it_acts_on_ticks_first() -> None:
    served = worker()
    async with five(served) as m:
        holder = await in_office(m)
        await m.at("n5").add_schedule("each", "5s", "plain", arguments={"n": 1})
        await m.sleep(21.0)
        acted = {node: m.world.hosts[node].assembly.ticker.statistics().acted for node in m.world.names}
        assert acted[holder] >= 3 and sum(acted.values()) == acted[holder]


@run
async def test_a_node_that_drains_gives_the_office_back() -> None:
    async with five() as m:
        holder = await in_office(m)
        epoch, began_s = seat(m).epoch, m.now_s
        assert (await m.at(holder).drain(wait_s=30))["draining"]
        assert await in_office(m, holder) and seat(m).epoch == (epoch[0], epoch[1] + 1) and m.now_s - began_s < 2.0


@run
async def test_an_office_that_was_cancelled_is_begun_anew() -> None:
    async with five() as m:
        await in_office(m)
        epoch = seat(m).epoch
        await m.at("n5").cancel((await m.at("n5").coordinator())["task"])
        while seat(m).epoch[0] == epoch[0]:
            await m.sleep(0.2)
        assert await in_office(m) and seat(m).epoch[0] == epoch[0] + 1
