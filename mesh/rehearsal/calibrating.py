"""What the mesh itself costs, taken from what it has done: on these machines, with whatever else they do.

    tasks that found free slots: took - handler, and until their flow asked for the next --medians--> cost
    cost / what the same takes in a rehearsal with the usual overheads --> factor of all overheads

Invariant: only tasks count that had nothing to wait for; of too few nothing is learned, and the constants of `model.py` stand.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from statistics import median
from typing import Any

from mesh.flows.spec import FLOW, Flow, Step
from mesh.rehearsal.flowing import Wishes, rehearsable
from mesh.rehearsal.load import Load
from mesh.rehearsal.model import Capability, Crew, Model, Node, Overheads
from mesh.rehearsal.rehearse import rehearse_flow
from mesh.rehearsal.service import always

Document = dict[str, Any]
QUIET = 0.75
"""Of all slots: while fewer tasks live, one more finds a free slot nearly always."""
QUIET_MIN = 8
"""Tasks; of fewer nothing is learned."""
NEWEST = 400
FACTORS = (0.2, 30.0)
LENGTH = 8
NODES = 5
"""More make no difference to a task alone."""
HANDLER_S = 0.1
PROBE = "rehearsal.probe"
WAIT = "mesh.wait"


@dataclass(frozen=True, slots=True)
class Cost:
    """Seconds of one task, beyond its handler: `alone_s` from its being asked for to its end; `gap_s` from there until its flow asks for
    what comes next. 0: nobody knows."""

    alone_s: float = 0.0
    gap_s: float = 0.0


def cost_of(rows: Iterable[Document], slots: int) -> Cost:
    """Where there was room. `rows`: as `mesh tasks` has them."""
    rows = [row for row in rows if row["durable"]]
    flows = {row["task"] for row in rows if row["capability"] == FLOW}
    parents = {row["parent"] for row in rows}
    leaves = [row for row in rows if row["task"] not in parents and row["capability"] != WAIT]
    events = [(-row["age_ms"], 1, row) for row in leaves] + [(row["took_ms"] - row["age_ms"], 0, row) for row in leaves]
    alone, gaps, live = [], [], 0
    ended: dict[str, int] = {}
    for at_ms, begins, row in sorted(events, key=lambda event: event[:2]):
        parent = row["parent"]
        if begins and live < QUIET * slots and row["state"] == "done" and row["service_ms"] and row["attempts"] <= 1:
            alone.append((row["took_ms"] - row["service_ms"]) / 1000)
            if parent in flows and parent in ended:
                gaps.append((at_ms - ended[parent]) / 1000)
        if not begins:
            ended[parent] = at_ms
        live += 1 if begins else -1
    return Cost(_middle(alone), _middle(gaps))


def _middle(found: list[float]) -> float:
    newest = found[-NEWEST:]
    return max(0.0, median(newest)) if len(newest) >= QUIET_MIN else 0.0


def learned(load: Load) -> Model:
    """The model of a load, with what the mesh cost then, as its own tasks say; what it was before where they do not."""
    rows = [asdict(job) | {"age_ms": -job.at_ms} for job in load.jobs if job.took_ms >= 0]
    slots = sum(crew.slots for node in load.model.nodes for crew in node.crews)
    cost = cost_of(rows, slots)
    return replace(load.model, alone_s=cost.alone_s, gap_s=cost.gap_s) if cost.alone_s else load.model


def calibrated(model: Model) -> Model:
    """With overheads as they were measured, if they were."""
    cost = Cost(model.alone_s, model.gap_s)
    if not cost.alone_s:
        return model
    usual = _usual(min(len(model.nodes), NODES))
    factor = (cost.alone_s + cost.gap_s) / (usual.alone_s + (usual.gap_s if cost.gap_s else 0.0))
    overheads = model.overheads.times(min(max(factor, FACTORS[0]), FACTORS[1]))
    return replace(model, overheads=overheads, alone_s=0.0, gap_s=0.0)


def _usual(nodes: int) -> Cost:
    """The same of a rehearsal with the usual overheads."""
    steps = [Step(f"s{number}", PROBE, needs=(f"s{number - 1}",) if number else ()) for number in range(LENGTH)]
    made = rehearsable(Flow("probe", tuple(steps)), {}, Wishes({}))
    places = tuple(Node(f"n{number}", (Crew(),), warm=True) for number in range(nodes))
    outcome = rehearse_flow(made, Model(places, (Capability(PROBE, always(HANDLER_S)),), Overheads()), 1)
    works = [work for work in outcome.works if work.capability == PROBE]
    alone_s = median(work.finished_s - work.submitted_s - work.ran_s for work in works)
    return Cost(alone_s, median(later.submitted_s - work.finished_s for work, later in pairwise(works)))
