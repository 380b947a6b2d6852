"""What the contractor counts, for those who look and never touch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ContractorStatistics:
    """One moment of a contractor; times in seconds, counts since the start of this life."""

    workers: int
    slots: int
    busy: int
    queued: int
    share_keys: int
    """That are told apart in the queue."""
    held: int
    managers: int
    accepted: int
    declined: int
    executed: int
    ended: int
    failed: int
    resent: int
    lapsed: int
    overrun: int
    stuck: int
    bids: int
    refusals: int
    prices_waiting: int
    loads_told: int
    draining: bool
    breakers_opened: int
    limit_asks: int
    limit_leases: int
    """Of slots, that this node gave out as an owner."""
    limit_stopped: int
    """Handlers whose slot was not renewed."""
    log_bytes: int
    pulls: int
    given_up: int
    """To idle nodes that pulled."""
    resources: tuple[tuple[str, int, int], ...]
    """``(name, held, total)``, in thousandths."""
