"""Limits over the whole mesh, as slots that are leased: who offers limited work asks the owner of its limits for some, now and then.

holder                                 owner
  SLOT_ASK       --------------------->              also the holder's word that it follows this owner for a while
                 <---------------------  SLOT_GRANT       slots under a lease
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class SlotItem:
    """Of one limit: `window_ms` 0 bounds how many run at once, another one how many start within so long."""

    capability: str
    window_ms: int
    want: int
    """So many would be of use now."""
    held: int
    """So many the sender counts as its own until it hears otherwise: never more than it was granted, but what is in use."""
    used: int
    """Of those, so many runs, or starts within the window."""


@dataclass(slots=True)
class SlotAsk:
    """`ask` grows with each; only a grant for the newest counts. The sender follows nobody else until, on the receiver's clock,
    ``echo_ms + follow_ms``. `young`: since its start so little time has passed that it may not know of all that is in use."""

    ask: int
    items: tuple[SlotItem, ...]
    echo_ms: int
    follow_ms: int
    young: bool = False


@dataclass(slots=True)
class SlotGrant:
    """For each limit ``(capability, window_ms, slots)``, under a lease that ends, on the holder's clock, at ``echo_ms + grant_ms``."""

    ask: int
    items: tuple[tuple[str, int, int], ...]
    echo_ms: int
    grant_ms: int
