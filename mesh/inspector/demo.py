"""`mesh demo`: four nodes on this machine, real work over real data, and a node killed on the way.

Everything it shows is read back from the mesh: tasks, decisions and lineage come from the journal of the node the task was submitted to.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mesh.errors import MeshError, UsageError
from mesh.inspector.render import say
from mesh.inspector.shell import JsonOption, Where, fail, filled, run, show_document

if TYPE_CHECKING:
    from mesh.inspector.play import Play

FOLDER = "mesh-demo"
PIPELINE, SUPPORT, REGULATED, DELIVERY = "pipeline", "support", "regulated", "delivery"
DEMOS = {
    PIPELINE: "mesh demo: four nodes, one pipeline, one kill -9",
    SUPPORT: "mesh demo support: four nodes, three tickets, one kill -9, and a person who is asked",
    REGULATED: "mesh demo regulated: four nodes, two payouts that two others have to approve, one kill -9, one audit",
    DELIVERY: "mesh demo delivery: four nodes, two releases of which one is rolled back, one kill -9",
}
"""Each demo's name, and the line it begins with."""


def demo(
    name: Annotated[
        str,
        typer.Argument(metavar="NAME", help="pipeline (if none is given), support, regulated or delivery.", show_default=False),
    ] = PIPELINE,
    data: Annotated[
        str | None,
        typer.Option("--data", metavar="FILE.csv", help="Your own data instead of the weather's.", show_default=False, callback=filled),
    ] = None,
    ask: Annotated[bool, typer.Option("--ask", help="support: wait for you to approve what it would approve itself.")] = False,
    stop: Annotated[bool, typer.Option("--stop", help="Stop the mesh that an earlier demo left up.")] = False,
    folder: Annotated[str, typer.Option("--dir", metavar="DIR", help="Where its nodes and its report live.", callback=filled)] = FOLDER,
    no_mdns: Annotated[bool, typer.Option("--no-mdns", help="Find each other through a seed instead of mDNS.")] = False,
    as_json: JsonOption = False,
) -> None:
    """A whole mesh here: real work, one node killed, the proof.

    pipeline: four nodes run a data pipeline; the node that owns a running step is killed; its work is negotiated again and finished
    elsewhere. support: messages are answered with quotes from documents, or by a person. regulated: payouts that two others have to
    approve, and an audit. delivery: a program is built, tested and promoted, or rolled back. The mesh stays up to look around in; with
    --json it is stopped, and exit 0 means that everything was true.
    """
    where = Where(None, None, as_json)
    place = Path(folder)
    try:
        _check(name, data, ask, as_json)
    except MeshError as error:
        fail(error, as_json)
    if stop:
        stopped = run(where, lambda: _stop(place))
        none = f"no demo runs in {place.absolute()}; one that was started elsewhere: mesh demo --stop --dir DIR"
        message = f"stopped {stopped} processes" if stopped else none
        show_document({"schema": "mesh.demo-stop/1", "stopped": stopped}, lambda _: message, as_json)
        return
    try:
        play = _play(name, place, data, ask=ask, quiet=as_json, mdns=not no_mdns)
    except MeshError as error:
        fail(error, as_json)
    if not as_json:
        say(DEMOS[name])
    document = run(where, play.play)
    if as_json:
        show_document(document, str, as_json)
    if not document["ok"]:
        raise typer.Exit(1)


def _check(name: str, data: str | None, ask: bool, as_json: bool) -> None:
    """Raises UsageError for a demo that is not there, and for options that are another demo's."""
    if name not in DEMOS:
        near = difflib.get_close_matches(name, DEMOS, 1)
        raise UsageError(f"there is no demo {name!r}", fix=f"mesh demo {near[0]}" if near else f"mesh demo {', '.join(DEMOS)}")
    if data is not None and name != PIPELINE:
        raise UsageError(f"the demo {name} brings its own data", fix=f"mesh demo {name}, or mesh demo --data FILE.csv")
    if ask and (name != SUPPORT or as_json):
        raise UsageError("only the demo support waits for a person, who reads what it says", fix="mesh demo support --ask")


def _play(name: str, place: Path, data: str | None, *, ask: bool, quiet: bool, mdns: bool) -> Play:
    """The demo, ready to be played. Raises UsageError if what it works on is missing."""
    if name == SUPPORT:
        from mesh.inspector.demo_support import Support

        return Support(place, quiet=quiet, mdns=mdns, ask=ask)
    if name == REGULATED:
        from mesh.inspector.demo_regulated import Regulated

        return Regulated(place, quiet=quiet, mdns=mdns)
    if name == DELIVERY:
        from mesh.inspector.demo_delivery import Delivery

        return Delivery(place, quiet=quiet, mdns=mdns)
    from mesh.inspector.story import Story

    return Story(place, _source(data), quiet=quiet, mdns=mdns)


async def _stop(place: Path) -> int:
    from mesh.inspector.crew import Crew

    if not place.is_dir():
        return 0
    crew = Crew(place)
    crew.take()
    return await crew.stop()


def _source(data: str | None) -> Path:
    """The user's file, or the data that ships with the ready-made agents. Raises UsageError."""
    if data is not None:
        source = Path(data)
        if not source.is_file():
            raise UsageError(f"there is no file {data!r}", fix="mesh demo --data FILE.csv")
        return source
    from importlib.resources import files

    source = Path(str(files("mesh_agents"))) / "data" / "weather.csv"
    if not source.is_file():
        raise UsageError(f"{source} is missing from this installation", fix="mesh demo --data FILE.csv")
    return source
