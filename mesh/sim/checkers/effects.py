"""Keyed effects (``ctx.effect``), judged by what the outside world saw, what handlers were told, and the managers' journals.

E1  once an outcome is on its manager's disk, the world accepts nothing under that key any more (if another has taken over since: once it is
    on his, since what had not been kept is void)
E2  nothing is done before its intent is on the manager's disk: under that fence, key and call (what may be done once only: on his who
    drives the task; else one who does not know yet that others have taken it over may have let it begin)
E3  at most once means once, though the world does whatever it is told
E4  every attempt learns the outcome of the one execution
E5  the world accepts no fence older than one it has seen
E6  only the newest award begins or ends an effect in the journal

Plain calls have no entries: E3 to E5 hold for them too.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from mesh.ids import Fence, NodeId, TaskId
from mesh.messages.records import Decided, Effected, Intended, Submitted
from mesh.sim.checkers.copies import RESOLVING, Copies, Drafts, Path
from mesh.sim.history import Appended, Learned, NodeDown, Reached, Synced, Takes, Verdict

Key = tuple[TaskId, str]
_KEPT = (Submitted, Decided, Intended, Effected, *RESOLVING)


@dataclass(slots=True)
class _Copied:
    outcomes: dict[Key, None] = field(default_factory=dict)
    decided: Fence = 0


class EffectChecker:
    def __init__(self) -> None:
        self._durable: dict[TaskId, None] = {}
        self._decided: dict[TaskId, Fence] = {}
        self._intents: dict[tuple[TaskId, Fence, str, int], None] = {}
        self._outcomes: dict[Key, None] = {}
        self._seen: dict[TaskId, Fence] = {}
        self._executed: dict[Key, str] = {}
        self._times: dict[Key, int] = {}
        self._unsynced: dict[NodeId, list[tuple[int, Any, Path]]] = {}
        self._drivers: dict[TaskId, NodeId] = {}
        """Whose journal counts for it."""
        self._copies = Copies()
        self._drafts = Drafts[_Copied]()
        self.watches: tuple[type, ...] = ()
        self.takes: Takes = {
            Reached: self._reached,
            Learned: self._learned,
            Appended: self._appended,
            Synced: self._synced,
            NodeDown: self._node_down,
        }

    # ---- the world

    def _reached(self, record: Reached) -> Iterator[Verdict]:
        key, what = (record.task, record.key), f"{record.task} {record.key!r} under {record.fence} at {record.node}"
        intent = (record.task, record.fence, record.key, record.call)
        if record.task in self._durable and intent not in self._intents:
            yield Verdict(record.at_s, "E2", f"{what} was done before its intent was on the manager's disk")
        if not record.outcome:
            return
        if key in self._outcomes:
            yield Verdict(record.at_s, "E1", f"{what} was done again though its outcome is on record")
        if not record.once and record.fence < self._seen.get(record.task, 0):
            yield Verdict(record.at_s, "E5", f"{what} was accepted after {self._seen[record.task]}")
        self._seen[record.task] = max(record.fence, self._seen.get(record.task, 0))
        if record.executed:
            self._times[key] = self._times.get(key, 0) + 1
            self._executed.setdefault(key, record.outcome)
        if self._times.get(key, 0) > 1:
            yield Verdict(record.at_s, "E3" if record.once else "E1", f"{what} was executed {self._times[key]} times")

    def _learned(self, record: Learned) -> Iterator[Verdict]:
        executed = self._executed.get((record.task, record.key))
        if record.outcome != executed:
            what = f"{record.task} {record.key!r} at {record.node}"
            yield Verdict(record.at_s, "E4", f"{what} learned {record.outcome}; it was {executed or 'never done'}")

    # ---- the journals

    def _appended(self, record: Appended) -> Iterator[Verdict]:
        path = self._copies.path(record)
        if type(record.entry) in _KEPT:
            self._unsynced.setdefault(record.node, []).append((record.seq, record.entry, path))
        return iter(())

    def _synced(self, record: Synced) -> Iterator[Verdict]:
        waiting = self._unsynced.get(record.node)
        while waiting and waiting[0][0] <= record.seq:
            _, entry, path = waiting.pop(0)
            if type(entry) in RESOLVING:
                self._resolved(record.node, entry, path)
            elif path:
                self._copied(record.node, entry, path)
            else:
                yield from self._driven(record.at_s, record.node, entry)

    def _resolved(self, node: NodeId, entry: Any, path: Path) -> None:
        for task, copied in self._drafts.resolve(node, path, entry).items():
            self._drivers[task] = node
            self._decided[task] = copied.decided
            self._forget(task)
            self._outcomes |= copied.outcomes

    def _copied(self, node: NodeId, entry: Any, path: Path) -> None:
        """It says nothing new, and counts only if this node comes to drive the task."""
        if type(entry) is Submitted:
            self._durable[entry.task] = None
            self._drafts.keep(node, path, entry.task, _Copied())
        elif (copied := self._drafts.at(node, path, entry.task)) is None:
            return
        elif type(entry) is Decided:
            copied.decided = entry.fence
        elif type(entry) is Effected and not entry.error:
            copied.outcomes[entry.task, entry.key] = None

    def _driven(self, at_s: float, node: NodeId, entry: Any) -> Iterator[Verdict]:
        if type(entry) is Submitted:
            self._durable[entry.task] = None
            self._drivers[entry.task] = node
        elif self._drivers.get(entry.task) != node:
            # Void: others had taken it over, and its writer did not know. What may be begun again he may still have let begin.
            if isinstance(entry, Intended) and not entry.once:
                self._intents[entry.task, entry.fence, entry.key, entry.call] = None
        elif type(entry) is Decided:
            self._decided[entry.task] = max(entry.fence, self._decided.get(entry.task, 0))
        else:
            yield from self._effect(at_s, entry)

    def _forget(self, task: TaskId) -> None:
        """Outcomes that are on nobody's record any more."""
        for key in [key for key in self._outcomes if key[0] == task]:
            del self._outcomes[key]

    def _effect(self, at_s: float, entry: Intended | Effected) -> Iterator[Verdict]:
        if entry.fence != self._decided.get(entry.task):
            what = f"{type(entry).__name__} {entry.key!r} of {entry.task} under {entry.fence}"
            yield Verdict(at_s, "E6", f"{what}; current is {self._decided.get(entry.task)}")
        if isinstance(entry, Intended):
            self._intents[entry.task, entry.fence, entry.key, entry.call] = None
        elif not entry.error:
            self._outcomes[entry.task, entry.key] = None

    def _node_down(self, record: NodeDown) -> Iterator[Verdict]:
        self._unsynced.pop(record.node, None)
        self._copies.down(record.node)
        return iter(())
