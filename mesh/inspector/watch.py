"""Watch: status, nodes, caps, tasks, task, why, lineage, blame."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from mesh.client import Mesh
from mesh.files import sha256_of
from mesh.ids import award_number, short
from mesh.inspector import lineage as lineage_view
from mesh.inspector import why as why_view
from mesh.inspector.render import clean, seconds, table
from mesh.inspector.shell import HomeOption, JsonOption, NodeOption, WatchOption, Where, ask

TaskArgument = Annotated[str, typer.Argument(help="A task id, as `submit` or `tasks` print it.", show_default=False)]


def status(home: HomeOption = None, node: NodeOption = None, as_json: JsonOption = False, watch: WatchOption = False) -> None:
    """This node: health first, each finding with the command that helps. Exit 6 when degraded."""
    ask(Where(home, node, as_json), Mesh.status, _show_status, watch=watch, exit_code=lambda document: 0 if document["healthy"] else 6)


def _show_status(document: dict[str, Any]) -> str:
    lines = [f"{clean(document['node'])}  {short(document['id'])}  pid {document['pid']}  {clean(document['addr'])}  mesh {clean(document['mesh'])}"]
    lines += [f"! {clean(finding['message'])}\n  try: {clean(finding['fix'])}" for finding in document["findings"]]
    workers = ", ".join(f"{clean(worker['agent'])} (pid {worker['pid']})" for worker in document["workers"]) or "none: mesh run FILE"
    lines.append(f"workers  {workers}")
    counts = document["nodes"]
    lines.append("nodes    " + ", ".join(f"{count} {state}" for state, count in counts.items() if count))
    tasks = document["tasks"]
    lines.append("tasks    " + (", ".join(f"{count} {state}" for state, count in tasks.items() if count) or "none"))
    journal = document["journal"]
    lines.append(f"journal  {journal['entries']} entries, synced to {journal['synced']}")
    return "\n".join(lines)


def nodes(home: HomeOption = None, node: NodeOption = None, as_json: JsonOption = False, watch: WatchOption = False) -> None:
    """Every node this one knows, dead and left ones too."""
    ask(Where(home, node, as_json), Mesh.nodes, _show_nodes, watch=watch)


def _show_nodes(document: dict[str, Any]) -> str:
    rows = [
        ("* " + n["name"] if n["self"] else "  " + n["name"], short(n["id"]), n["state"], n["addr"], ",".join(n["caps"]) or "-", seconds(n["seen_ms"]))
        for n in document["nodes"]
    ]
    return table(("  NODE", "ID", "STATE", "ADDR", "CAPS", "SEEN"), rows, empty="no nodes known yet; start one: mesh up")


def caps(home: HomeOption = None, node: NodeOption = None, as_json: JsonOption = False, watch: WatchOption = False) -> None:
    """What can be called, and who offers it."""
    ask(Where(home, node, as_json), Mesh.caps, _show_caps, watch=watch)


def _show_caps(document: dict[str, Any]) -> str:
    rows = [(c["capability"] + c["signature"], ",".join(c["offered_by"]), seconds(c["service_ms"] or None), c["doc"]) for c in document["caps"]]
    return table(("CAPABILITY", "OFFERED BY", "TAKES", "DOES"), rows, empty="nobody offers anything yet; run an agent: mesh run FILE.py")


def tasks(home: HomeOption = None, node: NodeOption = None, as_json: JsonOption = False, watch: WatchOption = False) -> None:
    """Tasks of the whole mesh, newest first."""
    ask(Where(home, node, as_json), Mesh.tasks, _show_tasks, watch=watch)


def _show_tasks(document: dict[str, Any]) -> str:
    rows = [
        (short(t["task"]), t["capability"], t["state"], f"{t['agent']}@{t['owner']}" if t["agent"] else t["owner"] or "-", seconds(t["age_ms"]), t["attempts"], _note(t))
        for t in document["tasks"]
    ]
    text = table(("TASK", "CAPABILITY", "STATE", "OWNER", "AGE", "TRIES", "NOTE"), rows, empty="no tasks; submit one: mesh submit CAPABILITY name=value")
    missing = document.get("missing") or []
    return text + (f"\nnot answering, so their tasks are not shown: {clean(', '.join(missing))}" if missing else "")


def _note(task: dict[str, Any]) -> str:
    if task.get("progress"):
        return f"{100 * task['progress']:.0f} % {task['note']}"
    return f"step {task['step']}" if task.get("step") and not task.get("reason") else task.get("reason") or ""


def task(task: TaskArgument, home: HomeOption = None, node: NodeOption = None, as_json: JsonOption = False, watch: WatchOption = False) -> None:
    """One task: where it stands and who has it."""
    ask(Where(home, node, as_json), lambda mesh: mesh.task(task), _show_task, watch=watch)


def _show_task(document: dict[str, Any]) -> str:
    keys = ("task", "capability", "state", "owner", "agent", "fence", "attempts", "parent", "step", "by", "survives", "reason")
    shown = {**document, "fence": f"{document['fence']} (award {award_number(document['fence'])})" if document["fence"] else "", "age": seconds(document["age_ms"])}
    return "\n".join(f"{key:<11}{clean(shown[key])}" for key in (*keys, "age") if shown.get(key))


def why(task: TaskArgument, home: HomeOption = None, node: NodeOption = None, as_json: JsonOption = False) -> None:
    """Every bid, refusal and the rule that chose, from the journal, recomputed. Exit 1 if the recomputation disagrees."""

    async def action(mesh: Mesh) -> dict[str, Any]:
        story = await mesh.story(task)
        return why_view.explain(story["task"], story["entries"])

    ask(Where(home, node, as_json), action, why_view.show, exit_code=lambda document: 0 if document["agrees"] else 1)


def lineage(
    what: Annotated[str, typer.Argument(help="A task id, a file's sha256, or the path of a file.", show_default=False)],
    home: HomeOption = None,
    node: NodeOption = None,
    as_json: JsonOption = False,
) -> None:
    """From which inputs it came, back to the source, every record verified. Exit 1 if a record does not verify."""
    ask(Where(home, node, as_json), lambda mesh: lineage_view.trace(mesh, what), lineage_view.show, exit_code=lambda document: 0 if document["verified"] else 1)


def blame(
    file: Annotated[Path, typer.Argument(help="A file on this machine.", show_default=False)],
    home: HomeOption = None,
    node: NodeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Who made this file: the task, the agent and the node, from which inputs. Exit 1 if nobody here did."""
    ask(Where(home, node, as_json), lambda mesh: lineage_view.blame(mesh, file, sha256_of(file)), lineage_view.show_blame, exit_code=lambda document: 0 if document["made_by"] else 1)
