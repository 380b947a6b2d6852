"""Who does what: the contract net. Every message names its tasks in `items`, so that like tasks can travel in lots.

manager                                contractor
  CFP            --------------------->              auction
                 <---------------------  BID | REFUSE
  AWARD          --------------------->              an offer, under a fence and a lease
                 <---------------------  ACCEPT | DECLINE      ACCEPT binds
                 <---------------------  BEAT               every 0.5 s while something is held
  RENEW          --------------------->              or REVOKE, CANCEL
                 <---------------------  RESULT | FAILURE   repeated until
  RESULT_ACK     --------------------->              or SUPERSEDED
  RECLAIM        --------------------->              after the manager's restart
                 <---------------------  RECLAIMED
"""

from __future__ import annotations

from dataclasses import dataclass, field

from mesh.ids import Fence, Hash, NodeId, TaskId

FileRef = tuple[Hash, int]
"""A file's hash and its size in bytes."""


@dataclass(slots=True)
class CfpItem:
    task: TaskId
    capability: str
    input_hash: Hash
    input: bytes
    """The arguments, where the offer is priced by user code; else empty."""
    size_bytes: int
    """Of the input and its files: what would have to travel."""


@dataclass(slots=True)
class Cfp:
    """Call for proposals. `round` is unique within the manager's life."""

    round: int
    items: tuple[CfpItem, ...]


@dataclass(slots=True)
class BidItem:
    task: TaskId
    start_ms: int
    """Until a slot is free, from the true queue."""
    service_ms: int
    """Measured; what the agent said where it prices; 0 if never run here."""
    cost: float
    agent: str


@dataclass(slots=True)
class Bid:
    """A proposal; good for `ttl_ms`. Not binding: the check that binds happens once, at the award."""

    round: int
    items: tuple[BidItem, ...]
    ttl_ms: int


@dataclass(slots=True)
class Refuse:
    """No proposal. Reasons: incapable, busy, declined (by the agent), draining, not_ready. Busy is not incapable."""

    round: int
    items: tuple[tuple[TaskId, str], ...]
    retry_after_ms: int = 0


@dataclass(slots=True)
class AwardItem:
    task: TaskId
    fence: Fence
    capability: str
    input_hash: Hash
    input: bytes
    durable: bool
    """False: a plain call, which writes no entries of its own anywhere."""
    timeout_ms: int = 0
    """For one run of the handler; 0: none."""
    attempt: int = 1
    parent: TaskId = ""
    files: tuple[FileRef, ...] = ()
    sources: tuple[NodeId, ...] = ()
    """Who has the files."""


@dataclass(slots=True)
class Award:
    """An offer under a lease that ends, on the holder's clock, at ``echo_ms + grant_ms``. `conditional`: decline if there is no room."""

    items: tuple[AwardItem, ...]
    grant_ms: int
    echo_ms: int
    conditional: bool = False
    keepers: tuple[NodeId, ...] = ()
    """Of the manager's journal. Empty: the award does not outlive the manager's disk."""


@dataclass(slots=True)
class Accept:
    """Binds. Only now has the task an owner."""

    items: tuple[tuple[TaskId, Fence], ...]


@dataclass(slots=True)
class Decline:
    """Reasons as in REFUSE, and stale_fence, lease_past, no_file, already_held."""

    items: tuple[tuple[TaskId, Fence, str], ...]
    retry_after_ms: int = 0


@dataclass(slots=True)
class BeatItem:
    task: TaskId
    fence: Fence
    state: str
    """queued, running, suspended, ended (the result is on its way)."""
    fraction: float = 0.0
    note: str = ""


@dataclass(slots=True)
class Beat:
    """All that the sender holds for this manager."""

    items: tuple[BeatItem, ...]


@dataclass(slots=True)
class Renew:
    """Each lease now ends at ``echo_ms + grant_ms`` on the holder's clock."""

    items: tuple[tuple[TaskId, Fence], ...]
    grant_ms: int
    echo_ms: int


@dataclass(slots=True)
class Result:
    task: TaskId
    fence: Fence
    output_hash: Hash
    output: bytes
    agent: str = ""
    files: tuple[FileRef, ...] = ()
    service_ms: int = 0


@dataclass(slots=True)
class Failure:
    """The handler failed, or its worker was lost (`kind` worker_lost). `retryable` says whether another try makes sense."""

    task: TaskId
    fence: Fence
    kind: str
    """error, invalid_argument, timeout, worker_lost, cancelled, no_file, too_big, outcome_unknown."""
    message: str
    retryable: bool
    agent: str = ""
    details: str = ""
    """The traceback, the user's own frame first."""
    service_ms: int = 0


@dataclass(slots=True)
class ResultAck:
    """The result is committed (or was a failure that is noted): forget it."""

    items: tuple[tuple[TaskId, Fence], ...]


@dataclass(slots=True)
class Superseded:
    """A result or beat under an old fence, or of a task that has ended: forget it and stop."""

    items: tuple[tuple[TaskId, Fence], ...]


@dataclass(slots=True)
class Release:
    """The contractor gives back what it accepted and did not start."""

    items: tuple[tuple[TaskId, Fence, str], ...]


@dataclass(slots=True)
class Revoke:
    items: tuple[tuple[TaskId, Fence], ...]


@dataclass(slots=True)
class Revoked:
    """No handler of this task runs here under this fence or a smaller one, and none will start."""

    items: tuple[tuple[TaskId, Fence], ...]


@dataclass(slots=True)
class Cancel:
    items: tuple[tuple[TaskId, Fence], ...]
    reason: str


@dataclass(slots=True)
class Cancelled:
    items: tuple[tuple[TaskId, Fence], ...]


@dataclass(slots=True)
class Reclaim:
    """A manager came back: what of mine do you still hold? Renews what is held."""

    items: tuple[tuple[TaskId, Fence], ...]
    grant_ms: int
    echo_ms: int


@dataclass(slots=True)
class Reclaimed:
    """``(task, fence, status)``: running (or queued), result (it follows), unknown."""

    items: tuple[tuple[TaskId, Fence, str], ...]


# ---- a worker's step, and questions


@dataclass(slots=True)
class StepAsk:
    """``ctx.step`` of a worker of the sender, to the parent's manager. Repeated until answered: it is idempotent by (parent, name)."""

    ask: int
    parent: TaskId
    fence: Fence
    name: str
    capability: str
    input: bytes
    timeout_ms: int = 0
    files: tuple[FileRef, ...] = ()


@dataclass(slots=True)
class StepSeen:
    """The step is known and on its way: ask no more often than now and then."""

    ask: int
    child: TaskId


@dataclass(slots=True)
class StepDone:
    """`state`: done, failed, cancelled, or refused (stale fence, other inputs under the same name; see `error`, JSON)."""

    ask: int
    child: TaskId
    state: str
    output: bytes = b""
    error: bytes = b""
    files: tuple[FileRef, ...] = ()


@dataclass(slots=True)
class Ask:
    """A question about work, to the node that can answer it. `args` is JSON."""

    ask: int
    question: str
    key: str
    args: bytes = b"{}"


@dataclass(slots=True)
class Answer:
    """`ok` False: `body` is a JSON error. Bodies of stories are packed entries with proofs, the rest is JSON."""

    ask: int
    ok: bool
    body: bytes


# ---- effects on the outside world


@dataclass(slots=True)
class EffectAsk:
    """``ctx.effect`` of a worker of the sender, to the task's manager: may it happen now? Repeated, under one `call`, until answered."""

    ask: int
    task: TaskId
    fence: Fence
    key: str
    call: int
    """Numbers the calls of one attempt: what is asked again is told apart from what is begun again."""
    once: bool = False
    """Never begun a second time, whatever became of the first."""


@dataclass(slots=True)
class EffectDone:
    """It has happened, with this outcome (JSON); or, with an `error`, its function raised and nobody knows. Repeated until answered."""

    ask: int
    task: TaskId
    fence: Fence
    key: str
    call: int
    output: bytes = b""
    error: str = ""


@dataclass(slots=True)
class EffectAnswer:
    """`state`: go (the intent is on record: begin), done (it happened before: `output`), noted, or refused (see `error`, JSON)."""

    ask: int
    state: str
    output: bytes = b""
    error: bytes = b""


# ---- files


@dataclass(slots=True)
class FileAsk:
    file: Hash
    offset: int
    size: int


@dataclass(slots=True)
class FilePart:
    """`total` is the file's size; -1: not here."""

    file: Hash
    offset: int
    total: int
    data: bytes = field(default=b"", repr=False)
