"""Drain: a node takes no more work, and lets end what runs."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from mesh.inspector.render import clean
from mesh.inspector.shell import LOOK_S, HomeOption, JsonOption, LookTimeout, NodeOption, Where, ask


def drain(
    name: Annotated[str | None, typer.Argument(metavar="NODE", help="A node of this home.", show_default=False)] = None,
    undo: Annotated[bool, typer.Option("--undo", help="Take work again.")] = False,
    wait: Annotated[
        float, typer.Option("--wait", metavar="SECONDS", min=0.0, max=86400.0, help="Return when nothing runs any more, or after so long.")
    ] = 0.0,
    timeout: LookTimeout = LOOK_S,
    home: HomeOption = None,
    node: NodeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Let a node take no more work: what has not started goes to others, what runs ends.

    Until `--undo`, or the node's restart. Exit 1 if something still runs after `--wait`.
    """

    def code(document: dict[str, Any]) -> int:
        return int(wait > 0 and document["draining"] and document["running"] > 0)

    ask(Where(home, name or node, as_json, timeout + wait), lambda mesh: mesh.drain(wait_s=wait, undo=undo), _show, exit_code=code)


def _show(document: dict[str, Any]) -> str:
    if not document["draining"]:
        return f"{clean(document['node'])} takes work"
    running = document["running"]
    return f"{clean(document['node'])} takes no more work; " + (f"{running} still run" if running else "nothing runs any more")
