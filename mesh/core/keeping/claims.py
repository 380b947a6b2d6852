"""One key, one task, over the mesh: what a key keeper has promised and accepted, and the attempt of a claimant. Paxos, one decree per key.

    claimant   prepare(turn) --> keepers: promised, and what stands there          a majority: take the newest that stands there, or the own
               accept(turn, choice) --> keepers: accepted, unless a greater turn came between          a majority: settled, for good

Invariants (Paxos'): no turn is used for two choices; a keeper accepts nothing under what it has promised to heed; so what a majority has
accepted once is what every later attempt finds. Turns begin with the roster's number: what was accepted under an older roster is older
than all that is accepted under this one, however late it is found. Knows no time, no disk, no message's way. Source: Lamport, Paxos Made
Simple (2001); for the rosters (`keys.py`): Lamport, Malkhi and Zhou, Reconfiguring a State Machine (2010).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from mesh.ids import NodeId
from mesh.messages.claims import Cell, Choice, ClaimAnswer, Turn

NO_TURN: Turn = (0, 0, "")
NEXT = ""
"""The key of the roster itself: who keeps the keys next."""


def blank(key: str) -> Cell:
    return Cell(key, NO_TURN, NO_TURN, Choice())


def prepare(cell: Cell, turn: Turn) -> Cell | None:
    """What the keeper has then, if it promises; None: it has promised to heed only greater turns."""
    return Cell(cell.key, turn, cell.accepted, cell.choice) if turn >= cell.promised else None


def accept(cell: Cell, turn: Turn, choice: Choice) -> Cell | None:
    return Cell(cell.key, turn, turn, choice) if turn >= cell.promised else None


def merged(mine: Cell | None, other: Cell) -> Cell:
    """What a keeper has when it learns what stands at another: the newest of both."""
    if mine is None:
        return other
    newest = max(mine, other, key=lambda cell: cell.accepted)
    return Cell(mine.key, max(mine.promised, other.promised), newest.accepted, newest.choice)


@dataclass(slots=True)
class Attempt:
    """One claimant's claim of one key, turn after turn."""

    key: str
    own: Choice
    turn: Turn = NO_TURN
    proposed: Choice | None = None
    """None: promises are collected."""
    answers: dict[NodeId, ClaimAnswer] = field(default_factory=dict)
    seen: int = 0
    """The greatest number of a turn that was met."""
    tries: int = 0

    def begin(self, roster: int, number: int, who: str) -> None:
        """Another turn, with the least number from `number` on that is greater than what was met."""
        self.seen = max(self.seen + 1, number)
        self.turn, self.proposed = (roster, self.seen, who), None
        self.answers = {}
        self.tries += 1

    def on_answer(self, keeper: NodeId, answer: ClaimAnswer, members: tuple[NodeId, ...]) -> Choice | None:
        """What the key stands for, once that is certain. Afterwards `proposed` is what keepers are to be asked to accept, if anything."""
        self.seen = max(self.seen, answer.seen[1])
        if answer.turn != self.turn or keeper not in members or not answer.ok or answer.chosen != (self.proposed is not None):
            return None
        self.answers[keeper] = answer
        if 2 * len(self.answers) <= len(members):
            return None
        if self.proposed is not None:
            return self.proposed
        newest = max(self.answers.values(), key=lambda one: one.accepted)
        same = sum(one.accepted == newest.accepted for one in self.answers.values())
        # Accepted under this roster by a majority of it. (Under an older one it may have come here from a single keeper.)
        if newest.accepted[0] == self.turn[0] and 2 * same > len(members):
            return newest.choice[0]
        self.proposed = newest.choice[0] if newest.choice else self.own
        self.answers = {}
        return None
