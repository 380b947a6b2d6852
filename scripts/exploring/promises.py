"""What must hold, whatever happens. Judged from outside: from what is on disks, and from what leaders have ever believed.

- at most one leader a term
- log matching: two logs that hold a position are equal up to there
- leader completeness: what a leader held for kept is in the log of every leader of a greater term; nobody believes otherwise
- an acknowledged entry is on the disks of a majority of those who counted for it, for ever, but for disks that were put back
- in what is kept every entry of the author stands once, and has one owner from then on: himself, then at most one taker
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from exploring.member import Broken, Node
from exploring.packed import AUTHOR, Pieces, upto
from mesh.core.keeping.replica import LEADER


class Mark(NamedTuple):
    """A leader of `term` held `length` pieces for kept, counted among `members`, and where those were not settled, among those `before`."""

    term: int
    length: int
    members: tuple[str, ...]
    before: tuple[str, ...] = ()

    def is_held(self, holders: set[str]) -> bool:
        """Whether these are enough of them: a majority; and of two nobody decides without the author."""
        if len(self.members) == 2 and AUTHOR in holders and (not self.before or _majority(self.before, holders)):
            return True
        return _majority(self.members, holders)


class Past(NamedTuple):
    """What can be judged only by who remembers."""

    leaders: tuple[tuple[int, str], ...] = ()
    kept: Pieces = ()
    marks: tuple[Mark, ...] = ()


def remember(past: Past, node: Node) -> Past:
    """The past, and what this node believes now."""
    view = node.view
    if node.role == LEADER:
        past = _led(past, node, view)
    if node.kept == (0, 0):
        return past
    believed = upto(view, node.kept)
    if believed is None:
        raise Broken(f"{node.me} holds {node.kept} for kept, and has it not")
    shorter = min(len(believed), len(past.kept))
    if believed[:shorter] != past.kept[:shorter]:
        raise Broken(f"{node.me} holds {believed} for kept, and {past.kept} was")
    if node.role == LEADER:
        return _keeps(past, node, believed)
    if len(believed) > len(past.kept):
        raise Broken(f"{node.me} follows, and holds {node.kept} for kept, which no leader ever did")
    return past


def _led(past: Past, node: Node, view: Pieces) -> Past:
    before = dict(past.leaders)
    if before.get(node.term, node.me) != node.me:
        raise Broken(f"two leaders in term {node.term}: {before[node.term]} and {node.me}")
    for mark in past.marks:
        if mark.term < node.term and view[: mark.length] != past.kept[: mark.length]:
            raise Broken(f"{node.me} leads in term {node.term} without what was kept in {mark.term}: {past.kept[: mark.length]}")
    if node.term in before:
        return past
    return past._replace(leaders=tuple(sorted([*past.leaders, (node.term, node.me)])))


def _keeps(past: Past, node: Node, believed: Pieces) -> Past:
    if len(believed) <= max((mark.length for mark in past.marks if mark.term <= node.term), default=0):
        return past
    marks = [mark for mark in past.marks if mark.term != node.term]
    marks.append(Mark(node.term, len(believed), *_counted(node.view, len(past.kept))))
    if len(believed) > len(past.kept):
        _one_owner(past.kept, believed)
        past = past._replace(kept=believed)
    return past._replace(marks=tuple(sorted(marks)))


def _counted(view: Pieces, kept: int) -> tuple[tuple[str, ...], ...]:
    """The newest members; and those before them, unless the newest were kept before."""
    rosters = [(0, (AUTHOR,)), *[(number, piece.members) for number, piece in enumerate(view, 1) if piece.members]]
    (_, before), (at, newest) = ((0, ()), *rosters)[-2:]
    return (newest,) if at <= kept else (newest, before)


def _majority(members: tuple[str, ...], holders: set[str]) -> bool:
    return 2 * len(holders.intersection(members)) > len(members)


def owners(kept: Pieces) -> dict[int, tuple[int, str]]:
    """Entry number -> the term it stands in, and who has taken it over."""
    owner: dict[int, tuple[int, str]] = {}
    for piece in kept:
        if piece.first:
            owner.update((number, (piece.term, AUTHOR)) for number in range(piece.first, piece.last + 1))
            continue
        owner.update((number, (term, piece.leader)) for number, (term, who) in owner.items() if who == AUTHOR and number <= piece.last)
    return owner


def _one_owner(before: Pieces, after: Pieces) -> None:
    then, now = owners(before), owners(after)
    for number, (term, who) in then.items():
        if now.get(number) is None or now[number][0] != term or who not in (AUTHOR, now[number][1]):
            raise Broken(f"entry {number} was kept in term {term} and {who}'s; now it is {now.get(number)}")


def well_formed(view: Pieces) -> None:
    """Entries follow each other, terms grow, one leader adds in a term, and who takes over names all there is."""
    seq = term = 0
    leaders: dict[int, str] = {}
    for piece in view:
        follows = piece.first == seq + 1 if piece.first else piece.last == seq and piece.term > term
        if not follows or piece.term < term or leaders.setdefault(piece.term, piece.leader) != piece.leader:
            raise Broken(f"{piece} does not follow in {view}")
        seq, term = piece.last, piece.term


def match(one: Pieces, other: Pieces) -> None:
    """Log matching."""
    common = {piece.at for piece in other}
    last = next((number for number in range(len(one), 0, -1) if one[number - 1].at in common), 0)
    if last and one[:last] != upto(other, one[last - 1].at):
        raise Broken(f"two logs hold {one[last - 1].at} and differ before: {one} and {other}")


def safe(past: Past, disks: Sequence[tuple[str, Pieces, bool]]) -> None:
    """What was acknowledged is still on the disks of a majority of those who counted. Third: it was put back to an older image once."""
    for mark in past.marks:
        kept = past.kept[: mark.length]
        holders = {name for name, disk, old in disks if old or disk[: mark.length] == kept}
        if not mark.is_held(holders):
            raise Broken(f"{kept} was kept in term {mark.term} by enough of {mark.members}, and is on the disks of {sorted(holders)}")
