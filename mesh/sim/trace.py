"""The trace: one line per event, chained into one hash. Same seed and same code give the same hash, in any process.

Hashing every message whole would cost more than handling it, so a line names time, host, sender and kind, and every 16th line the whole
input as well: a difference in a message's content surfaces there, or in the times of what follows from it. `deep` hashes all of them.
"""

from __future__ import annotations

import hashlib
from typing import Any, Protocol

SAMPLE = 16
CHUNK = 512


class Lines(Protocol):
    """Where lines are written to, if anywhere: an open text file."""

    def write(self, text: str, /) -> object: ...


class Trace:
    """Counts and hashes events. `lines` receives one full line per event."""

    __slots__ = ("_chain", "_chunk", "_deep", "_lines", "events")

    def __init__(self, lines: Lines | None = None, *, deep: bool = False) -> None:
        self.events = 0
        self._lines = lines
        self._deep = deep
        self._chunk: list[str] = []
        self._chain = hashlib.blake2b(digest_size=16)

    def add(self, at_s: float, host: str, sender: str, body: Any) -> None:
        self.events += 1
        if self._deep or self.events % SAMPLE == 0:
            line = f"{at_s!r} {host} {sender} {body!r}"
        else:
            line = f"{at_s!r} {host} {sender} {type(body).__name__}"
        self._chunk.append(line)
        if len(self._chunk) >= CHUNK:
            self._fold()
        if self._lines is not None:
            self._lines.write(f"{self.events} {at_s:.6f} {host} <- {sender}: {body!r}\n")

    def note(self, at_s: float, text: str) -> None:
        """Something the world did itself: a fault, a client's wish. Part of the hash, not counted as an event of a node."""
        self._chunk.append(f"{at_s!r} - {text}")
        if self._lines is not None:
            self._lines.write(f"- {at_s:.6f} {text}\n")

    def _fold(self) -> None:
        self._chain.update("\n".join(self._chunk).encode("utf-8", "replace"))
        self._chunk.clear()

    def hash(self) -> str:
        self._fold()
        return self._chain.hexdigest()
