"""One author's log as a keeper knows it: which term each entry stands in, who keeps it, and who has taken over what. No entry itself.

    term 1: author       term 2: author      term 3: heron            term 4: author
    |--- 1 .. 40 --------|--- 41 .. 90 ------| (takes all up to 90)   |--- 91 .. ---

Invariant: in one term one node adds to the log, so two logs that hold the same position ``(term, seq)`` are equal up to there. Entries have
the author's own journal numbers, continuous over all terms; a term in which somebody else led adds no entry, only its name.
Source: the Log Matching property of Raft.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from mesh.ids import NodeId
from mesh.messages.keeping import Position

START: Position = (0, 0)
"""Before everything."""


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
    """Empty at first: kept by its author alone."""

    def __init__(self, author: NodeId) -> None:
        self.author = author
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
    def voters(self) -> tuple[NodeId, ...]:
        """Whose majority decides: the members; but who has gone from alone to two still decides alone, as nobody could without him.

        A revoked member counts until a roster without it is kept: not all hear of it at once, and two majorities must always meet.
        """
        *earlier, newest = self.rosters
        alone = len(newest.members) == 2 and bool(earlier) and earlier[-1].members == (self.author,)
        return (self.author,) if alone else newest.members

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

    def taken_up_to(self, at: Position) -> int:
        """Number of the last entry that somebody has taken over, in what is safe up to `at`; 0: none."""
        return max((run.after for run in self.runs if run.leader != self.author and (run.term, run.after) <= at), default=0)
