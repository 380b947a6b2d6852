"""The local socket's frames: a 4-byte big-endian length, then msgpack. One connection carries requests, replies and pushes.

    client, worker -> node   [id, verb, params]     id > 0 wants a reply, 0 does not
    node -> client, worker   [id, ok, body]         the reply
    node -> worker           [0, verb, params]      a push

Lots: frames are collected and written once per turn of the event loop. Invariant: what `Channel.on_message` gets is a list of three, an
int, a str or bool, and a dict; anything else ends the connection. Does not know any verb.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable
from typing import Any

import msgpack

FRAME_BYTES_MAX = 32 * 1024 * 1024
"""Room for a story of 10,000 entries; a sender of more is cut off."""
BACKLOG_BYTES_MAX = 64 * 1024 * 1024
"""Written to a peer that does not read. Beyond it the connection ends: it is hung, and memory is not its store room."""
PATH_BYTES_MAX = 103
"""The kernel's bound for the path of a Unix socket, the smaller of Linux's and macOS's."""

_LENGTH = struct.Struct(">I")
_pack: Callable[[Any], bytes] = msgpack.Packer(use_bin_type=True).pack


class BadFrame(Exception):
    """What came is not this protocol. `reason` is snake_case, for counting."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def frame(message: list[Any]) -> bytes:
    """`message` as it crosses the socket. Raises BadFrame if it is larger than a frame may be."""
    body = _pack(message)
    if len(body) > FRAME_BYTES_MAX:
        raise BadFrame("frame_too_big")
    return _LENGTH.pack(len(body)) + body


def parse(body: bytes | memoryview) -> list[Any]:
    """One frame's message. Raises BadFrame."""
    try:
        message = msgpack.unpackb(body, raw=False, strict_map_key=True)
    except (ValueError, RecursionError, UnicodeDecodeError, msgpack.UnpackException) as error:
        raise BadFrame("not_msgpack") from error
    if type(message) is not list or len(message) != 3:
        raise BadFrame("not_a_triple")
    number, verb, params = message
    if type(number) is not int or type(verb) not in (str, bool) or type(params) is not dict or number < 0:
        raise BadFrame("wrong_shape")
    return message


class Splitter:
    """Cuts a stream of bytes into frames."""

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, data: bytes) -> list[list[Any]]:
        """The messages that are whole now. Raises BadFrame; the stream is then of no further use."""
        rest = self._rest
        rest += data
        messages: list[list[Any]] = []
        at, have = 0, len(rest)
        with memoryview(rest) as view:
            while have - at >= 4:
                (size,) = _LENGTH.unpack_from(rest, at)
                if size > FRAME_BYTES_MAX:
                    raise BadFrame("frame_too_big")
                if have - at - 4 < size:
                    break
                messages.append(parse(view[at + 4 : at + 4 + size]))
                at += 4 + size
        if at:
            del rest[:at]
        return messages


class Channel(asyncio.Protocol):
    """One end of a connection.

    `on_message` gets each message, `on_turn` is called after all that came together, `on_closed` once, at the end, with the reason.
    """

    def __init__(
        self,
        on_message: Callable[[list[Any]], None],
        on_closed: Callable[[str], None],
        *,
        on_turn: Callable[[], None] | None = None,
        on_open: Callable[[], None] | None = None,
    ) -> None:
        self._on_message, self._on_closed, self._on_turn, self._on_open = on_message, on_closed, on_turn, on_open
        self._splitter = Splitter()
        self._out: list[bytes] = []
        self._loop = asyncio.get_running_loop()
        self._scheduled = False
        self._reason = ""
        self.transport: asyncio.Transport | None = None
        self.closed = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        if self._on_open:
            self._on_open()

    def data_received(self, data: bytes) -> None:
        try:
            messages = self._splitter.feed(data)
        except BadFrame as bad:
            self.close(bad.reason)
            return
        on_message = self._on_message
        for message in messages:
            on_message(message)
        if self._on_turn:
            self._on_turn()

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        self._on_closed(self._reason or ("reset" if exc else "closed"))

    def send(self, message: list[Any]) -> None:
        """Collect `message`; it leaves at the next `flush`. After the end of the connection it is dropped. Raises BadFrame if too big."""
        if not self.closed:
            self._out.append(frame(message))

    def send_soon(self, message: list[Any]) -> None:
        """As `send`, and see to the flush at the end of this turn of the loop."""
        self.send(message)
        self.flush_soon()

    def flush_soon(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self.flush)

    def flush(self) -> None:
        """Write all that was collected, in one go."""
        self._scheduled = False
        if not self._out or self.closed or self.transport is None:
            return
        out, self._out = self._out, []
        self.transport.write(out[0] if len(out) == 1 else b"".join(out))
        if self.transport.get_write_buffer_size() > BACKLOG_BYTES_MAX:
            self.close("not_reading")

    def close(self, reason: str = "closed") -> None:
        """Flush what fits and end the connection; `on_closed` follows. A peer that does not read is cut off."""
        if self.closed or self.transport is None:
            return
        self._reason = self._reason or reason
        if reason in ("closed", "done"):
            self.flush()
            self.transport.close()
        else:
            self.transport.abort()
