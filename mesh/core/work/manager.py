"""The manager of the contract net: drives the tasks that were submitted to this node, from the question to the committed result.

    clients --Call, Submit--> line --placing--> AWARD --leases--> held --retries--> committed, failed, cancelled --> clients
    workers --STEP_ASK--------^ steps      --EFFECT_ASK--> effect_ledger                                      --> workers

Invariants: fences of a task strictly grow; of each award the decision is written before the AWARD leaves; at most one result is committed
per task; a task ends once. One manager per task, the node it was submitted to; without keepers its tasks wait for it while it is down.
Does not run handlers (contractor), move files (files), know who is alive (membership) or answer clients' questions (desk).

The parts share one book: `placing` looks at the lines when the turn ends, and what is to be said is said once per contractor then.
Source: BLUEPRINT section 7; Smith, The Contract Net Protocol (1980).
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Any

from mesh.core.deadlines import Deadlines
from mesh.core.directory import ReadDirectory
from mesh.core.inputs import (
    BodyRead,
    Call,
    FileFetched,
    MemberAlive,
    MemberDied,
    MemberLeft,
    MemberLinked,
    MemberRestarted,
    MemberRevoked,
    MemberSuspected,
    MemberUnreachable,
    OffersChanged,
    Replay,
    RequestGone,
    Started,
    Submit,
    TurnEnds,
)
from mesh.core.node import Method
from mesh.core.work.book import AcksDue, AwardsDue, Book, Effects, LeasesDue, PulseDue
from mesh.core.work.calls import CallsDue, Ring
from mesh.core.work.effect_ledger import EffectLedger
from mesh.core.work.ending import Ending, own_revocation
from mesh.core.work.fold import Fold
from mesh.core.work.leases import Leases
from mesh.core.work.placing import Placing
from mesh.core.work.questions import Questions
from mesh.core.work.readback import Readback
from mesh.core.work.retries import Retries
from mesh.core.work.steps import Steps
from mesh.core.work.task import CANCELLING, HELD, OFFERED, PENDING, Task
from mesh.core.work.waits import AuctionEnds, BacklogDue, BackoffEnds, FetchAgain, GraceEnds, ReclaimsDue
from mesh.core.work.wheel import TimeoutsDue
from mesh.effects import Need, Reply
from mesh.ids import NodeId
from mesh.limits import WorkLimits
from mesh.messages.membership import Load
from mesh.messages.work import (
    Accept,
    Ask,
    Beat,
    Bid,
    Cancelled,
    Decline,
    Failure,
    Reclaimed,
    Refuse,
    Release,
    Result,
    Revoked,
)


@dataclass(frozen=True, slots=True)
class ManagerStatistics:
    live: int
    waiting: int
    """In line: pending or parked."""
    auctions: int
    held: int
    """Awarded and not ended, here or elsewhere."""
    ended_remembered: int
    calls_remembered: int
    done: int
    failed: int
    cancelled: int
    late_results: int
    awards_resent: int
    leases_over: int


class Manager:
    """See the module. `incarnation` makes task ids unique over restarts; `random` draws samples and pauses."""

    def __init__(self, directory: ReadDirectory, deadlines: Deadlines, limits: WorkLimits, random: Random, *, incarnation: int) -> None:
        self._limits = limits
        self.book = book = Book(directory, deadlines, limits, random, incarnation)
        self._ring = ring = Ring(deadlines, limits)
        self._fold: Fold | None = Fold(limits.ended_remembered)
        self._ending = ending = Ending(book, ring)
        self._leases = leases = Leases(book, ending)
        self._placing = placing = Placing(book, ending)
        self._retries = retries = Retries(book, ending, leases)
        readback = Readback()
        of_handlers = Steps(book, leases, readback).inputs | EffectLedger(book, leases, readback).inputs
        self._questions = Questions(book, ending, ring, readback)
        soon = self._then_say
        at_once = self._then_say_here
        self.inputs: dict[type, Method] = {
            Call: self._do_call,
            Submit: self._do_submit,
            RequestGone: self._do_forget,
            TurnEnds: self._turn_ends,
            Replay: self._do_replay,
            Started: soon(self._on_started),
            Bid: at_once(placing.on_bid),
            Refuse: at_once(placing.on_refuse),
            Accept: at_once(leases.on_accept),
            Decline: at_once(leases.on_decline),
            Beat: at_once(leases.on_beat),
            Release: at_once(leases.on_release),
            Revoked: at_once(leases.on_revoked),
            Cancelled: at_once(leases.on_cancelled),
            Reclaimed: at_once(leases.on_reclaimed),
            Result: at_once(retries.on_result),
            Failure: at_once(retries.on_failure),
            **{kind: at_once(method) for kind, method in of_handlers.items()},
            Ask: at_once(self._questions.on_ask),
            Load: at_once(placing.on_load),
            BodyRead: readback.on_body_read,
            FileFetched: soon(retries.on_file_fetched),
            MemberAlive: soon(self._on_member_alive),
            MemberLinked: soon(self._on_member_linked),
            MemberSuspected: soon(self._on_member_suspected),
            MemberUnreachable: soon(self._on_member_unreachable),
            MemberDied: soon(self._on_member_died),
            MemberLeft: soon(self._on_member_left),
            MemberRestarted: soon(self._on_member_restarted),
            MemberRevoked: soon(self._on_member_revoked),
            OffersChanged: soon(self._on_offers_changed),
            AcksDue: book.expire_acks,
            AwardsDue: leases.expire_awards,
            LeasesDue: soon(leases.expire_leases),
            PulseDue: leases.expire_pulse,
            ReclaimsDue: leases.expire_reclaims,
            AuctionEnds: soon(placing.expire_auction),
            BacklogDue: soon(placing.expire_backlog),
            GraceEnds: soon(placing.expire_grace),
            BackoffEnds: soon(retries.expire_backoff),
            FetchAgain: soon(retries.expire_fetch),
            TimeoutsDue: soon(ending.expire_timeouts),
            CallsDue: self._expire_calls,
        }

    # ---- the turn

    def _turn_ends(self, now_s: float, _me: NodeId, _turn: TurnEnds) -> Effects | None:
        return self._say(now_s) if self.book.woken or self.book.dirty else None

    def _say(self, now_s: float) -> Effects:
        yield from self._placing.drain(now_s)
        yield from self.book.flush(now_s)

    def _then_say(self, method: Method) -> Method:
        """Facts and deadlines may come after the end of the turn: what follows from them is said at once."""

        def run(now_s: float, sender: NodeId, item: Any) -> Effects:
            made = method(now_s, sender, item)
            if made is not None:
                yield from made
            yield from self._say(now_s)

        return run

    def _then_say_here(self, method: Method) -> Method:
        """So may messages of this node's own machines; those of others wait for the end, and are answered together."""
        me, said = self.book.me, self._then_say(method)

        def run(now_s: float, sender: NodeId, item: Any) -> Any:
            return method(now_s, sender, item) if sender != me else said(now_s, sender, item)

        return run

    # ---- clients

    def _room_for(self, request: int, data: bytes) -> Reply | None:
        """None, or why the work is turned down."""
        if self.book.directory.revoked(self.book.me):
            return Reply(request, False, own_revocation(), need=Need.FREE)
        if len(self.book.tasks) >= self._limits.tasks_max:
            message = f"this node already manages {len(self.book.tasks)} tasks"
            return Reply(request, False, {"code": "overloaded", "message": message, "fix": "mesh tasks"}, need=Need.FREE)
        if len(data) > self._limits.body_bytes_max:
            message = f"arguments of {len(data)} bytes; at most {self._limits.body_bytes_max} travel inside a message, larger ones as File"
            return Reply(request, False, {"code": "too_big", "message": message, "fix": "mesh call CAP name=@file"}, need=Need.FREE)
        return None

    def _do_call(self, now_s: float, _me: NodeId, call: Call) -> list[Reply] | None:
        if (turned := self._room_for(call.request, call.input)) is not None:
            return [turned]
        self.book.requests[call.request] = self.book.open(
            now_s,
            call.capability,
            call.input,
            durable=False,
            timeout_ms=call.timeout_ms,
            files=call.files,
            parent=call.parent,
            request=call.request,
        )
        return None

    def _do_submit(self, now_s: float, _me: NodeId, submit: Submit) -> Effects:
        if (turned := self._room_for(submit.request, submit.input)) is not None:
            yield turned
            return
        task = self.book.open(
            now_s,
            submit.capability,
            submit.input,
            durable=True,
            timeout_ms=submit.timeout_ms,
            files=submit.files,
            retries=submit.retries,
            by=submit.by,
        )
        yield self.book.submitted(task)
        yield Reply(submit.request, True, {"task": task.id, "survives": "restart"}, need=Need.KEPT)

    def _do_forget(self, now_s: float, _me: NodeId, gone: RequestGone) -> Effects:
        """A plain call dies with its caller."""
        task = self.book.requests.pop(gone.request, None)
        if task is not None:
            task.request = -1
            yield from self._ending.cancel(now_s, task, "caller", "the caller is gone")

    def _expire_calls(self, now_s: float, _me: NodeId, _due: CallsDue) -> Effects:
        return self._ring.expire(now_s)

    # ---- restart

    def _do_replay(self, _now_s: float, _me: NodeId, replay: Replay) -> None:
        assert self._fold is not None, "replay ends with Started"
        self._fold.apply(replay.entry, replay.bodies)

    def _on_started(self, now_s: float, _me: NodeId, _started: Started) -> Effects:
        self.book.started_at_s = now_s
        fold, self._fold = self._fold, None
        if fold is None:
            return
        for task in fold.tasks.values():
            if task.ended:
                self.book.ended[task.id] = task
            else:
                self._reopen(now_s, task)
        for task in list(self.book.tasks.values()):
            if task.cancel_by and not task.holder:
                yield from self._ending.stopped(now_s, task)
        yield from self._leases.reclaim_all(now_s)

    def _reopen(self, now_s: float, task: Task) -> None:
        book = self.book
        book.tasks[task.id] = task
        task.sources = (book.me,) if task.files else ()
        if task.submitted_at_s > now_s:
            # The clock began again with the machine: what is left of the timeout is not known, so it begins again too.
            task.submitted_at_s = now_s
        if task.timeout_ms:
            book.wheel.add(task, max(now_s, task.submitted_at_s + task.timeout_ms / 1000))
        if task.holder:
            assert task.state in (OFFERED, HELD, CANCELLING)
            self._leases.recover(now_s, task)
            if task.state == CANCELLING:
                book.stop(task, task.cancel_reason)
        elif not task.cancel_by:
            task.state = PENDING
            book.enqueue(task)

    # ---- members

    def _wake_all(self) -> None:
        self.book.wake(list(self.book.lines))

    def _on_member_alive(self, _now_s: float, _me: NodeId, _fact: MemberAlive) -> None:
        self._wake_all()

    def _on_member_linked(self, now_s: float, _me: NodeId, fact: MemberLinked) -> Effects:
        self._wake_all()
        return self._leases.linked(now_s, fact.node)

    def _on_offers_changed(self, _now_s: float, _me: NodeId, _fact: OffersChanged) -> None:
        self._wake_all()

    def _gone(self, now_s: float, node: NodeId, reason: str) -> Effects:
        yield from self._placing.gone(now_s, node)
        yield from self._leases.gone(now_s, node, reason)

    def _on_member_suspected(self, now_s: float, _me: NodeId, fact: MemberSuspected) -> Effects | None:
        """A soft suspicion costs nobody his work; a refused connect says that the process is gone."""
        return self._gone(now_s, fact.node, "suspected") if fact.hard else None

    def _on_member_unreachable(self, now_s: float, _me: NodeId, fact: MemberUnreachable) -> Effects:
        return self._gone(now_s, fact.node, "unreachable")

    def _on_member_died(self, now_s: float, _me: NodeId, fact: MemberDied) -> Effects:
        return self._gone(now_s, fact.node, "dead")

    def _on_member_left(self, now_s: float, _me: NodeId, fact: MemberLeft) -> Effects:
        return self._gone(now_s, fact.node, "left")

    def _on_member_restarted(self, now_s: float, _me: NodeId, fact: MemberRestarted) -> Effects:
        yield from self._placing.gone(now_s, fact.node)
        yield from self._leases.restarted(now_s, fact.node)

    def _on_member_revoked(self, now_s: float, me: NodeId, fact: MemberRevoked) -> Effects:
        """What it holds or was offered goes to others under higher fences, and it is never asked again."""
        if fact.node != me:
            yield from self._placing.gone(now_s, fact.node)
            yield from self._retries.revoked(now_s, fact.node)
            yield from self._leases.revoked(now_s, fact.node)
            return
        for task in list(self.book.tasks.values()):
            if not task.ended:
                yield from self._ending.fail(now_s, task, own_revocation())

    # ---- for those who look

    def call_story(self, task: str) -> dict[str, Any] | None:
        """A plain call's decisions and end as JSON; None: not remembered, or no plain call."""
        return self._questions.call_story(task)

    def statistics(self) -> ManagerStatistics:
        book, counts = self.book, self.book.counts
        return ManagerStatistics(
            live=len(book.tasks),
            waiting=sum(map(len, book.lines.values())),
            auctions=len(self._placing),
            held=sum(len(holder.tasks) for holder in book.holders.values()),
            ended_remembered=len(book.ended),
            calls_remembered=len(self._ring),
            done=counts.get("done", 0),
            failed=counts.get("failed", 0),
            cancelled=counts.get("cancelled", 0),
            late_results=counts.get("late_results", 0),
            awards_resent=counts.get("awards_resent", 0),
            leases_over=counts.get("lease_over", 0),
        )
