"""What is wrong with a round, judged from outside: what handlers wrote, what two nodes answer, the record, a verifier of its own."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

from kills_judge import effects, runs

from killing.arena import Arena
from killing.works import Work
from mesh.ids import term_of
from mesh.inspector import lineage

VERIFY = Path(__file__).parents[1] / "verify"


async def wrong_with(arena: Arena, work: Work) -> list[str]:
    """Once the mesh is whole again."""
    arena.read()
    rows = await tree(arena, work)
    found = await ends(arena, work)
    fences = {task: row["fence"] for task, row in rows.items() if row["state"] == "done" and task in arena.ledger.starts}
    found += [f"{task} ({name(rows, task)}): {what}" for task, what in runs(arena.ledger, fences).items()]
    found += [f"{task} ({name(rows, task)}): {what}" for task, what in effects(arena.ledger, work.effects).items()]
    found += again(arena, rows)
    found += await record(arena, work)
    found += await journals(arena)
    for log in sorted(arena.folder.glob("*.log")):
        if "Traceback" in log.read_text(errors="replace"):
            found.append(f"{log.name}: a process ended by a defect")
    return found


def name(rows: dict[str, Any], task: str) -> str:
    return str(rows[task]["step"] or rows[task]["capability"]) if task in rows else "?"


async def tree(arena: Arena, work: Work) -> dict[str, Any]:
    """The rows of this round's tasks, the newest that any node tells."""
    for node in arena.names:
        for row in (await arena.ask(lambda m: m.tasks(), node))["tasks"]:
            arena._note(row)
    return {task: row for task, row in arena.rows.items() if task in work.roots or row["parent"] in work.roots}


async def ends(arena: Arena, work: Work) -> list[str]:
    """Two nodes tell one end of each task that was acknowledged."""
    found = []
    for task in work.roots:
        said = [await arena.result(task, node) for node in arena.names[:2]]
        if (said[0]["state"], said[0].get("result")) != (said[1]["state"], said[1].get("result")):
            found.append(f"{task}: two nodes tell two ends: {said}")
    return found


def again(arena: Arena, rows: dict[str, Any]) -> list[str]:
    """Runs that began after somebody outside had been told that the task is done, and ends that are others than was told."""
    found = []
    for task, (done_s, fence) in arena.done.items():
        if task not in rows:
            continue
        late = [start.at_s - done_s for start in arena.ledger.starts.get(task, ()) if start.at_s > done_s]
        found += [f"{task} ({name(rows, task)}) was done {each:.3f} s before it ran again" for each in late]
        if rows[task]["fence"] != fence:
            found.append(f"{task} ({name(rows, task)}) was done under fence {fence}, and then under {rows[task]['fence']}")
    return found


def term(entry: dict[str, Any]) -> tuple[str, int]:
    """The task, and the term under which the entry was written: what its manager had alone on his disk when he died counts for nobody."""
    return entry["task"], term_of(entry["fence"])


async def record(arena: Arena, work: Work) -> list[str]:
    """The lineage of each task verifies, no work is given away after its end, and whoever was told that his answer counts is on record."""
    found, words = [], {}
    for task in work.roots:
        entries = (await arena.ask(lambda m: m.story(task), what=f"the story of {task}"))["entries"]  # noqa: B023  awaited here
        if not lineage.document(task, entries)["verified"]:
            found.append(f"{task}: its lineage does not verify")
        ends: dict[tuple[str, int], int] = {}
        for entry in entries:
            if entry["kind"] == "Finished" and ends.setdefault(term(entry), entry["fence"]) != entry["fence"]:
                found.append(f"{entry['task']}: ended under two fences of one term, by the record")
            elif entry["kind"] == "Answered":
                words[entry["task"], entry["node"]] = entry["approve"] if entry["verified"] else None
        given = [entry for entry in entries if entry["kind"] == "Decided" and entry["fence"] > ends.get(term(entry), entry["fence"])]
        found += [f"{entry['task']}: was given to somebody after its end, by the record" for entry in given]
    for gate, node, approve in work.said:
        if words.get((gate, arena.ids[node])) is not approve:
            found.append(f"{gate}: the answer of {node} was acknowledged, and on record is {words.get((gate, arena.ids[node]), 'none')}")
    return found


async def journals(arena: Arena) -> list[str]:
    """Every node's journal, by itself and by `scripts/verify`."""
    found, files = [], []
    for node in arena.names:
        file = arena.folder / f"{node}.export"
        own = await arena.ask(lambda m: m.verify(export=file), node, what=f"verify {node}")  # noqa: B023  awaited here
        files.append(str(file))
        if not own["ok"]:
            found.append(f"the journal of {node} does not verify: {own['problem']}")
    process = await asyncio.create_subprocess_exec(sys.executable, str(VERIFY), *files, stdout=-1, stderr=-2)
    out, _ = await process.communicate()
    return found + ([f"scripts/verify: {out.decode().strip()}"] if process.returncode else [])
