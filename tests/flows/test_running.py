"""Flows as they run: whole nodes, real handlers, virtual time."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import Any

import pytest

from mesh import Agent, Context, File, flow
from mesh.errors import InvalidArgument, TaskFailed
from mesh.flows.agent import FLOW
from mesh.flows.agent import agent as flows
from mesh.flows.checks import checked
from mesh.flows.reading import flow_from, read_text
from mesh.flows.spec import amounts, document
from mesh.testing import LocalMesh


def run(work: Any) -> Any:
    return asyncio.run(asyncio.wait_for(work, 30))


class Shop:
    """Capabilities that say what they did, in order."""

    def __init__(self) -> None:
        self.agent = Agent("shop")
        self.did: list[Any] = []

        @self.agent.capability(idempotent=True)
        async def add(a: int, b: int = 1) -> int:
            self.did.append(("add", a, b))
            return a + b

        @self.agent.capability(idempotent=True)
        async def undo(a: int, b: int = 1) -> None:
            self.did.append(("undo", a, b))

        @self.agent.capability
        async def boom(why: str = "boom") -> int:
            raise ValueError(why)


async def ended(text: str, shop: Shop, **given: Any) -> dict[str, Any]:
    """What the flow comes to, in a mesh of three."""
    async with LocalMesh(agents=[shop.agent, flows]) as m:
        found, source = read_text(text)
        task = await m.submit(FLOW, spec=document(checked(found, source)), input=given)
        result: dict[str, Any] = await task.result()
        return result


SUMS = """
flow = "sums"
input = { n = "integer" }
output = { total = "$steps.sum", each = "$steps.many" }

[[step]]
id = "one"
uses = "add"
with = { a = "$input.n" }
compensate = "undo"

[[step]]
id = "many"
uses = "add"
needs = ["one"]
map = "$[1, 2, 3].map(x, x * steps.one)"
max_parallel = 2
with = { a = "$item", b = "$index" }

[[step]]
id = "again"
uses = "add"
needs = ["one"]
loop = { until = "$item >= 8", max = 10 }
with = { a = "$item == null ? steps.one : item", b = 2 }

[[step]]
id = "sum"
uses = "add"
needs = ["many", "again"]
with = { a = "$steps.many[2]", b = "$steps.again" }
"""


def test_steps_maps_and_loops_pass_their_results_on() -> None:
    shop = Shop()
    found = run(ended(SUMS, shop, n=3))
    assert found == {"output": {"total": 22, "each": [4, 9, 14]}, "skipped": [], "failed": [], "left": [], "degraded": [], "version": 1}
    assert sorted(shop.did) == sorted(("add", a, b) for a, b in ((3, 1), (4, 0), (8, 1), (12, 2), (4, 2), (6, 2), (14, 8)))


def test_a_failure_names_the_step_its_task_and_what_was_undone() -> None:
    shop = Shop()
    with pytest.raises(TaskFailed, match=r"step 'last' failed: ValueError: boom \(task n1\.1\.\d+\); undone: one$"):
        run(ended(SUMS + '[[step]]\nid = "last"\nuses = "boom"\nneeds = ["sum"]\n', shop, n=3))
    assert shop.did[-1] == ("undo", 3, 1) and shop.did.count(("undo", 3, 1)) == 1


CARE = """
flow = "care"
input = { big = { type = "boolean", default = false } }

[[step]]
id = "look"
uses = "add"
with = { a = 1 }

[[step]]
id = "only_big"
uses = "add"
needs = ["look"]
when = "$input.big"
with = { a = 10 }

[[step]]
id = "after_big"
uses = "add"
needs = ["only_big"]
with = { a = "$steps.only_big" }

[[step]]
id = "fails"
uses = "boom"
needs = ["look"]

[[step]]
id = "after_fails"
uses = "add"
needs = ["fails"]
with = { a = "$steps.fails" }

[[step]]
id = "saved"
uses = "boom"
needs = ["look"]
with = { why = "no" }
fallback = { uses = "add", with = { a = 100 } }

[[step]]
id = "nobody"
uses = "not.offered"
needs = ["look"]
fallback = { value = [7] }

[[step]]
id = "last"
uses = "add"
needs = ["after_big", "after_fails", "saved", "nobody"]
join = "settled"
with = { a = "$(has(steps.after_big) ? steps.after_big : 0) + steps.saved + steps.nobody[0]", b = "$steps.look" }
"""


def test_what_is_skipped_failed_and_done_another_way_is_told() -> None:
    shop = Shop()
    found = run(ended(CARE, shop))
    assert found["output"] == {"last": 101 + 7 + 2}
    assert (found["skipped"], found["failed"], found["left"]) == (["only_big", "after_big"], ["fails", "after_fails"], [])
    assert [(row["step"], row["instead"]) for row in found["degraded"]] == [("saved", "add"), ("nobody", "value")]
    assert found["degraded"][0]["because"] == "ValueError: no" and found["degraded"][0]["task"].startswith("n1.1.")
    assert "not.offered" in found["degraded"][1]["because"], "nobody took it within 30 s"
    assert run(ended(CARE, Shop(), big=True))["output"] == {"last": 101 + 7 + 12 + 2}


def test_a_step_whose_condition_is_no_truth_fails_with_the_reason() -> None:
    text = 'flow = "f"\n[[step]]\nid = "a"\nuses = "add"\nwith = { a = 1 }\nwhen = "$ 1 + 1"\n'
    with pytest.raises(TaskFailed, match=r"step 'a' failed: when gives '2', which is neither true nor false; compare it"):
        run(ended(text, Shop()))


def test_like_work_is_done_once_where_cache_says_so() -> None:
    shop = Shop()
    steps = "".join(f'[[step]]\nid = "s{i}"\nuses = "add"\nwith = {{ a = {i % 2}, b = 1 }}\ncache = true\n' for i in range(6))
    found = run(ended('flow = "f"\n' + steps, shop))
    assert list(found["output"].values()) == [1, 2, 1, 2, 1, 2] and sorted(shop.did) == [("add", 0, 1), ("add", 1, 1)]


def test_steps_have_the_options_that_the_flow_gives_them() -> None:
    """Tries, times, labels: what `ctx.options` would have."""
    agent, tries = Agent("a", labels={"zone": "eu"}), list[str]()

    @agent.capability
    async def flaky(ctx: Context, until: int) -> int:
        tries.append(ctx.task.id)
        if len(tries) < until:
            raise ValueError("not yet")
        await ctx.sleep(50)
        return len(tries)

    head = 'flow = "f"\n[[step]]\nid = "a"\nuses = "flaky"\n'

    async def outcome(rest: str) -> Any:
        tries.clear()
        async with LocalMesh(agents=[agent, flows]) as m:
            spec = document(checked(*read_text(head + rest)))
            return (await (await m.submit(FLOW, spec=spec)).result())["output"]["a"]

    assert run(outcome('retry = 3\nlabels = ["zone=eu"]\nwith = { until = 4 }\n')) == 4
    with pytest.raises(TaskFailed, match="not yet"):
        run(outcome("retry = 2\nwith = { until = 4 }\n"))
    for times in ('run = "20s"', 'total = "20s"'):
        with pytest.raises(TaskFailed, match=r"step 'a' failed: .* 20 s"):
            run(outcome(f"timeouts = {{ {times} }}\nwith = {{ until = 1 }}\n"))
    with pytest.raises(TaskFailed, match="step 'a' failed: nobody took 'flaky' within its queue timeout"):
        run(outcome('labels = { zone = "us" }\ntimeouts = { queue = "5s" }\nwith = { until = 1 }\n'))


def test_files_go_from_step_to_step_and_out() -> None:
    agent = Agent("a")

    @agent.capability
    async def make(tmp: str) -> dict[str, File]:
        path = Path(tmp) / "made.txt"
        path.write_text("made")
        return {"file": File.of(path)}

    @agent.capability
    async def read(files: list[File]) -> list[str]:
        return [(await file.fetch()).read_text() for file in files]

    async def story(tmp: Path) -> None:
        async with LocalMesh(agents=[agent, flows]) as m:
            (tmp / "given.txt").write_text("given")
            text = (
                'flow = "f"\ninput = { source = "file", tmp = "string" }\noutput = { said = "$steps.read", made = "$steps.make.file" }\n'
                '[[step]]\nid = "make"\nuses = "make"\nwith = { tmp = "$input.tmp" }\n'
                '[[step]]\nid = "read"\nuses = "read"\nneeds = ["make"]\nwith = { files = "$[input.source, steps.make.file]" }\n'
            )
            given = {"source": File.of(tmp / "given.txt"), "tmp": str(tmp)}
            task = await m.submit(FLOW, spec=document(checked(*read_text(text))), input=given)
            found = (await task.result())["output"]
            assert found["said"] == ["given", "made"] and found["made"].name == "made.txt"

    with tempfile.TemporaryDirectory() as tmp:
        run(story(Path(tmp)))


def test_a_flow_in_a_flow_and_one_that_is_none() -> None:
    inner = 'flow = "inner"\ninput = { n = "integer" }\n[[step]]\nid = "one"\nuses = "add"\nwith = { a = "$input.n" }\n'
    f = flow("outer")
    first = f.step("first", FLOW, spec=document(read_text(inner)[0]) | {"output": "$steps.one"}, input={"n": 4})
    f.output(first.output)

    async def story() -> None:
        async with LocalMesh(agents=[Shop().agent, flows]) as m:
            spec = document(read_text(inner)[0])
            assert (await (await m.submit(FLOW, spec=f.document())).result())["output"] == 5
            with pytest.raises(InvalidArgument, match="the input 'n' is missing"):
                await (await m.submit(FLOW, spec=spec)).result()
            with pytest.raises(InvalidArgument, match="no key 'stepp' here"):
                await (await m.submit(FLOW, spec=spec | {"stepp": 1}, input={"n": 1})).result()

    run(story())


def test_a_flow_and_its_steps_keep_to_their_budgets() -> None:
    agent = Agent("shop")

    @agent.capability(idempotent=True)
    async def buy(ctx: Context, usd: float) -> dict[str, float]:
        await ctx.spend(usd=usd)
        return await ctx.budget()

    text = """
flow = "purchases"
budget = { usd = 1, calls = 10 }

[[step]]
id = "cheap"
uses = "buy"
with = { usd = 0.2 }
budget = { usd = 0.3 }

[[step]]
id = "dear"
uses = "buy"
needs = ["cheap"]
with = { usd = 0.4 }
budget = { usd = 0.9 }
fallback = { uses = "buy", with = { usd = 0.1 } }

[[step]]
id = "free"
uses = "buy"
needs = ["dear"]
map = [0.3, 0.3, 0.3]
max_parallel = 1
with = { usd = "$item" }
fallback = { value = "too dear" }
"""

    async def story() -> None:
        async with LocalMesh(agents=[agent, flows]) as m:
            found, source = read_text(text)
            flow_ = checked(found, source)
            assert checked(flow_from(document(flow_))) == flow_ and document(flow_)["budget"] == {"usd": 1, "calls": 10}
            with pytest.raises(InvalidArgument, match="has a budget of calls, usd, and was begun without"):
                await (await m.submit(FLOW, spec=document(flow_), input={})).result()
            task = await m.options(budget=amounts(flow_.budget)).submit(FLOW, spec=document(flow_), input={})
            result = await task.result()
            assert result["output"] == {"free": [{"usd": 0.4, "calls": 7.0}, {"usd": 0.1, "calls": 6.0}, "too dear"]}
            assert [(one["step"], one["instead"]) for one in result["degraded"]] == [("dear", "buy"), ("free[2]", "value")]
            assert "takes usd=0.9, and 0.8 of 1 is left in the budget of" in result["degraded"][0]["because"]
            row = (await task.status())["budget"]
            assert (row["usd"]["spent"], row["usd"]["reserved"], row["calls"]["spent"]) == (0.9, 0, 5)

    run(story())
