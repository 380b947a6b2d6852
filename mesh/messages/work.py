"""Who does what: the contract net. Every message names its tasks in `items`, so that like tasks can travel in lots.

manager                                contractor
  CFP            --------------------->              auction
                 <---------------------  BID | REFUSE
  AWARD          --------------------->              an offer, under a fence and a lease
                 <---------------------  ACCEPT | DECLINE      ACCEPT binds
                 <---------------------  BEAT               every 0.5 s while something is held
  RENEW          --------------------->              or REVOKE, CANCEL
  BACKLOG        --------------------->              work waits here for whoever falls idle
                 <---------------------  PULL               a slot is free
                 <---------------------  RELEASE            not started: given back, perhaps for whoever pulled
                 <---------------------  RESULT | FAILURE   repeated until
  RESULT_ACK     --------------------->              or SUPERSEDED
  RECLAIM        --------------------->              after the manager's restart
                 <---------------------  RECLAIMED
"""

from __future__ import annotations

from dataclasses import dataclass, field

from mesh.ids import NO_BAGGAGE, UNRANKED, Baggage, Fence, Hash, NodeId, Rank, TaskId
from mesh.messages.signed import Signed

FileRef = tuple[Hash, int]
"""A file's hash and its size in bytes."""

Bounds = tuple[int, int, int]
"""How long work may wait for an award, one run of its handler may take, and that handler be silent: milliseconds; 0: as its offer says."""

UNBOUNDED: Bounds = (0, 0, 0)

Amounts = tuple[tuple[str, int], ...]
"""Of what a budget has or work spends: names, and thousandths."""


@dataclass(frozen=True, slots=True)
class Placement:
    """Where one task may run, where it likes to, and whether it may run twice at once."""

    where: tuple[str, ...] = ()
    """Labels that whoever runs it must have, in order: ``name=value``, or ``name`` for whatever value."""
    near: str = ""
    """Tasks of one such key like to be where the last one was."""
    apart: str = ""
    """Tasks of one such key like to be at different nodes."""
    hedge: bool = False
    """If it is idempotent and takes longer than usual, a second attempt may be made beside the first."""


ANYWHERE = Placement()


@dataclass(slots=True)
class CfpItem:
    task: TaskId
    capability: str
    input_hash: Hash
    input: bytes
    """The arguments, where the offer is priced by user code; else empty."""
    size_bytes: int
    """Of the input and its files: what would have to travel."""
    count: int = 1
    """A lot: so many like tasks of one backlog, of which `task` is the first."""
    left_ms: int = 0
    """Until the task's deadline; 0: it has none."""


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
    starts_ms: tuple[int, ...] = ()
    """Of a lot, the capacity curve: when the second could start, the third, ...; as many as there is room for."""


@dataclass(slots=True)
class Bid:
    """A proposal; good for `ttl_ms`. Not binding: the check that binds happens once, at the award."""

    round: int
    items: tuple[BidItem, ...]
    ttl_ms: int


@dataclass(slots=True)
class Refuse:
    """No proposal. Reasons: incapable, busy, declined (by the agent), draining, not_ready, breaker_open, deadline. Busy is not incapable;
    deadline: it could not end in time."""

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
    checkpoint: bytes = b""
    """JSON: what an earlier attempt kept by ``ctx.checkpoint``; empty: nothing."""
    stream: bool = False
    """Its items go to a reader as they come."""
    skip: int = 0
    """Of an idempotent stream: so many of its items have come here from an earlier attempt, and are not sent again."""
    left_ms: int = 0
    """Until the task's deadline, from when this is sent; 0: it has none. What cannot end by then is declined."""
    heartbeat_ms: int = 0
    """The handler has promised a sign of life this often; 0: it has not."""
    where: tuple[str, ...] = ()
    """Labels that the worker which runs it must have."""
    stay_ms: int = 0
    """It likes to be here: it moves to an idle node only to be done by so much sooner."""
    rank: Rank = UNRANKED
    aged: int = 0
    """So many levels has it risen by waiting."""
    origin: NodeId = ""
    """Where the work was asked for that this belongs to; empty: where its id comes from."""
    down: tuple[str, ...] = ()
    """Labels that whatever it asks for must be run with, too."""
    words: tuple[Signed, ...] = ()
    """What people have signed to let it pass a gate of the policy's."""
    budgets: tuple[str, ...] = ()
    """Of which names somebody has set a budget: what it calls has to be reserved there first."""
    pins: tuple[str, ...] = ()
    """As in `Submitted`: those of the work that it belongs to."""
    baggage: Baggage = NO_BAGGAGE


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
    """Reasons as in REFUSE, and stale_fence, lease_past."""

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
    version: str = ""
    """Of the capability, as the worker that ran it declares it."""


@dataclass(slots=True)
class Failure:
    """The handler failed, or its worker was lost (`kind` worker_lost). `retryable` says whether another try makes sense."""

    task: TaskId
    fence: Fence
    kind: str
    """error, invalid_argument, timeout, worker_lost, cancelled, no_file, too_big, heartbeat (its handler was silent for too long),
    outcome_unknown, over_budget."""
    message: str
    retryable: bool
    agent: str = ""
    details: str = ""
    """The traceback, the user's own frame first."""
    service_ms: int = 0
    retry_after_ms: int = 0
    """The handler asks not to be tried again before."""
    version: str = ""
    """As in a result."""


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
    """The contractor gives back what it accepted and did not start. `to`: because that node would start it at once (reason ``pulled``)."""

    items: tuple[tuple[TaskId, Fence, str], ...]
    to: NodeId = ""
    to_service_ms: int = 0
    """What it takes there, as the puller says."""
    start_ms: int = 0
    """When it would have been started here, and what it takes here."""
    service_ms: int = 0


@dataclass(slots=True)
class Pull:
    """`node` has a free slot for `capability`, where one task takes `service_ms`: whoever has such work waiting may let it go there.

    A holder answers with RELEASE to the work's manager, a manager with AWARD from its backlog and BACKLOG.
    """

    capability: str
    node: NodeId
    service_ms: int


@dataclass(slots=True)
class Backlog:
    """By a manager: `count` tasks wait here for the first node that falls idle. 0: none does any more."""

    capability: str
    count: int


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
    bounds: Bounds = UNBOUNDED
    rank: Rank = UNRANKED
    placement: Placement = ANYWHERE
    retries: int = -1
    """Tries after a failure of its handler; -1: as many as its capability says."""
    budget: Amounts = ()
    """Its own, reserved before it begins."""
    baggage: Baggage = NO_BAGGAGE
    """Empty: its parent's."""


@dataclass(slots=True)
class StepSeen:
    """The step is known and on its way: ask no more often than now and then."""

    ask: int
    child: TaskId


@dataclass(slots=True)
class StepDone:
    """The end of a step, or of a CHECKPOINT_ASK (`child` is then its task).

    `state`: done, failed, cancelled, or refused (stale fence, other inputs under the same name; see `error`, JSON)."""

    ask: int
    child: TaskId
    state: str
    output: bytes = b""
    error: bytes = b""
    files: tuple[FileRef, ...] = ()
    ended_ms: int = 0
    """When, on its manager's clock, which whoever takes over counts on. 0: not known."""


@dataclass(slots=True)
class CheckpointAsk:
    """``ctx.checkpoint`` of a worker of the sender, to the task's manager, who keeps the newest. Repeated until answered by STEP_DONE."""

    ask: int
    task: TaskId
    fence: Fence
    value: bytes
    anew: bool = False
    """The steps, effects and signals that it has had until now are forgotten: their names are free again."""
    signals: tuple[tuple[str, int], ...] = ()
    """With `anew`: how many signals of each name it has had."""


@dataclass(slots=True)
class Items:
    """Of a streaming handler: its items (JSON) from number `first` on, counted from 1. `last`: with these it has given all."""

    task: TaskId
    fence: Fence
    first: int
    items: tuple[bytes, ...]
    last: bool = False


@dataclass(slots=True)
class Taken:
    """The reader has taken the items up to number `upto`: there is room for more. `again`: send all later ones once more."""

    task: TaskId
    fence: Fence
    upto: int
    again: bool = False


SEARCH = "search"
"""Among the arguments of a question: everybody is asked, so that each looks into all that he keeps, whoever may know better."""


@dataclass(slots=True)
class Ask:
    """A question about work, to the node that can answer it. `args` is JSON."""

    ask: int
    question: str
    key: str
    args: bytes = b"{}"
    words: tuple[Signed, ...] = ()
    """What the asker, or whoever he speaks for, has put his name to: a `Verdict`."""


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
