"""Revocations. Reads when each node upheld one, its journal from then on, its handlers, and what it shows of the revoked.

R1  once a node upholds a revocation, nothing of the revoked node has an effect there: no work is given to it or taken from it, its results
    are not committed, its handlers end and nothing is written of them, and none of its messages comes in
R2  its work ends elsewhere: at the end of quiet nobody shows a task as being with it (that all have ended is O3)
R3  a revocation reaches everybody and stays: at the end of quiet each running node upholds it in this very life and shows the other as dead
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from mesh.ids import Fence, NodeId, TaskId, author_of
from mesh.messages.records import Accepted, Bound, Decided, Ended, Finished, Submitted
from mesh.messages.work import Accept, Award, Failure, Reclaim, Result
from mesh.sim.checkers.copies import RESOLVING, Copies, Drafts
from mesh.sim.checkers.tasks import ENDED, Shown
from mesh.sim.history import (
    Appended,
    Delivered,
    HandlerBegan,
    HandlerOver,
    NodeDown,
    NodeUp,
    Phase,
    Takes,
    Upheld,
    Verdict,
    Viewed,
)

STOPS_WITHIN_S = 15.0
"""Until a handler has heard that it shall stop: its node may be paused for 10 s at that very moment, and its disk be slow."""

Place = tuple[NodeId, TaskId, Fence]


class TrustChecker:
    def __init__(self) -> None:
        self._up: dict[NodeId, None] = {}
        self._upheld: dict[tuple[NodeId, NodeId], float] = {}
        self._this_life: dict[tuple[NodeId, NodeId], None] = {}
        self._revoked: dict[NodeId, None] = {}
        self._awarded: dict[tuple[TaskId, Fence], NodeId] = {}
        self._running: dict[Place, float] = {}
        self._shown: dict[tuple[NodeId, NodeId], str] = {}
        self._held_for: dict[tuple[NodeId, TaskId], NodeId] = {}
        """By its journal."""
        self._claimed_by: dict[tuple[NodeId, TaskId], NodeId] = {}
        """Since then, in this life."""
        self._copies = Copies()
        self._drafts = Drafts[None]()
        self.watches: tuple[type, ...] = (Award, Accept, Result, Failure, Reclaim)
        self.takes: Takes = {
            NodeUp: self._node_up,
            NodeDown: self._node_down,
            Upheld: self._was_upheld,
            Appended: self._appended,
            Delivered: self._delivered,
            HandlerBegan: self._handler_began,
            HandlerOver: self._handler_over,
            Viewed: self._viewed,
            Shown: self._task_shown,
            Phase: self._phase,
        }

    def _node_up(self, record: NodeUp) -> Iterator[Verdict]:
        self._up[record.node] = None
        return iter(())

    def _node_down(self, record: NodeDown) -> Iterator[Verdict]:
        self._up.pop(record.node, None)
        self._copies.down(record.node)
        for pair in [pair for pair in self._this_life if pair[0] == record.node]:
            del self._this_life[pair]
        for held in [held for held in self._claimed_by if held[0] == record.node]:
            del self._claimed_by[held]
        return iter(())

    def _was_upheld(self, record: Upheld) -> Iterator[Verdict]:
        self._revoked[record.target] = None
        self._upheld.setdefault((record.node, record.target), record.at_s)
        self._this_life[record.node, record.target] = None
        return iter(())

    def _upholds(self, node: NodeId, target: NodeId) -> bool:
        return node != target and (node, target) in self._upheld

    # ---- R1

    def _appended(self, record: Appended) -> Iterable[Verdict]:
        node, entry = record.node, record.entry
        path = self._copies.path(record)
        if type(entry) in RESOLVING:
            for task in self._drafts.resolve(node, path, entry):
                self._held_for[node, task] = node
                self._claimed_by.pop((node, task), None)
        elif path:
            if type(entry) is Submitted:
                self._drafts.keep(node, path, entry.task, None)
            return ()
        elif type(entry) is Decided:
            self._awarded[entry.task, entry.fence] = entry.winner
        elif type(entry) is Accepted:
            self._held_for[node, entry.task] = entry.manager
            self._claimed_by.pop((node, entry.task), None)
        what = self._effect_of(node, entry) if self._revoked else ""
        return (Verdict(record.at_s, "R1", f"{node} {what}, which it knows to be revoked"),) if what else ()

    def _effect_of(self, node: NodeId, entry: Any) -> str:
        """What this entry grants to a revoked node, in words; empty: nothing."""
        kind = type(entry)
        if kind is Decided:
            asked = [one.node for one in entry.candidates if self._upholds(node, one.node)]
            return f"considers {asked[0]} for {entry.task}" if asked else ""
        if kind is Bound:
            holder = self._awarded.get((entry.task, entry.fence), "")
            return f"binds {entry.task} to {holder}" if self._upholds(node, holder) else ""
        if kind is Finished and entry.state == "done":
            return f"commits a result for {entry.task} of {entry.node}" if self._upholds(node, entry.node) else ""
        if kind is Accepted:
            return f"accepts {entry.task} from {entry.manager}" if self._upholds(node, entry.manager) else ""
        if kind is Ended:
            manager = self._manager_of(node, entry.task)
            return f"reports on {entry.task} to {manager}" if self._upholds(node, manager) else ""
        return ""

    def _manager_of(self, node: NodeId, task: TaskId) -> NodeId:
        """For whom `node` holds it: who awarded it, or who has claimed it since."""
        return self._claimed_by.get((node, task)) or self._held_for.get((node, task), author_of(task))

    def _delivered(self, record: Delivered) -> Iterable[Verdict]:
        if type(record.message) is Reclaim:
            self._claimed_by.update(((record.node, task), record.sender) for task, _ in record.message.items)
        if not self._revoked or not self._upholds(record.node, record.sender):
            return ()
        kind = type(record.message).__name__
        return (Verdict(record.at_s, "R1", f"{record.node} took a {kind} from {record.sender}, which it knows to be revoked"),)

    def _handler_began(self, record: HandlerBegan) -> Iterator[Verdict]:
        self._running[record.node, record.task, record.fence] = record.at_s
        return iter(())

    def _handler_over(self, record: HandlerOver) -> Iterator[Verdict]:
        place = (record.node, record.task, record.fence)
        if self._running.pop(place, None) is not None:
            yield from self._outstayed(record.at_s, place)

    def _outstayed(self, at_s: float, place: Place) -> Iterator[Verdict]:
        node, task, _ = place
        manager = self._manager_of(node, task)
        upheld_s = self._upheld.get((node, manager))
        if upheld_s is not None and node != manager and at_s - upheld_s > STOPS_WITHIN_S:
            yield Verdict(at_s, "R1", f"{node} ran {task} on for {at_s - upheld_s:.1f} s after its manager was revoked")

    # ---- R2, R3

    def _task_shown(self, record: Shown) -> Iterator[Verdict]:
        row = record.row
        if row is not None and row.get("state") not in ENDED and self._upholds(record.node, str(row.get("owner_id", ""))):
            yield Verdict(record.at_s, "R2", f"{record.node} shows {record.task} as {row['state']} at {row['owner_id']}, which is revoked")

    def _viewed(self, record: Viewed) -> Iterator[Verdict]:
        for row in record.rows if self._revoked else ():
            if row[0] in self._revoked:
                self._shown[record.node, row[0]] = row[1]
        return iter(())

    def _phase(self, record: Phase) -> Iterator[Verdict]:
        if record.name != "settled":
            return
        for place in self._running:
            yield from self._outstayed(record.at_s, place)
        for target in self._revoked:
            for node in self._up:
                if node in self._revoked:
                    continue
                state = self._shown.get((node, target), "forgotten")
                if (node, target) not in self._this_life:
                    yield Verdict(record.at_s, "R3", f"{node} has not heard that {target} was revoked")
                elif state not in ("dead", "forgotten"):
                    yield Verdict(record.at_s, "R3", f"{node} shows {target} as {state}, though it was revoked")
