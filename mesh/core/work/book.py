"""The manager's book: its tasks, who holds them, who waits in line, and what is to be said at the end of the turn.

    tasks by id         holders by node (`holder.py`)         lines by capability and labels (who waits for an award)

Invariant: a task with a holder is in exactly that holder's `tasks`; a task that is pending or parked is in its line and in no other; a task
that has ended is only in `ended`. Shared by the parts of the manager; holds no rule about who gets work, or when it is over.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from random import Random
from typing import Any

from mesh.core.deadlines import Deadlines
from mesh.core.directory import ReadDirectory
from mesh.core.policy.steering import Pins, steered
from mesh.core.work.admission import Admission
from mesh.core.work.affinity import Affinity
from mesh.core.work.calibration import Calibration
from mesh.core.work.entries import submitted
from mesh.core.work.holder import Holder
from mesh.core.work.latencies import Latencies
from mesh.core.work.lines import Line, recount
from mesh.core.work.meter import Meter
from mesh.core.work.pinning import pinned
from mesh.core.work.ruled import Origins, Wish
from mesh.core.work.task import FREE, GATE, OFFERED, PARKED, PENDING, WAIT_FOR, WAKE, Task, open_account
from mesh.core.work.turns import Shares, Turns
from mesh.core.work.wheel import Wheel
from mesh.effects import Need, Send
from mesh.ids import NO_BAGGAGE, UNRANKED, Baggage, Fence, NodeId, Rank, TaskId, content_hash, task_id
from mesh.limits import WorkLimits
from mesh.messages.scopes import STATE
from mesh.messages.waits import WAIT
from mesh.messages.work import ANYWHERE, UNBOUNDED, Amounts, Award, Bounds, Cancel, FileRef, Placement, Renew, ResultAck, Revoke, Superseded

Effects = Iterator[Any]

ACKS_MAX = 256
"""Of plain calls, that wait for company."""

DURABLE, CONDITIONAL = 2, 1
"""Bits that say which awards may share a message."""


@dataclass(frozen=True, slots=True)
class AwardsDue:
    """The oldest unanswered AWARD to `node` is sent again."""

    node: NodeId


@dataclass(frozen=True, slots=True)
class LeasesDue:
    """The first lease at `node` may be over, with its margin."""

    node: NodeId


@dataclass(frozen=True, slots=True)
class PulseDue:
    """While leases stand: was this manager itself away (stopped, asleep) since the last one?"""


@dataclass(frozen=True, slots=True)
class GuardDue:
    """Durable work waits because too few keepers are known to follow this node: look again."""


@dataclass(frozen=True, slots=True)
class QueuesDue:
    """Tasks in that slot have waited for an award for as long as they may."""

    slot_ms: int


@dataclass(frozen=True, slots=True)
class AcksDue:
    """Acknowledgements of plain calls have waited long enough for company on their way to `node`."""

    node: NodeId


class Book:
    def __init__(self, directory: ReadDirectory, deadlines: Deadlines, limits: WorkLimits, random: Random, incarnation: int) -> None:
        self.me = directory.me
        self.directory, self.deadlines, self.limits, self.random = directory, deadlines, limits, random
        self.incarnation, self.started_at_s = incarnation, 0.0
        self.tasks: dict[TaskId, Task] = {}
        self.ended: dict[TaskId, Task] = {}
        self.holders: dict[NodeId, Holder] = {}
        self.lines: dict[str, Line] = {}
        self._labelled: dict[str, dict[str, Line]] = {}
        """By capability: lines of work that asks for labels."""
        self.woken: dict[str, Line] = {}
        self.waits: list[Task] = []
        """Waits that have begun in this turn."""
        self.gated: list[Task] = []
        """Tasks that the policy may hold back, or whose gates have ended, in this turn."""
        self.hold_back: Callable[[Task], bool] = lambda task: False
        self.turned_down: Callable[[Task, str], None] = lambda task, reason: None
        """Whether the policy does; an award was declined, for that reason. Set by `governor.py`."""
        self.vacated: list[tuple[Holder, str]] = []
        """Where an award of a capability has ended in this turn: a slot may be idle there."""
        self.requests: dict[int, Task] = {}
        self.moved: dict[TaskId, NodeId] = {}
        """Tasks that were driven here, and who took them over; "": not known."""
        self.unkeyed: list[tuple[str, TaskId]] = []
        """Keys whose tasks were forgotten in this turn."""
        self.wheel, self.meter = Wheel(deadlines), Meter(deadlines)
        self.queue_wheel = Wheel(deadlines, QueuesDue)
        self.dirty: list[Holder] = []
        self.pulse_at_s = 0.0
        """When the next look at our own pulse is due; 0: nothing is held anywhere."""
        self.away_at_s = 0.0
        """When it was last found late: this manager had been away."""
        self.patient = False
        """All holders were given time for that, and no pulse has been in time since."""
        self.admission = Admission(limits)
        self.shares = Shares(limits.shares_max)
        self.calibration = Calibration(limits.calibrated_max)
        self.affinity = Affinity(limits)
        self.latencies = Latencies(limits.calibrated_max)
        self.counts: dict[str, int] = {}
        self.origins = Origins(directory, self.find)
        self.given = 0
        """Tasks, in this life; the last part of their ids."""

    def count(self, what: str) -> None:
        self.counts[what] = self.counts.get(what, 0) + 1

    # ---- tasks

    def open(
        self,
        now_s: float,
        capability: str,
        data: bytes,
        *,
        durable: bool,
        timeout_ms: int,
        files: tuple[FileRef, ...],
        retries: int = -1,
        by: str = "",
        parent: TaskId = "",
        step: str = "",
        request: int = -1,
        bounds: Bounds = UNBOUNDED,
        key: str = "",
        placement: Placement = ANYWHERE,
        rank: Rank = UNRANKED,
        budget: Amounts = (),
        pins: Pins | None = None,
        baggage: Baggage = NO_BAGGAGE,
    ) -> Task:
        """A new task, in line, as the policy has it; with a `key` not before it is entered. If it is durable the caller writes it down."""
        self.given += 1
        wish = self.origins.ruled(Wish(capability, data, placement, timeout_ms, retries, durable, budget), parent, step)
        task = Task(
            task_id(self.me, self.incarnation, self.given),
            wish.capability,
            data,
            content_hash(data),
            durable,
            Need.KEPT if durable else Need.FREE,
            now_s,
            wish.timeout_ms,
            wish.retries,
            by,
            parent,
            step,
            files,
            (self.me,) if files else (),
            request,
            bounds,
            key=key,
            placement=wish.placement,
            rank=rank,
            rules=wish.rules,
            down=wish.down,
            budget=wish.budget,
            baggage=baggage,
        )
        self.origins.lent(task)
        open_account(task, self.tasks.get)
        if task.account is not None:
            self.meter.stands(now_s, task.account.above)
        task.pins = pinned(self.directory, self.tasks, task) if pins is None else pins
        task.placement = steered(task.placement, task.capability, task.pins)
        if not key:
            self.enter(now_s, task)
        return task

    def enter(self, now_s: float, task: Task) -> None:
        """From now on it is driven: it stands in line, and its time runs."""
        self.tasks[task.id] = task
        self.admission.took(len(task.input))
        if task.timeout_ms > 0:
            self.wheel.add(task, max(now_s, task.submitted_at_s + task.timeout_ms / 1000), task.timeout_ms)
        self.enqueue(task)

    def submit(self, task: Task) -> Effects:
        """Write down that it was submitted, and where that stands."""
        append = submitted(task)
        yield append
        task.seq = append.seq

    def whom_to_ask(self, task: TaskId) -> NodeId:
        """Who drives it now, as far as is known here."""
        return self.moved.get(task) or self.directory.manager_of(task)

    def is_mine(self, task: TaskId) -> bool:
        """Whether, for all that is known here, this node is to be asked about it."""
        return task not in self.moved and self.directory.manager_of(task) == self.me

    def survives(self, files: tuple[FileRef, ...] = ()) -> str:
        """What durable work of this node outlives, today. Files that it was given are here alone."""
        return "node-loss" if len(self.directory.guard.keepers) > 1 and not files else "restart"

    def holds(self, now_s: float) -> bool:
        """A majority of those who keep the journal is known to follow this node for a while yet: it may award, and judge leases."""
        guard = self.directory.guard
        return guard.leads and guard.led_until_s - now_s > self.limits.beat_s

    def is_linked(self, node: NodeId) -> bool:
        row = self.directory.get(node)
        return row is not None and row.linked

    def find(self, task: TaskId) -> Task | None:
        return self.tasks.get(task) or self.ended.get(task)

    def close(self, task: Task) -> None:
        """The task has ended: out of everything that waits for it. The oldest ended ones are forgotten."""
        del self.tasks[task.id]
        self.admission.ended(task.ended_at_s, len(task.input))
        self.wheel.remove(task)
        self.queue_wheel.remove(task)
        recount(self.shares, task, task.service_ms)
        if task.holder:
            self.drop(task)
        line = self.lines.get(task.line)
        if line is not None:
            line.remove(task)
        self.ended[task.id] = task
        if len(self.ended) > self.limits.ended_remembered:
            gone = self.ended.pop(next(iter(self.ended)))
            if gone.key:
                self.unkeyed.append((gone.key, gone.id))

    def way_ms(self, task: Task, node: NodeId) -> int:
        """What it costs that the task's files, or its kin, are elsewhere than at `node`."""
        if not task.files or node in task.sources:
            return self.affinity.away_ms(task, node)
        return self.affinity.away_ms(task, node) + round(1000 * sum(size for _, size in task.files) / self.limits.transfer_bytes_per_s)

    # ---- lines

    def line_of(self, task: Task) -> Line:
        line = self.lines.get(task.line)
        if line is None:
            turns = Turns[Task](self.shares, self.limits.age_s)
            line = self.lines[task.line] = Line(task.capability, turns, task.placement.where, task.line)
            if line.where:
                self._labelled.setdefault(task.capability, {})[line.name] = line
        return line

    def lines_for(self, capability: str) -> list[Line]:
        """Every line of it, that of work which may run anywhere first."""
        plain, labelled = self.lines.get(capability), self._labelled.get(capability)
        return [*((plain,) if plain is not None else ()), *(labelled.values() if labelled else ())]

    def forget_line(self, line: Line) -> None:
        self.lines.pop(line.name, None)
        labelled = self._labelled.get(line.capability, {})
        labelled.pop(line.name, None)
        if not labelled:
            self._labelled.pop(line.capability, None)

    def enqueue(self, task: Task, *, urgent: bool = False) -> None:
        if task.capability in (WAIT, STATE):
            task.move(WAIT_FOR)
            if task.capability == WAIT:
                self.waits.append(task)
            return
        if self.directory.rulebook.rules and self.hold_back(task):
            if task.state == PARKED:
                task.move(WAKE)
            task.move(GATE)
            self.gated.append(task)
            return
        line = self.line_of(task)
        line.turns.add(task.id, task, back=urgent)
        line.fresh.append(task)
        self.woken[line.name] = line

    def dequeue(self, line: Line, task: Task) -> None:
        line.remove(task)
        if task.state == PARKED:
            task.move(WAKE)
        assert task.state == PENDING, f"{task.id} is {task.state} and stood in line"
        task.reason = ""

    def unqueue(self, task: Task) -> None:
        self.line_of(task).remove(task)

    def wake(self, capabilities: Iterable[str]) -> None:
        for capability in capabilities:
            for line in self.lines_for(capability):
                line.quiet = False
                self.woken[line.name] = line

    def wake_all(self) -> None:
        self.wake(dict.fromkeys(line.capability for line in self.lines.values()))

    # ---- holders

    def holder(self, node: NodeId) -> Holder:
        holder = self.holders.get(node)
        if holder is None:
            holder = self.holders[node] = Holder(node)
        return holder

    def speak_to(self, node: NodeId) -> Holder:
        """The holder, noted as one to whom something is said when the turn ends."""
        holder = self.holders.get(node)
        if holder is None:
            holder = self.holders[node] = Holder(node)
        if not holder.dirty:
            holder.dirty = True
            self.dirty.append(holder)
        return holder

    def give(self, task: Task, node: NodeId) -> Holder:
        holder = self.speak_to(node)
        self.affinity.gave(task, node)
        holder.tasks[task.id] = task
        holder.out[task.capability] = holder.out.get(task.capability, 0) + 1
        task.holder = task.node = node
        return holder

    def drop(self, task: Task, *, room: bool = True) -> None:
        """The task's award does not stand any more. `room`: so its holder can take another now, and those in line are looked at."""
        holder = self.holders[task.holder]
        self.affinity.over(task, task.holder)
        del holder.tasks[task.id]
        holder.reclaims.pop(task.id, None)
        holder.out[task.capability] -= 1
        if room:
            self.vacated.append((holder, task.capability))
        task.holder = ""
        for line in self.lines_for(task.capability) if room else ():
            if len(line):
                line.quiet = False
                self.woken[line.name] = line

    def free(self, task: Task, *, room: bool = True) -> None:
        """Its award is over without a result: back in line, before the others of its rank."""
        self.drop(task, room=room)
        recount(self.shares, task, 0)
        task.move(FREE)
        self.enqueue(task, urgent=True)

    def stop(self, task: Task, reason: str) -> None:
        """Its holder shall stop it."""
        self.speak_to(task.holder).cancels.setdefault((reason, task.durable), []).append((task.id, task.fence))

    def haunt(self, task: Task, *, revoke: bool = True) -> None:
        """Its holder may still run it, and shall hear that it must not: now (`revoke`) if it can, and when it is back."""
        holder = self.speak_to(task.holder)
        holder.ghosts.pop(task.id, None)
        holder.ghosts[task.id] = task.fence
        if len(holder.ghosts) > self.limits.ended_remembered:
            del holder.ghosts[next(iter(holder.ghosts))]
        row = self.directory.get(task.holder)
        if revoke and row is not None and row.linked:
            holder.revokes.append((task.id, task.fence))

    def stamp(self, now_s: float, node: NodeId) -> tuple[int, float]:
        """What a lease of `node` echoes, and from when the granter counts it. (0, -inf): nothing heard from it in this session."""
        if node == self.me:
            return int(now_s * 1000), now_s
        row = self.directory.get(node)
        return (row.stamp_ms, row.stamp_at_s) if row is not None and row.stamp_ms else (0, float("-inf"))

    # ---- the turn's end

    def flush(self, now_s: float) -> Effects:
        """Say once what was collected, contractor by contractor."""
        if not self.dirty:
            return
        dirty, self.dirty = self.dirty, []
        for holder in dirty:
            holder.dirty = False
            node = holder.node
            if self.directory.revoked(node):
                holder.hush()
                continue
            if holder.acks:
                yield from self._acknowledge(now_s, holder)
            if holder.revokes:
                yield Send(node, Revoke(tuple(holder.revokes)), need=Need.KEPT)
                holder.revokes = []
            if holder.superseded:
                yield Send(node, Superseded(tuple(holder.superseded)), need=Need.KEPT)
                holder.superseded = []
            if holder.kept_acks:
                yield Send(node, ResultAck(tuple(holder.kept_acks)), need=Need.KEPT)
                holder.kept_acks = []
            if holder.awards:
                yield from self._award(now_s, holder)
            if holder.cancels:
                for (reason, durable), items in holder.cancels.items():
                    yield Send(node, Cancel(tuple(items), reason), need=Need.KEPT if durable else Need.FREE)
                holder.cancels = {}
            if holder.renewals:
                yield from self._renew(now_s, holder)

    def _acknowledge(self, now_s: float, holder: Holder) -> Effects:
        """Results of plain calls: with the next thing to say to that node, or soon. Nobody waits for it, and a signature is dear."""
        company = holder.awards or holder.renewals or holder.kept_acks or holder.revokes or holder.superseded or holder.cancels
        if company or holder.node == self.me or len(holder.acks) >= ACKS_MAX:
            yield self._acks(holder)
        elif not holder.ack_due:
            holder.ack_due = True
            self.deadlines.set(AcksDue(holder.node), now_s + self.limits.ack_wait_s)

    def _acks(self, holder: Holder) -> Send:
        acks, holder.acks = holder.acks, []
        return Send(holder.node, ResultAck(tuple(acks)), need=Need.FREE)

    def expire_acks(self, _now_s: float, _me: NodeId, due: AcksDue) -> Effects:
        holder = self.holder(due.node)
        holder.ack_due = False
        if holder.acks:
            yield self._acks(holder)

    def _award(self, now_s: float, holder: Holder) -> Effects:
        limits = self.limits
        echo_ms, stamp_at_s = self.stamp(now_s, holder.node)
        for kind, pairs in holder.awards.items():
            grant_s = self.grant_s(stamp_at_s) if kind & DURABLE else limits.lease_s
            end_s = stamp_at_s + grant_s
            items = []
            for task, item in pairs:
                if task.fence == item.fence and task.holder == holder.node:
                    task.lease_end_s = end_s
                    if task.state == OFFERED:
                        items.append(item)
            self.watch_lease(holder, end_s)
            self.keep_pulse(now_s)
            if not items:
                continue
            award = Award(tuple(items), int(grant_s * 1000), echo_ms, bool(kind & CONDITIONAL))
            while holder.sent and not self.unanswered(holder, holder.sent[0][1]):
                holder.sent.popleft()
            holder.sent.append((now_s, award))
            if not holder.award_due:
                holder.award_due = True
                self.deadlines.set(AwardsDue(holder.node), now_s + limits.accept_timeout_s)
            yield Send(holder.node, award, need=Need.KEPT if kind & DURABLE else Need.FREE)
        holder.awards = {}

    def unanswered(self, holder: Holder, award: Award) -> bool:
        tasks = holder.tasks
        for item in award.items:
            task = tasks.get(item.task)
            if task is not None and task.state == OFFERED and task.fence == item.fence:
                return True
        return False

    def keep_pulse(self, now_s: float) -> None:
        if not self.pulse_at_s:
            self.pulse_at_s = now_s + self.limits.beat_s
            self.deadlines.set(PulseDue(), self.pulse_at_s)

    def watch_lease(self, holder: Holder, end_s: float) -> None:
        """Leases of one node only grow, so one deadline at the earliest end is enough; it is moved on when it comes."""
        if not holder.lease_due:
            holder.lease_due = True
            self.deadlines.set(LeasesDue(holder.node), end_s + self.limits.margin_s)

    def _renew(self, now_s: float, holder: Holder) -> Effects:
        echo_ms, stamp_at_s = self.stamp(now_s, holder.node)
        lots: dict[float, list[tuple[TaskId, Fence]]] = {}
        for task_id_, fence in holder.renewals:
            task = holder.tasks.get(task_id_)
            if task is not None and task.fence == fence:
                grant_s = self.grant_s(stamp_at_s) if task.durable else self.limits.lease_s
                task.lease_end_s = max(task.lease_end_s, stamp_at_s + grant_s)
                lots.setdefault(grant_s, []).append((task_id_, fence))
        holder.renewals = []
        for grant_s, items in lots.items():
            if echo_ms and grant_s > 0:
                yield Send(holder.node, Renew(tuple(items), int(grant_s * 1000), echo_ms), need=Need.FREE)

    def grant_s(self, stamp_at_s: float) -> float:
        """How long a lease counted from then may be: never longer than the keepers are known to follow this node."""
        return max(0.0, min(self.limits.lease_s, self.directory.guard.led_until_s - stamp_at_s))
