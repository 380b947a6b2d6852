"""Schedules and events over whole simulated meshes, in virtual time: one task per tick and per event, whoever dies."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from mesh import Agent, Context
from mesh.core.triggers.calendar import turn
from mesh.errors import DeclarationError, Refused, UsageError
from mesh.testing import LocalMesh

HOUR_S = 3600.0
NODES = ("n1", "n2", "n3")


def lived(story: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(story(), 60))


class Sweeper:
    """An agent with one schedule, and which tasks ran for which tick."""

    def __init__(self, when: str = "1h", **options: Any) -> None:
        self.ran: list[tuple[str, str]] = []
        self.agent = agent = Agent("sweeper")

        @agent.every(when, **options)
        async def sweep(ctx: Context, tick: str) -> None:
            self.ran.append((tick, ctx.task.id))

    @property
    def ticks(self) -> list[str]:
        return sorted({tick for tick, _ in self.ran})

    def assert_one_task_per_tick(self) -> None:
        assert len(set(self.ran)) == len(self.ticks), self.ran


def mesh_of(sweeper: Sweeper, nodes: tuple[str, ...] = NODES, **options: Any) -> LocalMesh:
    return LocalMesh(nodes={node: [sweeper.agent] for node in nodes}, **options)


def first_in_turn(name: str = "sweeper.sweep") -> str:
    return min(NODES, key=lambda node: turn(name, node))


def at_tick(m: LocalMesh, after_s: float, what: Callable[[], None], every_s: float = 10.0) -> None:
    """Do it so long after the next tick, to the microsecond."""
    wall_s = m.world.wall_ms(m.world.living()[0]) / 1000
    m.world.after(every_s - wall_s % every_s + after_s, what)


async def rows(m: LocalMesh) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in (await m.schedules())["schedules"]}


# ---- ticks


def test_thirty_days_pass_in_no_time() -> None:
    sweeper = Sweeper("12h")
    workdays: list[str] = []

    @sweeper.agent.every("0 6 * * 1-5", tz="Europe/Berlin", jitter_s=60)
    async def report(tick: str) -> None:
        workdays.append(tick)

    async def story() -> None:
        async with mesh_of(sweeper, ("n1",)) as m:
            began_s = time.process_time()
            await m.sleep(30 * 24 * HOUR_S)
            assert time.process_time() - began_s < 5.0, "under a second where nothing else runs"
            assert len(sweeper.ran) == 60
            assert len(workdays) == 22, "from Sunday, 15 June 2025, to Tuesday, 15 July"
            assert workdays[0] == "2025-06-16T04:00:00Z"

    lived(story)
    sweeper.assert_one_task_per_tick()


def test_usually_one_node_acts_on_a_tick_and_all_know_of_it() -> None:
    sweeper = Sweeper("10s")

    async def story() -> None:
        async with mesh_of(sweeper) as m:
            await m.sleep(45)
            acted = {host.name: host.assembly.ticker.statistics().acted for host in m.world.living()}
            assert acted == {node: len(sweeper.ticks) * (node == first_in_turn()) for node in NODES}
            shown = [(await m.at(node).schedules())["schedules"][0] for node in NODES]
            assert len({(row["last_ms"], row["task"]) for row in shown}) == 1
            assert shown[0]["task"] == sweeper.ran[-1][1]

    lived(story)
    assert len(sweeper.ticks) >= 4
    sweeper.assert_one_task_per_tick()


@pytest.mark.parametrize("after_s", [-0.001, 0.0002, 0.001, 0.002, 0.004, 0.007, 0.012])
def test_the_node_whose_turn_it_is_dies_at_the_tick(after_s: float) -> None:
    """Before it has submitted, before that is kept, before the key is claimed, before it has told the others."""
    sweeper = Sweeper("10s", name="dying")

    async def story() -> None:
        async with mesh_of(sweeper) as m:
            await m.sleep(6)
            at_tick(m, after_s, lambda: m.kill(first_in_turn("dying")))
            await m.sleep(25)
            tasks = [row for row in (await m.tasks())["tasks"] if row["capability"] == "sweep"]
            assert len(tasks) == len(sweeper.ticks)

    lived(story)
    assert len(sweeper.ticks) == 3, sweeper.ran
    sweeper.assert_one_task_per_tick()


def test_cut_off_at_the_tick_it_fires_once_all_the_same() -> None:
    sweeper = Sweeper("10s", name="split")

    async def story() -> None:
        async with mesh_of(sweeper) as m:
            await m.sleep(6)
            first = first_in_turn("split")
            others = [node for node in NODES if node != first]
            at_tick(m, -0.5, lambda: m.partition([first], others))
            await m.sleep(25)
            during = list(sweeper.ticks)
            m.heal()
            await m.sleep(30)
            assert len(during) >= 2, "the majority goes on"

    lived(story)
    sweeper.assert_one_task_per_tick()


def test_without_a_majority_it_fires_after_the_heal_and_once() -> None:
    sweeper = Sweeper("1h", name="torn", catch_up="last")

    async def story() -> None:
        async with mesh_of(sweeper) as m:
            await m.sleep(HOUR_S)  # so that there is a first tick, and keepers of keys
            m.partition(["n1"], ["n2", "n3"])
            m.partition(["n2"], ["n3"])
            before = len(sweeper.ticks)
            await m.sleep(20)
            await m.sleep(HOUR_S)
            assert len(sweeper.ticks) == before
            m.heal()
            await m.sleep(50)
            assert len(sweeper.ticks) == before + 1

    lived(story)
    sweeper.assert_one_task_per_tick()


def test_while_no_key_can_be_claimed_nothing_piles_up() -> None:
    sweeper = Sweeper("10s", name="piling", overlap="allow")

    async def story() -> None:
        async with mesh_of(sweeper) as m:
            await m.sleep(25)
            m.partition(["n1"], ["n2", "n3"])
            m.partition(["n2"], ["n3"])
            await m.sleep(15)  # what was begun before the cut was noticed is one tick for each at most
            before = len(sweeper.ticks)
            for _ in range(10):
                await m.sleep(60)
            problem = (await rows(m))["piling"]["problem"]
            m.heal()
            await m.sleep(9)
            assert len(sweeper.ticks) - before <= 12, "those of the last minute, and what hung since the cut: not sixty"
            assert "those who keep the mesh's keys are away" in problem
            await m.sleep(50)

    lived(story)
    sweeper.assert_one_task_per_tick()


# ---- what was missed


@pytest.mark.parametrize(("catch_up", "missed"), [("none", 0), ("last", 1), ("all", 3)])
def test_what_passed_while_the_whole_mesh_was_down(catch_up: str, missed: int) -> None:
    sweeper = Sweeper("1h", catch_up=catch_up, catch_up_max=3, overlap="allow")

    async def story() -> None:
        async with mesh_of(sweeper) as m:
            await m.sleep(2.2 * HOUR_S)
            before = len(sweeper.ticks)
            m.power_cut()
            await m.sleep(5 * HOUR_S)
            m.restart()
            await m.sleep(30)
            assert len(sweeper.ticks) == before + missed, sweeper.ran
            m.power_cut()
            m.restart()
            await m.sleep(30)
            assert len(sweeper.ticks) == before + missed, "a restart finds out of the record what was done"

    lived(story)
    sweeper.assert_one_task_per_tick()


def test_what_is_declared_anew_has_missed_nothing() -> None:
    sweeper = Sweeper("1h", catch_up="all")

    async def story() -> None:
        async with mesh_of(sweeper) as m:
            await m.sleep(30)
            assert sweeper.ran == []

    lived(story)


def test_while_one_runs_the_next_is_skipped() -> None:
    began: list[str] = []
    agent = Agent("slow")

    @agent.every("10s")
    async def crawl(ctx: Context, tick: str) -> None:
        began.append(tick)
        await ctx.sleep(25)

    async def story() -> None:
        async with LocalMesh(nodes={"n1": [agent], "n2": [agent], "n3": [agent]}) as m:
            await m.sleep(55)
            row = (await rows(m))["slow.crawl"]
            assert row["skipped_ms"] > row["last_ms"] > 0

    lived(story)
    seconds = [int(tick[-3:-1]) for tick in began]
    assert len(began) == 2 and (seconds[1] - seconds[0]) % 60 == 30, began


# ---- people


def test_people_add_pause_resume_and_remove() -> None:
    sweeper = Sweeper("1d")

    async def story() -> None:
        async with mesh_of(sweeper) as m:
            await m.sleep(5)
            await m.at("n2").add_schedule("often", "10s", "sweep")
            with pytest.raises(Refused, match="there is a schedule 'often' already"):
                await m.add_schedule("often", "20s", "sweep")
            await m.add_schedule("often", "10s", "sweep")  # the same once more is no news
            await m.sleep(25)
            assert len(sweeper.ticks) in (2, 3)
            await m.change_schedule("pause", "often")
            await m.sleep(1)
            before = list(sweeper.ticks)
            await m.sleep(25)
            assert sweeper.ticks == before
            assert (await rows(m))["often"]["next_ms"] == 0
            m.power_cut()
            await m.sleep(10)
            m.restart()
            await m.sleep(20)
            assert (await rows(m))["often"]["paused"], "what was said is in every journal"
            await m.at("n3").change_schedule("resume", "often")
            await m.sleep(15)
            assert len(sweeper.ticks) - len(before) in (1, 2), "what passed meanwhile is nobody's"
            await m.at("n1").change_schedule("remove", "often")
            await m.sleep(1)
            count = len(sweeper.ticks)
            await m.sleep(25)
            assert len(sweeper.ticks) == count
            with pytest.raises(Refused, match="there is no schedule 'often'"):
                await m.change_schedule("pause", "often")
            with pytest.raises(Refused, match="stands in the code"):
                await m.change_schedule("remove", "sweeper.sweep")
            await m.change_schedule("pause", "sweeper.sweep")
            assert (await rows(m))["sweeper.sweep"]["paused"]

    lived(story)
    sweeper.assert_one_task_per_tick()


def test_a_schedule_outlives_who_was_told() -> None:
    sweeper = Sweeper("1d")

    async def story() -> None:
        async with mesh_of(sweeper) as m:
            await m.sleep(5)  # so that there are keepers of journals
            await m.at("n1").add_schedule("often", "10s", "sweep", arguments={"tick": "given"})
            m.kill("n1")
            await m.sleep(30)
            assert (await rows(m))["often"]["capability"] == "sweep"

    lived(story)
    assert sweeper.ticks == ["given"] and len(sweeper.ran) in (2, 3)


# ---- events


def test_an_event_is_one_task_for_each_who_subscribes() -> None:
    agent, other = Agent("loader"), Agent("watcher")
    loaded: list[tuple[str, str]] = []
    seen: list[str] = []

    @agent.on("file.*")
    @agent.capability
    async def load(path: str, event_id: str) -> None:
        loaded.append((path, event_id))

    @other.on("file.**")
    async def watch(topic: str) -> None:
        seen.append(topic)

    async def story() -> None:
        async with LocalMesh(nodes={"n1": [agent], "n2": [agent], "n3": [other]}) as m:
            said = await m.publish("file.created", path="a.csv", size=3, event_id="e1")
            assert [row["capability"] for row in said["tasks"]] == ["load", "watch"]
            again = await m.at("n3").publish("file.created", path="a.csv", size=3, event_id="e1")
            assert [row["task"] for row in again["tasks"]] == [row["task"] for row in said["tasks"]]
            fresh = await m.publish("file.moved.away", path="b.csv")
            assert [row["capability"] for row in fresh["tasks"]] == ["watch"]
            nobody = await m.publish("order.paid", amount=3)
            assert (nobody["subscribers"], nobody["tasks"]) == (0, [])
            await m.sleep(2)

    lived(story)
    assert loaded == [("a.csv", "e1")] and seen == ["file.created", "file.moved.away"]


def test_what_a_subscriber_cannot_take_is_told_and_the_others_get_it() -> None:
    agent = Agent("loader")

    @agent.on("file.created")
    async def load(path: str) -> str:
        return path

    @agent.on("file.created")
    async def count() -> int:
        return 1

    async def story() -> None:
        async with LocalMesh([agent]) as m:
            first = await m.publish("file.created", path="a", event_id="e")
            twice = await m.publish("file.created", path="b", event_id="e")
            assert [row.get("task") for row in twice["tasks"]] == [first["tasks"][0]["task"], None]
            assert twice["tasks"][1]["error"]["code"] == "key_taken"
            for bad in ("file.*", "", "a b", "x" * 65):
                with pytest.raises(UsageError, match="no topic"):
                    await m.publish(bad)

    lived(story)


def test_a_handler_that_is_run_again_publishes_nothing_twice() -> None:
    agent = Agent("chain")
    got: list[int] = []

    @agent.capability(retries=3)
    async def begin(ctx: Context) -> int:
        for number in (1, 2):
            await ctx.publish("number.made", number=number)
        if ctx.task.attempt < 3:
            raise RuntimeError("once more")
        return ctx.task.attempt

    @agent.on("number.made")
    async def take(number: int) -> None:
        got.append(number)

    async def story() -> None:
        async with LocalMesh([agent]) as m:
            assert await (await m.submit("begin")).result() == 3
            await m.sleep(2)

    lived(story)
    assert sorted(got) == [1, 2]


def test_events_wait_for_who_is_away() -> None:
    agent, caller = Agent("loader"), Agent("caller")
    got: list[str] = []

    @agent.on("file.created")
    async def load(path: str) -> None:
        got.append(path)

    @caller.capability
    async def ping() -> None: ...

    async def story() -> None:
        async with LocalMesh(nodes={"n1": [caller], "n2": [caller], "n3": [agent]}) as m:
            m.kill("n3")
            await m.sleep(15)
            said = await m.at("n1").publish("file.created", path="late")
            assert said["subscribers"] == 1
            m.restart("n3")
            await m.sleep(20)

    lived(story)
    assert got == ["late"]


# ---- declarations


def test_a_trigger_makes_a_capability_and_stands_in_its_offer() -> None:
    agent = Agent("a")

    @agent.every("5m", jitter_s=3, catch_up="all", catch_up_max=7, arguments={"n": 3})
    @agent.every("0 6 * * 1-5", tz="Europe/Berlin", name="early")
    @agent.capability(retries=2)
    async def sweep(n: int = 1, tick: str = "") -> int:
        return n

    @agent.on("file.*")
    @agent.on("order.**")
    def load(path: str = "") -> str:
        return path

    first, second = agent.offers()
    assert [(plan.name, plan.cron, plan.tz, plan.every_ms, plan.input) for plan in first.schedules] == [
        ("early", "0 6 * * 1-5", "Europe/Berlin", 0, b"{}"),
        ("a.sweep", "", "", 300_000, b'{"n":3}'),
    ]
    assert all(plan.wants_tick for plan in first.schedules) and first.retries == 2
    assert (second.capability, second.topics) == ("load", ("order.**", "file.*"))


@pytest.mark.parametrize(
    ("when", "options", "words"),
    [
        ("5 minutes", {}, "neither an interval nor a cron expression"),
        ("-5m", {}, "neither an interval nor a cron expression"),
        ("10ms", {}, "out of range"),
        ("400d", {}, "out of range"),
        ("5m", {"tz": "UTC"}, "no time zone"),
        ("61 * * * *", {}, "no cron expression: Bad minute"),
        ("0 0 31 2 *", {}, "no cron expression|never comes"),
        ("0 6 * * *", {"tz": "Mars/Olympus"}, "knows no time zone 'Mars/Olympus'"),
        (5, {}, "no time"),
        ("5m", {"jitter_s": -1}, "jitter_s is -1"),
        ("5m", {"catch_up": "some"}, "catch_up is 'some'"),
        ("5m", {"catch_up": "all", "catch_up_max": 0}, "catch_up_max is 0"),
        ("5m", {"overlap": "maybe"}, "overlap is 'maybe'"),
        ("5m", {"name": "a b"}, "cannot be the name"),
        ("5m", {"arguments": {"m": 1}}, "no argument 'm'"),
        ("5m", {"arguments": {"n": "x"}}, "argument 'n' is wrong"),
        ("5m", {"arguments": {"n": object()}}, "not plain JSON"),
    ],
)
def test_a_schedule_that_cannot_work_is_refused_where_it_stands(when: Any, options: dict[str, Any], words: str) -> None:
    agent = Agent("a")

    async def sweep(n: int = 1) -> int:
        return n

    with pytest.raises(DeclarationError, match=words) as caught:
        agent.every(when, **options)(sweep)
    assert caught.value.fix and caught.value.exit_code == 2


def test_what_else_is_wrong_with_triggers() -> None:
    agent = Agent("a")

    async def needs(path: str) -> None: ...

    with pytest.raises(DeclarationError, match="argument 'path' is missing"):
        agent.every("5m")(needs)
    for pattern in ("", "a..b", "**.a", "a b", 5):
        with pytest.raises(DeclarationError, match="no pattern of topics"):
            agent.on(pattern)(needs)  # type: ignore[arg-type]
    agent.on("file.*")(needs)
    with pytest.raises(DeclarationError, match="one already"):
        agent.on("file.*")(needs)
    with pytest.raises(DeclarationError, match="below the trigger"):
        agent.capability(needs)

    async def other() -> None: ...

    agent.every("5m", name="x")(other)
    with pytest.raises(DeclarationError, match="a schedule 'x' already"):
        agent.every("6m", name="x")(other)
