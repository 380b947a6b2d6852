"""The mesh's coordinator: who is in office, what it admits, what waits, and how busy everybody is."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from mesh.ids import short
from mesh.inspector.render import clean, seconds, table
from mesh.inspector.shell import LOOK_S, HomeOption, JsonOption, LookTimeout, NodeOption, WatchOption, Where, ask

Document = dict[str, Any]
NOBODY = 6
"""Degraded: nobody is in office."""
SHOWN_MAX = 20


def coordinator(
    action: Annotated[
        str, typer.Argument(metavar="[pause|resume]", help="Admit nothing more, or go on; nothing: look.", show_default=False)
    ] = "",
    timeout: LookTimeout = LOOK_S,
    home: HomeOption = None,
    node: NodeOption = None,
    as_json: JsonOption = False,
    watch: WatchOption = False,
) -> None:
    """Who coordinates this mesh, if anybody does: since when, what it admits, what waits, and the fleet. Exit 6: nobody is in office."""
    where = Where(home, node, as_json, timeout)
    if action:
        ask(where, lambda mesh: mesh.switch_coordinator(action), _show_switched)
        return
    ask(where, lambda mesh: mesh.coordinator(), _show, watch=watch, exit_code=lambda document: 0 if document["holder"] else NOBODY)


def _show_switched(document: Document) -> str:
    return "it admits nothing until: mesh coordinator resume" if document["action"] == "pause" else "it admits again"


def _show(document: Document) -> str:
    lines = [_in_office(document), f"mode         {document['mode']}{_what_for(document)}"]
    if document["standing_by"]:
        lines.append(f"stand by     {', '.join(map(clean, document['standing_by']))}")
    if document["task"]:
        state = ", PAUSED: mesh coordinator resume" if document["paused"] else ""
        lines.append(f"admissions   {document['admitted']} admitted, {document['refused']} refused, {document['waiting']} waiting{state}")
    lines += [
        f"  {clean(rule)}: {row['total']} in all, {len(row['held'])} that run or are about to" for rule, row in document["rules"].items()
    ]
    opened = {name: document["here"][name] for name in ("opened", "cached") if document["here"][name]}
    if opened:
        lines.append(f"without it   {', '.join(f'{count} {name}' for name, count in opened.items())}, at {clean(document['node'])}")
    for limit in document["here"]["limits"]:
        leased = ", ".join(f"{clean(name)} {slots}" for name, slots in limit["leased"].items())
        lines.append(f"limit        {clean(limit['capability'])}: {limit['most']}{limit['per']}, leased: {leased}")
    return "\n".join([*lines, "", _gates(document), "", _fleet(document)]) + _missing(document)


def _in_office(document: Document) -> str:
    since = seconds(document["since_ms"])
    if document["holder"]:
        epoch = ".".join(map(str, document["epoch"]))
        return f"in office    {clean(document['holder'])}, for {since}, epoch {epoch}, task {clean(document['task'])}"
    if document["standing_by"]:
        return f"in office    nobody, for {since}: one of those who stand by is about to be"
    return "in office    nobody, and nobody stands by (mesh up --role coordinator)"


def _what_for(document: Document) -> str:
    if document["mode"] == "decentralized":
        return ": no rule of the policy asks for its word"
    after = f"; without it everybody does after {document['open_after_s']:g} s" if document["open_after_s"] else ""
    return f": its node manages all work{after}" if document["mode"] == "central" else ""


def _gates(document: Document) -> str:
    rows = [
        (short(gate["task"]), gate.get("for", ""), clean(gate["capability"]), clean(gate["gate"]), seconds(gate["age_ms"]))
        for gate in document["gates"][:SHOWN_MAX]
    ]
    more = len(document["gates"]) - SHOWN_MAX
    text = table(("GATE", "FOR", "OF", "BY", "AGE"), rows, empty="nothing waits for people, nor for the coordinator")
    return text + (f"\n... and {more} more: mesh approvals" if more > 0 else "")


def _fleet(document: Document) -> str:
    rows = [
        (
            clean(row["name"]) + (" *" if row["coordinator"] else ""),
            row["state"] + (", draining" if row["draining"] else ""),
            f"{row['busy']} of {row['slots']}",
            str(row["capabilities"]),
        )
        for row in document["fleet"]
    ]
    return table(("NODE", "STATE", "BUSY", "CAPABILITIES"), rows, empty="no node is known")


def _missing(document: Document) -> str:
    return f"\nnot asked: {', '.join(map(clean, document['missing']))}" if document["missing"] else ""
