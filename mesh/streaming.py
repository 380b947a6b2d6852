"""Reading a stream: the items of a handler elsewhere, as they come, for as long as somebody reads them.

    async with mesh.stream("rows", table=t) as rows:
        async for row in rows: ...

    request "stream" (answered at the end) ........ the call itself: whoever hangs up ends it
    request "next" (after, epoch) --> items         asked when all read so far were used: that is what paces the handler

Invariant: items come in order, none twice, none left out; where a handler that cannot be repeated was lost, StreamRestarted stands between
its items and those of the next. Closing, or dropping, the stream cancels the call.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Protocol

from mesh.errors import StreamRestarted, task_error

Document = dict[str, Any]


class Connection(Protocol):
    async def ask(self, verb: str, params: Document, *, timeout_s: float | None = None, what: str = "") -> Document: ...


class Stream:
    """An async iterator, once. `timeout_s` bounds the wait for each item. Use it in ``async with``, or read it to its end.

    Raises, while it is read: NoSuchCapability, InvalidArgument, TaskFailed, TaskCancelled, TimedOut, NodeLost, TooBig; StreamRestarted,
    after which it may be read on.
    """

    def __init__(
        self,
        connection: Connection,
        params: Callable[[], Awaitable[Document]],
        load: Callable[[bytes], Any],
        timeout_s: float | None,
        what: str,
    ) -> None:
        self._connection, self._params, self._load = connection, params, load
        self._timeout_s, self._what = timeout_s, what
        self._name = os.urandom(8).hex()
        self._call: asyncio.Future[Document] | None = None
        self._items: deque[bytes] = deque()
        self._read = self._epoch = 0
        self._over = False

    def __aiter__(self) -> Stream:
        return self

    async def __anext__(self) -> Any:
        while not self._items:
            if self._over:
                raise StopAsyncIteration
            try:
                await self._more()
            except StreamRestarted:
                raise
            except BaseException:
                await self.aclose()
                raise
        self._read += 1
        return self._load(self._items.popleft())

    async def __aenter__(self) -> Stream:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Stop reading. The handler, if it still runs, is cancelled."""
        self._over = True
        self._items.clear()
        if self._call is not None and not self._call.done():
            self._call.cancel()
            await asyncio.wait((self._call,))

    def __del__(self) -> None:
        call = self._call
        if call is not None and not call.done() and not (loop := call.get_loop()).is_closed():
            loop.call_soon_threadsafe(call.cancel)

    async def _more(self) -> None:
        """Wait for items, or for the end."""
        call = self._call
        if call is None:
            params = await self._params() | {"stream": self._name}
            call = self._call = asyncio.ensure_future(self._connection.ask("stream", params, what=self._what))
            call.add_done_callback(_seen)
        params = {"stream": self._name, "after": self._read, "epoch": self._epoch}
        what = f"the next item of {self._what}"
        more = asyncio.ensure_future(self._connection.ask("next", params, timeout_s=self._timeout_s, what=what))
        more.add_done_callback(_seen)
        try:
            await asyncio.wait((more, call), return_when=asyncio.FIRST_COMPLETED)
            if not more.done() or (body := more.result()).get("end"):
                self._end(await call)
                return
        finally:
            more.cancel()
        self._items.extend(bytes(data) for data in body["items"])
        if body["epoch"] != self._epoch:
            self._epoch, read, self._read = body["epoch"], self._read, 0
            raise StreamRestarted(attempt=int(body["attempt"]), read=read)

    def _end(self, body: Document) -> None:
        self._over = True
        if body.get("state") != "done":
            raise task_error(body.get("error") or {}, str(body.get("task") or ""), str(body.get("state") or ""))


def _seen(future: asyncio.Future[Document]) -> None:
    """A failure that nobody waits for any more is no news to the loop."""
    if not future.cancelled():
        future.exception()
