"""The manager's side of versioned values: of the state of a task with all its steps, and of shared scopes, which are tasks nobody runs.

    Ask read, write (client), HandlerAsk read, write, reply --> the task that holds the scope --> Stored on record, ANSWER once that is kept

Invariants: what is answered is kept, by as many as the task itself; who is not known to lead his keepers answers nothing, so nobody reads
what a successor has written over; an attempt that was replaced reads and writes no state of its own task, and none anywhere once the next
one has written there. The rules of one scope are in `scope.py`. Plain calls have no state: nothing of theirs outlives anybody.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from mesh.core.work.book import Book, Effects
from mesh.core.work.errands import json_object
from mesh.core.work.leases import Leases
from mesh.core.work.scope import Scope, Value, Wanted, unfit
from mesh.core.work.task import HELD, OFFERED, Task
from mesh.core.work.updates import Updates
from mesh.core.work.waits import dumps
from mesh.effects import Append, Need, Refused, Send
from mesh.ids import Fence, NodeId, TaskId, content_hash
from mesh.messages.records import Stored
from mesh.messages.scopes import STATE, HandlerAsk
from mesh.messages.work import Answer, Ask

PERSON_CHARACTERS_MAX = 100
SHOWN_MAX = 500
"""Shared states in one answer: about 100 KB."""
NO_MAJORITY = {
    "code": "no_majority",
    "message": "those who keep this state's journal are not known to follow its manager now, so nothing is read or written",
    "fix": "again in some seconds, under the same event; mesh nodes",
}


@dataclass(frozen=True, slots=True)
class Asker:
    """Who asks, by which question, and who is told of as the writer: for a handler, its task and fence."""

    node: NodeId
    ask: int
    by: str = ""
    task: TaskId = ""
    fence: Fence = 0


class Scopes:
    def __init__(self, book: Book, leases: Leases, updates: Updates) -> None:
        self._book, self._leases, self._updates = book, leases, updates
        self.inputs: dict[type, Any] = {HandlerAsk: self._on_handler_ask}
        self.answers = {"read": self._ask, "write": self._ask}
        """To questions of clients about one task."""

    # ---- clients

    def _ask(self, now_s: float, sender: NodeId, ask: Ask, task: Task) -> Effects:
        root, args = self._root(task), json_object(ask.args) or {}
        asker = Asker(sender, ask.ask, str(args.get("by") or sender)[:PERSON_CHARACTERS_MAX])
        if root is None or root.ended:
            yield self._no(asker, _no_scope(task))
        else:
            yield from self._answer(now_s, asker, ask.question, root, args)

    def scopes(self, now_s: float, sender: NodeId, ask: Ask) -> Effects:
        """The shared ones that this node manages, the newest."""
        shared = [task for task in self._book.tasks.values() if task.capability == STATE][-SHOWN_MAX:]
        yield self._yes(Asker(sender, ask.ask), {"tasks": [self._row(now_s, task) for task in shared]})

    def _row(self, now_s: float, task: Task) -> dict[str, Any]:
        scope = task.scope or Scope()
        return {
            "task": task.id,
            "name": str((json_object(task.input) or {}).get("name")),
            "keys": len(scope.values),
            "bytes": scope.size_bytes,
            "version": scope.version,
            "age_ms": max(0, int((now_s - task.submitted_at_s) * 1000)),
            "manager": self._book.directory.name_of(self._book.me),
        }

    # ---- handlers

    def _on_handler_ask(self, now_s: float, sender: NodeId, ask: HandlerAsk) -> Effects:
        about = self._book.tasks.get(ask.about)
        if about is None and ask.about in self._book.moved:
            yield Refused("moved", sender)  # who has it will claim it, and then is asked
            return
        args, problem = json_object(ask.args) or {}, self._refusal(sender, ask, about)
        if about is None or problem is not None:
            yield self._no(Asker(sender, ask.ask), problem or {})
            yield Refused(str((problem or {}).get("code")), sender)
            return
        if about.id == ask.task and about.state == OFFERED:
            yield from self._leases.bind(now_s, about)
        if ask.question == "reply":
            yield from self._updates.reply(now_s, sender, ask, about, args)
            return
        root, by = self._root(about), about.agent if about.id == ask.task else str(args.get("by") or "")
        asker = Asker(sender, ask.ask, by[:PERSON_CHARACTERS_MAX], ask.task, ask.fence)
        if root is None:
            yield self._no(asker, _no_scope(about))
        elif self._book.holds(now_s):  # else it asks again, and is answered by whoever leads then
            yield from self._answer(now_s, asker, ask.question, root, args)

    def _refusal(self, sender: NodeId, ask: HandlerAsk, about: Task | None) -> dict[str, Any] | None:
        fix = f"mesh why {ask.task}"
        if about is None and not self._book.is_mine(ask.about):
            return _no("not_my_task", "this node does not manage what is asked for", fix)
        if about is None or about.ended:
            return _no("task_ended", "the task has ended, or its state was never opened", fix)
        if ask.question not in ("read", "write", "reply") or (ask.question == "reply" and ask.about != ask.task):
            return _no("unknown_question", f"nobody answers {ask.question!r} to a handler", fix)
        if about.id != ask.task:
            return None if about.capability == STATE else _no("no_scope", "another task's state is not for a handler", fix)
        if about.fence != ask.fence or about.holder != sender or about.state not in (OFFERED, HELD) or about.hedges:
            return _no("stale_fence", "the task runs elsewhere under a newer fence, or is being stopped", fix)
        return None

    # ---- both

    def _root(self, task: Task) -> Task | None:
        """Whose state it is: that of the submitted task at the top. None: it is a plain call's."""
        while task.parent and (parent := self._book.find(task.parent)) is not None:
            task = parent
        return task if task.durable else None

    def _answer(self, now_s: float, asker: Asker, question: str, root: Task, args: dict[str, Any]) -> Effects:
        if not self._book.holds(now_s):
            yield self._no(asker, NO_MAJORITY)
        elif question == "write":
            yield from self._write(now_s, asker, root, args)
        elif (body := _read(root.scope or Scope(), args, self._book.limits.body_bytes_max)) is None:
            yield self._no(asker, _no("bad_key", "what is read is a key, or a prefix of keys", "mesh state --help"))
        else:
            yield self._yes(asker, {"task": root.id} | body)

    def _write(self, now_s: float, asker: Asker, root: Task, args: dict[str, Any]) -> Effects:
        scope, wanted = root.scope or Scope(), _wanted(args, asker)
        problem = unfit(wanted) if wanted is not None else _no("bad_write", "a write has a key, and a value or none", "mesh state --help")
        if wanted is None or problem is not None:
            yield self._no(asker, problem or {})
            return
        if (first := scope.repeated(wanted)) is not None:
            kept: dict[str, Any] = {} if first.data is None else {"value": json.loads(first.data)}
            yield self._yes(asker, {"task": root.id, "key": first.key, "version": first.version, "repeated": True} | kept)
            return
        if (problem := scope.problem(wanted, self._book.limits)) is not None:
            yield self._no(asker, problem, need=Need.KEPT)
            return
        if wanted.data is not None or scope.version_of(wanted.key):
            root.scope = scope
            digest = content_hash(wanted.data) if wanted.data is not None else ""
            what = (wanted.key, scope.version + 1, digest, asker.by, wanted.event, wanted.writer, wanted.fence)
            entry = Stored(root.id, *what, int(now_s * 1000))
            scope.apply(entry, wanted.data or b"")
            yield Append(entry, {digest: wanted.data} if wanted.data is not None else {})
        yield self._yes(asker, {"task": root.id, "key": wanted.key, "version": scope.version})

    @staticmethod
    def _yes(asker: Asker, body: dict[str, Any]) -> Send:
        return Send(asker.node, Answer(asker.ask, True, dumps(body)), need=Need.KEPT)

    @staticmethod
    def _no(asker: Asker, problem: dict[str, Any], need: Need = Need.FREE) -> Send:
        return Send(asker.node, Answer(asker.ask, False, dumps(problem)), need=need)


def _no(code: str, message: str, fix: str) -> dict[str, Any]:
    return {"code": code, "message": message, "fix": fix}


def _no_scope(task: Task) -> dict[str, Any]:
    if task.ended or task.durable:
        return _no("task_ended", f"{task.id} has ended, and its state with it", f"mesh result {task.id}")
    message = "a plain call has no state of its own: nothing of it outlives its caller"
    return _no("no_scope", message, "submit the work, or use ctx.state.shared(name)")


def _wanted(args: dict[str, Any], asker: Asker) -> Wanted | None:
    """What is to be written; None: it cannot be read."""
    key, version, event = args.get("key"), args.get("if_version", -1), args.get("event", "")
    if not isinstance(key, str) or type(version) is not int or not isinstance(event, str):
        return None
    if not isinstance(args.get("delete", False), bool) or ("value" in args) == args.get("delete", False):
        return None
    data = None if args.get("delete") else dumps(args["value"])
    return Wanted(key, data, version, event, asker.task, asker.fence)


def _read(scope: Scope, args: dict[str, Any], size_max: int) -> dict[str, Any] | None:
    """One key with its value; or what keys there are, without their values."""
    key, prefix, after = args.get("key"), args.get("prefix", ""), args.get("after", "")
    if isinstance(key, str):
        value = scope.values.get(key, Value(0, b"null", ""))
        return {"key": key, "value": json.loads(value.data), **_told(value)}
    if key is not None or not isinstance(prefix, str) or not isinstance(after, str):
        return None
    names = sorted(name for name in scope.values if name.startswith(prefix) and name > after)
    rows: list[dict[str, Any]] = []
    for name in names:
        if size_max < 0:
            break
        rows.append({"key": name, "bytes": len(scope.values[name].data), **_told(scope.values[name])})
        size_max -= 2 * (120 + 6 * len(name) + 6 * len(scope.values[name].by))
    return {"version": scope.version, "bytes": scope.size_bytes, "keys": rows, "more": len(names) - len(rows)}


def _told(value: Value) -> dict[str, Any]:
    return {"version": value.version, "by": value.by}
