"""Pausing, resuming and patching a flow that runs: nothing that has begun is changed, and whoever takes over knows what was decided."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from mesh import Agent, Context
from mesh.errors import Refused, UsageError
from mesh.flows import control
from mesh.flows.agent import agent as flows
from mesh.flows.parsing import flow_of
from mesh.flows.patching import patched
from mesh.flows.problems import FlowError
from mesh.flows.spec import FLOW
from mesh.testing import LocalMesh


def run(work: Any) -> Any:
    return asyncio.run(asyncio.wait_for(work, 30))


class Line:
    def __init__(self) -> None:
        self.agent = Agent("line", concurrency=32)
        self.did: list[str] = []

        @self.agent.capability(idempotent=True)
        async def work(ctx: Context, what: str) -> str:
            self.did.append(what)
            await ctx.sleep(10)
            return what


def step(name: str, *needs: str, what: str = "") -> dict[str, Any]:
    return {"id": name, "uses": "work", "with": {"what": what or name}} | ({"needs": list(needs)} if needs else {})


CHAIN = {"flow": "chain", "step": [step("a"), step("b", "a"), step("c", "b"), step("d", "c")]}
CHANGE = {"base": 1, "replace": [step("c", "b", what="c anew")], "add": [step("e", "b")], "remove": ["d"]}


def test_a_paused_flow_begins_nothing_until_it_goes_on() -> None:
    async def story() -> None:
        line = Line()
        async with LocalMesh(agents=[line.agent, flows]) as m:
            task = await m.submit(FLOW, spec=CHAIN)
            await m.sleep(5)
            await control.pause(m.at("n2"), task.id)
            await m.sleep(50)
            assert line.did == ["a"], "what ran went on to its end"
            await control.resume(m.at("n3"), task.id)
            assert (await task.result())["output"] == {"d": "d"} and line.did == ["a", "b", "c", "d"]

    run(story())


def test_beyond_its_limit_a_flow_says_no_and_does_not_stay_paused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "LIMITS", replace(control.LIMITS, controls_max=4))

    async def story() -> None:
        line = Line()
        async with LocalMesh(agents=[line.agent, flows]) as m:
            task = await m.submit(FLOW, spec=CHAIN)
            for do in (control.pause, control.resume, control.pause):
                await do(m.at("n1"), task.id)
            with pytest.raises(Refused, match="4 times"):
                await control.pause(m.at("n2"), task.id)
            await control.resume(m.at("n2"), task.id)
            with pytest.raises(Refused, match="4 times"):
                await control.resume(m.at("n3"), task.id)
            assert (await task.result())["output"] == {"d": "d"}

    run(story())


def test_a_flow_stays_paused_when_its_driver_dies() -> None:
    async def story() -> None:
        line = Line()
        async with LocalMesh(nodes={"n1": [], "n2": [flows], "n3": [flows], "n4": [line.agent]}) as m:
            task = await m.at("n1").submit(FLOW, spec=CHAIN)
            await m.sleep(5)
            await control.pause(m.at("n1"), task.id)
            [row] = [row for row in (await m.tasks())["tasks"] if row["task"] == task.id]
            m.kill(row["owner"])
            await m.sleep(50)
            assert line.did == ["a"]
            await control.resume(m.at("n4"), task.id)
            assert (await task.result())["output"] == {"d": "d"} and line.did == ["a", "b", "c", "d"]

    run(story())


@pytest.mark.parametrize("killed", [False, True], ids=["undisturbed", "its driver is killed"])
def test_a_patch_changes_what_has_not_begun(killed: bool) -> None:
    async def story() -> None:
        line = Line()
        async with LocalMesh(nodes={"n1": [], "n2": [line.agent, flows], "n3": [line.agent, flows], "n4": []}) as m:
            while (task := await m.at("n1").submit(FLOW, spec=CHAIN)).survives != "node-loss":
                await task.cancel()
                await m.sleep(0.5)
            line.did.clear()
            await m.sleep(15)
            assert await control.patch(m.at("n4"), task.id, CHANGE, sleep=m.sleep) == "taken, version 2"
            if killed:
                [row] = [row for row in (await m.tasks())["tasks"] if row["task"] == task.id]
                m.kill(row["owner"])
            found = await task.result()
            assert (found["output"], found["version"]) == ({"c": "c anew", "e": "e"}, 2)
            assert set(line.did) == {"a", "b", "c anew", "e"} and (killed or len(line.did) == 4)
            keys = [entry["key"] for entry in (await m.at("n1").story(task.id))["entries"] if entry["kind"] == "Intended"]
            assert [key.partition(": ")[2] for key in keys] == ["taken, version 2"]

    run(story())


def test_a_patch_that_is_refused_says_why() -> None:
    async def story() -> None:
        line = Line()
        async with LocalMesh(agents=[line.agent, flows]) as m:
            task = await m.submit(FLOW, spec=CHAIN)
            await m.sleep(15)
            for change, why in (({"remove": ["b"]}, "'b' has begun already"), ({"base": 2}, "the flow is at version 1")):
                with pytest.raises(UsageError, match=f"the patch was refused, patch: .*{why}"):
                    await control.patch(m.at("n1"), task.id, CHANGE | change, sleep=m.sleep)
            found = await task.result()
            assert (found["output"], found["version"], line.did) == ({"d": "d"}, 1, ["a", "b", "c", "d"])

    run(story())


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ([], "it is no table"),
        ({"base": True}, "no whole number"),
        ({"base": 1, "more": 1}, "no key 'more'"),
        ({"base": 1, "add": 5}, "no list of steps"),
        ({"base": 1, "add": [step("a")]}, "'a' is the id of step 1 as well"),
        ({"base": 1, "add": [step("e", "z")]}, "there is no step 'z'"),
        ({"base": 1, "replace": [step("z")]}, "there is no step 'z'"),
        ({"base": 1, "replace": [step("c", "d")]}, "the steps wait for one another"),
        ({"base": 1, "replace": [step("c")], "remove": ["c"]}, "'c' is replaced as well"),
        ({"base": 1, "remove": ["c"]}, "there is no step 'c'"),
        ({"base": 1, "output": "$steps.zz"}, "there is no step 'zz'"),
        ({"base": 1, "remove": ["a"]}, "'a' has begun already"),
    ],
)
def test_a_patch_that_makes_no_flow_is_refused(change: Any, why: str) -> None:
    with pytest.raises(FlowError, match=why):
        patched(flow_of(CHAIN), change, lambda name: name == "a")
    found, fresh = patched(flow_of(CHAIN), CHANGE | {"output": "$steps.e"}, lambda name: name == "a")
    assert [one.id for one in found.steps] == ["a", "b", "c", "e"] and fresh == ("c", "e")
    assert (found.version, found.output) == (2, "$steps.e")
