"""Versioned values that outlive nodes: get, set, delete, list."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from mesh.client import Mesh, State
from mesh.errors import UsageError
from mesh.ids import short
from mesh.inspector.gates import json_value
from mesh.inspector.render import clean, json_text, table
from mesh.inspector.shell import LOOK_S, HomeOption, JsonOption, LookTimeout, NodeOption, WatchOption, Where, ask, filled

Document = dict[str, Any]
KeyArgument = Annotated[str, typer.Argument(metavar="KEY", show_default=False)]
InOption = Annotated[
    str | None, typer.Option("--in", metavar="NAME", help="The shared state of that name.", show_default=False, callback=filled)
]
TaskOption = Annotated[
    str | None, typer.Option("--task", metavar="ID", help="That of this running task and its steps.", show_default=False, callback=filled)
]
VersionOption = Annotated[
    int | None, typer.Option("--if-version", metavar="N", min=0, help="Only over this version; 0: over none.", show_default=False)
]
EventOption = Annotated[str, typer.Option("--event", metavar="ID", help="The same write twice under one id is one.", show_default=False)]


def get(
    key: KeyArgument,
    name: InOption = None,
    task: TaskOption = None,
    timeout: LookTimeout = LOOK_S,
    home: HomeOption = None,
    node: NodeOption = None,
    as_json: JsonOption = False,
    watch: WatchOption = False,
) -> None:
    """One value; exit 1 if nothing stands there."""

    async def action(mesh: Mesh) -> Document:
        value, version = await _state(mesh, name, task).get(key)
        return {"schema": "mesh.state-get/1", "key": key, "value": value, "version": version}

    show = lambda document: json_text(document["value"]) if document["version"] else f"nothing stands at {clean(key)}"  # noqa: E731
    found = lambda document: 0 if document["version"] else 1  # noqa: E731
    ask(Where(home, node, as_json, timeout), action, show, watch=watch, exit_code=found)


def set_(
    key: KeyArgument,
    value: Annotated[str, typer.Argument(metavar="JSON|@FILE", show_default=False)],
    name: InOption = None,
    task: TaskOption = None,
    if_version: VersionOption = None,
    event: EventOption = "",
    timeout: LookTimeout = LOOK_S,
    home: HomeOption = None,
    node: NodeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write a value, and print its version.

    Exit 5 if another version stands there than --if-version.
    """
    given = json_value(value, as_json)

    async def action(mesh: Mesh) -> Document:
        version = await _state(mesh, name, task).set(key, given, if_version=if_version, event=event)
        return {"schema": "mesh.state-set/1", "key": key, "version": version}

    ask(Where(home, node, as_json, timeout), action, lambda document: str(document["version"]))


def delete(
    key: KeyArgument,
    name: InOption = None,
    task: TaskOption = None,
    if_version: VersionOption = None,
    event: EventOption = "",
    timeout: LookTimeout = LOOK_S,
    home: HomeOption = None,
    node: NodeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Let nothing stand at a key.

    Versions go on from there: the next value's is greater than any before.
    """

    async def action(mesh: Mesh) -> Document:
        version = await _state(mesh, name, task).delete(key, if_version=if_version, event=event)
        return {"schema": "mesh.state-delete/1", "key": key, "version": version}

    ask(Where(home, node, as_json, timeout), action, lambda document: f"nothing stands at {clean(key)}")


def list_(
    name: InOption = None,
    task: TaskOption = None,
    timeout: LookTimeout = LOOK_S,
    home: HomeOption = None,
    node: NodeOption = None,
    as_json: JsonOption = False,
    watch: WatchOption = False,
) -> None:
    """The keys of one state, or the shared states.

    Those, if neither --in nor --task is given.
    """
    at = Where(home, node, as_json, timeout)
    if not name and not task:
        ask(at, lambda mesh: mesh.states(), _show_states, watch=watch)
        return

    async def action(mesh: Mesh) -> Document:
        return {"schema": "mesh.state-list/1", **await _state(mesh, name, task).list()}

    ask(at, action, _show_keys, watch=watch)


def _state(mesh: Mesh, name: str | None, task: str | None) -> State:
    if bool(name) == bool(task):
        raise UsageError("which state? It is a shared one or a task's", fix="--in NAME, or --task ID")
    return mesh.state(name or "", task=task or "")


def _show_states(document: Document) -> str:
    rows = [
        (row["name"], str(row["keys"]), str(row["bytes"]), str(row["version"]), row["manager"], short(row["task"]))
        for row in document["states"]
    ]
    missing = f"\nnot asked: {', '.join(map(clean, document['missing']))}" if document["missing"] else ""
    return table(("STATE", "KEYS", "BYTES", "VERSION", "KEPT BY", "TASK"), rows, empty="no state is shared yet") + missing


def _show_keys(document: Document) -> str:
    rows = [(json.dumps(row["key"], ensure_ascii=False)[1:-1], row["version"], row["bytes"], row["by"]) for row in document["keys"]]
    return table(("KEY", "VERSION", "BYTES", "BY"), [tuple(map(str, row)) for row in rows], empty="nothing stands there")
