"""The door: a plain TCP listener where strangers say HELLO. Never a ROUTER, so that nothing unproven reaches libzmq.

    knock(address, frame) --> [length, 4 bytes big-endian][frame] --> Door --> answer(frame) --> the same way back, then closed

Invariant: a stranger costs at most one frame of `door_frame_bytes_max`, `handshake_s` of time and one of `door_connections_max` places,
and whatever he sends (HTTP, TLS, noise, nothing) is one counted refusal. Does not know what a HELLO is: `runtime/sessions.py` does.
Loopback only until the door speaks TLS.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import anyio
import anyio.abc

from mesh.limits import LinkLimits
from mesh.runtime.rates import Rates
from mesh.runtime.sockets import require_loopback, split_address

LENGTH_BYTES = 4
_HTTP_METHODS = (b"GET ", b"POST", b"HEAD", b"PUT ", b"OPTI", b"DELE", b"CONN", b"PRI ", b"PATC", b"TRAC")


@dataclass(frozen=True, slots=True)
class DoorStatistics:
    """`empty`: connections closed without a word, as peers do who ask only whether this process lives."""

    open: int
    answered: int
    empty: int
    refusals: dict[str, int]


class BadFrame(Exception):
    """What came is no frame of ours. `reason` is snake_case; the connection is of no further use."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


async def _read_exactly(stream: anyio.abc.ByteReceiveStream, size: int) -> bytes:
    data = b""
    while len(data) < size:
        try:
            data += await stream.receive(size - len(data))
        except (anyio.EndOfStream, anyio.BrokenResourceError, OSError):
            raise BadFrame("cut_short" if data else "empty") from None
    return data


async def read_frame(stream: anyio.abc.ByteReceiveStream, bytes_max: int) -> bytes:
    """One length-prefixed frame. Raises BadFrame: ``http``, ``tls``, ``frame_too_large``, ``cut_short``, ``empty``."""
    head = await _read_exactly(stream, LENGTH_BYTES)
    size = int.from_bytes(head, "big")
    if not 0 < size <= bytes_max:
        raise BadFrame("http" if head in _HTTP_METHODS else "tls" if head[:2] == b"\x16\x03" else "frame_too_large")
    try:
        return await _read_exactly(stream, size)
    except BadFrame:
        raise BadFrame("cut_short") from None


async def write_frame(stream: anyio.abc.ByteSendStream, frame: bytes) -> None:
    """Raises BadFrame ``cut_short`` if the other side is gone."""
    try:
        await stream.send(len(frame).to_bytes(LENGTH_BYTES, "big") + frame)
    except (anyio.BrokenResourceError, OSError):
        raise BadFrame("cut_short") from None


async def connect(address: str) -> anyio.abc.SocketStream:
    """A TCP connection to ``host:port`` on this machine. Raises NotLoopback, ValueError, ConnectionRefusedError, or OSError."""
    host, port = split_address(address)
    try:
        return await anyio.connect_tcp(require_loopback(host), port)
    except OSError as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, ConnectionRefusedError):
            cause = cause.__cause__
        if cause is not None:
            raise ConnectionRefusedError(f"nobody listens at {address}") from error
        raise


async def knock(address: str, frame: bytes, limits: LinkLimits) -> bytes:
    """Say `frame` at the door `address`; returns the answer. Set a time limit outside.

    Raises as `connect`, and BadFrame if what answers is no door of ours.
    """
    async with await connect(address) as stream:
        await write_frame(stream, frame)
        return await read_frame(stream, limits.door_frame_bytes_max)


class Door:
    """Serves `listener`. `answer(frame)` gives the answer's bytes and never raises or waits; `busy` is said to whom we have no time for."""

    def __init__(
        self, listener: anyio.abc.Listener[anyio.abc.SocketStream], limits: LinkLimits, answer: Callable[[bytes], bytes], busy: bytes
    ) -> None:
        self._listener, self._limits, self._answer, self._busy = listener, limits, answer, busy
        self._rates = Rates(limits.hello_per_s, limits.hello_burst, keys_max=limits.peers_max)
        self._open = 0
        self._answered = 0
        self._empty = 0
        self.refusals: Counter[str] = Counter()

    async def run(self) -> None:
        """Until cancelled; then the listener is closed and who is inside is put out."""
        async with self._listener:
            await self._listener.serve(self._serve)

    async def _serve(self, stream: anyio.abc.SocketStream) -> None:
        async with stream:
            if self._open >= self._limits.door_connections_max:
                self.refusals["too_many_connections"] += 1
                return
            self._open += 1
            try:
                with anyio.fail_after(self._limits.handshake_s):
                    await self._converse(stream)
            except TimeoutError:
                self.refusals["timeout"] += 1
            except BadFrame as bad:
                if bad.reason == "empty":
                    self._empty += 1
                else:
                    self.refusals[bad.reason] += 1
            finally:
                self._open -= 1

    async def _converse(self, stream: anyio.abc.SocketStream) -> None:
        frame = await read_frame(stream, self._limits.door_frame_bytes_max)
        address = str(stream.extra(anyio.abc.SocketAttribute.remote_address)[0])
        if not self._rates.allow(address):
            self.refusals["too_fast"] += 1
            await write_frame(stream, self._busy)
            return
        self._answered += 1
        await write_frame(stream, self._answer(frame))

    def statistics(self) -> DoorStatistics:
        return DoorStatistics(self._open, self._answered, self._empty, dict(self.refusals))
