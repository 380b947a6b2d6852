"""How long work of each capability takes from its award to its result, here: the newest `SAMPLES` of each, for the 95th percentile.

Bounded by `calibrated_max` capabilities; the one that was measured longest ago goes first.
"""

from __future__ import annotations

from collections import deque

SAMPLES = 100
SAMPLES_MIN = 20
"""Of fewer, one in twenty is nobody."""
LATE = 0.95


class Latencies:
    def __init__(self, rows_max: int) -> None:
        self._rows_max = rows_max
        self._took_ms: dict[str, deque[float]] = {}

    def learn(self, capability: str, took_ms: float) -> None:
        took = self._took_ms.pop(capability, None)
        if took is None:
            took = deque(maxlen=SAMPLES)
        self._took_ms[capability] = took
        took.append(took_ms)
        if len(self._took_ms) > self._rows_max:
            del self._took_ms[next(iter(self._took_ms))]

    def late_ms(self, capability: str) -> float | None:
        """Longer than that takes one in twenty; None: too little is known."""
        took = self._took_ms.get(capability)
        if took is None or len(took) < SAMPLES_MIN:
            return None
        return sorted(took)[int(LATE * len(took))]
