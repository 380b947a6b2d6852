"""What waits to leave for one peer: three classes, bounded by number and by bytes.

    add --> control | work | bulk --> pack: one envelope's worth, control first

Invariant: order is kept inside a class and promised nowhere else; what is dropped is the oldest, counted by class. Does not encode, sign
or send. libzmq's own queue is kept short (SNDHWM) so that waiting happens here, where a probe overtakes a file.
"""

from __future__ import annotations

from collections import Counter, deque

from mesh.limits import LinkLimits
from mesh.messages import BULK, CONTROL

CLASSES = ("control", "work", "bulk")
CLASS_OF: dict[type, int] = dict.fromkeys(CONTROL, 0) | dict.fromkeys(BULK, 2)
"""Index into CLASSES; a type that is not here is work."""
WORK = 1


class Outgoing:
    """One peer's queue. `dropped` counts by class and may be shared by many queues."""

    __slots__ = ("_bytes", "_dropped", "_limits", "_queues")

    def __init__(self, limits: LinkLimits, dropped: Counter[str]) -> None:
        self._limits = limits
        self._dropped = dropped
        self._queues: tuple[deque[bytes], ...] = (deque(), deque(), deque())
        self._bytes = 0

    def add(self, class_no: int, part: bytes) -> None:
        """Queue one framed message. May drop older ones: see the limits."""
        queue = self._queues[class_no]
        queue.append(part)
        self._bytes += len(part)
        if len(queue) > self._limits.queue_messages_max:
            self._drop(class_no)
        while self._bytes > self._limits.queue_bytes_max and len(self) > 1:
            self._drop(next(number for number in (2, 1, 0) if self._queues[number]))

    def _drop(self, class_no: int) -> None:
        self._bytes -= len(self._queues[class_no].popleft())
        self._dropped[f"overflow_{CLASSES[class_no]}"] += 1

    def pack(self) -> list[bytes]:
        """Take one envelope's worth: at most 32 messages and 64 KiB, or one larger message alone. Empty if nothing waits."""
        parts: list[bytes] = []
        size, size_max, count_max = 0, self._limits.batch_bytes_max, self._limits.batch_messages_max
        for queue in self._queues:
            while queue:
                size += len(queue[0])
                if parts and (size > size_max or len(parts) == count_max):
                    self._bytes -= size - len(queue[0])
                    return parts
                parts.append(queue.popleft())
        self._bytes -= size
        return parts

    def clear(self) -> int:
        """Forget everything; returns how many messages that were."""
        count = len(self)
        for queue in self._queues:
            queue.clear()
        self._bytes = 0
        return count

    def __len__(self) -> int:
        return sum(map(len, self._queues))

    def __bool__(self) -> bool:
        return any(self._queues)
