"""Waits in a whole mesh: approvals, signals and pauses outlive whoever drives, and count once."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from mesh import Agent, Context, answering
from mesh.errors import MeshError, NoSuchTask, Refused, TimedOut, UsageError
from mesh.sync import Context as BlockingContext
from mesh.testing import LocalMesh


def run(work: Any) -> Any:
    return asyncio.run(asyncio.wait_for(work, 20))


def payer(ran: list[str] | None = None, **rules: Any) -> Agent:
    agent = Agent("payer")

    @agent.capability
    async def pay(ctx: Context, n: int) -> dict[str, Any]:
        if ran is not None:
            ran.append("run")
        decision = await ctx.approval("pay it?", subject={"n": n}, **rules)
        return {
            "ok": bool(decision),
            "out": decision.output,
            "by": [one["node"] for one in decision.by],
            "note": decision.note,
            "edited": decision.edited,
            "expired": decision.expired,
        }

    return agent


async def guarded(m: LocalMesh, capability: str, **arguments: Any) -> Any:
    """A task at n1 that survives the loss of any node, once two others keep its journal."""
    while (task := await m.at("n1").submit(capability, **arguments)).survives != "node-loss":
        await task.cancel()
        await m.sleep(0.5)
    return task


async def gates(m: LocalMesh, at: str = "n1", about: str = "") -> list[dict[str, Any]]:
    """Waits until some are there."""
    while not (found := (await m.at(at).approvals(about))["gates"]):
        await m.sleep(0.25)
    return list(found)


def test_asked_on_one_node_answered_on_another_with_a_note_and_another_output() -> None:
    async def story() -> None:
        agent = payer()
        async with LocalMesh(nodes={"n1": [], "n2": [agent], "n3": []}) as m:
            task = await m.at("n1").submit("pay", n=3)
            [gate] = await gates(m, "n3")
            assert (gate["question"], gate["arguments"]["subject"], gate["root"]) == ("pay it?", {"n": 3}, task.id)
            answer = await m.at("n3").approve(task.id, note="half of it", output={"n": 1})
            assert (answer["state"], answer["parent"]) == ("done", task.id)
            assert await task.result() == {
                "ok": True,
                "out": {"n": 1},
                "by": ["n3"],
                "note": "half of it",
                "edited": True,
                "expired": False,
            }
            [said] = [entry for entry in (await m.at("n1").story(gate["task"]))["entries"] if entry["kind"] == "Answered"]
            assert (said["node"], said["approve"], said["note"]) == ("n3", True, "half of it")
            assert (await m.at("n2").approvals())["gates"] == []
            with pytest.raises(NoSuchTask):
                await m.at("n2").approve(gate["task"])

    run(story())


def test_so_many_have_to_approve_each_node_once_and_one_denial_denies() -> None:
    async def story() -> None:
        agent = payer(quorum=2)
        async with LocalMesh(nodes={"n1": [agent], "n2": [], "n3": []}) as m:
            task = await m.at("n1").submit("pay", n=3)
            await gates(m)
            for _ in range(2):
                assert (await m.at("n2").approve(task.id))["state"] == "waiting"
            assert (await m.at("n3").approve(task.id))["state"] == "done"
            assert sorted((await task.result())["by"]) == ["n2", "n3"]

            task = await m.at("n1").submit("pay", n=4)
            await gates(m)
            await m.at("n2").approve(task.id)
            await m.at("n3").deny(task.id, note="too much")
            result = await task.result()
            assert (result["ok"], result["by"], result["note"], result["out"]) == (False, ["n3"], "too much", {"n": 4})

    run(story())


@pytest.mark.parametrize(
    ("rules", "at", "code"),
    [
        ({"approvers": ["n3"]}, "n2", "not_approver"),
        ({"separate": True}, "n1", "own_work"),
        ({"approvers": ["n3"], "on_expire": "escalate", "escalate_to": ["n2"], "expires_s": 100}, "n2", "not_approver"),
    ],
)
def test_who_may_not_approve_is_refused_and_the_gate_goes_on_waiting(rules: dict[str, Any], at: str, code: str) -> None:
    async def story() -> None:
        agent = payer(**rules)
        async with LocalMesh(nodes={"n1": [agent], "n2": [], "n3": []}) as m:
            task = await m.at("n1").submit("pay", n=3)
            await gates(m)
            with pytest.raises(MeshError) as refused:
                await m.at(at).approve(task.id)
            assert refused.value.code == code
            assert (await m.at("n3").approve(task.id))["state"] == "done"
            assert (await task.result())["by"] == ["n3"]

    run(story())


def test_a_gate_escalates_in_half_of_its_time_and_is_denied_at_its_end() -> None:
    async def story() -> None:
        agent = payer(approvers=["n3"], on_expire="escalate", escalate_to=["n2"], expires_s=100)
        async with LocalMesh(nodes={"n1": [agent], "n2": [], "n3": []}) as m:
            task = await m.at("n1").submit("pay", n=3)
            await m.sleep(51)
            [gate] = await gates(m, "n2")
            assert gate["approvers"] == ["n3", "n2"]
            await m.at("n2").approve(task.id)
            assert (await task.result())["by"] == ["n2"]
            task, began_s = await m.at("n1").submit("pay", n=4), m.now_s
            result = await task.result()
            assert (result["ok"], result["expired"], result["by"]) == (False, True, [])
            assert 100 <= m.now_s - began_s < 102

    run(story())


def test_asked_again_with_other_inputs_the_earlier_gate_is_over() -> None:
    """Whoever looked at the first ones has not seen these."""

    async def story() -> None:
        agent = Agent("payer")

        @agent.capability(idempotent=True)
        async def pay(ctx: Context) -> Any:
            amount = 1 if ctx.task.attempt == 1 else 1000
            return (await ctx.approval("pay?", name="pay", subject=amount)).output

        async with LocalMesh(nodes={"n1": [], "n2": [agent], "n3": [agent]}) as m:
            task = await m.at("n1").submit("pay")
            [gate] = await gates(m)
            m.kill((await m.at("n1").task(task.id))["owner"])
            while (found := await gates(m))[0]["task"] == gate["task"]:
                await m.sleep(0.25)
            assert [one["arguments"]["subject"] for one in found] == [1000]
            with pytest.raises(NoSuchTask):
                await m.at("n1").approve(gate["task"])
            await m.at("n1").approve(found[0]["task"])
            assert await task.result() == 1000

    run(story())


def test_a_gate_outlives_who_asked_and_who_manages_and_power_cuts() -> None:
    async def story() -> None:
        ran: list[str] = []
        agent = payer(ran, quorum=2)
        async with LocalMesh(nodes={"n1": [], "n2": [agent], "n3": [agent], "n4": []}) as m:
            task = await guarded(m, "pay", n=3)
            while not await gates(m, "n4", task.id):
                await m.sleep(0.25)
            await m.at("n4").approve(task.id)
            m.kill("n1")  # its manager: one of its keepers drives it on
            while not (found := (await m.at("n3").approvals())["gates"]):
                await m.sleep(0.5)
            assert [one["node"] for one in found[0]["said"]] == ["n4"], "what was said is not said again"
            m.power_cut("n2", "n3", "n4")
            m.restart("n1", "n2", "n3", "n4")
            await gates(m, "n3")
            await m.at("n3").approve(task.id)
            assert sorted((await m.at("n4").result(task.id))["result"]["by"]) == ["n3", "n4"]

    run(story())


def listener() -> Agent:
    agent = Agent("listener")

    @agent.capability
    async def listen(ctx: Context, times: int) -> list[Any]:
        return [await ctx.signal("news") for _ in range(times)]

    @agent.capability
    async def hurry(ctx: Context) -> str:
        try:
            await ctx.signal("news", timeout_s=5)
        except TimedOut:
            return f"then {await ctx.signal('news')}"
        return "in time"

    @agent.capability
    def block(ctx: BlockingContext) -> Any:
        ctx.sleep(60, name="a while")
        return ctx.signal("news")

    return agent


def test_signals_come_in_order_each_once_whether_anybody_waited_yet() -> None:
    async def story() -> None:
        agent = listener()
        async with LocalMesh(nodes={"n1": [], "n2": [agent], "n3": []}) as m:
            task = await m.at("n1").submit("listen", times=3)
            for value, event in ((1, "a"), (2, "b"), (2, "b"), ({"three": 3}, "c")):
                await m.at("n3").signal(task.id, "news", value, event=event)
            assert await task.result() == [1, 2, {"three": 3}]
            with pytest.raises(Refused) as refused:
                await m.at("n2").signal(task.id, "news", 4)
            assert refused.value.code == "task_ended"

    run(story())


def test_a_signal_after_one_that_did_not_come_in_time_is_the_next_one() -> None:
    async def story() -> None:
        async with LocalMesh(nodes={"n1": [listener()], "n2": []}) as m:
            task = await m.at("n1").submit("hurry")
            await m.sleep(6)
            await m.at("n2").signal(task.id, "news", "late")
            assert await task.result() == "then late"

    run(story())


def test_a_signal_that_did_not_come_in_time_is_named() -> None:
    async def story() -> None:
        agent = Agent("hasty")

        @agent.capability(retries=0)
        async def hasty(ctx: Context) -> str:
            with pytest.raises(TimedOut) as late:
                await ctx.signal("paid", timeout_s=5)
            return late.value.message

        async with LocalMesh(nodes={"n1": [agent]}) as m:
            assert await m.call("hasty") == "signal paid did not come within 5 s"

    run(story())


def test_a_repeated_signal_counts_once_after_a_take_over_too() -> None:
    async def story() -> None:
        agent = listener()
        async with LocalMesh(nodes={"n1": [], "n2": [agent], "n3": []}) as m:
            task = await guarded(m, "listen", times=2)
            await m.at("n3").signal(task.id, "news", 1, event="a")
            m.kill("n1")
            await m.sleep(8)
            for value, event in ((1, "a"), (2, "b")):
                await m.at("n3").signal(task.id, "news", value, event=event)
            assert (await m.at("n3").result(task.id))["result"] == [1, 2]

    run(story())


@pytest.mark.parametrize("by_the_client", [True, False], ids=["told before it is sent", "refused by the manager"])
def test_what_is_too_big_for_the_journal_is_refused_and_its_node_goes_on(by_the_client: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not by_the_client:
        monkeypatch.setattr(answering, "_fits", lambda *_: None)

    async def story() -> None:
        agent = payer([])
        async with LocalMesh(nodes={"n1": [], "n2": [agent, listener()], "n3": []}) as m:
            paying, task = await guarded(m, "pay", n=3), await m.at("n1").submit("listen", times=1)
            [gate] = await gates(m)
            for do in (m.at("n1").signal(task.id, "news", "x" * 600_000), m.at("n1").approve(gate["task"], output="x" * 300_000)):
                with pytest.raises(Refused) as refused:
                    await do
                assert refused.value.code == "too_big"
            await m.at("n3").signal(task.id, "news", "x" * 500_000)
            await m.at("n3").approve(gate["task"], output="x" * 250_000)
            assert len((await task.result())[0]) == 500_000 and (await paying.result())["edited"]

    run(story())


def test_what_a_person_writes_takes_bounded_room_in_the_journal() -> None:
    async def story() -> None:
        async with LocalMesh(nodes={"n1": [listener()], "n2": []}) as m:
            task = await m.at("n1").submit("listen", times=1)
            with pytest.raises(Refused) as refused:
                await m.at("n2").signal(task.id, "news", 1, event="e" * 201)
            assert refused.value.code == "bad_signal"
            await m.at("n2").cancel(task.id, reason="r" * 700_000)
            [asked] = [
                one for one in (await m.at("n1").story(task.id))["entries"] if one["kind"] == "CancelAsked" and one["task"] == task.id
            ]
            assert asked["reason"] == "r" * 2000

    run(story())


def test_a_named_pause_is_not_begun_anew_by_the_next_attempt() -> None:
    async def story() -> None:
        agent = listener()
        async with LocalMesh(nodes={"n1": [], "n2": [agent], "n3": [agent]}) as m:
            task = await m.at("n1").submit("block")
            await m.sleep(50)
            m.kill((await m.at("n1").task(task.id))["owner"])
            await m.at("n1").signal(task.id, "news", "done")
            assert await task.result() == "done"
            assert 60 <= m.now_s < 75

    run(story())


@pytest.mark.parametrize(
    ("question", "rules"),
    [
        ("", {}),
        ("pay?", {"name": "a/b"}),
        ("pay?", {"quorum": 0}),
        ("pay?", {"quorum": 2, "approvers": ["n1"]}),
        ("pay?", {"approvers": "n1"}),
        ("pay?", {"on_expire": "maybe"}),
        ("pay?", {"on_expire": "escalate", "approvers": ["n1"], "escalate_to": ["n2"]}),
        ("pay?", {"expires_s": -1}),
    ],
)
def test_what_is_no_gate_is_refused_where_it_is_written(question: str, rules: dict[str, Any]) -> None:
    async def story() -> None:
        agent = Agent("payer")

        @agent.capability
        async def pay(ctx: Context) -> str:
            with pytest.raises(UsageError) as refused:
                await ctx.approval(question, **rules)
            return refused.value.fix

        async with LocalMesh(agents=[agent]) as m:
            assert await m.call("pay")

    run(story())
