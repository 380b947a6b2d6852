"""What task and why say about budgets, from a real story of a simulated mesh; and budgets on the command line."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from mesh import Agent, Context
from mesh.errors import UsageError
from mesh.inspector import why
from mesh.inspector.spends import spent_of
from mesh.inspector.use import budget_in
from mesh.inspector.watch import _show_task
from mesh.testing import LocalMesh


def test_what_is_spent_is_shown_wherever_a_task_is() -> None:
    agent = Agent("worker")

    @agent.capability(name="leaf")
    async def leaf(ctx: Context) -> None:
        await ctx.spend("once", usd=0.25)

    @agent.capability(name="parent")
    async def parent(ctx: Context) -> None:
        await ctx.options(budget={"usd": 1}).step("leaf", "leaf")
        async with ctx.reserve("print", usd=0.5):
            await ctx.spend(tokens=7)
            await ctx.sleep(100)

    async def told() -> tuple[Any, Any, Any, Any]:
        async with LocalMesh(agents=[agent], seed=3) as m:
            task = await m.options(budget={"usd": 2, "calls": 3}).submit("parent")
            await m.sleep(5)
            child = next(row["task"] for row in (await m.tasks())["tasks"] if row["parent"] == task.id)
            return task.id, child, await task.status(), await task.why()

    task, child, row, story = asyncio.run(asyncio.wait_for(told(), 20))
    assert row["budget"]["usd"] == {"used": 0.25, "of": task, "budget": 2.0, "spent": 0.25, "reserved": 0.5, "left": 1.25}
    shown = _show_task(row)
    assert "USED HERE" in shown and "its own" in shown and "no budget" in shown
    assert "RESERVED" not in _show_task(row | {"budget": {}})
    found = spent_of(task, story)
    assert (found["budget"], found["used"], found["open"]) == (
        {"usd": 2.0, "calls": 3.0},
        {"calls": 1.0, "tokens": 7.0, "usd": 0.25},
        {"print": {"usd": 0.5}},
    )
    assert spent_of(child, story) == {"budget": {"usd": 1.0}, "used": {"usd": 0.25}, "open": {}, "keys": ["once"], "times": 1}
    assert spent_of("other.1.1", story) == {}
    text = why.show(why.explain(task, story))
    assert "budget: calls=3 usd=2" in text and "reserved, not settled: print usd=0.5" in text
    assert "spent, with its steps: calls=1 tokens=7 usd=0.25 (2 entries)" in text
    assert "counted once: once" in why.show(why.explain(child, story))


@pytest.mark.parametrize(
    ("words", "reason"),
    (
        (["usd"], "'usd' is no amount"),
        (["usd=five"], "'usd=five' is no amount"),
        (["usd=-1"], "usd is -1"),
        (["usd=nan"], "usd is nan"),
        (["=5"], "'' is no name"),
        (["usd=1", "usd=2"], "'usd' is there twice"),
    ),
)
def test_budgets_of_the_command_line_that_are_none_are_refused(words: list[str], reason: str) -> None:
    with pytest.raises(UsageError, match=reason) as refused:
        budget_in(words)
    assert refused.value.fix
    assert budget_in(["usd=5", "calls=100"]) == {"usd": 5.0, "calls": 100.0} and budget_in(None) == {}
