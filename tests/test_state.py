"""Versioned values in a whole mesh: what was acknowledged is read by everybody later, whoever dies, and counts once."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mesh import Agent, Context, File
from mesh.core.work.scope import not_submitted
from mesh.errors import MeshError, Refused, TaskFailed, TooBig, UsageError, VersionConflict
from mesh.messages.scopes import STATE
from mesh.sim.checkers.states import StateChecker
from mesh.sim.history import Answered, Touched, Verdict
from mesh.sim.sharing import Touch
from mesh.state import client_state
from mesh.sync import Context as BlockingContext
from mesh.testing import LocalMesh

NODES = ("n1", "n2", "n3")


def run(work: Any) -> Any:
    return asyncio.run(asyncio.wait_for(work, 30))


async def guarded(m: LocalMesh, capability: str, at: str = "n1", **arguments: Any) -> Any:
    """A task that survives the loss of any node, once two others keep the journal of its manager."""
    while (task := await m.at(at).submit(capability, **arguments)).survives != "node-loss":
        await task.cancel()
        await m.sleep(0.5)
    return task


def idle() -> Agent:
    agent = Agent("idle")

    @agent.capability
    async def rest(ctx: Context) -> None:
        await ctx.sleep(1)

    return agent


def test_a_shared_value_outlives_its_manager_and_everybodys_power() -> None:
    async def story() -> None:
        async with LocalMesh(agents=[idle()]) as m:
            await (await guarded(m, "rest")).result()
            assert await m.at("n1").state("prices").set("EUR", 1.08, event="first") == 1
            [row] = (await m.at("n2").states())["states"]
            assert (row["name"], row["manager"], row["keys"]) == ("prices", "n1", 1)
            m.kill("n1")
            await m.sleep(4)
            other = m.at("n3").state("prices")
            assert await other.get("EUR") == (1.08, 1)
            assert await other.set("EUR", 7, event="first") == 1 and (await other.get("EUR")).value == 1.08
            assert await other.set("EUR", 1.1, if_version=1) == 2
            m.power_cut()
            m.restart()
            await m.sleep(4)
            for node in NODES:
                assert await m.at(node).state("prices").get("EUR") == (1.1, 2)
            assert await m.at("n1").state("prices").delete("EUR") == 3
            assert await other.get("EUR", "none") == ("none", 0) and await other.set("EUR", 1) == 4

    run(story())


def test_steps_that_race_lose_no_update_whoever_dies() -> None:
    agent = Agent("a")
    conflicts: list[int] = []

    @agent.capability(idempotent=True)
    async def race(ctx: Context) -> int:
        await ctx.state.set("n", 0, if_version=0, event="begin")
        await asyncio.gather(*(ctx.step(f"s{i}", "add", i=i) for i in range(6)))
        return int((await ctx.state.get("n")).value)

    @agent.capability(idempotent=True)
    async def add(ctx: Context, i: int) -> None:
        value, version = await ctx.state.get("n")
        await ctx.sleep(0.2)
        try:
            await ctx.state.set("n", value + 1, if_version=version, event=f"add {i}")
        except VersionConflict as refused:
            conflicts.append(refused.version)
            await ctx.state.update("n", lambda n: n + 1, event=f"add {i}")
        await ctx.sleep(3)

    async def story() -> None:
        async with LocalMesh(nodes={"n1": [], "n2": [agent], "n3": [agent], "n4": []}) as m:
            task = await guarded(m, "race")
            await m.sleep(1.5)
            owner = (await task.status())["owner"]
            m.kill(owner)
            await m.sleep(1)
            m.restart(owner)
            await m.sleep(3)
            m.kill("n1")
            assert (await m.at("n4").result(task.id))["result"] == 6 and conflicts

    run(story())


def test_a_write_with_an_event_is_made_once_and_every_attempt_gets_its_outcome() -> None:
    agent, seen = Agent("a"), list[Any]()

    @agent.capability(retries=2)
    async def count(ctx: Context) -> list[Any]:
        ticket = await ctx.state.shared("tickets").update("next", lambda n: (n or 0) + 1, event="ticket")
        seen.append(ticket)
        if ctx.task.attempt < 3:
            raise ValueError("again")
        return list(ticket)

    @agent.capability
    def blocking(ctx: BlockingContext, n: int) -> list[Any]:
        ctx.state.set("n", n)
        ctx.state.update("n", lambda n: n + 1)
        shared = ctx.state.shared("tickets")
        shared.delete("gone")
        return [*ctx.state.get("n"), [row["key"] for row in shared.list()["keys"]]]

    async def story() -> None:
        async with LocalMesh(agents=[agent]) as m:
            assert await (await m.submit("count")).result() == [1, 1] and seen == [(1, 1)] * 3
            assert await (await m.submit("count")).result() == [2, 2]
            assert await (await m.submit("blocking", n=4)).result() == [5, 2, ["next"]]

    run(story())


def test_who_is_cut_off_answers_nothing_and_reads_what_came_meanwhile_when_it_is_back() -> None:
    async def story() -> None:
        async with LocalMesh(agents=[idle()]) as m:
            await (await guarded(m, "rest")).result()
            old, new = m.at("n1").state("prices"), m.at("n2").state("prices")
            await old.set("EUR", 1)
            assert (await new.get("EUR")).value == 1
            m.partition(["n1"], ["n2", "n3"])
            await m.sleep(8)
            with pytest.raises(MeshError):
                await old.get("EUR")
            with pytest.raises(MeshError):
                await old.set("EUR", 9)
            assert await new.set("EUR", 2, if_version=1) == 2
            m.heal()
            await m.sleep(5)
            assert await old.get("EUR") == (2, 2) and await old.set("EUR", 3) == 3

    run(story())


def test_what_a_state_does_not_hold_is_refused_at_the_call(tmp_path: Path) -> None:
    agent, seen = Agent("a"), list[str]()

    @agent.capability
    async def wrong(ctx: Context) -> None:
        for value in (File.of(__file__), "x" * 65 * 1024):
            with pytest.raises((UsageError, TooBig)) as caught:
                await ctx.state.set("k", value)
            seen.append(caught.value.code)
        for call in (
            lambda: ctx.state.get(""),
            lambda: ctx.state.set("k", 1, if_version=-1),
            lambda: ctx.state.delete("k", event="e" * 65),
        ):
            with pytest.raises(UsageError):
                await call()
        with pytest.raises(UsageError):
            ctx.state.shared("a/b")

    @agent.capability
    async def plain(ctx: Context) -> None:
        await ctx.state.set("k", 1)

    @agent.capability
    async def sum_of(ctx: Context, big: File) -> str:
        await ctx.state.set("big", big.sha256)
        return big.sha256

    async def story() -> None:
        async with LocalMesh(agents=[agent]) as m:
            await (await m.submit("wrong")).result()
            assert seen == ["usage", "too_big"]
            with pytest.raises(TaskFailed, match="a plain call has no state of its own"):
                await m.call("plain")
            path = tmp_path / "big"
            path.write_bytes(b"x" * 1_000_000)
            task = await m.submit("sum_of", big=File.of(path))
            digest = await task.result()
            entries = (await m._any().story(task.id))["entries"]
            assert [entry["kind"] for entry in entries].count("Stored") == 1 and len(str(entries)) < 20_000 and digest
            with pytest.raises(UsageError, match="a shared one, by its name, or a task's"):
                m.state()
            with pytest.raises(Refused, match="has ended, and its state with it"):
                await m.state(task=task.id).get("big")

    run(story())


def test_an_attempt_that_was_cut_off_writes_nothing_any_more() -> None:
    agent, stale = Agent("a"), list[str]()

    @agent.capability
    async def work(ctx: Context) -> list[Any]:
        if ctx.task.attempt == 1:
            await ctx.state.set("k", "first")
            await ctx.sleep(10)  # cut off meanwhile: its lease is over, and the task is somebody else's
            for state in (ctx.state, ctx.state.shared("all")):
                try:
                    await state.set("k", "stale")
                except MeshError as error:
                    stale.append(error.code)
            raise ValueError("stale")
        await ctx.state.set("k", "second")
        await ctx.state.shared("all").set("k", "second")
        await ctx.sleep(10)
        return list(await ctx.state.get("k"))

    async def story() -> None:
        async with LocalMesh(nodes={"n1": [], "n2": [agent], "n3": [agent]}) as m:
            task = await guarded(m, "work")
            await m.sleep(1)
            owner = (await task.status())["owner"]
            m.partition({owner}, {"n1", "n2", "n3"} - {owner})
            await m.sleep(12)
            m.heal()
            assert await task.result() == ["second", 2]
            assert (await m.state("all").get("k")).value == "second"

    run(story())


def test_baggage_goes_along_with_all_that_follows_and_is_added_to_on_the_way() -> None:
    agent, heard = Agent("a"), list[Any]()

    @agent.capability(retries=1)
    async def top(ctx: Context) -> list[Any]:
        if ctx.task.attempt == 1:
            raise ValueError("again")
        more = ctx.options(baggage={"user": "ann"})
        found = [await ctx.step("one", "low"), await more.step("two", "low"), await ctx.call("low"), await more.call("low")]
        await ctx.publish("guest.came", name="Bob")
        with pytest.raises(UsageError, match="the baggage is"):
            ctx.options(baggage={"x": "y" * 2048})
        return [*found, ctx.baggage]

    @agent.capability
    def low(ctx: BlockingContext) -> dict[str, str]:
        return ctx.baggage

    @agent.on("guest.*")
    async def came(ctx: Context, name: str) -> None:
        heard.append(ctx.baggage)

    async def story() -> None:
        async with LocalMesh(agents=[agent]) as m:
            task = await m.options(baggage={"tenant": "acme"}).submit("top")
            acme, both = {"tenant": "acme"}, {"tenant": "acme", "user": "ann"}
            assert await task.result() == [acme, both, acme, both, acme]
            assert (await task.status())["baggage"] == acme
            while not heard:
                await m.sleep(0.5)
            assert heard == [acme] and await m.call("low") == {}
            for bad in ({"x": "y" * 2048}, {"": "y"}, {"x": 1}, "x=y"):
                with pytest.raises(UsageError):
                    m.options(baggage=bad)  # type: ignore[arg-type]

    run(story())


def test_the_name_of_a_state_begins_anew_when_the_node_that_opened_it_was_revoked() -> None:
    """And everybody who knows finds the same new one."""
    keys: list[str] = []

    async def ask(verb: str, params: dict[str, Any], **_: Any) -> dict[str, Any]:
        if verb == "submit":
            keys.append(params["key"])
            return {"task": "bob.1.1" if "ann" in params["key"] else "ann.1.1"}
        if params["key"] == "ann.1.1":
            raise Refused("ann was revoked", code="node_revoked")
        return {"value": 1, "version": 1}

    for _ in range(2):
        assert run(client_state(ask, "prices", "", "me").get("EUR")) == (1, 1)
    assert keys == ["mesh.state/prices", "mesh.state/prices/ann"] * 2
    assert not_submitted(STATE, keys[1], "prices") is None and not_submitted(STATE, "mesh.state/pricesx", "prices")


# ---- each key is one register: any interleaving of clients and faults, judged by versions

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.sampled_from(NODES), st.sampled_from("ab"), st.booleans(), st.booleans()),
        st.tuples(st.just("read"), st.sampled_from(NODES), st.sampled_from("ab")),
        st.tuples(st.sampled_from(("kill", "cut")), st.sampled_from(NODES)),
        st.tuples(st.sampled_from(("mend", "wait"))),
    ),
    min_size=5,
    max_size=25,
)


class Machine:
    """Clients of all nodes at once, one fault at a time, and the checker of the simulator as the model."""

    def __init__(self, m: LocalMesh) -> None:
        self.m, self.checker, self.count = m, StateChecker(), 0
        self.verdicts: list[Verdict] = []
        self.versions: dict[str, int] = {}
        self.working: list[asyncio.Task[None]] = []
        self.down = ""

    async def touch(self, node: str, touch: Touch) -> None:
        self.count += 1
        number = self.count
        self.note(Touched(self.m.now_s, node, number, touch))
        state = self.m.at(node).state("shared")
        try:
            if not touch.event:
                value, version = await state.get(touch.place)
                self.versions[touch.place] = version
                body = {"value": value, "version": version}
            elif touch.value is None:
                body = {"version": await state.delete(touch.place, if_version=touch.over, event=touch.event)}
            else:
                over = None if touch.over < 0 else touch.over
                body = {"version": await state.set(touch.place, touch.value, if_version=over, event=touch.event)}
        except MeshError:
            return
        self.note(Answered(self.m.now_s, node, number, True, body))

    def note(self, record: Any) -> None:
        self.verdicts += self.checker.takes[type(record)](record)

    async def step(self, step: tuple[Any, ...]) -> None:
        kind = step[0]
        if kind in ("mend", "kill", "cut") and self.down:
            self.m.heal()
            if not self.m._host(self.down).up:
                self.m.restart(self.down)
            self.down = ""
        if kind == "write":
            _, node, place, compares, twice = step
            over = self.versions.get(place, 0) if compares else -1
            touch = Touch("shared", place, f"e{self.count}", f"v{self.count}", over)
            for _ in range(1 + twice):
                self.working.append(asyncio.ensure_future(self.touch(node, touch)))
        elif kind == "read":
            self.working.append(asyncio.ensure_future(self.touch(step[1], Touch("shared", step[2]))))
        elif kind == "kill":
            self.down = step[1]
            self.m.kill(self.down)
        elif kind == "cut":
            self.down = step[1]
            self.m.partition([self.down], [node for node in NODES if node != self.down])
        await self.m.sleep(3.0 if kind == "wait" else 0.05)


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
@given(STEPS)
def test_no_acknowledged_write_is_lost_and_versions_never_fork(steps: list[tuple[Any, ...]]) -> None:
    async def story() -> None:
        async with LocalMesh(agents=[idle()]) as m:
            await (await guarded(m, "rest")).result()
            await m.state("shared").set("z", 0)
            machine = Machine(m)
            for step in steps:
                await machine.step(step)
            await machine.step(("mend",))
            await asyncio.gather(*machine.working)
            await m.sleep(6)
            for place in "ab":
                await machine.touch("n2", Touch("shared", place, final=True))
            assert machine.verdicts == [] and not machine.checker._unanswered

    run(story())
