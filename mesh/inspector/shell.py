"""The one helper every verb goes through: options, documents, errors, exit codes, `--watch`.

stdout is data, stderr is talk. With ``--json`` exactly one document goes to stdout, errors included. Exit codes: 0 ok, 1 the answer is
a failure, 2 usage, 3 no node, 4 timed out, 5 refused, 6 degraded; 130 after Ctrl-C.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar

import anyio
import typer

from mesh.client import Mesh, connect
from mesh.errors import MeshError, error_document
from mesh.inspector.render import clean, say

Document = dict[str, Any]
Action = Callable[[Mesh], Awaitable[Document]]
Show = Callable[[Document], str]
T = TypeVar("T")

WATCH_EVERY_S = 1.0

HomeOption = Annotated[Path | None, typer.Option("--home", help="The home folder; else $MESH_HOME, else the platform's.", show_default=False)]
NodeOption = Annotated[str | None, typer.Option("--node", help="Which of the home's nodes to ask.", show_default=False)]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON document on stdout, errors included.")]
WatchOption = Annotated[bool, typer.Option("--watch", help="Again every second, until Ctrl-C.")]
TimeoutOption = Annotated[float | None, typer.Option("--timeout", help="Seconds to wait for the answer.", show_default=False)]


@dataclass(frozen=True, slots=True)
class Where:
    """Which node is asked, and how the answer is wanted."""

    home: Path | None
    node: str | None
    as_json: bool
    timeout_s: float | None = 10.0


def fail(error: MeshError, as_json: bool) -> NoReturn:
    """Say what went wrong and what to do next, and end with the error's exit code."""
    if as_json:
        print(json.dumps(error_document(error)), flush=True)
    else:
        say(f"mesh: {clean(error.message)}")
        if error.fix:
            say(f"try:  {clean(error.fix)}")
    raise typer.Exit(error.exit_code)


def show_document(document: Document, show: Show, as_json: bool) -> None:
    print(json.dumps(document) if as_json else show(document), flush=True)


def ask(where: Where, action: Action, show: Show, *, watch: bool = False, exit_code: Callable[[Document], int] | None = None) -> None:
    """Connect, act, print. The answer's own exit code, if any, comes from `exit_code`."""
    document = run(where, lambda: _watched(where, action, show) if watch else _once(where, action))
    if document is None:
        return
    show_document(document, show, where.as_json)
    if exit_code and (code := exit_code(document)):
        raise typer.Exit(code)


def run(where: Where, main: Callable[[], Awaitable[T]]) -> T:
    """Run `main` on a fresh event loop; any failure ends the process the documented way."""
    try:
        return anyio.run(main)
    except MeshError as error:
        fail(error, where.as_json)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(0) from None
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    except BaseExceptionGroup as group:
        fail(_first_error(group), where.as_json)


def _first_error(group: BaseExceptionGroup[BaseException]) -> MeshError:
    """The MeshError inside a task group's failure; anything else is a bug and is shown whole."""
    found, rest = group.split(MeshError)
    if found is None or rest is not None:
        raise group
    inner: BaseException = found
    while isinstance(inner, BaseExceptionGroup):
        inner = inner.exceptions[0]
    assert isinstance(inner, MeshError)
    return inner


async def _once(where: Where, action: Action) -> Document:
    async with connect(home=where.home, node=where.node, timeout_s=where.timeout_s) as mesh:
        return await action(mesh)


async def _watched(where: Where, action: Action, show: Show) -> None:
    """A terminal is redrawn; anything else gets one JSON document a line, whenever it changed."""
    on_terminal = sys.stdout.isatty() and not where.as_json
    last = ""
    async with connect(home=where.home, node=where.node, timeout_s=where.timeout_s) as mesh:
        while True:
            document = await action(mesh)
            text = show(document) if on_terminal else json.dumps(document)
            if on_terminal:
                print(f"\x1b[H\x1b[J{text}", flush=True)
            elif text != last:
                print(text, flush=True)
            last = text
            await anyio.sleep(WATCH_EVERY_S)
