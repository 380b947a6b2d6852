"""The manager's part of a journal, folded to tasks: what a restart begins with, and what tests and the inspector may compare with.

Pure: entries in order in, tasks out. What a journal does not say (progress, load, who waits for the answer) is not here. A pause before a
retry is not journaled either: such a task comes back as pending. What was inherited from another author is a fold of its own, until the
entry that makes it count, or takes it back. Invariant: an ended task does not change any more.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from mesh.core.work.poison import note_loss
from mesh.core.work.scope import Scope
from mesh.core.work.spending import begun
from mesh.core.work.task import (
    CANCELLING,
    CLAIMING,
    HANDLER_LOST,
    HELD,
    NODE_FAULTS,
    OFFERED,
    OUTCOME_KEPT_BYTES,
    PARKED,
    PENDING,
    TERMINAL,
    Intent,
    Said,
    Task,
    account_of,
    open_account,
)
from mesh.effects import Need
from mesh.ids import Hash, NodeId, TaskId, author_of, fence_of, term_of
from mesh.messages.records import (
    Answered,
    Bound,
    CancelAsked,
    Checkpointed,
    Claimed,
    Decided,
    Effected,
    Finished,
    Forgone,
    Inherited,
    Intended,
    Lost,
    Opened,
    Parked,
    Spent,
    Stored,
    Submitted,
    TookOver,
)
from mesh.messages.waits import WAIT

Draft = tuple[NodeId, int]
"""Whose tasks, and in which term they were taken over."""


class Fold:
    """`tasks` in the order they were submitted. A child is in its parent's `children`."""

    def __init__(self, ended_max: int = 10_000, inherited: Inherited | None = None, begun: int = 0, ahead_ms: int = 0) -> None:
        self.begun = begun
        """Number of the first entry of a draft."""
        self._told_by = {author: ms + ahead_ms for author, ms in inherited.clocks} if inherited is not None else {}
        self._ahead_ms = self._told_by.get(inherited.author, 0) if inherited is not None else 0
        """Of a draft: how far the clock of whose fold this is is ahead of those who submitted, and of whoever wrote it down first."""
        self.clocks: dict[NodeId, int] = {}
        """The same of what has come to count."""
        self.tasks: dict[TaskId, Task] = {}
        self._ended: dict[TaskId, None] = {}
        self._ended_max = ended_max
        self.drafts: dict[Draft, Fold] = {}
        """What was inherited and does not count yet."""
        self._draft: Fold | None = None
        self._draft_left = 0
        self._seq = 0
        self._kinds: dict[type, Callable[[Any, dict[Hash, bytes]], None]] = {
            Opened: self._opened,
            Submitted: self._submitted,
            Claimed: self._claimed,
            Decided: self._decided,
            Bound: self._bound,
            Lost: self._lost,
            Parked: self._parked,
            Checkpointed: self._checkpointed,
            Answered: self._answered,
            CancelAsked: self._cancel_asked,
            Intended: self._intended,
            Effected: self._effected,
            Spent: self._spent,
            Stored: self._stored,
            Finished: self._finished,
            Inherited: self._inherited,
            TookOver: self._took_over,
            Forgone: self._forgone,
        }

    def apply(self, entry: Any, bodies: dict[Hash, bytes], seq: int = 0) -> None:
        """Entry number `seq`. Entries of other kinds, and of tasks that are already forgotten, are passed over."""
        self._seq = seq
        if self._draft is not None and self._draft_left and type(entry) is not Opened:
            self._draft.apply(entry, bodies, seq)
            self._draft_left -= 1
            return
        kind = self._kinds.get(type(entry))
        if kind is not None:
            kind(entry, bodies)

    @property
    def drafting(self) -> bool:
        """The next entry belongs to what was inherited."""
        return self._draft_left > 0

    def knows(self, entry: Any) -> bool:
        """Whether entries of this kind tell something about tasks."""
        return type(entry) in self._kinds

    # ---- what was inherited

    def whole_drafts(self) -> dict[Draft, Fold]:
        """What was inherited and does not count yet, but for one whose end is missing here."""
        return {key: draft for key, draft in self.drafts.items() if draft is not self._draft or not self._draft_left}

    def _opened(self, _entry: Opened, _bodies: dict[Hash, bytes]) -> None:
        """What its writer had not copied in the life before, he never will."""
        self.drafts, self._draft_left = self.whole_drafts(), 0

    def _inherited(self, entry: Inherited, _bodies: dict[Hash, bytes]) -> None:
        self._draft = self.drafts[entry.author, entry.term] = Fold(self._ended_max, entry, self._seq, self._ahead_ms)
        self._draft_left = entry.count

    def _took_over(self, entry: TookOver, _bodies: dict[Hash, bytes]) -> None:
        draft = self.drafts.pop((entry.author, entry.term), None)
        for task in draft.tasks.values() if draft is not None else ():
            self.tasks[task.id] = renewed(task)
            if task.state in TERMINAL:
                self._remember_ended(task.id)
        if draft is not None:
            self.clocks |= draft._told_by
            self.drafts |= draft.whole_drafts()

    def _forgone(self, entry: Forgone, _bodies: dict[Hash, bytes]) -> None:
        self.drafts.pop((entry.author, entry.term), None)

    def _own_s(self, at_ms: int, task: TaskId) -> float:
        """A time that stands in an entry about `task`, on this fold's clock."""
        return (at_ms + self._told_by.get(author_of(task), self._ahead_ms)) / 1000

    def _live(self, name: TaskId) -> Task | None:
        task = self.tasks.get(name)
        return task if task is not None and task.state not in TERMINAL else None

    def _submitted(self, entry: Submitted, bodies: dict[Hash, bytes]) -> None:
        task = Task(
            entry.task,
            entry.capability,
            bodies.get(entry.input, b""),
            entry.input,
            True,
            Need.KEPT,
            self._own_s(entry.at_ms, entry.task),
            entry.timeout_ms,
            entry.retries,
            entry.by,
            entry.parent,
            entry.step,
            entry.files,
            bounds=entry.bounds,
            again=entry.again,
            key=entry.key,
            placement=entry.placement,
            rank=entry.rank,
            rules=entry.rules,
            down=entry.down,
            budget=entry.budget,
            pins=entry.pins,
            baggage=entry.baggage,
            origin=entry.origin,
        )
        task.seq = self._seq
        if task.key:
            task.state = CLAIMING
        self.tasks[entry.task] = task
        parent = self.tasks.get(entry.parent)
        open_account(task, self._live)
        if parent is not None:
            if entry.capability != WAIT:
                begun(parent.account)
            if parent.children is None:
                parent.children = {}
            parent.children[entry.step] = task

    def _claimed(self, entry: Claimed, _bodies: dict[Hash, bytes]) -> None:
        task = self.tasks.get(entry.task)
        if task is not None and entry.winner != entry.task:
            del self.tasks[entry.task]
        elif task is not None and task.state == CLAIMING:
            task.state = PENDING

    def _decided(self, entry: Decided, _bodies: dict[Hash, bytes]) -> None:
        if (task := self._live(entry.task)) is not None:
            task.fence, task.holder, task.node = entry.fence, entry.winner, entry.winner
            task.agent = next((c.agent for c in entry.candidates if c.node == entry.winner), "")
            task.state, task.reason = OFFERED, ""

    def _bound(self, entry: Bound, _bodies: dict[Hash, bytes]) -> None:
        if (task := self._live(entry.task)) is not None and task.fence == entry.fence:
            task.bound(task.node)
            if task.state == OFFERED:
                task.state = HELD

    def _lost(self, entry: Lost, _bodies: dict[Hash, bytes]) -> None:
        task = self._live(entry.task)
        if task is None or task.fence != entry.fence:
            return
        note_loss(task, entry.node, entry.reason)
        task.holder, task.reason = "", entry.reason
        if task.state != CANCELLING:
            task.state = PENDING
        cause, _, kind = entry.reason.partition(":")
        if cause == "failed" and kind in NODE_FAULTS:
            task.faults += 1
            task.lost = task.lost or kind in HANDLER_LOST
        elif cause == "failed":
            task.failures += 1
        elif cause not in ("declined", "released"):
            task.lost = True

    def _parked(self, entry: Parked, _bodies: dict[Hash, bytes]) -> None:
        if (task := self._live(entry.task)) is not None and task.state == PENDING:
            task.state, task.reason, task.parked_told = PARKED, entry.reason, entry.reason

    def _checkpointed(self, entry: Checkpointed, bodies: dict[Hash, bytes]) -> None:
        if (task := self._live(entry.task)) is not None and entry.fence == task.fence:
            task.checkpoint, task.checkpoint_at = bodies.get(entry.output, b""), (entry.fence, 0)
            if entry.anew:
                task.begin_anew(dict(entry.signals))

    def _answered(self, entry: Answered, bodies: dict[Hash, bytes]) -> None:
        if (task := self._live(entry.task)) is not None:
            said = Said(entry.node, entry.person, entry.approve, entry.note, bodies.get(entry.output, b""), entry.event, entry.word)
            task.said = (*task.said, said)

    def _cancel_asked(self, entry: CancelAsked, _bodies: dict[Hash, bytes]) -> None:
        if (task := self._live(entry.task)) is not None:
            task.cancel_by, task.cancel_reason = entry.by, entry.reason
            task.state = CANCELLING

    def _intended(self, entry: Intended, _bodies: dict[Hash, bytes]) -> None:
        if (task := self._live(entry.task)) is not None:
            if task.effects is None:
                task.effects = {}
            task.effects[entry.key] = Intent(entry.fence, entry.call, entry.once, entry.node)

    def _effected(self, entry: Effected, bodies: dict[Hash, bytes]) -> None:
        task = self._live(entry.task)
        intent = task.effects.get(entry.key) if task is not None and task.effects is not None else None
        if intent is None:
            return
        intent.error, intent.output_hash, intent.done = entry.error, entry.output, not entry.error
        output = bodies.get(entry.output)
        intent.output = output if output is not None and len(output) <= OUTCOME_KEPT_BYTES else None

    def _spent(self, entry: Spent, _bodies: dict[Hash, bytes]) -> None:
        task = self._live(entry.task)
        if task is None:
            return
        account_of(task, self._live).note(entry.key, entry.reserved, entry.used, (entry.fence, entry.call))

    def _stored(self, entry: Stored, bodies: dict[Hash, bytes]) -> None:
        if (task := self._live(entry.task)) is not None:
            task.scope = task.scope or Scope()
            task.scope.apply(entry, bodies.get(entry.output, b""))

    def _finished(self, entry: Finished, bodies: dict[Hash, bytes]) -> None:
        task = self.tasks.get(entry.task)
        if task is None or task.state in TERMINAL:
            return
        task.state, task.fence, task.holder, task.node = entry.state, entry.fence, "", entry.node
        task.agent, task.version, task.output_hash, task.output_files = entry.agent, entry.version, entry.output, entry.files
        task.output = bodies.get(entry.output) if entry.output else None
        task.error = json.loads(entry.error) if entry.error else None
        task.reason = str(task.error["code"]) if task.error else task.cancel_reason
        task.service_ms, task.ended_at_s, task.input = entry.service_ms, self._own_s(entry.at_ms, entry.task), b""
        task.end_seq, task.checkpoint, task.scope = self._seq, b"", None
        if task.account is not None:
            task.account.end()
        task.forget_outcomes()
        self._remember_ended(entry.task)

    def _remember_ended(self, task: TaskId) -> None:
        self._ended[task] = None
        if len(self._ended) > self._ended_max:
            oldest = next(iter(self._ended))
            del self._ended[oldest]
            self.tasks.pop(oldest, None)


def renewed(task: Task) -> Task:
    """The same task under another manager: its next award is of the next term, so that none of the last one's can equal it."""
    if task.state not in TERMINAL:
        task.fence_min = fence_of(term_of(task.fence) + 1, 1)
    return task
