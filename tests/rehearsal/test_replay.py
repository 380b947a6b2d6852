"""Recorded loads: read, refused with their line, and asked for again."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from mesh.errors import UsageError
from mesh.rehearsal.load import Job, Load, is_load, lines, load_of, read_load
from mesh.rehearsal.model import Capability, Crew, Fault, Model, Node
from mesh.rehearsal.recorded import jobs_of
from mesh.rehearsal.replay import rehearse_load
from mesh.rehearsal.report import reported
from mesh.rehearsal.service import always
from mesh.sim.makespan import percentile, perfect, stream

ONE = {"task": "t1", "at_ms": 0, "capability": "a", "service_ms": 5}


def places(count: int, slots: int = 1) -> Model:
    return Model(tuple(Node(f"n{number + 1}", (Crew(slots=slots),)) for number in range(count)))


def row(**fields: object) -> str:
    return json.dumps(ONE | fields)


@pytest.mark.parametrize("durable", [True, False])
def test_a_load_takes_as_long_as_a_perfect_queue_and_a_little(durable: bool) -> None:
    jobs = stream(3, 60, 0.2, 0.85, (1.0,) * 4, 4)
    asked = (Job(f"t{n}", 1000 * j.at_s, "a", 1000 * j.service_s, -1.0, f"n{j.manager + 1}") for n, j in enumerate(jobs))
    load = Load(tuple(replace(job, durable=durable) for job in asked))
    outcome = rehearse_load(load, places(4), 1)
    ideal = perfect(jobs, (1.0,) * 4)
    assert outcome.state == "done" and outcome.failed == 0 and len(outcome.works) == 60
    assert 0.95 * ideal.makespan_s < outcome.makespan_s < 1.1 * ideal.makespan_s
    took = tuple(work.finished_s - work.submitted_s for work in outcome.works)
    assert percentile(took, 0.5) < 1.5 * percentile(ideal.response_s, 0.5) + 0.02
    assert reported([outcome], places(4))["capabilities"][0]["tasks"] == 60


def test_steps_come_after_those_that_they_waited_for() -> None:
    """A parent that asked for two at once, then, 20 ms after the longer one, for a third; its slot is free meanwhile."""
    load = load_of(
        [
            row(task="p", capability="p", service_ms=1000, took_ms=1010),
            row(task="x", at_ms=10, service_ms=300, took_ms=310, parent="p", step="x"),
            row(task="y", at_ms=10, service_ms=500, took_ms=510, parent="p", step="y"),
            row(task="z", at_ms=540, service_ms=400, took_ms=405, parent="p", step="z"),
            row(task="w", at_ms=945, capability="mesh.wait", service_ms=30, took_ms=30, parent="p", step="gate/w"),
        ],
        "load",
    )
    assert load.makespan_s == 1.01
    outcome = rehearse_load(load, places(1, 2), 1)
    works = {work.label: work for work in outcome.works}
    assert set(works) == {"p", "x", "y", "z"}, "nobody runs a wait"
    assert works["y"].finished_s + 0.02 < works["z"].submitted_s < works["y"].finished_s + 0.04
    assert 1.0 < outcome.makespan_s < 1.1


def test_what_ran_on_a_slower_crew_takes_less_on_a_quicker_one() -> None:
    then = Model((Node("old", (Crew(speed=0.5),)),), (Capability("a"),))
    load = Load((Job("t", 0.0, "a", 1000.0, node="old"),), then)
    assert 0.5 < rehearse_load(load, places(1), 1).makespan_s < 0.55
    assert 1.0 < rehearse_load(load, then, 1).makespan_s < 1.05


def test_twice_as_fast_and_failures_as_they_were() -> None:
    load = Load((Job("t", 0.0, "a", 10.0), Job("u", 4000.0, "a", 10.0, state="failed"), Job("v", 4000.0, "a", 10.0, parent="t")))
    assert [job.at_ms for job in load.faster(2).jobs] == [0.0, 2000.0, 4000.0], "a step comes when its parent asks for it"
    outcome = rehearse_load(replace(load.faster(2), jobs=load.faster(2).jobs[:2]), places(2), 1)
    assert outcome.failed == 1 and 2.0 < outcome.makespan_s < 2.1


def test_a_load_outlives_a_machine() -> None:
    load = Load(tuple(Job(f"t{n}", 100.0 * n, "a", 200.0, manager="n1") for n in range(20)))
    outcome = rehearse_load(load, replace(places(4), faults=(Fault(0.7, "n3", 5.0),)), 1)
    assert outcome.state == "done" and outcome.failed == 0
    assert not any(spell.node == "n3" and 0.75 < spell.began_s < 5.0 for work in outcome.works for spell in work.spells)


def test_a_load_written_is_the_load_read(tmp_path: Path) -> None:
    crew = Crew("shop", 3, 2.0, ("a",), ("zone=eu",), (("gpu", 1000),))
    model = Model((Node("n1", (crew,)),), (Capability("a", always(0.2), needs=(("gpu", 1000),), limit=2),), alone_s=0.01, gap_s=0.004)
    jobs = (Job("t", 0.0, "a", 10.0, 12.0, "n1", "n1", share="eve", where=("zone=eu",), durable=False), Job("u", 5.0, "a", 1.0, parent="t"))
    file = tmp_path / "any.name"
    file.write_text("\n".join(lines(Load(jobs, model))))
    assert is_load(str(file)) and not is_load(str(tmp_path / "flow.toml"))
    found = read_load(str(file))
    assert found.jobs == jobs and replace(found.model, came_from="flags") == model


@pytest.mark.parametrize(
    ("texts", "told"),
    [
        ([row(), "{"], "load:2: it is no JSON"),
        ([row(), "[]"], "load:2: it is no table"),
        ([row(at=1)], "load:1: there is no field 'at'"),
        ([row(task=1)], "load:1: task is '1'"),
        ([row(at_ms="now")], "load:1: at_ms is 'now'"),
        ([row(at_ms=float("nan"))], "load:1: at_ms is nan"),
        ([row(service_ms=1e15)], "load:1: service_ms is"),
        ([json.dumps({"task": "t"})], "load:1: 'at_ms' is missing"),
        ([row(where=["a b"])], "load:1: where is"),
        ([row(priority=10)], "load:1: priority is 10"),
        ([row(task="")], "load:1: task and capability are no names"),
        ([row(), row()], "the task 't1' is there twice"),
        ([row(parent="gone")], "its parent 'gone' is not in the file"),
        ([row(parent="t2"), row(task="t2", parent="t1")], "its parents go round in a ring"),
        (["", "  "], "there is no task in it"),
        (['{"schema": "mesh.tasks/1"}', row()], "load:1: its schema is 'mesh.tasks/1'"),
        (['{"schema": "mesh.load/1", "nodes": [{"name": "n"}]}', row()], "load:1: the header is not as it was written"),
        (['{"schema": "mesh.load/1", "nodes": 7}', row()], "load:1: the header is not as it was written"),
    ],
)
def test_what_is_no_load_is_refused_with_its_line(texts: list[str], told: str) -> None:
    with pytest.raises(UsageError) as refused:
        load_of(texts, "load")
    assert told in refused.value.message and refused.value.fix


def test_what_is_recorded_of_work_that_asked_for_a_version_or_was_kept_from_a_place_can_be_read_again() -> None:
    was = {
        "task": "n.1.1",
        "capability": "render",
        "state": "done",
        "age_ms": 9,
        "service_ms": 3,
        "took_ms": 4,
        "owner": "a",
        "parent": "",
        "step": "",
    }
    was |= {"priority": 5, "share": "", "where": ["@^2", "!zone=us", "gpu"], "durable": True, "attempts": 1}
    jobs = jobs_of([was], {"n": "a"})
    assert jobs[0].where == ("!zone=us", "gpu")
    assert load_of(lines(Load(jobs, places(1))), "load.jsonl").jobs == jobs
