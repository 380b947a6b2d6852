"""What waits for the disk. The only place that knows the rule: nothing leaves before what it depends on is synced."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from mesh.effects import Effect


@dataclass(frozen=True, slots=True)
class OutboxStatistics:
    synced: int
    waiting: int
    released: int


class Outbox:
    """Holds effects, in order, until their watermark is reached. `synced` is the last journal number known to be on disk."""

    def __init__(self, synced: int = 0) -> None:
        self._synced = synced
        self._waiting: deque[Effect] = deque()
        self._released = 0

    def may_leave(self, effect: Effect) -> bool:
        """True if `effect` may be performed now; else it is kept, and comes back from `release`."""
        if effect.after <= self._synced:
            return True
        self._waiting.append(effect)
        return False

    def release(self, synced: int) -> list[Effect]:
        """The disk has everything up to `synced`: what may leave now, in the order it was made."""
        assert synced >= self._synced, "a disk does not forget what it has synced"
        self._synced = synced
        free: list[Effect] = []
        while self._waiting and self._waiting[0].after <= synced:
            free.append(self._waiting.popleft())
        self._released += len(free)
        return free

    def statistics(self) -> OutboxStatistics:
        return OutboxStatistics(self._synced, len(self._waiting), self._released)
