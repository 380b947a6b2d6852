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
from mesh.inspector.render import clean, tree

HASH_DIGITS = 64


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
            raise NoSuchFile(f"no task here read or made {what}", fix="mesh tasks")
        task = makers[0]["task"]
    else:
        task, goal = what, ""
    story = await mesh.story(task)
    return document(story["task"], story["entries"], goal)


def document(task: str, entries: list[dict[str, Any]], goal: str = "") -> dict[str, Any]:
    """Every task in the story as a node, every file and value that passed between them as an edge."""
    tasks = _tasks(entries)
    made = {file: row["task"] for row in tasks.values() for file in [*row["files_out"], row["output"]] if file}
    return {
        "schema": "mesh.lineage/1",
        "task": task,
        "goal": goal,
        "tasks": list(tasks.values()),
        "made_by": made,
        "sources": _sources(entries),
        "entries": len(entries),
        "verified": bool(tasks) and all(entry["verified"] for entry in entries),
    }


def _sources(entries: list[dict[str, Any]]) -> list[str]:
    """Files that were there before any task in the story had made them. By order, since a step may hand on the very bytes it was given."""
    made: set[str] = set()
    sources: dict[str, None] = {}
    for entry in sorted(entries, key=lambda entry: (entry["author"], entry["seq"])):
        if entry["kind"] == "Submitted":
            sources.update((file, None) for file, _ in entry["files"] if file not in made)
        elif entry["kind"] == "Finished":
            made.update(file for file, _ in entry["files"])
    return list(sources)


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
                "lost": [],
            }
    for entry in entries:
        row = tasks.get(entry.get("task", ""))
        if row is None:
            continue
        if entry["kind"] == "Decided":
            row["attempts"] += 1
        elif entry["kind"] == "Lost":
            row["lost"].append({"node": entry["node"], "reason": entry["reason"]})
        elif entry["kind"] == "Finished":
            row |= {"state": entry["state"], "agent": entry["agent"], "output": entry["output"], "node": _name(entry["node"], entries)}
            row["files_out"] = [file for file, _ in entry["files"]]
    return tasks


def _name(node: str, entries: list[dict[str, Any]]) -> str:
    """The node's name as the decisions recorded it."""
    for entry in entries:
        for candidate in entry.get("candidates", ()):
            if candidate["node"] == node:
                return str(candidate["name"])
    return node


def show(document: dict[str, Any]) -> str:
    tasks = {row["task"]: row for row in document["tasks"]}
    lines: list[tuple[int, str]] = []
    _branch(document["task"], tasks, 0, lines)
    for source in document["sources"]:
        lines.append((0, f"source  sha256 {source}"))
    verdict = "every entry's signature and inclusion proof verified" if document["verified"] else "NOT VERIFIED"
    return tree(lines) + f"\nrecord: {document['entries']} entries, {verdict}"


def _branch(task: str, tasks: dict[str, dict[str, Any]], depth: int, lines: list[tuple[int, str]]) -> None:
    row = tasks.get(task)
    if row is None:
        return
    who = f"{row['agent']}@{row['node']}" if row["agent"] else row["node"] or "nobody yet"
    again = f", award {row['attempts']}" if row["attempts"] > 1 else ""
    lines.append((depth, f"{row['step'] or row['capability']}  {row['capability']}  {row['state']} by {who}{again}  {short(task)}"))
    lines.extend((depth + 1, f"in   sha256 {file}") for file in row["files_in"])
    lines.extend((depth + 1, f"out  sha256 {file}") for file in row["files_out"])
    for child in tasks.values():
        if child["parent"] == task:
            _branch(child["task"], tasks, depth + 1, lines)


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
        used = f"; read by {', '.join(short(task) for task in document['used_by'])}" if document["used_by"] else ""
        return f"{head}\nno task in reach made it{used}"
    lines = [f"made by {clean(row['agent'])}@{clean(row['node'])} as {clean(row['capability'])}, task {short(row['task'])}"]
    lines += [f"from sha256 {file}" for file in row["files_in"]]
    lines.append("record: " + ("verified" if document["verified"] else "NOT VERIFIED"))
    return "\n".join([head, *lines])
