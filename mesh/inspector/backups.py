"""Repair: backup, restore."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from mesh.errors import MeshError
from mesh.inspector.render import clean, say
from mesh.inspector.shell import HomeOption, JsonOption, NodeOption, explained, fail, filled, prompter, show_document

WHOLE_KEY = "whoever has this file can be this node, and read what it has sealed: keep it as you keep the home"


def backup(
    target: Annotated[
        str,
        typer.Argument(metavar="FILE|DIR", help="A new file; or a folder, for one of its own name.", show_default=False, callback=filled),
    ],
    home: HomeOption = None,
    node: NodeOption = None,
    without_key: Annotated[
        bool, typer.Option("--without-key", help="Leave out the file that opens it (HOME/mesh/kek.N), to keep that apart.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Copy a node, running or not, with its journal, files and keys, into one file.

    All of it is of one moment. Private files are sealed by the home's vault.
    """
    from mesh.runtime.disk.backup import back_up
    from mesh.runtime.home import Home

    try:
        document = back_up(Home.locate(home).node(node or ""), Path(target), with_key=not without_key, prompt=prompter())
    except MeshError as error:
        fail(error, as_json)
    except OSError as error:
        fail(explained(error), as_json)
    show_document({"schema": "mesh.backup/1", **document}, _show_backup, as_json)


def _show_backup(document: dict[str, Any]) -> str:
    files = f"{document['files']} file{'' if document['files'] == 1 else 's'}"
    if document["key"]:
        say(f"note: {WHOLE_KEY}")
    elif document["kek"] == "file":
        say("note: it opens only with this home's key, which is not in it: keep HOME/mesh/kek.N too, and apart")
    else:
        say(f"note: it opens only with this home's {clean(document['kek'])}, which is not in it")
    return f"{clean(document['file'])}: node {clean(document['node'])}, {document['entries']} entries, {files}, {document['bytes']} bytes"


def restore(
    file: Annotated[str, typer.Argument(metavar="FILE", help="What `mesh backup` wrote.", show_default=False, callback=filled)],
    home: HomeOption = None,
    replace: Annotated[bool, typer.Option("--replace", help="Where the node is there already: move that one aside.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Put a node back from its backup, into an empty home or its own.

    What it did after the backup is lost to it. It goes on by itself only if nobody in the mesh knows it further.
    """
    from mesh.runtime.disk.restore import restore as put_back
    from mesh.runtime.home import Home

    try:
        document = put_back(Path(file), Home.locate(home), replace=replace, prompt=prompter())
    except MeshError as error:
        fail(error, as_json)
    except OSError as error:
        fail(explained(error), as_json)
    where = f" --home {document['home']}" if home else ""
    document = {"schema": "mesh.restore/1", **document, "next": f"mesh up{where} --name {document['node']}"}
    show_document(document, _show_restore, as_json)


def _show_restore(document: dict[str, Any]) -> str:
    if document["moved_aside"]:
        say(f"note: the node that was there is in {clean(document['moved_aside'])}")
    made = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(document["made_ms"] / 1000))
    where = f"node {clean(document['node'])} is back in {clean(document['home'])}"
    return "\n".join(
        (
            f"{where}, as of {made} UTC: {document['entries']} entries, {document['files']} files",
            f"start it: {clean(document['next'])}",
            "it goes on if no other node knows it further than this; else it says so, and ends",
        )
    )
