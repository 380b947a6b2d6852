"""Watch: logs. A line each, as it was printed; who said it when stands before it."""

from __future__ import annotations

import asyncio
import json
import re
import time
from typing import Annotated, Any

import typer

from mesh.client import Mesh, connect
from mesh.ids import short
from mesh.inspector.render import clean, say
from mesh.inspector.shell import LOOK_S, SLACK_S, HomeOption, JsonOption, LookTimeout, NodeOption, Where, ask, put, run

FOLLOW_EVERY_S = 0.5
TASK = re.compile(r".+\.[0-9]+\.[0-9]+")
ENDED = ("done", "failed", "cancelled")


def logs(
    what: Annotated[str, typer.Argument(metavar="TASK|NODE", help="A task id, or a node's name or id.", show_default=False)],
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on as more comes: to the task's end, or until Ctrl-C.")] = False,
    home: HomeOption = None,
    node: NodeOption = None,
    timeout: LookTimeout = LOOK_S,
    as_json: JsonOption = False,
) -> None:
    """What a task's handlers printed and logged, or all on a node.

    Of a node the newest part. Each attempt keeps its newest 1 MiB, at the node that ran it. With -f and --json: a document a line.
    """
    where = Where(home, node, as_json, timeout)
    if follow:
        run(where, lambda: _follow(where, what))
        return

    async def action(mesh: Mesh) -> dict[str, Any]:
        document = await _read(mesh, what, {})
        if not as_json:
            _say_missing(document, set())
        return document

    ask(where, action, _show)


async def _read(mesh: Mesh, what: str, after: dict[str, int]) -> dict[str, Any]:
    """Names of nodes may have dots too: a task's id ends in two numbers."""
    return await (mesh.logs(what, after=after) if TASK.fullmatch(what) else mesh.logs(node=what, after=after))


def _show(document: dict[str, Any]) -> str:
    if not document["lines"]:
        return "nothing was printed or logged" + (", as far as is known here" if document["missing"] else "")
    return "\n".join(_shown(line, with_task="node" in document) for line in document["lines"])


def _shown(line: dict[str, Any], *, with_task: bool) -> str:
    at = time.strftime("%H:%M:%S", time.localtime(line["at_ms"] / 1000)) + f".{line['at_ms'] % 1000:03d}"
    who = f"{short(line['task'])} " if with_task else f"{clean(line['node'])} "
    return f"{at}  {who}{line['attempt']}  {line['stream']:<6}  {clean(line['text'])}"


def _say_missing(document: dict[str, Any], said: set[str]) -> None:
    for missing in document["missing"]:
        if missing["reason"] not in said:
            said.add(missing["reason"])
            say(f"missing: {clean(missing['reason'])}")


async def _follow(where: Where, what: str) -> None:
    after: dict[str, int] = {}
    said: set[str] = set()
    async with asyncio.timeout(where.timeout_s + SLACK_S):
        connection = connect(home=where.home, node=where.node, timeout_s=where.timeout_s)
        mesh = await connection.__aenter__()
    try:
        while True:
            # The state first: what comes after it has ended is read once more.
            async with asyncio.timeout(where.timeout_s + SLACK_S):
                document = await _read(mesh, what, after)
            after = document["after"]
            if where.as_json:
                if document["lines"] or not said:
                    said.add("")
                    put(json.dumps(document))
            else:
                _say_missing(document, said)
                if document["lines"]:
                    put(_show(document))
            if document.get("state") in ENDED:
                return
            await asyncio.sleep(FOLLOW_EVERY_S)
    finally:
        await connection.__aexit__(None, None, None)
