"""The door against everything that may knock at a TCP port."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from importlib.util import find_spec

import anyio
import anyio.abc
import anyio.lowlevel
import pytest

from mesh.limits import LinkLimits
from mesh.runtime.door import BadFrame, Door, connect, knock, read_frame
from mesh.runtime.sockets import NotLoopback

pytestmark = pytest.mark.anyio
TIME_S = 10


@pytest.fixture(
    params=["asyncio", pytest.param("trio", marks=pytest.mark.skipif(find_spec("trio") is None, reason="trio is not installed"))]
)
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@asynccontextmanager
async def opened(limits: LinkLimits | None = None) -> AsyncIterator[tuple[Door, str]]:
    listener = (await anyio.create_tcp_listener(local_host="127.0.0.1")).listeners[0]
    port = listener.extra(anyio.abc.SocketAttribute.local_port)
    door = Door(listener, limits or LinkLimits(), lambda frame: b"answer to " + frame, b"busy")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(door.run)
        with anyio.fail_after(TIME_S):
            yield door, f"127.0.0.1:{port}"
        tasks.cancel_scope.cancel()


async def until(seen: Callable[[], object]) -> None:
    while not seen():
        await anyio.lowlevel.checkpoint()


async def test_it_answers() -> None:
    async with opened() as (door, address):
        assert await knock(address, b"hello", LinkLimits()) == b"answer to hello"
        assert door.statistics().answered == 1 and not door.statistics().refusals


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (b"GET / HTTP/1.1\r\nHost: here\r\n\r\n", "http"),
        (b"POST /api HTTP/1.1\r\n\r\n", "http"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "tls"),
        (b"\xff\xff\xff\xff" + bytes(100), "frame_too_large"),
        (b"\x00\x00\x40\x01" + bytes(100), "frame_too_large"),
        (b"\x00\x00\x00\x00", "frame_too_large"),
        (b"\x00\x00", "cut_short"),
        (b"\x00\x00\x00\x08abc", "cut_short"),
        (b"\x00\x00\x00\x08", "cut_short"),
    ],
)
async def test_noise_is_one_counted_refusal(sent: bytes, reason: str) -> None:
    async with opened() as (door, address):
        async with await connect(address) as stream:
            with suppress(OSError, anyio.BrokenResourceError):  # it may have hung up on us already
                await stream.send(sent)
                await stream.send_eof()
            await until(lambda: door.statistics().refusals)
        assert door.statistics().refusals == {reason: 1}
        assert await knock(address, b"hello", LinkLimits()) == b"answer to hello"


async def test_a_connection_without_a_word_is_no_refusal() -> None:
    async with opened() as (door, address):
        async with await connect(address):
            pass
        await until(lambda: door.statistics().empty == 1)
        assert not door.statistics().refusals


async def test_silence_ends_after_the_handshake_time() -> None:
    async with opened(LinkLimits(handshake_s=0.05)) as (door, address), await connect(address) as stream:
        await stream.send(b"\x00\x00")
        with pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
            await stream.receive()
        await until(lambda: door.statistics().refusals == {"timeout": 1})


async def test_the_largest_frame_passes_in_small_pieces() -> None:
    limits = LinkLimits()
    frame = bytes(limits.door_frame_bytes_max)
    async with opened() as (_, address), await connect(address) as stream:
        sent = len(frame).to_bytes(4, "big") + frame
        for at in range(0, len(sent), 1000):
            await stream.send(sent[at : at + 1000])
        assert await read_frame(stream, 1 << 20) == b"answer to " + frame


async def test_too_many_at_once_are_put_out_and_the_door_stays_open() -> None:
    async with opened(LinkLimits(door_connections_max=3)) as (door, address):
        streams = [await connect(address) for _ in range(6)]
        await until(lambda: door.statistics().refusals.get("too_many_connections") == 3)
        assert door.statistics().open == 3
        for stream in streams:
            await stream.aclose()
        await until(lambda: door.statistics().open == 0)
        assert await knock(address, b"hello", LinkLimits()) == b"answer to hello"


async def test_too_fast_is_told_busy() -> None:
    async with opened(LinkLimits(hello_per_s=0.001, hello_burst=2)) as (door, address):
        answers = [await knock(address, b"x", LinkLimits()) for _ in range(4)]
        assert answers == [b"answer to x"] * 2 + [b"busy"] * 2
        assert door.statistics().refusals == {"too_fast": 2}


async def test_knocking_where_nobody_or_somebody_else_lives() -> None:
    with pytest.raises(ConnectionRefusedError):
        await knock("127.0.0.1:1", b"x", LinkLimits())
    with pytest.raises(NotLoopback):
        await knock("192.0.2.1:7710", b"x", LinkLimits())
    with pytest.raises(ValueError, match="no host:port"):
        await knock("nowhere", b"x", LinkLimits())

    async def web_server(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            await stream.receive()
            await stream.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    listener = (await anyio.create_tcp_listener(local_host="127.0.0.1")).listeners[0]
    port = listener.extra(anyio.abc.SocketAttribute.local_port)
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, web_server)
        with pytest.raises(BadFrame) as bad, anyio.fail_after(TIME_S):
            await knock(f"127.0.0.1:{port}", b"x", LinkLimits())
        assert bad.value.reason == "frame_too_large"
        tasks.cancel_scope.cancel()
