"""Flows rehearsed: bounds that arithmetic gives, what the same flow takes with real handlers in virtual time, faults, and seeds."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from mesh import Agent, Context, flow
from mesh.flows.agent import agent as flows
from mesh.flows.reading import flow_from
from mesh.rehearsal.flowing import Rehearsable, Wishes, rehearsable
from mesh.rehearsal.governing import rehearsed_rules
from mesh.rehearsal.model import Capability, Crew, Fault, Model, Node, Overheads
from mesh.rehearsal.outcome import Outcome
from mesh.rehearsal.rehearse import Known, rehearse_flow
from mesh.rehearsal.report import critical, reported
from mesh.rehearsal.service import Service, always, service_of
from mesh.testing import LocalMesh

GPU = Crew(slots=2, resources=(("gpu", 1000),))
STEP_MAX_S = 0.03
"""More than one step costs beside its handler, with the usual overheads."""


def model(nodes: int = 3, slots: int = 1, speed: float = 1.0, **takes: Any) -> Model:
    said = {name: value if isinstance(value, Service) else always(value) for name, value in takes.items()}
    known = {"a": always(0.3), "b": always(0.2)} | said
    crew = Crew(slots=slots, speed=speed)
    places = tuple(Node(f"n{number + 1}", (crew,), warm=True) for number in range(nodes))
    return Model(places, tuple(Capability(name, service) for name, service in known.items()))


def changed(known: Model, name: str, **fields: Any) -> Model:
    one = known.capability(name)
    assert one is not None
    return known.with_capabilities({name: replace(one, **fields)})


def made(built: Any, given: dict[str, Any] | None = None, **widths: int) -> Rehearsable:
    return rehearsable(flow_from(built.document()), given or {}, Wishes(widths))


def chain(length: int) -> Any:
    built = flow("chain")
    last = built.step("s0", "a", x=1)
    for number in range(1, length):
        last = built.step(f"s{number}", "a", x=last)
    return built


def fan(at_once: int = 256) -> Any:
    built = flow("fan")
    first = built.step("first", "b", x=1)
    many = built.map("many", "a", over=first.parts, x=built.item, max_parallel=at_once)
    built.step("last", "b", x=many)
    return built


def test_a_chain_takes_its_handlers_and_a_little_for_each_step() -> None:
    outcome = rehearse_flow(made(chain(5)), model(), 1)
    assert outcome.state == "done" and [work.step for work in outcome.works if work.capability == "a"] == ["s0", "s1", "s2", "s3", "s4"]
    assert 5 * 0.3 < outcome.makespan_s < 5 * (0.3 + STEP_MAX_S)


@pytest.mark.parametrize(
    ("what", "at_once", "known", "turns"),
    [
        ("six slots", 256, model(3, 2), 4),
        ("so many at once", 3, model(3, 2), 8),
        ("a limit over the mesh", 256, changed(model(3, 2), "a", limit=3), 8),
        ("what one run needs", 256, replace(model(3), nodes=tuple(replace(node, crews=(GPU,)) for node in model(3).nodes)), 8),
    ],
)
def test_a_map_takes_as_many_turns_as_its_places_make(what: str, at_once: int, known: Model, turns: int) -> None:
    if what == "what one run needs":
        known = changed(known, "a", needs=(("gpu", 1000),))
    outcome = rehearse_flow(made(fan(at_once), many=24), known, 1)
    least = 0.2 + turns * 0.3 + 0.2
    assert outcome.state == "done" and least < outcome.makespan_s < 1.2 * least + 4 * STEP_MAX_S


def test_it_takes_as_long_as_the_same_flow_with_handlers_in_virtual_time() -> None:
    """The same nodes without what a real node computes: what differs is who only pretends to work."""
    shop = Agent("shop", concurrency=2)

    @shop.capability(name="a", idempotent=True)
    async def a(ctx: Context, x: int) -> int:
        await ctx.sleep(0.3)
        return x

    @shop.capability(name="b", idempotent=True)
    async def b(ctx: Context, x: Any) -> dict[str, Any]:
        await ctx.sleep(0.2)
        return {"parts": list(range(20))}

    async def real() -> float:
        async with LocalMesh(agents=[shop, flows]) as m:
            await m.sleep(3)
            began_s = m.now_s
            await (await m.submit("mesh.flow", spec=fan().document())).result()
            return m.now_s - began_s

    took_s = asyncio.run(real())
    said_s = rehearse_flow(made(fan(), many=20), replace(model(3, 2), overheads=Overheads(0.0002, 0.0003, 0.001, 0.0, 0.0)), 1).makespan_s
    assert abs(said_s - took_s) < 0.05 * took_s


def test_the_same_seed_is_the_same_rehearsal_and_another_is_not() -> None:
    known = model(3, 2, a=service_of("200ms..400ms", "a"))
    one, again, other = (rehearse_flow(made(fan(), many=12), known, seed) for seed in (7, 7, 8))
    assert one == again
    assert one.makespan_s != other.makespan_s


def test_slow_nodes_get_less_and_failures_are_tried_again() -> None:
    slow = Node("slow", (Crew(slots=2, speed=0.2),), warm=True)
    quick = Node("quick", (Crew(slots=2, speed=2.0),), warm=True)
    known = changed(replace(model(), nodes=(slow, quick)), "a", fails=0.2, retries=9)
    outcome = rehearse_flow(made(fan(), many=30), known, 1)
    runs = {name: sum(spell.node == name for work in outcome.works for spell in work.spells) for name in ("slow", "quick")}
    assert outcome.state == "done" and runs["quick"] > 2 * runs["slow"]
    again = [work for work in outcome.works if sum(spell.outcome == "error" for spell in work.spells)]
    assert again and all(work.state == "done" for work in again)


def test_a_machine_that_is_killed_costs_time_and_nothing_else() -> None:
    calm = rehearse_flow(made(fan(), many=24), model(4, 2), 1)
    struck = rehearse_flow(made(fan(), many=24), replace(model(4, 2), faults=(Fault(0.5, "n3"),)), 1)
    assert struck.state == "done" and struck.makespan_s > calm.makespan_s
    again = [work for work in struck.works if any(spell.outcome == "killed" for spell in work.spells)]
    assert again and all(work.lost and work.state == "done" for work in again)
    assert all(spell.node != "n3" or spell.began_s < 0.6 for work in struck.works for spell in work.spells)


def test_what_nobody_offers_is_told_and_does_not_go_on_for_ever() -> None:
    known = replace(model(), nodes=tuple(Node(f"n{n}", (Crew(offers=("b",)),), warm=True) for n in range(2)))
    outcome = rehearse_flow(made(fan(), many=2), known, 1)
    assert outcome.state == "stuck"
    assert {row["reason"] for row in reported([outcome], known)["parked"]} == {"no_capable"}


def test_the_first_flow_on_a_node_waits_for_its_driver() -> None:
    cold = replace(model(1), nodes=(Node("n1", (Crew(),)),), overheads=Overheads(driver_s=2.0))
    assert rehearse_flow(made(chain(1)), cold, 1).makespan_s > 2.3


def test_gates_take_the_time_of_people_and_inner_flows_their_own() -> None:
    built = flow("asked")
    one = built.step("one", "a", x=1)
    built.step("go", "mesh.flow", spec=chain(2).document(), input={}, options={"needs": ["one"], "gate": "Go on?"})
    assert one is not None
    ready = made(built)
    assert set(ready.wanted) == {"a", "mesh.flow", "rehearsal.people"}
    known = model().with_capabilities({"rehearsal.people": Capability("rehearsal.people", always(5.0))})
    outcome = rehearse_flow(ready, known, 1)
    assert outcome.state == "done" and 5.9 < outcome.makespan_s < 5.9 + 8 * STEP_MAX_S


def test_a_flow_in_a_flow_has_widths_of_its_own_and_nothing_is_spent(capsys: pytest.CaptureFixture[str]) -> None:
    inner = flow("inner")
    inner.map("each", "a", over=inner.step("first", "boom", x=1).parts, x=1)
    built = flow("outer")
    built.budget(usd=5)
    built.step("go", "mesh.flow", spec=inner.document(), input={})
    text = flow_from(built.document())
    assert rehearsable(text, {}, Wishes({})).notes == (
        "go.each: how many items it has depends on results; taken as 1: --width go.each=N",
        "budgets are left out: nothing is spent",
    )
    ready = rehearsable(text, {}, Wishes({"go.each": 4}))
    known = changed(model(boom=0.1), "boom", fails=1.0)
    outcome = rehearse_flow(ready, known, 1)
    assert outcome.state == "failed" and "as the model says" in outcome.error
    assert capsys.readouterr().out == "", "what its driver logs is not for stdout"
    assert sum(work.capability == "a" for work in rehearse_flow(ready, model(boom=0.1), 1).works) == 4


def test_the_policy_is_enforced_and_nobody_is_asked() -> None:
    rules = [
        {"id": "few", "match": {"capability": "a"}, "limit": 3},
        {"id": "ask", "match": {"capability": "b"}, "approve": {"question": "Go?"}, "require": {"zone": "eu"}},
        {"id": "leaks", "output": {"bytes_max": 10}},
    ]
    known = model(3, 2)
    eu = replace(known.nodes[1], crews=(replace(known.nodes[1].crews[0], labels=("zone=eu",)),))
    known = replace(known, nodes=(known.nodes[0], eu, known.nodes[2]), policy={"policy": "house", "rule": rules})
    ready = made(fan(), many=12)
    outcome = rehearse_flow(ready, known, 1)
    assert outcome.state == "done" and outcome.makespan_s > 0.2 + 4 * 0.3 + 0.2
    assert {spell.node for work in outcome.works if work.capability == "b" for spell in work.spells} == {"n2"}
    assert rehearsed_rules(known.policy)[1] == ("rule ask asks people first: taken as approved at once",)
    denied = replace(known, policy={"policy": "house", "rule": [{"id": "no", "match": {"capability": "a"}, "deny": "not today"}]})
    refused = rehearse_flow(ready, denied, 1)
    assert refused.state == "failed" and "not today" in refused.error


def test_flags_are_as_the_policy_has_them_and_versions_are_not_told_apart() -> None:
    built = flow("flagged")
    built.step("first", "a@^2", x=1, options={"fallback": {"uses": "b@1"}})
    built.step("new", "b", x=1, options={"when": "$flag.new_way", "needs": ["first"]})
    built.step("old", "a", x=1, options={"when": "$!flag.new_way", "needs": ["first"]})
    policy = {"flag": [{"name": "new-way", "default": True}], "rollout": [{"capability": "a", "from": "1", "to": "2", "share": 100}]}
    ready = made(built)
    assert ready.wanted == ("a", "b") and "versions are not told apart" in ready.notes[0]
    outcome = rehearse_flow(ready, replace(model(), policy=policy), 1)
    assert outcome.state == "done" and [work.capability for work in outcome.works if work.capability in "ab"] == ["a", "b"]
    assert rehearsed_rules(policy)[1] == ("the rollout of a is left out: versions are not told apart here",)


def test_a_recorded_run_goes_the_way_that_it_went() -> None:
    built = flow("way")
    first = built.step("first", "b", x=1)
    many = built.map("many", "a", over=first.parts, x=built.item)
    built.step("never", "a", x=many, options={"when": "$size(steps.first.parts) > 3", "needs": ["first"]})
    recorded = {"first": Known(0.1, b'{"parts": [1, 2]}'), "many[0]": Known(0.4, b"1"), "many[1]": Known(0.8, b"2")}
    ready = rehearsable(flow_from(built.document()), {}, Wishes({}), {"first", "many"}.__contains__)
    assert ready.notes == ()
    outcome = rehearse_flow(ready, model(), 1, recorded)
    assert sorted(work.step for work in outcome.works if work.capability in ("a", "b")) == ["first", "many[0]", "many[1]"]
    assert 0.9 < outcome.makespan_s < 0.9 + 3 * STEP_MAX_S


def test_a_report_says_where_the_time_goes() -> None:
    known = model(3, 2)
    ready = made(fan(), many=24)
    outcome = rehearse_flow(ready, known, 1)
    found = reported([outcome], known, ready.flow)
    assert found["state"] == "done" and found["tasks"] == 26 and found["unknown"] == []
    rows = {row["capability"]: row for row in found["capabilities"]}
    assert rows["a"]["tasks"] == 24 and rows["a"]["run_ms"]["mean"] == pytest.approx(300, abs=2) and rows["a"]["wait_ms"]["p95"] > 500
    assert 0.6 < rows["a"]["busy"] < 0.9 and sum(row["runs"] for row in found["nodes"]) >= 26
    steps = [work.step.partition("[")[0] for work in critical(outcome, ready.flow)]
    assert steps == ["first", "many", "last"]
    one_by_one = rehearse_flow(made(fan(3), many=9), known, 1)
    path = critical(one_by_one, made(fan(3), many=9).flow)
    assert [work.step.partition("[")[0] for work in path] == ["first", "many", "many", "many", "last"]
    assert all(earlier.finished_s <= later.submitted_s for earlier, later in pairwise(path))


def test_the_middle_seed_is_told_and_a_bad_one_is_not_hidden() -> None:
    outcomes = [Outcome(1, "done", 3.0, []), Outcome(2, "done", 1.0, []), Outcome(3, "stuck", 9.0, [])]
    found = reported(outcomes, model())
    assert found["makespan_ms"] == {"median": 3000.0, "least": 1000.0, "most": 9000.0}
    assert found["state"] == "stuck" and found["seeds"] == [1, 2, 3]
