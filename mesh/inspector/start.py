"""Start: run, up, down."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from mesh.client import Mesh
from mesh.errors import MeshError, UsageError
from mesh.inspector.launch import MESH, end, spawn, wait_ready
from mesh.inspector.render import clean, say
from mesh.inspector.shell import HomeOption, JsonOption, NodeOption, Where, ask, fail, run as run_async
from mesh.inspector.targets import load_agents, watched_files
from mesh.runtime.home import Home, NodeFolder

NameOption = Annotated[str, typer.Option("--name", help="The node's name; else the home's first node.")]
BindOption = Annotated[str | None, typer.Option("--bind", help="Address to listen at (loopback in this version).", show_default=False)]
PortOption = Annotated[int | None, typer.Option("--port", help="The door's port; the ROUTER takes the next.", show_default=False)]
JoinOption = Annotated[list[str] | None, typer.Option("--join", help="HOST:PORT of another node's door; retried for ever.", show_default=False)]
MdnsOption = Annotated[bool, typer.Option("--no-mdns", help="Do not announce or browse.")]
MeshOption = Annotated[str, typer.Option("--mesh", help="A separate mesh of this name.")]
DetachOption = Annotated[bool, typer.Option("--detach", "-d", help="Return once it answers, and leave it running.")]
RELOAD_EVERY_S = 0.3


def up(
    home: HomeOption = None,
    name: NameOption = "",
    bind: BindOption = None,
    port: PortOption = None,
    join: JoinOption = None,
    no_mdns: MdnsOption = False,
    mesh: MeshOption = "",
    detach: DetachOption = False,
    while_used: Annotated[bool, typer.Option("--while-used", hidden=True)] = False,
    as_json: JsonOption = False,
) -> None:
    """Run this home's node until `mesh down` or Ctrl-C."""
    words = _words(home, name, bind, port, join, no_mdns, mesh)
    if detach:
        run_async(Where(home, name or None, as_json), lambda: _detach(Home.locate(home, mesh).node(name), words, as_json))
        return
    from mesh.runtime.app import NodeOptions, serve

    options = NodeOptions(home, name, bind, port, tuple(join or ()), not no_mdns, mesh, while_used)

    def ready(info: dict[str, Any]) -> None:
        if as_json:
            print(json.dumps({"schema": "mesh.up/1", **info}), flush=True)
        else:
            say(f"node {info['name']} is up: door {info['door']}, home {info['home']}")

    run_async(Where(home, name or None, as_json), lambda: serve(options, ready))


async def _detach(folder: NodeFolder, words: list[str], as_json: bool) -> None:
    info = start_node(folder, words)
    document = {"schema": "mesh.up/1", **info}
    print(json.dumps(document) if as_json else f"node {info['name']} is up: door {info['door']}, pid {info['pid']}")


def start_node(folder: NodeFolder, words: list[str]) -> dict[str, Any]:
    """Start a node's process and wait until it answers. Raises MeshError with its last words."""
    folder.make()
    process = spawn(["up", *words], folder.log_path)
    return wait_ready(folder, process, folder.log_path)


def _words(
    home: Path | None, name: str, bind: str | None, port: int | None, join: list[str] | None, no_mdns: bool, mesh: str
) -> list[str]:
    words = ["--home", str(home)] if home else []
    words += ["--name", name] if name else []
    words += ["--bind", bind] if bind else []
    words += ["--port", str(port)] if port is not None else []
    for door in join or ():
        words += ["--join", door]
    words += ["--no-mdns"] if no_mdns else []
    return words + (["--mesh", mesh] if mesh else [])


def run(
    targets: Annotated[list[str], typer.Argument(help="A .py file, module:object, or a ready-made agent's name.", show_default=False)],
    home: HomeOption = None,
    name: NameOption = "",
    bind: BindOption = None,
    port: PortOption = None,
    join: JoinOption = None,
    no_mdns: MdnsOption = False,
    mesh: MeshOption = "",
    detach: DetachOption = False,
    reload: Annotated[bool, typer.Option("--reload", help="Start again whenever the code changes.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Run agents: attach to this home's node, or start one that ends with its last worker."""
    words = _words(home, name, bind, port, join, no_mdns, mesh)
    where = Where(home, name or None, as_json)
    if detach and reload:
        fail(UsageError("--detach and --reload do not go together", fix="leave one of them out"), as_json)
    if detach:
        _detach_worker(targets, words, Home.locate(home, mesh).node(name))
        return
    try:
        if reload:
            _reload(targets, words)
            return
        agents = load_agents(targets)
        folder = Home.locate(home, mesh).node(name)
        if not folder.is_running():
            info = start_node(folder, [*words, "--while-used"])
            say(f"node {info['name']} started for this worker: door {info['door']}")
    except MeshError as error:
        fail(error, as_json)

    from mesh.worker import serve

    def attached(_: object = None) -> None:
        for agent in agents:
            offered = ", ".join(clean(capability) for capability in agent.capabilities)
            say(f"{clean(agent.name)}@{folder.name} offers {offered}")

    run_async(where, lambda: serve(agents, folder.socket_path, on_attached=attached))


def _detach_worker(targets: list[str], words: list[str], folder: NodeFolder) -> None:
    folder.make()
    process = spawn(["run", *targets, *words], folder.path / "worker.log")
    say(f"worker started, pid {process.pid}; its output goes to {folder.path / 'worker.log'}")


def _reload(targets: list[str], words: list[str]) -> None:
    """Run the same command as a child, and start it anew whenever a file that its agents come from changes."""
    while True:
        child = subprocess.Popen([*MESH, "run", *targets, *words])
        try:
            before = _fingerprint(targets)
            while child.poll() is None and _fingerprint(targets) == before:
                time.sleep(RELOAD_EVERY_S)
            if child.poll() is not None:
                say("the worker ended; it starts again when the code changes (Ctrl-C ends this)")
                while _fingerprint(targets) == before:
                    time.sleep(RELOAD_EVERY_S)
            say("the code changed: starting again")
        finally:
            end(child.pid, signal.SIGTERM)
            child.wait()


def _fingerprint(targets: list[str]) -> list[tuple[str, int]]:
    found = []
    for path in watched_files(targets):
        try:
            found.append((str(path), os.stat(path).st_mtime_ns))
        except FileNotFoundError:
            continue
    return found


def down(home: HomeOption = None, node: NodeOption = None, as_json: JsonOption = False) -> None:
    """Take a node out: it says LEFT, gives back what it has not started, and ends."""
    folders = Home.locate(home).running()
    if node is None and len(folders) > 1:
        names = ", ".join(folder.name for folder in folders)
        fail(UsageError(f"several nodes of this home run: {names}", fix=f"mesh down --node {folders[0].name}"), as_json)

    async def action(mesh: Mesh) -> dict[str, Any]:
        return await mesh.down()

    ask(Where(home, node, as_json), action, lambda document: f"node {clean(document['node'])} is down")


