"""A second attempt beside a slow one: when it is made, who wins, and that a task never has two live awards."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from manager_bench import Bench

from mesh import Agent, Context
from mesh.core.inputs import Call
from mesh.core.work.budget import HedgeBudget
from mesh.core.work.latencies import Latencies
from mesh.ids import award_number
from mesh.inspector.why import explain
from mesh.limits import WorkLimits
from mesh.messages.membership import Offer
from mesh.messages.records import Bound, Decided, Finished, Lost
from mesh.messages.work import (
    Accept,
    Ask,
    Award,
    AwardItem,
    Cancel,
    Cancelled,
    CheckpointAsk,
    EffectAnswer,
    EffectAsk,
    Failure,
    Placement,
    ResultAck,
    Revoke,
    StepAsk,
    StepDone,
    Superseded,
)
from mesh.testing import LocalMesh

HEDGE = Placement(hedge=True)
FIRST, TWIN = "me.1.101", "me.1.102"


def bench_of(*, idempotent: bool = True, given: int = 100, nodes: str = "ab", **limits: Any) -> Bench:
    """A manager that knows: such work takes 10 ms, one in twenty 100 ms."""
    bench = Bench(**limits)
    bench.start()
    bench.now += 10
    for node in nodes:
        bench.row(node, Offer("greet", "greeter", idempotent=idempotent), room=4)
    for number in range(given):
        bench.manager.book.latencies.learn("greet", 100.0 if number % 20 == 0 else 10.0)
    bench.manager.book.given = given
    return bench


def slow(bench: Bench, **options: Any) -> tuple[str, AwardItem]:
    """Submitted, accepted, and then silent for as long as one in twenty takes."""
    node, item = bench.awarded(bench.submit(placement=HEDGE, **options))
    bench.give(Accept(((item.task, item.fence),)), node)
    assert bench.sends(bench.after(0.09), Award) == []
    return node, item


def doubled(bench: Bench) -> tuple[str, AwardItem, str, AwardItem]:
    first, item = slow(bench)
    second, twin = bench.awarded(bench.after(0.02))
    assert first != second and (item.task, twin.task) == (FIRST, TWIN) and not twin.durable
    bench.give(Accept(((twin.task, twin.fence),)), second)
    return first, item, second, twin


def test_the_second_is_first_and_gives_the_result_under_the_next_fence():
    bench = bench_of()
    first, item, second, twin = doubled(bench)
    before = len(bench.journal)
    effects = bench.result(twin, second, b'"fast"')
    lost, decided, bound, finished = bench.journal[before:]
    assert (type(lost), lost.fence, lost.node, lost.reason) == (Lost, item.fence, first, "outrun")
    assert (type(decided), decided.way, decided.winner, award_number(decided.fence)) == (Decided, "hedge", second, 2)
    assert decided.refusals == ((first, first.upper(), "slower"),)
    assert (type(bound), bound.fence) == (Bound, decided.fence)
    assert (type(finished), finished.state, finished.fence, finished.node) == (Finished, "done", decided.fence, second)
    assert bench.sends(effects, Revoke) == [(first, Revoke(((FIRST, item.fence),)))]
    assert bench.task(FIRST).output == b'"fast"' and bench.task(FIRST).attempts == 2
    # What the slow one says is too late.
    late = bench.result(item, first, b'"slow"')
    assert bench.sends(late, Superseded) == [(first, Superseded(((FIRST, item.fence),)))] and bench.task(FIRST).output == b'"fast"'


def test_why_tells_it_and_agrees():
    bench = bench_of()
    _, _, second, twin = doubled(bench)
    bench.result(twin, second)
    rows = [{"kind": type(entry).__name__, "verified": True, "author": "me", "wall_ms": 0, **fields(entry)} for entry in bench.journal]
    document = explain(FIRST, rows)
    assert [(d["way"], d["outcome"]) for d in document["decisions"]] == [("award", "lost: outrun"), ("hedge", "done")]
    assert document["agrees"]


def fields(entry: Any) -> dict[str, Any]:
    import dataclasses

    return dataclasses.asdict(entry)


def test_the_first_is_first_and_the_second_is_cancelled():
    bench = bench_of()
    first, item, second, twin = doubled(bench)
    effects = bench.result(item, first)
    assert bench.task(FIRST).state == "done" and bench.task(FIRST).node == first
    assert [(to, m.items) for to, m in bench.sends(effects, Cancel)] == [(second, ((TWIN, twin.fence),))]
    bench.give(Cancelled(((TWIN, twin.fence),)), second)
    assert bench.task(TWIN).state == "cancelled" and not bench.manager.book.tasks


def test_a_second_that_fails_changes_nothing():
    bench = bench_of()
    first, item, second, twin = doubled(bench)
    before = len(bench.journal)
    bench.give(Failure(TWIN, twin.fence, "error", "no", True), second)
    assert bench.task(TWIN).state == "failed" and bench.task(FIRST).state == "held" and len(bench.journal) == before
    bench.result(item, first)
    assert bench.task(FIRST).state == "done"


def test_a_first_that_was_lost_meanwhile_takes_the_result_all_the_same():
    bench = bench_of()
    first, item, second, twin = doubled(bench)
    for node in "ab":
        bench.load(node, 0)
    bench.give(Failure(FIRST, item.fence, "worker_lost", "killed", True), first)
    assert bench.task(FIRST).state == "parked"
    bench.result(twin, second)
    assert bench.task(FIRST).state == "done" and bench.task(FIRST).node == second
    assert not len(bench.manager.book.lines["greet"])


def test_to_cancel_the_task_is_to_cancel_both():
    bench = bench_of()
    first, item, second, twin = doubled(bench)
    effects = bench.give(Ask(7, "cancel", FIRST), "a")
    assert sorted((to, m.items[0][0]) for to, m in bench.sends(effects, Cancel)) == sorted([(first, FIRST), (second, TWIN)])
    bench.result(twin, second)
    assert bench.task(FIRST).state == "cancelling", "a result that came too late for it"
    bench.give(Cancelled(((FIRST, item.fence),)), first)
    assert bench.task(FIRST).state == "cancelled"


@pytest.mark.parametrize("why", ["not_idempotent", "not_asked", "unknown", "no_room", "alone", "budget", "effect"])
def test_when_there_is_no_second(why):
    bench = bench_of(
        idempotent=why != "not_idempotent",
        given={"budget": 18, "unknown": 19}.get(why, 100),
        nodes="a" if why == "alone" else "ab",
    )
    if why == "budget":
        for _ in range(2):
            bench.manager.book.latencies.learn("greet", 10.0)
    placement = Placement() if why == "not_asked" else HEDGE
    node, item = bench.awarded(bench.submit(placement=placement))
    bench.give(Accept(((item.task, item.fence),)), node)
    if why == "effect":
        bench.give(EffectAsk(1, item.task, item.fence, "mail", 1), node)
    if why == "no_room":
        for other in "ab":
            bench.directory.get(other).load["greet"].busy = 1
    effects = bench.after(2.0, hear=("a", "b"))
    assert bench.sends(effects, Award) == [] and bench.manager.statistics().hedges == 0
    assert bench.manager.statistics().hedges_denied == (why == "budget")


def test_the_second_has_no_effects_steps_or_checkpoints():
    bench = bench_of()
    _, _, second, twin = doubled(bench)
    for ask, kind in (
        (EffectAsk(1, TWIN, twin.fence, "mail", 1), EffectAnswer),
        (StepAsk(2, TWIN, twin.fence, "a", "greet", b"{}"), StepDone),
        (CheckpointAsk(3, TWIN, twin.fence, b"1"), StepDone),
    ):
        ((_, answer),) = bench.sends(bench.give(ask, second), kind)
        assert answer.state == "refused" and b"stale_fence" in answer.error


def test_the_slow_node_is_never_the_second_even_if_it_is_the_only_one_left():
    bench = bench_of()
    first, _ = slow(bench)
    other = "b" if first == "a" else "a"
    bench.awarded(bench.after(0.02))
    bench.give(Failure(TWIN, bench.task(TWIN).fence, "worker_lost", "killed", True), other)
    bench.directory.get(other).linked = False
    assert bench.task(TWIN).holder in ("", other)
    assert bench.sends(bench.after(0.3, hear=(first,)), Award) == []


def test_a_plain_call_is_hedged_too():
    bench = bench_of()
    node, _item = bench.awarded(bench.give(Call(9, "greet", b"{}", placement=HEDGE)))
    second, twin = bench.awarded(bench.after(0.11))
    effects = bench.result(twin, second, b'"fast"')
    assert second != node and bench.replies(effects)[0][1]["output"] == b'"fast"'
    assert [m.items for _, m in bench.sends(bench.after(0.1), ResultAck)] == [((TWIN, twin.fence),)]


def test_hedges_stay_within_their_share():
    budget = HedgeBudget(WorkLimits())
    spent = [given for given in range(1, 2001) if budget.spend(given)]
    assert len(spent) == 100 and spent[:2] == [20, 40]
    budget = HedgeBudget(WorkLimits())
    assert sum(budget.spend(100_000) for _ in range(100)) == 10


def test_late_is_what_one_in_twenty_takes_of_the_newest():
    known = Latencies(2)
    for took_ms in range(19):
        known.learn("greet", float(took_ms))
    assert known.late_ms("greet") is None
    known.learn("greet", 19.0)
    assert known.late_ms("greet") == 19.0
    for took_ms in range(100):
        known.learn("greet", float(took_ms))
    assert known.late_ms("greet") == 95.0
    for name in ("a", "b", "c"):
        known.learn(name, 1.0)
    assert sorted(known._took_ms) == ["b", "c"]


def test_in_a_mesh_the_tail_is_cut_and_the_story_says_so() -> None:
    runs: list[str] = []
    agent = Agent("agent", concurrency=4)

    @agent.capability(idempotent=True)
    async def work(ctx: Context, name: str) -> str:
        runs.append(name)
        await ctx.sleep(60.0 if name == "slow" and runs.count("slow") == 1 else 0.1)
        return f"{name} {runs.count(name)}"

    async def story() -> None:
        async with LocalMesh(agents=[agent]) as m:
            for number in range(25):
                await m.call("work", name=str(number))
            began_s = m.now_s
            task = await m.options(hedge=True).submit("work", name="slow")
            assert await task.result() == "slow 2" and m.now_s - began_s < 20
            ways = [(entry["way"], award_number(entry["fence"])) for entry in await task.why() if entry["kind"] == "Decided"]
            assert [way for way, _ in ways][-1] == "hedge" and [number for _, number in ways] == [1, 2]

    asyncio.run(asyncio.wait_for(story(), 20))
