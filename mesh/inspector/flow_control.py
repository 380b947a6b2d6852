"""Flows that run, changed and examined by hand: flow pause, resume, patch, replay."""

from __future__ import annotations

import asyncio
import json
import tomllib
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Annotated, Any

import typer

from mesh.client import Mesh
from mesh.errors import UsageError
from mesh.flows import control
from mesh.flows.replay import replayed
from mesh.inspector.flow_facts import flow_task, read, record_of, run_of
from mesh.inspector.render import clean, table
from mesh.inspector.shell import LOOK_S, HomeOption, JsonOption, LookTimeout, NodeOption, Where, ask, bound, explained
from mesh.inspector.watch import TaskArgument

Document = dict[str, Any]
PATCH_BYTES_MAX = 1024 * 1024
PATCH_FORM = 'base = 1, then [[add]] and [[replace]] tables of steps, remove = ["id"], output = ...'


def pause(
    task: TaskArgument, timeout: LookTimeout = LOOK_S, home: HomeOption = None, node: NodeOption = None, as_json: JsonOption = False
) -> None:
    """Let a flow begin no more steps; what runs goes on to its end."""
    _tell(Where(home, node, as_json, timeout), "pause", task, control.pause, "begins no more steps until: mesh flow resume")


def resume(
    task: TaskArgument, timeout: LookTimeout = LOOK_S, home: HomeOption = None, node: NodeOption = None, as_json: JsonOption = False
) -> None:
    """Let a paused flow go on."""
    _tell(Where(home, node, as_json, timeout), "resume", task, control.resume, "goes on")


def _tell(where: Where, verb: str, task: str, do: Callable[[Mesh, str], Coroutine[Any, Any, None]], what: str) -> None:
    async def action(mesh: Mesh) -> Document:
        full = await flow_task(mesh, task)
        await do(mesh, full)
        return {"schema": f"mesh.flow-{verb}/1", "task": full}

    ask(where, action, lambda found: f"{clean(found['task'])} {what}")


def patch(
    task: TaskArgument,
    file: Annotated[str, typer.Argument(metavar="FILE", help="The change, in TOML or JSON.", show_default=False)],
    timeout: Annotated[float, bound(control.VERDICT_S)] = control.VERDICT_S,
    home: HomeOption = None,
    node: NodeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Change the steps of a flow that runs: add, replace, remove.

    What has begun stays as it was. Without `base` in FILE the change is to the version that runs now. Exit 2 if it is refused.
    """

    async def action(mesh: Mesh) -> Document:
        change = _change(file)
        run = await run_of(mesh, task)
        change.setdefault("base", run.flow.version)
        verdict = await control.patch(mesh, str(run.row["task"]), change, sleep=asyncio.sleep, timeout_s=timeout)
        return {"schema": "mesh.flow-patch/1", "task": run.row["task"], "verdict": verdict, "version": change["base"] + 1, **_names(change)}

    ask(Where(home, node, as_json, timeout), action, _show_patch)


def replay(
    task: TaskArgument,
    file: Annotated[str | None, typer.Argument(metavar="[FILE]", help="This flow instead of the task's own.", show_default=False)] = None,
    timeout: LookTimeout = LOOK_S,
    home: HomeOption = None,
    node: NodeOption = None,
    as_json: JsonOption = False,
) -> None:
    """What a driver would do that took a flow over now, from the record; runs nothing.

    With FILE: what that flow would make of the same record. Exit 1 if it asks for other work than what is on record.
    """

    async def action(mesh: Mesh) -> Document:
        run = await run_of(mesh, task)
        flow = read(file)[0] if file else run.started
        return {"schema": "mesh.flow-replay/1", "task": run.row["task"], **await replayed(flow, run.given, await record_of(mesh, run))}

    ask(Where(home, node, as_json, timeout), action, _show_replay, exit_code=lambda found: 0 if found["agrees"] else 1)


def _show_replay(found: Document) -> str:
    mine = [step for step in found["steps"] if not step["name"].startswith(f"signal/{control.SIGNAL}/")]
    text = table(
        ("STEP", "USES", "WHAT", ""), [(one["name"], one["capability"], one["what"], one["why"]) for one in mine], empty="no steps"
    )
    goes_on = "it is paused" if found["paused"] else "it goes on from there"
    ends = {"done": "it ends as done", "failed": f"it fails: {clean(found['error'])}", "running": goes_on}[found["state"]]
    return f"{text}\n{ends}" + ("" if found["agrees"] else "; it does not agree with the record")


def _names(change: Document) -> Document:
    """What it touches, by id."""
    ids = {key: [str(step.get("id")) for step in change.get(key) or ()] for key in ("add", "replace")}
    return {"added": ids["add"], "replaced": ids["replace"], "removed": list(change.get("remove") or ())}


def _show_patch(found: Document) -> str:
    parts = (f"{name} {', '.join(map(clean, found[name]))}" for name in ("added", "replaced", "removed") if found[name])
    return f"{clean(found['verdict'])}: {'; '.join(parts) or 'nothing but its output'}"


def _change(file: str) -> Document:
    """The table in a file. Raises UsageError, with the line where that is known."""
    try:
        with Path(file).open("rb") as opened:
            data = opened.read(PATCH_BYTES_MAX + 1)
    except OSError as error:
        raise explained(error) from error
    if len(data) > PATCH_BYTES_MAX:
        raise UsageError(f"{file} is larger than {PATCH_BYTES_MAX // 1024} KiB", fix="change less at once")
    try:
        text = data.decode("utf-8-sig")
        found = json.loads(text) if text.lstrip()[:1] == "{" else tomllib.loads(text.replace("\r\n", "\n"))
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{file}: it is neither TOML nor JSON: {error}", fix=PATCH_FORM) from error
    if not isinstance(found, dict) or not found:
        raise UsageError(f"{file}: there is no change in it", fix=PATCH_FORM)
    try:
        json.dumps(found, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise UsageError(f"{file}: {error}", fix="write dates as text, in quotes") from error
    return found
