"""What membership remembers of each node, beyond the row that all machines see.

    directory row   who, where, offers, load, state, stamps        (read by work)
    Member          the signed statements behind it, votes, probe  (this wing only)

Invariant: `state` of a row changes only here, in `set_state`, so the counts that quorums rest on are always right; only the node itself
raises its incarnation and version (M4). Rows are ordered by ``(incarnation, version, alive < suspect < dead < left)``; LEFT ends its
incarnation, so it counts as the last version of it. `unreachable` is this node's own opinion and travels as `suspect`.
What it does not do: decide. Source: SWIM section 4.2, with incarnation and version apart so that a restart always wins.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from mesh.core.deadlines import Deadlines
from mesh.core.directory import ALIVE, DEAD, LEFT, SUSPECT, UNREACHABLE, Directory, Row
from mesh.ids import NodeId
from mesh.limits import MembershipLimits
from mesh.messages.membership import Alive, Dead, Load
from mesh.messages.signed import Signed

RANK = {ALIVE: 0, SUSPECT: 1, UNREACHABLE: 1, DEAD: 2, LEFT: 3}
WIRE_STATE = {ALIVE: ALIVE, SUSPECT: SUSPECT, UNREACHABLE: SUSPECT, DEAD: DEAD, LEFT: LEFT}
LAST_VERSION = 1 << 63

IDLE, DIRECT, INDIRECT, DOUBTED = range(4)
"""Where a probe stands: none, pinged, others asked, own vote cast (and pinged on)."""

SMALL_MESH = 9


@dataclass(frozen=True, slots=True)
class ProbeDue:
    """The next step of watching `node`: see `probing.py`."""

    node: NodeId


@dataclass(frozen=True, slots=True)
class SuspicionEnds:
    """The subject has had its time to refute."""

    node: NodeId


def votes_needed(roster: int) -> int:
    """H without its upper bound: a majority of the others in a roster of `roster` nodes (the subject and the voter included)."""
    return (roster - 1) // 2 + 1


class Member:
    """One other node, as membership sees it. Slots: one of these is touched for every envelope."""

    __slots__ = (
        "alive",
        "armed",
        "asked",
        "dead",
        "doubt",
        "due_s",
        "early_load",
        "early_load_at_s",
        "episode",
        "excuses",
        "filled_at_s",
        "heard_at_s",
        "left",
        "load_version",
        "node",
        "phase",
        "relays",
        "row",
        "suspected_at_s",
        "trouble",
        "votes",
        "window_end_s",
        "window_over",
    )

    def __init__(self, row: Row, now_s: float) -> None:
        self.node = row.node
        self.row = row
        self.alive: Signed | None = None
        self.left: Signed | None = None
        self.dead: Dead | None = None
        self.votes: dict[NodeId, Signed] = {}
        self.suspected_at_s = 0.0
        self.window_end_s = 0.0
        self.window_over = False
        self.heard_at_s = now_s
        self.phase = IDLE
        self.trouble = False
        """Something waits for a sign of life: the one test on the path of every envelope."""
        self.doubt = False
        """Probe at the next `ProbeDue` even if it was heard within the interval."""
        self.due_s = 0.0
        self.excuses = 0
        self.episode = 0
        self.asked: dict[NodeId, bool] = {}
        self.relays: dict[tuple[NodeId, int], None] = {}
        self.armed = False
        """A refused connect counts as hard evidence: once per link."""
        self.load_version = -1
        self.early_load: Load | None = None
        self.early_load_at_s = 0.0
        self.filled_at_s = float("-inf")

    def key(self) -> tuple[int, int, int]:
        """This row's place in the order of knowledge."""
        row = self.row
        return order(row.incarnation, row.version, row.state)

    def forget_suspicion(self) -> None:
        self.votes.clear()
        self.window_over = False
        self.dead = None


def order(incarnation: int, version: int, state: str) -> tuple[int, int, int]:
    """The order of statements about one node. Raises KeyError for a state that is none."""
    return incarnation, LAST_VERSION if state == LEFT else version, RANK[state]


class Members:
    """All other nodes, those linked, the own statement, and the counts."""

    def __init__(self, directory: Directory, deadlines: Deadlines, limits: MembershipLimits, me: Alive) -> None:
        self.me = me.node
        self.own = Signed(me.node, me)
        self.own_left: Signed | None = None
        self.directory = directory
        self.limits = limits
        self.linked: dict[NodeId, Member] = {}
        self.counts = {ALIVE: 1, SUSPECT: 0, UNREACHABLE: 0, DEAD: 0, LEFT: 0}
        self.forgotten = 0
        self.exiled = 0
        """Rows of revoked nodes, which count for nothing."""
        self._deadlines = deadlines
        self._members: dict[NodeId, Member] = {}
        self._names: list[NodeId] | None = []
        self._graves: dict[NodeId, tuple[int, int]] = {}
        row = directory.ensure(me.node)
        row.name, row.incarnation, row.version, row.door, row.router = me.name, me.incarnation, me.version, me.door, me.router
        row.linked, row.keeps = True, me.keeps
        directory.set_offers(row, me.offers)

    # ---- the table

    def get(self, node: NodeId) -> Member | None:
        return self._members.get(node)

    def all(self) -> Iterator[Member]:
        """In order of node id."""
        return (self._members[row.node] for row in self.directory.rows() if row.node in self._members)

    def add(self, now_s: float, node: NodeId) -> Member | None:
        """A member of whom nothing is known yet; None if the table is full of nodes that may still be there."""
        if len(self.directory) >= self.limits.rows_max and not self._forget_one():
            return None
        member = self._members[node] = Member(self.directory.ensure(node), now_s)
        member.row.changed_at_s = now_s
        self.counts[member.row.state] += 1
        self._graves.pop(node, None)
        return member

    def buried(self, alive: Alive) -> bool:
        """`alive` is hearsay about a life that was forgotten here: only its own link or a newer statement brings it back."""
        grave = self._graves.get(alive.node)
        return grave is not None and (alive.incarnation, alive.version) <= grave

    def is_grave(self, node: NodeId, incarnation: int, version: int) -> bool:
        return node in self._graves and (incarnation, version) <= self._graves[node]

    def _forget_one(self) -> bool:
        """Dead and left ones go first, the longest silent first; nobody else goes."""
        gone = [m for m in self._members.values() if m.row.state in (DEAD, LEFT) and not m.row.linked]
        if not gone:
            return False
        oldest = min(gone, key=lambda m: (max(m.heard_at_s, m.row.changed_at_s), m.node))
        row = oldest.row
        self.counts[row.state] -= 1
        self.exiled -= row.revoked
        self._graves[row.node] = (row.incarnation, row.version)
        while len(self._graves) > self.limits.rows_max:
            del self._graves[next(iter(self._graves))]
        self._deadlines.clear(ProbeDue(row.node))
        self._deadlines.clear(SuspicionEnds(row.node))
        del self._members[row.node]
        self.directory.forget(row.node)
        self.forgotten += 1
        return True

    # ---- states and quorums

    def set_state(self, now_s: float, member: Member, state: str) -> None:
        row = member.row
        if row.state != state:
            self.counts[row.state] -= 1
            self.counts[state] += 1
            row.state = state
            row.changed_at_s = now_s

    def exile(self, now_s: float, member: Member) -> None:
        """A revoked node: dead, unlinked, unwatched, and in no quorum. Nothing leads back."""
        self.unlink(member)
        member.forget_suspicion()
        member.phase, member.trouble = IDLE, False
        self._deadlines.clear(ProbeDue(member.node))
        self._deadlines.clear(SuspicionEnds(member.node))
        self.set_state(now_s, member, DEAD)
        self.exiled += 1

    def present(self) -> int:
        """Nodes that may be there, this one included: the N of windows and rumours."""
        counts = self.counts
        return max(1, counts[ALIVE] + counts[SUSPECT] + counts[UNREACHABLE])

    def roster(self) -> int:
        """All that have not left, are not forgotten and not revoked. The dead stay in it: no quorum shrinks because nodes fall silent."""
        return sum(self.counts.values()) - self.counts[LEFT] - self.exiled

    def in_roster(self, node: NodeId) -> bool:
        if node == self.me:
            return True
        member = self._members.get(node)
        return member is not None and member.row.state != LEFT and member.alive is not None and not member.row.revoked

    def quorum(self) -> int:
        """H: how many distinct roster members must vote for a death."""
        roster = self.roster()
        if roster >= SMALL_MESH:
            return self.limits.roster_votes_max
        return min(self.limits.roster_votes_max, votes_needed(roster))

    def votes(self, member: Member) -> list[Signed]:
        """Those that count now, in order of voter, no more than H."""
        valid = [member.votes[voter] for voter in sorted(member.votes) if self.in_roster(voter)]
        return valid[: self.quorum()]

    # ---- links

    def link(self, now_s: float, member: Member, fresh: bool) -> None:
        """`fresh`: a new session with a process whose stamps start anew."""
        row = member.row
        if fresh:
            row.stamp_ms = row.echo_ms = 0
            row.stamp_at_s = float("-inf")
        row.linked = True
        member.heard_at_s = now_s
        member.armed = True
        member.load_version = -1
        if member.node not in self.linked:
            self.linked[member.node] = member
            self._names = None

    def unlink(self, member: Member) -> None:
        member.row.linked = False
        if self.linked.pop(member.node, None) is not None:
            self._names = None

    def linked_names(self) -> list[NodeId]:
        """Linked nodes in order of id. A cached list: do not change it."""
        if self._names is None:
            self._names = sorted(self.linked)
        return self._names

    # ---- timers

    def arm(self, member: Member, at_s: float) -> None:
        """Next step of watching. The time is kept, so that being late for it shows."""
        member.due_s = at_s
        self._deadlines.set(ProbeDue(member.node), at_s)

    def redial_cap_s(self, nodes: Iterable[NodeId]) -> float:
        """The longest gap between dials of an address that `nodes` gave as theirs. Dead ones share 5 dials a second, for ever."""
        states = [member.row.state for node in nodes if (member := self._members.get(node)) is not None]
        if ALIVE in states or SUSPECT in states:
            return self.limits.redial_max_s
        return max(self.limits.redial_max_s, (self.counts[DEAD] + self.counts[UNREACHABLE]) / 5)
