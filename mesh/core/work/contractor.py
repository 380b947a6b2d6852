"""The contractor: takes awards, runs them in attached workers, and settles every end.

    Award --checked--> Accepted entry (durable) --> ACCEPT, at the end of the turn      --refused--> DECLINE, with a reason
          |                plain call: only if it has not ended within accept_wait_s
          `--> Holding --> Running --> HandlerEnded --> Reports          Terms: leases, revoke, cancel, reclaim
                 Slots: workers, queue, room       Pricing: bids         LoadGossip: how busy       Acceptance: which awards
                 Pulling: work that moves          Relay: streams        Logs: what was printed     Permits: effects
                 Breakers: too much failed here    Draining: no more       LimitOwner, LimitHolder: limits of the mesh

Invariant: never two fences of one task at once; nothing starts under a lease that has ended; every item of an AWARD is answered by exactly
one ACCEPT or DECLINE, or by what says more than ACCEPT: RESULT, FAILURE (and a repeated one by the same again, or by stale_fence). Chooses
no work and trusts no manager about another's task: that is the author of its id, or who has taken over from him.
Source: BLUEPRINT section 7, contract net with binding accept.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from typing import Any

from mesh.core.deadlines import Deadlines
from mesh.core.directory import Directory
from mesh.core.inputs import (
    HandlerEnded,
    HandlerWaits,
    Leave,
    MemberLeft,
    MemberLinked,
    MemberRestarted,
    MemberRevoked,
    OffersSet,
    Replay,
    Started,
    TurnEnds,
    WorkerAttached,
    WorkerGone,
)
from mesh.core.policy.inputs import PolicyChanged
from mesh.core.work.acceptance import Acceptance
from mesh.core.work.breakers import BreakerCools, Breakers
from mesh.core.work.drain import Draining
from mesh.core.work.enforcing import Enforcing
from mesh.core.work.holdings import HeldFor, Holding, Holdings, State, awarded
from mesh.core.work.limit_holder import LimitHolder
from mesh.core.work.limit_owner import LimitOwner
from mesh.core.work.load import LoadGossip
from mesh.core.work.logs import Logs
from mesh.core.work.permits import Permits
from mesh.core.work.pricing import Pricing
from mesh.core.work.pulling import Pulling
from mesh.core.work.relay import Relay
from mesh.core.work.reports import Reports, need_of, report_of
from mesh.core.work.running import STUCK, Running, StopOverdue, stuck_error
from mesh.core.work.slots import Run, Slots, Worker
from mesh.core.work.tallies import ContractorStatistics
from mesh.core.work.terms import Terms
from mesh.effects import Append, Extend, Need, Refused, Send, Tell
from mesh.ids import Fence, NodeId, TaskId
from mesh.limits import WorkLimits
from mesh.messages.membership import Offer
from mesh.messages.records import Accepted, Closed, Ended
from mesh.messages.work import Accept, Award, AwardItem, Decline

_QUEUED = (State.WAITING, State.READY)


@dataclass(frozen=True, slots=True)
class ReattachOver:
    """Workers of the life before this one have had their time to come back."""


@dataclass(frozen=True, slots=True)
class AcceptsDue:
    """Plain calls have been under way for so long that their ACCEPT is due."""


class Contractor:
    """One of the node's machines. Its parts share two tables, `Holdings` and `Slots`, and bring their own inputs."""

    def __init__(self, directory: Directory, deadlines: Deadlines, limits: WorkLimits, random: Random, incarnation: int = 1) -> None:
        self._me, self._directory = directory.me, directory
        self._deadlines = deadlines
        self._limits = limits
        self._holdings = Holdings(limits.ended_remembered)
        self._slots = Slots(limits)
        self._load = LoadGossip(directory, deadlines, limits, self._slots)
        self._breakers = Breakers(directory, deadlines, limits, self._slots)
        self._reports = Reports(directory, deadlines, limits, self._holdings, self._slots, self._breakers)
        self._logs = Logs(directory, limits)
        self._running = Running(deadlines, limits, self._holdings, self._slots, self._reports, self._logs)
        self._terms = Terms(directory, deadlines, limits, self._holdings, self._slots, self._reports, self._running)
        self._relay = Relay(self._holdings, self._slots)
        self._pricing = Pricing(deadlines, limits, self._slots, self._load)
        self._pulling = Pulling(directory, deadlines, limits, random, self._holdings, self._slots, self._load, self._reports)
        self._draining = Draining(deadlines, self._holdings, self._slots, self._load, self._reports, self._running)
        self._enforcing = Enforcing(directory, limits, self._slots)
        self._acceptance = Acceptance(limits, self._holdings, self._slots, self._load, self._terms, self._enforcing)
        self._permits = Permits(self._holdings, self._slots, self._enforcing)
        self._limit_owner = LimitOwner(directory, limits)
        self._limit_holder = LimitHolder(directory, deadlines, limits, self._slots, self._running, incarnation)
        self.runs, self.secret_error, self.lease_ms = self._permits.runs, self._permits.secret_error, self._permits.lease_ms
        self.leased = self._limit_owner.leased
        self._accepting: list[HeldFor] = []
        self._unsaid: list[Holding] = []
        """Plain calls whose ACCEPT waits: most will have ended before it is due."""
        self._offers: tuple[Offer, ...] = ()
        self._lived_before = False
        self._accepted = 0
        self._declined = 0
        self.inputs: dict[type, Any] = {
            Award: self._on_award,
            HandlerEnded: self._do_handler_ended,
            HandlerWaits: self._do_handler_waits,
            TurnEnds: self._do_turn_ends,
            WorkerAttached: self._do_worker_attached,
            WorkerGone: self._do_worker_gone,
            MemberLinked: self._on_member_linked,
            MemberRestarted: self._on_member_gone,
            MemberLeft: self._on_member_gone,
            MemberRevoked: self._on_member_revoked,
            Leave: self._do_leave,
            Replay: self._do_replay,
            Started: self._do_started,
            ReattachOver: self._expire_reattach,
            AcceptsDue: self._expire_accepts,
            BreakerCools: self._expire_breaker,
            PolicyChanged: self._on_policy_changed,
        }
        parts = (self._load, self._reports, self._running, self._terms, self._relay, self._pricing, self._pulling)
        for part in (*parts, self._draining, self._permits, self._limit_owner, self._limit_holder):
            self.inputs.update(part.inputs)

    # ---- awards

    def _on_award(self, now_s: float, manager: NodeId, award: Award) -> list[Any]:
        out: list[Any] = []
        declines: list[tuple[TaskId, Fence, str]] = []
        retry_after_ms = 0
        for item in award.items:
            held = self._holdings.by_task.get(item.task)
            if held is not None and held.fence == item.fence and held.manager == manager:
                self._repeat(now_s, held, award, out)
                continue
            reason = self._acceptance.refusal(now_s, manager, item, award, out)
            if not reason:
                self._accept(now_s, manager, item, award.echo_ms + award.grant_ms, out)
                continue
            declines.append((item.task, item.fence, reason))
            if reason == "busy":
                retry_after_ms = max(retry_after_ms, self._acceptance.turn_away(now_s, manager, item.capability))
        if declines:
            self._declined += len(declines)
            out.append(Send(manager, Decline(tuple(declines), retry_after_ms), need=Need.FREE))
        return out

    def _accept(self, now_s: float, manager: NodeId, item: AwardItem, lease_end_ms: int, out: list[Any]) -> None:
        holding = awarded(now_s, item, manager, lease_end_ms, self._holdings.next_order())
        pair = self._holdings.add(holding)
        self._directory.homes[item.task] = manager
        self._enforcing.keep(item)
        if item.pins:
            self._directory.pinned[item.task] = item.pins
        self._accepted += 1
        self._breakers.took(holding)
        if item.durable:
            entry = Accepted(item.task, item.fence, manager, item.capability, item.input_hash, int(now_s * 1000), item.pins)
            out.append(Append(entry))
        if item.durable or manager == self._me:
            self._say_accept(pair, holding, out)
        else:
            if not self._unsaid:
                self._deadlines.set(AcceptsDue(), now_s + self._limits.accept_wait_s)
            self._unsaid.append(holding)
        if not pair.lease_check_ms or lease_end_ms < pair.lease_check_ms:
            self._terms.watch(pair, lease_end_ms)
        if not pair.beating:
            self._reports.watch(now_s, pair)
        if item.files:
            self._running.want_files(holding, item, out)
        self._running.offer(now_s, holding, out)
        self._load.note(now_s)

    def _say_accept(self, pair: HeldFor, holding: Holding, out: list[Any]) -> None:
        """To others: one message at the end of the turn. To this node's own manager: now, since that turn may be ending already."""
        if pair.manager == self._me:
            out.append(Send(self._me, Accept(((holding.task, holding.fence),)), need=need_of(holding.durable)))
            return
        if not (pair.accepts or pair.durable_accepts):
            self._accepting.append(pair)
        (pair.durable_accepts if holding.durable else pair.accepts).append((holding.task, holding.fence))

    def _expire_accepts(self, _now_s: float, _me: NodeId, _due: AcceptsDue) -> list[Any]:
        for holding in self._unsaid:
            if self._holdings.by_task.get(holding.task) is holding and holding.state is not State.ENDED:
                pair = self._holdings.held_for(holding.manager)
                if not (pair.accepts or pair.durable_accepts):
                    self._accepting.append(pair)
                pair.accepts.append((holding.task, holding.fence))
        self._unsaid.clear()
        return self._say_accepts()

    def _repeat(self, now_s: float, holding: Holding, award: Award, out: list[Any]) -> None:
        """A duplicate award: say the same again. A renewed stamp in it counts."""
        pair = self._holdings.held_for(holding.manager)
        self._say_accept(pair, holding, out)
        lease_end_ms = award.echo_ms + award.grant_ms
        if award.echo_ms <= int(now_s * 1000) and holding.state not in (State.ENDED, State.RECOVERED):
            self._terms.watch(pair, lease_end_ms)
            if self._terms.extend(now_s, holding, lease_end_ms, out):
                worker = self._slots.runs[holding.task].worker.worker
                out.append(Extend(worker, ((holding.task, holding.fence, lease_end_ms),), need=Need.FREE))

    def _do_turn_ends(self, now_s: float, _me: NodeId, _ends: TurnEnds) -> list[Any] | None:
        out = self._draining.settle()
        if not out and not self._accepting and not self._load.awaited():
            return None
        out.extend(self._say_accepts())
        out.extend(self._load.at_turns_end(now_s))
        return out

    def _say_accepts(self) -> list[Any]:
        """At most two messages per manager: what a plain call says does not wait for the disk."""
        out: list[Any] = []
        for pair in self._accepting:
            if pair.accepts:
                out.append(Send(pair.manager, Accept(tuple(pair.accepts)), need=Need.FREE))
                pair.accepts = []
            if pair.durable_accepts:
                out.append(Send(pair.manager, Accept(tuple(pair.durable_accepts))))
                pair.durable_accepts = []
        self._accepting.clear()
        return out

    # ---- handlers and workers

    def _do_handler_ended(self, now_s: float, _me: NodeId, ended: HandlerEnded) -> list[Any]:
        run = self._slots.runs.get(ended.task)
        if run is None or run.fence != ended.fence or run.worker.worker != ended.worker:
            return self._stray_ended(now_s, ended)
        out: list[Any] = []
        self._slots.end(run)
        if run.charged_ms:
            self._slots.shares.correct(run.share, (now_s - run.started_s) * 1000 - run.charged_ms)
        if ended.outcome in ("ok", "error"):
            self._slots.measure(run.capability, ended.service_ms, now_s - run.started_s)
        self._settle(now_s, run, ended, out)
        self._running.freed(now_s, run.task, run.worker, out)
        self._limit_holder.ended(now_s, run.capability)
        self._pulling.fell_idle(now_s, run.worker, out)
        self._load.note(now_s)
        return out

    def _do_handler_waits(self, now_s: float, _me: NodeId, waits: HandlerWaits) -> list[Any]:
        """Else a flow in the only slot would wait for ever for a step that is queued behind it."""
        run = self._slots.runs.get(waits.task)
        if run is None or run.fence != waits.fence or run.worker.worker != waits.worker:
            return [Refused("unknown_handler")]
        out: list[Any] = []
        self._slots.wait(now_s, run, waits.waits)
        self._running.fill(now_s, run.worker, out)
        self._load.note(now_s)
        return out

    def _stray_ended(self, now_s: float, ended: HandlerEnded) -> list[Any]:
        worker = self._slots.workers.get(ended.worker)
        if worker is None or (ended.task, ended.fence) not in worker.strays:
            return [Refused("unknown_handler")]
        out: list[Any] = []
        self._slots.end_stray(worker, ended.task, ended.fence)
        self._terms.settle_reclaims(now_s, (ended.task,), out)
        self._running.freed(now_s, ended.task, worker, out)
        return out

    def _settle(self, now_s: float, run: Run, ended: HandlerEnded, out: list[Any]) -> None:
        """A handler is over: report it, unless the manager took the work away meanwhile."""
        if run.stopping:
            self._deadlines.clear(StopOverdue(run.task, run.fence))
        holding = self._holdings.by_task.get(run.task)
        if holding is not None and holding.fence == run.fence and holding.state is State.RUNNING:
            kinds = [kind for kind, _, _ in run.answers]
            service_ms = ended.service_ms or int((now_s - run.started_s) * 1000)
            if "cancelled" in kinds:
                self._terms.cancelled(now_s, holding, out)
            elif ended.outcome == "ok" and (held_back := self._enforcing.output_error(holding, ended.output)) is not None:
                error = {"kind": "policy_output", "message": held_back["message"], "retryable": False}
                self._reports.fail(now_s, holding, "error", error, run.worker.agent, service_ms, out)
            elif ended.outcome == "ok":
                # Also when it was revoked meanwhile: RESULT goes before REVOKED, and the manager may still take it under this fence.
                self._reports.succeed(now_s, holding, ended.output, ended.files, run.worker.agent, service_ms, out)
            elif "revoked" in kinds:
                self._reports.forget(holding, out)
            elif run.stopping == STUCK:
                self._running.give_up(now_s, run, stuck_error(run), out)
            else:
                self._reports.fail(now_s, holding, ended.outcome, ended.error, run.worker.agent, service_ms, out)
        if run.answers:
            self._terms.answer(run, ("revoked", "cancelled"), out)

    def _do_worker_attached(self, now_s: float, _me: NodeId, attached: WorkerAttached) -> list[Any]:
        out: list[Any] = []
        offers = {offer.capability: offer for offer in attached.offers}
        worker = Worker(attached.worker, attached.pid, attached.agent, offers, max(1, attached.concurrency))
        worker.labels, worker.resources = attached.labels, attached.resources
        self._slots.attach(worker)
        for task, fence in attached.running:
            self._resume(now_s, worker, task, fence, out)
        self._terms.settle_reclaims(now_s, [task for task, _ in attached.running], out)
        self._workers_changed(now_s, out)
        self._running.fill_all(now_s, out)
        return out

    def _resume(self, now_s: float, worker: Worker, task: TaskId, fence: Fence, out: list[Any]) -> None:
        """What a worker still runs from before the node's restart goes on under its old fence; all else is stopped."""
        if (run := self._slots.runs.get(task)) is not None and run.fence == fence and run.worker is worker:
            return
        holding = self._holdings.by_task.get(task)
        if holding is None or holding.fence != fence or holding.state is not State.RECOVERED or self._slots.occupied(task):
            self._running.stop_stray(worker, task, fence, out)
            return
        self._slots.begin(Run(worker, task, fence, holding.capability, holding.durable, now_s))
        if (offer := worker.offers.get(holding.capability)) is not None:
            holding.version = offer.version
        self._slots.move(holding, State.RUNNING)
        out.append(Extend(worker.worker, ((task, fence, holding.lease_end_ms),), need=Need.FREE))

    def _do_worker_gone(self, now_s: float, _me: NodeId, gone: WorkerGone) -> list[Any]:
        worker = self._slots.workers.get(gone.worker)
        if worker is None:
            return [Refused("unknown_worker")]
        out: list[Any] = []
        runs, strays = list(worker.runs.values()), [task for task, _ in worker.strays]
        self._slots.detach(worker)
        error = {"kind": "worker_lost", "message": f"the worker of {worker.agent} (pid {worker.pid}) is gone", "retryable": True}
        for run in runs:
            ended = HandlerEnded(gone.worker, run.task, run.fence, "worker_lost", error=error)
            self._settle(now_s, run, ended, out)
        self._terms.settle_reclaims(now_s, strays, out)
        out.extend(self._pricing.worker_gone(gone.worker))
        self._workers_changed(now_s, out)
        for task in [run.task for run in runs] + strays:
            newer = self._holdings.by_task.get(task)
            if newer is not None and newer.state is State.WAITING:
                self._running.offer(now_s, newer, out)
        self._running.fill_all(now_s, out)
        return out

    def _workers_changed(self, now_s: float, out: list[Any]) -> None:
        """Other capabilities, other slots: give back what nobody here can run any more, and say what is offered now."""
        for holding in list(self._holdings.by_task.values()):
            if holding.state in _QUEUED and not self._slots.has_worker(holding.capability, holding.where):
                self._reports.release(now_s, holding, "worker_lost", out)
        offers = self._enforcing.bounded(self._slots.offers())
        if offers != self._offers:
            self._offers = offers
            self._limit_holder.offers_changed(now_s, offers)
            out.append(Tell(OffersSet(offers)))
        self._load.note(now_s)

    # ---- members

    def _on_member_linked(self, now_s: float, _me: NodeId, linked: MemberLinked) -> Iterator[Any]:
        yield from self._load.greet(linked.node)
        pair = self._holdings.by_manager.get(linked.node)
        if pair is not None and pair.tasks:
            yield from self._reports.resend(now_s, linked.node, now_s)
            yield Send(linked.node, self._reports.beat(now_s, pair), need=Need.FREE)

    def _on_member_gone(self, now_s: float, _me: NodeId, gone: MemberRestarted | MemberLeft) -> list[Any]:
        """A plain call dies with its caller. Of a member believed dead only the leases speak: the belief may be wrong."""
        out: list[Any] = []
        pair = self._holdings.by_manager.get(gone.node)
        for holding in list(pair.tasks.values()) if pair else ():
            if not holding.durable:
                self._terms.withdraw(now_s, holding, "caller_gone", out)
        self._load.note(now_s)
        return out

    def _on_member_revoked(self, now_s: float, me: NodeId, fact: MemberRevoked) -> list[Any]:
        """Work for a manager that is not believed any more stops. If this node itself is not: all of it, and no more is taken."""
        out: list[Any] = []
        if fact.node == me:
            self._draining.shut()
        self._load.forget(fact.node)
        self._terms.disown(now_s, "" if fact.node == me else fact.node, out)
        self._load.note(now_s)
        return out

    def _on_policy_changed(self, now_s: float, _me: NodeId, _changed: PolicyChanged) -> list[Any]:
        """Other limits in what is offered; and what has not begun is awarded again, under the rules of now."""
        out: list[Any] = []
        for holding in list(self._holdings.by_task.values()):
            if holding.state in _QUEUED:
                self._reports.release(now_s, holding, "policy", out)
        self._workers_changed(now_s, out)
        return out

    # ---- the node's own life

    def _do_leave(self, now_s: float, _me: NodeId, _leave: Leave) -> list[Any]:
        out = self._say_accepts()
        self._draining.shut()
        self._draining.close(now_s, out)
        return out

    def _expire_breaker(self, now_s: float, me: NodeId, due: BreakerCools) -> list[Any]:
        self._load.note(now_s)
        return self._breakers.expire(now_s, me, due)

    def _do_replay(self, _now_s: float, _me: NodeId, replay: Replay) -> None:
        self._lived_before = True
        entry = replay.entry
        if isinstance(entry, Accepted):
            if (older := self._holdings.by_task.get(entry.task)) is not None:
                self._holdings.drop(older)
            holding = Holding(entry.task, entry.fence, entry.manager, entry.capability, b"", True, 0, self._holdings.next_order())
            holding.state = State.RECOVERED
            self._holdings.add(holding)
            self._directory.homes[entry.task] = entry.manager
            holding.pins = entry.pins
            if entry.pins:
                self._directory.pinned[entry.task] = entry.pins
        elif isinstance(entry, Ended | Closed):
            known = self._holdings.by_task.get(entry.task)
            if known is None or known.fence != entry.fence:
                return
            if isinstance(entry, Closed) or entry.outcome == "released":
                self._holdings.drop(known)
                self._directory.homes.pop(entry.task, None)
                self._directory.pinned.pop(entry.task, None)
            else:
                known.report = report_of(known, entry, replay.bodies)
                known.state = State.ENDED

    def _do_started(self, now_s: float, _me: NodeId, _started: Started) -> None:
        self._limit_holder.start(now_s)
        self._acceptance.start(now_s)
        for holding in self._holdings.by_task.values():
            holding.lease_end_ms = int(now_s * 1000)
        for pair in list(self._holdings.by_manager.values()):
            if pair.tasks:
                self._reports.watch(now_s, pair)
                self._terms.watch(pair, int(now_s * 1000))
            else:
                self._holdings.forget_idle(pair)
        if self._lived_before:
            self._terms.reattaching = self._pricing.unready = self._slots.resources.closed = True
            self._deadlines.set(ReattachOver(), now_s + self._limits.reattach_s)

    def _expire_reattach(self, now_s: float, _me: NodeId, _over: ReattachOver) -> list[Any]:
        out: list[Any] = []
        self._terms.reattaching = self._pricing.unready = self._slots.resources.closed = False
        for holding in list(self._holdings.by_task.values()):
            if holding.state is State.RECOVERED:
                error = {"kind": "worker_lost", "message": "its worker did not come back after the node's restart", "retryable": True}
                self._reports.fail(now_s, holding, "worker_lost", error, "", 0, out)
        self._terms.settle_reclaims(now_s, self._terms.open_reclaims(), out)
        self._running.fill_all(now_s, out)
        self._load.note(now_s)
        return out

    def statistics(self) -> ContractorStatistics:
        slots = self._slots
        return ContractorStatistics(
            workers=len(slots.workers),
            slots=sum(worker.concurrency for worker in slots.workers.values()),
            busy=sum(len(worker.runs) + len(worker.strays) for worker in slots.workers.values()),
            queued=slots.queued,
            share_keys=len(slots.shares),
            held=len(self._holdings),
            managers=len(self._holdings.by_manager),
            accepted=self._accepted,
            declined=self._declined,
            executed=self._running.executed,
            ended=self._reports.ended,
            failed=self._reports.failed,
            resent=self._reports.resent,
            lapsed=self._terms.lapsed,
            overrun=self._running.overrun,
            stuck=self._running.stuck,
            bids=self._pricing.bids,
            refusals=self._pricing.refusals,
            prices_waiting=self._pricing.waiting(),
            loads_told=self._load.told,
            draining=self._load.closed,
            log_bytes=self._logs.bytes,
            pulls=self._pulling.pulls,
            given_up=self._pulling.given_up,
            breakers_opened=self._breakers.opened,
            resources=slots.resources.rows(),
            limit_asks=self._limit_holder.asks,
            limit_leases=len(self._limit_owner),
            limit_stopped=self._limit_holder.stopped,
        )
