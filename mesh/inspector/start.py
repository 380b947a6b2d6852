"""Start: run, up, down."""

from __future__ import annotations

import itertools
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mesh.client import Mesh, connect
from mesh.errors import MeshError, NoNode, TimedOut, UsageError
from mesh.inspector import notify
from mesh.inspector.render import clean, say
from mesh.inspector.shell import HomeOption, JsonOption, NodeOption, Where, ask, bound, fail, filled, prompter, put
from mesh.inspector.shell import run as run_async
from mesh.launch import MESH, READY_S, end, last_words, node_for_worker, spawn, start_node

if TYPE_CHECKING:
    from mesh.agent import Agent
    from mesh.runtime.home import NodeFolder

NameOption = Annotated[
    str | None,
    typer.Option("--name", metavar="NAME", help="The node's name; else the home's first node.", show_default=False, callback=filled),
]
BindOption = Annotated[
    str | None,
    typer.Option(
        "--bind",
        metavar="ADDRESS",
        help="Listen at this address of this machine. [default: loopback in an open mesh, else the LAN's]",
        show_default=False,
        callback=filled,
    ),
]
RememberedBind = Annotated[
    str | None,
    typer.Option(
        "--bind",
        metavar="ADDRESS",
        help="Listen at this address of this machine, now and at each later start: config.toml keeps it. [default: the LAN's]",
        show_default=False,
        callback=filled,
    ),
]
PortOption = Annotated[
    int | None,
    typer.Option("--port", help="The door's port; the ROUTER takes the next. [default: a free pair from 7710]", show_default=False),
]
JoinOption = Annotated[
    list[str] | None,
    typer.Option(
        "--join", metavar="HOST:PORT", help="Another node's door; dialled for ever. May be repeated.", show_default=False, callback=filled
    ),
]
MdnsOption = Annotated[bool, typer.Option("--no-mdns", help="Do not announce or browse.")]
MeshOption = Annotated[
    str | None, typer.Option("--mesh", metavar="NAME", help="A separate mesh of this name.", show_default=False, callback=filled)
]
LabelOption = Annotated[
    list[str] | None,
    typer.Option(
        "--label", metavar="NAME[=VALUE]", help="What this machine is: zone=eu, gpu. May be repeated.", show_default=False, callback=filled
    ),
]
ResourceOption = Annotated[
    list[str] | None,
    typer.Option(
        "--resource", metavar="NAME=AMOUNT", help="What this machine has: gpu=1. May be repeated.", show_default=False, callback=filled
    ),
]
RoleOption = Annotated[
    list[str] | None,
    typer.Option("--role", metavar="ROLE", help="What this node offers to be besides: coordinator.", show_default=False, callback=filled),
]
AttachOption = Annotated[bool, typer.Option("--attach", hidden=True)]
"""For a service beside the node's own: wait for the node, never start one."""
DetachOption = Annotated[bool, typer.Option("--detach", "-d", help="Return once it answers, and leave it running.")]
RELOAD_EVERY_S = 0.3
ATTACH_S = 30.0


def up(
    home: HomeOption = None,
    name: NameOption = None,
    bind: BindOption = None,
    port: PortOption = None,
    join: JoinOption = None,
    no_mdns: MdnsOption = False,
    mesh: MeshOption = None,
    role: RoleOption = None,
    detach: DetachOption = False,
    while_used: Annotated[bool, typer.Option("--while-used", hidden=True)] = False,
    accept_rollback: Annotated[
        bool, typer.Option("--accept-rollback", help="Go on with a journal that was deleted or put back from an old copy.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Run this home's node until `mesh down` or Ctrl-C."""
    words = words_for(home, name, bind, port, join, no_mdns, mesh) + role_words(role, as_json)
    where = Where(home, name, as_json)

    ready = _ready(as_json)
    if detach:

        async def start() -> dict[str, Any]:
            from mesh.runtime.home import NodeRunning

            folder = _folder(home, mesh, name)
            if folder.is_running():
                raise NodeRunning(folder.name, folder.path, (folder.info() or {}).get("pid", 0))
            return start_node(folder, words + (["--accept-rollback"] if accept_rollback else []))

        ready(run_async(where, start))
        return
    from mesh.inspector.stock import STOCK
    from mesh.runtime.app import NodeOptions, serve

    options = NodeOptions(
        Path(home) if home else None,
        name or "",
        bind,
        port,
        tuple(join or ()),
        False if no_mdns else None,
        mesh or "",
        while_used,
        accept_rollback,
        prompter(),
        STOCK,
        tuple(role or ()),
    )
    life: NodeOptions | None = options
    while life is not None:  # the next one begins under the credentials that are on disk then
        life = run_async(where, partial(serve, life, ready))


def _ready(as_json: bool) -> Callable[[dict[str, Any]], None]:
    """Says that the node answers."""
    lives = itertools.count(1)

    def ready(info: dict[str, Any]) -> None:
        if as_json:
            if next(lives) == 1:  # one document
                put(json.dumps({"schema": "mesh.up/1", **info}))
        else:
            say(f"node {info['name']} is up: door {info['door']}, process {info['pid']}, home {clean(info['home'])}")
        notify.ready(f"node {info['name']}, door {info['door']}")

    return ready


def _folder(home: str | None, mesh: str | None, name: str | None) -> NodeFolder:
    from mesh.runtime.home import Home

    return Home.locate(home, mesh or "").node(name or "")


def words_for(
    home: str | None, name: str | None, bind: str | None, port: int | None, join: list[str] | None, no_mdns: bool, mesh: str | None
) -> list[str]:
    words = []
    for option, value in (("--home", home), ("--name", name), ("--bind", bind), ("--port", port), ("--mesh", mesh)):
        words += [option, str(value)] if value is not None else []
    for door in join or ():
        words += ["--join", door]
    return words + (["--no-mdns"] if no_mdns else [])


def role_words(role: list[str] | None, as_json: bool) -> list[str]:
    """What a node that is started for this is told of its role. Ends with 2 for one that there is not."""
    from mesh.runtime.settings import check_roles

    try:
        return [word for one in check_roles(role or []) for word in ("--role", one)]
    except MeshError as error:
        fail(error, as_json)


def run(
    targets: Annotated[
        list[str], typer.Argument(metavar="TARGET", help="A .py file, module:object, or a ready-made agent's name.", show_default=False)
    ],
    home: HomeOption = None,
    name: NameOption = None,
    bind: BindOption = None,
    port: PortOption = None,
    join: JoinOption = None,
    no_mdns: MdnsOption = False,
    mesh: MeshOption = None,
    role: RoleOption = None,
    detach: DetachOption = False,
    label: LabelOption = None,
    resource: ResourceOption = None,
    attach: AttachOption = False,
    reload: Annotated[bool, typer.Option("--reload", help="Start the worker again whenever the code changes; the node stays.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Run agents, on this home's node or one started for them.

    A node that was started for a worker ends with its last worker.
    """
    words, roles = words_for(home, name, bind, port, join, no_mdns, mesh), role_words(role, as_json)
    where = Where(home, name, as_json)
    from mesh.runtime.home import Home

    try:
        folder = node_for_worker(Home.locate(home, mesh or ""), name or "")
        if role and folder.is_running():
            raise UsageError(f"node {folder.name} runs already: a node takes a role when it starts", fix="mesh down, then the same again")
        if name is None and folder.is_running():
            words += ["--name", folder.name]
        if detach and reload:
            raise UsageError("--detach and --reload do not go together", fix="leave one of them out")
        facts = [
            word for name, values in (("--label", label), ("--resource", resource)) for value in values or () for word in (name, value)
        ]
        if reload:
            _reload(targets, words, facts, folder, roles)
        elif detach:
            all_words = [*words, *roles, *facts, *(["--attach"] if attach else [])]
            _show_attached(run_async(where, lambda: _detach(targets, all_words, folder)), as_json)
        else:
            _serve(_agents(targets, label, resource), [*words, *roles], folder, where, attach=attach)
    except MeshError as error:
        fail(error, as_json)


def _agents(targets: list[str], labels: list[str] | None, resources: list[str] | None) -> list[Agent]:
    """As their code says, and as this machine is. Raises UsageError."""
    from mesh.inspector.targets import load_agents
    from mesh.labels import amounts_in, labels_of, state

    known, has = labels_of(labels, "--label"), amounts_in(resources or ())
    agents = load_agents(targets)
    for agent in agents:
        state(agent, known, has)
        agent.offers()
    return agents


def _serve(agents: list[Agent], words: list[str], folder: NodeFolder, where: Where, *, attach: bool) -> None:
    from mesh.worker import gone, serve

    started = not attach and _ensure_node(folder, [*words, "--while-used"])

    lives = itertools.count(1)

    def attached(_: object = None) -> None:
        if next(lives) > 1:
            say(f"node {folder.name} is back")
        else:
            _show_attached(_attached_document(agents, folder.name), where.as_json)
        notify.ready(f"{', '.join(agent.name for agent in agents)} at node {folder.name}")

    try:
        run_async(where, lambda: serve(agents, folder.socket_path, on_attached=attached, on_lost=lambda: say(gone(folder.name))))
    except BaseException:
        if started and not folder.is_running():
            say(f"node {folder.name} has ended with it")
        raise


def _attached_document(agents: list[Agent], node: str) -> dict[str, Any]:
    return {
        "schema": "mesh.run/1",
        "node": node,
        "agents": [{"agent": agent.name, "capabilities": list(agent.capabilities)} for agent in agents],
    }


def _show_attached(document: dict[str, Any], as_json: bool) -> None:
    if as_json:
        put(json.dumps(document))
        return
    for agent in document["agents"]:
        say(f"{clean(agent['agent'])}@{clean(document['node'])} offers {', '.join(map(clean, agent['capabilities']))}")


def _ensure_node(folder: NodeFolder, words: list[str]) -> bool:
    """Start the node if none runs. True if this did."""
    if folder.is_running():
        return False
    try:
        info = start_node(folder, words)
    except MeshError:
        if folder.is_running():  # somebody else was faster
            return False
        raise
    say(f"node {info['name']} started for this worker: door {info['door']}")
    return True


async def _detach(targets: list[str], words: list[str], folder: NodeFolder) -> dict[str, Any]:
    """Start the worker on its own and return once it is attached. Raises MeshError with its last words."""
    import asyncio

    log = folder.make().path / "worker.log"
    process = spawn(["run", *targets, *words], log)
    deadline = time.monotonic() + ATTACH_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            said, fix = last_words(log)
            failed = MeshError(f"the worker did not start: {said}", fix=fix or f"see {log}")
            failed.exit_code = process.returncode if process.returncode in (2, 5) else 1
            raise failed
        agents = await _agents_of(folder, process.pid)
        if agents:
            say(f"worker {process.pid} runs on its own; what it says goes to {log}")
            return {"schema": "mesh.run/1", "node": folder.name, "pid": process.pid, "log": str(log), "agents": agents}
        await asyncio.sleep(0.05)
    raise TimedOut(f"the worker did not attach within {ATTACH_S:g} s", fix=f"see {log}")


async def _agents_of(folder: NodeFolder, pid: int) -> list[dict[str, Any]]:
    """What the worker process `pid` offers on this node, once the whole mesh may see it."""
    try:
        async with connect(folder.home.path, folder.name, READY_S) as mesh:
            names = [worker["agent"] for worker in (await mesh.status())["workers"] if worker["pid"] == pid]
            caps = (await mesh.caps())["caps"] if names else []
    except NoNode:
        return []
    offered = {name: [cap["capability"] for cap in caps if f"{name}@{folder.name}" in cap["offered_by"]] for name in names}
    return [{"agent": name, "capabilities": offered[name]} for name in names] if names and all(offered.values()) else []


def _reload(targets: list[str], words: list[str], facts: list[str], folder: NodeFolder, roles: list[str]) -> None:
    """Run the worker as a child and start it anew whenever its code changes. The node belongs to this process, so it stays up meanwhile."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    started = _ensure_node(folder, [*words, *roles])
    try:
        while True:
            child = subprocess.Popen([*MESH, "run", *targets, *words, *facts])
            try:
                _until_changed(targets, child)
            finally:
                end(child.pid)
                child.wait()
            say("the code changed: starting again")
    finally:
        if started:
            _take_down(folder)


def _until_changed(targets: list[str], child: subprocess.Popen[bytes]) -> None:
    from mesh.inspector.targets import fingerprint

    before, told = fingerprint(targets), False
    while fingerprint(targets) == before:
        if not told and child.poll() is not None:
            say("the worker ended; it starts again when the code changes (Ctrl-C ends this)")
            told = True
        time.sleep(RELOAD_EVERY_S)


def _take_down(folder: NodeFolder) -> None:
    async def action() -> None:
        async with connect(folder.home.path, folder.name, READY_S) as mesh:
            if not (await mesh.status())["workers"]:
                await mesh.down()

    import asyncio

    try:
        asyncio.run(action())
    except MeshError as error:
        say(f"mesh: the node {folder.name} did not go down: {error.message}")


def down(
    home: HomeOption = None,
    node: NodeOption = None,
    wait: Annotated[
        float | None,
        typer.Option("--wait", metavar="SECONDS", min=0.0, max=86400.0, help="What runs has so long to end first: 5.", show_default=False),
    ] = None,
    timeout: Annotated[float, bound(30.0)] = 30.0,
    as_json: JsonOption = False,
) -> None:
    """Take a node out: it ends its work, says so to the others, and ends."""
    from mesh.runtime.home import Home

    try:
        folders = Home.locate(home).running()
        if node is None and len(folders) > 1:
            names = ", ".join(folder.name for folder in folders)
            raise UsageError(f"several nodes of this home run: {names}", fix=f"mesh down --node {folders[0].name}")
    except MeshError as error:
        fail(error, as_json)

    async def action(mesh: Mesh) -> dict[str, Any]:
        import asyncio

        document = await mesh.down(wait)
        gone = next((folder for folder in folders if folder.name == document["node"]), None)
        while gone is not None and gone.is_running():  # noqa: ASYNC110  another process's lock sends no event
            await asyncio.sleep(0.02)
        return document

    ask(Where(home, node, as_json, timeout + (wait or 0.0)), action, lambda document: f"node {clean(document['node'])} is down")
