"""Who guards whose journal: an author's log is replicated to its keepers, and handed to another when it is gone.

leader (the author, or who takes over)          keeper
  SHIP           --------------------->              blocks of the log, or none: then it only says that the leader lives
                 <---------------------  SHIPPED     they are on disk: acknowledgement, and the leader's own lease
candidate                                       keeper
  VOTE_ASK       --------------------->              first whether it would (`pre`), then for good
                 <---------------------  VOTE
taker            --TOOK-------------->  everybody

The messages are those of Raft (Ongaro and Ousterhout, 2014: AppendEntries and RequestVote, with the pre-vote of section 9.6).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from mesh.ids import NodeId
from mesh.messages.signed import Signed

Position = tuple[int, int]
"""``(term, seq)``: a place in one author's log. In a term only one node adds to it, so a position names one block, and all before it."""


@dataclass(slots=True)
class Yield:
    """From here on `taker` drives all that `author` had submitted up to entry `seq`: the tasks up to number `counter` of `incarnation`.

    Body of a signed object; in the log a block without entries. `ballots`: of the majority that chose him. `entries`: how many he carried
    into his own journal, also of what `author` had taken over from others.
    """

    author: NodeId
    term: int
    seq: int
    taker: NodeId
    incarnation: int = 0
    counter: int = 0
    ballots: tuple[Signed, ...] = ()
    entries: int = 0


@dataclass(slots=True)
class Block:
    """One commit of the author with its entries and their bodies, or a `Yield`."""

    term: int
    head: Signed
    entries: tuple[bytes, ...] = field(default=(), repr=False)
    bodies: tuple[bytes, ...] = field(default=(), repr=False)
    members: tuple[NodeId, ...] = ()
    """Who keeps the log from here on; empty: as before."""


@dataclass(slots=True)
class Ship:
    """What follows position ``(prev_term, prev_seq)`` in the log of `author`; all up to ``(kept_term, kept_seq)`` is safe for good."""

    author: NodeId
    term: int
    prev_term: int
    prev_seq: int
    kept_term: int
    kept_seq: int
    blocks: tuple[Block, ...] = ()
    stamp_ms: int = 0
    """On the sender's clock; comes back with SHIPPED, so that he knows from when on the keeper followed him."""
    had_term: int = 0
    had_seq: int = 0
    """The receiver has said in this term that it has all up to here: if it has not, its disk was put back."""
    lapse: int = 0
    """The receiver was made a member after it had named this lapse of its memory."""
    chains: tuple[bytes, ...] = field(default=(), repr=False)
    """Certificates of others who signed `blocks`: the receiver may never have met them. The wire adds them."""


@dataclass(slots=True)
class Shipped:
    """`ok`: all up to the position is on the sender's disk; else its log lacks the place where SHIP went on, and this is the nearest."""

    author: NodeId
    term: int
    ok: bool
    at_term: int
    at_seq: int
    stamp_ms: int = 0
    lapse: int = 0
    """Not 0: the sender has forgotten what it had promised, so this counts for nothing until it is made a member anew. Names the lapse."""


@dataclass(slots=True)
class VoteAsk:
    author: NodeId
    term: int
    last_term: int
    last_seq: int
    pre: bool = False


@dataclass(slots=True)
class Ballot:
    """`candidate` leads the log of `author` in `term`. Body of a signed object: a majority of them is the proof to show."""

    author: NodeId
    term: int
    candidate: NodeId


@dataclass(slots=True)
class Vote:
    """`term` is the sender's, or the one that was asked for if it is granted. `ballot`: one, if it is granted for good."""

    author: NodeId
    term: int
    granted: bool
    pre: bool = False
    ballot: tuple[Signed, ...] = ()


@dataclass(slots=True)
class Took:
    """For everybody: who may speak about whose work, and is to be asked.

    `yields`: what the sender has taken over, safe for good. `heirs`: who has taken over from the sender himself, as ``(incarnation,
    counter, term, taker)``. `settled`: of logs that he keeps, ``(author, term, terms)``: all is safe up to `term`, and in these `terms`
    somebody took it over, and in no other. `words`: who else has taken over, where neither he nor the author can say it any more, as
    ``(author, incarnation, counter, term, taker)``.
    """

    yields: tuple[Signed, ...]
    heirs: tuple[tuple[int, int, int, NodeId], ...] = ()
    settled: tuple[tuple[NodeId, int, tuple[int, ...]], ...] = ()
    words: tuple[tuple[NodeId, int, int, int, NodeId], ...] = ()
