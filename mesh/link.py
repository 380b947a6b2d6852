"""A connection to the local node: many requests under way on one socket, a bare future each. Used by clients and by workers.

    ask(verb) --> [id, verb, params] ...... [id, ok, body] --> the future's result, or the typed error
    a waiter that is cancelled or times out sends `gone`, so that the node forgets the request

Does not reconnect: whoever owns it knows whether that makes sense.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mesh.errors import MeshError, NodeLost, NoNode, TimedOut, from_body
from mesh.runtime.protocol_local import PATH_BYTES_MAX, BadFrame, Channel

VERSION = 1
HELLO_S = 10.0
COARSE_S = 2.0
SWEEP_S = 0.25
"""Bounds from COARSE_S on are kept to within SWEEP_S."""


class Link:
    """`on_push(verb, params)` gets what the node sends unasked, `on_turn` runs after each lot, `on_lost` once, when the connection ends."""

    def __init__(
        self,
        path: Path,
        *,
        on_push: Callable[[str, dict[str, Any]], None] | None = None,
        on_turn: Callable[[], None] | None = None,
        on_lost: Callable[[], None] | None = None,
    ) -> None:
        self.path = path
        self.node: dict[str, Any] = {}
        """What the node said of itself: name, id, pid, boot, blobs, limits."""
        self._on_push, self._on_turn, self._on_lost = on_push, on_turn, on_lost
        self._channel: Channel | None = None
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._watched: dict[int, tuple[float, str, float]] = {}
        self._sweeping = False
        self._last = 0

    async def open(self) -> None:
        """Connect and exchange versions. Raises NoNode if nobody listens, MeshError if the node speaks another version."""
        loop = asyncio.get_running_loop()
        if len(str(self.path).encode()) > PATH_BYTES_MAX:
            raise NoNode(f"the path of the node's socket is longer than {PATH_BYTES_MAX} bytes: {self.path}", fix="use a shorter --home")
        try:
            _, self._channel = await loop.create_unix_connection(
                lambda: Channel(self._on_message, self._on_closed, on_turn=self._on_turn), str(self.path)
            )
        except OSError as error:
            raise NoNode(f"nobody listens at {self.path}: its node has just ended, or has just been started", fix="mesh up") from error
        try:
            self.node = await self.ask("hello", {"v": VERSION}, timeout_s=HELLO_S)
        except BaseException:
            self.close()
            raise

    @property
    def alive(self) -> bool:
        return self._channel is not None and not self._channel.closed

    async def ask(self, verb: str, params: dict[str, Any], *, timeout_s: float | None = None, what: str = "") -> dict[str, Any]:
        """The node's answer. Raises what it answered, NodeLost, TimedOut after `timeout_s`, MeshError for what is too big to send."""
        channel = self._channel
        if channel is None or channel.closed:
            raise NodeLost("the connection to the node is closed")
        self._last = number = self._last + 1
        loop = asyncio.get_running_loop()
        future: asyncio.Future[dict[str, Any]] = loop.create_future()
        try:
            channel.send([number, verb, params])
        except BadFrame as error:
            raise MeshError(f"{verb}: too much at once for the node's socket", fix="pass large data as File", code="too_big") from error
        if self._waiting:
            channel.flush_soon()
        else:
            channel.flush()  # alone: at once; among others: all of this turn in one write, which the node takes in one turn
        self._waiting[number] = future
        timer: asyncio.TimerHandle | None = None
        if timeout_s is not None:
            if timeout_s < COARSE_S:
                timer = loop.call_later(timeout_s, self._expire, future, what or verb, timeout_s)
            else:
                self._watch(loop, number, loop.time() + timeout_s, what or verb, timeout_s)
        try:
            return await future
        finally:
            if timer is not None:
                timer.cancel()
            elif timeout_s is not None:
                self._watched.pop(number, None)
            if self._waiting.pop(number, None) is not None and not channel.closed:
                channel.send_soon([0, "gone", {"id": number}])

    def tell(self, verb: str, params: dict[str, Any]) -> None:
        """Send what wants no answer; it leaves at the next `flush`. Dropped if the connection is over."""
        if self._channel is not None:
            self._channel.send([0, verb, params])

    def flush(self) -> None:
        if self._channel is not None:
            self._channel.flush()

    def close(self) -> None:
        """End the connection. Whoever still waits gets NodeLost."""
        if self._channel is not None:
            self._channel.close()

    def _watch(self, loop: asyncio.AbstractEventLoop, number: int, due: float, what: str, timeout_s: float) -> None:
        """A timer of its own costs as much as the rest of a call: long bounds are looked at together, now and then."""
        self._watched[number] = (due, what, timeout_s)
        if not self._sweeping:
            self._sweeping = True
            loop.call_later(SWEEP_S, self._sweep, loop)

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        now = loop.time()
        for number, (due, what, timeout_s) in list(self._watched.items()):
            if due <= now and (future := self._waiting.get(number)) is not None:
                self._expire(future, what, timeout_s)
        self._sweeping = bool(self._watched) and self.alive
        if self._sweeping:
            loop.call_later(SWEEP_S, self._sweep, loop)

    def _expire(self, future: asyncio.Future[dict[str, Any]], what: str, timeout_s: float) -> None:
        if not future.done():
            future.set_exception(TimedOut(what=what, after_s=timeout_s))

    def _on_message(self, message: list[Any]) -> None:
        number, ok, body = message
        if type(ok) is bool:
            future = self._waiting.pop(number, None)
            if future is not None and not future.done():
                if ok:
                    future.set_result(body)
                else:
                    future.set_exception(from_body(body))
        elif self._on_push is not None:
            self._on_push(ok, body)

    def _on_closed(self, _reason: str) -> None:
        waiting, self._waiting = self._waiting, {}
        for future in waiting.values():
            if not future.done():
                future.set_exception(NodeLost())
        if self._on_lost is not None:
            self._on_lost()
