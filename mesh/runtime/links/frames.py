"""Frames on a stream: ``[length, 4 bytes big-endian][bytes]``. Knows no content."""

from __future__ import annotations

import anyio
import anyio.abc

LENGTH_BYTES = 4
_HTTP_METHODS = (b"GET ", b"POST", b"HEAD", b"PUT ", b"OPTI", b"DELE", b"CONN", b"PRI ", b"PATC", b"TRAC")


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
