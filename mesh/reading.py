"""Reading the logs of a task or a node: who ran it has the lines, the task's manager knows who that was. And the story of a task.

    task row (who tried, under which fence) + one question to every linked node --pages--> lines in order of time, and whose are missing

Invariant: an attempt whose lines did not come is named, with why, unless its node answered that it had nothing to say.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from mesh.errors import MeshError, NoSuchTask

Document = dict[str, Any]
Ask = Callable[[str, str, Document], Awaitable[Document]]
"""Question, key, arguments."""


async def logs_of_task(ask: Ask, task: str, after: dict[str, int]) -> Document:
    """``{"task", "state", "lines", "missing", "after"}``. `after`: how far each node's lines have been read, as the last answer said."""
    try:
        row = await ask("task", task, {})
    except MeshError as error:
        if error.code in ("unknown_task", "ambiguous_task") and not task.partition(".")[2]:
            raise
        # Its manager is gone, or has forgotten it: whoever ran it may still have its lines.
        row = {"task": task, "state": "", "tried": [], "why": error.message}
    lines, answers, silent, read = await _gather(ask, str(row["task"]), after)
    if not answers and "why" in row and not row["tried"]:
        raise NoSuchTask(f"nobody in reach has a log of {task}: {row['why']}", fix="mesh nodes", code="no_log")
    missing = [
        {"attempt": one["attempt"], "node": one["node"], "reason": reason}
        for one in row["tried"]
        if (reason := _missing(one, answers.get(one["node_id"]), silent))
    ]
    if "why" in row:
        missing.append({"attempt": 0, "node": "", "reason": f"who else ran it is not known here: {row['why']}"})
    return {"task": row["task"], "state": row["state"], "lines": lines, "missing": missing, "after": read}


async def logs_of_node(ask: Ask, node: str, after: dict[str, int]) -> Document:
    """The same for all that ran on `node` (name or id), which stands for ``"task"``: the newest page, or all that came after `after`."""
    read, lines = dict(after), []
    while True:
        body = await ask("logs", "", {"node": node, "after": read})
        [row] = body["tasks"]
        lines += [_line(row["name"], found) for found in row["lines"]]
        read[row["node"]] = row["after"]
        if not row["more"] or not after:
            return {"node": node, "lines": lines, "missing": [], "after": read}


async def story_of(ask: Ask, task: str, pages: int) -> Document:
    """``{"task", "entries"}``: at most so many pages, from its beginning; 0: all."""
    entries: list[Document] = []
    since = 0
    while True:
        page = await ask("story", task, {"since": since} if since else {})
        entries += page["entries"]
        since, pages = int(page.get("more") or 0), pages - 1
        if not since or not pages:
            return {"task": _full(task, entries), "entries": entries}


def _full(task: str, entries: list[Document]) -> str:
    """The id as the journal has it, where `task` was shortened: the one whose end it is."""
    ending = task.partition(".")[2]
    found = [str(entry["task"]) for entry in entries if str(entry.get("task", "")).startswith(task.partition(".")[0])]
    return next((one for one in found if one.partition(".")[2] == ending), task)


async def _gather(ask: Ask, task: str, after: dict[str, int]) -> tuple[list[Document], dict[str, Document], list[str], dict[str, int]]:
    """Page by page: the lines, each node's first answer, who was silent, and how far it has been read."""
    read, lines = dict(after), list[Document]()
    answers: dict[str, Document] = {}
    body = await ask("logs", task, {"after": read})
    silent = [str(name) for name in body["missing"]]
    rows = body["tasks"]
    while rows:
        for row in rows:
            answers.setdefault(row["node"], row)
            lines += [_line(row["name"], found) for found in row["lines"]]
            read[row["node"]] = row["after"]
        unread = [row["node"] for row in rows if row["more"]]
        rows = [row for node in unread for row in (await ask("logs", task, {"node": node, "after": read}))["tasks"]]
    return sorted(lines, key=lambda line: (line["at_ms"], line["number"])), answers, silent, read


def _line(node: str, found: list[Any]) -> Document:
    number, at_ms, task, fence, attempt, stream, text = found
    return {
        "number": number,
        "at_ms": at_ms,
        "node": node,
        "task": task,
        "fence": fence,
        "attempt": attempt,
        "stream": stream,
        "text": text,
    }


def _missing(one: Document, answer: Document | None, silent: list[str]) -> str:
    """Why the lines of this attempt are not (all) here; "" if they are."""
    name = one["node"]
    if answer is None and name in silent:
        return f"{name} ran attempt {one['attempt']} and is not in reach: its log is missing here"
    if answer is None:
        return f"{name} ran attempt {one['attempt']} and has no log of it: it began anew since, or has forgotten it"
    dropped = next((dropped for _, fence, _, _, dropped in answer["attempts"] if fence == one["fence"]), None)
    if dropped:
        return f"the first {dropped} lines of attempt {one['attempt']} were more than {name} keeps"
    if one["fence"] in answer["gone"]:
        return f"{name} has dropped the log of attempt {one['attempt']} for newer ones"
    if dropped is None and answer["ran"] < one["fence"]:
        return f"{name} ran attempt {one['attempt']} and began anew since: its log is gone"
    return ""
