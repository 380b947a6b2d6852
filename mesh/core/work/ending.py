"""How tasks end: committed, failed, cancelled, out of time. The only place that writes `Finished`.

Invariant: a task ends once; its entry (of a durable one) is written before anybody hears of it; whoever waits hears of it once: the client
behind a call, those who asked for the result, the workers whose step it was. An end takes the open children with it.
Does not decide whether a failure is worth another try (`retries.py`), nor who runs what (`placing.py`).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from mesh.core.policy.gating import PREFIX
from mesh.core.work.book import Book, Effects
from mesh.core.work.calls import Ring
from mesh.core.work.spending import Account
from mesh.core.work.task import (
    BACKOFF,
    CANCEL,
    CANCELLED,
    CANCELLING,
    COMMIT,
    COMMITTING,
    DONE,
    FAIL,
    HELD,
    NO_REQUEST,
    OFFERED,
    STOPPED,
    WAITING,
    Task,
)
from mesh.core.work.waits import BackoffEnds, answer_result, step_done
from mesh.core.work.wheel import TimeoutsDue
from mesh.effects import Append, Need, Reply
from mesh.ids import NodeId
from mesh.messages.records import CancelAsked, Finished

OUTPUT_KEPT_BYTES = 4096
"""Outputs of ended tasks up to here stay in memory; larger ones of durable tasks are read from the store when asked for."""


def no_such_capability(capability: str, nearest: list[str]) -> dict[str, Any]:
    near = f"; nearest: {', '.join(nearest)}" if nearest else ""
    return {"code": "no_such_capability", "message": f"nobody here offers {capability!r}{near}", "fix": "mesh caps"}


def no_such_label(capability: str, lacking: str) -> dict[str, Any]:
    return {"code": "no_such_label", "message": f"of those who offer {capability!r} {lacking}", "fix": "mesh caps"}


def nobody_left(task: Task) -> dict[str, Any]:
    message = f"what ran {task.capability!r} was lost, and nobody else here offers it"
    return {"code": "worker_lost", "message": message, "fix": "mesh caps"}


def own_revocation() -> dict[str, Any]:
    message = "this node was revoked: nobody in the mesh hears it any more, so it takes and keeps no work"
    return {"code": "node_revoked", "message": message, "fix": "join the mesh again as another node: mesh join TOKEN"}


def node_lost(task: Task, reason: str) -> dict[str, Any]:
    message = f"its node was lost while it may have been running ({reason}), and it must not repeat"
    return {"code": "node_lost", "message": message, "node": task.node, "fix": f"mesh why {task.id}"}


class Ending:
    def __init__(self, book: Book, ring: Ring) -> None:
        self._book, self._ring = book, ring
        self.on_finish: Callable[[float, Task], Effects] = lambda now_s, task: iter(())
        """What follows for its second attempt, or for the first."""
        self.on_time: Callable[[float, Task], Effects] = lambda now_s, task: iter(())
        """The time of a wait is over: ends it, if that is what it waits for."""

    # ---- the ways to end

    def commit(self, now_s: float, task: Task) -> Effects:
        """Its result is here, and so are the result's files."""
        task.move(COMMIT)
        return self._finish(now_s, task)

    def fail(self, now_s: float, task: Task, error: dict[str, Any]) -> Effects:
        """For good. `error` has code, message and what else is known."""
        if error["code"] == "poison":
            self._book.count("poison")
        self._leave(task, str(error["code"]))
        task.move(FAIL)
        task.error = error
        task.reason = str(error["code"])
        return self._finish(now_s, task)

    def settled(self, now_s: float, task: Task) -> Effects:
        """A wait is over: it has its result."""
        return self._finish(now_s, task)

    def cancel(self, now_s: float, task: Task, by: str, reason: str) -> Effects:
        """Asked for by a client, a parent's end or a client's going. Ends at once unless somebody holds it."""
        if task.ended or task.state == CANCELLING:
            return
        task.cancel_by, task.cancel_reason = by, reason
        if task.durable:
            yield Append(CancelAsked(task.id, by, reason, int(now_s * 1000)))
        if task.state in (OFFERED, HELD):
            self._book.stop(task, reason)
            task.move(CANCEL)
            yield from self._end_children(now_s, task, "parent cancelled")
            if task.twin and (twin := self._book.tasks.get(task.twin)) is not None:
                yield from self.cancel(now_s, twin, task.id, reason)
            return
        self._leave(task, reason)
        task.move(CANCEL)
        task.reason = reason
        yield from self._finish(now_s, task)

    def stopped(self, now_s: float, task: Task) -> Effects:
        """A task that is being cancelled is held by nobody any more."""
        task.move(STOPPED)
        task.reason = task.cancel_reason
        return self._finish(now_s, task)

    def expire_timeouts(self, now_s: float, _me: NodeId, due: TimeoutsDue) -> Effects:
        for task in self._book.wheel.due(due.slot_ms):
            if task.ended:
                continue  # a step, with its parent, whose time was over with its own
            if task.state == CANCELLING:
                self._leave(task, "timeout")
                yield from self.stopped(now_s, task)
                continue
            if task.state == WAITING:
                yield from self.on_time(now_s, task)
                if task.ended:
                    continue
            message = f"not finished within {task.timeout_ms / 1000:g} s ({task.state}{', ' + task.reason if task.reason else ''})"
            if task.state == WAITING:  # all else that waits has an outcome when its time is over
                message = f"{task.step.rpartition('/')[0].replace('/', ' ', 1)} did not come within {task.timeout_ms / 1000:g} s"
            yield from self.fail(now_s, task, {"code": "timeout", "message": message, "fix": f"mesh why {task.id}"})

    # ---- what every end does

    def _leave(self, task: Task, reason: str) -> None:
        """Out of the state it waited in. A holder who may still run it is told to stop, and again when he is back."""
        if task.state == BACKOFF:
            self._book.deadlines.clear(BackoffEnds(task.id))
        if not task.holder:
            return
        if task.state in (OFFERED, HELD, CANCELLING):
            self._book.stop(task, reason)
            self._book.haunt(task, revoke=False)
        elif task.state == COMMITTING:
            self._book.speak_to(task.holder).superseded.append((task.id, task.fence))

    def _finish(self, now_s: float, task: Task) -> Effects:
        book = self._book
        task.ended_at_s = now_s
        if task.account is not None:
            yield from self._settle(now_s, task, task.account)
        book.close(task)
        if task.durable:
            finished = self._finished(now_s, task)
            yield finished
            task.end_seq = finished.seq
        else:
            self._ring.add(now_s, task)
        book.count(task.state)
        if task.step.startswith(PREFIX) and (held := book.tasks.get(task.parent)) is not None:
            book.gated.append(held)
        if task.request != NO_REQUEST:
            book.requests.pop(task.request, None)
            yield self._reply(task)
        if task.askers is not None:
            for node, ask in task.askers:
                yield step_done(node, ask, task)
            task.askers = None
        if task.waiters is not None:
            for node, ask in task.waiters:
                yield answer_result(node, ask, task)
            task.waiters = None
        if task.children is not None:
            yield from self._end_children(now_s, task, "parent ended")
        if task.stream is not None:
            yield from task.stream.close()
        if task.twin or task.hedges:
            yield from self.on_finish(now_s, task)
        task.forget_outcomes()
        task.input, task.checkpoint, task.scope = b"", b"", None
        if task.output is not None and len(task.output) > OUTPUT_KEPT_BYTES:
            task.output = None

    def _settle(self, now_s: float, task: Task, account: Account) -> Effects:
        """What it used is its parent's from now on, and what it did not is free again."""
        yield from self._book.meter.ended(now_s, account, task.durable)
        above = account.above
        account.end()
        self._book.meter.goes_on(now_s, above)

    def _finished(self, now_s: float, task: Task) -> Append:
        entry = Finished(
            task.id,
            task.fence,
            task.state,
            task.node,
            task.agent,
            task.output_hash,
            task.output_files,
            json.dumps(task.error, separators=(",", ":")) if task.error is not None else "",
            task.service_ms,
            int(now_s * 1000),
            task.version,
        )
        return Append(entry, {task.output_hash: task.output} if task.output is not None else {})

    def _reply(self, task: Task) -> Reply:
        if task.error is not None and task.error["code"] in ("no_such_capability", "no_such_label"):
            return Reply(task.request, False, task.error, need=Need.FREE)
        body: dict[str, Any] = {"task": task.id, "state": task.state}
        if task.state == DONE:
            body["output"] = task.output
            body["files"] = [list(ref) for ref in task.output_files]
        elif task.state == CANCELLED:
            body["error"] = {"code": "cancelled", "message": task.cancel_reason, "fix": f"mesh why {task.id}"}
        else:
            body["error"] = task.error
        if task.account is not None:
            body["spent"] = [list(pair) for pair in task.account.total()]
        return Reply(task.request, True, body, need=Need.FREE)

    def _end_children(self, now_s: float, task: Task, reason: str) -> Effects:
        for child in list((task.children or {}).values()):
            yield from self.cancel(now_s, child, task.id, reason)
