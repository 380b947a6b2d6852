"""A second attempt beside one that takes longer than usual, elsewhere; whoever is first gives the result.

    AWARD --p95 of such work, no result, others have room, a token--> twin: a plain task of its own, never at the same node
    twin's RESULT first  --> Lost (outrun) + Decided (hedge) under the next fence + Finished; the slow one is revoked
    its own RESULT first --> the twin is cancelled

Invariants: a task has one live award, under its newest fence, at any time: the twin is another task, with an id and fences of its own, in
this manager's memory alone, so no lease, fence or commit means anything new; its result counts as an award of the task that was made,
bound and answered in one turn. Only idempotent work is hedged, and only while it has no budget, and has begun no effect, step, checkpoint
or stream: the twin has none of those either (it is refused as a stale attempt is). Hedges stay within `hedge_share` of the tasks given
(`budget.py`).
Source: Dean and Barroso, The Tail at Scale (2013).
"""

from __future__ import annotations

from dataclasses import replace

from mesh.core.work.book import Book, Effects
from mesh.core.work.budget import HedgeBudget
from mesh.core.work.ending import Ending
from mesh.core.work.market import RULE, Market
from mesh.core.work.task import (
    ACCEPT,
    AWARD,
    BACKOFF,
    BIDDING,
    DONE,
    FREE,
    HELD,
    OFFERED,
    PARKED,
    PENDING,
    READY,
    RESULT,
    WAKE,
    Task,
)
from mesh.core.work.waits import BackoffEnds, HedgeDue
from mesh.effects import Append
from mesh.ids import NodeId, next_fence
from mesh.messages.records import Bound, Candidate, Decided, Lost

OUTRUN = "outrun"
"""Why an award is over whose task was done by a second attempt."""


class Hedging:
    def __init__(self, book: Book, ending: Ending, market: Market) -> None:
        self._book, self._ending, self._market = book, ending, market
        self._budget = HedgeBudget(book.limits)
        ending.on_finish = self.finished

    # ---- before

    def expire(self, now_s: float, _me: NodeId, due: HedgeDue) -> None:
        """It has taken longer than almost all such work does."""
        book = self._book
        task = book.tasks.get(due.task)
        if task is None or task.fence != due.fence or task.twin or not self._may_be_doubled(now_s, task):
            return
        if not self._market.room_beside(now_s, task) or book.admission.refusal(now_s, len(task.input)) is not None:
            return
        if not self._budget.spend(book.given - book.counts.get("hedges", 0)):
            book.count("hedges_denied")
            return
        book.count("hedges")
        with book.origins.behind(book.origins.of(task)):
            twin = book.open(
                now_s,
                task.capability,
                task.input,
                durable=False,
                timeout_ms=task.left_ms(now_s),
                files=task.files,
                retries=0,
                by=f"hedge of {task.id}",
                bounds=task.bounds,
                placement=replace(task.placement, near="", apart="", hedge=False),
                rank=task.rank,
                pins=task.pins,
                baggage=task.baggage,
            )
        twin.sources, twin.hedges, twin.barred, task.twin = task.sources, task.id, task.holder, twin.id

    def _may_be_doubled(self, now_s: float, task: Task) -> bool:
        untouched = not task.effects and not task.children and not task.checkpoint and task.stream is None and task.account is None
        leads = not task.durable or self._book.holds(now_s)
        return task.idempotent and untouched and leads and task.state in (OFFERED, HELD)

    # ---- after

    def finished(self, now_s: float, ended: Task) -> Effects:
        """A task or a twin has ended: the other one need not go on."""
        book = self._book
        if ended.twin and (twin := book.tasks.get(ended.twin)) is not None:
            yield from self._ending.cancel(now_s, twin, ended.id, "the first attempt has ended")
        if not ended.hedges or (task := book.tasks.get(ended.hedges)) is None:
            return
        task.twin = ""
        if ended.state == DONE and (not task.durable or book.holds(now_s)):
            yield from self._adopt(now_s, task, ended)

    def _adopt(self, now_s: float, task: Task, twin: Task) -> Effects:
        """The twin's result is the task's, under an award of its own."""
        slow = task.holder
        if task.state not in (OFFERED, HELD, PENDING, PARKED, BACKOFF, BIDDING):
            return  # its own result is being fetched, or it is being cancelled
        yield from self._take_back(now_s, task)
        task.move(AWARD)
        task.fence = max(next_fence(task.fence), task.fence_min)
        decided = self._decided(now_s, task, twin, slow)
        if task.durable:
            yield Append(decided)
            yield Append(Bound(task.id, task.fence, int(now_s * 1000)), lazy=True)
        else:
            task.decisions = [*(task.decisions or ())[-7:], decided]
        task.move(ACCEPT)
        task.bound(twin.node)
        task.move(RESULT)
        task.node, task.agent, task.version, task.service_ms, task.reason = twin.node, twin.agent, twin.version, twin.service_ms, ""
        task.output, task.output_hash, task.output_files = twin.output, twin.output_hash, twin.output_files
        self._book.count("hedges_won")
        yield from self._ending.commit(now_s, task)

    def _take_back(self, now_s: float, task: Task) -> Effects:
        """Whatever it waits for, it waits no more."""
        book = self._book
        if task.state in (OFFERED, HELD):
            book.latencies.learn(task.capability, (now_s - task.offered_at_s) * 1000)
            book.haunt(task)
            if task.durable:
                yield Append(Lost(task.id, task.fence, task.holder, OUTRUN, "", int(now_s * 1000)))
            book.drop(task)
            task.move(FREE)
        elif task.state == BACKOFF:
            book.deadlines.clear(BackoffEnds(task.id))
            task.move(READY)
        elif task.state in (PENDING, PARKED):
            book.unqueue(task)
            if task.state == PARKED:
                task.move(WAKE)

    def _decided(self, now_s: float, task: Task, twin: Task, slow: NodeId) -> Decided:
        made = (twin.decisions or [])[-1:]
        winner = next(
            (c for one in made for c in one.candidates if c.node == twin.node), Candidate(twin.node, twin.node, 0, 0, 0.0, twin.agent)
        )
        refusals = ((slow, self._book.directory.name_of(slow), "slower"),) if slow else ()
        return Decided(task.id, task.fence, "hedge", RULE, twin.node, (winner,), refusals, int(now_s * 1000))
