"""A host's clock: the world's time seen with an offset, at a rate. It never runs backwards, like CLOCK_BOOTTIME.

world time --(rate, offset)--> the node's `now_s`         wall time = node's time + wall offset (may step both ways)
"""

from __future__ import annotations


class HostClock:
    """Piecewise linear. `read` is strictly what the node sees as `now_s`; `when` is its inverse for times to come."""

    __slots__ = ("_from_local_s", "_from_world_s", "rate", "wall_offset_s")

    def __init__(self, offset_s: float = 0.0, wall_offset_s: float = 0.0) -> None:
        self._from_world_s = 0.0
        self._from_local_s = offset_s
        self.rate = 1.0
        self.wall_offset_s = wall_offset_s

    def read(self, world_s: float) -> float:
        return self._from_local_s + (world_s - self._from_world_s) * self.rate

    def when(self, local_s: float) -> float:
        """The world's time at which this clock shows `local_s`, if its rate stays as it is."""
        return self._from_world_s + (local_s - self._from_local_s) / self.rate

    def set_rate(self, world_s: float, rate: float) -> None:
        self._rebase(world_s, 0.0)
        self.rate = rate

    def leap(self, world_s: float, forward_s: float) -> None:
        """Jump ahead, as after a suspend that the world did not see. Never back."""
        assert forward_s >= 0
        self._rebase(world_s, forward_s)

    def _rebase(self, world_s: float, forward_s: float) -> None:
        self._from_local_s = self.read(world_s) + forward_s
        self._from_world_s = world_s

    def wall_ms(self, world_s: float) -> int:
        """Unix time as this host believes it."""
        return int((1_750_000_000.0 + self.read(world_s) + self.wall_offset_s) * 1000)
