"""One stream as its manager sees it: items that have come and were not taken yet, between a handler and a reader.

    handler --received--> [items] --handed--> reader --taken (his next question says so)--> credit for the handler

Invariant: the reader gets 1, 2, 3, ... without a gap or a double, within one epoch. What can be replayed (an idempotent capability's) goes
on under a new award after the last item received; what cannot begins anew, in a new epoch, which the reader is told before its items.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any

from mesh.effects import Need, Reply


class Stream:
    """`items_max`, `bytes_max`: what a handler may be ahead of its reader."""

    __slots__ = (
        "asked_at_s",
        "attempt",
        "bytes",
        "epoch",
        "handed",
        "items",
        "quiet",
        "received",
        "taken",
        "taken_bytes",
        "told",
        "total",
        "waiter",
    )

    def __init__(self) -> None:
        self.items: deque[bytes] = deque()
        self.bytes = 0
        self.received = self.handed = self.taken = self.told = 0
        """Numbers of the last item that came, was given to the reader, was taken by him, and of whose being taken the handler knows."""
        self.taken_bytes = 0
        """Taken since the handler was told."""
        self.total = -1
        """How many there are, once that is known."""
        self.epoch = 0
        self.attempt = 1
        self.waiter = -1
        """The reader's question that waits for an item; -1: none."""
        self.quiet = False
        """Nothing has come since the last look."""
        self.asked_at_s = float("-inf")

    def begin(self, attempt: int, *, replays: bool) -> Iterator[Any]:
        """Its handler is started, or started again. `replays`: it gives the same items in the same order."""
        self.attempt, self.total, self.told = attempt, -1, self.taken
        if replays or not self.received:
            return
        began = self.handed > 0
        self.items.clear()
        self.bytes = self.received = self.handed = self.taken = self.told = self.taken_bytes = 0
        if began:
            self.epoch += 1
            yield from self.answer()

    def add(self, data: bytes) -> None:
        """The next item has come."""
        self.received += 1
        self.items.append(data)
        self.bytes += len(data)
        self.quiet = False

    def take(self, upto: int) -> None:
        """The reader has these, and will not ask for them again."""
        while self.taken < min(upto, self.handed):
            self.taken += 1
            size = len(self.items.popleft())
            self.bytes -= size
            self.taken_bytes += size

    def answer(self) -> Iterator[Reply]:
        """Give the reader who waits what there is."""
        if self.waiter >= 0:
            self.handed = self.received
            yield self.reply(self.waiter)
            self.waiter = -1

    def reply(self, request: int) -> Reply:
        return Reply(request, True, {"epoch": self.epoch, "attempt": self.attempt, "items": list(self.items)}, need=Need.FREE)

    def close(self) -> Iterator[Reply]:
        """The call is over."""
        if self.waiter >= 0:
            yield over(self.waiter)
            self.waiter = -1


def over(request: int) -> Reply:
    return Reply(request, True, {"end": True}, need=Need.FREE)
