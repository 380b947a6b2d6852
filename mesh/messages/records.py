"""What is known: the kinds of journal entries, in the chain of commits (`chain.py`).

An entry travels and is hashed as ``msgpack [kind, *fields]`` (canonical: shortest forms, fixed order).
"""

from __future__ import annotations

from dataclasses import dataclass

from mesh.ids import NO_BAGGAGE, UNRANKED, Baggage, Fence, Hash, NodeId, Rank, TaskId
from mesh.messages.chain import Commit as Commit
from mesh.messages.chain import Fork as Fork
from mesh.messages.chain import Heads as Heads
from mesh.messages.chain import Witness as Witness
from mesh.messages.chain import Witnessed as Witnessed
from mesh.messages.claims import Cell, KeyRoster
from mesh.messages.rollouts import Mark as RolloutMark
from mesh.messages.triggers import Mark, PlanRow
from mesh.messages.work import ANYWHERE, UNBOUNDED, Amounts, Bounds, FileRef, Placement

# ---- entries


@dataclass(slots=True)
class Opened:
    """First of each incarnation. Cites the last durable head: a crash shows as "tail lost", never as a fork."""

    incarnation: int
    head: bytes
    seq: int
    name: str = ""
    mesh: str = ""
    """The mesh in which this and all later commits are signed, where it is another one than before."""


@dataclass(slots=True)
class Rekeyed:
    """The commit that holds this, and all later ones, are signed with `new_key`. `proof`: the old key's word for it (`handover_bytes`)."""

    old_key: bytes
    new_key: bytes
    proof: bytes
    at_ms: int = 0


@dataclass(slots=True)
class Submitted:
    """By the manager. `input` is the hash of the arguments' JSON; `step` names a child within its parent."""

    task: TaskId
    capability: str
    input: Hash
    by: str
    timeout_ms: int
    retries: int
    parent: TaskId = ""
    step: str = ""
    files: tuple[FileRef, ...] = ()
    at_ms: int = 0
    bounds: Bounds = UNBOUNDED
    again: TaskId = ""
    """The ended task that this one repeats."""
    key: str = ""
    """It runs only if a `Claimed` says that the key stands for it."""
    placement: Placement = ANYWHERE
    rank: Rank = UNRANKED
    rules: tuple[str, ...] = ()
    """Of the mesh's policy, that had a say in it: its version, then their ids."""
    down: tuple[str, ...] = ()
    """Labels that whatever it asks for must be run with, too."""
    budget: Amounts = ()
    """Its own: reserved from what its parent has left."""
    pins: tuple[str, ...] = ()
    """Flags and sides of rollouts, as they were when the work began that it belongs to (`policy/steering.py`)."""
    baggage: Baggage = NO_BAGGAGE
    origin: NodeId = ""
    """The node at which it was asked for, where another manages it from the beginning (mode central)."""


@dataclass(slots=True)
class Candidate:
    """One node in a decision: a bid, or what the cache said of it. The score is a function of these fields alone."""

    node: NodeId
    name: str
    start_ms: int
    service_ms: int
    cost: float
    agent: str = ""
    calibration_pct: int = 100
    """What its awards took lately, of what was expected of them: 50 to 400. Its times count by so much."""
    transfer_ms: int = 0
    """For the files that would have to travel there, and for being away from where it likes to be (`near`, `apart`)."""
    version: str = ""
    """Which it would run as there; empty: one of several."""


@dataclass(slots=True)
class Decided:
    """By the manager, before the AWARD leaves: who was asked, who offered what, who refused and why, the rule, the winner and his fence."""

    task: TaskId
    fence: Fence
    way: str
    """award (from cached load) or auction."""
    rule: str
    winner: NodeId
    candidates: tuple[Candidate, ...]
    refusals: tuple[tuple[NodeId, str, str], ...] = ()
    """``(node, name, reason)``."""
    at_ms: int = 0


@dataclass(slots=True)
class Bound:
    """By the manager: the ACCEPT came."""

    task: TaskId
    fence: Fence
    at_ms: int = 0


@dataclass(slots=True)
class Lost:
    """By the manager: this award ended without a result. Reasons: declined:*, suspected, lease_over, node_revoked, released, failed:*, ...

    ``revoked`` is the holder's word that it runs no more; ``node_revoked`` that the holder is not believed any more.
    """

    task: TaskId
    fence: Fence
    node: NodeId
    reason: str
    error: str = ""
    at_ms: int = 0


@dataclass(slots=True)
class Parked:
    """By the manager: nobody can take it now; it waits, visible, and wakes when somebody can."""

    task: TaskId
    reason: str
    at_ms: int = 0


@dataclass(slots=True)
class Checkpointed:
    """By the manager: a handler kept something for whoever has to go on in its place. `output` is the hash of its JSON."""

    task: TaskId
    fence: Fence
    output: Hash
    at_ms: int = 0
    anew: bool = False
    """And begins anew from there: its steps and effects until now are forgotten."""
    signals: tuple[tuple[str, int], ...] = ()
    """With `anew`: how many signals of each name it has had."""


@dataclass(slots=True)
class CancelAsked:
    task: TaskId
    by: str
    reason: str
    at_ms: int = 0


@dataclass(slots=True)
class Intended:
    """By the manager, before the effect `key` begins: by the holder under this fence. `once`: never a second time."""

    task: TaskId
    fence: Fence
    key: str
    call: int
    once: bool
    node: NodeId
    at_ms: int = 0


@dataclass(slots=True)
class Effected:
    """By the manager: how the effect ended. `output` is the hash of its outcome's JSON; with an `error` its function raised, and whether it
    happened is not known."""

    task: TaskId
    fence: Fence
    key: str
    call: int
    output: Hash = ""
    error: str = ""
    at_ms: int = 0


@dataclass(slots=True)
class Spent:
    """By the manager: what was spent, or reserved for it, by the holder under this fence. The newest of a task tells its whole sum."""

    task: TaskId
    fence: Fence
    call: int
    """The number of its question; 0: nobody asked (the seconds that a handler ran, what was open when it began anew)."""
    key: str
    reserved: Amounts
    """What is open under this key from now on; nothing: it is settled."""
    used: Amounts
    """All that this task has spent so far, with what ended below it."""
    at_ms: int = 0


@dataclass(slots=True)
class Answered:
    """By the manager: somebody has settled a wait, or said his part of it. `word`: of a gate, the signed `Verdict` itself."""

    task: TaskId
    node: NodeId
    """At which it was said."""
    person: str
    approve: bool = True
    note: str = ""
    output: Hash = ""
    """Of the signal's value, or of what is to stand in place of what was asked about: JSON."""
    event: str = ""
    """Of a signal: what its sender calls it. The same twice is one."""
    word: bytes = b""
    at_ms: int = 0


@dataclass(slots=True)
class Stored:
    """By the manager: a key of the task's state was written. `output` is the hash of the value's JSON; empty: it was deleted."""

    task: TaskId
    key: str
    version: int
    """Each write to one task's state has the next one."""
    output: Hash = ""
    by: str = ""
    event: str = ""
    """The same twice is one write."""
    writer: TaskId = ""
    """Whose handler wrote it, and under which fence; "": a client."""
    fence: Fence = 0
    at_ms: int = 0


@dataclass(slots=True)
class Finished:
    """By the manager: the one terminal state. `error` is JSON. `output` is the hash of the result's JSON, empty without one."""

    task: TaskId
    fence: Fence
    state: str
    """done, failed, cancelled."""
    node: NodeId = ""
    agent: str = ""
    output: Hash = ""
    files: tuple[FileRef, ...] = ()
    error: str = ""
    service_ms: int = 0
    at_ms: int = 0
    version: str = ""
    """Of its capability, as it ran last; empty: not known."""


@dataclass(slots=True)
class Accepted:
    """By the contractor, before the ACCEPT leaves."""

    task: TaskId
    fence: Fence
    manager: NodeId
    capability: str
    input: Hash
    at_ms: int = 0
    pins: tuple[str, ...] = ()
    """As in its award."""


@dataclass(slots=True)
class Ended:
    """By the contractor, before the RESULT leaves: the handler is over. `outcome`: ok, error, timeout, heartbeat, cancelled, worker_lost,
    released."""

    task: TaskId
    fence: Fence
    outcome: str
    output: Hash = ""
    files: tuple[FileRef, ...] = ()
    error: str = ""
    agent: str = ""
    service_ms: int = 0
    at_ms: int = 0
    version: str = ""
    """Of its capability, which the worker has."""


@dataclass(slots=True)
class Closed:
    """By the contractor: the manager acknowledged or superseded this fence; nothing more is owed."""

    task: TaskId
    fence: Fence


@dataclass(slots=True)
class Calls:
    """Aggregate of the plain calls of the last 100 ms: how many, and the Merkle root of their decisions and results."""

    count: int
    merkle_root: bytes
    at_ms: int = 0


@dataclass(slots=True)
class Audited:
    """Something security depends on. `what`: invited, joined, admitted, refused, role_used, revoked, rotated, secret_read, rolled_back, ...

    `about` names whom or what it concerns, `by` who did it. Never a secret, never a payload.
    """

    what: str
    about: str
    by: str
    note: str = ""
    at_ms: int = 0


@dataclass(slots=True)
class Guarded:
    """From the commit that holds this on, `members` (this author among them) keep his log, if he leads it in `term` there."""

    term: int
    members: tuple[NodeId, ...]
    at_ms: int = 0


@dataclass(slots=True)
class Leads:
    """This author leads his own log in `term`, by a vote of those who keep it; the first entry of that term."""

    term: int
    members: tuple[NodeId, ...]
    at_ms: int = 0


@dataclass(slots=True)
class Inherited:
    """The next `count` entries are those of the live tasks of `author`, copied from his log: a draft, until `TookOver` or `Forgone`."""

    author: NodeId
    term: int
    count: int
    at_ms: int = 0
    clocks: tuple[tuple[NodeId, int], ...] = ()
    """Milliseconds that the clock of whoever writes this is ahead of each, on whose clock those tasks were submitted."""


@dataclass(slots=True)
class TookOver:
    """Of what was inherited in that term: this author drives those tasks now."""

    author: NodeId
    term: int
    at_ms: int = 0


@dataclass(slots=True)
class Forgone:
    """Of what was inherited in that term: another was the first, or the author came back."""

    author: NodeId
    term: int
    at_ms: int = 0


@dataclass(slots=True)
class Claimed:
    """By the manager: the key of `task` stands for task `winner`. Another's: this one never was."""

    task: TaskId
    winner: TaskId
    at_ms: int = 0


@dataclass(slots=True)
class Rostered:
    """Who keeps the mesh's keys, as this node knows it. `complete`: and it has all that was claimed under earlier rosters."""

    roster: KeyRoster
    complete: bool
    at_ms: int = 0


@dataclass(slots=True)
class Sworn:
    """By a key keeper, before it answers: what it has promised and accepted now."""

    cell: Cell
    at_ms: int = 0


@dataclass(slots=True)
class Freed:
    """By a key keeper: the records of these tasks are gone, and so are the claims of their keys."""

    keys: tuple[tuple[str, TaskId], ...]
    at_ms: int = 0


@dataclass(slots=True)
class Summed:
    """Of all entries up to number `upto` only those in `open` are still needed to go on: a start reads those, and what came after `upto`.

    A hint to the author himself and to whoever takes over from him; the chain, and what it proves, stays whole.
    """

    upto: int
    open: tuple[int, ...] = ()
    at_ms: int = 0


@dataclass(slots=True)
class Planned:
    """What this node knows that people said of a schedule."""

    row: PlanRow
    at_ms: int = 0


@dataclass(slots=True)
class Ticked:
    """How far a schedule has come, as this node knows it: not every tick, since keys hold those in between."""

    mark: Mark
    at_ms: int = 0


@dataclass(slots=True)
class Rolled:
    """How far a staged rollout has come, as this node knows it."""

    mark: RolloutMark
    at_ms: int = 0


ENTRIES = (
    Opened,
    Submitted,
    Decided,
    Bound,
    Lost,
    Parked,
    CancelAsked,
    Finished,
    Accepted,
    Ended,
    Closed,
    Calls,
    Audited,
    Rekeyed,
    Guarded,
    Leads,
    Inherited,
    TookOver,
    Forgone,
    Checkpointed,
    Intended,
    Effected,
    Claimed,
    Rostered,
    Sworn,
    Freed,
    Summed,
    Answered,
    Planned,
    Ticked,
    Spent,
    Rolled,
    Stored,
)
"""Every entry kind. Its kind on disk is its class name; fields are only ever added at the end, with a default."""
