"""A model of the mesh that runs, and the load that it was under, from `mesh caps --stats`, `mesh nodes` and `mesh tasks`.

    who offers what, with how many slots     caps, per node and agent
    how long it takes there                  the newest tasks on record, per capability; of few on a node, the same shape at its own mean
    how often it fails                       as its nodes say

Asks only what any client may ask; runs nothing. What is not known is not made up: it is named, and counts as nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from statistics import fmean
from typing import Any

from mesh.client import Mesh
from mesh.errors import UsageError
from mesh.flows.spec import FLOW
from mesh.ids import OURS
from mesh.rehearsal.calibrating import cost_of
from mesh.rehearsal.load import Job, Load
from mesh.rehearsal.model import WARM_S, Capability, Crew, Model, Node
from mesh.rehearsal.service import Service, always, measured
from mesh.versions import MARK

Document = dict[str, Any]
PAGES_MAX = 40
OWN_SAMPLES = 8
"""Runs on one node from which on their distribution is its own."""
WAIT = "mesh.wait"
ENDED = ("done", "failed")


async def rows_of(mesh: Mesh) -> list[Document]:
    """Every task that a manager still knows, oldest first."""
    found: dict[str, Document] = {}
    for page in range(PAGES_MAX):
        rows = (await mesh.tasks(skip=500 * page))["tasks"]
        fresh = [row for row in rows if row["task"] not in found]
        found |= {row["task"]: row for row in fresh}
        if not fresh:
            break
    return sorted(found.values(), key=lambda row: -int(row["age_ms"]))


async def model_of(mesh: Mesh, rows: Iterable[Document]) -> Model:
    caps = (await mesh.caps(everything=True, stats=True))["caps"]
    there = [row["name"] for row in (await mesh.nodes())["nodes"] if row["state"] in ("alive", "suspect")]
    found = modelled(caps, there, list(rows))
    return replace(found, policy=(await mesh.policy())["document"])


async def this_mesh(mesh: Mesh) -> Model:
    return await model_of(mesh, await rows_of(mesh))


def modelled(caps: list[Document], names: list[str], rows: list[Document]) -> Model:
    """From the documents alone."""
    caps = [cap for cap in caps if not cap["capability"].startswith(OURS)]
    samples: dict[tuple[str, str], list[float]] = {}
    parents = {row["parent"] for row in rows}
    for row in rows:
        if row["state"] == "done" and row["service_ms"] and row["task"] not in parents and row["attempts"] <= 1:
            samples.setdefault((row["owner"], row["capability"]), []).append(row["service_ms"] / 1000)
    crews: dict[tuple[str, str], Document] = {}
    capabilities = []
    for cap in caps:
        name = cap["capability"]
        pooled = [seconds for (_, what), taken in samples.items() if what == name for seconds in taken]
        means = [model["service_ms"] / 1000 for model in cap["models"] if model.get("service_ms")]
        service = measured(pooled) if pooled else always(fmean(means)) if means else None
        capabilities.append(_capability(cap, service))
        for model in cap["models"]:
            crew = crews.setdefault((model["node"], model["agent"]), {"slots": 0, "offers": [], "labels": (), "takes": [], "resources": []})
            slots = int(model.get("slots") or 0)
            crew["slots"] = max(crew["slots"], slots)
            crew["offers"].append(name)
            kinds = (cap.get("labels") or {}).get(model["node"]) or []
            crew["labels"] = tuple(kinds[0]) if len(kinds) == 1 else crew["labels"]
            if cap["needs"] and slots:
                crew["resources"].append((f"slots.{name}"[:64], 1000 * slots))
            own = samples.get((model["node"], name), [])
            taken = _there(own, service, model.get("service_ms", 0) / 1000)
            if taken is not None:
                crew["takes"].append((name, taken))
    slots = sum(crew["slots"] for crew in crews.values())
    driving = {row["owner"] for row in rows if row["capability"] == FLOW and row["age_ms"] - row["took_ms"] < 1000 * WARM_S}
    nodes = tuple(_node(name, crews, name in driving) for name in names)
    cost = cost_of(rows, slots)
    return Model(nodes, tuple(capabilities), alone_s=cost.alone_s, gap_s=cost.gap_s, came_from="this mesh")


def _there(own: list[float], pooled: Service | None, mean_s: float) -> Service | None:
    """On one node: its own runs, if there are some; else everybody's, as slow as this node says that it is."""
    if len(own) >= OWN_SAMPLES:
        return measured(own)
    if pooled is None or not mean_s:
        return None
    return pooled.times(mean_s / pooled.mean_s()) if pooled.mean_s() else always(mean_s)


def _capability(cap: Document, service: Service | None) -> Capability:
    """A resource that one run needs is told as so many slots: what a machine has of it, it tells nobody."""
    failing = [model["failing"] / 100 for model in cap["models"] if "failing" in model]
    return Capability(
        cap["capability"],
        service,
        fails=fmean(failing) if failing else 0.0,
        retries=int(cap.get("retries") or 0),
        idempotent=bool(cap["idempotent"]),
        limit=int(cap["limit"]),
        rate=int(cap["rate"]),
        rate_ms=int(cap["rate_ms"]),
        needs=((f"slots.{cap['capability']}"[:64], 1000),) if cap["needs"] else (),
        timeout_ms=int(cap.get("timeout_ms") or 0),
    )


def _node(name: str, crews: dict[tuple[str, str], Document], warm: bool) -> Node:
    own = [
        Crew(agent, one["slots"] or Crew().slots, 1.0, tuple(one["offers"]), one["labels"], tuple(one["resources"]), tuple(one["takes"]))
        for (node, agent), one in crews.items()
        if node == name
    ]
    return Node(name, tuple(own), warm)


async def load_of(mesh: Mesh, task: str = "") -> Load:
    """What this mesh has done, as far as its managers know it still; `task`: that one and what is under it. Raises UsageError."""
    rows = await rows_of(mesh)
    names = {row["id"]: row["name"] for row in (await mesh.nodes())["nodes"]}
    model = await model_of(mesh, rows)
    return Load(jobs_of(rows, names, task), model)


def jobs_of(rows: list[Document], names: dict[str, str], task: str = "") -> tuple[Job, ...]:
    """Those that have ended, with all that is above them. Raises UsageError if there are none."""
    known = {row["task"]: row for row in rows if row["state"] in ENDED}
    kept = [row for row in known.values() if _whole(row, known) and (not task or _root(row, known) == task)]
    if not kept:
        what = f"the task {task}" if task else "this mesh"
        raise UsageError(f"of {what} nothing that has ended is on record", fix="mesh tasks; a task that runs is recorded when it has ended")
    first = max(row["age_ms"] for row in kept)
    return tuple(
        Job(
            task=row["task"],
            at_ms=float(first - row["age_ms"]),
            capability=row["capability"],
            service_ms=float(row["service_ms"] or (row["took_ms"] if row["capability"] == WAIT else 0)),
            took_ms=float(row["took_ms"]),
            manager=_manager(row["task"], names),
            node=row["owner"],
            state=row["state"],
            parent=row["parent"],
            step=row["step"],
            priority=0 if row["priority"] == 5 else row["priority"],
            share=row["share"],
            where=tuple(one for one in row["where"] if not one.startswith(MARK)),  # versions are not told apart there
            durable=row["durable"],
            attempts=row["attempts"],
        )
        for row in kept
    )


def _whole(row: Document, known: dict[str, Document]) -> bool:
    while row["parent"]:
        if row["parent"] not in known:
            return False
        row = known[row["parent"]]
    return True


def _root(row: Document, known: dict[str, Document]) -> str:
    while row["parent"]:
        row = known[row["parent"]]
    return str(row["task"])


def _manager(task: str, names: dict[str, str]) -> str:
    author = task.partition(".")[0]
    return next((name for node, name in names.items() if node.startswith(author)), "")
