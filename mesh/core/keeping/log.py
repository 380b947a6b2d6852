"""One author's log as a keeper knows it: which term each entry stands in, who keeps it, and who has taken over what. No entry itself.

    term 1: author       term 2: author      term 3: heron            term 4: author
    |--- 1 .. 40 --------|--- 41 .. 90 ------| (takes all up to 90)   |--- 91 .. ---

Invariant: in one term one node adds to the log, so two logs that hold the same position ``(term, seq)`` are equal up to there. Entries have
the author's own journal numbers, continuous over all terms; a term in which somebody else led adds no entry, only its name.
Source: the Log Matching property of Raft.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass
from typing import TypeVar

from mesh.ids import NodeId
from mesh.messages.keeping import Position

START: Position = (0, 0)
"""Before everything."""


Reach = TypeVar("Reach", Position, float)


@dataclass(frozen=True, slots=True)
class Run:
    """In `term`, `leader` added entries after number `after`; another than the author adds none."""

    term: int
    after: int
    leader: NodeId


@dataclass(frozen=True, slots=True)
class Roster:
    """From position `at` on, `members` keep the log."""

    at: Position
    members: tuple[NodeId, ...]


class Log:
    """Empty at first: kept by its author alone. `outlaws`: revoked nodes, as far as known here."""

    def __init__(self, author: NodeId, outlaws: Container[NodeId] = ()) -> None:
        self.author, self._outlaws = author, outlaws
        self.seq = 0
        """Number of the last entry."""
        self.runs: list[Run] = []
        self.rosters: list[Roster] = [Roster(START, (author,))]

    @property
    def last(self) -> Position:
        return (self.runs[-1].term, self.seq) if self.runs else START

    @property
    def members(self) -> tuple[NodeId, ...]:
        """Of the newest roster, be it safe already or not: so Raft counts its majorities."""
        return self.rosters[-1].members

    @property
    def electors(self) -> tuple[NodeId, ...]:
        """All whose word may count: the members; and of two, or with a revoked one among them, those of the roster before."""
        members = self.members
        if len(self.rosters) > 1 and (len(members) == 2 or self._outlaw()):
            return tuple(dict.fromkeys((*members, *self.rosters[-2].members)))
        return members

    def _outlaw(self) -> bool:
        return sum(member in self._outlaws for member in self.members) == 1

    def decides(self, who: Container[NodeId], *, settled: bool = False) -> bool:
        """Whether these are enough: a majority of the members.

        Of two members none decides without the author. So he is enough, once that there are but two is safe (`settled`); and before,
        with a majority of the roster before, as those could still decide without him. And if one member is revoked, a majority of the
        others together with one of the roster before is enough, too. Not all hear of a revocation at once: any two such sets meet.
        """
        *earlier, newest = self.rosters
        if _majority(newest.members, who):
            return True
        before = settled or (bool(earlier) and _majority(earlier[-1].members, who))
        if len(newest.members) == 2 and self.author in who:
            return before
        believed = tuple(member for member in newest.members if member not in self._outlaws)
        return self._outlaw() and _majority(believed, who) and bool(earlier) and _majority(earlier[-1].members, who)

    def reached(self, by: Callable[[NodeId], Reach], *, settled: bool = False) -> Reach:
        """The most that enough of them to decide have reached."""
        by_elector = {elector: by(elector) for elector in self.electors}
        reaches = sorted(by_elector.values(), reverse=True)
        return next(reach for reach in reaches if self.decides([one for one, own in by_elector.items() if own >= reach], settled=settled))

    @property
    def keepers(self) -> tuple[NodeId, ...]:
        """The members but the author."""
        return tuple(member for member in self.members if member != self.author)

    def _ends(self) -> Iterator[tuple[Run, int]]:
        """Each run and the number of its last entry; of one in which somebody took over, the number up to which he did."""
        for number, run in enumerate(self.runs):
            yield run, self.runs[number + 1].after if number + 1 < len(self.runs) else self.seq

    def has(self, at: Position) -> bool:
        """True if that position is in this log."""
        term, seq = at
        if at == START:
            return True
        return any(run.term == term and (run.after < seq <= end or (seq == end and run.leader != self.author)) for run, end in self._ends())

    def floor(self, at: Position) -> Position:
        """The newest position here that is not after `at`: where a log that ends with `at` may still be equal to this one."""
        term, seq = at
        found = START
        for run, end in self._ends():
            if run.term > term or run.after > seq:
                break
            reach = min(end, seq)
            if reach > run.after or run.leader != self.author:
                found = (run.term, reach)
        return found

    def run_after(self, at: Position) -> tuple[Run, int] | None:
        """The run that adds what follows `at`, and its last number; None: nothing follows."""
        return next(((run, end) for run, end in self._ends() if (run.term, end) > at), None)

    def append(self, term: int, leader: NodeId, seq: int, members: tuple[NodeId, ...] = ()) -> None:
        """A block of `leader` that ends with entry `seq`."""
        assert term >= self.last[0] and seq >= self.seq, f"{(term, seq)} does not follow {self.last}"
        if not self.runs or self.runs[-1].term != term:
            self.runs.append(Run(term, self.seq, leader))
        self.seq = seq
        if members:
            self.rosters.append(Roster((term, seq), members))

    def truncate(self, at: Position) -> None:
        """Forget all that follows `at`, which must be here."""
        assert self.has(at), f"{at} is not in the log"
        term, self.seq = at
        self.runs = [run for run in self.runs if run.term <= term]
        self.rosters = [roster for roster in self.rosters if roster.at <= at] or self.rosters[:1]

    def contested(self) -> bool:
        """Whether another than the author was ever chosen to lead it, or may have been: a term is missing."""
        return any(run.leader != self.author for run in self.runs) or self.last[0] != len(self.runs)

    def cuts(self, at: Position) -> tuple[int, ...]:
        """Up to which entries somebody has taken it over, each time, in what is safe up to `at`."""
        return tuple(run.after for run in self.runs if run.leader != self.author and (run.term, run.after) <= at)

    def taken_up_to(self, at: Position) -> int:
        """Number of the last entry that somebody has taken over, in what is safe up to `at`; 0: none."""
        return max(self.cuts(at), default=0)


def _majority(members: tuple[NodeId, ...], who: Container[NodeId]) -> bool:
    return 2 * sum(member in who for member in members) > len(members)
