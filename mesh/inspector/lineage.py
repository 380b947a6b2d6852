"""Lineage for people: from a task or a file back to its sources, each step with who did it and whether its record verifies.

Works on story entries alone (see `Mesh.story`): `Submitted` names what went in, `Finished` what came out. A file is named by its sha256,
so `sha256sum` checks it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mesh.client import Mesh
from mesh.errors import NoSuchFile
from mesh.files import sha256_of
from mesh.ids import short
from mesh.inspector.effects import effects_of, mark
from mesh.inspector.outlived import standing
from mesh.inspector.render import clean, table

HASH_DIGITS = 64
ENDED = ("done", "failed", "cancelled")


async def trace(mesh: Mesh, what: str) -> dict[str, Any]:
    """The ``lineage`` document of a task id, a sha256 or a path. Raises NoSuchFile, naming what to try."""
    goal = what
    path = Path(what)
    if path.is_file():
        goal = sha256_of(path)
    if len(goal) == HASH_DIGITS and all(digit in "0123456789abcdef" for digit in goal):
        found = await mesh.find(goal)
        makers = [row for row in found["tasks"] if row["as"] != "input"] or found["tasks"]
        if not makers:
            raise NoSuchFile(f"no task in reach read or made {what}", fix="mesh tasks")
        task = makers[0]["task"]
    else:
        task, goal = what, ""
    story = await mesh.story(task)
    asked = story["task"]
    while parent := _parent(story):
        # A step is part of a larger story: what it was given was made there.
        story = await mesh.story(parent)
    return document(story["task"], story["entries"], goal or (asked if asked != story["task"] else ""))


def _parent(story: dict[str, Any]) -> str:
    return next((str(entry["parent"]) for entry in story["entries"] if entry["kind"] == "Submitted" and entry["task"] == story["task"]), "")


def document(task: str, entries: list[dict[str, Any]], goal: str = "") -> dict[str, Any]:
    """Every task in the story as a node, every file and value that passed between them as an edge."""
    tasks = _tasks(standing(entries))
    made = {file: row["task"] for row in tasks.values() for file in [*row["files_out"], row["output"]] if file}
    return {
        "schema": "mesh.lineage/1",
        "task": task,
        "goal": goal,
        "tasks": list(tasks.values()),
        "made_by": made,
        "sources": _sources(task, entries),
        "entries": len(entries),
        "verified": bool(tasks) and all(entry["verified"] for entry in entries),
    }


def _sources(task: str, entries: list[dict[str, Any]]) -> list[str]:
    """Files that were there before any task in the story had made them: what it was given itself, and what no task made that had not been
    given those very bytes. Not by order: the entries of a task that was taken over stand in several journals."""
    given: dict[str, list[str]] = {}
    for entry in entries:
        if entry["kind"] == "Submitted":
            given.setdefault(entry["task"], []).extend(file for file, _ in entry["files"])
    ends = [entry for entry in entries if entry["kind"] == "Finished"]
    made = {file for entry in ends for file, _ in entry["files"] if file not in given.get(entry["task"], ())}
    own = given.get(task, [])
    return list(dict.fromkeys([*own, *(file for files in given.values() for file in files if file not in made)]))


def _tasks(entries: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    tasks: dict[str, dict[str, Any]] = {}
    for entry in entries:
        if entry["kind"] == "Submitted":
            tasks[entry["task"]] = {
                "task": entry["task"],
                "capability": entry["capability"],
                "step": entry["step"],
                "parent": entry["parent"],
                "by": entry["by"],
                "input": entry["input"],
                "files_in": [file for file, _ in entry["files"]],
                "files_out": [],
                "output": "",
                "state": "pending",
                "node": "",
                "agent": "",
                "attempts": 0,
                "fence": 0,
                "lost": [],
                "effects": effects_of(entry["task"], entries),
            }
    for entry in entries:
        row = tasks.get(entry.get("task", ""))
        if row is not None:
            _went_on(row, entry, entries)
    return tasks


def _went_on(row: dict[str, Any], entry: dict[str, Any], entries: list[dict[str, Any]]) -> None:
    """By fences, since clocks of several writers may order what they wrote in another way."""
    kind, ended = entry["kind"], row["state"] in ENDED
    if kind == "Decided":
        row["attempts"] += 1
        if not ended and entry["fence"] > row["fence"]:
            agent = next((str(c["agent"]) for c in entry["candidates"] if c["node"] == entry["winner"]), "")
            row |= {"state": "offered", "fence": entry["fence"], "agent": agent, "node": _name(entry["winner"], entries)}
    elif kind == "Lost":
        row["lost"].append({"node": entry["node"], "reason": entry["reason"]})
        if not ended and entry["fence"] == row["fence"]:
            row |= {"state": "pending", "agent": "", "node": ""}
    elif kind == "Finished":
        row |= {"state": entry["state"], "agent": entry["agent"], "output": entry["output"], "node": _name(entry["node"], entries)}
        row["files_out"] = [file for file, _ in entry["files"]]
    elif not ended and kind == "Bound" and (entry["fence"], row["state"]) == (row["fence"], "offered"):
        row["state"] = "held"
    elif not ended and (kind == "CancelAsked" or (kind == "Parked" and not row["node"])):
        row["state"] = "parked" if kind == "Parked" else "cancelling"


def _name(node: str, entries: list[dict[str, Any]]) -> str:
    """The node's name as the decisions recorded it."""
    for entry in entries:
        for candidate in entry.get("candidates", ()):
            if candidate["node"] == node:
                return str(candidate["name"])
    return node


def show(document: dict[str, Any]) -> str:
    """Tasks as an indented table, files as numbers into the list below it."""
    numbers = _numbered(document)
    rows: list[tuple[str, ...]] = []
    _branch(document, document["task"], 0, numbers, rows)
    text = table(("WORK", "CAPABILITY", "BY", "FILES", "STATE", "TASK"), rows, empty="no record of it here")
    lines = [f"{number:>3}  {clean(file)}{_role(file, document)}" for file, number in numbers.items()]
    lines += [
        f"effects of {clean(row['step'] or row['capability'])}: {', '.join(map(mark, row['effects']))}"
        for row in document["tasks"]
        if row.get("effects")
    ]
    verdict = "every signature and inclusion proof holds" if document["verified"] else "NOT VERIFIED"
    return "\n".join([text, "", *lines, f"record: {document['entries']} entries, {verdict}"])


def _numbered(document: dict[str, Any]) -> dict[str, int]:
    """Files in the order in which work used or made them, the sources first."""
    numbers: dict[str, int] = {}
    children = [row for row in document["tasks"] if row["parent"]]
    for row in [*children, *(row for row in document["tasks"] if not row["parent"])]:
        for file in [*(file for file in row["files_in"] if file in document["sources"]), *row["files_in"], *row["files_out"]]:
            numbers.setdefault(file, len(numbers) + 1)
    return numbers


def _role(file: str, document: dict[str, Any]) -> str:
    result: list[str] = next((row["files_out"] for row in document["tasks"] if row["task"] == document["task"]), [])
    held = {"source": file in document["sources"], "result": file in result, "asked for": file == document["goal"]}
    roles = [word for word, holds in held.items() if holds]
    return f"  {', '.join(roles)}" if roles else ""


def _branch(document: dict[str, Any], task: str, depth: int, numbers: dict[str, int], rows: list[tuple[str, ...]]) -> None:
    tasks = document["tasks"]
    row = next((row for row in tasks if row["task"] == task), None)
    if row is None:
        return
    who = f"{row['agent']}@{row['node']}" if row["agent"] else row["node"] or "nobody yet"
    files = f"{_list(row['files_in'], numbers)} -> {_list(row['files_out'], numbers)}" if row["files_in"] or row["files_out"] else ""
    state = row["state"] + (f", {row['attempts']} awards" if row["attempts"] > 1 else "")
    name = (row["step"] or ("task" if not depth else row["capability"])) + (" <" if task == document["goal"] else "")
    rows.append(("  " * depth + name, row["capability"], who, files, state, short(task)))
    for child in tasks:
        if child["parent"] == task:
            _branch(document, child["task"], depth + 1, numbers, rows)


def _list(files: list[str], numbers: dict[str, int]) -> str:
    return ",".join(str(numbers[file]) for file in dict.fromkeys(files)) or "values"


async def blame(mesh: Mesh, path: Path, file_hash: str) -> dict[str, Any]:
    """The ``blame`` document: who made this file. `made_by` is None where no task in reach did."""
    found = await mesh.find(file_hash)
    makers = [row["task"] for row in found["tasks"] if row["as"] != "input"]
    made_by = None
    verified = False
    for task in makers:
        story = await mesh.story(task)
        whole = document(story["task"], story["entries"], file_hash)
        row = next(row for row in whole["tasks"] if row["task"] == story["task"])
        # A parent hands on what its step made: the step is the maker.
        inner = next((child for child in whole["tasks"] if child["parent"] == row["task"] and file_hash in child["files_out"]), row)
        made_by, verified = inner, whole["verified"]
        if row["parent"]:
            break
    used_by = [row["task"] for row in found["tasks"] if row["as"] == "input"]
    return {"schema": "mesh.blame/1", "file": str(path), "sha256": file_hash, "made_by": made_by, "used_by": used_by, "verified": verified}


def show_blame(document: dict[str, Any]) -> str:
    head = f"{clean(document['file'])}\nsha256 {document['sha256']}"
    row = document["made_by"]
    if row is None:
        used = f"; read by {', '.join(clean(short(task)) for task in document['used_by'])}" if document["used_by"] else ""
        return f"{head}\nno task in reach made it{used}"
    lines = [f"made by {clean(row['agent'])}@{clean(row['node'])} as {clean(row['capability'])}, task {clean(short(row['task']))}"]
    lines += [f"from sha256 {clean(file)}" for file in row["files_in"]]
    lines.append("record: " + ("verified" if document["verified"] else "NOT VERIFIED"))
    return "\n".join([head, *lines])
