"""Flows as they run: whole nodes, real handlers, virtual time."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from mesh import Agent
from mesh.errors import TaskFailed
from mesh.flows.agent import FLOW
from mesh.flows.agent import agent as flows
from mesh.flows.checks import checked
from mesh.flows.reading import read_text
from mesh.flows.spec import document
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
        flow, source = read_text(text)
        task = await m.submit(FLOW, spec=document(checked(flow, source)), input=given)
        found: dict[str, Any] = await task.result()
        return found


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
    assert found == {"output": {"total": 22, "each": [4, 9, 14]}, "skipped": [], "failed": [], "left": [], "degraded": []}
    assert sorted(shop.did) == sorted(("add", a, b) for a, b in ((3, 1), (4, 0), (8, 1), (12, 2), (4, 2), (6, 2), (14, 8)))


def test_a_failure_names_the_step_its_task_and_what_was_undone() -> None:
    shop = Shop()
    with pytest.raises(TaskFailed, match=r"step 'last' failed: ValueError: boom \(task n1\.1\.\d+\); undone: one$"):
        run(ended(SUMS + '[[step]]\nid = "last"\nuses = "boom"\nneeds = ["sum"]\n', shop, n=3))
    assert shop.did[-1] == ("undo", 3, 1) and shop.did.count(("undo", 3, 1)) == 1
