"""A price: what an ``@agent.bid`` function answers."""

from __future__ import annotations

import math
from dataclasses import dataclass

from mesh.errors import UsageError


@dataclass(frozen=True, slots=True)
class Bid:
    """What this agent asks for one piece of work. Less wins: 1 of `cost` weighs as much as one second of waiting.

    `cost` has no unit of its own and is at least 0. `eta_s` is how long the work would take, in seconds; None: as measured so far.
    Raises UsageError if either is negative or not a finite number.
    """

    cost: float
    eta_s: float | None = None

    def __post_init__(self) -> None:
        for name, value in (("cost", self.cost), ("eta_s", self.eta_s)):
            if value is not None and not (math.isfinite(value) and value >= 0):
                raise UsageError(
                    f"Bid: {name} must be a finite number, at least 0, not {value!r}", fix=f"return None to decline; else give {name} >= 0"
                )
