"""Use: call, submit, result, cancel, get."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from mesh import File
from mesh.client import Mesh
from mesh.errors import UsageError, task_error
from mesh.inspector.arguments import parse_arguments
from mesh.inspector.render import say
from mesh.inspector.shell import HomeOption, JsonOption, NodeOption, TimeoutOption, Where, ask
from mesh.inspector.watch import TaskArgument

CapabilityArgument = Annotated[str, typer.Argument(help="What is wanted, as `mesh caps` lists it.", show_default=False)]
WordsArgument = Annotated[list[str] | None, typer.Argument(help="name=text  name:=JSON  name=@file", show_default=False)]
WholeOption = Annotated[str | None, typer.Option("-i", "--input", help="All arguments as one JSON object, or @file.", show_default=False)]
OutOption = Annotated[Path | None, typer.Option("-o", "--out", help="Save the file (or, in a folder, the files) of the result here.", show_default=False)]


def plain(value: Any) -> Any:
    """A result as JSON: files as their references."""
    if isinstance(value, File):
        return value.reference()
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list) else value


def files_in(value: Any) -> list[dict[str, Any]]:
    """Every file reference in a result."""
    if isinstance(value, dict):
        if set(value) == {"$file"}:
            return [value["$file"]]
        return [found for item in value.values() for found in files_in(item)]
    return [found for item in value for found in files_in(item)] if isinstance(value, list) else []


async def save(mesh: Mesh, value: Any, out: Path | None) -> None:
    if out is None:
        return
    found = files_in(value)
    if not found:
        raise UsageError("the result holds no file to save", fix="leave out -o")
    if len(found) > 1:
        out.mkdir(parents=True, exist_ok=True)
    for file in found:
        to = out / Path(file["name"]).name if out.is_dir() else out
        await mesh.get(file["sha256"], to)
        say(f"saved {to}")


def _show_result(document: dict[str, Any]) -> str:
    result = document["result"]
    return result if isinstance(result, str) else json.dumps(result, indent=2, ensure_ascii=False)


def call(
    capability: CapabilityArgument,
    words: WordsArgument = None,
    whole: WholeOption = None,
    out: OutOption = None,
    timeout: TimeoutOption = None,
    home: HomeOption = None,
    node: NodeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Call a capability and print its answer. Waits, and dies with this command; `submit` does not."""

    async def action(mesh: Mesh) -> dict[str, Any]:
        value = plain(await mesh.options(timeout_s=timeout).call(capability, **parse_arguments(words or [], whole)))
        await save(mesh, value, out)
        return {"schema": "mesh.call/1", "capability": capability, "result": value}

    ask(Where(home, node, as_json), action, _show_result)


def submit(
    capability: CapabilityArgument,
    words: WordsArgument = None,
    whole: WholeOption = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the result and print it.")] = False,
    out: OutOption = None,
    timeout: TimeoutOption = None,
    retries: Annotated[int | None, typer.Option("--retries", help="Tries after a failure of the handler.", show_default=False)] = None,
    home: HomeOption = None,
    node: NodeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Submit a durable task and print its id: it survives this command, and the node's restart."""
    if out and not wait:
        raise typer.BadParameter("-o needs --wait")

    async def action(mesh: Mesh) -> dict[str, Any]:
        task = await mesh.options(timeout_s=timeout, retries=retries).submit(capability, **parse_arguments(words or [], whole))
        document: dict[str, Any] = {"schema": "mesh.submit/1", "task": task.id, "survives": task.survives}
        if wait:
            if not as_json:
                say(task.id)
            answer = await mesh.result(task.id)
            _raise_failure(answer)
            await save(mesh, answer["result"], out)
            document |= {"state": answer["state"], "result": answer["result"]}
        return document

    ask(Where(home, node, as_json), action, lambda document: _show_result(document) if wait else str(document["task"]))


def _raise_failure(answer: dict[str, Any]) -> None:
    if answer["state"] != "done":
        raise task_error(answer.get("error") or {}, answer["task"], answer["state"])


def result(
    task: TaskArgument,
    out: OutOption = None,
    timeout: TimeoutOption = None,
    home: HomeOption = None,
    node: NodeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Wait for a task and print its result. Exit 1, with the error, if it failed."""

    async def action(mesh: Mesh) -> dict[str, Any]:
        answer = await mesh.result(task, timeout_s=timeout)
        await save(mesh, answer.get("result"), out)
        return answer

    def show(document: dict[str, Any]) -> str:
        _raise_failure(document)
        return _show_result(document)

    ask(Where(home, node, as_json), action, show, exit_code=lambda document: 0 if document["state"] == "done" else 1)


def cancel(
    task: TaskArgument,
    reason: Annotated[str, typer.Option("--reason", help="Kept in the record.")] = "",
    home: HomeOption = None,
    node: NodeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Cancel a task and its steps. Prints the state it is in now."""
    ask(Where(home, node, as_json), lambda mesh: mesh.cancel(task, reason=reason), lambda document: str(document["state"]))


def get(
    file: Annotated[str, typer.Argument(help="A file's sha256, as lineage and results name it.", show_default=False)],
    out: Annotated[Path, typer.Option("-o", "--out", help="Where to save it.", show_default=False)],
    home: HomeOption = None,
    node: NodeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Save a file by its hash, wherever in the mesh it is. The bytes are checked."""

    async def action(mesh: Mesh) -> dict[str, Any]:
        size = await mesh.get(file, out)
        return {"schema": "mesh.get/1", "sha256": file, "path": str(out), "size": size}

    ask(Where(home, node, as_json), action, lambda document: f"{document['path']}  {document['size']} bytes")
