"""What the mesh knows of flows: the flow behind a task, what became of its steps, and which flows there are. For `flow.py`."""

from __future__ import annotations

import asyncio
import json
import re
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mesh.client import Mesh
from mesh.errors import MeshError, NoSuchTask, UsageError
from mesh.flows import offers
from mesh.flows.checks import checked
from mesh.flows.control import SIGNAL
from mesh.flows.expressions import ExpressionError, is_expression, value_of
from mesh.flows.patching import patched
from mesh.flows.problems import FlowError, line_about
from mesh.flows.reading import Text, flow_from, read_file
from mesh.flows.record import ENDED, told
from mesh.flows.replay import LEFT, Child, Record
from mesh.flows.spec import FLOW, Document, Flow
from mesh.inspector import trace
from mesh.inspector.outlived import standing

TASK = re.compile(r"[a-z2-7]{4,32}\.[0-9]+\.[0-9]+")
BODIES_AT_ONCE = 32
"""Questions for arguments and results, which may be on any node."""
NAMED_MAX = 20
"""Flows of a list whose names are looked up: each is a question to its manager and one for its arguments."""


@dataclass(frozen=True, slots=True)
class Run:
    """A flow that was started: its task's row, the flow and its input as they were handed in, its children, its result."""

    row: Document
    flow: Flow
    given: Document
    children: list[Document]
    entries: list[Document]
    result: Any
    started: Flow
    """As it was handed in, before anybody patched it."""
    paused: bool = False

    @property
    def steps(self) -> list[Document]:
        return told(self.flow, self.children, str(self.row["state"]), self.result)


def read(path: str) -> tuple[Flow, Text]:
    """The flow of a file, checked by itself, and its text. Raises UsageError, which tells every problem with file and line."""
    try:
        flow, source = read_file(path)
        return checked(flow, source), source
    except FlowError as error:
        raise _several(error) from error


def fitting(flow: Flow, source: Text, caps: Document) -> list[str]:
    """What nobody offers now, in words. Raises UsageError for what fits nobody who does, as `read`."""
    problems, ids = offers.check(flow, caps), tuple(step.id for step in flow.steps)
    if wrong := [problem for problem in problems if not problem.warning]:
        raise _several(source.error(*wrong, ids=ids))
    return [line_about(problem, source.name, source.line_of(problem.where), ids) for problem in problems]


def _several(error: FlowError) -> UsageError:
    """The same with a line for each of its problems, where there are several."""
    lines = error.message.split("\n")
    if len(lines) == 1:
        return error
    told_all = UsageError(f"{error.file}: {len(error.problems)} problems", fix=error.fix, code=error.code)
    told_all.details = error.message  # type: ignore[attr-defined]
    return told_all


def with_widths(flow: Flow, given: Document) -> Flow:
    """With the lists of maps that depend on the input alone written out: how wide they are is known before anything runs."""
    scope = {"input": given, "steps": {}, "flow": {"name": flow.name, "id": "", "version": flow.version, "hash": ""}}
    steps = []
    for step in flow.steps:
        if is_expression(step.map):
            try:
                items = value_of(step.map, scope)
            except ExpressionError:  # it depends on results, which are not there yet
                items = None
            step = replace(step, map=items) if isinstance(items, list) else step
        steps.append(step)
    return replace(flow, steps=tuple(steps))


def is_task(what: str) -> bool:
    """Whether this is the id of a task, and no file."""
    return TASK.fullmatch(what) is not None and not Path(what).exists()


async def flow_task(mesh: Mesh, task: str) -> str:
    """The full id of a flow's task. Raises NoSuchTask, UsageError for a task that is no flow."""
    return str((await _row(mesh, task))["task"])


async def _row(mesh: Mesh, task: str) -> Document:
    row = await mesh.task(task)
    if row["capability"] != FLOW:
        raise UsageError(f"{task} is no flow: it is work of {row['capability']}", fix=f"mesh task {task}")
    return row


async def run_of(mesh: Mesh, task: str) -> Run:
    """Everything about one flow. Raises NoSuchTask, UsageError for a task that is no flow."""
    row = await _row(mesh, task)
    full = str(row["task"])
    story = await mesh.story(full)
    arguments = await _arguments(mesh, full, story["entries"])
    result = (await mesh.result(full))["result"] if row["state"] == "done" else None
    children = await _children(mesh, full, story["entries"])
    started = flow_from(arguments["spec"])
    flow = await _as_patched(mesh, started, full, story["entries"])
    paused = row["state"] not in ENDED and await _paused(mesh, children, story["entries"])
    return Run(row, flow, arguments.get("input") or {}, children, story["entries"], result, started, paused)


async def _paused(mesh: Mesh, children: list[Document], entries: list[Document]) -> bool:
    """What the newest signal said that its driver has taken."""
    signals = {row["task"] for row in children if row["step"].startswith(f"signal/{SIGNAL}/")}
    for entry in reversed(entries):
        if entry["kind"] == "Finished" and entry["task"] in signals and entry["state"] == "done":
            said = json.loads(await mesh.body(entry["output"]))
            if isinstance(said, dict) and said.get("do") in ("pause", "resume"):
                return bool(said["do"] == "pause")
    return False


async def _as_patched(mesh: Mesh, flow: Flow, task: str, entries: list[Document]) -> Flow:
    """As it is now: with every change that its driver has put on record as taken."""
    for entry in entries:
        if entry["kind"] == "Effected" and entry["task"] == task and ": taken, version " in entry["key"]:
            outcome = json.loads(await mesh.body(entry["output"]))
            flow, _ = patched(flow, outcome["patch"], lambda _step: False)
    return flow


async def _children(mesh: Mesh, task: str, entries: list[Document]) -> list[Document]:
    """The steps' tasks from the record; how those stand that have not ended, their manager says."""
    live = {row["task"]: row for row in (await mesh.tasks())["tasks"] if row["parent"] == task}
    found = []
    for row in trace.document(task, entries, int(time.time() * 1000))["rows"]:
        if row["parent"] != task:
            continue
        now = live.get(row["task"])
        found.append(
            {
                "step": row["step"],
                "task": row["task"],
                "capability": row["capability"],
                "state": row["state"] if now is None or row["state"] == "done" else now["state"],
                "nodes": [one["node"] for one in row["attempts"]],
                "attempts": max(len(row["attempts"]), now["attempts"] if now else 0),
                "reason": "" if now is None else now["reason"],
                "begin_ms": row["submitted_ms"],
                "end_ms": row["end_ms"],
            }
        )
    return found


async def _arguments(mesh: Mesh, task: str, entries: list[Document]) -> Document:
    submitted = next((entry for entry in entries if entry["kind"] == "Submitted" and entry["task"] == task), None)
    if submitted is None:
        raise NoSuchTask(f"what is in reach of the record of {task} does not tell how it began", fix="mesh nodes")
    found = json.loads(await mesh.body(submitted["input"]))
    return found if isinstance(found, dict) and isinstance(found.get("spec"), dict) else {"spec": {}}


async def record_of(mesh: Mesh, run: Run) -> Record:
    """What its driver was given, and what came of it."""
    room = asyncio.Semaphore(BODIES_AT_ONCE)

    async def value(sha256: str) -> Any:
        async with room:
            return json.loads(await mesh.body(sha256)) if sha256 else None

    task = str(run.row["task"])
    newest = {
        (entry["kind"], entry["task"]): entry
        for entry in standing(run.entries)
        if entry["kind"] in ("Submitted", "Finished", "Checkpointed")
    }

    left = {entry["task"] for entry in run.entries if entry["kind"] == "CancelAsked" and entry["by"] == task}

    async def child(row: Document) -> Child:
        submitted, ended = newest["Submitted", row["task"]], newest.get(("Finished", row["task"]), {})
        arguments, result = await asyncio.gather(value(submitted["input"]), value(ended.get("output", "")))
        error = json.loads(ended["error"]) if ended.get("error") else None
        state = LEFT if row["task"] in left else str(ended.get("state") or row["state"])
        return Child(row["task"], row["capability"], state, arguments, result, error)

    found = await asyncio.gather(*map(child, run.children))
    outcomes = [entry for entry in run.entries if entry["kind"] == "Effected" and entry["task"] == task and entry["output"]]
    effects = await asyncio.gather(*(value(entry["output"]) for entry in outcomes))
    kept = await value(newest["Checkpointed", task]["output"]) if ("Checkpointed", task) in newest else None
    names = (row["step"] for row in run.children)
    known = {one["key"]: each for one, each in zip(outcomes, effects, strict=True)}
    return Record(task, dict(zip(names, found, strict=True)), known, kept, run.paused, tuple(newest["Submitted", task].get("pins") or ()))


async def flows(mesh: Mesh) -> Document:
    """Every flow of the mesh, newest first, the newest with their names."""
    answer = await mesh.tasks()
    rows = [row for row in answer["tasks"] if row["capability"] == FLOW]
    names = await asyncio.gather(*(_name(mesh, row["task"]) for row in rows[:NAMED_MAX]))
    asking = _asking(answer["tasks"])
    steps: dict[str, list[str]] = {}
    for row in answer["tasks"]:
        steps.setdefault(row["parent"], []).append(row["state"])
    found = [
        {
            "task": row["task"],
            "flow": names[i] if i < len(names) else "",
            "state": row["state"],
            "driver": row["owner"],
            "progress": row["progress"],
            "note": row["note"] or row["reason"],
            "parked": sum(state == "parked" for state in steps.get(row["task"], ())),
            "asks": row["task"] in asking,
            "age_ms": row["age_ms"],
            "tries": row["attempts"],
            "parent": row["parent"],
        }
        for i, row in enumerate(rows)
    ]
    return {"flows": found, "missing": answer["missing"]}


def _asking(rows: list[Document]) -> set[str]:
    """The tasks that a gate waits in, in them or in what they have asked for."""
    parents, found = {row["task"]: row["parent"] for row in rows}, set()
    for row in rows:
        task = row["parent"] if row["state"] == "waiting" and row["step"].startswith("gate/") else ""
        while task and task not in found:
            found.add(task)
            task = parents.get(task, "")
    return found


async def _name(mesh: Mesh, task: str) -> str:
    """ "" where nobody in reach can tell."""
    try:
        arguments = await _arguments(mesh, task, (await mesh.story(task, pages=1))["entries"])
    except MeshError:
        return ""
    return str(arguments["spec"].get("flow") or "")
