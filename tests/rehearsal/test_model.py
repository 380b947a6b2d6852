"""Models: as people write them, as a mesh tells them, and how long things take in them."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from mesh import Agent, flow
from mesh.errors import UsageError
from mesh.flows.reading import flow_from
from mesh.rehearsal.calibrating import Cost, calibrated, cost_of, learned
from mesh.rehearsal.flowing import Wishes, rehearsable
from mesh.rehearsal.load import Job, Load
from mesh.rehearsal.model import Capability, Crew, Fault, Model, Node, Overheads
from mesh.rehearsal.reading import fault_of, model_of, read_model
from mesh.rehearsal.recorded import jobs_of, modelled, rows_of
from mesh.rehearsal.service import Service, always, lognormal, measured, service_of
from mesh.testing import LocalMesh

TEXT = """
gate = "2m"

[[nodes]]
count = 2
slots = 4

[[nodes]]
name = "gpu"
speed = 2.0
offers = ["draw"]
labels = { zone = "eu" }
resources = { gpu = 1 }

[capability.draw]
service = { p50 = "200ms", p90 = "1s" }
needs = { gpu = 1 }
rate = "10/s"
fails = 0.1
retries = 2

[capability."rows.sum"]
service = "100ms..300ms"
idempotent = false
timeout = "2s"

[overheads]
sync = "4ms"

[[fault]]
kill = "gpu"
at = "1s"
back = "10s"
"""


def test_a_model_says_who_offers_what() -> None:
    found = model_of(TEXT, "mesh.toml")
    assert [(node.name, node.crews[0].slots, node.crews[0].speed) for node in found.nodes] == [
        ("n1", 4, 1.0),
        ("n2", 4, 1.0),
        ("gpu", 8, 2.0),
    ]
    draw, total = found.capabilities
    assert (draw.rate, draw.rate_ms, draw.needs, draw.fails, draw.retries) == (10, 1000, (("gpu", 1000),), 0.1, 2)
    assert (total.idempotent, total.timeout_ms) == (False, 2000)
    assert found.faults == (Fault(1.0, "gpu", 10.0),) and found.overheads.sync_s == 0.004 and found.gate == always(120.0)
    gpu = found.nodes[2].crews[0]
    assert found.offered(gpu) == (draw,) and gpu.labels == ("zone=eu",)
    assert found.takes(gpu, "draw") == Service(((0.5, 0.1), (0.9, 0.5)))


@pytest.mark.parametrize(
    ("text", "line", "told"),
    [
        ("[[nodes]]\n[[nodes]]\nslots = 0", 3, "nodes.1.slots: 0 is no whole number"),
        ("[[nodes]]\nspeed = 0", 2, "speed"),
        ("[[nodes]]\nlabels = { a = false }", 2, "labels"),
        ("[[nodes]]\ncolour = 1", 2, "there is no key 'colour' here"),
        ("[[nodes]]\n[capability.a]\nservice = 3", 3, "says no time"),
        ('[[nodes]]\n[capability.a]\nservice = "3"', 3, "is no time"),
        ('[[nodes]]\n[capability.a]\nservice = { p50 = "2s", p90 = "1s" }', 3, "a higher quantile is shorter"),
        ('[[nodes]]\n[capability.a]\nservice = { mean = "2s", spread = 9 }', 3, "spread is 9"),
        ('[[nodes]]\n[capability.a]\nrate = "fast"', 3, "is no rate"),
        ("[[nodes]]\n[capability]\na = 3", 3, "is no table"),
        ("[[nodes]]\n[capability.a]\nfails = 2", 3, "is no number from 0 to 1"),
        ('[[nodes]]\n[overheads]\nsync = "soon"', 3, "is no time"),
        ('[[nodes]]\n[[fault]]\nat = "1s"', 2, "it names no node"),
        ("nodes = 3", 1, "it is no list of tables"),
        ("nodes = [3]", 1, "it is no list of tables"),
        ('[[nodes]]\ngate = "long"', 2, "there is no key 'gate' here"),
    ],
)
def test_what_is_wrong_with_a_model_is_told_with_its_line(text: str, line: int, told: str) -> None:
    with pytest.raises(UsageError) as refused:
        model_of(text, "mesh.toml")
    assert refused.value.message.startswith(f"mesh.toml:{line}: ") and told in refused.value.message and refused.value.fix


def test_a_model_that_cannot_be_is_refused(tmp_path: Path) -> None:
    for text, told in (
        ("", "has no nodes"),
        ('[[nodes]]\nname = "a"\n[[nodes]]\nname = "a"', "two nodes"),
        ("[[nodes]\n", "it is no TOML"),
    ):
        with pytest.raises(UsageError, match=told):
            model_of(text)
    with pytest.raises(UsageError, match="no node 'x' to kill"):
        model_of('[[nodes]]\n[[fault]]\nkill = "x"')
    with pytest.raises(UsageError, match="No such file"):
        read_model(str(tmp_path / "none"))
    for text in ("n2", "@3s", "n2@soon", "n2@3s+"):
        with pytest.raises(UsageError):
            fault_of(text) if text != "n2@3s+" else service_of("", "it")
    assert fault_of("n2@3s+500ms") == Fault(3.0, "n2", 0.5)


def test_times_are_drawn_between_their_quantiles() -> None:
    quantiles = service_of({"p50": "200ms", "p90": "600ms"}, "it")
    assert [quantiles.draw(share) for share in (0.1, 0.5, 0.7, 0.9, 0.99)] == pytest.approx([0.2, 0.2, 0.4, 0.6, 0.6])
    assert measured([3.0, 1.0, 2.0]).draw(0.5) == 2.0 and measured([1.0]) == always(1.0)
    assert lognormal(0.3, 0.5).mean_s() == pytest.approx(0.3, rel=0.03)
    assert len(measured(range(10_000)).points) == 512
    assert always(0.3).times(2).mean_s() == 0.6


def test_more_nodes_are_like_those_that_are_known() -> None:
    known = Model((Node("a", (Crew(slots=2),)), Node("b", (Crew(slots=5),))))
    assert [(node.name, node.crews[0].slots) for node in known.resized(5).nodes] == [("a", 2), ("b", 5), ("a+1", 2), ("b+1", 5), ("a+2", 2)]
    assert [node.name for node in known.resized(1).nodes] == ["a"]
    with pytest.raises(UsageError):
        known.resized(1000)


def cap(name: str, *models: dict[str, Any], **fields: Any) -> dict[str, Any]:
    usual = {"idempotent": True, "retries": 1, "timeout_ms": 0, "limit": 0, "rate": 0, "rate_ms": 0, "needs": {}, "labels": {}}
    return {"capability": name, "models": list(models), **usual, **fields}


def ran(number: int, capability: str, service_ms: int, took_ms: int, age_ms: int, **fields: Any) -> dict[str, Any]:
    usual = {"task": f"n1id.1.{number}", "state": "done", "attempts": 1, "owner": "n1", "parent": "", "step": "", "durable": True}
    more = {"priority": 5, "share": "", "where": []}
    return {**usual, **more, "capability": capability, "service_ms": service_ms, "took_ms": took_ms, "age_ms": age_ms, **fields}


def test_a_mesh_tells_its_own_model() -> None:
    caps = [
        cap(
            "draw",
            {"node": "n1", "agent": "art", "slots": 2, "service_ms": 100, "failing": 0},
            {"node": "n2", "agent": "art", "slots": 4, "service_ms": 200, "failing": 10},
            labels={"n2": [["zone=eu"]]},
            needs={"gpu": 1.0},
        ),
        cap("rare", {"node": "n1", "agent": "art", "slots": 2, "service_ms": 0, "failing": 0}),
        cap("mesh.flow", {"node": "n1", "agent": "flows", "slots": 256}),
    ]
    rows = [ran(n, "draw", 90 + n, 100 + n, 10_000 - 500 * n) for n in range(10)]
    found = modelled(caps, ["n1", "n2", "n3"], rows)
    assert [(node.name, [(crew.agent, crew.slots, crew.offers) for crew in node.crews]) for node in found.nodes] == [
        ("n1", [("art", 2, ("draw", "rare"))]),
        ("n2", [("art", 4, ("draw",))]),
        ("n3", []),
    ]
    draw, rare = found.capabilities
    assert draw.retries == 1 and draw.fails == 0.05 and rare.service is None
    here, there = found.nodes[0].crews[0], found.nodes[1].crews[0]
    own, slower = found.takes(here, "draw"), found.takes(there, "draw")
    assert own is not None and own.mean_s() == pytest.approx(0.0945, rel=0.01), "ten runs are its own distribution"
    assert slower is not None and slower.mean_s() == pytest.approx(0.2, rel=0.01), "of none, everybody's, as slow as it says it is"
    assert found.alone_s == 0.01 and there.labels == ("zone=eu",)


def test_older_tasks_are_asked_for_page_by_page() -> None:
    shop = Agent("shop")

    @shop.capability(idempotent=True)
    async def tell(number: int) -> int:
        return number

    async def asked() -> None:
        async with LocalMesh(nodes={"n1": [shop]}) as m:
            tasks = [await m.submit("tell", number=number) for number in range(3)]
            for task in tasks:
                await task.result()
            client = m.at("n1")
            assert [row["task"] for row in (await client.tasks(skip=1))["tasks"]] == [tasks[1].id, tasks[0].id]
            assert [row["task"] for row in await rows_of(client)] == [task.id for task in tasks]

    asyncio.run(asked())


def test_a_load_is_what_has_ended_with_all_above_it() -> None:
    rows = [
        ran(1, "mesh.flow", 900, 1000, 5000, owner="n2"),
        ran(2, "draw", 100, 110, 4900, parent="n1id.1.1", step="a"),
        ran(3, "draw", 100, 110, 3000, state="held"),
        ran(4, "draw", 100, 110, 2900, parent="n1id.1.3", step="a"),
        ran(5, "mesh.wait", 0, 400, 4000, parent="n1id.1.1", step="gate/g", owner=""),
    ]
    jobs = jobs_of(rows, {"n1id2345": "n1"})
    assert [(job.task[-1], job.at_ms, job.service_ms, job.manager) for job in jobs] == [
        ("1", 0.0, 900.0, "n1"),
        ("2", 100.0, 100.0, "n1"),
        ("5", 1000.0, 400.0, "n1"),
    ]
    assert len(jobs_of([*rows, ran(6, "draw", 1, 2, 3)], {}, "n1id.1.6")) == 1
    with pytest.raises(UsageError, match="nothing that has ended"):
        jobs_of(rows[2:4], {})


def test_what_the_mesh_costs_is_learned_from_what_waited_for_nothing() -> None:
    flow_row = ran(99, "mesh.flow", 9000, 9000, 20_000)
    rows = [flow_row, *(ran(n, "draw", 100, 130, 20_000 - 150 * n, parent="n1id.1.99") for n in range(20))]
    assert cost_of(rows, 2) == Cost(0.03, 0.02)
    crowd = [ran(100 + n, "draw", 100, 900, 5000) for n in range(50)]
    assert cost_of([*rows, *crowd], 2) == Cost(0.03, 0.02), "what waited for slots says nothing"
    assert cost_of(rows[:5], 2) == Cost()
    jobs = tuple(Job(f"t{n}", 500.0 * n, "draw", 100.0, 140.0) for n in range(10))
    assert learned(Load(jobs, Model((Node("a", (Crew(),)),), alone_s=0.5))).alone_s == 0.04


def test_a_calibrated_model_costs_what_was_measured() -> None:
    usual = Model((Node("a", (Crew(),)), Node("b", (Crew(),))), alone_s=0.0)
    assert calibrated(usual) is usual
    slow = calibrated(Model(usual.nodes, alone_s=0.02, gap_s=0.008))
    assert slow.overheads.network_s > 1.5 * Overheads().network_s and slow.alone_s == 0.0


def test_what_depends_on_results_is_put_in_numbers_and_said() -> None:
    built = flow("many", names="array", far="string")
    first = built.step("first", "a", x=built.input.far)
    built.map("each", "a", over=built.input.names, x=built.item)
    built.map("open", "a", over=first.parts, x=built.item)
    built.step("again", "a", x=1, options={"loop": {"until": "$item > 3", "max": 9}, "needs": ["first"]})
    built.step("maybe", "a", x=first.y, options={"when": "$steps.first.y > 3"})
    built.step("sure", "a", x=1, options={"when": "$size(input.names) > 1"})
    text = flow_from(built.document())
    found = rehearsable(text, {"names": ["x", "y"]}, Wishes({"open": 7}))
    steps = {step.id: step for step in found.flow.steps}
    assert steps["each"].map == "$input.names" and steps["open"].map == list(range(7))
    assert steps["again"].loop is not None and steps["again"].loop.until == "$index >= 0"
    assert steps["maybe"].when == "" and steps["sure"].when == "$size(input.names) > 1"
    assert [note.partition(":")[0] for note in found.notes] == ["again", "maybe"]
    assert {step.id: step.arguments for step in found.flow.steps if step.arguments} == {"sure": {"x": 1}}, "what is known beforehand"
    skipped = rehearsable(text, {"names": []}, Wishes({}, ("maybe",)))
    assert next(step for step in skipped.flow.steps if step.id == "maybe").when == "$false"
    for wishes, told in ((Wishes({"nope": 3}), "has no step 'nope'"), (Wishes({"first": 3}), "is done once")):
        with pytest.raises(UsageError, match=told):
            rehearsable(text, {"names": []}, wishes)
    assert Capability("a").offer("x").capability == "a"
