"""Which task a key stands for, over the whole mesh: a claim of it is accepted by a majority of the key keepers.

claimant                                      key keeper
  CLAIM_ASK     --------------------->             first for a promise, then with the task
                <---------------------  CLAIM_ANSWER
  KEYS_FREE     --------------------->             the task's record is gone: the key is free again
new key keeper                                key keeper of the roster before
  KEYS_ASK      --------------------->             what was claimed there? From then on it refuses the roster before
                <---------------------  KEYS_TOLD
  KEYS_NEWS     --everybody, with each link-->     who keeps the keys; nothing before the first key is asked for

A claim is single-decree Paxos per key (Lamport, Paxos Made Simple, 2001): CLAIM_ASK is its prepare and its accept.
"""

from __future__ import annotations

from dataclasses import dataclass

from mesh.ids import Hash, NodeId, TaskId

Turn = tuple[int, int, str]
"""``(roster, number, who)``: Paxos' ballot. Greater ones overrule; none is used twice."""


@dataclass(slots=True)
class Choice:
    """What a key stands for: `task`, which is to do `work` (a hash over capability and arguments). Of a roster: who keeps the keys next;
    nobody: they go to the keepers of another realm."""

    task: TaskId = ""
    work: Hash = ""
    members: tuple[NodeId, ...] = ()


@dataclass(slots=True)
class KeyRoster:
    """`members` keep the keys, by a vote of those `before`. A realm is a line of such rosters, named after who began it."""

    realm: str
    number: int
    members: tuple[NodeId, ...]
    before: tuple[NodeId, ...] = ()


@dataclass(slots=True)
class KeysNews:
    """The newest roster the sender knows; none: it knows of none."""

    roster: tuple[KeyRoster, ...] = ()
    asks: bool = False
    """A key is asked for: what does the receiver know?"""


@dataclass(slots=True)
class ClaimAsk:
    """To a key keeper under that roster. Without `choice`: promise to hear no lesser turn. `key` "" is the roster itself: who is next."""

    realm: str
    key: str
    turn: Turn
    choice: tuple[Choice, ...] = ()


@dataclass(slots=True)
class ClaimAnswer:
    """`ok`: promised, or accepted, and on disk. `seen`: the greatest turn that was promised. `accepted` and `choice`: what stands there."""

    realm: str
    key: str
    turn: Turn
    ok: bool
    seen: Turn
    accepted: Turn
    choice: tuple[Choice, ...] = ()
    chosen: bool = False
    """Answers the second question."""


@dataclass(slots=True)
class KeysAsk:
    """By a member of `roster`: the claims with keys after `after` that stand where the roster before was kept."""

    roster: KeyRoster
    after: str = ""


@dataclass(slots=True)
class Cell:
    """One key at one keeper: the greatest turn it has promised to heed, and what it has accepted in which turn."""

    key: str
    promised: Turn
    accepted: Turn
    choice: Choice


@dataclass(slots=True)
class KeysTold:
    """What stands at the sender, after key `after`, for a member of roster `number`; `more`: others follow the last of them."""

    realm: str
    number: int
    after: str
    cells: tuple[Cell, ...]
    more: bool = False


@dataclass(slots=True)
class KeysFree:
    """Keys and their tasks, whose records are gone."""

    keys: tuple[tuple[str, TaskId], ...]
