"""Token buckets by key (an address, a peer), bounded in number: the one limiter of the runtime.

A bucket holds at most `burst` tokens and gains `per_s` each second. When there are too many keys, the one unused for longest goes; a
stranger who cycles through addresses then meets a fresh bucket, which is why the number of connections is bounded elsewhere as well.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from mesh.runtime.clock import now_s


class Rates:
    """`per_s` and `burst` are counts per key."""

    def __init__(self, per_s: float, burst: float, *, keys_max: int = 1024, clock: Callable[[], float] = now_s) -> None:
        self._per_s, self._burst, self._keys_max, self._clock = per_s, burst, keys_max, clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def allow(self, key: str) -> bool:
        """Take one token of `key`; False if it has none."""
        tokens, now = self._tokens(key)
        allowed = tokens >= 1
        self._buckets[key] = (tokens - 1 if allowed else tokens, now)
        self._buckets.move_to_end(key)
        if len(self._buckets) > self._keys_max:
            self._buckets.popitem(last=False)
        return allowed

    def has(self, key: str) -> bool:
        """Whether `allow` would say yes now. Takes nothing."""
        return self._tokens(key)[0] >= 1

    def _tokens(self, key: str) -> tuple[float, float]:
        now = self._clock()
        tokens, at = self._buckets.get(key, (self._burst, now))
        return min(self._burst, tokens + (now - at) * self._per_s), now
