"""Explorations worth a name: what they begin with, and how far they go."""

from __future__ import annotations

from typing import NamedTuple

from exploring.meeting import members
from exploring.member import Broken, Caller, Node
from exploring.packed import AUTHOR
from exploring.space import Bounds, Found, Space

ALL = (AUTHOR, "K1", "K2")


class Size(NamedTuple):
    bounds: Bounds
    keepers: tuple[str, ...] = ("K1", "K2")
    """Members at the beginning, besides the author; the third node is there all the same."""
    changes: tuple[tuple[str, ...], ...] = ()
    """Rosters that the author may try."""
    loose: bool = True
    slow: bool = False


SMALL = {
    "one election": Size(Bounds(campaigns=1, commits=1, crashes=0)),
    "a crash": Size(Bounds(campaigns=1, commits=0, crashes=1)),
    "a third joins": Size(Bounds(campaigns=1, commits=0, changes=1, crashes=0), keepers=("K1",), changes=((AUTHOR, "K1", "K2"),)),
    "an old disk": Size(Bounds(campaigns=1, commits=0, crashes=0, old_disks=1)),
}
"""Seconds."""

_REMOVED = ((AUTHOR, "K1"), (AUTHOR, "K2"))
FULL = {
    "asking first, places remembered": Size(Bounds(campaigns=0, commits=1, crashes=1), loose=False),
    "asking first": Size(Bounds(campaigns=1, commits=0, crashes=0), loose=False),
    "two elections, a commit, two crashes": Size(Bounds(campaigns=2, commits=1, crashes=2)),
    "one election, two commits, two crashes": Size(Bounds(campaigns=1, commits=2, crashes=2)),
    "three elections": Size(Bounds(campaigns=3, commits=0, crashes=0)),
    "one leaves": Size(Bounds(campaigns=2, commits=0, changes=1, crashes=0), changes=_REMOVED),
    "a third joins": Size(Bounds(campaigns=2, commits=0, changes=1, crashes=1), keepers=("K1",), changes=((AUTHOR, "K1", "K2"),)),
    "an old disk": Size(Bounds(campaigns=1, commits=1, crashes=0, old_disks=1)),
    "an old disk, and two elections": Size(Bounds(campaigns=2, commits=0, crashes=0, old_disks=1)),
    "two changes": Size(Bounds(campaigns=2, commits=0, changes=2, crashes=0), changes=((AUTHOR,), *_REMOVED, ALL)),
    "an old disk is taken in anew": Size(Bounds(campaigns=1, commits=0, changes=2, crashes=0, old_disks=1), changes=(*_REMOVED, ALL)),
}
"""Minutes."""


def explored(size: Size, states_max: int) -> Found:
    try:
        return space_of(size).explore(states_max)
    except Broken as broken:
        return Found(broken=f"before it began: {broken}")


def space_of(size: Size) -> Space:
    begun = members(Caller(batch=1), size.keepers)
    nodes = [begun.nodes.get(name, Node(name)) for name in ALL]
    return Space(tuple(nodes), begun.past, size.bounds, size.changes, Caller(batch=1, loose=size.loose, slow=size.slow))
