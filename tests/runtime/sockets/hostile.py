"""A member that does not use libzmq: CurveZMQ over a bare TCP connection, so that it can break off wherever it likes.

The cryptography is that of the libsodium which pyzmq's wheel brings along; where there is none these tests are skipped. Source: RFC 26.
"""

from __future__ import annotations

import ctypes
import os
import select
import socket
import struct
from functools import cache
from pathlib import Path

import pytest
import zmq

from mesh.runtime.sockets.curve import CurveKey
from mesh.runtime.sockets.sockets import split_address

GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"CURVE".ljust(20, b"\0") + b"\0" + bytes(31)


@cache
def sodium() -> ctypes.CDLL:
    libraries = [*Path(zmq.__file__).parent.parent.glob("pyzmq.libs/libsodium*")]
    if not libraries:
        pytest.skip("NOTICE: pyzmq brings no libsodium here, so hostile members are not tested")
    library = ctypes.CDLL(str(libraries[0]))
    library.sodium_init()
    return library


def box(message: bytes, nonce: bytes, public: bytes, secret: bytes) -> bytes:
    out = ctypes.create_string_buffer(len(message) + 16)
    assert sodium().crypto_box_easy(out, message, ctypes.c_ulonglong(len(message)), nonce, public, secret) == 0
    return out.raw


def opened(boxed: bytes, nonce: bytes, public: bytes, secret: bytes) -> bytes:
    out = ctypes.create_string_buffer(len(boxed) - 16)
    assert sodium().crypto_box_open_easy(out, boxed, ctypes.c_ulonglong(len(boxed)), nonce, public, secret) == 0
    return out.raw


def command(body: bytes) -> bytes:
    return bytes([4, len(body)]) + body if len(body) < 256 else b"\x06" + struct.pack(">Q", len(body)) + body


def pair() -> tuple[bytes, bytes]:
    key = CurveKey.make()
    return key.public, key.secret


class HostileMember:
    """Holds a key that opens the ROUTER at `address`; the handshake is done when it is made."""

    def __init__(self, address: str, server: bytes, key: CurveKey, *, routing_id: bytes | None = b"") -> None:
        """`routing_id` None: it does not even say that it has none."""
        self.stream = socket.create_connection(split_address(address), timeout=20)
        self._nonce = 0
        short_public, short_secret = pair()
        self.stream.sendall(GREETING)
        self._read(64)
        nonce = self._next()
        hello = box(bytes(64), b"CurveZMQHELLO---" + nonce, server, short_secret)
        self.stream.sendall(command(b"\x05HELLO\x01\x00" + bytes(72) + short_public + nonce + hello))
        welcome = self._read_command()[8:]
        plain = opened(welcome[16:], b"WELCOME-" + welcome[:16], server, short_secret)
        theirs, cookie = plain[:32], plain[32:]
        vouch_nonce, nonce = os.urandom(16), self._next()
        vouch = box(short_public + server, b"VOUCH---" + vouch_nonce, theirs, key.secret)
        metadata = b"".join(
            bytes([len(name)]) + name + struct.pack(">I", len(value)) + value
            for name, value in ((b"Socket-Type", b"DEALER"), (b"Identity", routing_id))
            if value is not None
        )
        initiate = box(key.public + vouch_nonce + vouch + metadata, b"CurveZMQINITIATE" + nonce, theirs, short_secret)
        self.stream.sendall(command(b"\x08INITIATE" + cookie + nonce + initiate))
        assert self._read_command().startswith(b"\x05READY")
        self._shared = ctypes.create_string_buffer(32)
        sodium().crypto_box_beforenm(self._shared, theirs, short_secret)

    def _next(self) -> bytes:
        self._nonce += 1
        return struct.pack(">Q", self._nonce)

    def _read(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            more = self.stream.recv(size - len(data))
            assert more, "they hung up"
            data += more
        return data

    def _read_command(self) -> bytes:
        flags, size = self._read(2)
        assert flags == 4
        return self._read(size)

    def frame(self, content: bytes, *, more: bool) -> bytes:
        """One frame, ready for the wire."""
        nonce = self._next()
        plain = bytes([more]) + content
        out = ctypes.create_string_buffer(len(plain) + 16)
        size = ctypes.c_ulonglong(len(plain))
        sodium().crypto_box_easy_afternm(out, plain, size, b"CurveZMQMESSAGEC" + nonce, self._shared)
        body = b"\x07MESSAGE" + nonce + out.raw
        return bytes([0, len(body)]) + body if len(body) < 256 else b"\x02" + struct.pack(">Q", len(body)) + body

    def flood(self, frame_bytes: int, total_bytes: int) -> int:
        """Frames of one message that never ends; returns how many bytes got away before the other side hung up, or all did."""
        content, sent = bytes(frame_bytes), 0
        while sent < total_bytes:
            lot = b"".join(self.frame(content, more=True) for _ in range(max(1, 65536 // (frame_bytes + 42))))
            sent += len(lot)
            if not self._push(lot):
                break
        return sent

    def _push(self, data: bytes) -> bool:
        """False if the other side has hung up. With its window closed it does so without a reset, so what it says is looked at too."""
        while data:
            heard, room, _ = select.select([self.stream], [self.stream], [], 20)
            assert heard or room, "neither taken nor cut"
            if heard:
                return False
            try:
                data = data[self.stream.send(data) :]
            except (BrokenPipeError, ConnectionResetError):
                return False
        return True

    def hung_up(self) -> bool:
        """Wait for the other side to end the connection; False if it says something instead."""
        try:
            return self.stream.recv(1) == b""
        except ConnectionResetError:
            return True

    def close(self) -> None:
        self.stream.close()
