"""What a policy's document says of a coordinator: the mesh's mode, and which rules ask for his word.

    mode = "hybrid"                                    or { name = "central", open_after = "30s" }
    admit = "closed" | "cached" | { open_after = "30s" } | { cached = "10m", limit = 5, rate = "10/1m", total = 1000 }

Invariant: a rule that asks for a coordinator's word in a mesh in which none is heard is a problem of the document, never passed over.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from mesh.core.policy.rules import CENTRAL, DECENTRALIZED, HYBRID, Admit, Mode, Rule

if TYPE_CHECKING:
    from mesh.core.policy.fields import Fields, Place

CLOSED, CACHED, OPEN = "closed", "cached", "open"
CACHED_MS = 300_000
"""How long a coordinator's last decision is gone by, where the rule does not say."""
MODES = (DECENTRALIZED, HYBRID, CENTRAL)
MANY = 1_000_000
AT_ONCE_MAX = 1000
"""Of one rule: whoever holds the office tells them apart."""
_MODE_FIX = 'write mode = "hybrid", or mode = { name = "central", open_after = "30s" }'
_ADMIT_FIX = 'write "closed", "cached", { open_after = "30s" }, or { absent = "closed", limit = 5, rate = "10/1m" }'


def mode_of(fields: Fields) -> Mode:
    if not fields.has("mode"):
        return Mode()
    value, after_ms = fields.table["mode"], 0
    if isinstance(value, dict):
        inner = type(fields)(value, (*fields.where, "mode"))
        value, after_ms = inner.text("name"), inner.duration_ms("open_after")
        inner.end()
    if value not in MODES:
        fields.bad("mode", f"{value!r:.60} is none of {', '.join(MODES)}", _MODE_FIX)
    if after_ms and value != CENTRAL:
        fields.bad("mode", "open_after is for the mode central: in the others nobody waits for a coordinator but by a rule", _MODE_FIX)
    return Mode(str(value), after_ms)


def admit_of(fields: Fields, rate_of: Callable[[Fields], tuple[int, int]]) -> Admit | None:
    if not fields.has("admit"):
        return None
    value = fields.table["admit"]
    if value in (CLOSED, CACHED):
        return Admit(str(value), cached_ms=CACHED_MS if value == CACHED else 0)
    if not isinstance(value, dict):
        fields.bad("admit", f"{value!r:.60} is not what it can be", _ADMIT_FIX)
    inner = type(fields)(value, (*fields.where, "admit"))
    absent, after_ms, cached_ms = inner.text("absent"), inner.duration_ms("open_after"), inner.duration_ms("cached")
    ways = [way for way, there in ((absent, absent), (OPEN, after_ms), (CACHED, cached_ms)) if there]
    if absent not in ("", CLOSED, CACHED) or len(ways) > 1:
        fields.bad("admit", "there is one thing to do while there is no coordinator", _ADMIT_FIX)
    way = ways[0] if ways else CLOSED
    limit, total, rate = inner.number("limit", 0, 1, AT_ONCE_MAX), inner.number("total", 0, 1, MANY), rate_of(inner)
    inner.end()
    return Admit(way, after_ms, cached_ms or (CACHED_MS if way == CACHED else 0), limit, rate, total)


def unheard(mode: Mode, rules: Sequence[Rule]) -> list[tuple[Place, str, str]]:
    """Where, why, and what to write: of rules that wait for a coordinator nobody hears."""
    if mode.name != DECENTRALIZED:
        return []
    asking = next((rule for rule in rules if rule.admit is not None), None)
    if asking is None:
        return []
    return [
        (("mode",), f"rule {asking.id!r} asks for a coordinator's word, and in mode {DECENTRALIZED} none is heard", 'write mode = "hybrid"')
    ]
