"""The address book: which doors to dial, and when. Addresses are hints; who answers there is known only after the handshake.

    seed     given by the user: retried for ever, up to `seed_retry_max_s` apart
    door     where a known node says it is: retried for ever while it has not left
    hint     found by discovery: at most 256 of them, at most 5 dials a second, dropped after 8 failures (discovery finds it again)

Invariant: one dial at a time per address, none to an address where a linked node lives. It does not judge nodes by what dials say; that
is `membership.py`. Jitter keeps nodes that lost each other at the same moment from meeting at the same moment for ever.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

from mesh.core.deadlines import Deadlines
from mesh.core.membership.members import Members
from mesh.ids import NodeId
from mesh.limits import MembershipLimits

HINTS_MAX = 256
"""Strangers' addresses remembered: 256 * about 200 bytes."""
HINT_GAP_S = 0.2
"""Mere hints are dialled no faster than 5 a second: a liar on the network cannot make this node a port scanner."""
HINT_FAILURES_MAX = 8
OWN_ADDRESSES_MAX = 64
DIAL_PATIENCE_S = 10.0
"""A dial whose end was never told counts as failed after this: one to a door by another name ends as a `LinkUp` that does not say so."""
HOPELESS = ("other_mesh", "bad_certificate", "version", "revoked")
"""Answers that time alone does not change: asked again only now and then. Where a known node lives they count like any failure: whoever
stood between us for a moment may have given them."""


@dataclass(frozen=True, slots=True)
class DialDue:
    """Dial `address`, or find that the dial in flight never ended."""

    address: str


@dataclass(slots=True)
class Candidate:
    address: str
    seed: bool = False
    failures: int = 0
    dialling: bool = False
    dialled_at_s: float = float("-inf")
    nodes: dict[NodeId, None] = field(default_factory=dict)
    """Whose door it is, by their own word. A seed given by another name stays without and is greeted now and then."""


class AddressBook:
    """Bounded book of candidates. `members` is read for who is linked and who is dead."""

    def __init__(self, members: Members, deadlines: Deadlines, limits: MembershipLimits, random: Random, own: str) -> None:
        self._members = members
        self._deadlines = deadlines
        self._limits = limits
        self._random = random
        self._book: dict[str, Candidate] = {}
        self._own: dict[str, None] = {own: None}
        self._hints = 0
        self._pace_at_s = float("-inf")
        self._closed = False

    def __len__(self) -> int:
        return len(self._book)

    def nodes_at(self, address: str) -> list[NodeId]:
        """Who says to live there."""
        candidate = self._book.get(address)
        return list(candidate.nodes) if candidate else []

    # ---- what makes candidates

    def seed(self, now_s: float, address: str) -> None:
        candidate = self._candidate(address)
        if candidate is not None:
            if self._is_hint(candidate):
                self._hints -= 1
            candidate.seed = True
            self._schedule(candidate, now_s)

    def hint(self, now_s: float, address: str) -> bool:
        """False if there is no room for it."""
        if address in self._own or not address:
            return True
        candidate = self._book.get(address)
        if candidate is None:
            if self._hints >= HINTS_MAX and not self._evict():
                return False
            candidate = self._book[address] = Candidate(address)
            self._hints += 1
            self._schedule(candidate, self._slot(now_s))
        elif not self._is_hint(candidate) and now_s - candidate.dialled_at_s > 1.0:
            # A known door that is seen again on the network has probably just come back.
            self._schedule(candidate, now_s)
        return True

    def door(self, now_s: float, node: NodeId, address: str, before: str) -> None:
        """`node` says that its door is at `address` now; `before` is where it was (the same, or empty)."""
        if before and before != address:
            self._release(node, before)
        candidate = self._candidate(address)
        if candidate is None:
            return
        self._give(candidate, node)
        candidate.failures = 0
        # Both ends learn of each other at the same time: the lower id dials, the other only if that has come to nothing.
        self._schedule(candidate, now_s if self._members.me < node else now_s + self._limits.redial_min_s * (1 + self._random.random()))

    def redial(self, now_s: float, node: NodeId, address: str, delay_s: float = 0.0) -> None:
        """The link to `node`, who lives there, has ended."""
        candidate = self._candidate(address)
        if candidate is not None:
            self._give(candidate, node)
            candidate.failures = 0
            candidate.dialling = False
            self._schedule(candidate, now_s + delay_s)

    def close(self) -> None:
        """This node leaves: nothing is dialled any more."""
        self._closed = True

    # ---- what becomes of them

    def due(self, now_s: float, address: str) -> bool:
        """True if `address` is to be dialled now. Then `failed` or `reached` follows, or patience ends."""
        candidate = self._book.get(address)
        if candidate is None or self._closed or address in self._own:
            return False
        if self._settled(candidate):
            candidate.dialling = False
            if candidate.seed:
                self._schedule(candidate, now_s + self._limits.seed_retry_max_s)
            return False
        if candidate.dialling:
            self.failed(now_s, address, "timeout")
            return False
        candidate.dialling = True
        candidate.dialled_at_s = now_s
        self._deadlines.set(DialDue(address), now_s + DIAL_PATIENCE_S)
        return True

    def failed(self, now_s: float, address: str, reason: str) -> None:
        candidate = self._book.get(address)
        if candidate is None:
            return
        candidate.dialling = False
        if reason == "self":
            self._drop(candidate)
            self._own[address] = None
            while len(self._own) > OWN_ADDRESSES_MAX:
                del self._own[next(iter(self._own))]
            return
        candidate.failures += 1
        hint = self._is_hint(candidate)
        if hint and candidate.failures >= HINT_FAILURES_MAX:
            self._drop(candidate)
            return
        cap_s = self._limits.seed_retry_max_s
        if candidate.nodes:
            cap_s = self._members.redial_cap_s(candidate.nodes)
        backoff_s = min(cap_s, self._limits.redial_min_s * (1 << min(candidate.failures, 20)))
        if reason in HOPELESS and not candidate.nodes:
            backoff_s = 2 * self._limits.seed_retry_max_s
        at_s = now_s + backoff_s * (0.5 + self._random.random() / 2)
        self._schedule(candidate, self._slot(at_s) if hint else at_s)

    def reached(self, node: NodeId, door: str) -> None:
        """A link to `node` exists, whoever dialled. A dial by another name of that door runs out of patience, or into the same link."""
        candidate = self._candidate(door)
        if candidate is not None:
            self._give(candidate, node)
            candidate.dialling = False
            candidate.failures = 0

    def forget(self, node: NodeId, door: str) -> None:
        """`node` has left or is forgotten: its door is nobody's unless somebody else says so."""
        self._release(node, door)

    # ---- inside

    def _is_hint(self, candidate: Candidate) -> bool:
        return not candidate.seed and not candidate.nodes

    def _settled(self, candidate: Candidate) -> bool:
        return any(node in self._members.linked for node in candidate.nodes)

    def _candidate(self, address: str) -> Candidate | None:
        """The entry of a known node's door, made if needed; None for the doors of this node."""
        if not address or address in self._own:
            return None
        candidate = self._book.get(address)
        if candidate is None:
            candidate = self._book[address] = Candidate(address)
            self._hints += 1
        return candidate

    def _give(self, candidate: Candidate, node: NodeId) -> None:
        if self._is_hint(candidate):
            self._hints -= 1
        candidate.nodes[node] = None

    def _slot(self, at_s: float) -> float:
        self._pace_at_s = max(at_s, self._pace_at_s + HINT_GAP_S)
        return self._pace_at_s

    def _schedule(self, candidate: Candidate, at_s: float) -> None:
        if not candidate.dialling and not self._closed:
            self._deadlines.set(DialDue(candidate.address), at_s)

    def _release(self, node: NodeId, address: str) -> None:
        candidate = self._book.get(address)
        if candidate is not None and node in candidate.nodes:
            del candidate.nodes[node]
            if self._is_hint(candidate):
                self._hints += 1
                self._drop(candidate)

    def _drop(self, candidate: Candidate) -> None:
        if self._is_hint(candidate):
            self._hints -= 1
        self._deadlines.clear(DialDue(candidate.address))
        self._book.pop(candidate.address, None)

    def _evict(self) -> bool:
        """Room for a new hint at the cost of the one that failed most."""
        failed = [c for c in self._book.values() if self._is_hint(c) and c.failures]
        if not failed:
            return False
        self._drop(max(failed, key=lambda c: c.failures))
        return True
