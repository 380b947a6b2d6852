"""The history: append-only records of what a run did, written by the harness. Checkers read it and nothing else.

    hosts, workers, clients, disks --> History.add(record) --> every checker that takes this kind of record --> violations

Records name what an outsider could have seen: what left a node, what its disk had synced, what a handler did, what a node answers when it
is asked. No record holds a node's private state, so the same checkers can judge a run of real processes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from mesh.ids import Fence, NodeId, TaskId

ViewRow = tuple[NodeId, str, int, int, tuple[str, ...]]
"""``(node, state, incarnation, version, capabilities)`` as one node sees another."""


@dataclass(frozen=True, slots=True)
class Phase:
    """``storm``, ``quiet``, ``settled`` (quiet is over: liveness is judged), ``farewell`` (one node goes for good), ``end``."""

    at_s: float
    name: str


@dataclass(frozen=True, slots=True)
class NodeUp:
    """A process started: incarnation `incarnation`, on a disk whose last synced entry is `seq` with head `head`."""

    at_s: float
    node: NodeId
    incarnation: int
    seq: int
    head: bytes


@dataclass(frozen=True, slots=True)
class NodeDown:
    at_s: float
    node: NodeId
    for_good: bool = False


@dataclass(frozen=True, slots=True)
class RowIssued:
    """The node itself now shows this row of itself."""

    at_s: float
    node: NodeId
    incarnation: int
    version: int


@dataclass(frozen=True, slots=True)
class Viewed:
    """What `node` answers when asked who is here."""

    at_s: float
    node: NodeId
    rows: tuple[ViewRow, ...]


@dataclass(frozen=True, slots=True)
class Appended:
    at_s: float
    node: NodeId
    incarnation: int
    seq: int
    entry: Any
    copied: bool = False
    """It was another author's, about a task that this node is to take over."""


@dataclass(frozen=True, slots=True)
class Synced:
    """The disk of `node` holds everything up to `seq`; `commit` is the signed group that ended there."""

    at_s: float
    node: NodeId
    seq: int
    commit: Any
    commit_hash: bytes
    entries: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class SyncFailed:
    """The disk of `node` could not write what it was given: nothing of this life may be promised, or leave, any more."""

    at_s: float
    node: NodeId


@dataclass(frozen=True, slots=True)
class PutBack:
    """The disk of `node` holds an older image, which ends at `seq` with `head`, made in its life number `incarnation`, the newest one."""

    at_s: float
    node: NodeId
    incarnation: int
    seq: int
    head: bytes
    hlc: int


@dataclass(frozen=True, slots=True)
class Admitted:
    """What `node` says of its own journal: why it is not what it was; empty: nothing."""

    at_s: float
    node: NodeId
    why: str


@dataclass(frozen=True, slots=True)
class KeptUpTo:
    """A majority of those who keep the journal of `node` has it up to `seq`; -1: nobody but it keeps it. Others drive, from now on and for
    good, what it had submitted up to entry `taken`."""

    at_s: float
    node: NodeId
    seq: int
    taken: int = 0


@dataclass(frozen=True, slots=True)
class Outward:
    """An effect left the node: a message, an answer to a client, a handler to run."""

    at_s: float
    node: NodeId
    effect: Any


@dataclass(frozen=True, slots=True)
class Delivered:
    at_s: float
    node: NodeId
    sender: NodeId
    message: Any


@dataclass(frozen=True, slots=True)
class Asked:
    at_s: float
    node: NodeId
    request: int
    command: Any


@dataclass(frozen=True, slots=True)
class Touched:
    """A user wants to read or write a shared value (`sharing.Touch`). Answered like what is `Asked`, but nobody owes him an answer."""

    at_s: float
    node: NodeId
    request: int
    touch: Any


@dataclass(frozen=True, slots=True)
class Answered:
    at_s: float
    node: NodeId
    request: int
    ok: bool
    body: dict[str, Any]


@dataclass(frozen=True, slots=True)
class HandlerBegan:
    at_s: float
    node: NodeId
    worker: int
    task: TaskId
    fence: Fence
    idempotent: bool
    capability: str = ""
    limit: int = 0
    rate: int = 0
    """So many of it may run at once, and start within a second, over the whole mesh; 0: no bound."""


@dataclass(frozen=True, slots=True)
class Staffed:
    """A worker attached to `node`: what its machine is and has, and what each of its capabilities needs of that."""

    at_s: float
    node: NodeId
    worker: int
    labels: tuple[str, ...]
    resources: tuple[tuple[str, int], ...]
    needs: tuple[tuple[str, tuple[tuple[str, int], ...]], ...]


@dataclass(frozen=True, slots=True)
class HandlerOver:
    at_s: float
    node: NodeId
    worker: int
    task: TaskId
    fence: Fence
    outcome: str


@dataclass(frozen=True, slots=True)
class EffectTried:
    """A handler reached for the outside world; the sink compares fences. `accepted`: this one was not older than the newest.

    `late`: its process stood still between the look at its lease and this, which no lease can help.
    """

    at_s: float
    node: NodeId
    task: TaskId
    fence: Fence
    idempotent: bool
    accepted: bool
    late: bool = False


@dataclass(frozen=True, slots=True)
class Reached:
    """A handler did something to the outside world under a key, in its call `call`. `outcome`: "" if the world refused a stale fence;
    `executed`: it had not been done before under that key."""

    at_s: float
    node: NodeId
    task: TaskId
    fence: Fence
    key: str
    call: int
    once: bool
    outcome: str
    executed: bool


@dataclass(frozen=True, slots=True)
class Learned:
    """What ``ctx.effect`` gave to a handler as the outcome of `key`."""

    at_s: float
    node: NodeId
    task: TaskId
    fence: Fence
    key: str
    outcome: str


@dataclass(frozen=True, slots=True)
class Upheld:
    """`node` was told that `target` is not believed any more, and enforces it."""

    at_s: float
    node: NodeId
    target: NodeId


@dataclass(frozen=True, slots=True)
class ClockBroken:
    """From here on the clock of `node` ran outside the declared drift, or leapt: leases alone promise nothing about it."""

    at_s: float
    node: NodeId


@dataclass(frozen=True, slots=True)
class Measured:
    """A bounded thing's size, from a component's own statistics."""

    at_s: float
    node: NodeId
    what: str
    value: int


@dataclass(frozen=True, slots=True)
class Raised:
    """A core let an exception out."""

    at_s: float
    node: NodeId
    error: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """One broken invariant."""

    at_s: float
    invariant: str
    text: str


Takes = dict[type, Callable[[Any], Iterable[Verdict]]]


class Checker(Protocol):
    """`takes` maps record types to methods that yield verdicts; `watches` names the message and effect types it wants recorded."""

    takes: Takes
    watches: tuple[type, ...]


class History:
    """Hands each record to the checkers as it is written. Keeps the records only if asked: a long run has millions."""

    def __init__(self, checkers: Iterable[Checker] = (), *, keep: bool = False, verdicts_max: int = 50) -> None:
        self.records: list[Any] = []
        self.verdicts: list[Verdict] = []
        self._keep = keep
        self._verdicts_max = verdicts_max
        self._takers: dict[type, list[Callable[[Any], Iterable[Verdict]]]] = {}
        watched: dict[type, None] = {}
        for checker in checkers:
            watched.update(dict.fromkeys(checker.watches))
            for kind, method in checker.takes.items():
                self._takers.setdefault(kind, []).append(method)
        self.watched = frozenset(watched)

    def add(self, record: Any) -> None:
        if self._keep:
            self.records.append(record)
        for method in self._takers.get(type(record), ()):
            for verdict in method(record):
                if len(self.verdicts) < self._verdicts_max:
                    self.verdicts.append(verdict)
