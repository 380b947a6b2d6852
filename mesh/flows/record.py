"""What became of each step of a flow, from what is on record of its task: the child tasks by their names, and the flow's own result.

    draft   draft[3]   draft#2   draft@2   draft/fallback   draft/undo   gate/draft~4f1c   text.ocr@4f1c...  --> the step each belongs to

Invariant: tells what is written down; of a step that has no task yet it says that it waits, not why. A map or a loop that is under way is
told by what it has asked for so far. Asks nobody: the rows are given.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from mesh.flows.spec import Document, Flow, Step

_NAME = re.compile(r"([A-Za-z][A-Za-z0-9_]*)(?:@[0-9]+)?(?:\[[0-9]+\]|#[0-9]+)?(/fallback|/undo)?")
_GATE = re.compile(r"gate/(undo )?(.+)~[0-9a-f]+")
_CACHED = re.compile(r"(.+)@[0-9a-f]{32}")
ENDED = ("done", "failed", "cancelled")
WORK, FALLBACK, UNDO, GATE = "work", "fallback", "undo", "gate"


def belongs(name: str, flow: Flow) -> tuple[tuple[str, ...], str]:
    """The steps that a child task of this name works for, and what it is to them; none for what is the driver's own."""
    if gate := _GATE.fullmatch(name):
        steps, _ = belongs(gate[2], flow)
        return steps, UNDO if gate[1] else GATE
    if cached := _CACHED.fullmatch(name):
        return tuple(step.id for step in flow.steps if step.cache and step.uses == cached[1]), WORK
    found = _NAME.fullmatch(name)
    if found is None or flow.step(found[1]) is None:
        return (), WORK
    return (found[1],), (found[2] or "/work")[1:]


def told(flow: Flow, rows: Iterable[Document], state: str, result: Any) -> list[Document]:
    """A document for each step.

    ``{"step", "uses", "after", "state", "tasks", "done", "failed", "tries", "nodes", "waits", "degraded", "took_ms"}``.
    `rows` are the child tasks: ``{"step", "state", "nodes", "attempts", "reason", "begin_ms", "end_ms"}``; `state` and `result` those of
    the flow's task (None while it runs). States: waiting, running, parked, asks (a person), done, skipped, failed, unreached, undoing,
    undone, left (nobody waited for it any more), answered (a gate, one way or the other), cancelled.
    """
    mine: dict[str, list[tuple[str, Document]]] = {step.id: [] for step in flow.steps}
    for row in rows:
        steps, part = belongs(str(row["step"]), flow)
        for step in steps:
            mine[step].append((part, row))
    final = result if isinstance(result, dict) else {}
    return [_step(step, mine[step.id], state, final) for step in flow.steps]


def _step(step: Step, rows: list[tuple[str, Document]], state: str, final: Document) -> Document:
    works = [row for part, row in rows if part in (WORK, FALLBACK)]
    spans = [(row["begin_ms"], row["end_ms"]) for _, row in rows]
    return {
        "step": step.id,
        "uses": step.uses or "gate",
        "after": list(step.needs),
        "state": _state(step, rows, state, final),
        "tasks": len(works),
        "done": sum(row["state"] == "done" for row in works),
        "failed": sum(row["state"] in ("failed", "cancelled") for row in works),
        "tries": max((row["attempts"] for row in works), default=0),
        "nodes": list(dict.fromkeys(node for row in works for node in row["nodes"])),
        "waits": next((row["reason"] for _, row in rows if row["reason"] and row["state"] not in ENDED), ""),
        "degraded": any(row["state"] == "done" if part == FALLBACK else _replaced(step, row) for part, row in rows)
        or any(_NAME.sub(r"\1", str(one.get("step"))) == step.id for one in final.get("degraded") or ()),
        "took_ms": max(end for _, end in spans) - min(begin for begin, _ in spans) if spans else 0,
    }


def _state(step: Step, rows: list[tuple[str, Document]], flow: str, final: Document) -> str:
    undone = [row for part, row in rows if part == UNDO and row["state"] == "done"]
    if undone:  # the last word may be a person's, who was asked whether it is; which word that was is told by the flow's error
        return "answered" if all(_asked(row) for row in undone) else "undone"
    for fate in ("skipped", "left"):
        if step.id in (final.get(fate) or ()):
            return fate
    if step.id in (final.get("failed") or ()):
        return "failed" if rows else "unreached"
    live = [(part, row) for part, row in rows if row["state"] not in ENDED]
    if live:
        if any(_asked(row) for _, row in live):
            return "asks"
        if any(part == UNDO for part, _ in live):
            return "undoing"
        return "parked" if all(row["state"] == "parked" for _, row in live) else "running"
    ended = _works(step, rows)
    if not ended:
        return _without_work(step, bool(rows), flow)
    return next((state for state in ("failed", "cancelled") if state in ended), "done")


def _asked(row: Document) -> bool:
    """Whether a person is asked, not work done."""
    return _GATE.fullmatch(str(row["step"])) is not None


def _replaced(step: Step, row: Document) -> bool:
    """Whether this work failed, and a value that the flow names stands for it."""
    return step.fallback is not None and not step.fallback.uses and row["state"] == "failed"


def _works(step: Step, rows: list[tuple[str, Document]]) -> list[str]:
    """How each piece of its work ended; one that failed and was done another way is done."""
    best: dict[str, str] = {}
    for part, row in rows:
        if part in (WORK, FALLBACK):
            name = str(row["step"]).removesuffix("/fallback")
            done = "done" in (best.get(name), row["state"]) or (part == WORK and _replaced(step, row))
            best[name] = "done" if done else str(row["state"])
    return list(best.values())


def _without_work(step: Step, asked: bool, flow: str) -> str:
    """Of a step that has no work of its own on record: a gate alone, one that people have turned down, or one that was never begun."""
    if asked and flow != "done":
        return "failed" if step.uses and flow in ENDED else "answered"
    return {"done": "done", "failed": "unreached", "cancelled": "cancelled"}.get(flow, "waiting")
