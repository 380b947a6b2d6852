"""What goes into the keeping machine, and the facts it exchanges with those that drive work. See `core/inputs.py`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mesh.effects import LogState
from mesh.ids import Hash, NodeId, TaskId
from mesh.messages.claims import Choice
from mesh.messages.keeping import Block

# ---- what is kept for others


@dataclass(slots=True)
class ShelfKnown:
    """Before `Started`: what this node has kept of the log of `author`, or of who led its own."""

    author: NodeId
    state: LogState


@dataclass(slots=True)
class Shelved:
    """What was asked for under `ticket` is on disk."""

    author: NodeId
    ticket: int


@dataclass(slots=True)
class ShelfRead:
    """Blocks in order, as `ReadShelf` asked; none: nothing is there any more."""

    token: int
    blocks: tuple[Block, ...]


@dataclass(slots=True)
class TaleRead:
    """Entries in order, with their bodies; `more`: others follow the last of them."""

    token: int
    rows: tuple[tuple[int, Any, dict[Hash, bytes]], ...]
    more: bool


# ---- facts about who drives whose work


@dataclass(slots=True)
class RolledBack:
    """The own disk was put back to an older image, in this life or an earlier one: what this node had promised it may have forgotten."""


@dataclass(slots=True)
class Leading:
    """This node drives what it has submitted, by a vote of those who keep its journal; but not the tasks up to entry `taken`: those were
    taken over by others."""

    taken: int


@dataclass(slots=True)
class Deposed:
    """Others have taken over this node's tasks up to entry `taken`, for good."""

    taken: int


@dataclass(slots=True)
class TaleTold:
    """This node was chosen in `term` to drive the tasks of `author`: the entries that tell about them, in order; `more` will follow."""

    author: NodeId
    term: int
    rows: tuple[tuple[int, Any, dict[Hash, bytes]], ...]
    more: bool


@dataclass(slots=True)
class CarriedOver:
    """All live tasks of that tale stand in this node's own journal, in so many entries, and are kept; the last task that `author` had
    submitted has these numbers."""

    author: NodeId
    term: int
    incarnation: int
    counter: int
    entries: int


@dataclass(slots=True)
class LogSettled:
    """Of the log of `author` all is safe up to `term`, and in these `terms` somebody took its tasks over. In any other term up to there
    nobody did, whatever had been prepared."""

    author: NodeId
    term: int
    terms: tuple[int, ...]


# ---- facts about keys


@dataclass(slots=True)
class ClaimWanted:
    """The task of `choice` stands in this node's journal, kept, and asks for `key`."""

    key: str
    choice: Choice


@dataclass(slots=True)
class ClaimDropped:
    """Nobody here asks for `key` any more."""

    key: str


@dataclass(slots=True)
class ClaimSettled:
    """`key` stands for the task of `choice`, as long as that one's record is kept."""

    key: str
    choice: Choice


@dataclass(slots=True)
class KeysMoved:
    """Keys are kept by others now, who know of no claim yet: those that stand are to be repeated."""


@dataclass(slots=True)
class KeysForgotten:
    """The records of these tasks are gone, and their keys with them."""

    keys: tuple[tuple[str, TaskId], ...]
