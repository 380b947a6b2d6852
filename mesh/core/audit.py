"""What goes on record for security's sake: the one form of such entries, and refusals in measure.

    Refused, Refused, Refused, ... --Tally--> at most one entry per (reason, peer) and minute, with a count

Invariant: however many refusals a peer provokes, the journal grows by `refusals_per_minute_max` + 1 entries a minute at most, and none is
missing from the counts. Kept apart from the machines because the wire's refusals, which no machine sees, are counted in the same way.
"""

from __future__ import annotations

from mesh.core.inputs import Audit
from mesh.ids import NodeId
from mesh.limits import RecordsLimits
from mesh.messages.records import Audited

MINUTE_S = 60.0
REFUSED = "refused"
OTHERS = "others"
"""The reason under which a full table counts on."""

SUSPICIOUS = frozenset(
    (
        "bad_certificate",
        "bad_head",
        "bad_output_hash",
        "bad_witness",
        "clone_seen",
        "fork",
        "input_hash_wrong",
        "no_fork",
        "no_statement",
        "not_author",
        "not_manager",
        "not_membership",
        "own_head_ahead",
        "own_revocation",
        "own_suspect",
        "revoked",
        "trust_full",
        "witness_differs",
        "wrong_bytes",
    )
)
"""Refusals of the core that an honest peer of this version never provokes, or that concern its standing. All others happen on good days."""


def audited(audit: Audit, at_ms: int, limits: RecordsLimits) -> Audited:
    """The entry. Texts are cut to what the journal can read back; `at_ms` holds where `audit` names no time."""
    most = limits.audit_note_chars_max
    return Audited(audit.what[:most], audit.about[:most], audit.by[:most], audit.note[:most], audit.at_ms or at_ms)


class Tally:
    """Refusals of the running minute. Sort it into the journal with `take` when `due_s` has come, and when the node ends."""

    def __init__(self, me: NodeId, limits: RecordsLimits) -> None:
        self._me = me
        self._limits = limits
        self._counts: dict[tuple[str, NodeId], int] = {}
        self.due_s: float | None = None
        """When the minute of the first refusal is over; None: there was none."""

    def note(self, now_s: float, reason: str, peer: NodeId = "", count: int = 1) -> None:
        """`peer`: a node, an address, or nobody in particular."""
        if self.due_s is None:
            self.due_s = now_s + MINUTE_S
        key = (reason, peer)
        if key not in self._counts and len(self._counts) >= self._limits.refusals_per_minute_max:
            key = (OTHERS, "")
        self._counts[key] = self._counts.get(key, 0) + count

    def take(self) -> list[Audit]:
        """What was counted, in the order in which it began; then it begins anew."""
        counts, self._counts, self.due_s = self._counts, {}, None
        return [Audit(REFUSED, peer, self._me, f"{reason} x{count}") for (reason, peer), count in counts.items()]
