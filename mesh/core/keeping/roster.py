"""Who shall keep this node's journal: the two that rank first for it by rendezvous hashing, and no change without a reason.

Invariant: one change at a time, a replacement before who is replaced goes. With fewer than two others nobody keeps: two nodes could only
wait for each other. Source: Thaler and Ravishankar, rendezvous hashing (1998).
"""

from __future__ import annotations

import hashlib
from collections.abc import Container

from mesh.core.directory import ALIVE, DEAD, LEFT, Directory, Row
from mesh.ids import NodeId
from mesh.limits import KeepingLimits


def rank(author: NodeId, node: NodeId) -> bytes:
    """The smaller, the rather does `node` keep the journal of `author`."""
    return hashlib.sha256(f"{author}/{node}".encode()).digest()


class Roster:
    def __init__(self, directory: Directory, limits: KeepingLimits) -> None:
        self._directory, self._limits = directory, limits
        self._linked_since_s: dict[NodeId, float] = {}
        self._began_s = float("inf")

    def look(self, now_s: float) -> None:
        """Note who is linked, and since when."""
        self._began_s = min(self._began_s, now_s)
        linked = [row.node for row in self._directory.rows() if row.linked and row.node != self._directory.me]
        self._linked_since_s = {node: self._linked_since_s.get(node, now_s) for node in linked}

    def _fits(self, now_s: float, row: Row) -> bool:
        settled = now_s - self._linked_since_s.get(row.node, now_s) >= self._limits.settle_s
        return row.state == ALIVE and row.linked and row.keeps and not row.revoked and settled

    def _is_gone(self, now_s: float, node: NodeId) -> bool:
        row = self._directory.get(node)
        if row is None:  # not met in this life: it may be starting, too
            return now_s - self._began_s >= self._limits.replace_s
        if row.revoked or row.state == LEFT:
            return True
        return row.state == DEAD and now_s - row.changed_at_s >= self._limits.replace_s

    def next(self, now_s: float, members: tuple[NodeId, ...], lapsed: Container[NodeId] = ()) -> tuple[NodeId, ...]:
        """Who shall keep it next, the author included: `members` themselves, or with one more or one less. Who has `lapsed` is as good as
        gone until it is no member any more; then it may be taken in like any other."""
        me = self._directory.me
        keepers = [member for member in members if member != me]
        gone = [keeper for keeper in keepers if keeper in lapsed or self._is_gone(now_s, keeper)]
        fit = [row.node for row in self._directory.rows() if row.node != me and row.node not in members and self._fits(now_s, row)]
        staying = len(keepers) - len(gone)
        if gone and not staying:
            return tuple(member for member in members if member != gone[0])  # it can be asked for nothing any more, a replacement included
        if staying < self._limits.keepers and fit and staying + len(fit) >= self._limits.keepers:
            return (*members, min(fit, key=lambda node: rank(me, node)))
        if gone:
            return tuple(member for member in members if member != gone[0])
        if staying > self._limits.keepers:
            worst = max(keepers, key=lambda node: rank(me, node))
            return tuple(member for member in members if member != worst)
        if 0 < staying < self._limits.keepers:
            # Nobody else is here. Half a guard is none: it could only make this node wait.
            return tuple(member for member in members if member != keepers[-1])
        return members
