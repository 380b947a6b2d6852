"""Repair: doctor, verify."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from mesh.client import Mesh
from mesh.errors import MeshError
from mesh.inspector.render import clean, fit
from mesh.inspector.shell import HomeOption, JsonOption, LookTimeout, NodeOption, Where, ask, bound, fail, filled, show_document

NODE_ANSWERS_S = 3.0
VERIFY_S = 120.0


def doctor(home: HomeOption = None, timeout: LookTimeout = NODE_ANSWERS_S, as_json: JsonOption = False) -> None:
    """Multicast, ports, clock, permissions, disk, nodes.

    What is wrong, and what to type. Exit 6 if something is.
    """
    from mesh.inspector import doctor as checks
    from mesh.runtime.home import Home

    try:
        document = checks.document(checks.examine(Home.locate(home), timeout))
    except MeshError as error:
        fail(error, as_json)
    show_document(document, _show_doctor, as_json)
    if not document["healthy"]:
        raise typer.Exit(6)


def _show_doctor(document: dict[str, Any]) -> str:
    lines = []
    for finding in document["findings"]:
        mark = {"ok": "ok", "warn": "note", "fail": "WRONG"}[finding["state"]]
        lines.append(f"{fit(mark, 7)}{fit(finding['check'], 13)}{clean(finding['message'])}")
        if finding["fix"]:
            lines.append(f"{'':<20}try: {clean(finding['fix'])}")
    wrong = sum(finding["state"] == "fail" for finding in document["findings"])
    lines.append("nothing is wrong" if not wrong else f"{wrong} thing{'s are' if wrong > 1 else ' is'} wrong")
    return "\n".join(lines)


def verify(
    export: Annotated[
        str | None,
        typer.Option("--export", metavar="FILE", help="Also write the journal, for scripts/verify.", show_default=False, callback=filled),
    ] = None,
    home: HomeOption = None,
    node: NodeOption = None,
    timeout: Annotated[float, bound(VERIFY_S)] = VERIFY_S,
    as_json: JsonOption = False,
) -> None:
    """Check this node's whole journal, and the heads peers hold.

    Every signature, link and hash. Exit 5 on the first that is wrong.
    """

    async def action(mesh: Mesh) -> dict[str, Any]:
        return await mesh.verify(export=export) | ({"export": export} if export else {})

    ask(Where(home, node, as_json, timeout), action, _show_verify, exit_code=lambda document: 0 if document["ok"] else 5)


def _show_verify(document: dict[str, Any]) -> str:
    lines = [
        f"{fit(key, 13)}{clean(document[key])}"
        for key in ("author", "entries", "commits", "incarnation", "head", "forks")
        if key in document
    ]
    lines += [f"{fit('co-signed', 13)}{line}" for line in _cosigned(document.get("witnesses") or [])]
    if document.get("export"):
        lines.append(f"{fit('exported', 13)}{clean(document['export'])}; check it apart: scripts/verify {clean(document['export'])}")
    lines.append("every signature, link and hash holds" if document["ok"] else f"WRONG: {clean(document['problem'])}")
    if not document["ok"] and document.get("fix"):
        lines.append(f"try:  {clean(document['fix'])}")
    return "\n".join(lines)


def _cosigned(witnesses: list[dict[str, Any]]) -> list[str]:
    """Who confirms how much: whoever has signed a later entry has confirmed the earlier ones too."""
    lines: dict[int, str] = {}
    names: list[str] = []
    for witness in witnesses:
        names.append(clean(witness["node"]))
        lines[witness["entry"]] = f"entries up to {witness['entry']} by {', '.join(names)}"
    return list(lines.values())
