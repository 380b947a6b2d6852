"""The rules of the mesh: policy show, set, check, explain, history, rollback."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Coroutine
from contextlib import suppress
from typing import Annotated, Any

import typer

from mesh.client import Mesh, connect
from mesh.errors import MeshError, NoNode, UsageError
from mesh.ids import author_of, short
from mesh.inspector.arguments import parse_arguments
from mesh.inspector.render import clean, say, table
from mesh.inspector.rolling import matches, side_lines, steering_lines
from mesh.inspector.shell import LOOK_S, HomeOption, JsonOption, LookTimeout, NodeOption, Where, ask, fail, run, show_document
from mesh.policies import read_policy, would_change

Document = dict[str, Any]
FileArgument = Annotated[str, typer.Argument(metavar="FILE", help="Rules, in TOML or JSON.", show_default=False)]
NoteOption = Annotated[str, typer.Option("--note", metavar="TEXT", help="Why; kept with it for good.", show_default=False)]
LAST_MAX = 500
KINDS = ("rule", "flag", "rollout")


def show(
    version: Annotated[int | None, typer.Argument(metavar="[VERSION]", help="An earlier one.", show_default=False)] = None,
    timeout: LookTimeout = LOOK_S,
    home: HomeOption = None,
    node: NodeOption = None,
    as_json: JsonOption = False,
) -> None:
    """The rules that are in force, or those of an earlier version."""

    async def action(mesh: Mesh) -> Document:
        found = await mesh.policy()
        if version is None:
            return _named("show", found)
        row = next((row for row in found["history"] if row["version"] == version), None)
        if row is None:
            raise UsageError(f"no version {version} of the policy is known here", fix="mesh policy history", code="no_such_version")
        return _named("show", found | {"version": version, "document": row["document"]})

    ask(Where(home, node, as_json, timeout), action, _show)


def set_(
    file: FileArgument,
    note: NoteOption = "",
    timeout: LookTimeout = LOOK_S,
    home: HomeOption = None,
    node: NodeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Put other rules in force: signed here, told to every node, enforced from the next task on."""
    document = _read(file, as_json)
    done = lambda found: f"version {found['version']} is in force: {_counts(document)}"  # noqa: E731
    ask(Where(home, node, as_json, timeout), lambda mesh: _asked("set", mesh.set_policy(document, note=note)), done)


def check(
    file: FileArgument,
    last: Annotated[int, typer.Option("--last", metavar="N", min=0, max=LAST_MAX, help="Recorded tasks to try it on, the newest.")] = 100,
    timeout: LookTimeout = LOOK_S,
    home: HomeOption = None,
    node: NodeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Read rules, and say what they would have changed about the newest tasks. Sets nothing; exit 2 if they cannot be set."""
    document, where = _read(file, as_json), Where(home, node, as_json, timeout)

    async def action() -> Document:
        rules = len(document.get("rule", ()))
        found: Document = {
            "schema": "mesh.policy-check/1",
            "file": file,
            "rules": rules,
            "tasks": 0,
            "blind": 0,
            "changed": [],
            "node": True,
        }
        found |= {"flags": len(document.get("flag", ())), "rollouts": len(document.get("rollout", ()))}
        try:
            async with connect(home=home, node=node, timeout_s=timeout) as mesh:
                before, tasks = (await mesh.policy())["document"], await _recorded(mesh, last)
        except NoNode:
            return found | {"node": False}
        blind = sum(not task["known"] for task in tasks)
        return found | {"tasks": len(tasks), "blind": blind, "changed": would_change(document, before, tasks)}

    show_document(run(where, action), _show_check, as_json)


def explain(
    what: Annotated[str, typer.Argument(metavar="CAPABILITY|TASK", help="Work to come, or a task.", show_default=False)],
    words: Annotated[list[str] | None, typer.Argument(help="name=text  name:=JSON", show_default=False)] = None,
    timeout: LookTimeout = LOOK_S,
    home: HomeOption = None,
    node: NodeOption = None,
    as_json: JsonOption = False,
) -> None:
    """What the rules say of work with these arguments, or of a task: which rule decides, and what."""
    try:
        arguments = parse_arguments(words or [])
        if author_of(what) and arguments:
            raise UsageError("a task has its arguments already", fix=f"mesh policy explain {what}")
    except MeshError as error:
        fail(error, as_json)

    async def action(mesh: Mesh) -> Document:
        if not author_of(what):
            return await _asked("explain", mesh.explain_policy(what, **arguments))
        row = await mesh.task(what)
        task = await _with_arguments(mesh, row)
        said = await _asked("explain", mesh.explain_policy(str(row["capability"]), **task["arguments"]))
        return said | {"task": row["task"], "state": row["state"], "then": row.get("rules", []), "reason": row.get("reason", "")}

    ask(Where(home, node, as_json, timeout), action, _show_ruling)


def history(timeout: LookTimeout = LOOK_S, home: HomeOption = None, node: NodeOption = None, as_json: JsonOption = False) -> None:
    """Who set which rules when; the newest 16 versions."""
    ask(Where(home, node, as_json, timeout), lambda mesh: _asked("history", mesh.policy()), _show_history)


def rollback(
    version: Annotated[int, typer.Argument(metavar="VERSION", help="As `mesh policy history` lists it.", show_default=False)],
    note: NoteOption = "",
    timeout: LookTimeout = LOOK_S,
    home: HomeOption = None,
    node: NodeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Put the rules of an earlier version in force again, as a new version."""
    done = lambda found: f"version {found['version']} is in force, the same as {version}"  # noqa: E731
    ask(Where(home, node, as_json, timeout), lambda mesh: _asked("rollback", mesh.rollback_policy(version, note=note)), done)


def _named(verb: str, document: Document) -> Document:
    return document | {"schema": f"mesh.policy-{verb}/1"}


async def _asked(verb: str, work: Coroutine[Any, Any, Document]) -> Document:
    return _named(verb, await work)


def _read(file: str, as_json: bool) -> Document:
    try:
        return read_policy(file)
    except MeshError as error:
        fail(error, as_json)


# ---- recorded work


async def _recorded(mesh: Mesh, last: int) -> list[Document]:
    rows = [row for row in (await mesh.tasks())["tasks"] if not str(row["capability"]).startswith("mesh.")][:last]
    return list(await asyncio.gather(*(_with_arguments(mesh, row) for row in rows)))


async def _with_arguments(mesh: Mesh, row: Document) -> Document:
    """The task with what it was given, as far as that is still kept."""
    found: Document = {"task": row["task"], "capability": row["capability"], "arguments": {}, "where": [], "origin": [], "known": False}
    with suppress(MeshError):  # forgotten, or a plain call: what is known of it is its capability
        entries = (await mesh.story(str(row["task"])))["entries"]
        submitted = next((entry for entry in entries if entry["kind"] == "Submitted" and entry["task"] == row["task"]), None)
        if submitted is not None:
            found["where"] = list(submitted["placement"]["where"])
            found["arguments"] = json.loads(await mesh.body(submitted["input"])) or {}
            found["known"] = True
    return found


# ---- shown


def _counts(document: Document) -> str:
    """``2 rules, 1 flag``: what a policy has."""
    return ", ".join(_count(len(rows), kind) for kind in KINDS if (rows := document.get(kind, ())) or kind == "rule")


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _show(document: Document) -> str:
    if not document["document"]:
        return "no policy is set: everything is allowed that certificates allow (mesh policy set FILE)"
    head = f"{clean(document['document'].get('policy') or 'policy')}, version {document['version']}"
    lines = [head]
    if document["unread"]:
        lines.append(f"version {document['unread']} has keys that this node does not know: it keeps to this one (update it)")
    rows = [(rule["id"], matches(rule.get("match", {})), _says(rule)) for rule in document["document"].get("rule", [])]
    lines.append(table(("RULE", "ABOUT", "SAYS"), rows, empty="no rules"))
    in_force = any(row["version"] == document["version"] and row["in_force"] for row in document["history"])
    lines += steering_lines(document["document"], document["rollouts"] if in_force else [])
    return "\n".join(lines)


def _says(rule: Document) -> str:
    said = {key: value for key, value in rule.items() if key not in ("id", "match")}
    return "; ".join(f"{key}: {value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}" for key, value in said.items())


def _show_history(document: Document) -> str:
    rows = [
        (
            str(row["version"]) + (" *" if row["in_force"] else ""),
            time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(row["at_ms"] / 1000)) if row["at_ms"] else "-",
            row["person"] or "-",
            row["by"] if row["by"] != row["author"] else short(row["author"]),
            str(len(row["document"].get("rule", []))),
            row["note"] or "-",
        )
        for row in document["history"]
    ]
    return table(("VERSION", "SET", "BY", "KEY OF", "RULES", "NOTE"), rows, empty="no policy was ever set")


def _show_check(document: Document) -> str:
    held = {kind: [None] * document[f"{kind}s"] for kind in KINDS}
    lines = [f"{clean(document['file'])}: {_counts(held)}, fit to be set"]
    if not document["node"]:
        say("no node runs here, so it was not tried on recorded tasks: mesh up")
        return lines[0]
    if document["blind"]:
        say(f"of {_count(document['blind'], 'task')} the arguments are not kept: rules about arguments were not tried on those")
    rows = [(short(row["task"]), row["capability"], row["before"], row["after"]) for row in document["changed"]]
    lines.append(f"of the newest {_count(document['tasks'], 'task')} it would rule {len(rows)} otherwise")
    return "\n".join([*lines, table(("TASK", "CAPABILITY", "NOW", "THEN"), rows, empty="none")] if rows else lines)


def _show_ruling(document: Document) -> str:
    lines = [clean(document["capability"])]
    if "task" in document:
        then = document["then"]
        lines = [f"{clean(document['task'])}  {clean(document['capability'])}  {document['state']}  {clean(document['reason'])}".rstrip()]
        lines.append(f"made under version {then[0]}: {', '.join(then[1:])}" if then else "no rule had a say when it was made")
    lines += side_lines(document["rollouts"])
    if not document["rules"]:
        return "\n".join([*lines, "allow: no rule is about it"])
    lines.append(f"{document['decision']}, by version {document['version']}: {', '.join(map(clean, document['rules']))}")
    return "\n".join([*lines, *(f"  {clean(line)}" for line in _parts(document))])


def _parts(document: Document) -> list[str]:
    """What is decided, a line each, with the rule that decides where that is one."""
    lines = []
    if deny := document.get("deny"):
        lines.append(f"refused by {deny[0]}: {deny[1]}")
    if gate := document.get("gate"):
        who = ", ".join(gate[1]["approvers"]) or "those who may approve"
        lines.append(f"waits for {gate[1]['quorum']} of {who} by {gate[0]}: {gate[1]['question']}")
    if admit := document.get("admit"):
        lines.append(f"waits for the coordinator's word by {admit[0]}; while there is none: {admit[1]['absent']}")
    if secrets := document.get("secrets"):
        lines.append(f"secrets by {secrets[0]}: {', '.join(secrets[1]) or 'none'}")
    lines += [f"{key}: {document[key]}" for key in ("route", "fallback", "timeout_ms", "retries", "budget") if key in document]
    if "require" in document:
        lines.append(f"labels: {', '.join(document['require'])}")
    for rule, one in document.get("outputs", ()):
        parts = [name for name, _ in one["patterns"]] + ([f"over {one['bytes_max']} bytes"] if one["bytes_max"] else [])
        lines.append(f"its result is held back by {rule}: {', '.join(parts + (['another form'] if one['schema'] else []))}")
    for rule, one in document.get("effects", ()):
        lines.append(f"effects {', '.join(one['keys'])} by {rule}: {one['deny'] or 'wait for people'}")
    return lines
