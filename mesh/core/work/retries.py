"""Results and failures of handlers, and what follows from a failure.

    RESULT --hash right, files here--> committed, then RESULT_ACK
    FAILURE --the node's fault: again at once, elsewhere (three times) --the handler's: again after a pause, as often as allowed--> failed

Retries after a handler's failure come out of a budget (`budget.py`); beyond it they wait in line. Those after node faults do not.

Invariant: only the newest fence, from its holder, ends or moves a task; everything older is answered SUPERSEDED and counted. Pauses are
exponential with full jitter (AWS, 2015): a random part of ``retry_min_s * 2^(n-1)``, at most `retry_max_s`.
"""

from __future__ import annotations

import json
from typing import Any

from mesh.core.inputs import FileFetched, FileWanted
from mesh.core.policy.inputs import Ran
from mesh.core.work.book import Book, Effects
from mesh.core.work.budget import RetryBudget
from mesh.core.work.ending import Ending, node_lost
from mesh.core.work.governor import Governor
from mesh.core.work.leases import NODE_REVOKED, Leases
from mesh.core.work.poison import is_poison, note_loss, poison
from mesh.core.work.task import (
    BACKOFF,
    CANCELLING,
    COMMITTING,
    DONE,
    HANDLER_LOST,
    HELD,
    NODE_FAULTS,
    OFFERED,
    READY,
    RESULT,
    RETRY,
    Task,
)
from mesh.core.work.waits import BackoffEnds, BudgetDue, FetchAgain, backoff_s
from mesh.effects import Append, Refused, Tell
from mesh.ids import Hash, NodeId, TaskId, content_hash
from mesh.messages.records import Lost
from mesh.messages.work import Failure, Result

FAULTS_MAX = 3
"""Work that took three workers with it is likely to take the fourth."""
OVER_BUDGET = "retry_budget"
"""Why a task waits whose pause is over."""
FETCHES_MAX = 3
FETCH_AGAIN_S = 1.0


NOT_THE_VERSIONS = ("no_file", "cancelled", "policy_output")
"""Kinds of failures that say nothing about the version of the capability that ran."""


class Retries:
    def __init__(self, book: Book, ending: Ending, leases: Leases, governor: Governor) -> None:
        self._book, self._ending, self._leases, self._governor = book, ending, leases, governor
        self._fetching: dict[Hash, dict[str, Task]] = {}
        self._budget = RetryBudget(book.limits)
        self._in_line: dict[TaskId, Task] = {}
        """Retries that wait for the budget, first come first served."""

    def waiting(self) -> int:
        """Retries that wait for the budget."""
        return len(self._in_line)

    # ---- results

    def on_result(self, now_s: float, sender: NodeId, result: Result) -> Effects:
        book = self._book
        task = book.tasks.get(result.task)
        if task is None or task.holder != sender or task.fence != result.fence:
            yield from self._late(sender, result, task)
            return
        if content_hash(result.output) != result.output_hash:
            yield Refused("bad_output_hash", sender)
            return
        if task.state == OFFERED:
            yield from self._leases.bind(now_s, task)
        if task.state == HELD and (held_back := self._governor.output(task, result.output)) is not None:
            yield Refused("policy_output", sender)
            yield from self._ending.fail(now_s, task, held_back)
        elif task.state == HELD:
            task.move(RESULT)
            task.output, task.output_hash = result.output, result.output_hash
            task.agent = result.agent or task.agent
            yield from book.meter.over(now_s, task.account, task.durable, result.service_ms)
            task.service_ms, task.version = result.service_ms, result.version
            yield from self._ran(task, failed=False)
            if task.promised_ms is not None:
                took_ms = (now_s - task.offered_at_s) * 1000
                book.latencies.learn(task.capability, took_ms)
                book.calibration.learn(now_s, sender, task.capability, *task.promised_ms, took_ms)
            if result.files:
                task.output_files = result.files
                yield from self._fetch(task)
            else:
                yield from self._commit(now_s, task)
        elif task.state == CANCELLING:
            book.speak_to(sender).superseded.append((task.id, task.fence))
            yield from self._ending.stopped(now_s, task)
        else:
            # COMMITTING: its files are on their way; the acknowledgement follows the commit.
            assert task.state == COMMITTING, f"{task.id} is {task.state} and has a holder"

    def _ran(self, task: Task, *, failed: bool) -> Effects:
        if task.capability in self._book.directory.steering.rollouts:
            yield Tell(Ran(task.capability, task.version, failed, task.service_ms))

    def _commit(self, now_s: float, task: Task) -> Effects:
        holder = self._book.speak_to(task.holder)
        (holder.kept_acks if task.durable else holder.acks).append((task.id, task.fence))
        return self._ending.commit(now_s, task)

    def _late(self, sender: NodeId, report: Result | Failure, task: Task | None) -> Effects:
        """Of an old fence, or of a task that has ended or is not known any more."""
        ended = self._book.ended.get(report.task)
        holder = self._book.speak_to(sender)
        holder.ghosts.pop(report.task, None)
        own = ended is not None and ended.fence == report.fence and ended.node == sender
        if ended is not None and own and (ended.state == DONE or type(report) is Failure):
            # Its acknowledgement was lost.
            (holder.kept_acks if ended.durable else holder.acks).append((report.task, report.fence))
            return
        if task is None and ended is None and not self._book.is_mine(report.task):
            yield Refused("not_my_task", sender)
            return
        self._book.count("late_results")
        holder.superseded.append((report.task, report.fence))
        yield Refused("superseded" if task is not None or ended is not None else "unknown_task", sender)

    # ---- the result's files

    def _fetch(self, task: Task) -> Effects:
        """Bring them here first: a result whose files die with their maker is none."""
        task.missing = tuple(dict.fromkeys(ref[0] for ref in task.output_files))
        for file, size in task.output_files:
            self._fetching.setdefault(file, {})[task.id] = task
            yield Tell(FileWanted(file, size, (task.node,)))

    def on_file_fetched(self, now_s: float, _me: NodeId, fetched: FileFetched) -> Effects:
        for task in list(self._fetching.pop(fetched.file, {}).values()):
            if task.state != COMMITTING or fetched.file not in task.missing:
                continue
            if fetched.ok:
                task.missing = tuple(file for file in task.missing if file != fetched.file)
                if not task.missing:
                    yield from self._commit(now_s, task)
                continue
            task.fetches += 1
            if task.fetches < FETCHES_MAX:
                self._book.deadlines.set(FetchAgain(task.id), now_s + FETCH_AGAIN_S)
            else:
                yield from self._lost_files(now_s, task)

    def expire_fetch(self, _now_s: float, _me: NodeId, due: FetchAgain) -> Effects:
        task = self._book.tasks.get(due.task)
        if task is not None and task.state == COMMITTING:
            yield from self._fetch(task)

    def _lost_files(self, now_s: float, task: Task) -> Effects:
        """The result is worth nothing without its files: run it again, elsewhere if that can be."""
        task.faults += 1
        error = {"code": "no_file", "message": "a file of the result could not be fetched from the node that made it", "node": task.node}
        yield from self._undo(now_s, task, "failed:no_file", error, final=task.faults >= FAULTS_MAX)

    def revoked(self, now_s: float, node: NodeId) -> Effects:
        """Results of a node that is not believed any more, and that were not committed yet, count for nothing."""
        holder = self._book.holders.get(node)
        for task in list(holder.tasks.values()) if holder is not None else ():
            if task.state == COMMITTING:
                yield from self._undo(now_s, task, NODE_REVOKED, node_lost(task, NODE_REVOKED), final=False)

    def _undo(self, now_s: float, task: Task, reason: str, error: dict[str, Any], *, final: bool) -> Effects:
        """A result that was taken and cannot be committed. Its handler has ended, so the work may go to others at once."""
        self._book.speak_to(task.holder).superseded.append((task.id, task.fence))
        task.output, task.output_hash, task.output_files, task.missing, task.fetches = None, "", (), (), 0
        if final or self._leases.on_lost(task) == "fail":
            self._book.drop(task)
            yield from self._ending.fail(now_s, task, error)
            return
        if task.durable:
            yield Append(Lost(task.id, task.fence, task.node, reason, json.dumps(error), int(now_s * 1000)))
        task.excluded = task.node
        self._book.free(task)

    # ---- failures

    def on_failure(self, now_s: float, sender: NodeId, failure: Failure) -> Effects:
        book = self._book
        task = book.tasks.get(failure.task)
        if task is None or task.holder != sender or task.fence != failure.fence or task.state == COMMITTING:
            yield from self._late(sender, failure, task)
            return
        holder = book.speak_to(sender)
        (holder.kept_acks if task.durable else holder.acks).append((task.id, task.fence))
        if task.state == CANCELLING:
            yield from self._ending.stopped(now_s, task)
            return
        if task.state == OFFERED:
            yield from self._leases.bind(now_s, task)
        error = self._error(task, sender, failure)
        yield from book.meter.over(now_s, task.account, task.durable, failure.service_ms)
        task.service_ms, task.version = failure.service_ms, failure.version or task.version
        if failure.kind not in NOT_THE_VERSIONS:
            yield from self._ran(task, failed=True)
        again, pause = self._verdict(now_s, task, failure)
        note_loss(task, sender, f"failed:{failure.kind}")
        book.drop(task)
        if failure.kind == "worker_lost" and not self._must_not_repeat(task, failure) and is_poison(task):
            again, error = False, {**poison(task, book.directory), "cause": error}
        if not again:
            if self._must_not_repeat(task, failure):
                error = {**error, **node_lost(task, failure.kind), "cause": error}
            yield from self._ending.fail(now_s, task, error)
            return
        if task.durable:
            text = json.dumps(error, separators=(",", ":"))
            yield Append(Lost(task.id, task.fence, sender, f"failed:{failure.kind}", text, int(now_s * 1000)))
        task.move(RETRY)
        task.reason = f"failed:{failure.kind}"
        book.deadlines.set(BackoffEnds(task.id), now_s + pause)
        if not pause:
            book.deadlines.clear(BackoffEnds(task.id))
            self._ready(task)

    def _verdict(self, now_s: float, task: Task, failure: Failure) -> tuple[bool, float]:
        """Whether to try again, and after how many seconds."""
        if failure.kind in NODE_FAULTS:
            task.faults += 1
            task.excluded = task.holder
            task.lost = task.lost or failure.kind in HANDLER_LOST
            if self._must_not_repeat(task, failure):
                return False, 0.0
            # The first two go elsewhere at once: a killed worker says nothing about the work.
            return task.faults < FAULTS_MAX, 0.0
        task.failures += 1
        allowed = task.retries if task.retries >= 0 else task.offer_retries
        if not failure.retryable or task.failures > allowed:
            return False, 0.0
        pause_s = failure.retry_after_ms / 1000 + backoff_s(self._book.random, self._book.limits, task.failures)
        left_ms = task.left_ms(now_s)
        # Who would still be waiting at his deadline is told today's reason, not "timeout".
        return not left_ms or pause_s * 1000 < left_ms, pause_s

    def _must_not_repeat(self, task: Task, failure: Failure) -> bool:
        return failure.kind in HANDLER_LOST and self._leases.on_lost(task) == "fail"

    def _error(self, task: Task, sender: NodeId, failure: Failure) -> dict[str, Any]:
        task.agent = failure.agent or task.agent
        return {
            "code": failure.kind,
            "message": failure.message,
            "details": failure.details,
            "retryable": failure.retryable,
            "node": sender,
            "node_name": self._book.directory.name_of(sender),
            "agent": task.agent,
            "attempts": task.attempts,
            "fix": f"mesh why {task.id}",
        }

    def expire_backoff(self, now_s: float, _me: NodeId, due: BackoffEnds) -> None:
        task = self._book.tasks.get(due.task)
        if task is None or task.state != BACKOFF:
            return
        if task.reason.startswith("failed:"):
            task.reason = OVER_BUDGET
            self._in_line[task.id] = task
            if len(self._in_line) == 1:
                self.expire_budget(now_s, "", BudgetDue())
            if task.id in self._in_line:
                self._book.count("retries_delayed")
        else:
            self._ready(task)

    def expire_budget(self, now_s: float, _me: NodeId, due: BudgetDue) -> None:
        """As many of those in line as there are tokens."""
        for task in list(self._in_line.values()):
            if task.state == BACKOFF:
                if not self._budget.spend(now_s, self._book.given):
                    self._book.deadlines.set(due, now_s + self._budget.wait_s())
                    return
                self._book.count("retries")
                self._ready(task)
            del self._in_line[task.id]

    def _ready(self, task: Task) -> None:
        task.move(READY)
        task.reason = ""
        self._book.enqueue(task, urgent=True)
