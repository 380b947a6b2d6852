"""Items of a streaming handler on their way to a reader: numbered, sent in pieces, and held until they were taken.

    handler --put--> [not taken yet: at most a window] --items--> node ... reader
                      ^ taken (upto): room again; again: all of them once more

Invariant: what was put and not taken is here, so that nothing is lost on the way; a reader who is slow makes `put` wait. Of an attempt that
repeats an earlier one the first `skip` items are passed over: the reader's node has them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, Protocol

from mesh.errors import MeshError
from mesh.ids import Fence, TaskId
from mesh.limits import WorkLimits

LIMITS = WorkLimits()
PIECE_BYTES = 48 * 1024
"""Of one message: fits an envelope beside its neighbours. A larger item goes alone."""


class Sink(Protocol):
    """Where a handler's items go."""

    async def put(self, data: bytes) -> None: ...

    async def finish(self) -> bytes: ...

    async def drain(self) -> None: ...


class Outflow:
    """Of one run. `out` gets `items` items; `wait` awaits so that stopping the run ends it."""

    def __init__(
        self,
        key: tuple[TaskId, Fence],
        skip: int,
        out: Callable[[str, list[Any]], None],
        wait: Callable[[Awaitable[None]], Awaitable[None]],
    ) -> None:
        self._key, self._skip, self._out, self._wait = key, skip, out, wait
        self._loop = asyncio.get_running_loop()
        self._kept: dict[int, bytes] = {}
        """By number, in order."""
        self._bytes = 0
        self._count = 0
        self._sent = skip
        self._scheduled = False
        self._ended = False
        self._waiter: asyncio.Future[None] | None = None

    async def put(self, data: bytes) -> None:
        """The next item, JSON. Returns when it is kept here, which is when there is room."""
        if self._count < self._skip:
            self._count += 1
            return
        while self._kept and (len(self._kept) >= LIMITS.stream_items_max or self._bytes + len(data) > LIMITS.stream_bytes_max):
            await self._change()
        self._count += 1
        self._kept[self._count] = data
        self._bytes += len(data)
        self._send_soon()

    async def finish(self) -> bytes:
        """There are no more: wait until all are taken. The result, JSON: how many there were. Raises MeshError if they are not the same."""
        if self._count < self._skip:
            message = f"the stream ended after {self._count} items, and an earlier attempt had given {self._skip}"
            fix = "what gives other items each time is not idempotent: leave idempotent=True out"
            raise MeshError(message, fix=fix, code="invalid_result")
        self._ended = True
        await self.drain()
        return str(self._count).encode()

    async def drain(self) -> None:
        """Wait until all that was put is taken."""
        self._send_soon()
        while self._kept:
            await self._change()

    def taken(self, upto: int, again: bool) -> None:
        """The reader has taken items up to that number; `again`: send the rest once more."""
        for number in [number for number in self._kept if number <= upto]:
            self._bytes -= len(self._kept.pop(number))
        if again:
            self._sent = min(self._sent, max(upto, self._skip))
            self._send_soon()
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def _change(self) -> None:
        self._waiter = self._loop.create_future()
        await self._wait(self._waiter)

    # ---- sending

    def _send_soon(self) -> None:
        """After this turn of the loop: what a quick handler puts at once leaves together."""
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._send)

    def _send(self) -> None:
        self._scheduled = False
        for first, items in self._pieces():
            self._sent = first + len(items) - 1
            last = self._ended and self._sent == self._count
            self._out("items", [*self._key, first, items, last])

    def _pieces(self) -> Iterator[tuple[int, list[bytes]]]:
        """What was not sent yet; once it has ended also an empty piece that says so, if the last one was sent before."""
        piece, size, first = list[bytes](), 0, 0
        for number in [number for number in self._kept if number > self._sent]:
            data = self._kept[number]
            if piece and size + len(data) > PIECE_BYTES:
                yield first, piece
                piece, size = [], 0
            first = first if piece else number
            piece.append(data)
            size += len(data)
        if piece:
            yield first, piece
        elif self._ended and self._kept:
            yield self._count + 1, []


class Collected:
    """Into the list that is the result of work whose items nobody reads. `add` checks each item's size with what was there before."""

    def __init__(self, check: Callable[[int], None]) -> None:
        self._check = check
        self._items: list[bytes] = []
        self._size = 2

    async def put(self, data: bytes) -> None:
        self._size += len(data) + 1
        self._check(self._size)
        self._items.append(data)

    async def finish(self) -> bytes:
        return b"[" + b",".join(self._items) + b"]"

    async def drain(self) -> None:
        pass


class Relayed:
    """In a process of its own: its worker numbers and holds the items, and answers when there is room."""

    def __init__(self, ask: Callable[[str, dict[str, Any]], Awaitable[dict[str, Any]]]) -> None:
        self._ask = ask
        self._count = 0

    async def put(self, data: bytes) -> None:
        self._count += 1
        await self._ask("emit", {"data": data})

    async def finish(self) -> bytes:
        return str(self._count).encode()

    async def drain(self) -> None:
        pass
