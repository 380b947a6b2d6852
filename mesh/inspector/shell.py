"""The one helper every verb goes through: options, documents, errors, bounds, exit codes, `--watch`.

stdout is data, stderr is talk. With ``--json`` exactly one document goes to stdout, errors included. Every verb that waits has a bound.
Exit codes: 0 ok, 1 the answer is a failure, 2 usage, 3 no node, 4 timed out, 5 refused, 6 degraded; 130 after Ctrl-C.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated, Any, NoReturn, TypeVar

import typer

from mesh.client import Mesh, connect
from mesh.errors import MeshError, NoNode, TimedOut, UsageError, error_document, first_error
from mesh.inspector import notify
from mesh.inspector.render import clean, clean_lines, cut_to_screen, say
from mesh.versions import FORM, MARK, is_range, split

Document = dict[str, Any]
Action = Callable[[Mesh], Awaitable[Document]]
Show = Callable[[Document], str]
T = TypeVar("T")

LOOK_S = 10.0
"""A question about what the node knows."""
WAIT_S = 3600.0
"""Waiting for somebody's work: long, but not for ever."""
TIMEOUT_MAX_S = 30 * 86400.0
SLACK_S = 1.0
"""The node and the client keep the same bound themselves, and say more about it; only if they do not, the command line gives up."""
WATCH_EVERY_S = 1.0


def filled(value: Any) -> Any:
    """Option callback: `--flag=` with nothing behind it is a mistake, not an answer. Paths are given as text for the same reason."""
    if value == "" or (isinstance(value, list | tuple) and "" in value):
        raise typer.BadParameter("it is empty")
    return value


def in_range(capability: str) -> str:
    """Argument callback: behind the name of a capability stands a range of versions, or nothing."""
    if MARK in capability and not is_range(split(capability)[1]):
        raise typer.BadParameter(f"{split(capability)[1]!r} is no range of versions: {FORM}")
    return capability


def bounded(value: float | None) -> float | None:
    """Option callback: a number of seconds that a clock can count. NaN and infinity are none."""
    if value is not None and not 0 < value <= TIMEOUT_MAX_S:
        raise typer.BadParameter(f"{value:g} is no number of seconds above 0 and at most {TIMEOUT_MAX_S:.0f}, 30 days")
    return value


def bound(default_s: float) -> Any:
    """``--timeout``, with this default."""
    help_text = f"Seconds to wait for the answer (else exit 4). [default: {default_s:g}]"
    return typer.Option("--timeout", metavar="SECONDS", help=help_text, show_default=False, callback=bounded)


HOME_HELP = "The home folder; else $MESH_HOME, else the platform's."
HomeOption = Annotated[str | None, typer.Option("--home", metavar="DIR", help=HOME_HELP, show_default=False, callback=filled)]
NodeOption = Annotated[
    str | None, typer.Option("--node", metavar="NAME", help="Which of the home's nodes to ask.", show_default=False, callback=filled)
]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON document on stdout, errors included.")]
WatchOption = Annotated[
    bool, typer.Option("--watch", help="Again every second, until Ctrl-C; a JSON line per change where no terminal is.")
]
LookTimeout = Annotated[float, bound(LOOK_S)]
WaitTimeout = Annotated[float, bound(WAIT_S)]


@dataclass(frozen=True, slots=True)
class Where:
    """Which node is asked, how the answer is wanted, and how long to wait for it."""

    home: str | None
    node: str | None
    as_json: bool
    timeout_s: float = LOOK_S


def tell(error: MeshError, *, as_json: bool) -> int:
    """Say what went wrong and what to do next. Returns the exit code."""
    notify.failed(error.message)
    if as_json:
        put(json.dumps(error_document(error)))
        return error.exit_code
    say(f"mesh: {clean(error.message)}")
    if details := str(getattr(error, "details", "")):
        say("\n".join(f"  {line}" for line in clean_lines(details).rstrip().split("\n")))
    if error.fix:
        say(f"try:  {clean(error.fix)}")
    return error.exit_code


def fail(error: MeshError, as_json: bool) -> NoReturn:
    """End with the error's exit code, having said it."""
    raise typer.Exit(tell(error, as_json=as_json))


def show_document(document: Document, show: Show, as_json: bool) -> None:
    """Print the one document, or what people read of it."""
    put(json.dumps(document) if as_json else show(document))


def put(text: str) -> None:
    """Data, on stdout. A reader who has gone is no error (`| head`); a disk that is full is one."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        drop_stdout()
        raise typer.Exit(0) from None
    except OSError as error:
        drop_stdout()
        say(f"mesh: the answer could not be written: {error.strerror}")
        raise typer.Exit(1) from None


def drop_stdout() -> None:
    """What is left of our output goes nowhere, quietly."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def ask(where: Where, action: Action, show: Show, *, watch: bool = False, exit_code: Callable[[Document], int] | None = None) -> None:
    """Connect, act, print. The answer's own exit code, if any, comes from `exit_code`."""

    async def once() -> Document:
        async with asyncio.timeout(where.timeout_s + SLACK_S), connect(home=where.home, node=where.node, timeout_s=where.timeout_s) as mesh:
            return await action(mesh)

    if watch:
        run(where, lambda: _watched(where, action, show))
        return
    document = run(where, once)
    show_document(document, show, where.as_json)
    if exit_code and (code := exit_code(document)):
        raise typer.Exit(code)


def ask_office(where: Where, verb: str, show: Show, **params: Any) -> None:
    """Ask the node for something of membership. A home that is in no mesh is told how to get into one: `mesh up` would not do it."""
    from mesh.runtime.condition import is_member
    from mesh.runtime.home import Home

    try:
        place = Home.locate(where.home)
        if not is_member(place) and not place.running():
            raise NoNode(f"there is no mesh in {place.path} yet", fix="mesh init, or mesh join TOKEN")
    except MeshError as error:
        fail(error, where.as_json)
    ask(where, lambda mesh: mesh.office(verb, **params), show)


def run(where: Where, main: Callable[[], Awaitable[T]]) -> T:
    """Run `main` on a fresh event loop; a failure that has an explanation ends the process the documented way."""

    async def awaited() -> T:
        return await main()

    try:
        return asyncio.run(awaited())
    except MeshError as error:
        fail(error, where.as_json)
    except TimeoutError:
        fail(TimedOut(f"the node did not answer within {where.timeout_s:g} s", fix="mesh doctor"), where.as_json)
    except OSError as error:
        fail(explained(error), where.as_json)
    except BaseExceptionGroup as group:
        found = first_error(group)
        if found is None:
            raise
        fail(found, where.as_json)


def prompter() -> Callable[[str], str] | None:
    """Asks on the terminal for what must not be seen, whatever stdin is; None where there is no terminal."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR))
    except OSError:
        return None
    from getpass import getpass

    return getpass


def explained(error: OSError) -> MeshError:
    """What the operating system refused, as an error with a next step."""
    what = f"{error.strerror or error}" + (f": {error.filename}" if error.filename else "")
    return UsageError(what, fix="name a file or folder that exists and that you may use", code="os_error")


async def _watched(where: Where, action: Action, show: Show) -> None:
    """A terminal is redrawn; anything else gets one JSON document a line, whenever it changed."""
    on_terminal = sys.stdout.isatty() and not where.as_json
    last = ""
    async with asyncio.timeout(where.timeout_s + SLACK_S):
        connection = connect(home=where.home, node=where.node, timeout_s=where.timeout_s)
        mesh = await connection.__aenter__()
    try:
        while True:
            async with asyncio.timeout(where.timeout_s + SLACK_S):
                document = await action(mesh)
            text = show(document) if on_terminal else json.dumps(document)
            if on_terminal:
                put(f"\x1b[H\x1b[J{cut_to_screen(text)}")
            elif text != last:
                put(text)
            last = text
            await asyncio.sleep(WATCH_EVERY_S)
    finally:
        await connection.__aexit__(None, None, None)
