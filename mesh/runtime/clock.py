"""The two clocks of a node. Both are handed to whoever needs the time, so that the simulator can hand out others.

    now_s()     durations, timers, stamps, leases: seconds since boot, sleep of the machine included
    wall_ms()   what people read, and the skew check of envelopes: Unix time

Why sleep must count: a holder that was asleep for longer than its lease must find the lease over when it wakes. Linux counts sleep in
CLOCK_BOOTTIME only; on macOS CLOCK_MONOTONIC does, but Python's `time.monotonic()` there reads another clock that stops: never used here.
"""

from __future__ import annotations

import time

_CLOCK: int = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def now_s() -> float:
    """Seconds since boot, sleep included. Comparable between processes of one machine and one boot, never between machines."""
    return time.clock_gettime(_CLOCK)


def now_ms() -> int:
    """The same in whole milliseconds: what stamps on the wire are made of."""
    return int(time.clock_gettime(_CLOCK) * 1000)


def wall_ms() -> int:
    """Unix time in milliseconds. May jump; nothing but display and the bounded skew check uses it."""
    return time.time_ns() // 1_000_000
