"""Who is here: probes, rumours, anti-entropy. The first four classes are bodies of signed objects.

A row of knowledge about a node is ordered by ``(incarnation, version, alive < suspect < dead < left)``. The *incarnation* is the node's
persisted start counter; the *version* is raised by the node itself within one life, to refute a suspicion or to change its row.
"""

from __future__ import annotations

from dataclasses import dataclass

from mesh.ids import NodeId
from mesh.messages.signed import Signed
from mesh.messages.triggers import Plan

Epoch = tuple[int, int]
"""Of the office of coordinator: the number of its task, and that task's fence."""
NO_EPOCH: Epoch = (0, 0)


@dataclass(frozen=True, slots=True)
class Variant:
    """Another version of a capability beside that of its `Offer`, at the same node: what may differ. As there."""

    version: str
    agent: str
    idempotent: bool = False
    timeout_ms: int = 0
    retries: int = 0
    on_lost: str = "retry"
    input_schema: str = ""
    output_schema: str = ""
    heartbeat_ms: int = 0
    labels: tuple[tuple[str, ...], ...] = ()


@dataclass(slots=True)
class Offer:
    """One capability as its agent declares it. `input_schema` and `output_schema` are JSON Schema 2020-12 as text."""

    capability: str
    agent: str
    version: str = "1"
    doc: str = ""
    idempotent: bool = False
    timeout_ms: int = 0
    retries: int = 0
    on_lost: str = "retry"
    """``retry``: run again elsewhere when the node that ran it is lost; ``fail``: for what must not repeat."""
    priced: bool = False
    """An ``@agent.bid`` function prices the work, so it is always auctioned."""
    input_schema: str = ""
    output_schema: str = ""
    tags: tuple[str, ...] = ()
    queue_timeout_ms: int = 0
    """How long work may wait for an award; 0: for ever. (`timeout_ms` bounds one run of the handler.)"""
    heartbeat_ms: int = 0
    """A handler that is silent for longer is taken for stuck; 0: silence says nothing."""
    labels: tuple[tuple[str, ...], ...] = ()
    """What the workers are that offer it here, each kind once: ``name=value``, or ``name``."""
    needs: tuple[tuple[str, int], ...] = ()
    """What one run takes of its node's resources, in thousandths."""
    limit: int = 0
    """So many run at once over the whole mesh; 0: as many as there are slots."""
    rate: int = 0
    rate_ms: int = 0
    """So many start within so long over the whole mesh; 0: no such bound."""
    topics: tuple[str, ...] = ()
    """Patterns of the topics whose events become its tasks."""
    schedules: tuple[Plan, ...] = ()
    variants: tuple[Variant, ...] = ()
    """Other versions of it that workers of this node offer."""


@dataclass(slots=True)
class Alive:
    """The node's own row: where it is and what it offers.

    `certificate` is its chain, which proves membership to a stranger (empty in the simulator).
    """

    node: NodeId
    incarnation: int
    version: int
    name: str
    door: str
    router: str
    offers: tuple[Offer, ...] = ()
    certificate: bytes = b""
    keeps: bool = True
    """It may keep others' journals for them: its certificate lets it manage work and read payloads."""


@dataclass(slots=True)
class Suspect:
    """`by` (the author) could not reach that row of `node`; also his vote for its death. `hard`: his own connect was refused."""

    node: NodeId
    incarnation: int
    version: int
    hard: bool = False


@dataclass(slots=True)
class Left:
    """The node took itself out; ends its incarnation."""

    node: NodeId
    incarnation: int


@dataclass(slots=True)
class Dead:
    """A death certificate: suspicions of the same row by H distinct roster members. Not signed itself; every vote is."""

    node: NodeId
    incarnation: int
    version: int
    votes: tuple[Signed, ...] = ()


# ---- messages


@dataclass(slots=True)
class Ping:
    probe: int
    trust: int = 0
    """A digest of the trust statements the sender knows: who lacks one, or has more, says so at once."""


@dataclass(slots=True)
class Ack:
    probe: int
    trust: int = 0


@dataclass(slots=True)
class PingRequest:
    """Please probe `target` for me."""

    probe: int
    target: NodeId


@dataclass(slots=True)
class PingReport:
    """The indirect probe's end."""

    probe: int
    target: NodeId
    reached: bool


@dataclass(slots=True)
class Rumours:
    """Signed Alive, Suspect and Left objects, and death certificates."""

    statements: tuple[Signed, ...] = ()
    deaths: tuple[Dead, ...] = ()


@dataclass(slots=True)
class Digest:
    """Anti-entropy, first half: ``(node, incarnation, version, state)`` of every row; `answer` asks for one in return."""

    rows: tuple[tuple[NodeId, int, int, str], ...]
    answer: bool = True
    trust: int = 0
    """As in `Ping`: a link on which much is said is never pinged."""


@dataclass(slots=True)
class Load:
    """How busy the sender is, by capability. Soft: a newer one replaces it; `version` grows within a session."""

    version: int
    rows: tuple[LoadRow, ...]
    draining: bool = False
    """It takes no more work, and lets end what runs."""
    office: Epoch = NO_EPOCH
    """Under which it holds the mesh's office of coordinator."""


@dataclass(slots=True)
class LoadRow:
    """`room`: how many more awards would be accepted now. `service_ms`: what one takes, measured; 0 if never run here."""

    capability: str
    slots: int
    busy: int
    queued: int
    room: int
    service_ms: int
    breaker: str = ""
    """open: no work is taken for a while, too much of it failed here; half_open: one piece, on trial; empty: closed."""
    failing: int = 0
    """Percent of its newest runs that failed; 0 where few have run."""
