"""What a core asks its caller to do. Values, in order; the order of one turn's effects is part of the contract.

Every outward effect says what it needs of the disk (`need`) and carries `after`, the last journal number it depends on. The node fills
`after` in; `core/outbox.py` holds the effect until that number is synced. Nothing else waits.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Any

from mesh.ids import NO_BAGGAGE, Baggage, Fence, Hash, NodeId, TaskId


class Need(enum.IntEnum):
    """How much of the journal must be safe before an effect may leave."""

    FREE = 0
    """Nothing: probes, gossip, every message of a plain call."""
    SYNCED = 1
    """The author's own disk has it."""
    KEPT = 2
    """A majority of the author's keepers have it; the same as SYNCED while there are none."""


@dataclass(slots=True)
class Effect:
    """Base of all outward effects."""

    need: Need = field(default=Need.SYNCED, kw_only=True)
    after: int = field(default=0, kw_only=True)


@dataclass(slots=True)
class Append:
    """Write `entry` to this node's journal. It gets the next number. `bodies` are stored beside the chain by their content hash."""

    entry: Any
    bodies: dict[Hash, bytes] = field(default_factory=dict)
    seq: int = field(default=0, compare=False)
    """The number it got: known to who yielded it, as soon as he goes on."""
    lazy: bool = False
    """Nothing follows from it: it may be written with the next entry that something waits for, or soon (`core/company.py`)."""


@dataclass(slots=True)
class Tell:
    """A fact for the other machines of this node (see `core/inputs.py`). Never leaves the node."""

    fact: Any


@dataclass(slots=True)
class Refused:
    """A bad or unlucky input was turned down; counted under `reason` (snake_case), never raised."""

    reason: str
    peer: NodeId = ""


@dataclass(slots=True)
class Send(Effect):
    """Give `message` to the link to `to`. Sent to oneself, it is routed inside the node at once."""

    to: NodeId
    message: Any


@dataclass(slots=True)
class Dial(Effect):
    """Say HELLO at the door `address` (``host:port``). Ends as `LinkUp` or `DialFailed`."""

    address: str


@dataclass(slots=True)
class Uphold(Effect):
    """Enforce a trust statement and keep it on disk: keys, links, door. Ends as `Outlawed` for each node that it concerns."""

    signed: Any


@dataclass(slots=True)
class HangUp(Effect):
    """Close the link to `peer`, if there is one."""

    peer: NodeId


@dataclass(slots=True)
class Reply(Effect):
    """The answer to a local client's command, JSON-able. `ok` False: `body` is an error ``{code, message, fix}``."""

    request: int
    ok: bool
    body: dict[str, Any]


@dataclass(slots=True)
class Execute(Effect):
    """Run a handler in an attached worker. Ends as `HandlerEnded`. `lease_end_ms` is on this machine's clock."""

    worker: int
    task: TaskId
    fence: Fence
    capability: str
    input: bytes
    lease_end_ms: int
    timeout_ms: int = 0
    parent: TaskId = ""
    attempt: int = 1
    checkpoint: bytes = b""
    """What an earlier attempt kept, JSON; empty: nothing."""
    stream: bool = False
    skip: int = 0
    """As in `AwardItem`."""
    rank: tuple[int, str] = (0, "")
    """As in `AwardItem`: what this work asks for inherits it."""
    limited: bool = False
    """Its worker stops it when its lease has ended: so many run over the whole mesh, and no more."""
    budgets: tuple[str, ...] = ()
    pins: tuple[str, ...] = ()
    """As in `AwardItem`."""

    baggage: Baggage = NO_BAGGAGE

    def row(self) -> list[Any]:
        """As a worker is told it."""
        what = [self.task, self.fence, self.capability, self.input, self.lease_end_ms, self.timeout_ms, self.parent, self.attempt]
        how = [self.checkpoint, self.stream, self.skip, list(self.rank), self.limited, list(self.budgets), list(self.pins)]
        return [*what, *how, [list(one) for one in self.baggage]]


@dataclass(slots=True)
class Extend(Effect):
    """Tell a worker that leases were renewed: ``(task, fence, lease_end_ms)``."""

    worker: int
    items: tuple[tuple[TaskId, Fence, int], ...]


@dataclass(slots=True)
class Credit(Effect):
    """Tell a worker how far the reader of a stream is, as in `Taken`."""

    worker: int
    task: TaskId
    fence: Fence
    upto: int
    again: bool


@dataclass(slots=True)
class Stop(Effect):
    """Cancel a running handler. Ends as `HandlerEnded` with outcome ``cancelled``, or `WorkerGone`."""

    worker: int
    task: TaskId
    fence: Fence
    reason: str


@dataclass(slots=True)
class Price(Effect):
    """Ask a worker's ``@agent.bid`` function for its price. Ends as `Priced`."""

    worker: int
    round: int
    task: TaskId
    capability: str
    input: bytes


@dataclass(slots=True)
class ReadFile(Effect):
    """Read a piece of a stored file for `to`. Ends as `FileRead`."""

    to: NodeId
    file: Hash
    offset: int
    size: int


@dataclass(slots=True)
class WriteFile(Effect):
    """Write a piece of a file that is being fetched; `last` makes the caller check the hash. Ends, after the last, as `FileSealed`."""

    file: Hash
    offset: int
    data: bytes
    last: bool = False


@dataclass(slots=True)
class ReadBody(Effect):
    """Read a body by its hash from the store. Ends as `BodyRead(token, data)`; None where it is unknown or erased."""

    token: int
    hash: Hash


@dataclass(slots=True)
class ReadStory(Effect):
    """Read the entries that tell about `key` (a task and its children, or a file hash) with proofs. Ends as `StoryRead`."""

    token: int
    question: str
    key: str
    since: int = 0
    """Only entries after this journal number: the next page of a long story."""
    newest: int = 0
    """Of the question ``audit``: at most so many, the newest; 0: all."""


@dataclass(slots=True)
class FindOpen(Effect):
    """Find out which of this node's entries are still needed, from the newest `Summed` on. Ends as `OpenFound`.

    `taken`: what was submitted up to that entry others drive, for good.
    """

    taken: int


@dataclass(slots=True)
class Remember(Effect):
    """Keep the newest heads of other authors (`Signed`), proofs of forks (`Fork`) and co-signatures of the own journal (`Signed`) on disk,
    lazily: the next life's `Remembered`."""

    heads: tuple[Any, ...] = ()
    forks: tuple[Any, ...] = ()
    witnesses: tuple[Any, ...] = ()
    soon: bool = False
    """Not lazily: something will be said that rests on it."""


@dataclass(slots=True)
class Watermark(Effect):
    """The own journal is kept, by a majority of those who shall keep it, up to entry `kept`: what needs that may leave. -1: nobody but this
    node keeps it, so that what is synced is kept. `taken`: others drive what was submitted up to there; messages that wait never leave."""

    kept: int
    taken: int = 0
    lost: bool = False
    """The own disk was put back: nothing that waits now is ever kept, and clients hear so."""


@dataclass(slots=True)
class Later(Effect):
    """Feed `fact` back to this node when its need is met."""

    fact: Any


@dataclass(frozen=True, slots=True)
class LogState:
    """What a node knows for good of one author's log, beside its blocks: ``runs`` are ``(term, after, leader)``, `rosters` ``(term, seq,
    members)``; `seq` is the last entry's number."""

    term: int = 0
    voted: NodeId = ""
    runs: tuple[tuple[int, int, NodeId], ...] = ()
    rosters: tuple[tuple[int, int, tuple[NodeId, ...]], ...] = ()
    seq: int = 0


@dataclass(slots=True)
class Shelve(Effect):
    """Have on disk, in this order: `state` in place of what was known of `author`'s log; none of its blocks after position `cut`, if one is
    given; `blocks`. Of the own log only what others added is given. Ends as `Shelved(author, ticket)`, in the order of asking."""

    author: NodeId
    ticket: int
    state: LogState
    cut: tuple[int, int] | None = None
    blocks: tuple[Any, ...] = ()


@dataclass(slots=True)
class ReadShelf(Effect):
    """Read the blocks of `author`'s log after position `since` and up to `until`, as many as fit into `bytes_max`, at least one. Ends as
    `ShelfRead`. Of the own log: the commits of the journal in that range of entries, as blocks of the term of `until`."""

    token: int
    author: NodeId
    since: tuple[int, int]
    until: tuple[int, int]
    bytes_max: int


@dataclass(slots=True)
class ReadTale(Effect):
    """Read the entries of `author`'s shelved log with numbers after `since`, at most `entries_max`. Ends as `TaleRead`.

    `about`: only commits in which one of these tasks is named need be read; empty: all.
    """

    token: int
    author: NodeId
    since: int
    entries_max: int
    about: tuple[TaskId, ...] = ()
