"""Watch: audit. What the journals have on record for security's sake: who joined, was invited, refused, revoked, what was rotated."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from mesh.client import Mesh
from mesh.errors import UsageError
from mesh.ids import short
from mesh.inspector.render import clean, table
from mesh.inspector.shell import LOOK_S, HomeOption, JsonOption, LookTimeout, NodeOption, Where, ask, fail

NODE_ID_CHARS = 32
SHOWN = 200
"""The newest entries, where nothing else is asked for."""


def audit(
    about: Annotated[
        str, typer.Argument(metavar="ABOUT", help="Only what concerns this node (name or id), home or invitation.", show_default=False)
    ] = "",
    everywhere: Annotated[bool, typer.Option("--all", help="Of every linked node, not of this one alone.")] = False,
    since: Annotated[
        int | None, typer.Option("--since", metavar="SEQ", min=0, help="All after this entry of the node's journal.", show_default=False)
    ] = None,
    home: HomeOption = None,
    node: NodeOption = None,
    timeout: LookTimeout = LOOK_S,
    as_json: JsonOption = False,
) -> None:
    """Joins, invites, refusals, revocations, rotations, as the journals have them.

    Every proof is checked. Exit 1 if one does not hold.
    """
    if everywhere and since is not None:
        fail(UsageError("each node's journal has numbers of its own", fix="mesh audit --all"), as_json)

    async def action(mesh: Mesh) -> dict[str, Any]:
        return await mesh.audit(
            await _home_called(mesh, about), everywhere=everywhere, since=since or 0, limit=SHOWN if since is None else 0
        )

    def exit_code(document: dict[str, Any]) -> int:
        return 0 if all(entry["verified"] for entry in document["entries"]) else 1

    def show(document: dict[str, Any]) -> str:
        return _show_audit(document, _nothing(about, everywhere))

    ask(Where(home, node, as_json, timeout), action, show, exit_code=exit_code)


async def _home_called(mesh: Mesh, about: str) -> str:
    """The id of the home that is called so, where no node is; else what was asked for."""
    if not about:
        return about
    known = await mesh.office("trust")
    if any(about == member["name"] for member in known["members"]):
        return about
    homes = [member["home"] for member in known["members"] if member["home_name"] == about]
    homes += [gone["id"] for gone in known["revoked"] if gone["level"] == "home" and gone["name"] == about]
    return homes[0] if homes else about


def _nothing(about: str, everywhere: bool) -> str:
    """What is said where no entry is found: a name nobody has reads differently from a quiet journal."""
    what = f"nothing about {clean(about)!r} is on record" if about else "nothing is on record"
    words = " ".join(filter(None, ("mesh audit", clean(about), "--all")))
    return what if everywhere else f"{what} in this node's journal; in all of them:  {words}"


def _show_audit(document: dict[str, Any], nothing: str) -> str:
    rows = [
        (
            datetime.fromtimestamp(entry["wall_ms"] / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            entry.get("what", entry["kind"]),
            _named(entry, "about"),
            _named(entry, "by"),
            entry.get("note", "") if entry["verified"] else f"NOT VERIFIED {entry.get('note', '')}",
            entry["node"],
        )
        for entry in document["entries"]
    ]
    lines = [table(("WHEN", "WHAT", "ABOUT", "BY", "NOTE", "NODE"), rows, empty=nothing)]
    if document["missing"]:
        lines.append(f"not answering, so their records are not shown: {clean(', '.join(map(str, document['missing'])))}")
    return "\n".join(lines)


def _named(entry: dict[str, Any], field: str) -> str:
    """A node by its name; an id that nobody here has a name for, in its short form."""
    name, identifier = str(entry.get(f"{field}_name", "")), str(entry.get(field, ""))
    return short(identifier) if name == identifier and len(name) == NODE_ID_CHARS and name.isalnum() else name
