"""Bounds of time as users give them, in seconds. Raises UsageError for what is none."""

from __future__ import annotations

from mesh.errors import UsageError

TIMEOUT_MAX_S = 365 * 86400.0


def checked_s(seconds: float | None) -> float | None:
    """A timeout; None: no bound."""
    if seconds is None or 0 < seconds <= TIMEOUT_MAX_S:
        return seconds
    raise UsageError(f"a timeout of {seconds!r} s", fix=f"give seconds above 0, at most {TIMEOUT_MAX_S:g}; None for no bound")


def wait_ms(seconds: float) -> int:
    """A wait, which may be none, in milliseconds."""
    if 0 <= seconds <= TIMEOUT_MAX_S:
        return round(1000 * seconds)
    raise UsageError(f"a wait of {seconds!r} s", fix=f"give seconds, 0 to {TIMEOUT_MAX_S:g}")


def bounds_ms(queue_s: float | None, run_s: float | None, heartbeat_s: float | None) -> tuple[int, int, int]:
    """As `mesh.messages.work.Bounds`: milliseconds, 0 where nothing is said."""
    queue_ms, run_ms, heartbeat_ms = (
        max(1, round(1000 * seconds)) if (seconds := checked_s(given)) is not None else 0 for given in (queue_s, run_s, heartbeat_s)
    )
    return queue_ms, run_ms, heartbeat_ms
