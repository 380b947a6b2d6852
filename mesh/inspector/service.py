"""Start: service. This account's services for this home's node and its agents, as systemd user units (`units.py`)."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from mesh.errors import MeshError, Refused, UsageError
from mesh.inspector import units
from mesh.inspector.bundle import bundle
from mesh.inspector.launch import parse
from mesh.inspector.render import clean, table
from mesh.inspector.shell import HomeOption, JsonOption, fail, show_document
from mesh.inspector.start import NameOption
from mesh.inspector.verbs import REST
from mesh.runtime.home import Home, NodeFolder


class Action(StrEnum):
    install = "install"
    remove = "remove"
    show = "show"


def service(
    ctx: typer.Context,
    action: Annotated[Action, typer.Argument(help="What to do.", show_default=False)] = Action.show,
    home: HomeOption = None,
    name: NameOption = None,
    as_json: JsonOption = False,
) -> None:
    """Let systemd keep a node, or `-- run TARGET...`, running.

    `install` writes user units and starts them, `remove` takes them away, `show` lists them. After `--` come the words of `mesh run`; an
    agent gets a service of its own, beside its node's.
    """
    try:
        if sys.platform == "darwin":
            raise UsageError("macOS has no systemd, and mesh does not write launchd agents yet", fix="mesh up --detach", code="no_systemd")
        if action is Action.show:
            document = _document([], [])
        else:
            node, wanted = _units(Home.locate(home), name or "", ctx.meta[REST])
            document = _install(node, wanted) if action is Action.install else _remove(wanted[-1])
    except MeshError as error:
        fail(error, as_json)
    show_document(document, _show, as_json)


def _units(home: Home, name: str, words: list[str]) -> tuple[NodeFolder, list[units.Unit]]:
    """The node, its unit, and after it the agent's if there is one. Raises UsageError."""
    options, targets = parse(words)
    if name and options["name"] not in ("", name):
        raise UsageError(f"two names for one node: {name} and {options['name']}", fix=f"--name {name}")
    name = name or options["name"]
    node, program = home.node(name), (sys.executable, "-P", "-m", "mesh.inspector.cli")
    where = ("--home", str(home.path), "--name", node.name)
    found = [units.Unit(units.node_unit(name), home.path, f"mesh node {node.name}", (*program, "up", *where, *options["words"]))]
    if targets:
        bundle(targets)  # whatever is wrong with them is told now, not by the service
        here = str(Path.cwd())
        files = tuple(str(Path(target).absolute()) if target.endswith(".py") else target for target in targets)
        words_of_run = (*program, "run", *files, *where, "--attach")
        unit = units.agent_unit(units.agent_name(targets))
        environment = {"PYTHONPATH": here} if any(":" in target for target in targets) else {}
        found.append(units.Unit(unit, home.path, f"mesh run {' '.join(targets)}", words_of_run, environment, here, found[0].name))
    return node, found


def _install(node: NodeFolder, wanted: list[units.Unit]) -> dict[str, Any]:
    """Write what differs, and start it, where systemd can be reached; else say what to type. Raises Refused, MeshError."""
    if node.is_running() and not units.is_active(wanted[0].name):
        raise Refused(f"node {node.name} runs already, and not as this service", fix=f"mesh down --node {node.name}, then the same again")
    changed = [unit.name for unit in wanted if units.write(unit)]
    names = [unit.name for unit in wanted]
    if why := units.why_not():
        typed = ["systemctl --user daemon-reload", f"systemctl --user enable --now {' '.join(names)}"]
        return _document(changed, typed, f"{why}; the units are written, and nothing was started")
    for name in names:
        if name in changed or not units.is_active(name) or not units.is_enabled(name):
            units.enable(name)
            units.restart(name)
            changed += [name] if name not in changed else []
    lingers = [] if units.lingers() else [f"loginctl enable-linger {units.account()}"]
    return _document(changed, lingers, "services end when you log out, until you type this" if lingers else "")


def _remove(unit: units.Unit) -> dict[str, Any]:
    """The agent's if one was named, else the node's."""
    return _document([unit.name] if units.remove(unit.name) else [], [])


def _document(changed: list[str], typed: list[str], note: str = "") -> dict[str, Any]:
    found = [
        {
            "unit": name,
            "path": str(units.folder() / name),
            "state": units.state(name),
            "pid": units.pid_of(name),
            "runs": units.words_of(name),
        }
        for name in units.ours()
    ]
    return {"schema": "mesh.service/1", "units": found, "changed": changed, "note": note, "type": typed}


def _show(document: dict[str, Any]) -> str:
    rows = [(each["unit"], each["state"], each["pid"] or "-", each["runs"]) for each in document["units"]]
    lines = [table(("UNIT", "STATE", "PID", "RUNS"), rows, empty="no service of mesh is installed; to install one: mesh service install")]
    lines += [f"\n{clean(document['note'])}"] if document["note"] else []
    lines += [f"    {clean(words)}" for words in document["type"]]
    return "\n".join(lines)
