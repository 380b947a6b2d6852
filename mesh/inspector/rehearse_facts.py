"""What is rehearsed, and on what: from a flow's file, a load's, or a task on record. For `rehearse.py`."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from mesh.client import Mesh
from mesh.errors import UsageError
from mesh.flows.record import belongs
from mesh.flows.spec import FLOW, Flow
from mesh.inspector.flow_facts import record_of, run_of
from mesh.rehearsal.calibrating import learned
from mesh.rehearsal.flowing import Rehearsable, Wishes, rehearsable
from mesh.rehearsal.governing import rehearsed_rules
from mesh.rehearsal.load import Load, read_load
from mesh.rehearsal.model import GATE, Capability, Model
from mesh.rehearsal.outcome import Outcome
from mesh.rehearsal.recorded import this_mesh
from mesh.rehearsal.rehearse import Known, rehearse_flow
from mesh.rehearsal.replay import rehearse_load
from mesh.rehearsal.service import always

Document = dict[str, Any]
Change = Callable[[Model], Model]


@dataclass(frozen=True, slots=True)
class Subject:
    """What is rehearsed. `real`: a run on record, and how long that took."""

    kind: str
    name: str
    model: Model
    notes: tuple[str, ...]
    made: Rehearsable | None = None
    load: Load | None = None
    recorded: Mapping[str, Known] | None = None
    real: tuple[str, float] | None = None

    @property
    def flow(self) -> Flow | None:
        return self.made.flow if self.made is not None else None

    def rehearse(self, seed: int) -> Outcome:
        if self.load is not None:
            return rehearse_load(self.load, self.model, seed)
        assert self.made is not None, "it is one or the other"
        return rehearse_flow(self.made, self.model, seed, self.recorded)


def of_flow(flow: Flow, given: Document, wishes: tuple[dict[str, int], tuple[str, ...]], model: Model) -> Subject:
    """Raises UsageError."""
    made = rehearsable(flow, given, Wishes(*wishes))
    model, notes = _ready(made, model)
    return Subject("flow", flow.name, model, (*made.notes, *notes), made)


def _ready(made: Rehearsable, model: Model) -> tuple[Model, tuple[str, ...]]:
    """With people for gates; and what nobody offers, or nobody knows the time of, in words. Raises UsageError where nothing is known."""
    wanted = [name for name in made.wanted if name not in (FLOW, GATE)]
    if GATE in made.wanted:
        model = model.with_capabilities({GATE: Capability(GATE, model.gate or always(0.0))})
    if not model.capabilities or not any(model.capability(name) for name in wanted):
        nobody = ", ".join(wanted[:10])
        first = wanted[0] if wanted else "CAP"
        raise UsageError(f"nobody knows how long these take: {nobody}", fix=f"--service {first}=300ms, or --model FILE")
    notes = [f"nobody offers {name}: it would be parked" for name in wanted if not _offered(model, name)]
    if GATE in made.wanted and model.gate is None:
        notes.append('people are taken to answer at once: gate = "2m" in a model says otherwise')
    return model, (*notes, *rehearsed_rules(model.policy)[1])


def _offered(model: Model, name: str) -> bool:
    return any(one.name == name for node in model.nodes for crew in node.crews for one in model.offered(crew))


def of_load(path: str, model: Model | None, change: Change, faster: float) -> Subject:
    """Raises UsageError."""
    load = read_load(path)
    known = model or learned(load)
    if not known.nodes:
        names = sorted({name for job in load.jobs for name in (job.manager, job.node) if name})
        known = known.of_names(names)
    real = (path, 1000 * load.makespan_s) if load.makespan_s is not None and faster == 1.0 else None
    ready = change(known)
    return Subject("load", path, ready, rehearsed_rules(ready.policy)[1], load=load.faster(faster), real=real)


async def of_task(mesh: Mesh, task: str, model: Model | None, change: Change) -> Subject:
    """The flow as it ran, with the results and times that are on record. Raises MeshError."""
    run = await run_of(mesh, task)
    if run.row["state"] not in ("done", "failed"):
        raise UsageError(f"{task} has not ended: its record is not whole", fix=f"mesh flow show {task}")
    recorded = await _known(mesh, run)
    known_steps = {step for name in recorded for step in belongs(name, run.flow)[0]}
    made = rehearsable(run.flow, run.given, Wishes({}), known_steps.__contains__)
    known = model or await this_mesh(mesh)
    ready, notes = _ready(made, change(known))
    return Subject("flow", run.flow.name, ready, (*made.notes, *notes), made, recorded=recorded, real=(task, float(run.row["took_ms"])))


async def _known(mesh: Mesh, run: Any) -> dict[str, Known]:
    """Of each child on record: how long its handler took, how it ended, and what it gave."""
    record = await record_of(mesh, run)
    service = {entry["task"]: entry["service_ms"] / 1000 for entry in run.entries if entry["kind"] == "Finished"}
    spans = {row["task"]: (row["end_ms"] - row["begin_ms"]) / 1000 for row in run.children}
    found: dict[str, Known] = {}
    for name, child in record.children.items():
        steps, part = belongs(name, run.flow)
        if not steps:
            continue
        if part == "gate":
            step = run.flow.step(steps[0])
            found[f"gate_{steps[0]}" if step is not None and step.uses else steps[0]] = Known(spans.get(child.task, 0.0))
        elif child.state in ("done", "failed"):
            found[name] = Known(service.get(child.task), json.dumps(child.result).encode(), "ok" if child.state == "done" else "error")
    return found


async def real_ms(mesh: Mesh, task: str) -> tuple[str, float]:
    """Raises NoSuchTask, UsageError for what has not ended."""
    row = await mesh.task(task)
    if row["state"] not in ("done", "failed"):
        raise UsageError(f"{task} has not ended", fix=f"mesh result {task}")
    return str(row["task"]), float(row["took_ms"])
