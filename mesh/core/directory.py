"""Who, where, offers, load, and who drives whose work: the one table machines share. Membership and keeping write it; work reads it."""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from typing import Protocol

from mesh.core.coordination.seat import Seat
from mesh.core.policy.rules import Rulebook
from mesh.core.policy.steering import Steering
from mesh.ids import NodeId, TaskId, author_of, place_of
from mesh.limits import KeepingLimits
from mesh.messages.membership import LoadRow, Offer

ALIVE, SUSPECT, UNREACHABLE, DEAD, LEFT = "alive", "suspect", "unreachable", "dead", "left"


@dataclass(slots=True)
class Row:
    """All that this node knows of one node (itself included)."""

    node: NodeId
    name: str = ""
    state: str = ALIVE
    incarnation: int = 0
    version: int = 0
    door: str = ""
    router: str = ""
    offers: dict[str, Offer] = field(default_factory=dict)
    load: dict[str, LoadRow] = field(default_factory=dict)
    load_at_s: float = float("-inf")
    draining: bool = False
    """By its newest load: it takes no more work."""
    linked: bool = False
    stamp_ms: int = 0
    """Newest stamp heard from it, on its clock; 0: none in this session."""
    stamp_at_s: float = float("-inf")
    """When that stamp arrived, on our clock. A lease granted by echoing it is counted from here."""
    echo_ms: int = 0
    """Newest of our own stamps it has echoed."""
    changed_at_s: float = 0.0
    keeps: bool = True
    """May keep the journals of others."""
    revoked: bool = False
    """Not believed any more, for good: dead, never dialled, never asked, and nothing it says is heard."""


class ReadDirectory(Protocol):
    """What work may ask. It never changes a row."""

    me: NodeId

    origins: dict[TaskId, tuple[NodeId, tuple[str, ...]]]

    def get(self, node: NodeId) -> Row | None: ...

    def rows(self) -> Iterator[Row]: ...

    def offering(self, capability: str) -> list[Row]: ...

    def name_of(self, node: NodeId) -> str: ...

    def revoked(self, node: NodeId) -> bool: ...

    guard: Guard

    rulebook: Rulebook
    steering: Steering

    pinned: dict[TaskId, tuple[str, ...]]

    seat: Seat

    def manager_of(self, task: TaskId) -> NodeId: ...

    def may_manage(self, task: TaskId, node: NodeId) -> bool: ...

    def drivers_of(self, task: TaskId) -> list[NodeId]: ...

    def tellers_of(self, task: TaskId) -> list[NodeId]: ...

    def succeeds(self, manager: NodeId, heir: NodeId) -> bool: ...

    def taker_from(self, node: NodeId) -> NodeId: ...

    def taker_at(self, seq: int) -> NodeId: ...


@dataclass(slots=True)
class Guard:
    """Who keeps this node's own journal, as far as its work must know."""

    keepers: tuple[NodeId, ...] = ()
    """Others; empty: nobody, so that it ends with this node's disk."""
    led_until_s: float = float("inf")
    """No lease that is granted here may end later: until then a majority of the keepers is known to follow this node."""
    unled_since_s: float = float("inf")
    """From when on that has not been so; infinity: it is so."""
    leads: bool = True
    """This node drives what it has submitted. False: the keepers have not chosen it (again) yet."""
    taken: int = 0
    """At the start of this life: the last own entry whose tasks others have taken over."""
    behind: bool = False
    """The keepers have entries of this node that its disk does not hold, as it was put back. It drives nothing durable."""
    key_keepers: tuple[NodeId, ...] = ()
    """Who keeps the mesh's keys, as far as known here."""
    logs: Collection[NodeId] = ()
    """Whose logs, the own one included, this node keeps, or once kept."""
    cuts: Callable[[NodeId], tuple[int, ...]] = field(default=lambda _author: ())
    """Up to which entries of such a log others have taken it over, each time: what its author said later of what he had before is void."""
    yielded: Callable[[], int] = field(default=lambda: 0)
    """Up to which entry others have taken over this node's own log, safe for good; 0: nobody has."""


@dataclass(frozen=True, slots=True)
class Heir:
    """`taker` drives the tasks of an author up to number `counter` of `incarnation`, by a vote of `term`; (0, 0): only such as the author
    had taken over himself. `seq`: up to which entry of his journal, where this node is the author."""

    incarnation: int
    counter: int
    term: int
    taker: NodeId
    seq: int = 0


class Directory:
    """Rows in order of node id, so that nothing depends on who was met first."""

    def __init__(self, me: NodeId, name: str = "", heirs_max: int = KeepingLimits().heirs_max) -> None:
        self.me = me
        self._heirs_max = heirs_max
        self.trust = 0
        """Digest of the trust statements held here: rides in every PING, ACK and DIGEST."""
        self.outlaws: dict[NodeId, None] = {}
        """Revoked nodes, whether their rows are known or not."""
        self.guard = Guard()
        self.rulebook = Rulebook()
        """The mesh's policy that is in force. Written by `policy/register.py`."""
        self.seat = Seat()
        self.heirs: dict[NodeId, list[Heir]] = {}
        """By author, in order of their terms."""
        self.homes: dict[TaskId, NodeId] = {}
        """Who drives what is held here, whoever had taken it over before: he may have lost it again. Written by the contractor."""
        self.origins: dict[TaskId, tuple[NodeId, tuple[str, ...]]] = {}
        """Of what is held here: where the work was asked for, and the labels that all it asks for must be run with. By the contractor."""
        self.steering = Steering()
        """Flags and rollouts of the policy in force. Written by `policy/rolling.py`."""
        self.pinned: dict[TaskId, tuple[str, ...]] = {}
        """Of what is held here: the pins of the work that it belongs to. Written by the contractor."""
        self._rows: dict[NodeId, Row] = {me: Row(me, name or me, linked=True)}
        self._sorted: list[NodeId] | None = [me]
        self._offering: dict[str, list[Row]] = {}

    def get(self, node: NodeId) -> Row | None:
        return self._rows.get(node)

    def ensure(self, node: NodeId) -> Row:
        """The row of `node`, made if it was unknown."""
        row = self._rows.get(node)
        if row is None:
            row = self._rows[node] = Row(node, node, revoked=node in self.outlaws)
            self._sorted = None
        return row

    def forget(self, node: NodeId) -> None:
        if self._rows.pop(node, None):
            self._sorted = None
            self._offering.clear()

    def outlaw(self, node: NodeId) -> None:
        self.outlaws[node] = None
        row = self._rows.get(node)
        if row is not None:
            row.revoked = True

    def revoked(self, node: NodeId) -> bool:
        return node in self.outlaws

    def rows(self) -> Iterator[Row]:
        if self._sorted is None:
            self._sorted = sorted(self._rows)
        return map(self._rows.__getitem__, self._sorted)

    def set_offers(self, row: Row, offers: tuple[Offer, ...]) -> bool:
        """True if that changed anything."""
        fresh = {offer.capability: offer for offer in offers}
        if fresh == row.offers:
            return False
        row.offers = fresh
        self._offering.clear()
        return True

    def offering(self, capability: str) -> list[Row]:
        """Rows that offer it, whatever their state, in order of id. A cached list: do not change it."""
        found = self._offering.get(capability)
        if found is None:
            found = self._offering[capability] = [row for row in self.rows() if capability in row.offers]
        return found

    def name_of(self, node: NodeId) -> str:
        row = self._rows.get(node)
        return row.name if row else node

    def inherit(self, author: NodeId, heir: Heir) -> bool:
        """Note who took over; news may come in any order. False: known already."""
        known = self.heirs.setdefault(author, [])
        if any(other.term == heir.term for other in known):
            return False
        insort(known, heir, key=lambda one: one.term)
        del known[: -self._heirs_max]
        return True

    def settle(self, author: NodeId, term: int, terms: tuple[int, ...]) -> None:
        """Up to `term` somebody took over in these terms, and in no other."""
        left = [heir for heir in self.heirs.pop(author, ()) if heir.term > term or heir.term in terms]
        if left:
            self.heirs[author] = left

    def manager_of(self, task: TaskId) -> NodeId:
        """Whom to ask about it: its author, or who took over from him; and if that one is gone, who took over from him in turn."""
        if task in self.homes:
            return self.homes[task]
        author = author_of(task)
        manager = self._heir_of(task) or author
        seen = {author: None}
        while manager not in seen and manager in self.heirs and not self._is_here(manager):
            seen[manager] = None
            manager = self.heirs[manager][-1].taker
        return manager

    def _heir_of(self, task: TaskId) -> NodeId:
        """Who took it over from its author; "": nobody."""
        author, incarnation, counter = place_of(task)
        for heir in self.heirs.get(author, ()):
            if (incarnation, counter) <= (heir.incarnation, heir.counter):
                return heir.taker
        return ""

    def tellers_of(self, task: TaskId) -> list[NodeId]:
        """In whose journals it may have ended: its author's; if it was taken over, the taker's, and of whoever took over from him."""
        author, heir = author_of(task), self._heir_of(task)
        return list(dict.fromkeys([author, heir, *self._takers_after(heir)] if heir else [author]))

    def may_manage(self, task: TaskId, node: NodeId) -> bool:
        """Whether `node` may speak for it: its author, who took over from him, who took over from that one, and so on."""
        return node in self.drivers_of(task)

    def drivers_of(self, task: TaskId) -> list[NodeId]:
        """Who may ever have driven it, its author first."""
        author = author_of(task)
        return [author, *(taker for taker in self._takers_after(author) if taker != author)]

    def succeeds(self, manager: NodeId, heir: NodeId) -> bool:
        """Whether `heir` has taken over from `manager`, or from who had, and so on."""
        return heir in self._takers_after(manager)

    def _takers_after(self, node: NodeId) -> list[NodeId]:
        known: list[NodeId] = []
        todo = [node]
        for one in todo:
            fresh = [each.taker for each in self.heirs.get(one, ()) if each.taker not in known]
            known += fresh
            todo += fresh
        return known

    def taker_from(self, node: NodeId) -> NodeId:
        """Who took over from it last; "": nobody that is known here."""
        heirs = self.heirs.get(node)
        return heirs[-1].taker if heirs else ""

    def taker_at(self, seq: int) -> NodeId:
        """Who took over from this node what stands at `seq` in its journal; "": nobody that is known here."""
        return next((heir.taker for heir in self.heirs.get(self.me, ()) if seq <= heir.seq), "")

    def _is_here(self, node: NodeId) -> bool:
        row = self._rows.get(node)
        return row is not None and row.linked

    def __len__(self) -> int:
        return len(self._rows)
