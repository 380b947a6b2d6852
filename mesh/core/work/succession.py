"""Tasks that come from elsewhere: from this node's earlier life, or from the log of an author that is gone; and tasks that are taken away.

    own journal (Fold) --Leading--> reopened, RECLAIM            TaleTold (his log, folded) --copied as a draft--> CarriedOver
    Deposed: what others have taken over is let go without a word                 LogSettled --> TookOver: reopened, RECLAIM  |  Forgone

Invariant: a draft drives nothing until its author's log says who took over; then it counts once, here or nowhere. What is copied are the
author's own entries about tasks that live, and about the steps of such, so that the journal here tells their whole story from now on.
Decides nothing about awards: holders are asked as after any restart, and running work goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable
from typing import Any

from mesh.core.keeping.inputs import CarriedOver, Deposed, LogSettled, TaleTold
from mesh.core.work.book import Book, Effects
from mesh.core.work.claims import Claims
from mesh.core.work.ending import Ending
from mesh.core.work.fold import Draft, Fold, renewed
from mesh.core.work.leases import Leases
from mesh.core.work.scope import Needed
from mesh.core.work.task import CANCELLING, CLAIMING, HELD, MOVED, OFFERED, PENDING, Task, is_void
from mesh.core.work.waits import dumps
from mesh.effects import Append, Later, Need, Send
from mesh.ids import Hash, NodeId, TaskId, author_of, place_of
from mesh.messages.records import Forgone, Inherited, Opened, Stored, Submitted, TookOver
from mesh.messages.work import Answer

Row = tuple[int, Any, dict[Hash, bytes]]


class Tale:
    """What has been told so far of one author's log. Of tasks that have ended nothing but their numbers is kept."""

    def __init__(self, author: NodeId, term: int, revoked: Callable[[NodeId], bool]) -> None:
        self.author, self.term, self._revoked = author, term, revoked
        self.fold = Fold()
        self.rows: list[tuple[tuple[Draft, ...], Row]] = []
        """Each with the drafts it stands in, the outermost first."""
        self._open: list[tuple[Draft, int]] = []
        """Drafts whose entries are being told, and how many of each are left."""
        self._taken: dict[Draft, None] = {}
        self.last = (0, 0)
        """Incarnation and number of the author's own last task."""

    def add(self, rows: Iterable[Row]) -> None:
        for row in rows:
            if not self._tells(row[1]):
                continue
            self.fold.apply(row[1], row[2], row[0])
            self.rows.append((self._path(row[1]), row))
            if type(row[1]) is Submitted:
                author, incarnation, counter = place_of(row[1].task)
                if author == self.author:
                    self.last = max(self.last, (incarnation, counter))
        if len(self.rows) > 4 * (len(self.fold.tasks) + 1024):
            self.rows = self._wanted(self.fold.drafts)

    def _tells(self, entry: Any) -> bool:
        if self.fold.drafting:
            return True
        # Where this log was taken over in the middle of a draft, its end stands here without its beginning: it never counts.
        stray = type(entry) is Submitted and author_of(entry.task) != self.author
        return self.fold.knows(entry) and not stray

    def _path(self, entry: Any) -> tuple[Draft, ...]:
        self._open = [(draft, left - 1) for draft, left in self._open if left and type(entry) is not Opened]
        if type(entry) is TookOver:
            self._taken[entry.author, entry.term] = None
        if type(entry) is Inherited:
            self._open.append(((entry.author, entry.term), entry.count))
        return tuple(draft for draft, _ in self._open)

    def _wanted(self, drafts: Container[Draft]) -> list[tuple[tuple[Draft, ...], Row]]:
        """Entries of live tasks and of their steps; and whole drafts, which may come to count. Nothing of what was forgone."""
        live = {name: None for name, task in self.fold.tasks.items() if self._matters(task)}
        rows = [(path, row) for path, row in self.rows if self._counts(path, row[1], drafts, live)]
        # Of a state what was not written over. (What may come to count is told whole: its beginning says of how many entries it is.)
        states: dict[TaskId, Needed] = {}
        loose = [type(row[1]) is Stored and not any(draft in drafts for draft in path) for path, row in rows]
        for at, (_, row) in enumerate(rows):
            if loose[at]:
                states.setdefault(row[1].task, Needed()).add(at, row[1])
        needed = {at for state in states.values() for at in state.numbers()}
        return [one for at, one in enumerate(rows) if not loose[at] or at in needed]

    def _counts(self, path: tuple[Draft, ...], entry: Any, drafts: Container[Draft], live: Container[TaskId]) -> bool:
        for draft in path:
            if draft in drafts:
                return True
            if draft not in self._taken:
                return False
        return type(entry) is not Inherited and getattr(entry, "task", "") in live

    def _matters(self, task: Task) -> bool:
        while task.ended and task.parent in self.fold.tasks:
            task = self.fold.tasks[task.parent]
        # The work of a revoked node ends with it; what it had taken over from others does not.
        return not task.ended and not self._revoked(author_of(task.id))

    def entries(self) -> list[Row]:
        return [row for _, row in self._wanted(self.fold.whole_drafts())]


class Succession:
    def __init__(self, book: Book, ending: Ending, leases: Leases, claims: Claims) -> None:
        self._book, self._ending, self._leases, self._claims = book, ending, leases, claims
        self._tales: dict[NodeId, Tale] = {}
        self.drafts: dict[Draft, Fold] = {}
        self._settled: dict[NodeId, LogSettled] = {}
        """The newest of each log that is kept here."""

    # ---- what begins here

    def open(self, now_s: float, fold: Fold, taken: int) -> Effects:
        """The tasks of the own journal, but those that others have taken over."""
        self.drafts |= {key: draft for key, draft in fold.whole_drafts().items() if draft.begun > taken}
        cuts = self._cuts(taken)
        self._forget([task for task in fold.tasks.values() if is_void(task, cuts)])
        yield from self.begin(now_s, [task for task in fold.tasks.values() if not is_void(task, cuts)])
        for author in dict.fromkeys(author for author, _ in self.drafts):  # what others had said of their logs before that
            if author in self._settled:
                yield from self._resolve(now_s, self._settled[author])

    def begin(self, now_s: float, tasks: list[Task]) -> Effects:
        """From now on this node drives them. Their holders are asked; what was being cancelled and is held by nobody ends."""
        for task in tasks:
            self._book.moved.pop(task.id, None)
            task.submitted_at_s = min(task.submitted_at_s, now_s)  # the clock began again with its machine
            if task.ended:
                self._book.ended[task.id] = task
            elif task.state == CLAIMING:
                yield from self._claims.resume(now_s, task)
            else:
                self._reopen(now_s, task)
        for task in tasks:
            if task.ended or task.state == CLAIMING:
                continue
            if task.cancel_by and not task.holder:
                yield from self._ending.stopped(now_s, task)
            elif task.step and self._is_orphan(task):
                yield from self._ending.cancel(now_s, task, task.parent, "parent ended")
        yield from self._leases.reclaim_all(now_s)

    def _is_orphan(self, task: Task) -> bool:
        """The log has its parent's end and not what followed from it; or others took its parent over before they could know of this step,
        and whoever drives that now begins a step of this name for itself."""
        parent = self._book.tasks.get(task.parent)
        return parent is None or (parent.children or {}).get(task.step) is not task

    def _reopen(self, now_s: float, task: Task) -> None:
        book = self._book
        book.tasks[task.id] = task
        book.admission.took(len(task.input))
        task.sources = (book.me,) if task.files else ()
        if task.timeout_ms:
            book.wheel.add(task, max(now_s, task.submitted_at_s + task.timeout_ms / 1000), task.timeout_ms)
        if task.holder:
            assert task.state in (OFFERED, HELD, CANCELLING)
            self._leases.recover(now_s, task)
            if task.state == CANCELLING:
                book.stop(task, task.cancel_reason)
        elif not task.cancel_by:
            task.state = PENDING
            book.enqueue(task)

    # ---- what others begin

    def on_deposed(self, now_s: float, _me: NodeId, deposed: Deposed) -> Effects:
        yield from self.let_go(now_s, deposed.taken)

    def let_go(self, now_s: float, taken: int) -> Effects:
        """Others drive these tasks now; whoever waits for one is told whom to ask."""
        self.drafts = {key: draft for key, draft in self.drafts.items() if draft.begun > taken}
        cuts = self._cuts(taken)
        gone = [task for task in self._book.tasks.values() if is_void(task, cuts)]
        for task in gone:
            self._book.close(task)
            task.state = MOVED
        self._forget(gone)
        for task in gone:
            for node, ask in task.waiters or ():
                yield Send(node, Answer(ask, False, dumps(moved(task.id, self._book.whom_to_ask(task.id)))), need=Need.FREE)
            task.waiters = task.askers = None
        for step in [step for task in gone for step in (task.children or {}).values() if step.state != MOVED]:
            yield from self._ending.cancel(now_s, step, step.parent, "parent ended")
        ended = [task for task in self._book.ended.values() if task.state == MOVED or is_void(task, cuts)]
        for task in ended:
            del self._book.ended[task.id]
        self._forget(ended)

    def _cuts(self, taken: int) -> tuple[int, ...]:
        return (*self._book.directory.guard.cuts(self._book.me), taken)

    def _forget(self, tasks: list[Task]) -> None:
        """Remember who has them."""
        directory = self._book.directory
        for task in tasks:
            # Of the own ones the directory knows, also when they move on.
            self._book.moved[task.id] = "" if author_of(task.id) == directory.me else directory.taker_at(task.seq)
        while len(self._book.moved) > self._book.limits.ended_remembered:
            del self._book.moved[next(iter(self._book.moved))]

    # ---- what is taken over

    def on_tale_told(self, now_s: float, _me: NodeId, told: TaleTold) -> Effects:
        tale = self._tales.get(told.author)
        if tale is None or tale.term != told.term:
            tale = self._tales[told.author] = Tale(told.author, told.term, self._book.directory.revoked)
        tale.add(told.rows)
        if told.more:
            return
        del self._tales[told.author]
        rows = tale.entries()
        inherited = Append(Inherited(tale.author, tale.term, len(rows), int(now_s * 1000), self._clocks(now_s, tale, rows)))
        if rows:
            yield inherited
        draft = Fold(inherited=inherited.entry, begun=inherited.seq)
        for _, entry, bodies in rows:
            copied = Append(entry, bodies)
            yield copied
            draft.apply(entry, bodies, copied.seq)
        if rows:
            self.drafts[tale.author, tale.term] = draft
        yield Later(CarriedOver(tale.author, tale.term, *tale.last, len(rows)), need=Need.KEPT)

    def _clocks(self, now_s: float, tale: Tale, rows: list[Row]) -> tuple[tuple[NodeId, int], ...]:
        """How far our clock is ahead of the author's, by his newest stamp here, and by that of those whose tasks he had taken over.

        Without a stamp (of a session here with him) the time of his newest task begins again.
        """
        stamp_ms, stamp_at_s = self._book.stamp(now_s, tale.author)
        newest_s = max((task.submitted_at_s for task in tale.fold.tasks.values()), default=now_s)
        ahead_ms = int(stamp_at_s * 1000) - stamp_ms if stamp_ms else int((now_s - newest_s) * 1000)
        submitted = {author_of(entry.task): None for _, entry, _ in rows if type(entry) is Submitted}
        return tuple((author, ahead_ms + tale.fold.clocks.get(author, 0)) for author in sorted({tale.author: None} | submitted))

    def on_log_settled(self, now_s: float, _me: NodeId, settled: LogSettled) -> Effects:
        self._settled[settled.author] = settled
        yield from self._resolve(now_s, settled)

    def _resolve(self, now_s: float, settled: LogSettled) -> Effects:
        for key in [key for key in self.drafts if key[0] == settled.author]:
            term = key[1]
            if term in settled.terms:
                draft = self.drafts.pop(key)
                yield Append(TookOver(*key, int(now_s * 1000)))
                self._book.count("taken_over")
                yield from self.begin(now_s, [renewed(task) for task in draft.tasks.values()])
                # What its author had only drafted himself is a draft of this node from now on.
                self.drafts |= draft.drafts
                for author in dict.fromkeys(inner for inner, _ in draft.drafts):
                    if author in self._settled:
                        yield from self._resolve(now_s, self._settled[author])
            elif settled.term > term:
                self.drafts.pop(key, None)
                yield Append(Forgone(*key, int(now_s * 1000)))


def moved(task: TaskId, manager: NodeId) -> dict[str, Any]:
    """The error that tells whom to ask instead."""
    return {"code": "moved", "message": f"another node drives {task} now", "manager": manager, "fix": f"mesh task {task}"}
