"""Near and apart: prices that keep tasks of one key together, or from each other, until it costs more than it is worth."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import workbench
from manager_bench import Bench, started
from workbench import BOSS, award_of, fence, item_of, sent, task_of

from mesh import Agent, Context
from mesh.core.inputs import Call
from mesh.core.work.affinity import Affinity
from mesh.errors import UsageError
from mesh.limits import Limits, WorkLimits
from mesh.messages.membership import Offer
from mesh.messages.records import Decided
from mesh.messages.work import Placement, Pull, Release
from mesh.testing import LocalMesh

NEAR = Placement(near="session-7")
APART = Placement(apart="replicas")
GREET = Offer("greet", "greeter")


@pytest.fixture
def bench() -> Bench:
    bench = started()
    for node in "abcdefghijkl":
        bench.row(node, GREET, room=4)
    return bench


def test_the_first_choice_is_by_hash_the_same_for_every_manager_and_spread_over_nodes():
    affinity, nodes = Affinity(WorkLimits()), ["a", "b", "c"]
    chosen = [affinity.favourite(f"key {n}", nodes) for n in range(60)]
    assert chosen == [Affinity(WorkLimits()).favourite(f"key {n}", nodes[::-1]) for n in range(60)]
    assert min(map(chosen.count, nodes)) > 10
    without = [affinity.favourite(f"key {n}", ["a", "b"]) for n in range(60)]
    assert all(was == now for was, now in zip(chosen, without, strict=True) if was != "c"), "only those of the one that went move"
    assert affinity.favourite("key", []) == ""


def test_tasks_of_one_key_go_to_one_node_of_many(bench):
    took = [bench.awarded(bench.give(Call(n, "greet", b"{}", placement=NEAR)))[0] for n in range(4)]
    assert len(set(took)) == 1
    decided = bench.task("me.1.1").decisions[0]
    assert {c.transfer_ms for c in decided.candidates if c.node == took[0]} == {0}
    assert {c.transfer_ms for c in decided.candidates if c.node != took[0]} == {500}


def test_under_load_they_go_elsewhere_and_the_next_follows(bench):
    first = bench.awarded(bench.submit(placement=NEAR))[0]
    bench.row(first, GREET, room=9)
    bench.directory.get(first).load["greet"].queued = 60
    second = bench.awarded(bench.submit(placement=NEAR))[0]
    assert second != first
    bench.load(first, 9)
    assert bench.awarded(bench.submit(placement=NEAR))[0] == second


def test_the_favourite_is_one_that_can_be_asked(bench):
    first = bench.awarded(bench.submit(placement=NEAR))[0]
    bench.directory.get(first).state = "dead"
    second = bench.awarded(bench.submit(placement=NEAR))[0]
    assert second == Affinity(WorkLimits()).favourite("session-7", sorted(set("abcdefghijkl") - {first}))


def test_apart_tasks_spread_and_come_back_when_the_others_have_ended(bench):
    took = [bench.awarded(bench.submit(placement=APART))[0] for _ in range(12)]
    assert sorted(took) == list("abcdefghijkl")
    assert bench.awarded(bench.submit(placement=APART)) and len(bench.manager.book.affinity._held["replicas"]) == 12
    for name in list(bench.manager.book.tasks):
        task = bench.task(name)
        bench.result(bench.manager._placing._item(bench.now, task), task.holder)
    assert bench.manager.book.affinity._held == {}


def test_what_is_remembered_is_bounded():
    affinity = Affinity(WorkLimits(near_max=2))
    bench = started()
    tasks = [bench.manager.book.open(0.0, "greet", b"", durable=False, timeout_ms=0, files=(), placement=Placement(near=k)) for k in "xyz"]
    for task in tasks:
        affinity.gave(task, "a")
    assert list(affinity._last) == ["y", "z"]


def test_an_idle_node_gets_near_work_only_if_that_is_worth_it():
    contractor = workbench.Bench()
    contractor.attach("greet")
    for counter, stay_ms in ((1, 0), (2, 500)):
        contractor.turn(award_of(contractor.now, item_of(counter, stay_ms=stay_ms)), BOSS)
    contractor.contractor._slots.capabilities["greet"].service_ms = 250.0
    assert sent(contractor.give(Pull("greet", "other", 100), "other"), Release) == []
    contractor.contractor._slots.capabilities["greet"].service_ms = 900.0
    (release,) = sent(contractor.give(Pull("greet", "other", 100), "other"), Release)
    assert release.items == ((task_of(2), fence(), "pulled"),)


def test_work_that_was_pulled_from_its_favourite_says_what_that_costs(bench):
    item = bench.held(placement=NEAR)
    holder = bench.task(item.task).holder
    other = next(node for node in "abc" if node != holder)
    bench.give(Release(((item.task, item.fence, "pulled"),), other, 5, 900, 5), holder)
    decided = [entry for entry in bench.journal if type(entry) is Decided][-1]
    assert (decided.way, decided.winner) == ("pull", other)
    assert {c.node: c.transfer_ms for c in decided.candidates} == {other: 500, holder: 0}


def run(work: Any) -> Any:
    return asyncio.run(asyncio.wait_for(work, 20))


def test_in_a_mesh() -> None:
    agents = {}
    for name in ("n1", "n2", "n3"):
        agent = Agent("agent", concurrency=2)

        @agent.capability
        async def where(name: str = name) -> str:
            return name

        @agent.capability
        async def work(ctx: Context, name: str = name) -> str:
            await ctx.sleep(2.0)
            return name

        agents[name] = [agent]

    async def story() -> None:
        async with LocalMesh(nodes=agents, limits=Limits(work=WorkLimits(near_ms=50))) as m:
            near = [await m.options(near="s").call("where") for _ in range(6)]
            assert len(set(near)) == 1
            spread = await asyncio.gather(*(m.options(apart="r").call("work") for _ in range(3)))
            assert sorted(spread) == ["n1", "n2", "n3"]
            crowd = await asyncio.gather(*(m.options(near="s").call("work") for _ in range(6)))
            assert sorted(crowd) == ["n1", "n1", "n2", "n2", "n3", "n3"], "not in line while others are idle"
            with pytest.raises(UsageError, match="near is"):
                m.options(near="x" * 300)

    run(story())
