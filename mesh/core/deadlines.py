"""One heap of typed deadlines. A deadline is a hashable value (a frozen dataclass): it names what is over, and is routed like any input."""

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
        self._next: float | None = None
        self._sure = True
        """`_next` is the heap's first live entry: asked several times a turn, changed seldom."""

    def set(self, deadline: Hashable, at_s: float) -> None:
        self._count += 1
        if deadline in self._due:
            self._sure = False
        self._due[deadline] = (at_s, self._count)
        heapq.heappush(self._heap, (at_s, self._count, deadline))
        if self._next is None or at_s < self._next:
            self._next = at_s

    def clear(self, deadline: Hashable) -> None:
        if self._due.pop(deadline, None) is not None:
            self._sure = False

    def when(self, deadline: Hashable) -> float | None:
        entry = self._due.get(deadline)
        return entry[0] if entry else None

    def of(self, kinds: tuple[type, ...]) -> list[tuple[Hashable, float]]:
        """Every deadline of these kinds, and when it is over."""
        return [(deadline, entry[0]) for deadline, entry in self._due.items() if type(deadline) in kinds]

    def next(self) -> float | None:
        """When the node wants to be woken; None: never."""
        if not self._sure:
            while self._heap and self._due.get(self._heap[0][2]) != self._heap[0][:2]:
                heapq.heappop(self._heap)
            self._next = self._heap[0][0] if self._heap else None
            self._sure = True
        return self._next

    def pop_due(self, now_s: float) -> Iterator[Hashable]:
        """What is over by `now_s`, in order of time, then of setting. Each is forgotten as it is given."""
        while (at := self.next()) is not None and at <= now_s:
            deadline = heapq.heappop(self._heap)[2]
            del self._due[deadline]
            self._sure = False
            yield deadline

    def __len__(self) -> int:
        return len(self._due)
