"""Which sequence numbers of a session were seen.

    newest ........................ newest - 1023      older: refused
      1 0 1 1 1 1 ...  bitmap: bit n is set when `newest - n` was accepted

Invariant: a number is accepted at most once, and an envelope's numbers all together or not at all. `peek` before the signature is checked,
`accept` after it held: a forger cannot move the window. Does not know sessions; each has its own window. Source: RFC 4303, section 3.4.3.
"""

from __future__ import annotations

from mesh.limits import LinkLimits


class ReplayWindow:
    """Numbers start at 1. `size`: how far behind the newest a late envelope may still be."""

    __slots__ = ("_full", "_newest", "_seen", "_size")

    def __init__(self, size: int = LinkLimits().window) -> None:
        self._size = size
        self._full = (1 << size) - 1
        self._newest = 0
        self._seen = 0

    @property
    def newest(self) -> int:
        return self._newest

    def peek(self, first: int, count: int) -> bool:
        """Whether all of ``first .. first + count - 1`` are new. Changes nothing."""
        if first < 1 or count < 1:
            return False
        if first > self._newest:
            return True
        behind = self._newest - first
        if behind >= self._size:
            return False
        # Bits of the range that are not above the newest: the last of them is `newest - last`, never below zero.
        last = min(first + count - 1, self._newest)
        wanted = ((1 << (last - first + 1)) - 1) << (self._newest - last)
        return not self._seen & wanted

    def accept(self, first: int, count: int) -> None:
        """Mark them seen. Raises AssertionError if one was: `peek` first."""
        assert self.peek(first, count), "an envelope that was seen before got past the peek"
        last = first + count - 1
        if last > self._newest:
            ahead = last - self._newest
            self._seen = self._seen << ahead & self._full if ahead < self._size else 0
            self._newest = last
        self._seen |= ((1 << count) - 1) << (self._newest - last) & self._full
