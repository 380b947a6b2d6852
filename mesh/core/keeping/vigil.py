"""Whether somebody still leads a log: what this node itself has seen of its leader, and nothing that others say.

Invariant: a leader that was heard from within `silence_s` over a standing link leads; where nobody was seen to lead, the author does.
"""

from __future__ import annotations

from mesh.core.directory import DEAD, LEFT, UNREACHABLE, Directory
from mesh.core.keeping.log import START, Run
from mesh.core.keeping.replica import LEADER, Replica
from mesh.ids import NodeId
from mesh.limits import KeepingLimits


class Vigil:
    def __init__(self, directory: Directory, limits: KeepingLimits) -> None:
        self._directory, self._limits = directory, limits
        self._heard_s: dict[NodeId, float] = {}
        self._gone: dict[NodeId, None] = {}

    def heard(self, now_s: float, author: NodeId) -> None:
        """The leader of the log of `author` spoke."""
        self._heard_s[author] = now_s

    def gone(self, _now_s: float, node: NodeId) -> None:
        """Its process has ended, or it cannot be reached."""
        self._gone[node] = None

    def back(self, node: NodeId) -> None:
        self._gone.pop(node, None)

    def _is_gone(self, node: NodeId) -> bool:
        row = self._directory.get(node)
        return node in self._gone or row is None or row.revoked or row.state in (UNREACHABLE, DEAD, LEFT)

    def silent(self, now_s: float, replica: Replica) -> bool:
        """It has a leader, or had one, and nothing was heard from it for too long."""
        since_s = self._heard_s.get(replica.author)
        if since_s is None:
            # Of a life before this one: its leader has as long again to be heard.
            self._heard_s[replica.author] = now_s
            return False
        return now_s - since_s > self._limits.silence_s and replica.log.last != START

    def leaderless(self, now_s: float, replica: Replica, candidate: NodeId) -> bool:
        """Whether this node would follow `candidate`. While nobody is known to lead, the author is taken to."""
        leader = replica.leader or replica.author
        if leader == candidate or (leader == self._directory.me and replica.role != LEADER):
            return True
        if leader != self._directory.me and (self._is_gone(leader) or self.silent(now_s, replica)):
            return True
        # Who has taken over is done with it: the author may lead again.
        return candidate == replica.author and replica.log.runs[-1:] == [Run(replica.term, replica.log.seq, leader)] and settled(replica)

    def abandoned(self, now_s: float, replica: Replica) -> bool:
        """The author itself has asked for votes, so it does not lead; nor does anybody else."""
        leader = replica.leader
        return leader in ("", replica.author) or self._is_gone(leader) or self.silent(now_s, replica)


def settled(replica: Replica) -> bool:
    """All that is in this log is known to be safe."""
    return replica.log.last <= replica.kept
