"""What those who look are told about keeping."""

from __future__ import annotations

from dataclasses import dataclass

from mesh.core.keeping.replica import LEADER, Replica
from mesh.ids import NodeId


@dataclass(frozen=True, slots=True)
class KeepingStatistics:
    """One moment of all logs that this node keeps, its own first among equals."""

    leads: bool
    term: int
    keepers: tuple[NodeId, ...]
    kept: int
    """Of the own journal: the last entry that a majority has."""
    lag: tuple[tuple[NodeId, int], ...]
    """Entries of the own journal that each keeper does not have yet."""
    logs: tuple[tuple[NodeId, int, int, str], ...]
    """``(author, term, entries, role)`` of every other log that is kept here."""
    takeovers: int
    lapsed: tuple[NodeId, ...] = ()
    """Authors in whose logs this node counts for nothing, as its disk was put back, until it is taken in anew."""


def look(own: Replica, others: list[Replica], takeovers: int) -> KeepingStatistics:
    """`others` in order of their authors."""
    lag = [(name, max(0, own.log.seq - peer.match[1])) for name, peer in sorted(own.peers.items())]
    return KeepingStatistics(
        leads=own.role == LEADER,
        term=own.term,
        keepers=own.log.keepers,
        kept=own.kept[1],
        lag=tuple(lag),
        logs=tuple((one.author, one.term, one.log.seq, one.role) for one in others),
        takeovers=takeovers,
        lapsed=tuple(one.author for one in (own, *others) if one.lapse),
    )
