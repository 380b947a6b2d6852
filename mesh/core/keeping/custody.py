"""Who shall keep the mesh's keys: three nodes, or the one that began. A wish only: those who keep them now decide it by vote (`keys.py`).

Invariant: nobody begins while a node is known that might know of a roster: every other is here, and has said that it knows of none.
Members are taken in by rendezvous hashing and stay until they are gone, so that a join changes nothing once there are three.
"""

from __future__ import annotations

from collections.abc import Container

from mesh.core.directory import ALIVE, DEAD, LEFT, Directory, Row
from mesh.core.keeping.roster import rank
from mesh.ids import NodeId
from mesh.limits import KeepingLimits
from mesh.messages.claims import KeyRoster


class Custody:
    def __init__(self, directory: Directory, limits: KeepingLimits) -> None:
        self._me, self._directory, self._limits = directory.me, directory, limits
        self._size = limits.keepers + 1
        self._linked_since_s: dict[NodeId, float] = {}
        self._began_s = float("inf")

    def began(self, now_s: float) -> None:
        self._began_s = self._linked_since_s[self._me] = now_s

    def linked(self, now_s: float, node: NodeId) -> None:
        self._linked_since_s[node] = now_s

    def _settled(self, now_s: float, node: NodeId) -> bool:
        """It has been here for long enough to have met the others, and to be reckoned with."""
        return now_s - self._linked_since_s.get(node, now_s) >= self._limits.settle_s

    def _fit(self, now_s: float) -> list[NodeId]:
        """Who could keep them, the best first."""
        alive = [row for row in self._directory.rows() if row.state == ALIVE and row.linked]
        fit = [row.node for row in alive if row.keeps and not row.revoked and self._settled(now_s, row.node)]
        return sorted(fit, key=lambda node: rank("keys", node))

    def _is_gone(self, now_s: float, row: Row | None) -> bool:
        if row is None:  # not met in this life: it may be starting, too
            return now_s - self._began_s >= self._limits.replace_s
        dead = row.state == DEAD and now_s - row.changed_at_s >= self._limits.replace_s
        return row.revoked or row.state == LEFT or dead

    def is_void(self, roster: KeyRoster) -> bool:
        """Nobody keeps keys under it any more, or a person has thrown out so many of them that no majority is left."""
        outlawed = sum(self._directory.revoked(member) for member in roster.members)
        return 2 * outlawed >= len(roster.members)

    def next(self, now_s: float, members: tuple[NodeId, ...]) -> tuple[NodeId, ...]:
        """Who shall keep them next; `members` themselves: no change."""
        rows = {member: self._directory.get(member) for member in members}
        staying = tuple(member for member, row in rows.items() if not self._is_gone(now_s, row))
        others = [node for node in self._fit(now_s) if node not in members]
        if len(staying) == len(members) >= self._size or not staying:
            return members
        if len(staying) + len(others) >= self._size:
            return (*staying, *others)[: self._size]
        # Three cannot be had. One of two could only wait for the other; who has gone for good is not waited for.
        for_good = any(row is not None and (row.revoked or row.state == LEFT) for row in rows.values())
        return staying[:1] if for_good else members

    def is_first(self) -> bool:
        """Whether it is for this node to begin: of all that are known, and could keep keys, it has the least name."""
        keeping = [row.node for row in self._directory.rows() if row.keeps and not row.revoked and row.state not in (DEAD, LEFT)]
        return bool(keeping) and min(keeping) == self._me

    def founders(self, now_s: float, unknowing: Container[NodeId]) -> tuple[NodeId, ...]:
        """Who keeps them first, if this node may begin now; empty: it may not."""
        others = [row for row in self._directory.rows() if row.node != self._me and not self._is_gone(now_s, row)]
        ready = all(row.linked and row.node in unknowing and self._settled(now_s, row.node) for row in others)
        if not ready or not self._settled(now_s, self._me) or not self.is_first():
            return ()
        fit = self._fit(now_s)
        return tuple(fit[: self._size]) if len(fit) >= self._size else (self._me,)
