"""Waiting work and people: approvals, approve, deny, signal."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from mesh.client import KEEP, Mesh, answer_in
from mesh.errors import MeshError, TimedOut, UsageError
from mesh.ids import short
from mesh.inspector.render import clean, json_text, say, seconds, table, value_text
from mesh.inspector.shell import (
    LOOK_S,
    WAIT_S,
    HomeOption,
    JsonOption,
    LookTimeout,
    NodeOption,
    WaitTimeout,
    WatchOption,
    Where,
    ask,
    explained,
)
from mesh.inspector.watch import TaskArgument

Document = dict[str, Any]
GateArgument = Annotated[
    str, typer.Argument(metavar="GATE", help="As `mesh approvals` lists it, or the task, if one gate of it waits.", show_default=False)
]
JsonArgument = Annotated[str, typer.Argument(metavar="[JSON|@FILE]", help="The value; null if not given.", show_default=False)]
NoteOption = Annotated[str, typer.Option("--note", metavar="TEXT", help="Kept in the record, with the answer.", show_default=False)]
LOOK_AGAIN_S = 2.0
"""How often a shell that waits for a task looks for gates of it."""


def approvals(
    about: Annotated[str, typer.Argument(metavar="[GATE|TASK]", help="This gate in full, or those of this task.", show_default=False)] = "",
    timeout: LookTimeout = LOOK_S,
    home: HomeOption = None,
    node: NodeOption = None,
    as_json: JsonOption = False,
    watch: WatchOption = False,
) -> None:
    """What waits for somebody to approve it, over the whole mesh; with a gate's id all that it is about."""
    show = _show_one if about else _show_gates
    ask(Where(home, node, as_json, timeout), lambda mesh: mesh.approvals(about), show, watch=watch)


def approve(
    gate: GateArgument,
    note: NoteOption = "",
    output: Annotated[
        str | None,
        typer.Option("--output", metavar="JSON|@FILE", help="In place of what was asked about.", show_default=False),
    ] = None,
    timeout: LookTimeout = LOOK_S,
    home: HomeOption = None,
    node: NodeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Let a gate pass; signed by this node, on record for good."""
    edited = _output(output, as_json)
    ask(Where(home, node, as_json, timeout), lambda mesh: mesh.approve(gate, note=note, output=edited), _show_answer)


def deny(
    gate: GateArgument,
    note: NoteOption = "",
    timeout: LookTimeout = LOOK_S,
    home: HomeOption = None,
    node: NodeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Turn a gate down; signed by this node, on record for good."""
    ask(Where(home, node, as_json, timeout), lambda mesh: mesh.deny(gate, note=note), _show_answer)


def signal(
    task: TaskArgument,
    name: Annotated[str, typer.Argument(metavar="NAME", help="What the task waits for by this name.", show_default=False)],
    value: JsonArgument = "null",
    event: Annotated[
        str, typer.Option("--event", metavar="ID", help="The same signal twice under one id counts once.", show_default=False)
    ] = "",
    timeout: LookTimeout = LOOK_S,
    home: HomeOption = None,
    node: NodeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Tell a running task something that it waits for, or will."""
    said = json_value(value, as_json)
    told = lambda document: f"{clean(document['task'])} was told {clean(document['signal'])}"  # noqa: E731
    ask(Where(home, node, as_json, timeout), lambda mesh: mesh.signal(task, name, said, event=event), told)


def update(
    task: TaskArgument,
    name: Annotated[str, typer.Argument(metavar="NAME", help="What the task answers by this name.", show_default=False)],
    value: JsonArgument = "null",
    event: Annotated[
        str, typer.Option("--event", metavar="ID", help="The same update twice under one id is one, with one answer.", show_default=False)
    ] = "",
    timeout: WaitTimeout = WAIT_S,
    home: HomeOption = None,
    node: NodeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Ask something of a running task, and print what its handler answers.

    Exit 5 if it refuses, or ends without an answer. After --timeout the update stays: `mesh result` of the id that is told has the answer.
    """
    given = json_value(value, as_json)

    async def action(mesh: Mesh) -> Document:
        sent = await mesh.send_update(task, name, given, event=event)
        try:
            answer = answer_in(await mesh.result(sent["update"], timeout_s=timeout))
        except TimedOut as error:
            fix = f"mesh result {sent['update']}"
            raise TimedOut(f"{sent['task']} has not answered within {timeout:g} s; the update stays", fix=fix) from error
        return {"schema": "mesh.update/1", **sent, "answer": answer}

    ask(Where(home, node, as_json, timeout), action, lambda document: value_text(document["answer"]))


def json_value(text: str, as_json: bool) -> Any:
    """The value that was typed, or stands in the file."""
    return _output(text, as_json)


def _output(text: str | None, as_json: bool) -> Any:
    """The value that was typed, or stands in the file; `KEEP` for none."""
    from mesh.inspector.shell import fail

    if text is None:
        return KEEP
    try:
        data = Path(text[1:]).read_text() if text.startswith("@") else text
        return json.loads(data)
    except OSError as error:
        fail(explained(error), as_json)
    except ValueError as error:
        fail(UsageError(f"{text[:60]!r} is no JSON ({error})", fix="""a text is '"text"', a number 3, a file of JSON @FILE"""), as_json)


# ---- shown


def _show_gates(document: Document) -> str:
    rows = [
        (
            short(gate["task"]),
            gate["question"],
            json.dumps(gate["arguments"].get("subject"), ensure_ascii=False)[:60],
            short(gate["root"]),
            seconds(gate["age_ms"]),
            seconds(gate["left_ms"]) if gate["left_ms"] else "-",
            f"{sum(one['approve'] for one in gate['said'])} of {gate['quorum']}",
        )
        for gate in document["gates"]
    ]
    text = table(("GATE", "QUESTION", "ABOUT", "TASK", "AGE", "LEFT", "APPROVED"), rows, empty="nothing waits for an approval")
    return text + _missing(document)


def _missing(document: Document) -> str:
    return f"\nnot asked: {', '.join(map(clean, document['missing']))}" if document["missing"] else ""


def _show_one(document: Document) -> str:
    if not document["gates"]:
        return "no gate of this id waits for an answer; of one that is over: mesh why GATE" + _missing(document)
    return "\n\n".join(_in_full(gate) for gate in document["gates"]) + _missing(document)


def _in_full(gate: Document) -> str:
    who = ", ".join(map(clean, gate["approvers"])) or "every node whose certificate lets it"
    lines = [
        f"{clean(gate['question'])}",
        f"  gate      {clean(gate['task'])}",
        f"  of        {clean(gate['capability'])}, task {clean(gate['root'])}",
        f"  waits     {seconds(gate['age_ms'])}" + (f", {seconds(gate['left_ms'])} left" if gate["left_ms"] else ""),
        f"  approved  {sum(one['approve'] for one in gate['said'])} of {gate['quorum']}; who may: {who}",
        *(f"            {clean(one['person'])} at {clean(short(one['node']))}: {clean(one['note'])}" for one in gate["said"]),
        f"  about     {json_text(gate['arguments'].get('subject'))}",
        f"answer it:  mesh approve {clean(gate['task'])}    mesh deny {clean(gate['task'])} --note WHY",
    ]
    return "\n".join(lines)


def _show_answer(document: Document) -> str:
    approved = sum(one["approve"] for one in document["said"])
    if document["state"] == "waiting":
        return f"{clean(document['task'])}: {approved} approved so far; it waits for more"
    return f"{clean(document['task'])}: {'approved' if document['said'] and document['said'][-1]['approve'] else 'denied'}"


@asynccontextmanager
async def telling_gates(mesh: Mesh, task: str) -> AsyncIterator[None]:
    """While inside, gates that `task` waits at are told to the person, once each. A courtesy, as `fitting.telling_why_it_waits` is."""

    async def tell() -> None:
        told: dict[str, None] = {}
        while True:
            await asyncio.sleep(LOOK_AGAIN_S)
            with contextlib.suppress(MeshError):
                for gate in (await mesh.approvals(task))["gates"]:
                    if gate["task"] not in told and gate["for"] == "people":
                        told[gate["task"]] = None
                        say(f"waits for an approval: {clean(gate['question'])}   mesh approve {clean(gate['task'])}")

    telling = asyncio.ensure_future(tell())
    try:
        yield
    finally:
        telling.cancel()
        await asyncio.wait([telling])
