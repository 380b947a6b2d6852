"""What why, lineage and task say of work whose manager died: each thing once, in words that tell the managers apart."""

from __future__ import annotations

import asyncio
from typing import Any

from mesh import Agent, Context
from mesh.client import Task
from mesh.inspector import lineage, why
from mesh.inspector.effects import effects_of
from mesh.inspector.watch import _show_task, _show_tasks
from mesh.testing import LocalMesh


def run(work: Any) -> Any:
    return asyncio.run(asyncio.wait_for(work, 20))


def worker() -> Agent:
    agent = Agent("worker")

    @agent.capability(idempotent=True)
    async def work(ctx: Context, seconds: float) -> str:
        await ctx.effect("mail", lambda: "sent")
        await ctx.sleep(seconds)
        return "done"

    return agent


async def submitted(m: LocalMesh, manager: str, seconds: float) -> Task:
    """Where it survives its manager."""
    while not m.world.hosts[manager].directory.guard.keepers:
        await m.sleep(0.5)
    task = await m.at(manager).submit("work", seconds=seconds)
    await m.sleep(0.5)
    return task


async def taken_over(m: LocalMesh, task: str, manager: str) -> str:
    """Who drives it once `manager` is gone."""
    m.kill(manager)
    others = [name for name in m.world.names if name != manager]
    while True:
        await m.sleep(0.5)
        for name in others:
            if task in m.world.hosts[name].assembly.manager.book.tasks:
                return name


def test_each_entry_is_told_once_after_its_manager_was_taken_over_and_came_back() -> None:
    """His keepers tell what they keep of his log beside what he tells himself, and who took over has copies of some of it."""

    async def story() -> None:
        async with LocalMesh(nodes={"n1": [], "n2": [], "n3": [worker()], "n4": []}) as m:
            old = await submitted(m, "n1", 20.0)
            assert await taken_over(m, old.id, "n1") != "n1"
            m.restart("n1")
            await m.sleep(5)
            new = await m.at("n1").submit("work", seconds=1.0)
            for task in (new.id, old.id):
                await m.at("n1").result(task)
                for name in m.world.names:
                    entries = (await m.at(name).story(task))["entries"]
                    document = why.explain(task, entries)
                    assert [decision["outcome"] for decision in document["decisions"]] == ["done"]
                    assert document["agrees"] and document["verified"]
                    assert [effect["begun"] for effect in document["effects"]] == [1]
                    [row] = lineage.document(task, entries)["tasks"]
                    assert (row["attempts"], row["state"]) == (1, "done")

    run(story())


def test_awards_of_two_managers_are_told_apart() -> None:
    async def story() -> None:
        async with LocalMesh(nodes={"n1": [], "n2": [worker()], "n3": [worker()], "n4": []}) as m:
            task = await submitted(m, "n1", 30.0)
            owner = (await task.status())["owner"]
            taker = await taken_over(m, task.id, "n1")
            assert taker != owner
            m.kill(owner)
            while len([entry for entry in (await m.at(taker).story(task.id))["entries"] if entry["kind"] == "Bound"]) < 2:
                await m.sleep(0.5)
            document = why.explain(task.id, (await m.at(taker).story(task.id))["entries"], {taker: "otter"})
            assert [(decision["term"], decision["award"]) for decision in document["decisions"]] == [(1, 1), (2, 1)]
            heads = [line.partition(":")[0] for line in why.show(document).splitlines() if line.startswith("award ")]
            assert heads[0].startswith("award 1 by ")
            assert heads[1].startswith("award 1 of term 2 (after a take-over, recorded by otter) by ")
            row = await m.at(taker).task(task.id)
            assert f"{2 << 32 | 1} (award 1 of term 2)" in _show_task(row)
            assert [(effect["award"], effect["term"]) for effect in row["effects"]] == [(1, 1)]
            assert effects_of(task.id, (await m.at(taker).story(task.id))["entries"])[0]["term"] == 1

    run(story())


def test_what_is_missing_in_the_list_is_not_what_was_taken_over() -> None:
    async def story() -> None:
        async with LocalMesh(nodes={"n1": [], "n2": [worker()], "n3": [], "n4": []}) as m:
            ended = await submitted(m, "n1", 0.0)
            await ended.result()
            task = await submitted(m, "n1", 60.0)
            there = m.at(await taken_over(m, task.id, "n1"))
            document = await there.tasks()
            assert [row["task"] for row in document["tasks"]] == [task.id] and document["missing"] == ["n1"]
            text = _show_tasks(document)
            assert "their tasks are not shown" not in text
            assert "not answering: n1; missing here is what had ended there, and what nobody has taken over yet" in text
            assert (await there.task(ended.id))["state"] == "done", "as the line says"

    run(story())


def test_lineage_says_who_runs_what_also_while_nobody_drives_it() -> None:
    """What two keepers have of the log tells of the steps as well."""
    agent = Agent("tree")

    @agent.capability
    async def leaf(ctx: Context, seconds: float) -> str:
        await ctx.sleep(seconds)
        return "done"

    @agent.capability
    async def top(ctx: Context) -> None:
        await ctx.step("short", "leaf", seconds=0.1)
        await ctx.step("long", "leaf", seconds=60.0)

    async def states(m: LocalMesh, task: str) -> dict[str, tuple[str, str]]:
        document = lineage.document(task, (await m.at("n4").story(task))["entries"])
        assert document["verified"]
        return {row["step"]: (row["state"], f"{row['agent']}@{row['node']}") for row in document["tasks"]}

    async def story() -> None:
        async with LocalMesh(nodes={"n1": [], "n2": [agent], "n3": [], "n4": []}) as m:
            while not m.world.hosts["n1"].directory.guard.keepers:
                await m.sleep(0.5)
            task = await m.at("n1").submit("top")
            await m.sleep(2)
            wanted = {"": ("held", "tree@n2"), "short": ("done", "tree@n2"), "long": ("held", "tree@n2")}
            assert await states(m, task.id) == wanted
            m.kill("n1")
            await m.sleep(1.5)
            assert await states(m, task.id) == wanted
            assert all(not m.world.hosts[name].assembly.manager.book.tasks for name in ("n2", "n3", "n4"))

    run(story())


def test_lineage_shows_a_state_beside_the_number_of_awards() -> None:
    decided = {"kind": "Decided", "task": "t", "winner": "x", "candidates": [{"node": "x", "name": "otter", "agent": "a"}]}
    begun = {"kind": "Submitted", "task": "t", "capability": "c", "step": "", "parent": "", "by": "", "input": "", "files": []}
    lost = {"kind": "Lost", "task": "t", "fence": 1, "node": "x", "reason": "suspected"}
    ended = {"kind": "Finished", "task": "t", "state": "done", "agent": "a", "node": "x", "output": "", "files": []}
    entries = [begun, decided | {"fence": 1}, lost, decided | {"fence": 2}]

    def line(told: list[dict[str, Any]]) -> str:
        text = lineage.show(lineage.document("t", [{"author": "m", "seq": at, "verified": True, **one} for at, one in enumerate(told)]))
        return " ".join(text.splitlines()[1].split())

    assert line([*entries, ended]) == "task c a@otter done, 2 awards t"
    assert line(entries) == "task c a@otter offered, 2 awards t"
    assert line(entries[:3]) == "task c nobody yet pending t"
