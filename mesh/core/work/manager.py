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
from mesh.core.keeping.inputs import ClaimSettled, Deposed, KeysMoved, Leading, LogSettled, TaleRead, TaleTold
from mesh.core.node import Method
from mesh.core.policy.inputs import PolicyChanged
from mesh.core.work.accounts import Accounts
from mesh.core.work.admitting import Admitting
from mesh.core.work.archive import Archive
from mesh.core.work.book import AcksDue, AwardsDue, Book, Effects, GuardDue, LeasesDue, PulseDue, QueuesDue
from mesh.core.work.calls import CallsDue, Ring
from mesh.core.work.checkpoints import Checkpoints
from mesh.core.work.claims import ClaimKept, Claims, WaitEnds
from mesh.core.work.early import Early
from mesh.core.work.effect_ledger import EffectLedger
from mesh.core.work.ending import Ending, own_revocation
from mesh.core.work.fold import Fold
from mesh.core.work.forwarding import Forwarding
from mesh.core.work.governor import Governor
from mesh.core.work.hedging import Hedging
from mesh.core.work.leases import Leases
from mesh.core.work.meter import TimeUp
from mesh.core.work.opening import opened
from mesh.core.work.placing import Placing
from mesh.core.work.questions import Questions
from mesh.core.work.readback import Readback
from mesh.core.work.rebinding import Rebinding
from mesh.core.work.retries import Retries
from mesh.core.work.scopes import Scopes
from mesh.core.work.steps import Steps
from mesh.core.work.streams import Streams
from mesh.core.work.succession import Succession
from mesh.core.work.taking import Taking
from mesh.core.work.task import CANCELLING
from mesh.core.work.waiting import Waiting
from mesh.core.work.waits import AuctionEnds, BacklogDue, BackoffEnds, BudgetDue, FetchAgain, GraceEnds, HedgeDue, ReclaimsDue
from mesh.core.work.wheel import TimeoutsDue
from mesh.effects import Need, Reply
from mesh.ids import COORDINATE, NodeId
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
    Pull,
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
    share_keys: int
    """That are told apart."""
    streams: int
    readers_waiting: int
    input_bytes: int
    """Of the arguments of live tasks."""
    overloaded: int
    """Calls and submits that were refused for want of room."""
    retries: int
    """After failures of handlers."""
    retries_delayed: int
    """Of those, how many had to wait for the retry budget."""
    retries_waiting: int
    poisonous: int
    """Tasks put away because they took down three nodes."""
    hedges: int
    """Second attempts beside slow first ones."""
    hedges_won: int
    hedges_denied: int
    """For want of budget."""
    policy_denied: int = 0
    """Tasks, effects and results that a rule of the policy refused here."""
    policy_gates: int = 0
    """That a rule has put before work."""
    claiming: int = 0
    """Keyed submits of which it is not known yet whether their key stands for them."""


class Manager:
    """See the module. `incarnation` makes task ids unique over restarts; `random` draws samples and pauses."""

    def __init__(self, directory: ReadDirectory, deadlines: Deadlines, limits: WorkLimits, random: Random, *, incarnation: int) -> None:
        self._limits = limits
        self.book = book = Book(directory, deadlines, limits, random, incarnation)
        self._ring = ring = Ring(deadlines, limits)
        self._fold: Fold | None = Fold(limits.ended_remembered)
        self._started = False
        self._early = Early(book)
        self._ending = ending = Ending(book, ring)
        self.governor = governor = Governor(book, ending)
        self._taking = Taking(book, governor)
        self._leases = leases = Leases(book, ending)
        self._placing = Placing(book, ending, governor)
        self._retries = Retries(book, ending, leases, governor)
        self._hedging = Hedging(book, ending, self._placing.market)
        self._rebinding = Rebinding(book)
        self._claims = claims = Claims(book)
        self._succession = Succession(book, ending, leases, claims)
        self._readback = readback = Readback()
        self._archive = archive = Archive(directory)
        self._accounts = accounts = Accounts(book, ending, leases)
        self.waiting = waiting = Waiting(book, ending)
        scopes = Scopes(book, leases, waiting.updates)
        handlers = (Steps(book, leases, readback, governor), EffectLedger(book, leases, readback, governor), accounts, scopes)
        self._of_handlers: dict[type, Any] = {kind: method for part in handlers for kind, method in part.inputs.items()}
        self._streams = Streams(book, leases)
        self._checkpoints = Checkpoints(book, leases)
        self.admitting = governor.admitting = Admitting(book, waiting)
        self._questions = Questions(book, ending, ring, readback, archive, waiting, scopes)
        self.forwarding = Forwarding(book, deadlines, incarnation)
        self.inputs: dict[type, Method] = self._of_clients() | self._of_contractors() | self._of_members() | self._of_time()

    def _of_clients(self) -> dict[type, Method]:
        """From this machine, and questions from others."""
        soon, at_once = self._then_say, self._then_say_here
        return {
            Call: self.forwarding.through(self._do_call),
            Submit: self.forwarding.through(self._do_submit),
            RequestGone: self._do_forget,
            TurnEnds: self._turn_ends,
            **{kind: at_once(method) for kind, method in self._of_handlers.items()},
            **self._streams.inputs,
            **self._checkpoints.inputs,
            Ask: at_once(self._questions.on_ask),
            BodyRead: soon(self._readback.on_body_read),
            TaleRead: self._archive.on_tale_read,
            FileFetched: soon(self._retries.on_file_fetched),
            ClaimKept: self._claims.on_kept,
            ClaimSettled: soon(self._claims.on_settled),
            KeysMoved: self._claims.on_moved,
        }

    def _of_contractors(self) -> dict[type, Method]:
        """Answers to awards, and what became of them."""
        at_once = self._then_say_here
        return {
            Bid: at_once(self._placing.on_bid),
            Refuse: at_once(self._placing.on_refuse),
            Accept: at_once(self._leases.on_accept),
            Decline: at_once(self._leases.on_decline),
            Beat: at_once(self._leases.on_beat),
            Release: at_once(self._leases.on_release),
            Revoked: at_once(self._leases.on_revoked),
            Cancelled: at_once(self._leases.on_cancelled),
            Reclaimed: at_once(self._leases.on_reclaimed),
            Result: at_once(self._retries.on_result),
            Failure: at_once(self._retries.on_failure),
            Load: at_once(self._placing.on_load),
            Pull: at_once(self._placing.on_pull),
        }

    def _of_members(self) -> dict[type, Method]:
        """The beginning of a life, who is here, and who drives what."""
        soon = self._then_say
        return {
            Replay: self._do_replay,
            Started: soon(self._on_started),
            Leading: soon(self._on_leading),
            Deposed: soon(self._on_deposed),
            TaleTold: soon(self._succession.on_tale_told),
            LogSettled: soon(self._on_log_settled),
            MemberAlive: soon(self._on_member_alive),
            MemberLinked: soon(self._on_member_linked),
            MemberSuspected: soon(self._on_member_suspected),
            MemberUnreachable: soon(self._on_member_unreachable),
            MemberDied: soon(self._on_member_died),
            MemberLeft: soon(self._on_member_left),
            MemberRestarted: soon(self._on_member_restarted),
            MemberRevoked: soon(self._on_member_revoked),
            OffersChanged: soon(self._on_offers_changed),
            PolicyChanged: soon(self.governor.on_changed),
            **{kind: soon(method) for kind, method in self.admitting.inputs.items()},
        }

    def _of_time(self) -> dict[type, Method]:
        """Deadlines."""
        soon = self._then_say
        return {
            AcksDue: self.book.expire_acks,
            AwardsDue: self._leases.expire_awards,
            LeasesDue: soon(self._leases.expire_leases),
            PulseDue: self._leases.expire_pulse,
            ReclaimsDue: self._leases.expire_reclaims,
            AuctionEnds: soon(self._placing.expire_auction),
            BacklogDue: soon(self._placing.expire_backlog),
            GuardDue: soon(self._placing.expire_guard),
            GraceEnds: soon(self._placing.expire_grace),
            BackoffEnds: soon(self._retries.expire_backoff),
            BudgetDue: soon(self._retries.expire_budget),
            HedgeDue: soon(self._hedging.expire),
            FetchAgain: soon(self._retries.expire_fetch),
            TimeoutsDue: soon(self._ending.expire_timeouts),
            TimeUp: soon(self._accounts.expire_time),
            QueuesDue: soon(self._placing.patience.expire),
            CallsDue: self._expire_calls,
            WaitEnds: self._claims.expire_wait,
        }

    # ---- the turn

    def _turn_ends(self, now_s: float, _me: NodeId, _turn: TurnEnds) -> Effects | None:
        return self._say(now_s) if self.book.waits or self.book.gated or self.book.woken or self.book.dirty or self.book.vacated else None

    def _say(self, now_s: float) -> Effects:
        while self.book.waits or self.book.gated:
            yield from self.governor.look(now_s)
            yield from self.waiting.look(now_s)
        yield from self._placing.drain(now_s)
        if self.book.vacated:
            yield from self._rebinding.look()
        if self.book.unkeyed:
            yield from self._claims.free()
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
            if self._waits_for_keepers and self._early.put_off(sender, item):
                return None
            return method(now_s, sender, item) if sender != me else said(now_s, sender, item)

        return run

    @property
    def _waits_for_keepers(self) -> bool:
        """It is not known yet which of the tasks in the journal are still this node's: nothing about them can be said or heard."""
        return self._started and self._fold is not None

    # ---- clients

    def _do_call(self, now_s: float, _me: NodeId, call: Call) -> list[Any] | None:
        if (turned := self._taking.room(now_s, call)) is not None:
            return [turned]
        task = self.book.requests[call.request] = self.book.open(
            now_s,
            call.capability,
            call.input,
            durable=False,
            timeout_ms=call.timeout_ms,
            files=call.files,
            parent=call.parent,
            request=call.request,
            bounds=call.bounds,
            placement=call.placement,
            rank=call.rank,
            budget=call.budget,
            baggage=call.baggage,
        )
        if call.stream:
            self._streams.open(now_s, task)
        return None

    def _do_submit(self, now_s: float, _me: NodeId, submit: Submit) -> Effects:
        if (turned := self._taking.room(now_s, submit)) is not None:
            yield turned
            return
        if (turned := self._taking.unguarded(now_s, submit.request)) is not None:
            yield turned
            return
        if submit.key:
            yield from self._claims.submit(now_s, submit)
            return
        task = opened(self.book, now_s, submit)
        yield from self.book.submit(task)
        yield Reply(submit.request, True, {"task": task.id, "survives": self.book.survives(submit.files)}, need=Need.KEPT)

    def _do_forget(self, now_s: float, me: NodeId, gone: RequestGone) -> Effects:
        """A plain call dies with its caller."""
        self._claims.forget(now_s, me, gone)
        task = self.book.requests.pop(gone.request, None)
        if task is not None:
            task.request = -1
            yield from self._ending.cancel(now_s, task, "caller", "the caller is gone")

    def _expire_calls(self, now_s: float, _me: NodeId, _due: CallsDue) -> Effects:
        return self._ring.expire(now_s)

    # ---- restart

    def _do_replay(self, _now_s: float, _me: NodeId, replay: Replay) -> None:
        assert self._fold is not None and not self._started, "replay ends with Started"
        self._fold.apply(replay.entry, replay.bodies, replay.seq)

    def _on_started(self, now_s: float, _me: NodeId, _started: Started) -> Effects:
        self.book.started_at_s = now_s
        self._started = True
        if self.book.directory.guard.leads:
            yield from self._open(now_s, self.book.directory.guard.taken)

    def _on_leading(self, now_s: float, _me: NodeId, leading: Leading) -> Effects:
        """The keepers follow this node (again)."""
        if self._started:
            yield from self._succession.let_go(now_s, leading.taken)
            yield from self._claims.let_go(now_s, leading.taken)
            yield from self._claims.repeat()
            yield from self._open(now_s, leading.taken)

    def _on_deposed(self, now_s: float, me: NodeId, deposed: Deposed) -> Effects:
        yield from self._succession.on_deposed(now_s, me, deposed)
        yield from self._claims.let_go(now_s, deposed.taken)
        if self._waits_for_keepers:
            yield from self._hear_early(now_s)

    def _on_log_settled(self, now_s: float, me: NodeId, settled: LogSettled) -> Effects:
        yield from self._succession.on_log_settled(now_s, me, settled)
        if settled.author == me and self._waits_for_keepers:
            yield from self._hear_early(now_s)

    def _open(self, now_s: float, taken: int) -> Effects:
        fold, self._fold = self._fold, None
        if fold is None:
            return
        yield from self._succession.open(now_s, fold, taken)
        yield from self._hear_early(now_s)

    def _hear_early(self, now_s: float) -> Effects:
        for sender, item in self._early.take():
            yield from self.inputs[type(item)](now_s, sender, item) or ()

    # ---- members

    def _wake_all(self) -> None:
        self.book.wake_all()

    def _on_member_alive(self, _now_s: float, _me: NodeId, _fact: MemberAlive) -> None:
        self._wake_all()

    def _on_member_linked(self, now_s: float, _me: NodeId, fact: MemberLinked) -> Effects:
        self._wake_all()
        yield from self._leases.linked(now_s, fact.node)
        yield from self._streams.linked(fact.node)

    def _on_offers_changed(self, _now_s: float, _me: NodeId, _fact: OffersChanged) -> None:
        self._placing.patience.offers_changed()
        self._wake_all()

    def _gone(self, now_s: float, node: NodeId, reason: str) -> Effects:
        yield from self._placing.gone(now_s, node)
        yield from self._leases.gone(now_s, node, reason)

    def _on_member_suspected(self, now_s: float, _me: NodeId, fact: MemberSuspected) -> Effects:
        """A refused connect says that the process is gone. A soft suspicion costs nobody his work, but the office is waited for."""
        if fact.hard:
            return self._gone(now_s, fact.node, "suspected")
        return self._leases.gone(now_s, fact.node, "unreachable", only=COORDINATE)

    def _on_member_unreachable(self, now_s: float, _me: NodeId, fact: MemberUnreachable) -> Effects:
        return self._gone(now_s, fact.node, "unreachable")

    def _on_member_died(self, now_s: float, _me: NodeId, fact: MemberDied) -> Effects:
        return self._gone(now_s, fact.node, "dead")

    def _on_member_left(self, now_s: float, _me: NodeId, fact: MemberLeft) -> Effects:
        return self._gone(now_s, fact.node, "left")

    def _on_member_restarted(self, now_s: float, _me: NodeId, fact: MemberRestarted) -> Effects:
        self.book.calibration.forget(fact.node)
        yield from self._placing.gone(now_s, fact.node)
        yield from self._leases.restarted(now_s, fact.node)

    def _on_member_revoked(self, now_s: float, me: NodeId, fact: MemberRevoked) -> Effects:
        """What it holds or was offered goes to others under higher fences, and it is never asked again."""
        if fact.node != me:
            self._early.forget(fact.node)
            yield from self._placing.gone(now_s, fact.node)
            yield from self._retries.revoked(now_s, fact.node)
            yield from self._leases.revoked(now_s, fact.node)
            return
        for task in list(self.book.tasks.values()):
            if task.state == CANCELLING:
                yield from self._ending.stopped(now_s, task)
            elif not task.ended:
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
            share_keys=len(book.shares),
            streams=len(self._streams),
            readers_waiting=self._streams.waiting(),
            input_bytes=book.admission.input_bytes,
            overloaded=book.admission.refused,
            retries=counts.get("retries", 0),
            retries_delayed=counts.get("retries_delayed", 0),
            retries_waiting=self._retries.waiting(),
            poisonous=counts.get("poison", 0),
            hedges=counts.get("hedges", 0),
            hedges_won=counts.get("hedges_won", 0),
            hedges_denied=counts.get("hedges_denied", 0),
            policy_denied=self.governor.denied,
            policy_gates=self.governor.gates,
            claiming=len(self._claims),
        )
