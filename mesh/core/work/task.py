"""One task as its manager sees it, and the table of its states.

    pending --ask--> bidding --award--> offered --accept--> held --result--> committing --commit--> done
       |                 |                 |                 |
       '--park--> parked '--park           '--free--> pending (declined, released, revoked, lost)
                                           '--retry-> backoff --ready--> pending
    pending --wait--> waiting --settle--> done          a wait, which nobody runs (`waiting.py`)
    pending --gate--> gated --pass--> pending           the policy holds it back (`governor.py`)

Invariant: every change of state goes through `TRANSITIONS`; what is not in it is a bug here and asserts. A task ends once, in ``done``,
``failed`` or ``cancelled``, and never leaves that state. The diagram in docs/ is generated from the table.

Does not decide anything: who is asked, when a lease is over and what is worth a retry are decided in the files beside this one.
Source: the contract net of Smith (1980) with the binding step at ACCEPT (Aknine 2004) and leases from there on.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from mesh.core.policy.gating import PREFIX
from mesh.core.policy.rules import Rulebook, Ruling
from mesh.core.work.scope import Scope
from mesh.core.work.spending import Account
from mesh.core.work.stream import Stream
from mesh.core.work.turns import NO_TURN, Turn
from mesh.effects import Need
from mesh.ids import FIRST_TERM, NO_BAGGAGE, UNRANKED, Baggage, Fence, Hash, NodeId, Rank, TaskId, fence_of
from mesh.messages.records import Candidate, Decided
from mesh.messages.waits import signal_of
from mesh.messages.work import ANYWHERE, UNBOUNDED, Amounts, Bounds, FileRef, Placement

PENDING, BIDDING, OFFERED, HELD, PARKED = "pending", "bidding", "offered", "held", "parked"
BACKOFF, COMMITTING, CANCELLING, WAITING, GATED = "backoff", "committing", "cancelling", "waiting", "gated"
DONE, FAILED, CANCELLED = "done", "failed", "cancelled"
CLAIMING = "claiming"
"""No state of a task yet: it is one only if its key stands for it."""
MOVED = "moved"
"""No state of a task, but of this node's part in it: another node drives it."""

STATES = (PENDING, BIDDING, OFFERED, HELD, PARKED, BACKOFF, COMMITTING, CANCELLING, WAITING, GATED, DONE, FAILED, CANCELLED)
TERMINAL = (DONE, FAILED, CANCELLED)

ASK, AWARD, PARK, WAKE, ACCEPT, FREE = "ask", "award", "park", "wake", "accept", "free"
RETRY, READY, RESULT, COMMIT, FAIL, CANCEL, STOPPED = "retry", "ready", "result", "commit", "fail", "cancel", "stopped"
WAIT_FOR, SETTLE, GATE, PASS = "wait", "settle", "gate", "pass"

TRANSITIONS: dict[tuple[str, str], str] = {
    (PENDING, ASK): BIDDING,
    (PENDING, AWARD): OFFERED,
    (PENDING, PARK): PARKED,
    (BIDDING, AWARD): OFFERED,
    (BIDDING, PARK): PARKED,
    (PARKED, WAKE): PENDING,
    (OFFERED, ACCEPT): HELD,
    (OFFERED, FREE): PENDING,
    (HELD, FREE): PENDING,
    (HELD, RETRY): BACKOFF,
    (PENDING, RETRY): BACKOFF,
    (BACKOFF, READY): PENDING,
    (HELD, RESULT): COMMITTING,
    (COMMITTING, COMMIT): DONE,
    (COMMITTING, FREE): PENDING,
    (PENDING, CANCEL): CANCELLED,
    (BIDDING, CANCEL): CANCELLED,
    (PARKED, CANCEL): CANCELLED,
    (BACKOFF, CANCEL): CANCELLED,
    (COMMITTING, CANCEL): CANCELLED,
    (OFFERED, CANCEL): CANCELLING,
    (HELD, CANCEL): CANCELLING,
    (CANCELLING, STOPPED): CANCELLED,
    (PENDING, FAIL): FAILED,
    (BIDDING, FAIL): FAILED,
    (OFFERED, FAIL): FAILED,
    (HELD, FAIL): FAILED,
    (PARKED, FAIL): FAILED,
    (BACKOFF, FAIL): FAILED,
    (COMMITTING, FAIL): FAILED,
    (CANCELLING, FAIL): FAILED,
    (PENDING, WAIT_FOR): WAITING,
    (WAITING, SETTLE): DONE,
    (WAITING, CANCEL): CANCELLED,
    (WAITING, FAIL): FAILED,
    (PENDING, GATE): GATED,
    (GATED, PASS): PENDING,
    (GATED, RETRY): BACKOFF,
    (GATED, CANCEL): CANCELLED,
    (GATED, FAIL): FAILED,
}
"""State and event -> state. A result of an award whose ACCEPT is still on its way counts as that ACCEPT first."""

TRIED_MAX = 32
"""Attempts whose nodes are remembered: for whoever wants to read what they logged."""

NODE_FAULTS = ("worker_lost", "heartbeat", "no_file", "cancelled")
"""Failures that are not the handler's: worth a try elsewhere whatever its retries are. (Cancelled: nobody here asked for that.)"""

NO_AWARD: Fence = fence_of(FIRST_TERM, 0)
"""The fence before the first award: number 0 of the first term."""


OUTCOME_KEPT_BYTES = 4096
"""Outcomes of effects up to here stay in memory; larger ones of durable tasks are read from the store when asked for."""
EVENTS_REMEMBERED = 256
"""Of the signals of one name that a task has had, the newest: a repeated one is known among them."""
EFFECTS_SHOWN_MAX = 20
"""Of a task that has ended, the newest, and before them those whose outcome is not known. The journal has them all."""


HANDLER_LOST = ("worker_lost", "cancelled")
"""Kinds of failures in which a handler may have been at work and others have ended it: what must not repeat ends with it."""


@dataclass(slots=True, eq=False)
class Intent:
    """One effect of a task, under its key: who has begun it, and how it ended."""

    fence: Fence
    call: int
    once: bool
    node: NodeId
    done: bool = False
    output: bytes | None = None
    """None: none yet, or only its hash is remembered."""
    output_hash: Hash = ""
    error: str = ""
    """What its function raised the last time."""


NO_REQUEST = -1
"""Nobody on this node waits for its reply."""


@dataclass(frozen=True, slots=True)
class Said:
    """One answer to a wait, as it is on record."""

    node: NodeId
    person: str
    approve: bool
    note: str = ""
    output: bytes = b""
    event: str = ""
    """Of a signal: what its sender calls it."""
    word: bytes = b""
    """Of a gate's answer: as it was signed."""


@dataclass(slots=True, eq=False)
class Events:
    """The signals of one name that a task has got."""

    count: int = 0
    newest: deque[str] = field(default_factory=lambda: deque(maxlen=EVENTS_REMEMBERED))
    """What their senders call them; "": it did not come in time."""

    def number(self, event: str) -> int:
        """Which of them it is, counted from 0; -1: none of the newest."""
        return self.count - len(self.newest) + self.newest.index(event) if event in self.newest else -1


@dataclass(slots=True, eq=False)
class Task:
    """What the manager knows of one task. Times are seconds on the node's clock."""

    id: TaskId
    capability: str
    input: bytes
    input_hash: Hash
    durable: bool
    """False: a plain call, which lives and dies in memory and writes no entry of its own."""
    need: Need
    """Of the messages that a durable task sends only when its entries are safe."""
    submitted_at_s: float
    timeout_ms: int = 0
    retries: int = -1
    """Tries again after a failure; -1: as many as the offer says."""
    by: str = ""
    parent: TaskId = ""
    step: str = ""
    files: tuple[FileRef, ...] = ()
    sources: tuple[NodeId, ...] = ()
    request: int = NO_REQUEST
    """The local command that waits for the end; -1: none."""
    bounds: Bounds = UNBOUNDED
    again: TaskId = ""
    """The ended task that this one repeats."""
    key: str = ""
    """Under which it was submitted; over the whole mesh it stands for this one."""
    placement: Placement = ANYWHERE
    rank: Rank = UNRANKED
    rules: tuple[str, ...] = ()
    """Of the policy, that had a say when it was made: its version, then their ids."""
    down: tuple[str, ...] = ()
    """Labels that whatever it asks for must be run with, too."""
    ruled: tuple[Rulebook, Ruling] | None = None
    """What is ruled of it, and by which rulebook; None: not looked at."""
    budget: Amounts = ()
    """Its own."""
    pins: tuple[str, ...] = ()
    """Flags, and sides of rollouts: for all that it asks for, too (`policy/steering.py`)."""
    baggage: Baggage = NO_BAGGAGE
    origin: NodeId = ""
    """At whose client it was asked for, if not at one of the node that its id names."""
    turn: Turn = NO_TURN
    aged: int = 0
    """Levels that it has risen by waiting."""
    charged_ms: int = 0
    """What its newest award was counted as, among what its share key has had."""

    state: str = PENDING
    fence: Fence = NO_AWARD
    holder: NodeId = ""
    """To whom the newest award went, while it stands."""
    agent: str = ""
    version: str = ""
    """Of its capability, as it ran last; empty: not known yet."""
    idempotent: bool = False
    on_lost: str = ""
    """Of the winner's offer; empty: not known (after a restart)."""
    offer_retries: int = 0
    run_timeout_ms: int = 0
    heartbeat_ms: int = 0
    lease_end_s: float = 0.0
    """The holder's lease, as the granter counts it, without margin."""
    offered_at_s: float = 0.0
    promised_ms: tuple[int, int] | None = None
    """When the winner was to start, and what it was to take, as it said; None: not known (after a restart)."""

    checkpoint: bytes = b""
    """JSON: the newest that a handler kept; empty: none."""
    checkpoint_at: tuple[Fence, int] = (0, 0)
    """Under which fence, by which question."""
    stream: Stream | None = None
    """Of a call whose items somebody reads as they come."""
    attempts: int = 0
    """Awards that were accepted."""
    tried: tuple[tuple[Fence, NodeId], ...] = ()
    """Under which fence and by whom, of the newest attempts."""
    failures: int = 0
    """Failures that count against `retries`."""
    faults: int = 0
    """Failures that were the node's: its worker died, a file did not come."""
    declines: int = 0
    """In a row; the next award of a task that is declined too often is auctioned."""
    took_down: dict[Fence, tuple[NodeId, bool]] | None = None
    """By award: whose worker or process was lost while it ran there, and whether that is sure."""
    lost: bool = False
    """A holder was lost while it may have been running."""
    excluded: NodeId = ""
    """Not asked the next time, if anybody else can."""
    favourite: NodeId = ""
    """Where it likes to be, of those who could be asked last; empty: it does not mind."""
    twin: TaskId = ""
    """A second attempt beside this one, as a task of its own."""
    hedges: TaskId = ""
    """Of such a one: whose it is. It has no effects, steps or checkpoints."""
    barred: NodeId = ""
    """Never asked."""
    pulled: tuple[Candidate, ...] = ()
    """Given back for an idle node: that node, and what the releaser expected of itself. Considered once."""
    reason: str = ""
    """Why it waits, or how it ended."""
    parked_told: str = ""
    """The newest reason in the journal."""
    progress: float = 0.0
    note: str = ""
    cancel_by: str = ""
    cancel_reason: str = ""

    decisions: list[Decided] | None = None
    """Plain calls keep theirs here; those of durable tasks are in the journal."""
    waiters: list[tuple[NodeId, int]] | None = None
    """Who asked for the result and waits: ``(node, ask)``."""
    askers: list[tuple[NodeId, int]] | None = None
    """Workers' nodes that wait for this step: ``(node, ask)``."""
    children: dict[str, Task] | None = None
    """Steps by name. Shared by all attempts: that is the replay."""
    signals: dict[str, Events] | None = None
    """By name: those that it has got; None: not looked at since the start."""
    signals_had: dict[str, int] = field(default_factory=dict)
    """Of each name, when it last began anew."""
    anew_at: tuple[Fence, int] = (0, 0)
    """When that was: under which fence, by which question."""
    is_past: bool = False
    """Of a step: its parent has begun anew since, and knows it no more."""
    said: tuple[Said, ...] = ()
    """Of a wait: what was answered so far."""
    account: Account | None = None
    """What it has and spends, if there is a budget here or above, or it spends without."""
    effects: dict[str, Intent] | None = None
    """Effects by key, in the order they were first begun. Shared by all attempts too."""

    scope: Scope | None = None
    """Its state, that of all its steps; None: nothing was written to it."""

    node: NodeId = ""
    """Whose result was committed, or who had it last."""
    output: bytes | None = None
    """None: none, or only its hash is remembered."""
    output_hash: Hash = ""
    output_files: tuple[FileRef, ...] = ()
    missing: tuple[Hash, ...] = ()
    """Files of the result that are still being fetched."""
    fetches: int = 0
    error: dict[str, Any] | None = None
    service_ms: int = 0
    ended_at_s: float = 0.0
    seq: int = 0
    """Number of the entry that submitted it, in the journal of who drives it; 0: it has none."""
    end_seq: int = 0
    """Number of the entry that ended it."""
    fence_min: Fence = 0
    """No award of it may have a smaller one."""

    @property
    def ended(self) -> bool:
        return self.state in TERMINAL

    @property
    def line(self) -> str:
        """In which line it waits: with work of the same capability that may run at the same nodes."""
        where = self.placement.where
        return f"{self.capability} where {', '.join(where)}" if where else self.capability

    def bound(self, node: NodeId) -> None:
        """An award was accepted: another attempt."""
        self.attempts += 1
        self.tried = (*self.tried[1 - TRIED_MAX :], (self.fence, node))

    def begin_anew(self, had: dict[str, int]) -> None:
        """What it has done so far is in its newest checkpoint: steps that have ended, and effects, are forgotten. `had`: how many signals
        of each name it has had; later ones wait for it."""
        self.signals_had, self.anew_at, self.effects, self.signals = had, self.checkpoint_at, None, None
        if self.account is not None:
            self.account.begin_anew()
        children, self.children = self.children or {}, {}
        for name, child in children.items():
            signal = signal_of(name)
            if child.ended and not name.startswith(PREFIX) and (signal is None or signal[1] < had.get(signal[0], 0)):
                child.is_past = True
            else:
                self.children[name] = child

    def left_ms(self, now_s: float) -> int:
        """Until its deadline, at least 1; 0: it has none."""
        return max(1, int((self.submitted_at_s - now_s) * 1000) + self.timeout_ms) if self.timeout_ms else 0

    def move(self, event: str) -> None:
        """The only way `state` changes in a live manager. Asserts that the table has the transition."""
        to = TRANSITIONS.get((self.state, event))
        assert to is not None, f"{self.id}: no transition from {self.state} by {event}"
        self.state = to

    def forget_outcomes(self) -> None:
        """It has ended: nobody asks for the outcomes of its effects any more, only which there were."""
        if self.effects is None:
            return
        for intent in self.effects.values():
            intent.output = None
        shown = sorted(self.effects.items(), key=lambda pair: not pair[1].done)[-EFFECTS_SHOWN_MAX:]
        self.effects = dict(shown)


Find = Callable[[TaskId], Task | None]
"""A task that lives."""


def account_of(task: Task, find: Find) -> Account:
    """Work without a budget has an account as soon as it spends, or a step of it has a budget: what is used adds up along the steps."""
    if task.account is None:
        parent = find(task.parent) if task.step else None
        task.account = Account(task.id, (), account_of(parent, find) if parent is not None else None)
    return task.account


def open_account(task: Task, find: Find) -> None:
    """Of a new task, if it has a budget, or its parent an account. (Those of a plain call and its parent are kept apart.)"""
    parent = find(task.parent) if task.step else None
    if parent is not None and (task.budget or parent.account is not None):
        task.account = Account(task.id, task.budget, account_of(parent, find))
    elif task.budget:
        task.account = Account(task.id, task.budget)


def is_void(task: Task, cuts: Iterable[int]) -> bool:
    """Whether others drive it, whatever this log says of it later: submitted at or before an entry up to which they took over, and not
    known to have ended by then."""
    return any(0 < task.seq <= cut and not (task.ended and 0 < task.end_seq <= cut) for cut in cuts)
