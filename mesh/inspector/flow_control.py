"""Flows that run: pause, resume, patch."""

from __future__ import annotations

import asyncio
import json
import tomllib
from pathlib import Path
from typing import Annotated, Any

import typer

from mesh.client import Mesh
from mesh.errors import UsageError
from mesh.flows import control
from mesh.inspector.render import clean
from mesh.inspector.shell import LOOK_S, HomeOption, JsonOption, LookTimeout, NodeOption, Where, ask, fail
from mesh.inspector.watch import TaskArgument

Document = dict[str, Any]
PatchArgument = Annotated[
    str, typer.Argument(metavar="FILE", help="TOML or JSON: base, [[add]], [[replace]], remove, output.", show_default=False)
]


def pause(
    task: TaskArgument, timeout: LookTimeout = LOOK_S, home: HomeOption = None, node: NodeOption = None, as_json: JsonOption = False
) -> None:
    """Begin no more steps of a flow; what runs goes on to its end."""

    async def action(mesh: Mesh) -> Document:
        await control.pause(mesh, task)
        return {"schema": "mesh.flow-pause/1", "task": task, "told": "pause"}

    ask(Where(home, node, as_json, timeout), action, lambda found: f"{clean(found['task'])} was told to pause")


def resume(
    task: TaskArgument, timeout: LookTimeout = LOOK_S, home: HomeOption = None, node: NodeOption = None, as_json: JsonOption = False
) -> None:
    """Let a paused flow go on."""

    async def action(mesh: Mesh) -> Document:
        await control.resume(mesh, task)
        return {"schema": "mesh.flow-resume/1", "task": task, "told": "resume"}

    ask(Where(home, node, as_json, timeout), action, lambda found: f"{clean(found['task'])} was told to go on")


def patch(
    task: TaskArgument,
    file: PatchArgument,
    timeout: LookTimeout = control.VERDICT_S,
    home: HomeOption = None,
    node: NodeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Change steps of a running flow that have not begun, and print what became of it; exit 2 if it is refused."""
    try:
        change = _read(file)
    except UsageError as error:
        fail(error, as_json)

    async def action(mesh: Mesh) -> Document:
        verdict = await control.patch(mesh, task, change, sleep=asyncio.sleep, timeout_s=timeout)
        return {"schema": "mesh.flow-patch/1", "task": task, "verdict": verdict}

    ask(Where(home, node, as_json, timeout), action, lambda found: f"{clean(found['task'])}: {clean(found['verdict'])}")


def _read(file: str) -> Document:
    """Raises UsageError."""
    try:
        text = Path(file).read_text("utf-8-sig")
        found = json.loads(text) if text.lstrip().startswith("{") else tomllib.loads(text)
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UsageError(f"{file}: {reason}", fix="name a TOML or JSON file: base = 1, [[replace]] with id and uses") from error
    try:
        json.dumps(found, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise UsageError(f"{file}: {error}", fix="write dates as text, in quotes") from error
    return dict(found) if isinstance(found, dict) else {}
