"""What goes into the machine that sums up the journal. See `core/inputs.py`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class OpenFound:
    """Of all synced entries up to `upto` these numbers are still needed, ascending; None: too many to be written down."""

    upto: int
    open: tuple[int, ...] | None
