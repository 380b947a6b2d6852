"""Start, across machines: init, invite, join, id."""

from __future__ import annotations

import json
import math
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mesh.client import Mesh
from mesh.errors import MeshError, Refused, UsageError
from mesh.inspector.render import clean, fit, say
from mesh.inspector.shell import HomeOption, JsonOption, LookTimeout, NodeOption, Where, ask_office, bound, fail, filled, put, show_document
from mesh.inspector.shell import run as run_async
from mesh.inspector.start import JoinOption, MdnsOption, NameOption, PortOption, RememberedBind, words_for

if TYPE_CHECKING:
    from mesh.runtime.home import Home

JOIN_S = 600.0
TTL_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
TTL_MAX_S = 30 * TTL_UNITS["d"]
TOKEN_BYTES_MAX = 4096
NoStart = Annotated[bool, typer.Option("--no-start", help="Do not start this home's node.")]
MembersName = Annotated[
    str | None,
    typer.Option(
        "--as", metavar="NAME", help="What the others shall call this home, in trust and revoke; else the host's name.", callback=filled
    ),
]


def init(
    mesh: Annotated[
        str | None, typer.Argument(metavar="NAME", help="What people shall call the mesh.", show_default=False, callback=filled)
    ] = None,
    mode: Annotated[str, typer.Option("--mode", help="token: certificates of 90 days; ca: of 7 days, root key kept elsewhere.")] = "token",
    home: HomeOption = None,
    name: NameOption = None,
    bind: RememberedBind = None,
    port: PortOption = None,
    no_mdns: MdnsOption = False,
    no_start: NoStart = False,
    as_json: JsonOption = False,
) -> None:
    """Make a mesh that other machines may join, and start its first node.

    Also in a home that is in use: its nodes keep their ids, journals and agents.
    """
    from mesh.joining import document, make_mesh

    def make(place: Home) -> dict[str, Any]:
        if mode not in ("token", "ca"):
            raise UsageError(f"--mode {mode}: there are token and ca", fix="mesh init --mode token")
        called = _name(mesh, "NAME")
        node.check(place)
        return document(make_mesh(place, mode, called), "mesh.init/1")

    node = FirstNode(home, name, bind, port, (), no_mdns, no_start)
    _enter(node, as_json, make, _show_init)


def _name(given: str | None, option: str) -> str:
    """Raises UsageError for what is no name."""
    from mesh.runtime.home import check_name, host_name

    return check_name(given, option) if given else host_name()


@dataclass(frozen=True, slots=True)
class FirstNode:
    """The node that is started when a home has come to a mesh, unless some run already: the options of `mesh up`."""

    home: str | None
    name: str | None
    bind: str | None
    port: int | None
    seeds: tuple[str, ...]
    no_mdns: bool
    no_start: bool

    def check(self, place: Home) -> None:
        """Raises UsageError for what would keep it from starting, while nothing has happened yet."""
        from mesh.runtime import settings

        place.node(self.name or "")
        self._nothing_ignored(place)
        found = settings.load_settings(place, bind=self.bind, port=self.port, join=self.seeds)
        if not self.no_start and not place.running():
            settings.place(found, "token")

    def _nothing_ignored(self, place: Home) -> None:
        """Nodes that run go on as they were started, and an address that is not heeded would open them to a network."""
        options = {"--bind": self.bind, "--port": self.port, "--join": self.seeds, "--no-mdns": self.no_mdns}
        given = [option for option, value in options.items() if value]
        if given and (running := place.running()):
            raise UsageError(
                f"{given[0]} is for a node that starts, and {running[0].name} runs already",
                fix=f"put it into {place.path / 'config.toml'}, and leave out {given[0]}; or mesh down --node {running[0].name} first",
            )

    def begin(self, place: Home, where: Where) -> dict[str, Any]:
        """Let the nodes that run begin anew, or start this one."""
        from mesh.joining import begin_anew
        from mesh.launch import start_node
        from mesh.runtime.settings import remember_bind

        if self.bind is not None:
            remember_bind(place, self.bind)
        if names := run_async(where, lambda: begin_anew(place)):
            return {"node": names[0], "nodes": names, "started": False}
        if self.no_start:
            return {"node": "", "nodes": [], "started": False}
        words = words_for(self.home, self.name, self.bind, self.port, list(self.seeds), self.no_mdns, None)
        info = start_node(place.node(self.name or ""), words)
        return {"node": info["name"], "nodes": [info["name"]], "started": True, "addr": info["door"]}


def _enter(node: FirstNode, as_json: bool, make: Callable[[Home], dict[str, Any]], show: Callable[[dict[str, Any]], str]) -> None:
    """Make or join, then let the nodes that run begin anew, or start one."""
    from mesh.runtime.home import Home

    try:
        place = Home.locate(node.home)
        document = make(place)
        document |= node.begin(place, Where(node.home, None, as_json))
    except MeshError as error:
        fail(error, as_json)
    show_document(document, show, as_json)


def _node_line(document: dict[str, Any]) -> str:
    if document["started"]:
        return f"node {clean(document['node'])} is up: door {clean(document['addr'])}"
    if document["nodes"]:
        return f"running on under it: {clean(', '.join(document['nodes']))}"
    return "no node runs yet: mesh up"


def _show_init(document: dict[str, Any]) -> str:
    return "\n".join(
        (
            f"mesh {clean(document['name'])} is made (mode {document['mode']}); its fingerprint is {document['mesh']}",
            _node_line(document),
            "let another machine in:  mesh invite",
        )
    )


def invite(
    role: Annotated[
        list[str] | None, typer.Option("--role", help="member (default), worker, requester, observer or approver. May be repeated.")
    ] = None,
    offer: Annotated[
        list[str] | None, typer.Option("--offer", metavar="PATTERN", help="Capabilities it may offer, like 'ocr.*'. May be repeated.")
    ] = None,
    request: Annotated[
        list[str] | None, typer.Option("--request", metavar="PATTERN", help="Capabilities it may ask for. May be repeated.")
    ] = None,
    ttl: Annotated[str, typer.Option("--ttl", metavar="TIME", help="How long it may be used: 30s, 15m, 2h, 7d.")] = "15m",
    issuer: Annotated[
        bool | None,
        typer.Option("--issuer/--no-issuer", help="May it admit others? By default the second machine may.", show_default=False),
    ] = None,
    home: HomeOption = None,
    node: NodeOption = None,
    timeout: LookTimeout = 10.0,
    as_json: JsonOption = False,
) -> None:
    """Make a token with which one machine may join, once."""
    where = Where(home, node, as_json, timeout)
    try:
        life_s = _seconds(ttl)
    except MeshError as error:
        fail(error, as_json)
    params = {"roles": role or [], "offers": offer or [], "requests": request or [], "life_s": life_s}
    params["issuer"] = "auto" if issuer is None else "yes" if issuer else "no"
    ask_office(where, "invite", _show_invite, **params)


def _show_invite(document: dict[str, Any]) -> str:
    say(f"on the other machine, until {document['expires']}, once:  mesh join TOKEN    (or, so that nobody sees it:  mesh join -)")
    return str(document["token"])


def _seconds(text: str) -> float:
    number, unit = text[:-1], text[-1:]
    try:
        seconds = float(number) * TTL_UNITS[unit]
    except (ValueError, KeyError):
        seconds = math.nan
    if not 0 < seconds <= TTL_MAX_S:
        raise UsageError(f"--ttl {text!r} is no time from 1s to {TTL_MAX_S // TTL_UNITS['d']}d", fix="--ttl 15m")
    return seconds


def join(
    token: Annotated[
        str | None, typer.Argument(metavar="TOKEN|-", help="From `mesh invite`; - reads it from standard input.", show_default=False)
    ] = None,
    file: Annotated[
        str | None, typer.Option("--file", metavar="FILE", help="Read the token from a file.", show_default=False, callback=filled)
    ] = None,
    ask_for: Annotated[
        str | None,
        typer.Option("--ask", metavar="HOST:PORT|mdns", help="Ask there to be let in, by a code that a person compares.", callback=filled),
    ] = None,
    called: MembersName = None,
    home: HomeOption = None,
    name: NameOption = None,
    bind: RememberedBind = None,
    port: PortOption = None,
    seeds: JoinOption = None,
    no_mdns: MdnsOption = False,
    no_start: NoStart = False,
    timeout: Annotated[float, bound(JOIN_S)] = JOIN_S,
    as_json: JsonOption = False,
) -> None:
    """Join a mesh with a token from `mesh invite`, and start this machine's node.

    Also in a home that is in use: its nodes keep their ids, journals and agents. Without a token: which meshes are seen here.
    """
    from mesh.joining import document, join_by_token

    where = Where(home, None, as_json, timeout)

    node = FirstNode(home, name, bind, port, tuple(seeds or ()), no_mdns, no_start)

    def make(place: Home) -> dict[str, Any]:
        label = _name(called, "--as")
        node.check(place)
        if ask_for is not None:
            address = _door_to_ask(ask_for, where, bind or "")
            joined = run_async(where, lambda: _ask_in(place, address, timeout, label, name))
        else:
            text = _token(token, file)
            joined = run_async(where, lambda: join_by_token(place, text, label, name or ""))
        return document(joined, "mesh.join/1")

    ways = [way for way in (token, file, ask_for) if way is not None]
    if len(ways) > 1:
        fail(UsageError("TOKEN, --file and --ask are three ways in", fix="say one of them"), as_json)
    if not ways:
        _nothing_to_join(where, bind or "")
    _enter(node, as_json, make, _show_join)


def _door_to_ask(said: str, where: Where, bind: str) -> str:
    """The address of a door; `mdns`: of the first that is announced here. Raises UsageError, Refused."""
    from mesh.joining import meshes_seen
    from mesh.runtime.settings import check_door

    if said != "mdns":
        return check_door(said, "--ask")
    seen = run_async(where, lambda: meshes_seen(bind))
    if not seen:
        raise Refused("no mesh is seen from here", fix="mesh join --ask HOST:PORT", code="no_mesh_seen")
    return str(seen[0]["addr"])


async def _ask_in(place: Home, address: str, timeout_s: float, called: str, node: str | None) -> Any:
    from mesh.joining import join_by_asking

    return await join_by_asking(place, address, lambda code: _show_code(code, address), timeout_s, name=called, node=node or "")


def _token(token: str | None, file: str | None) -> str:
    if file is not None:
        try:
            with open(file, "rb") as found:
                return found.read(TOKEN_BYTES_MAX).decode()
        except OSError as error:
            raise UsageError(f"the file {file!r} cannot be read: {error.strerror}", fix=f"ls -l {shlex.quote(file)}") from None
        except UnicodeDecodeError:
            raise UsageError(f"the file {file!r} holds no invitation: it is no text", fix="mesh invite, there, for a new one") from None
    if token == "-":
        if sys.stdin is None:
            raise UsageError("standard input is closed, so no invitation can come from it", fix="mesh join --file FILE")
        return sys.stdin.read(TOKEN_BYTES_MAX)
    assert token is not None, "one of them was given"
    return token


def _show_code(code: str, address: str) -> None:
    say(f"asking at {clean(address)}. On that machine, if `mesh trust` there shows the same code:")
    say(f"    mesh trust {code}")


def _nothing_to_join(where: Where, bind: str) -> None:
    from mesh.joining import meshes_seen

    seen = run_async(where, lambda: meshes_seen(bind))
    if where.as_json:
        put(json.dumps({"schema": "mesh.join/1", "seen": seen}))
    else:
        for one in seen:
            say(f"a mesh is seen at {clean(one['addr'])}" + (f" (node {clean(one['node'])})" if one["node"] else ""))
        say("no mesh is seen from here" if not seen else "on a machine of it:  mesh invite      then here:  mesh join TOKEN")
        say(f"or, without a token:  mesh join --ask {clean(seen[0]['addr']) if seen else 'HOST:PORT'}")
    raise typer.Exit(0 if seen else 1)


def _show_join(document: dict[str, Any]) -> str:
    return "\n".join((f"joined mesh {clean(document['name'])} as {', '.join(document['roles'])}", _node_line(document)))


def id(home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Who this home is: its mesh, its id, what it may do, its nodes."""
    from mesh.joining import describe
    from mesh.runtime.home import Home

    try:
        document = describe(Home.locate(home))
    except MeshError as error:
        fail(error, as_json)
    show_document(document, _show_id, as_json)


def _show_id(document: dict[str, Any]) -> str:
    keys = ("mesh", "name", "mode", "home", "expires", "path")
    lines = [f"{fit(key, 10)}{clean(document[key])}" for key in keys if document[key]]
    lines.append(f"{fit('roles', 10)}{', '.join(document['roles'])}")
    lines += [f"{fit('node', 10)}{clean(one['name'])}  {one['id']}{'  (runs)' if one['running'] else ''}" for one in document["nodes"]]
    return "\n".join(lines)


__all__ = ["Mesh", "id", "init", "invite", "join"]
