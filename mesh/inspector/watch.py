"""Watch: status, nodes, caps, tasks, task, why, trace, lineage, blame."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from mesh.client import Mesh
from mesh.errors import NoSuchFile, NoSuchTask, UsageError
from mesh.ids import PRIORITY_DEFAULT, award_number, short, term_of
from mesh.inspector.effects import award_words, show_effects
from mesh.inspector.render import clean, fit, screen_columns, seconds, table
from mesh.inspector.shell import LOOK_S, HomeOption, JsonOption, LookTimeout, NodeOption, WatchOption, Where, ask
from mesh.inspector.spends import show_budget

TaskArgument = Annotated[str, typer.Argument(metavar="TASK", help="A task id, as `submit` or `tasks` print it.", show_default=False)]

REASONS = {
    "no_capable": "nobody offers it",
    "busy": "all who offer it are busy",
    "breaker_open": "it failed too often where it is offered: those nodes rest a while",
    "not_linked": "no link to who offers it",
    "draining": "the nodes that offer it take no more work",
    "poison": "it took down the nodes that ran it: mesh retry frees it",
    "retry_budget": "its retry waits its turn: too much fails here",
}
"""Why a task waits, in words; any other reason is shown as the record has it."""
SURVIVES = {"node-loss": "the loss of any node", "restart": "this node's restart, not its loss"}

UNANSWERED = "missing here is what had ended there, and what nobody has taken over yet (mesh task ID finds more)"
"""Of the nodes that do not answer."""


def status(
    home: HomeOption = None, node: NodeOption = None, timeout: LookTimeout = LOOK_S, as_json: JsonOption = False, watch: WatchOption = False
) -> None:
    """This node: health first, each finding with what helps.

    Exit 6 when something needs attention.
    """
    healthy = lambda document: 0 if document["healthy"] else 6  # noqa: E731  one of many such, all in one form
    ask(Where(home, node, as_json, timeout), Mesh.status, _show_status, watch=watch, exit_code=healthy)


def _show_status(document: dict[str, Any]) -> str:
    up = seconds(1000 * document["uptime_s"])
    lines = [f"! {clean(finding['message'])}\n  try: {clean(finding['fix'])}" for finding in document["findings"]]
    lines += [f"note: {clean(note['message'])}\n  try: {clean(note['fix'])}" for note in document["notes"]]
    workers, stock = (
        ", ".join(f"{clean(worker['agent'])} (pid {worker['pid']})" for worker in document.get(kind) or ()) for kind in ("workers", "stock")
    )
    tasks, journal = document["tasks"], document["journal"]
    rows = {
        "node": f"{clean(document['node'])}  {clean(short(document['id']))}  pid {document['pid']}  up {up}",
        "addr": clean(document["addr"]),
        "mesh": f"{clean(document['mesh_name'])} (mode {document['mode']})  {clean(document['mesh'])}",
        "workers": workers or "none: mesh run FILE.py",
        "stock": stock,
        "nodes": ", ".join(f"{count} {clean(state)}" for state, count in document["nodes"].items() if count),
        "tasks": ", ".join(f"{count} {clean(state)}" for state, count in tasks.items() if count) or "none",
        "policy": _policy(document.get("policy") or {}),
        "gates": f"{document['gates']} wait for an approval; mesh approvals" if document.get("gates") else "",
        "resources": ", ".join(
            f"{clean(name)} {r['held']:g} of {r['total']:g} held" for name, r in (document.get("resources") or {}).items()
        ),
        "draining": f"takes no more work, {document['running']} still run; mesh drain --undo" if document.get("draining") else "",
        "journal": f"{journal['entries']} entries, {journal['synced']} on disk",
        "keepers": _keepers(document.get("keepers") or {}),
    }
    return "\n".join([*lines, *(f"{fit(name, 11)}{text}" for name, text in rows.items() if text)])


def _keepers(document: dict[str, Any]) -> str:
    """Who keeps its journal, and what submitted work survives by that."""
    if not document:
        return ""
    names = ", ".join(clean(keeper["name"]) for keeper in document["keepers"]) or "none"
    return f"{names}; submitted work survives {SURVIVES.get(document['survives'], clean(document['survives']))}"


def nodes(
    home: HomeOption = None, node: NodeOption = None, timeout: LookTimeout = LOOK_S, as_json: JsonOption = False, watch: WatchOption = False
) -> None:
    """Every node this one knows, dead and left ones too."""
    ask(Where(home, node, as_json, timeout), Mesh.nodes, _show_nodes, watch=watch)


def _show_nodes(document: dict[str, Any]) -> str:
    rows = []
    for n in document["nodes"]:
        breakers = n.get("breakers") or {}
        caps = [cap + (f" (breaker {breakers[cap]})" if cap in breakers else "") for cap in n["caps"]]
        caps += [f"[{label}]" for label in n.get("labels") or ()]
        offers = ", ".join(caps) if n["state"] not in ("dead", "left") else ""
        rows.append(
            (
                "* " + n["name"] if n["self"] else "  " + n["name"],
                "revoked" if n.get("revoked") else "draining" if n.get("draining") and n["state"] == "alive" else n["state"],
                n["addr"],
                seconds(n["seen_ms"]),
                short(n["id"]),
                offers or "-",
            )
        )
    return table(("  NODE", "STATE", "ADDR", "SEEN", "ID", "CAPS"), rows, empty="no nodes known yet; start one: mesh up")


def caps(
    everything: Annotated[bool, typer.Option("--all", help="Those of the mesh itself too, which every node offers: mesh.flow.")] = False,
    stats: Annotated[bool, typer.Option("--stats", help="How each node does it: its word, and what awards have shown.")] = False,
    home: HomeOption = None,
    node: NodeOption = None,
    timeout: LookTimeout = LOOK_S,
    as_json: JsonOption = False,
    watch: WatchOption = False,
) -> None:
    """What can be called, and who offers it."""
    show = _show_models if stats else _show_caps
    ask(Where(home, node, as_json, timeout), lambda mesh: mesh.caps(everything=everything, stats=stats), show, watch=watch)


def _show_models(document: dict[str, Any]) -> str:
    """Of each capability and node what it says of itself, and what this node's own awards have shown."""
    rows = [
        (
            cap["capability"],
            f"{model['agent']}@{model['node']}",
            f"{model.get('busy', 0)} of {model.get('slots', 0)}, {model.get('queued', 0)} wait",
            seconds(model.get("service_ms") or None),
            f"{model.get('failing', 0)} %" + (f", breaker {model['breaker']}" if model.get("breaker") else ""),
            seconds(model.get("served_ms")),
            f"{model['of_expected_pct']} %" if "of_expected_pct" in model else "-",
            seconds(1000 * model["age_s"]) if "age_s" in model else "-",
        )
        for cap in document["caps"]
        for model in cap["models"]
    ]
    headings = ("CAPABILITY", "BY", "BUSY", "SAYS", "FAILS", "TOOK US", "OF PROMISED", "AGO")
    return table(headings, rows, empty="nobody offers anything yet; run an agent: mesh run FILE.py")


def _show_caps(document: dict[str, Any]) -> str:
    rows = [
        (c["capability"] + one["signature"], one["version"], _offered_by(c | one), seconds(c["service_ms"] or None), c["doc"])
        for c in document["caps"]
        for one in c.get("versions") or [c]
    ]
    return table(
        ("CAPABILITY", "VERSION", "OFFERED BY", "TAKES", "DOES"), rows, empty="nobody offers anything yet; run an agent: mesh run FILE.py"
    )


def _offered_by(cap: dict[str, Any]) -> str:
    breakers = cap.get("breakers") or {}
    nodes = ((one, breakers.get(one.partition("@")[2])) for one in cap["offered_by"])
    labels = {name: " | ".join(",".join(kind) for kind in kinds) for name, kinds in (cap.get("labels") or {}).items()}
    told = ((one, state, labels.get(one.partition("@")[2])) for one, state in nodes)
    found = ", ".join(one + (f" [{its}]" if its else "") + (f" (breaker {state})" if state else "") for one, state, its in told)
    return found + ("; they disagree about its arguments" if cap.get("disputed") else "")


def tasks(
    home: HomeOption = None, node: NodeOption = None, timeout: LookTimeout = LOOK_S, as_json: JsonOption = False, watch: WatchOption = False
) -> None:
    """Tasks of the whole mesh, newest first."""
    ask(Where(home, node, as_json, timeout), Mesh.tasks, _show_tasks, watch=watch)


def _show_tasks(document: dict[str, Any]) -> str:
    rows = [
        (
            short(t["task"]),
            t["capability"],
            t["state"],
            f"{t['agent']}@{t['owner']}" if t["agent"] else t["owner"] or "-",
            seconds(t["age_ms"]),
            t["attempts"],
            _note(t),
        )
        for t in document["tasks"]
    ]
    headings = ("TASK", "CAPABILITY", "STATE", "OWNER", "AGE", "TRIES", "NOTE")
    text = table(headings, rows, empty="no tasks; submit one: mesh submit CAPABILITY name=value")
    if document.get("more"):
        text += f"\nand {document['more']} older ones"
    missing = document.get("missing") or []
    return text + (f"\nnot answering: {clean(', '.join(map(str, missing)))}; {UNANSWERED}" if missing else "")


def _note(task: dict[str, Any]) -> str:
    if task["state"] == "held" and (task.get("progress") or task.get("note")):
        return f"{100 * task['progress']:.0f} % {task['note']}" if task["progress"] else str(task["note"])
    reason = (task.get("reason") or "").removeprefix("no_label: ")
    reason = REASONS.get(reason, reason)
    return f"step {task['step']}" if task.get("step") and not reason else reason


def task(
    task: TaskArgument,
    home: HomeOption = None,
    node: NodeOption = None,
    timeout: LookTimeout = LOOK_S,
    as_json: JsonOption = False,
    watch: WatchOption = False,
) -> None:
    """One task: where it stands and who has it."""
    ask(Where(home, node, as_json, timeout), lambda mesh: mesh.task(task), _show_task, watch=watch)


def _show_task(document: dict[str, Any]) -> str:
    keys = (
        "task",
        "capability",
        "state",
        "owner",
        "agent",
        "version",
        "fence",
        "attempts",
        "parent",
        "step",
        "again",
        "by",
        "survives",
        "priority",
        "share",
        "policy",
        "baggage",
        "reason",
        "progress",
    )
    fence, rules = document["fence"], document.get("rules") or []
    words = f"{fence} ({award_words(award_number(fence), term_of(fence))})" if award_number(fence) else ""
    shown = {**document, "fence": words, "policy": f"version {rules[0]}: {', '.join(rules[1:])}" if rules else ""}
    shown["priority"] = "" if document.get("priority") == PRIORITY_DEFAULT else document.get("priority")
    shown["baggage"] = ", ".join(f"{name}={text}" for name, text in (document.get("baggage") or {}).items())
    shown["age"] = seconds(document["age_ms"])
    shown["progress"] = f"{100 * document['progress']:.0f} %" if document.get("progress") else ""
    lines = [f"{fit(key, 12)}{clean(shown[key])}" for key in (*keys, "note", "age") if shown.get(key)]
    lines += ["", show_budget(document["budget"], document["task"])] if document.get("budget") else []
    return "\n".join([*lines, *(["", show_effects(document["effects"])] if document.get("effects") else [])])


def _policy(document: dict[str, Any]) -> str:
    if not document.get("version"):
        return ""
    return f"{clean(document['name'])}, version {document['version']}, {document['rules']} rules; mesh policy show".removeprefix(", ")


def why(
    task: TaskArgument, home: HomeOption = None, node: NodeOption = None, timeout: LookTimeout = LOOK_S, as_json: JsonOption = False
) -> None:
    """Who was asked, who offered what, and the rule that chose.

    From the journal; the choice is computed again from the record alone. Exit 1 if that disagrees.
    """
    from mesh.inspector import why as view

    async def action(mesh: Mesh) -> dict[str, Any]:
        story = await _story_of(mesh, task)
        return view.explain(story["task"], story["entries"], {row["id"]: row["name"] for row in (await mesh.nodes())["nodes"]})

    ask(Where(home, node, as_json, timeout), action, view.show, exit_code=lambda document: 0 if document["agrees"] else 1)


def trace(
    task: TaskArgument,
    home: HomeOption = None,
    node: NodeOption = None,
    timeout: LookTimeout = LOOK_S,
    as_json: JsonOption = False,
    watch: WatchOption = False,
) -> None:
    """Where its time went: the task and its steps on one scale.

    Waiting, each attempt and where it ran, from the journal.
    """
    from mesh.inspector import trace as view

    async def action(mesh: Mesh) -> dict[str, Any]:
        story = await _story_of(mesh, task)
        return view.document(story["task"], story["entries"], int(time.time() * 1000))

    ask(Where(home, node, as_json, timeout), action, lambda document: view.show(document, screen_columns() or 100), watch=watch)


async def _story_of(mesh: Mesh, task: str) -> dict[str, Any]:
    story = await mesh.story(task)
    if not story["entries"]:
        raise NoSuchTask(f"there is no record of {task}: a plain call leaves none", fix="mesh submit ..., whose decisions are kept")
    return story


def lineage(
    what: Annotated[str, typer.Argument(metavar="TASK|HASH|PATH", help="A task id, a file's sha256, or a file.", show_default=False)],
    home: HomeOption = None,
    node: NodeOption = None,
    timeout: LookTimeout = LOOK_S,
    as_json: JsonOption = False,
) -> None:
    """From which inputs it came, back to the source.

    Every record is verified. Exit 1 if one does not hold.
    """
    from mesh.inspector import lineage as view

    where = Where(home, node, as_json, timeout)
    ask(where, lambda mesh: view.trace(mesh, what), view.show, exit_code=lambda document: 0 if document["verified"] else 1)


def blame(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A file on this machine.", show_default=False)],
    home: HomeOption = None,
    node: NodeOption = None,
    timeout: LookTimeout = LOOK_S,
    as_json: JsonOption = False,
) -> None:
    """Who made this file, on which node, from which inputs.

    Exit 1 if nobody in reach did, but somebody read it; 5 if no record names it.
    """
    from mesh.files import sha256_of
    from mesh.inspector import lineage as view

    async def action(mesh: Mesh) -> dict[str, Any]:
        path = Path(file)
        if not path.is_file():
            raise UsageError(f"there is no file {file!r}", fix="mesh blame FILE")
        document = await view.blame(mesh, path, sha256_of(path))
        if document["made_by"] is None and not document["used_by"]:
            raise NoSuchFile(f"no task in reach read or made {file}", fix="mesh tasks")  # as `mesh lineage` says it
        return document

    where = Where(home, node, as_json, timeout)
    ask(where, action, view.show_blame, exit_code=lambda document: 0 if document["made_by"] else 1)
