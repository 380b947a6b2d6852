"""What why, lineage and task say about effects, from a real story of a simulated mesh."""

from __future__ import annotations

import asyncio
from typing import Any

from mesh import Agent, Context
from mesh.errors import OutcomeUnknown
from mesh.inspector import lineage, why
from mesh.inspector.effects import effects_of
from mesh.inspector.watch import _show_task
from mesh.testing import LocalMesh


def told() -> tuple[str, list[dict[str, Any]], dict[str, Any]]:
    """A task that is killed in the middle of one effect: ``(id, story, row)``."""
    agent = Agent("worker")

    @agent.capability(idempotent=True)
    async def work(ctx: Context) -> None:
        await ctx.effect("mail", lambda: "sent")

        async def slow() -> None:
            await ctx.sleep(20)

        try:
            await ctx.effect("pay", slow, at_most_once=True)
        except OutcomeUnknown:
            await ctx.effect("alarm", slow)

    async def story() -> tuple[str, list[dict[str, Any]], dict[str, Any]]:
        async with LocalMesh(nodes={"n1": [], "n2": [agent], "n3": [agent]}, seed=7) as m:
            task = await m.submit("work")
            await m.sleep(1.0)
            m.kill((await task.status())["owner"])
            await task.result()
            return task.id, await task.why(), await task.status()

    return asyncio.run(asyncio.wait_for(story(), 20))


def test_effects_are_shown_wherever_a_task_is() -> None:
    task, story, row = told()
    rows = effects_of(task, story)
    assert [(each["key"], each["outcome"], each["begun"], each["award"], each["at_most_once"]) for each in rows] == [
        ("mail", "known", 1, 1, False),
        ("pay", "unknown", 1, 1, True),
        ("alarm", "known", 1, 2, False),
    ]
    assert [len(each["output"]) for each in rows] == [64, 0, 64]
    assert effects_of("other.1.1", story) == []
    text = why.show(why.explain(task, story))
    assert "EFFECT" in text and "at most once, it may have happened or not: ask the outside system" in text
    assert "effects of work: mail, pay?, alarm" in lineage.show(lineage.document(task, story))
    assert {each["key"]: each["outcome"] for each in row["effects"]} == {"mail": "known", "alarm": "known", "pay": "unknown"}
    assert "pay " in _show_task(row) and "EFFECT" in _show_task(row)
    assert "EFFECT" not in _show_task(row | {"effects": []})


def test_what_raised_and_what_was_begun_again_is_said() -> None:
    begun = {"kind": "Intended", "task": "t", "key": "mail", "once": False, "fence": 1 << 32 | 1, "node": "n2", "wall_ms": 1}
    ended = {"kind": "Effected", "task": "t", "key": "mail", "error": "OSError: cut", "output": "", "wall_ms": 2}
    (row,) = effects_of("t", [begun, ended])
    assert (row["outcome"], row["error"], row["node"], row["wall_ms"]) == ("unknown", "OSError: cut", "n2", 2)
    (row,) = effects_of("t", [begun, ended, begun | {"fence": 1 << 32 | 2}])
    assert (row["begun"], row["award"], row["error"]) == (2, 2, "")
    document = why.explain("t", [each | {"verified": True} for each in (begun, ended, begun | {"fence": 1 << 32 | 2})])
    assert "begun 2 times" in why.show(document)
