"""`mesh demo`: four nodes on this machine, a real pipeline over real data, and the node that owns a running step killed on the way.

Everything it shows is read back from the mesh: tasks, decisions and lineage come from the journal of the node the task was submitted to.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mesh.errors import MeshError, UsageError
from mesh.inspector.render import say
from mesh.inspector.shell import JsonOption, Where, fail, filled, run, show_document

FOLDER = "mesh-demo"


def demo(
    data: Annotated[
        str | None,
        typer.Option("--data", metavar="FILE.csv", help="Your own data instead of the weather's.", show_default=False, callback=filled),
    ] = None,
    stop: Annotated[bool, typer.Option("--stop", help="Stop the mesh that an earlier demo left up.")] = False,
    folder: Annotated[str, typer.Option("--dir", metavar="DIR", help="Where its nodes and its report live.", callback=filled)] = FOLDER,
    no_mdns: Annotated[bool, typer.Option("--no-mdns", help="Find each other through a seed instead of mDNS.")] = False,
    as_json: JsonOption = False,
) -> None:
    """A whole mesh here: real work, one node killed, the proof.

    Four nodes run a data pipeline; the node that owns a running step is killed; its work is negotiated again and finished elsewhere. The
    mesh stays up to look around in; with --json it is stopped, and exit 0 means that everything was true.
    """
    where = Where(None, None, as_json)
    place = Path(folder)
    if stop:
        stopped = run(where, lambda: _stop(place))
        none = f"no demo runs in {place.absolute()}; one that was started elsewhere: mesh demo --stop --dir DIR"
        message = f"stopped {stopped} processes" if stopped else none
        show_document({"schema": "mesh.demo-stop/1", "stopped": stopped}, lambda _: message, as_json)
        return
    try:
        source = _source(data)
    except MeshError as error:
        fail(error, as_json)
    if not as_json:
        say("mesh demo: four nodes, one pipeline, one kill -9")
    from mesh.inspector.story import Story

    document = run(where, lambda: Story(place, source, quiet=as_json, mdns=not no_mdns).play())
    if as_json:
        show_document(document, str, as_json)
    if not (document["reassigned"] and document["lineage_verified"]):
        raise typer.Exit(1)


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
