"""``mesh trace``: one scale for a task and its steps, from story entries alone."""

from __future__ import annotations

import asyncio
from typing import Any

from mesh import Agent, Context
from mesh.inspector.trace import document, show
from mesh.testing import LocalMesh

ONE, TWO = (1 << 32) + 1, (1 << 32) + 2


def entry(kind: str, at_ms: int, task: str = "a.1.1", author: str = "a", **more: Any) -> dict[str, Any]:
    return {"kind": kind, "task": task, "author": author, "wall_ms": at_ms, "verified": True, **more}


def submitted(at_ms: int, task: str = "a.1.1", parent: str = "", step: str = "") -> dict[str, Any]:
    return entry("Submitted", at_ms, task, parent=parent, step=step, capability="work")


def decided(at_ms: int, fence: int, node: str, task: str = "a.1.1") -> dict[str, Any]:
    return entry("Decided", at_ms, task, fence=fence, winner=node, candidates=[{"node": node, "name": f"{node}-name"}])


STORY = [
    submitted(1000),
    decided(1200, ONE, "b"),
    entry("Lost", 1500, fence=ONE, reason="dead"),
    decided(1600, TWO, "c"),
    submitted(1700, "a.1.2", "a.1.1", "read"),
    decided(1700, ONE, "b", "a.1.2"),
    entry("Finished", 1800, "a.1.2", fence=ONE, state="done"),
    entry("Finished", 2000, fence=TWO, state="done"),
]


def test_each_task_has_its_waits_and_attempts_and_steps_stand_behind_their_parents():
    found = document("a.1.1", STORY, 1900)
    assert (found["begin_ms"], found["took_ms"], found["clocks"]) == (1000, 1000, ["a"])
    parent, step = found["rows"]
    assert [(one["award"], one["node"], one["begin_ms"], one["end_ms"], one["lost"]) for one in parent["attempts"]] == [
        (1, "b-name", 1200, 1500, "dead"),
        (2, "c-name", 1600, 2000, ""),
    ]
    assert (step["step"], step["depth"], step["submitted_ms"], step["end_ms"], step["state"]) == ("read", 1, 1700, 1800, "done")


def test_the_bars_are_on_one_scale():
    lines = show(document("a.1.1", STORY, 0), columns=0).splitlines()
    bars = [line[len("  read: work") + 2 :][:24] for line in lines[2:4]]
    assert bars == ["....========x.==========", "                ====    "]
    assert lines[0] == "a.1.1  work: done, 1.0 s in all"
    assert lines[2].endswith("done       1.0 s    b-name, then c-name (2 attempts)") and lines[3].endswith("100 ms   b-name")


def test_what_has_not_ended_reaches_to_now_and_what_nobody_has_waits():
    (row,) = document("a.1.1", STORY[:4], 5000)["rows"]
    assert (row["state"], row["end_ms"], row["attempts"][-1]["end_ms"]) == ("running", 5000, 5000)
    (row,) = document("a.1.1", STORY[:3], 5000)["rows"]
    assert row["state"] == "waiting"
    assert document("a.1.1", STORY[:3], 5)["rows"][0]["end_ms"] == 1500, "a clock that is behind makes no negative time"


def test_two_clocks_are_said_and_what_is_not_proven_too():
    text = show(document("a.1.1", [*STORY[:-1], entry("Finished", 2500, author="b", fence=TWO, state="done") | {"verified": False}], 0))
    assert "written down by 2 nodes" in text and text.endswith("NOT VERIFIED")


def test_what_peers_wrote_moves_no_cursor():
    told = [submitted(0) | {"capability": "a\x1b[2J"}, decided(1, ONE, "b") | {"candidates": [{"node": "b", "name": "\x1b]0;x"}]}]
    assert "\x1b" not in show(document("a.1.1", told, 9))


def test_the_real_story_of_a_flow_is_drawn_from_any_node():
    agent = Agent("flow", concurrency=4)

    @agent.capability
    async def nap(ctx: Context, s: float) -> float:
        await ctx.sleep(s)
        return s

    @agent.capability
    async def both(ctx: Context) -> float:
        return float(sum(await asyncio.gather(ctx.step("one", "nap", s=1), ctx.step("two", "nap", s=3))))

    async def tell() -> None:
        async with LocalMesh(nodes={"n1": [agent], "n2": [agent]}) as m:
            task = await m.submit("both")
            await m.sleep(4)  # lived through by the nodes: what is skipped is in nobody's journal
            assert await task.result() == 4
            found = document(task.id, (await m.at("n2").story(task.id))["entries"], 0)
            assert [(row["step"], row["state"], (row["end_ms"] - row["submitted_ms"] + 50) // 1000) for row in found["rows"]] == [
                ("", "done", 3),
                ("one", "done", 1),
                ("two", "done", 3),
            ]
            assert found["verified"]

    asyncio.run(asyncio.wait_for(tell(), 20))
