"""What follows from failure stays within bounds. Reads the managers' journals, and what their neighbours told them.

F1  retries after failures of handlers stay within the retry budget: burst + floor * seconds + share * tasks given, in one life
F2  nobody is awarded work whose breaker for it is open by his newest LOAD
F3  once a task has ended in somebody's journal, its steps end there as cancelled: none of them goes on
F4  no task is awarded again after it has taken down three different nodes
F5  second attempts of slow work stay within their share of the tasks given
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from mesh.core.work.breaker import OPEN
from mesh.core.work.poison import TOOK_DOWN
from mesh.core.work.task import NODE_FAULTS
from mesh.ids import Fence, NodeId, TaskId
from mesh.limits import WorkLimits
from mesh.messages.membership import Load
from mesh.messages.records import Bound, Decided, Finished, Lost, Submitted
from mesh.sim.checkers.copies import RESOLVING, Copies, Drafts, Path
from mesh.sim.history import Appended, Asked, ClockBroken, Delivered, NodeUp, Takes, Verdict

NODES_MAX = 3
DRIFT = 1.1
"""A manager counts seconds on its own clock."""
STEPS_PER_CALL = 4
"""A plain call writes no entry; it may be a flow, whose steps count too."""


_Loss = tuple[NodeId, int, NodeId]


@dataclass(slots=True)
class _Life:
    """One life of a manager."""

    since_s: float
    given: int = 0
    retries: int = 0
    hedges: int = 0
    failed: dict[TaskId, None] = field(default_factory=dict)


class FailureChecker:
    def __init__(self, limits: WorkLimits) -> None:
        self._limits = limits
        self._lives: dict[NodeId, _Life] = {}
        self._clocks_good = True
        self._open: dict[tuple[NodeId, NodeId], frozenset[str]] = {}
        """By who heard it from whom: capabilities whose breaker is open there."""
        self._capability: dict[TaskId, str] = {}
        self._parent: dict[TaskId, TaskId] = {}
        self._took_down: dict[TaskId, list[_Loss]] = {}
        """By task: in whose journal, at which number, which node."""
        self._bound: dict[tuple[NodeId, TaskId, Fence], int] = {}
        """Awards that were accepted, by whose journal says so, with the number there."""
        self._ended: dict[tuple[NodeId, TaskId], int] = {}
        """Whose end is in which journal at which number."""
        self._copies = Copies()
        self._drafts = Drafts[list[_Loss]]()
        self.watches: tuple[type, ...] = (Load,)
        self.takes: Takes = {
            NodeUp: self._node_up,
            Asked: self._asked,
            Appended: self._appended,
            ClockBroken: self._clock_broken,
            Delivered: self._delivered,
        }

    def _clock_broken(self, record: ClockBroken) -> Iterator[Verdict]:
        self._clocks_good = False
        return iter(())

    def _node_up(self, record: NodeUp) -> Iterator[Verdict]:
        self._lives[record.node] = _Life(record.at_s)
        self._copies.down(record.node)
        for key in [key for key, seq in self._ended.items() if key[0] == record.node and seq > record.seq]:
            del self._ended[key]
        for award in [award for award, seq in self._bound.items() if award[0] == record.node and seq > record.seq]:
            del self._bound[award]
        for losses in self._took_down.values():
            losses[:] = [loss for loss in losses if loss[0] != record.node or loss[1] <= record.seq]
        for pair in [pair for pair in self._open if record.node in pair]:
            del self._open[pair]
        return iter(())

    def _delivered(self, record: Delivered) -> Iterator[Verdict]:
        if type(record.message) is Load:
            rows = record.message.rows
            self._open[(record.node, record.sender)] = frozenset(row.capability for row in rows if row.breaker == OPEN)
        return iter(())

    def _asked(self, record: Asked) -> Iterator[Verdict]:
        life = self._lives.get(record.node)
        if life is not None and not record.command.durable:
            life.given += STEPS_PER_CALL
        return iter(())

    def _appended(self, record: Appended) -> Iterator[Verdict]:
        entry, life = record.entry, self._lives.get(record.node)
        path = self._copies.path(record)
        if type(entry) in RESOLVING:
            self._took_down.update(self._drafts.resolve(record.node, path, entry))
        if path:
            self._copied(record, path)
            return
        if life is None:
            return
        took_one_down = self._took_one_down(record)
        if type(entry) is Submitted:
            life.given += 1
            self._capability[entry.task] = entry.capability
            if entry.step:
                self._parent[entry.task] = entry.parent
        elif type(entry) is Finished:
            self._ended[record.node, entry.task] = record.seq
            parent = self._parent.get(entry.task, "")
            if (record.node, parent) in self._ended and entry.state != "cancelled":
                yield Verdict(record.at_s, "F3", f"{entry.task}, a step of {parent}, is {entry.state} after that has ended")
        elif type(entry) is Lost:
            if took_one_down:
                self._took_down.setdefault(entry.task, []).append((record.node, record.seq, entry.node))
            cause, _, kind = entry.reason.partition(":")
            if cause == "failed" and kind not in NODE_FAULTS:
                life.failed[entry.task] = None
        elif type(entry) is Decided and entry.way == "hedge":
            yield from self._hedged(record.at_s, record.node, life)
        elif type(entry) is Decided:
            capability = self._capability.get(entry.task, "")
            if capability in self._open.get((record.node, entry.winner), ()):
                yield Verdict(record.at_s, "F2", f"{entry.task}, {capability}, was awarded to {entry.winner}, whose breaker for it is open")
            downed = {node for _, _, node in self._took_down.get(entry.task, ())}
            if len(downed) >= NODES_MAX:
                yield Verdict(record.at_s, "F4", f"{entry.task} took down {', '.join(sorted(downed))} and was awarded to {entry.winner}")
            if entry.task in life.failed:
                del life.failed[entry.task]
                life.retries += 1
                yield from self._judge(record.at_s, record.node, life)

    def _copied(self, record: Appended, path: Path) -> None:
        """Of what was not kept, and so is not copied, whoever takes over knows nothing."""
        node, entry = record.node, record.entry
        if type(entry) is Submitted:
            self._ended.pop((node, entry.task), None)
            self._drafts.keep(node, path, entry.task, [])
        elif self._took_one_down(record) and (losses := self._drafts.at(node, path, entry.task)) is not None:
            losses.append((node, record.seq, entry.node))

    def _took_one_down(self, record: Appended) -> bool:
        """Whether it says that a node was lost that had accepted the task: what had only been offered ran nowhere."""
        node, entry = record.node, record.entry
        if type(entry) is Bound:
            self._bound[node, entry.task, entry.fence] = record.seq
        return type(entry) is Lost and entry.reason in TOOK_DOWN and (node, entry.task, entry.fence) in self._bound

    def _hedged(self, at_s: float, node: NodeId, life: _Life) -> Iterator[Verdict]:
        """A second attempt was first: it had been made before, and is known to be one of few."""
        life.hedges += 1
        if life.hedges > self._limits.hedge_share * life.given:
            yield Verdict(at_s, "F5", f"{node} has had {life.hedges} results of second attempts, of {life.given} tasks")

    def _judge(self, at_s: float, node: NodeId, life: _Life) -> Iterator[Verdict]:
        limits = self._limits
        floor = limits.retry_floor_per_s * (at_s - life.since_s) * DRIFT
        most = max(1.0, limits.retry_burst) + floor + limits.retry_share * life.given
        if self._clocks_good and life.retries > most:
            yield Verdict(at_s, "F1", f"{node} has retried {life.retries} times; its budget is {most:.1f} for {life.given} tasks")
