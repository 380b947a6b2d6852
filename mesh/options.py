"""The options of one piece of work, as users write them and as a node is told of them. Raises UsageError for what is none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mesh.bounding import bounds_ms, checked_rank
from mesh.errors import UsageError
from mesh.ids import NO_BAGGAGE, Baggage
from mesh.labels import Labels, budget_of, placement_of
from mesh.versions import FORM, MARK, is_range, split


def how_of(
    *,
    queue_timeout_s: float | None,
    run_timeout_s: float | None,
    heartbeat_timeout_s: float | None,
    where: Labels | None,
    near: str,
    apart: str,
    hedge: bool,
    priority: int | None,
    share: str | None,
    budget: Mapping[str, float] | None = None,
    baggage: Baggage = NO_BAGGAGE,
) -> dict[str, Any]:
    """``{"bounds", "placement", "rank"}``, and ``"budget"`` and ``"baggage"`` if there is any: fields of the requests ``call``, ``submit``,
    ``stream`` and ``step``."""
    limit = budget_of(budget)
    return ({"budget": limit} if limit else {}) | {
        "bounds": list(bounds_ms(queue_timeout_s, run_timeout_s, heartbeat_timeout_s)),
        "placement": placement_of(where, near, apart, hedge),
        "rank": list(checked_rank(priority, share)),
        **({"baggage": [list(one) for one in baggage]} if baggage else {}),
    }


def versioned(capability: str, how: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """``report.render@^2``: the name, and the options with that range among what whoever runs it must have."""
    name, wanted = split(capability)
    if name == capability:
        return capability, how
    if not name or not is_range(wanted):
        raise UsageError(f"{capability!r}: {wanted!r} is no range of versions", fix=f"{FORM}: {name or 'CAPABILITY'}@^2")
    placement = how.get("placement", {})
    return name, how | {"placement": placement | {"where": sorted([*placement.get("where", ()), MARK + wanted])}}
