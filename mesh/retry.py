"""What a handler raises to be run again later."""

from __future__ import annotations

from mesh.errors import UsageError


class Retry(Exception):
    """Run this again, and not before `after_s` seconds: the service it needs said so, or is known to be down.

    It counts as one of the capability's `retries`. Raises UsageError for an `after_s` that is no time.
    """

    def __init__(self, message: str = "", *, after_s: float = 0.0) -> None:
        if not 0.0 <= after_s < 10_000_000:
            raise UsageError(f"Retry(after_s={after_s!r})", fix="give seconds, 0 or more")
        super().__init__(message or f"to be tried again in {after_s:g} s")
        self.after_s = after_s
