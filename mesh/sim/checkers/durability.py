"""What may leave, and what must stay. Compares every message with the durable image at that moment.

D1  what was synced is there after any crash
D2  nothing leaves that depends on what is not synced: by its watermark, and by what it *says* (an AWARD needs its decision on the
    manager's disk, an ACCEPT the acceptance on the contractor's, and so on), so that a watermark left out is found as well
D4  after a sync that failed a node writes nothing and says nothing any more, until it starts again
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mesh.effects import Execute, Send
from mesh.ids import Fence, NodeId, TaskId, author_of
from mesh.messages.records import Accepted, Decided, Ended, Finished, Lost, Submitted
from mesh.messages.work import Accept, Award, Result, ResultAck
from mesh.sim.history import Answered, Appended, Asked, NodeDown, NodeUp, Outward, PutBack, Synced, SyncFailed, Takes, Verdict
from mesh.sim.old_disks import OldDisks

Fact = tuple[NodeId, type, TaskId, Fence]
KEPT = (Submitted, Decided, Accepted, Ended, Finished, Lost)


class DurabilityChecker:
    def __init__(self) -> None:
        self._synced_seq: dict[NodeId, int] = {}
        self._heads: dict[NodeId, bytes] = {}
        self._waiting: dict[NodeId, list[tuple[int, Any]]] = {}
        self._durable: dict[Fact, NodeId] = {}
        self._tasks: dict[TaskId, None] = {}
        self._submissions: dict[int, NodeId] = {}
        self._keyed: dict[int, None] = {}
        self._failed: dict[NodeId, float] = {}
        self._old = OldDisks()
        self.watches: tuple[type, ...] = (Award, Accept, Result, ResultAck, Execute)
        self.takes: Takes = {
            Appended: self._appended,
            Synced: self._synced,
            NodeUp: self._node_up,
            NodeDown: self._node_down,
            SyncFailed: self._sync_failed,
            PutBack: self._put_back,
            Outward: self._outward,
            Asked: self._asked,
            Answered: self._answered,
        }

    def _appended(self, record: Appended) -> Iterator[Verdict]:
        if type(record.entry) in KEPT:
            self._waiting.setdefault(record.node, []).append((record.seq, record.entry))
        if record.node in self._failed:
            yield from self._goes_on(record, f"writes {type(record.entry).__name__}")

    def _sync_failed(self, record: SyncFailed) -> Iterator[Verdict]:
        self._failed[record.node] = record.at_s
        return iter(())

    def _goes_on(self, record: Appended | Outward, does: str) -> Iterator[Verdict]:
        yield Verdict(record.at_s, "D4", f"{record.node} {does} after its sync had failed at {self._failed[record.node]:.3f} s")

    def _put_back(self, record: PutBack) -> Iterator[Verdict]:
        self._synced_seq[record.node], self._heads[record.node] = record.seq, record.head
        return self._old.note(record)

    def _synced(self, record: Synced) -> Iterator[Verdict]:
        self._synced_seq[record.node] = record.seq
        self._heads[record.node] = record.commit_hash
        waiting = self._waiting.get(record.node)
        while waiting and waiting[0][0] <= record.seq:
            _, entry = waiting.pop(0)
            kind = type(entry)
            self._durable[(record.node, kind, entry.task, getattr(entry, "fence", 0))] = getattr(entry, "winner", "")
            if kind is Submitted:
                self._tasks[entry.task] = None
            elif kind is Finished:
                self._durable[(record.node, kind, entry.task, -1)] = ""
        return iter(())

    def _node_down(self, record: NodeDown) -> Iterator[Verdict]:
        self._waiting.pop(record.node, None)
        self._failed.pop(record.node, None)
        return iter(())

    def _node_up(self, record: NodeUp) -> Iterator[Verdict]:
        synced = self._synced_seq.get(record.node, 0)
        if record.seq != synced or record.head != self._heads.get(record.node, bytes(32)):
            yield Verdict(record.at_s, "D1", f"{record.node} starts with {record.seq} entries; {synced} had been synced")

    # ---- what leaves

    def _outward(self, record: Outward) -> Iterator[Verdict]:
        effect, synced = record.effect, self._synced_seq.get(record.node, 0)
        what = type(effect.message).__name__ if type(effect) is Send else type(effect).__name__
        if record.node in self._failed:
            yield from self._goes_on(record, f"lets {what} out")
        if effect.after > synced:
            yield Verdict(record.at_s, "D2", f"{record.node} let {what} out, which waits for {effect.after}, with {synced} synced")
        for needed in self._needs(record.node, effect):
            yield Verdict(record.at_s, "D2", f"{record.node} let {what} out before its disk had {needed}")

    def _needs(self, node: NodeId, effect: Any) -> Iterator[str]:
        """What should be on the disk of `node` for `effect` to leave, and is not. Plain calls have no entries."""
        if type(effect) is Execute:
            if self._kept(effect.task) and (node, Accepted, effect.task, effect.fence) not in self._durable:
                yield f"Accepted {effect.task} {effect.fence}"
            return
        if type(effect) is not Send:
            return
        message = effect.message
        kind = type(message)
        if kind is Award:
            for item in message.items:
                if item.durable and item.task not in self._old and self._durable.get((node, Decided, item.task, item.fence)) != effect.to:
                    yield f"Decided {item.task} {item.fence} for {effect.to}"
        elif kind is Accept:
            for task, fence in message.items:
                if self._kept(task) and (node, Accepted, task, fence) not in self._durable:
                    yield f"Accepted {task} {fence}"
        elif kind is Result:
            if self._kept(message.task) and (node, Ended, message.task, message.fence) not in self._durable:
                yield f"Ended {message.task} {message.fence}"
        elif kind is ResultAck:
            for task, fence in message.items:
                ended = (node, Finished, task, -1) in self._durable or (node, Lost, task, fence) in self._durable
                if self._kept(task) and not ended:
                    yield f"Finished or Lost {task} {fence}"

    def _kept(self, task: TaskId) -> bool:
        """A submitted task, whose entries nobody has put back."""
        return task in self._tasks and task not in self._old

    def _asked(self, record: Asked) -> Iterator[Verdict]:
        if record.command.durable:
            self._submissions[record.request] = record.node
            if getattr(record.command, "key", ""):
                self._keyed[record.request] = None
        return iter(())

    def _answered(self, record: Answered) -> Iterator[Verdict]:
        task = record.body.get("task", "")
        submitted = self._submissions.pop(record.request, None)
        if submitted is None or not record.ok:
            return
        # What was submitted under a key may be on another's disk: his whose task the key stands for.
        where = author_of(task) if record.request in self._keyed else record.node
        if (where, Submitted, task, 0) not in self._durable:
            yield Verdict(record.at_s, "D2", f"{record.node} acknowledged {task} before its disk had it")
