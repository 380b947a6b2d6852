"""Repair: doctor, verify."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from mesh.client import Mesh
from mesh.errors import MeshError
from mesh.inspector import doctor as checks
from mesh.inspector.render import clean, table
from mesh.inspector.shell import HomeOption, JsonOption, NodeOption, Where, ask, fail, show_document
from mesh.runtime.home import Home

MARKS = {checks.OK: "ok", checks.WARN: "warn", checks.FAIL: "FAIL"}


def doctor(home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Multicast, ports, clock, permissions, disk: what is wrong, and what to type. Exit 6 if something is."""
    try:
        document = checks.document(checks.examine(Home.locate(home)))
    except MeshError as error:
        fail(error, as_json)
    show_document(document, _show_doctor, as_json)
    if not document["healthy"]:
        raise typer.Exit(6)


def _show_doctor(document: dict[str, Any]) -> str:
    lines = []
    for finding in document["findings"]:
        lines.append(f"{MARKS[finding['state']]:<5} {finding['check']:<12} {clean(finding['message'])}")
        if finding["fix"]:
            lines.append(f"{'':<5} {'':<12} try: {clean(finding['fix'])}")
    return "\n".join(lines)


def verify(
    export: Annotated[Path | None, typer.Option("--export", help="Also write the journal here, for the independent verifier.", show_default=False)] = None,
    home: HomeOption = None,
    node: NodeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check every signature, link and hash of this node's journal, and the heads peers hold. Exit 5 on the first that is wrong."""

    async def action(mesh: Mesh) -> dict[str, Any]:
        return await mesh.verify(export=export)

    ask(Where(home, node, as_json, timeout_s=120), action, _show_verify, exit_code=lambda document: 0 if document["ok"] else 5)


def _show_verify(document: dict[str, Any]) -> str:
    rows = [(key, document[key]) for key in ("author", "entries", "commits", "incarnation", "head", "forks") if key in document]
    text = table(("", ""), rows, empty="").strip("\n ")
    verdict = "every signature, link and hash holds" if document["ok"] else f"WRONG: {document['problem']}"
    return f"{text}\n{verdict}"
