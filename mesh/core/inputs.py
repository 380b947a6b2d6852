"""What goes into a machine besides messages: commands, completions and facts. Deadlines are in `core/deadlines.py`.

A *command* is what a local client or the runtime asks. A *completion* is the end of an effect. A *fact* is told by one machine to the rest.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from mesh.ids import NO_BAGGAGE, UNRANKED, Baggage, Fence, Hash, NodeId, Rank, TaskId
from mesh.messages.membership import Offer
from mesh.messages.records import Fork
from mesh.messages.signed import Signed
from mesh.messages.work import ANYWHERE, UNBOUNDED, Amounts, Bounds, Placement

# ---- the node itself


@dataclass(slots=True)
class Started:
    """The first input of a life, after the last `Replay`: open the segment, dial the seeds."""

    seeds: tuple[str, ...] = ()


@dataclass(slots=True)
class Replay:
    """One entry of this node's own journal, fed in order before `Started`. Machines rebuild and yield nothing."""

    seq: int
    entry: Any
    bodies: dict[Hash, bytes] = field(default_factory=dict)


@dataclass(slots=True)
class TurnEnds:
    """All that arrived together has been handled: say once what was collected (accepts, acknowledgements)."""


@dataclass(slots=True)
class Leave:
    """The user takes this node out: say LEFT, release work that has not started. `request` is answered when said."""

    request: int


@dataclass(slots=True)
class Drain:
    """Take no more work, give back what has not started (`undo`: no more). Answered when nothing runs, or after `wait_ms`."""

    request: int
    wait_ms: int = 0
    undo: bool = False


# ---- links (completions of Dial, and what the links see)


@dataclass(slots=True)
class Found:
    """Discovery or a peer cache names a door. A hint: dialled, never believed."""

    address: str


@dataclass(slots=True)
class LinkUp:
    """A verified session exists in both directions; `alive` is the peer's own signed row. `sender` is the peer."""

    alive: Signed


@dataclass(slots=True)
class LinkDown:
    """The connection to the sender ended. `refused`: our own connect was refused, hard evidence of a dead process."""

    refused: bool = False


@dataclass(slots=True)
class DialFailed:
    """HELLO at `address` failed. `reason`: ``refused``, ``timeout``, ``other_mesh``, ``bad_certificate``, ``self``, ..."""

    address: str
    reason: str


@dataclass(slots=True)
class Heard:
    """One verified envelope came from the sender. `stamp_ms` is on the sender's clock, `echo_ms` on ours (0: none yet)."""

    stamp_ms: int
    echo_ms: int


# ---- clients


@dataclass(slots=True)
class Call:
    """A plain call: waits and dies with its caller. Answered by ``{"task", "state", "output": bytes, "error"}``."""

    request: int
    capability: str
    input: bytes
    timeout_ms: int = 0
    parent: TaskId = ""
    files: tuple[tuple[Hash, int], ...] = ()
    stream: bool = False
    """Its items are read by `StreamNext` while it lasts."""
    bounds: Bounds = UNBOUNDED
    placement: Placement = ANYWHERE
    rank: Rank = UNRANKED
    budget: Amounts = ()
    baggage: Baggage = NO_BAGGAGE


@dataclass(slots=True)
class StreamNext:
    """The reader of the streaming call `of` has taken the items up to `after`, and waits for more. `epoch`: that he knows. Answered
    by ``{"epoch", "attempt", "items": [bytes]}`` (another `epoch`: the stream began anew, from item 1), at its end ``{"end": True}``."""

    request: int
    of: int
    after: int
    epoch: int = 0


@dataclass(slots=True)
class Submit:
    """A durable task. Answered, once kept, by ``{"task", "survives"}``. With a `key`: by the one task that this key stands for."""

    request: int
    capability: str
    input: bytes
    timeout_ms: int = 0
    retries: int = -1
    files: tuple[tuple[Hash, int], ...] = ()
    by: str = ""
    bounds: Bounds = UNBOUNDED
    key: str = ""
    placement: Placement = ANYWHERE
    rank: Rank = UNRANKED
    budget: Amounts = ()
    baggage: Baggage = NO_BAGGAGE


@dataclass(slots=True)
class Step:
    """A worker's ``ctx.step``: a child of `parent`, named; goes to the parent's manager. Answered like `Call`, with the child's id."""

    request: int
    parent: TaskId
    fence: Fence
    name: str
    capability: str
    input: bytes
    timeout_ms: int = 0
    files: tuple[tuple[Hash, int], ...] = ()
    bounds: Bounds = UNBOUNDED
    rank: Rank = UNRANKED
    placement: Placement = ANYWHERE
    retries: int = -1
    budget: Amounts = ()
    baggage: Baggage = NO_BAGGAGE


@dataclass(slots=True)
class Enquire:
    """A client's question about the mesh's work, answered by whoever can: see `core/work/desk.py` for the questions."""

    request: int
    question: str
    key: str = ""
    args: dict[str, Any] = field(default_factory=dict)
    words: tuple[Signed, ...] = ()


@dataclass(slots=True)
class RequestGone:
    """The client behind `request` hung up: a plain call is cancelled, a wait is forgotten."""

    request: int


# ---- workers


@dataclass(slots=True)
class WorkerAttached:
    """A worker process registered its capabilities, and says what it still runs from before."""

    worker: int
    pid: int
    agent: str
    offers: tuple[Offer, ...]
    concurrency: int
    running: tuple[tuple[TaskId, Fence], ...] = ()
    labels: tuple[str, ...] = ()
    resources: tuple[tuple[str, int], ...] = ()
    """What its machine has, as it says, in thousandths."""


@dataclass(slots=True)
class WorkerGone:
    """The worker's connection ended or its pid is gone; what it ran is lost."""

    worker: int
    pid: int


@dataclass(slots=True)
class HandlerStarted:
    worker: int
    task: TaskId
    fence: Fence


@dataclass(slots=True)
class HandlerProgress:
    worker: int
    task: TaskId
    fence: Fence
    fraction: float
    note: str


@dataclass(slots=True)
class HandlerSaid:
    """What a handler printed and logged: ``(Unix time in ms, stdout | stderr | log, text)``. `dropped` lines before them were too many."""

    worker: int
    task: TaskId
    fence: Fence
    attempt: int
    lines: tuple[tuple[int, str, str], ...]
    dropped: int = 0


@dataclass(slots=True)
class HandlerItems:
    """Items of a streaming handler, as in `Items`."""

    worker: int
    task: TaskId
    fence: Fence
    first: int
    items: tuple[bytes, ...]
    last: bool = False


@dataclass(slots=True)
class HandlerWaits:
    """While a handler waits for a step or a call of its own it needs no slot: what it waits for may need that very one."""

    worker: int
    task: TaskId
    fence: Fence
    waits: bool


@dataclass(slots=True)
class HandlerEnded:
    """`outcome`: ``ok`` (output is JSON bytes), ``error`` (error is set), ``cancelled``, ``timeout``, ``worker_lost`` (process died)."""

    worker: int
    task: TaskId
    fence: Fence
    outcome: str
    output: bytes = b""
    files: tuple[tuple[Hash, int], ...] = ()
    error: dict[str, Any] = field(default_factory=dict)
    service_ms: int = 0


@dataclass(slots=True)
class Priced:
    """`cost` None: the agent declines this work."""

    worker: int
    round: int
    task: TaskId
    cost: float | None
    eta_ms: int | None = None


# ---- trust


@dataclass(slots=True)
class RowChanged:
    """This node listens at another ROUTER address, or shows another chain, than before; empty: as before. Its row says so from now on."""

    router: str = ""
    certificate: bytes = b""


@dataclass(slots=True)
class Proclaim:
    """A trust statement (a revocation, an amendment) was made here, or kept from an earlier life: hold it and tell everybody."""

    signed: Signed


@dataclass(slots=True)
class Outlawed:
    """A statement was upheld: `node` is not believed any more. Told by the runtime, which knows whose certificates hang together."""

    node: NodeId
    reason: str = ""


@dataclass(slots=True)
class KeyReplaced:
    """This node signs with `new_key` from now on; `proof` is the old key's word for it. For the journal."""

    old_key: bytes
    new_key: bytes
    proof: bytes
    at_ms: int = 0


@dataclass(slots=True)
class Audit:
    """Something security depends on happened in the runtime: to be put on record as `Audited`."""

    what: str
    about: str
    by: str
    note: str = ""
    at_ms: int = 0


# ---- disk


@dataclass(slots=True)
class FileRead:
    """A piece of a stored file, or None where it is not stored. `total` is the file's size in bytes."""

    to: NodeId
    file: Hash
    offset: int
    total: int
    data: bytes | None


@dataclass(slots=True)
class FileSealed:
    """A fetched file is stored whole and its hash is right (`ok`), or the bytes were wrong and are gone."""

    file: Hash
    ok: bool


@dataclass(slots=True)
class FileKnown:
    """A file came into this node's store by itself: put by a client or made by a handler."""

    file: Hash
    size: int


@dataclass(slots=True)
class BodyRead:
    token: int
    data: bytes | None


@dataclass(slots=True)
class StoryRead:
    """Entries with their proofs, packed by the store, for whoever asked with `token`."""

    token: int
    body: bytes


# ---- facts


@dataclass(slots=True)
class MemberAlive:
    """Known, linked or not; may be suspected no longer."""

    node: NodeId


@dataclass(slots=True)
class MemberLinked:
    """A session exists: messages to `node` can leave now."""

    node: NodeId


@dataclass(slots=True)
class MemberSuspected:
    node: NodeId
    hard: bool
    """Own connect refused: the process is gone, though nobody has agreed on it yet."""


@dataclass(slots=True)
class MemberUnreachable:
    node: NodeId


@dataclass(slots=True)
class MemberDied:
    node: NodeId


@dataclass(slots=True)
class MemberLeft:
    node: NodeId


@dataclass(slots=True)
class MemberRevoked:
    """`node` is not believed any more, ever: nothing it says counts, and what it holds is given to others."""

    node: NodeId


@dataclass(slots=True)
class MemberRestarted:
    """A larger incarnation of `node` was seen: what it held in memory is gone."""

    node: NodeId
    incarnation: int


@dataclass(slots=True)
class OffersChanged:
    """`node` (this one included) offers other capabilities than before."""

    node: NodeId


@dataclass(slots=True)
class OffersSet:
    """This node's own offers, told by the contractor to membership, which advertises them."""

    offers: tuple[Offer, ...]


@dataclass(slots=True)
class FileFetched:
    """The file is here (`ok`) or no known source gives it."""

    file: Hash
    ok: bool


@dataclass(slots=True)
class FileWanted:
    """Told to the files machine: bring `file` here from one of `sources`."""

    file: Hash
    size: int
    sources: tuple[NodeId, ...]


# ---- the journal


@dataclass(slots=True)
class Synced:
    """The disk has every entry up to `seq`. Taken by the caller of the node (it releases the outbox), never routed."""

    seq: int


@dataclass(slots=True)
class NewHead:
    """The store signed and synced a commit of this node's journal, which holds these entries with these bodies."""

    signed: Signed
    entries: tuple[bytes, ...] = field(default=(), repr=False)
    bodies: tuple[bytes, ...] = field(default=(), repr=False)


@dataclass(slots=True)
class StoreFailed:
    """The journal cannot be written any more (`code`: disk_full, disk_error, ...). Final: the node steps down, nothing is retried."""

    code: str
    message: str
    fix: str


@dataclass(slots=True)
class Remembered:
    """Before `Started`: what an earlier life kept of other authors, as asked for by `effects.Remember`."""

    heads: tuple[Signed, ...] = ()
    forks: tuple[Fork, ...] = ()
    witnesses: tuple[Signed, ...] = ()
    """Of this node's own journal."""
    own: tuple[Signed, ...] = ()  # the commits that hold the entries which those name, as the journal has them now
