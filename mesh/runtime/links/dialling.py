"""Dialling a door: TCP, TLS, and not a word before the other side has shown that it belongs there.

    knock(address, hello)    a member's: the door must know the discovery key, then HELLO is said
    request(address, frame)  a home's that is no member yet: the door must have the key that the token pins

Invariant: HELLO (certificate, addresses) goes only to somebody who knows the mesh's discovery key, over TLS; a join request only to the
pinned key. Decides nothing about who answers: the caller compares the key that is given back.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import anyio
import anyio.abc
from anyio.streams.tls import TLSAttribute, TLSStream

from mesh.limits import LinkLimits
from mesh.runtime.links.door import NONCE_BYTES, VERSION, DoorKeys
from mesh.runtime.links.frames import BadFrame, read_frame, write_frame
from mesh.runtime.links.tls import NotOurs, client_context, key_in
from mesh.runtime.sockets.sockets import require_loopback, split_address
from mesh.wire.packing import pack, unpack_row
from mesh.wire.token import knock_proof, same


async def connect(address: str, *, anywhere: bool) -> anyio.abc.SocketStream:
    """A TCP connection to ``host:port``; on this machine only, unless `anywhere`.

    Raises NotLoopback, ValueError, ConnectionRefusedError, or OSError.
    """
    host, port = split_address(address)
    try:
        return await anyio.connect_tcp(host if anywhere else require_loopback(host), port)
    except OSError as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, ConnectionRefusedError):
            cause = cause.__cause__
        if cause is not None:
            raise ConnectionRefusedError(f"nobody listens at {address}") from error
        raise


@asynccontextmanager
async def _secured(address: str, anywhere: bool) -> AsyncIterator[tuple[anyio.abc.ByteStream, bytes]]:
    """The stream inside TLS, and the key of who answered. Raises as `connect`, and BadFrame ``no_door``."""
    async with await connect(address, anywhere=anywhere) as stream:
        try:
            inside = await TLSStream.wrap(stream, server_side=False, ssl_context=client_context(), standard_compatible=False)
            key = key_in(inside.extra(TLSAttribute.peer_certificate_binary) or b"")
        except (ssl.SSLError, NotOurs, anyio.BrokenResourceError, anyio.EndOfStream):
            raise BadFrame("no_door") from None
        yield inside, key


async def knock(address: str, keys: DoorKeys, hello: Callable[[], bytes], limits: LinkLimits, *, anywhere: bool) -> tuple[bytes, bytes]:
    """Say `hello()` at a door of our mesh; returns the answer and the door's key (b"" without TLS). Set a time limit outside.

    Raises as `connect`, and BadFrame: ``no_door`` (no TLS of a node), ``other_mesh`` (it does not know our discovery key), ...
    """
    if keys.tls is None:
        async with await connect(address, anywhere=False) as plain:
            return await _knock(plain, keys, b"", hello, limits), b""
    async with _secured(address, anywhere) as (stream, key):
        return await _knock(stream, keys, key, hello, limits), key


async def _knock(stream: anyio.abc.ByteStream, keys: DoorKeys, door_key: bytes, hello: Callable[[], bytes], limits: LinkLimits) -> bytes:
    nonce = os.urandom(NONCE_BYTES)
    await write_frame(stream, pack(("knock", VERSION, nonce, knock_proof(keys.discovery, "knock", nonce, door_key))))
    answer = await read_frame(stream, limits.door_frame_bytes_max)
    row = unpack_row(answer)
    if row[:2] != ("open", VERSION) or len(row) != 3 or type(row[2]) is not bytes:
        return answer  # the door's no
    if not same(row[2], knock_proof(keys.discovery, "open", nonce, door_key)):
        raise BadFrame("other_mesh")
    await write_frame(stream, hello())
    return await read_frame(stream, limits.door_frame_bytes_max)


async def key_at(address: str) -> bytes:
    """The key with which the door at `address` proves itself; nothing is said to it. Raises as `connect`, and BadFrame ``no_door``."""
    async with _secured(address, anywhere=True) as (_, key):
        return key


async def request(address: str, frame: Callable[[bytes], bytes], limits: LinkLimits, *, pinned: bytes = b"") -> tuple[bytes, bytes]:
    """Say `frame(door key)` at the door of a mesh that we are no member of; returns the answer and the door's key.

    `pinned`: the key it must have, else nothing is said. Raises as `connect`, and BadFrame ``wrong_key``, ``no_door``, ...
    """
    async with _secured(address, anywhere=True) as (stream, key):
        if pinned and not same(pinned, key):
            raise BadFrame("wrong_key")
        await write_frame(stream, frame(key))
        return await read_frame(stream, limits.admission_bytes_max), key
