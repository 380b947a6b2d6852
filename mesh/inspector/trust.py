"""Trust, as people look after it: trust, grant, revoke, rotate."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from mesh.ids import short
from mesh.inspector.render import clean, fit, say, table
from mesh.inspector.shell import HomeOption, JsonOption, LookTimeout, NodeOption, Where, ask_office, bound

ROTATE_S = 60.0


def trust(
    code: Annotated[
        str | None, typer.Argument(metavar="CODE", help="Let in the machine that shows this code (`mesh join --ask`).", show_default=False)
    ] = None,
    role: Annotated[list[str] | None, typer.Option("--role", help="With CODE: as mesh invite --role; member.")] = None,
    home: HomeOption = None,
    node: NodeOption = None,
    timeout: LookTimeout = 10.0,
    as_json: JsonOption = False,
) -> None:
    """Whom this mesh believes; with a code: let a machine in."""
    where = Where(home, node, as_json, timeout)
    if code is not None:
        params = {"code": code, "roles": role or []}
        ask_office(where, "admit", lambda document: f"{clean(document['admitted'])} is let in", **params)
    else:
        ask_office(where, "trust", _show_trust)


def _show_trust(document: dict[str, Any]) -> str:
    here = "; ".join(
        [
            "this machine admits members" if document["admits"] else "this machine admits nobody",
            *(["it holds the root key"] if document["root"] else []),
        ]
    )
    lines = [
        f"{fit('mesh', 8)}{clean(document['name'])}, mode {document['mode']}, fingerprint {document['mesh']}",
        f"{fit('here', 8)}{here}",
        "",
    ]
    rows = [
        (
            one["name"],
            ", ".join(one["roles"]),
            " ".join(one["offers"]),
            " ".join(one["requests"]),
            one["expires"] or "-",
            short(one["id"]),
            f"{one['home_name']} {short(one['home'])}",
        )
        for one in document["members"]
    ]
    lines.append(table(("NODE", "ROLES", "MAY OFFER", "MAY ASK FOR", "EXPIRES", "ID", "HOME"), rows, empty="no members"))
    lines += [
        f"REVOKED  {clean(one['level'])} {clean(one['name'])} {short(one['id'])}  {clean(one['reason'])}" for one in document["revoked"]
    ]
    lines += [
        f"ASKS     {clean(one['name'])} shows the code {one['code']}; the same there? then: mesh trust {one['code']}"
        for one in document["waiting"]
    ]
    return "\n".join(lines)


def grant(
    right: Annotated[str, typer.Argument(metavar="RIGHT", help="issuer: may admit and renew members.")],
    who: Annotated[str, typer.Argument(metavar="NODE", help="A node's name, its home's, or 6 characters or more of an id.")],
    home: HomeOption = None,
    node: NodeOption = None,
    timeout: LookTimeout = 10.0,
    as_json: JsonOption = False,
) -> None:
    """Let another machine admit and renew members too."""
    where = Where(home, node, as_json, timeout)
    ask_office(where, "grant", lambda document: f"{clean(document['to'])} may admit and renew members now", right=right, who=who)


def revoke(
    who: Annotated[str, typer.Argument(metavar="NODE", help="A node's name, its home's, or 6 characters or more of an id.")],
    reason: Annotated[str, typer.Option("--reason", help="For the record.")] = "",
    whole_home: Annotated[
        bool | None,
        typer.Option(
            "--home-too/--only-node",
            help="Its home with every node of it (another machine's, by default), or that node alone (one of this home's own).",
            show_default=False,
        ),
    ] = None,
    home: HomeOption = None,
    node: NodeOption = None,
    timeout: LookTimeout = 10.0,
    as_json: JsonOption = False,
) -> None:
    """Believe a machine or a node no more, everywhere, for good.

    Its connections are cut, its work is given to others; the issuer's key that it was given here goes with it.
    """
    where = Where(home, node, as_json, timeout)
    params = {"who": who, "reason": reason, "home": whole_home}
    ask_office(where, "revoke", _show_revoke, **params)


def _show_revoke(document: dict[str, Any]) -> str:
    if home := document.get("home"):
        say(f"its home is believed as before, and may start other nodes; to end that:  mesh revoke {short(home)} --home-too")
    if document["also"]:
        say(f"out with it, because it had admitted them: {clean(', '.join(document['also']))}; whom you trust joins anew from a new home")
    key = ", and its issuer's key" if document["issuers"] else ""
    return f"{document['level']} {clean(document['revoked'])} is revoked{key}"


def rotate(
    what: Annotated[str, typer.Argument(metavar="KEY", help="transport, identity, home, issuer or root.")],
    finish: Annotated[bool, typer.Option("--finish", help="root: let the old key count no more.")] = False,
    home: HomeOption = None,
    node: NodeOption = None,
    timeout: Annotated[float, bound(ROTATE_S)] = ROTATE_S,
    as_json: JsonOption = False,
) -> None:
    """Replace a key while everything runs. Said again after a crash, it completes what was begun."""
    ask_office(Where(home, node, as_json, timeout), "rotate", _show_rotate, what=what, finish=finish)


def _show_rotate(document: dict[str, Any]) -> str:
    lines = [f"{document['rotated']}: {clean(document['note'])}"]
    if document.get("moved"):
        lines.append(f"moved: {clean(', '.join(document['moved']))}")
    if document.get("late"):
        lines.append(f"not yet: {clean(', '.join(document['late']))}")
    return "\n".join(lines)
