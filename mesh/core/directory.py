"""Who, where, offers, load: the one table that machines share. Membership writes it; work and records read it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

from mesh.ids import NodeId
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
    revoked: bool = False
    """Not believed any more, for good: dead, never dialled, never asked, and nothing it says is heard."""


class ReadDirectory(Protocol):
    """What work may ask. It never changes a row."""

    me: NodeId

    def get(self, node: NodeId) -> Row | None: ...

    def rows(self) -> Iterator[Row]: ...

    def offering(self, capability: str) -> list[Row]: ...

    def name_of(self, node: NodeId) -> str: ...

    def revoked(self, node: NodeId) -> bool: ...


class Directory:
    """Rows in order of node id, so that nothing depends on who was met first."""

    def __init__(self, me: NodeId, name: str = "") -> None:
        self.me = me
        self.trust = 0
        """Digest of the trust statements held here: rides in every PING, ACK and DIGEST."""
        self.outlaws: dict[NodeId, None] = {}
        """Revoked nodes, whether their rows are known or not."""
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

    def __len__(self) -> int:
        return len(self._rows)
