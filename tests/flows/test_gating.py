"""Gates in flows: asked before the step begins, about exactly what it is given; and people who settle what could not be undone."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from mesh import Agent
from mesh.errors import TaskFailed
from mesh.flows.agent import agent as flows
from mesh.flows.checks import checked
from mesh.flows.reading import read_text
from mesh.flows.spec import FLOW, document
from mesh.testing import LocalMesh


def run(work: Any) -> Any:
    return asyncio.run(asyncio.wait_for(work, 30))


class Press:
    def __init__(self) -> None:
        self.agent = Agent("press")
        self.did: list[Any] = []

        @self.agent.capability
        async def publish(page: str, copies: int = 1) -> str:
            self.did.append((page, copies))
            return f"{copies} of {page}"

        @self.agent.capability
        async def withdraw(page: str, copies: int = 1) -> None:
            raise ValueError("they are sold")


async def gate_of(m: LocalMesh) -> dict[str, Any]:
    while not (found := (await m.at("n1").approvals())["gates"]):
        await m.sleep(0.25)
    [row] = found
    return dict(row)


GATED = """
flow = "gated"
input = { page = "string" }

[[step]]
id = "review"
gate = { question = "$'Print ' + input.page + '?'", expires = "3d" }
with = { page = "$input.page" }

[[step]]
id = "publish"
uses = "publish"
needs = ["review"]
gate = "As many?"
with = { page = "$steps.review.output.page" }
"""


def test_a_gate_asks_about_what_is_done_and_what_is_put_in_its_place_is_done() -> None:
    async def story() -> None:
        press = Press()
        async with LocalMesh(agents=[press.agent, flows]) as m:
            task = await m.submit(FLOW, spec=document(checked(*read_text(GATED))), input={"page": "one"})
            first = await gate_of(m)
            assert (first["question"], first["arguments"]["subject"], first["root"]) == ("Print one?", {"page": "one"}, task.id)
            await m.at("n2").approve(first["task"], note="with a title", output={"page": "One"})
            second = await gate_of(m)
            assert second["arguments"]["subject"] == {"page": "One"} and press.did == []
            await m.at("n3").approve(second["task"], output={"page": "One", "copies": 7})
            assert (await task.result())["output"] == {"publish": "7 of One"} and press.did == [("One", 7)]

    run(story())


def test_a_denied_gate_and_one_that_nobody_answers_fail_their_step() -> None:
    async def story() -> None:
        press = Press()
        spec = document(checked(*read_text(GATED)))
        async with LocalMesh(agents=[press.agent, flows]) as m:
            task = await m.submit(FLOW, spec=spec, input={"page": "one"})
            await m.at("n2").deny((await gate_of(m))["task"], note="too dull")
            with pytest.raises(TaskFailed, match=r"step 'review' failed: denied by .*: too dull"):
                await task.result()
            late = await m.submit(FLOW, spec=spec, input={"page": "two"})
            with pytest.raises(TaskFailed, match="step 'review' failed: its gate was not answered in time"):
                await late.result()
            saved = [spec["step"][0], spec["step"][1] | {"gate": {"question": "?", "expires": "1s"}, "fallback": {"value": "none"}}]
            third = await m.submit(FLOW, spec=spec | {"step": saved}, input={"page": "three"})
            await m.at("n1").approve((await gate_of(m))["task"])
            assert (await third.result())["output"] == {"publish": "none"} and press.did == []

    run(story())


UNDONE = """
flow = "undone"
[[step]]
id = "publish"
uses = "publish"
with = { page = "p" }
retry = 0
compensate = "withdraw"
[[step]]
id = "next"
uses = "publish"
needs = ["publish"]
with = { nothing = "fits" }
"""


SAID = [("approve", "; undone: publish by hand"), ("deny", "; NOT undone: publish: ValueError: they are sold")]


@pytest.mark.parametrize(("answer", "said"), SAID, ids=["settled", "not settled"])
def test_what_cannot_be_undone_is_asked_of_people(answer: str, said: str) -> None:
    async def story() -> None:
        async with LocalMesh(agents=[Press().agent, flows]) as m:
            task = await m.submit(FLOW, spec=document(checked(*read_text(UNDONE))))
            gate = await gate_of(m)
            assert gate["question"] == "publish could not be undone: ValueError: they are sold. Has it been settled by hand?"
            await getattr(m.at("n2"), answer)(gate["task"])
            with pytest.raises(TaskFailed) as failed:
                await task.result()
            assert said in failed.value.message and "step 'next' failed: publish has no argument 'nothing'" in failed.value.message

    run(story())
