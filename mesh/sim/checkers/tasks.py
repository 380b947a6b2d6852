"""What became of the work. Reads journals as they were synced, handlers, the sink, and what clients were told.

O1   a fenced effect: per task, accepted fences never fall, and one fence has one node
O2   nothing acknowledged is lost: it ended, or its node still shows it
O3   progress: at the end of quiet everything acknowledged has ended, and every call was answered once
O4   one terminal state, never changed; what is done was done under the fence that was current
O6a  never two handlers of one task at once on one node; never two starts under one fence
RES  a result is what the capability makes of the arguments

What a revoked node promised is not owed by anybody, nor what a node promised whose disk was put back (`rollback.py`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from mesh.core.work.task import NO_AWARD
from mesh.ids import Fence, NodeId, TaskId, author_of
from mesh.messages.keeping import Took
from mesh.messages.records import Decided, Finished, Forgone, Submitted, TookOver
from mesh.messages.scopes import STATE
from mesh.messages.waits import WAIT
from mesh.sim.history import (
    Answered,
    Appended,
    Asked,
    EffectTried,
    HandlerBegan,
    HandlerOver,
    KeptUpTo,
    NodeDown,
    Outward,
    Phase,
    PutBack,
    Synced,
    Takes,
    Upheld,
    Verdict,
)
from mesh.sim.old_disks import OldDisks


@dataclass(frozen=True, slots=True)
class Shown:
    """Asked at the end of quiet: what the node that acknowledged `task` says of it. `row` None: it knows nothing."""

    at_s: float
    node: NodeId
    task: TaskId
    row: dict[str, Any] | None
    result: Any
    expected: Any


QUIET_AWARDS_MAX = 25
"""Of one task while nothing is wrong: more is a livelock."""
NOBODY = -1
ENDED = ("done", "failed", "cancelled")


class TaskChecker:
    def __init__(self) -> None:
        self._accepted: dict[TaskId, tuple[Fence, NodeId]] = {}
        self._running: dict[tuple[NodeId, TaskId], Fence] = {}
        self._started: dict[tuple[TaskId, Fence], NodeId] = {}
        self._over: dict[tuple[TaskId, Fence], str] = {}
        self._finished: dict[TaskId, Finished] = {}
        self._decided: dict[TaskId, Fence] = {}
        self._open: dict[int, Asked] = {}
        self._revoked: dict[NodeId, None] = {}
        self._answered: dict[int, None] = {}
        self._old = OldDisks()
        self._left: dict[TaskId, Finished] = {}
        """Ends that stood on a disk that was put back: its keepers may have had them by then, which nobody here is told."""
        self._quiet = False
        self._awards: dict[TaskId, int] = {}
        self._waiting: dict[NodeId, list[tuple[int, Any]]] = {}
        """Entries that are not kept yet, with their numbers."""
        self._copied: dict[tuple[NodeId, TaskId], dict[tuple[type, Fence], None]] = {}
        """What a node has copied of others' journals about a task."""
        self._synced_up_to: dict[NodeId, int] = {}
        self._kept: dict[NodeId, int] = {}
        self._submitted: dict[tuple[NodeId, TaskId], int] = {}
        """The number under which a node that drives it wrote it down."""
        self._own_copies: dict[NodeId, dict[TaskId, int]] = {}
        """The same of its own tasks in what it has drafted of others', who had drafted them: that counts only if it takes over."""
        self._taken: dict[NodeId, int] = {}
        """Entries of that author up to here were kept when another took over from him, whether he ever heard of it or not."""
        self.watches: tuple[type, ...] = (Took,)
        self.takes: Takes = {
            EffectTried: self._effect_tried,
            HandlerBegan: self._handler_began,
            HandlerOver: self._handler_over,
            Appended: self._appended,
            Synced: self._synced,
            KeptUpTo: self._kept_up_to,
            Outward: self._outward,
            NodeDown: self._node_down,
            Asked: self._asked,
            Answered: self._was_answered,
            Shown: self._shown,
            Phase: self._phase,
            Upheld: self._upheld,
            PutBack: self._put_back,
        }

    # ---- effects and handlers

    def _effect_tried(self, record: EffectTried) -> Iterator[Verdict]:
        if not record.accepted or record.task in self._old:
            return
        before = self._accepted.get(record.task)
        if before is not None and record.fence < before[0]:
            yield Verdict(
                record.at_s, "O1", f"{record.task}: an effect under fence {record.fence} was accepted after one under {before[0]}"
            )
        elif before is not None and record.fence == before[0]:
            yield Verdict(record.at_s, "O1", f"{record.task}: fence {record.fence} had an effect at {before[1]} and again at {record.node}")
        self._accepted[record.task] = (record.fence, record.node)

    def _handler_began(self, record: HandlerBegan) -> Iterator[Verdict]:
        if record.task in self._old:
            return
        place = (record.node, record.task)
        running = self._running.get(place)
        if running is not None:
            yield Verdict(record.at_s, "O6a", f"{record.node} runs {record.task} under {running} and starts it under {record.fence}")
        self._running[place] = record.fence
        first = self._started.setdefault((record.task, record.fence), record.node)
        if first != record.node or (running is None and (record.task, record.fence) in self._over):
            yield Verdict(record.at_s, "O6a", f"{record.task} started twice under fence {record.fence}: at {first}, then at {record.node}")

    def _handler_over(self, record: HandlerOver) -> Iterator[Verdict]:
        self._running.pop((record.node, record.task), None)
        self._over[(record.task, record.fence)] = record.outcome
        return iter(())

    # ---- the manager's journal

    def _appended(self, record: Appended) -> Iterator[Verdict]:
        """Copies of another's entries say nothing new."""
        kind, node = type(record.entry), record.node
        if kind is TookOver or kind is Forgone:
            own = self._own_copies.pop(node, {})
            self._submitted.update(((node, task), seq) for task, seq in own.items() if kind is TookOver)
        if kind is Submitted:
            if record.copied and author_of(record.entry.task) == node:
                self._own_copies.setdefault(node, {})[record.entry.task] = record.seq
            else:
                self._submitted[node, record.entry.task] = record.seq
            if record.entry.capability in (WAIT, STATE):
                self._decided[record.entry.task] = NO_AWARD  # nobody runs it, so nothing is ever decided
        if kind is Finished or kind is Decided or kind is Submitted:
            if record.copied:
                self._copied.setdefault((node, record.entry.task), {})[kind, getattr(record.entry, "fence", 0)] = None
            else:
                self._waiting.setdefault(node, []).append((record.seq, record.entry))
        return iter(())

    def _synced(self, record: Synced) -> Iterator[Verdict]:
        self._synced_up_to[record.node] = record.seq
        return self._judge(record.at_s, record.node)

    def _kept_up_to(self, record: KeptUpTo) -> Iterator[Verdict]:
        """What counts is kept. What its author said of tasks after others had taken them over is void."""
        self._kept[record.node] = record.seq
        if record.taken:
            waiting = self._waiting.get(record.node, [])
            submitted, node = self._submitted, record.node
            self._waiting[node] = [
                (seq, entry) for seq, entry in waiting if seq <= record.taken or submitted.get((node, entry.task), seq) > record.taken
            ]
        return self._judge(record.at_s, record.node)

    def _outward(self, record: Outward) -> Iterator[Verdict]:
        for signed in getattr(getattr(record.effect, "message", None), "yields", ()):
            author = signed.body.author
            self._taken[author] = max(self._taken.get(author, 0), signed.body.seq)
            yield from self._judge(record.at_s, author)

    def _judge(self, at_s: float, node: NodeId) -> Iterator[Verdict]:
        kept, waiting = self._kept.get(node, NOBODY), self._waiting.get(node)
        up_to = self._synced_up_to.get(node, 0)
        if kept == NOBODY and node in self._revoked:  # what it says to nobody but itself counts only as far as others took it over
            up_to = min(up_to, self._taken.get(node, 0))
        up_to = up_to if kept == NOBODY else min(up_to, max(kept, self._taken.get(node, 0)))
        while waiting and waiting[0][0] <= up_to:
            entry = waiting.pop(0)[1]
            yield from self._told_before(at_s, node, entry.task)
            yield from self._durable(at_s, node, entry)

    def _told_before(self, at_s: float, node: NodeId, task: TaskId) -> Iterator[Verdict]:
        """What `node` has copied of the task was kept before it was taken over, though its author may not have heard so yet."""
        copied = self._copied.pop((node, task), {})
        for author, waiting in self._waiting.items() if copied else ():
            if author == node:
                continue
            known = [one for one in waiting if one[1].task == task and (type(one[1]), getattr(one[1], "fence", 0)) in copied]
            for one in known:
                waiting.remove(one)
                yield from self._durable(at_s, author, one[1])

    def _durable(self, at_s: float, node: NodeId, entry: Any) -> Iterator[Verdict]:
        kind = type(entry)
        if entry.task in self._old:
            return
        if kind is Decided:
            if self._quiet:
                awards = self._awards[entry.task] = self._awards.get(entry.task, 0) + 1
                if awards == QUIET_AWARDS_MAX:
                    yield Verdict(at_s, "O3", f"{entry.task} was awarded {awards} times in quiet, and does not come to an end")
            before = self._decided.get(entry.task, 0)
            if entry.fence <= before:
                yield Verdict(at_s, "O4", f"{entry.task}: fence {entry.fence} was decided after {before}: fences must grow")
            self._decided[entry.task] = max(before, entry.fence)
            if entry.task in self._finished:
                yield Verdict(at_s, "O4", f"{entry.task} was awarded again after it had ended: {self._finished[entry.task].state}")
        elif kind is Finished:
            before_end = self._finished.get(entry.task)
            if before_end is not None:
                yield Verdict(at_s, "O4", f"{entry.task} ended twice: {before_end.state}, then {entry.state}")
            self._finished[entry.task] = entry
            if entry.state == "done" and entry.fence != self._decided.get(entry.task):
                yield Verdict(
                    at_s, "O4", f"{entry.task} was committed under fence {entry.fence}; current was {self._decided.get(entry.task)}"
                )

    def _node_down(self, record: NodeDown) -> Iterator[Verdict]:
        """What was not synced never was, and its clients hang up."""
        synced = self._synced_up_to.get(record.node, 0)
        self._waiting[record.node] = [(seq, entry) for seq, entry in self._waiting.get(record.node, []) if seq <= synced]
        for request in [request for request, asked in self._open.items() if asked.node == record.node]:
            del self._open[request]
        return iter(())

    def _put_back(self, record: PutBack) -> Iterator[Verdict]:
        self._left |= {entry.task: entry for _, entry in self._waiting.pop(record.node, ()) if type(entry) is Finished}
        return self._old.note(record)

    # ---- clients

    def _upheld(self, record: Upheld) -> Iterator[Verdict]:
        self._revoked[record.target] = None
        for request in [request for request, asked in self._open.items() if asked.node == record.target]:
            del self._open[request]
        return iter(())

    def _asked(self, record: Asked) -> Iterator[Verdict]:
        if record.node not in self._revoked:
            self._open[record.request] = record
        return iter(())

    def _was_answered(self, record: Answered) -> Iterator[Verdict]:
        if record.request in self._answered:
            yield Verdict(record.at_s, "O3", f"{record.node} answered request {record.request} twice")
        self._answered[record.request] = None
        asked = self._open.pop(record.request, None)
        if asked is None or asked.command.durable or not record.ok or record.body.get("state") != "done":
            return
        got, wanted = json.loads(record.body["output"]), expected_of(asked.command)
        if wanted is not None and got != wanted:
            yield Verdict(record.at_s, "RES", f"a call of {asked.command.capability} was answered {got!r} instead of {wanted!r}")

    def _shown(self, record: Shown) -> Iterator[Verdict]:
        if record.task in self._old:
            return
        if record.row is None:
            yield Verdict(record.at_s, "O2", f"{record.node} acknowledged {record.task} and knows nothing of it")
            return
        state = record.row.get("state")
        if state not in ENDED:
            reason = record.row.get("reason", "")
            yield Verdict(record.at_s, "O3", f"{record.task} is still {state} at the end of quiet ({reason or 'no reason given'})")
            return
        finished = self._finished.get(record.task) or self._left.get(record.task)
        if finished is None or finished.state != state:
            yield Verdict(
                record.at_s, "O4", f"{record.node} shows {record.task} as {state}; its journal says {finished and finished.state}"
            )
        if state == "done" and record.expected is not None and record.result != record.expected:
            yield Verdict(record.at_s, "RES", f"the result of {record.task} is {record.result!r} instead of {record.expected!r}")

    def _phase(self, record: Phase) -> Iterator[Verdict]:
        self._quiet = record.name == "quiet"
        if record.name != "settled":
            return
        for asked in self._open.values():
            wish = asked.command
            what = "submission" if wish.durable else "call"
            yield Verdict(record.at_s, "O3", f"a {what} of {wish.capability} at {asked.node}, {asked.at_s:.3f} s, was never answered")


def expected_of(wish: Any) -> Any:
    """What the wish's result must be; None if the harness does not know."""
    return getattr(wish, "expected", None)
