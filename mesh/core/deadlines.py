"""One heap of typed deadlines. A deadline is a hashable value (a frozen dataclass) that names what is over, and is routed like any input."""

from __future__ import annotations

import heapq
from collections.abc import Hashable, Iterator


class Deadlines:
    """At most one time per deadline value; setting it again moves it. Times are seconds on the node's monotonic clock.

    Cancelled and moved entries stay in the heap until they surface (lazy deletion), at most once per call of `set`.
    """

    def __init__(self) -> None:
        self._due: dict[Hashable, tuple[float, int]] = {}
        self._heap: list[tuple[float, int, Hashable]] = []
        self._count = 0

    def set(self, deadline: Hashable, at_s: float) -> None:
        self._count += 1
        self._due[deadline] = (at_s, self._count)
        heapq.heappush(self._heap, (at_s, self._count, deadline))

    def clear(self, deadline: Hashable) -> None:
        self._due.pop(deadline, None)

    def when(self, deadline: Hashable) -> float | None:
        entry = self._due.get(deadline)
        return entry[0] if entry else None

    def next(self) -> float | None:
        """When the node wants to be woken; None: never."""
        while self._heap:
            at, count, deadline = self._heap[0]
            if self._due.get(deadline) == (at, count):
                return at
            heapq.heappop(self._heap)
        return None

    def pop_due(self, now_s: float) -> Iterator[Hashable]:
        """What is over by `now_s`, in order of time, then of setting. Each is forgotten as it is given."""
        while (at := self.next()) is not None and at <= now_s:
            deadline = heapq.heappop(self._heap)[2]
            del self._due[deadline]
            yield deadline

    def __len__(self) -> int:
        return len(self._due)
