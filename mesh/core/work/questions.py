"""Questions about this manager's tasks: task, tasks, kept, result (waits), cancel, retry, call_story; and what is said to waits
(`waiting.py`) and asked of states (`scopes.py`). Others belong to other machines."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain, islice
from typing import Any

from mesh.core.work.again import Again
from mesh.core.work.archive import Archive
from mesh.core.work.book import Book, Effects
from mesh.core.work.calls import Ring, story_of
from mesh.core.work.ending import Ending
from mesh.core.work.errands import json_object
from mesh.core.work.gates import NOTE_CHARACTERS_MAX, PERSON_CHARACTERS_MAX
from mesh.core.work.readback import Readback
from mesh.core.work.scopes import Scopes
from mesh.core.work.succession import moved
from mesh.core.work.task import DONE, EFFECTS_SHOWN_MAX, Task
from mesh.core.work.waiting import Waiting
from mesh.core.work.waits import answer_result, dumps
from mesh.effects import ReadBody, Refused, Send
from mesh.ids import PRIORITY_DEFAULT, NodeId, award_number, term_of
from mesh.messages.scopes import STATE
from mesh.messages.work import SEARCH, Answer, Ask

NOT_WORK = {"code": "is_state", "message": "that is shared state: it does not end", "fix": "mesh state delete KEY --in NAME"}
ROWS_MAX = 500
"""Of one answer: about 200 KB. The newest are given."""
WAITERS_MAX = 64
"""Of one task; the oldest is forgotten and has to ask again."""


class Questions:
    def __init__(
        self, book: Book, ending: Ending, ring: Ring, readback: Readback, archive: Archive, waiting: Waiting, scopes: Scopes
    ) -> None:
        self._book, self._ending, self._ring, self._readback, self._archive = book, ending, ring, readback, archive
        self._waiting, self._tellers = waiting, waiting.answers | scopes.answers
        self._again = Again(book, readback)
        self._answers = {
            "task": self._task,
            "kept": self._kept,
            "tasks": self._tasks,
            "result": self._result,
            "cancel": self._cancel,
            "retry": self._retry,
            "call_story": self._call_story,
            "signal": self._tell_wait,
            "answer": self._tell_wait,
            "admitted": self._admitted,
            "update": self._tell_wait,
            "read": self._tell_wait,
            "write": self._tell_wait,
            "waits": self._waits,
            "scopes": scopes.scopes,
        }

    def on_ask(self, now_s: float, sender: NodeId, ask: Ask) -> Effects:
        answer = self._answers.get(ask.question)
        return answer(now_s, sender, ask) if answer is not None else iter(())

    # ---- one task

    def find(self, key: str) -> Task | None:
        """By its id, or by one whose author's part is shortened, if that is unique here."""
        task = self._book.find(key)
        if task is not None and task.durable and self._book.directory.guard.behind:
            return None  # those who keep this node's journal know what became of it
        if task is not None or not key:
            return task
        author, _, rest = key.partition(".")
        found: Task | None = None
        for tasks in (self._book.tasks, self._book.ended):
            for name, candidate in tasks.items():
                if name.startswith(author) and name.partition(".")[2] == rest:
                    if found is not None:
                        return None
                    found = candidate
        return found

    def _elsewhere(self, sender: NodeId, ask: Ask, then: Callable[[Task | None], Any]) -> Effects:
        """Who drives it answers, if he can; else, and where everybody is asked, what is kept here of the logs of those who did.
        (An older disk that was put back is asked for nothing that had to be kept.)"""
        manager = self._book.whom_to_ask(ask.key)
        searched = (json_object(ask.args) or {}).get(SEARCH)
        elsewhere = manager != self._book.me and self._book.is_linked(manager) and not searched
        if elsewhere or self._book.directory.guard.behind:
            yield self._unknown(sender, ask)
        else:
            yield from self._archive.ask(ask.key, (sender, ask.ask), then)

    def _unknown(self, sender: NodeId, ask: Ask) -> Send:
        manager = self._book.whom_to_ask(ask.key)
        if manager and manager != self._book.me:
            return Send(sender, Answer(ask.ask, False, dumps(moved(ask.key, manager))))
        message = f"no task {ask.key!r} here; it ended long ago, its call is over, or there was none"
        return Send(sender, Answer(ask.ask, False, dumps({"code": "unknown_task", "message": message, "fix": "mesh tasks"})))

    def row(self, now_s: float, task: Task) -> dict[str, Any]:
        """What `mesh task` shows."""
        owner = task.node if task.ended else task.holder
        until_s = task.ended_at_s if task.ended else now_s
        return {
            "task": task.id,
            "capability": task.capability,
            "state": task.state,
            "owner": self._book.directory.name_of(owner) if owner else "",
            "owner_id": owner,
            "agent": task.agent if owner else "",
            "version": task.version,
            "fence": task.fence,
            "award": award_number(task.fence),
            "attempts": task.attempts,
            "tried": self._tried(task),
            "parent": task.parent,
            "step": task.step,
            "by": task.by,
            "again": task.again,
            "twin": task.twin,
            "age_ms": max(0, int((now_s - task.submitted_at_s) * 1000)),
            "took_ms": max(0, int((until_s - task.submitted_at_s) * 1000)),
            "service_ms": task.service_ms,
            "where": list(task.placement.where),
            # A handler's last word travels with a beat, and its result may come first.
            "progress": 1.0 if task.state == DONE else task.progress,
            "note": "" if task.state == DONE else task.note,
            "reason": task.reason,
            "survives": self._book.survives(task.files) if task.durable else "nothing",
            "durable": task.durable,
            "priority": task.rank[0] or PRIORITY_DEFAULT,
            "share": task.rank[1],
            "rules": list(task.rules),
            "baggage": dict(task.baggage),
        }

    def _tried(self, task: Task) -> list[dict[str, Any]]:
        """Who ran the newest attempts."""
        before, name_of = task.attempts - len(task.tried), self._book.directory.name_of
        return [
            {"attempt": before + i, "fence": fence, "node": name_of(node), "node_id": node} for i, (fence, node) in enumerate(task.tried, 1)
        ]

    def _task(self, now_s: float, sender: NodeId, ask: Ask) -> Effects:
        task = self.find(ask.key)
        if task is None:
            yield from self._elsewhere(sender, ask, lambda old: self._row_of(now_s, sender, ask, old))
        else:
            yield self._row_of(now_s, sender, ask, task)

    def _row_of(self, now_s: float, sender: NodeId, ask: Ask, task: Task | None) -> Send:
        if task is None:
            return self._unknown(sender, ask)
        more = {"effects": self._effects(task), "budget": task.account.rows() if task.account is not None else {}}
        return Send(sender, Answer(ask.ask, True, dumps(self.row(now_s, task) | more)))

    def _kept(self, _now_s: float, sender: NodeId, ask: Ask) -> Effects:
        """The newest checkpoint of a task that runs: what its handler lets be known of itself, and nothing stops for that."""
        task = self.find(ask.key)
        if task is None:
            yield from self._elsewhere(sender, ask, lambda old: self._kept_of(sender, ask, old))
        else:
            yield self._kept_of(sender, ask, task)

    def _kept_of(self, sender: NodeId, ask: Ask, task: Task | None) -> Send:
        if task is None:
            return self._unknown(sender, ask)
        kept = json_object(task.checkpoint) if task.checkpoint else None
        body = {"task": task.id, "state": task.state, "checkpoint": (kept or {}).get("value")}
        return Send(sender, Answer(ask.ask, True, dumps(body)))

    def _result_of(self, sender: NodeId, ask: Ask, task: Task | None) -> Send:
        return self._unknown(sender, ask) if task is None else answer_result(sender, ask.ask, task)

    def _effects(self, task: Task) -> list[dict[str, Any]]:
        """The newest effects, oldest first: whether each is known to have happened."""
        newest = list((task.effects or {}).items())[-EFFECTS_SHOWN_MAX:]
        return [
            {
                "key": key,
                "outcome": "known" if intent.done else "unknown",
                "at_most_once": intent.once,
                "award": award_number(intent.fence),
                "term": term_of(intent.fence),
                "node": self._book.directory.name_of(intent.node),
                "error": intent.error,
            }
            for key, intent in newest
        ]

    def _tasks(self, now_s: float, sender: NodeId, ask: Ask) -> Effects:
        """Live ones first, then ended ones, each the newest first; `skip` in the args: without the first so many."""
        skip = (json_object(ask.args) or {}).get("skip")
        first = skip if type(skip) is int and skip > 0 else 0
        newest = chain(reversed(self._book.tasks.values()), reversed(self._book.ended.values()))
        chosen = list(islice(newest, first, first + ROWS_MAX))
        known = max(0, len(self._book.tasks) + len(self._book.ended) - first)
        rows = [self.row(now_s, task) for task in chosen]
        yield Send(sender, Answer(ask.ask, True, dumps({"tasks": rows, "more": max(0, known - len(rows))})))

    def _result(self, _now_s: float, sender: NodeId, ask: Ask) -> Effects:
        task = self.find(ask.key)
        if task is None:
            yield from self._elsewhere(sender, ask, lambda old: self._result_of(sender, ask, old))
        elif not task.ended:
            if task.waiters is None:
                task.waiters = []
            if (sender, ask.ask) not in task.waiters:
                task.waiters.append((sender, ask.ask))
                del task.waiters[:-WAITERS_MAX]
        elif task.state == DONE and task.output is None:
            yield self._readback.result(sender, ask.ask, task)
        else:
            yield answer_result(sender, ask.ask, task)

    def _cancel(self, now_s: float, sender: NodeId, ask: Ask) -> Effects:
        task = self.find(ask.key)
        if task is None:
            yield from self._elsewhere(sender, ask, lambda old: self._cancelled(sender, ask, old))
            return
        if task.capability == STATE:
            yield Send(sender, Answer(ask.ask, False, dumps(NOT_WORK)))
            return
        args = json_object(ask.args)
        if args is None:
            yield Refused("bad_args", sender)
            args = {}
        by = str(args.get("by") or sender)[:PERSON_CHARACTERS_MAX]
        reason = str(args.get("reason") or "cancelled")[:NOTE_CHARACTERS_MAX]
        yield from self._ending.cancel(now_s, task, by, reason)
        yield self._cancelled(sender, ask, task)

    def _cancelled(self, sender: NodeId, ask: Ask, task: Task | None) -> Send:
        """What has ended stays as it is."""
        if task is None:
            return self._unknown(sender, ask)
        return Send(sender, Answer(ask.ask, True, dumps({"task": task.id, "state": task.state})))

    def _retry(self, now_s: float, sender: NodeId, ask: Ask) -> Effects:
        task = self.find(ask.key)
        if task is None:
            yield from self._elsewhere(sender, ask, lambda old: self._retry_of(now_s, sender, ask, old))
        else:
            yield self._again.retry(now_s, sender, ask, task)

    def _retry_of(self, now_s: float, sender: NodeId, ask: Ask, task: Task | None) -> Send | ReadBody:
        return self._unknown(sender, ask) if task is None else self._again.retry(now_s, sender, ask, task)

    # ---- waits

    def _tell_wait(self, now_s: float, sender: NodeId, ask: Ask) -> Effects:
        task = self.find(ask.key)
        if task is None:
            yield from self._elsewhere(sender, ask, lambda old: self._over(sender, ask, old))
        else:
            yield from self._tellers[ask.question](now_s, sender, ask, task)

    def _admitted(self, now_s: float, sender: NodeId, ask: Ask) -> Effects:
        """The coordinator's word, which nobody waits to see arrive: he is asked again."""
        gate = self.find(ask.key)
        return (
            self._waiting.answers[ask.question](now_s, sender, ask, gate)
            if gate is not None
            else iter((Refused("late_admission", sender),))
        )

    def _over(self, sender: NodeId, ask: Ask, task: Task | None) -> Send:
        return self._unknown(sender, ask) if task is None else self._waiting.not_there(sender, ask, task)

    def _waits(self, now_s: float, sender: NodeId, ask: Ask) -> Effects:
        one = self.find(ask.key) if ask.key else None
        tasks = [one] if one is not None else [] if ask.key else list(self._book.tasks.values())
        yield from self._waiting.waits(now_s, sender, ask, tasks)

    # ---- plain calls

    def call_story(self, task: str) -> dict[str, Any] | None:
        """A plain call's decisions and end, while it lives or is among those remembered; None: unknown, or no plain call."""
        call = self._ring.get(task) or self.find(task)
        return story_of(call) if call is not None and not call.durable else None

    def _call_story(self, _now_s: float, sender: NodeId, ask: Ask) -> Effects:
        story = self.call_story(ask.key)
        yield self._unknown(sender, ask) if story is None else Send(sender, Answer(ask.ask, True, dumps(story)))
