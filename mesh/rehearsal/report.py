"""What rehearsals of one thing, by several seeds, say together: the ``mesh.sim`` document.

makespan    median, least and greatest of all seeds; everything else is of the seed in the middle
critical    back from what ended last, to what it was asked for after, and so on: what would have to be quicker
nodes       the share of its slots' time in which it worked
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from statistics import fmean, median
from typing import Any

from mesh.flows.spec import FLOW, Flow
from mesh.rehearsal.ledger import Work
from mesh.rehearsal.model import GATE, Model
from mesh.rehearsal.outcome import Outcome

Document = dict[str, Any]
SLACK_S = 0.001
PATH_MAX = 1000
WAIT = "mesh.wait"


def reported(outcomes: Sequence[Outcome], model: Model, flow: Flow | None = None) -> Document:
    """Without ``schema`` and what only the caller knows."""
    ordered = sorted(outcomes, key=lambda one: (one.state != "done", one.makespan_s))
    middle = ordered[(len(ordered) - 1) // 2]
    spans = [one.makespan_s for one in outcomes]
    bad = next((one for one in ordered if one.state != "done"), None)
    works = [work for work in middle.works if work.capability not in (FLOW, WAIT)]
    return {
        "state": bad.state if bad is not None else "done",
        "error": bad.error if bad is not None else "",
        "failed": middle.failed + sum(work.state == "failed" for work in works if work.parent),
        "seeds": [one.seed for one in outcomes],
        "makespan_ms": {"median": _ms(median(spans)), "least": _ms(min(spans)), "most": _ms(max(spans))},
        "tasks": len(works),
        "capabilities": _capabilities(works, middle, model),
        "nodes": _nodes(works, middle),
        "critical": [_row(work) for work in critical(middle, flow)],
        "parked": _reasons(works, lambda work: work.parked),
        "lost": _reasons(works, lambda work: work.lost),
        "unknown": [one.name for one in model.capabilities if one.service is None and _asked(works, one.name) and flow is not None],
        "events": sum(one.events for one in outcomes),
    }


def _ms(seconds: float) -> float:
    return round(1000 * seconds, 1)


def _asked(works: list[Work], capability: str) -> bool:
    return any(work.capability == capability for work in works)


def _capabilities(works: list[Work], outcome: Outcome, model: Model) -> list[Document]:
    rows = []
    for name in dict.fromkeys(work.capability for work in works):
        mine = [work for work in works if work.capability == name]
        waits = sorted(work.waited_s for work in mine if work.spells) or [0.0]
        ran = [work.ran_s for work in mine if work.spells] or [0.0]
        slots = sum(crew.slots for node in model.nodes for crew in node.crews if model.capability(name) in model.offered(crew))
        rows.append(
            {
                "capability": "people" if name == GATE else name,
                "tasks": len(mine),
                "runs": sum(len(work.spells) for work in mine),
                "wait_ms": {"mean": _ms(fmean(waits)), "p95": _ms(waits[int(0.95 * (len(waits) - 1))]), "most": _ms(waits[-1])},
                "run_ms": {"mean": _ms(fmean(ran)), "most": _ms(max(ran))},
                "slots": slots,
                "busy": _share(sum(ran), slots * outcome.makespan_s),
            }
        )
    return rows


def _share(part: float, whole: float) -> float:
    return round(part / whole, 4) if whole > 0 else 0.0


def _nodes(works: list[Work], outcome: Outcome) -> list[Document]:
    busy: dict[str, float] = dict.fromkeys(outcome.slots, 0.0)
    runs: Counter[str] = Counter()
    for work in works:
        for spell in work.spells if work.capability != GATE else ():
            busy[spell.node] += max(0.0, min(spell.ended_s, outcome.makespan_s) - spell.began_s)
            runs[spell.node] += 1
    return [
        {"node": name, "slots": slots, "runs": runs[name], "busy": _share(busy[name], slots * outcome.makespan_s)}
        for name, slots in outcome.slots.items()
    ]


def critical(outcome: Outcome, flow: Flow | None) -> list[Work]:
    """From the first to the last: each was asked for when the one before it had ended. In a flow that is one of its needs, or of the same
    step, whose places it waited for."""
    ended = [work for work in outcome.works if work.finished_s >= 0 and work.capability not in (FLOW, WAIT)]
    by_end = sorted(ended, key=lambda work: (work.finished_s, work.task))
    path: list[Work] = []
    while by_end and len(path) < PATH_MAX:
        last = path[-1] if path else None
        near = [work for work in by_end if last is None or _before(work, last, flow)]
        if not near:
            break
        path.append(near[-1])
        by_end = [work for work in by_end if work is not near[-1] and work.finished_s <= near[-1].submitted_s + SLACK_S]
    return path[::-1]


def _before(work: Work, later: Work, flow: Flow | None) -> bool:
    if work.parent != later.parent:
        return False
    step = flow.step(_step_of(later)) if flow is not None else None
    return step is None or _step_of(work) in (step.id, *step.needs)


def _step_of(work: Work) -> str:
    return work.step.partition("[")[0].partition("#")[0].partition("/")[0].partition("@")[0]


def _row(work: Work) -> Document:
    return {
        "step": work.label or work.step or work.task,
        "capability": "people" if work.capability == GATE else work.capability,
        "node": work.spells[-1].node if work.spells else "",
        "at_ms": _ms(work.submitted_s),
        "waited_ms": _ms(work.waited_s),
        "ran_ms": _ms(work.ran_s),
        "ended_ms": _ms(work.finished_s),
    }


def _reasons(works: list[Work], of: Callable[[Work], list[str]]) -> list[Document]:
    counts = Counter((work.capability, reason) for work in works for reason in of(work))
    return [{"capability": name, "reason": reason, "times": times} for (name, reason), times in counts.most_common()]
