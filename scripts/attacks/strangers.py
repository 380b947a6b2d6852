"""What somebody without a certificate can try, at the door and at the ROUTER. He comes from loopback addresses of his own.

At worst he is told the ROUTER's public key, as whoever was a member once may know it. Each attack goes on for so many seconds and gives
what was seen: how long his connections lived, and every word he was told.
"""

from __future__ import annotations

import itertools
import os
import socket
import ssl
import statistics
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

import anyio
import anyio.abc
import anyio.to_thread
import zmq
from anyio.streams.tls import TLSStream

from attacks.member import raw_dealer
from attacks.samples import sample_of
from attacks.world import World, sealed
from mesh.messages import KINDS, SIGNED
from mesh.runtime.links.tls import client_context
from mesh.runtime.sockets.curve import CurveKey
from mesh.runtime.sockets.sockets import split_address
from mesh.wire.codec import decode_object, encode, kind_of
from mesh.wire.objects import parts
from mesh.wire.packing import Refusal, pack, unpack_row

Told = dict[str, Any]
Said = dict[str, Any]
GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x01" + b"CURVE".ljust(20, b"\0") + bytes(32)
"""ZMTP 3.1, a client of CURVE."""
KNOCK_EVERY_S = 0.05
"""Of one who tries everything: slow enough that he is heard each time."""
CROWD = 24
"""Addresses of a stranger who has a whole network."""
REFUSED_OPENING = (OSError, anyio.BrokenResourceError, anyio.EndOfStream, ssl.SSLError)


def curve_key(told: Told) -> bytes:
    """The victim's transport key, from its binding."""
    tag, _, body, _ = parts(bytes.fromhex(told["binding"]))
    return bytes(decode_object(tag, body).curve_key)


# ---- connections


class Crowd:
    """Keeps `many` connections open to each of `addresses`' victims; opens a new one for each that was closed."""

    def __init__(self, told: Told, ports: tuple[str, ...], hosts: int, many: int, talk: Callable[[Any], Coroutine[Any, Any, None]]) -> None:
        self._told, self._ports, self._hosts, self._many, self._talk = told, ports, hosts, many, talk
        self.lived: list[float] = []
        self.opened = self.failed = 0

    async def run(self) -> Said:
        async with anyio.create_task_group() as tasks:
            for host, port, _ in itertools.product(range(self._hosts), self._ports, range(self._many)):
                tasks.start_soon(self._keep, source(self._told, host), self._told[port])
            await anyio.sleep(self._told["seconds"])
            tasks.cancel_scope.cancel()
        said: Said = {"opened": self.opened, "failed": self.failed, "closed": len(self.lived)}
        return said | ({"lived_s": [round(statistics.median(self.lived), 2), round(max(self.lived), 2)]} if self.lived else {})

    async def _keep(self, own: str, address: str) -> None:
        while True:
            began = anyio.current_time()
            try:
                stream = await connected(address, own)
            except REFUSED_OPENING:
                self.failed += 1
                await anyio.sleep(0.05)
                continue
            self.opened += 1
            async with stream:
                with suppress(*REFUSED_OPENING):
                    await self._talk(stream)
            self.lived.append(anyio.current_time() - began)
            await anyio.sleep(0.01)


def source(told: Told, number: int = 0) -> str:
    """An address of the attacker's: of his own network, so that attacks one after the other do not meet each other's limits."""
    return f"127.0.{told['network']}.{66 + number}"


async def connected(address: str, own: str) -> anyio.abc.SocketStream:
    host, port = split_address(address)
    return await anyio.connect_tcp(host, port, local_host=own)


async def _closed(stream: Any) -> None:
    """Until the other side has had enough."""
    while True:
        await stream.receive()


async def _under_tls(stream: Any) -> Any:
    return await TLSStream.wrap(stream, server_side=False, ssl_context=client_context(), standard_compatible=False)


# ---- silence


async def _say_nothing(stream: Any) -> None:
    await _closed(stream)


async def _say_tls_and_no_more(stream: Any) -> None:
    await _closed(await _under_tls(stream))


async def _say_client_hello(stream: Any) -> None:
    await stream.send(b"\x16\x03\x01")
    await _closed(stream)


async def _say_greeting(stream: Any) -> None:
    await stream.send(GREETING)
    await _closed(stream)


async def silent_tcp(told: Told) -> Said:
    return await Crowd(told, ("door", "router"), 1, 200, _say_nothing).run()


async def silent_tls(told: Told) -> Said:
    return await Crowd(told, ("door",), 1, 100, _say_tls_and_no_more).run()


async def half_tls(told: Told) -> Said:
    return await Crowd(told, ("door",), 1, 100, _say_client_hello).run()


async def silent_curve(told: Told) -> Said:
    return await Crowd(told, ("router",), 1, 200, _say_greeting).run()


async def silent_crowd(told: Told) -> Said:
    """From many addresses, so that no address has many."""
    return await Crowd(told, ("door", "router"), CROWD, 16, _say_nothing).run()


async def descriptors(told: Told) -> Said:
    """More connections than the victim may have files open."""
    return await Crowd(told, ("door", "router"), CROWD, 16, _say_nothing).run()


async def tls_crowd(told: Told) -> Said:
    """TLS handshakes from many addresses, as many as the door takes."""
    return await Crowd(told, ("door",), CROWD, 4, _handshake_and_go).run()


async def _handshake_and_go(stream: Any) -> None:
    await (await _under_tls(stream)).aclose()


async def tcp_flood(told: Told) -> Said:
    """Connect and leave, at both listeners, as fast as one processor can."""
    return await anyio.to_thread.run_sync(_tcp_flood, told)


def _tcp_flood(told: Told) -> Said:
    end, tried, failed = time.monotonic() + told["seconds"], 0, 0
    targets = itertools.cycle([split_address(told[port]) for port in ("door", "router")])
    while time.monotonic() < end:
        with socket.socket() as knocker:
            knocker.settimeout(0.2)
            knocker.bind((source(told, tried % CROWD), 0))
            tried += 1
            try:
                knocker.connect(next(targets))
            except OSError:
                failed += 1
    return {"tried": tried, "failed": failed}


# ---- slowness


async def _slowly(stream: Any, data: bytes) -> None:
    for at in range(len(data)):
        await stream.send(data[at : at + 1])
        await anyio.sleep(0.3)


async def _slow_frame(stream: Any) -> None:
    await _slowly(await _under_tls(stream), (16_000).to_bytes(4, "big") + bytes(16_000))


async def _slow_greeting(stream: Any) -> None:
    await _slowly(stream, GREETING)


async def slow_loris(told: Told) -> Said:
    return await Crowd(told, ("door",), 1, 60, _slow_frame).run()


async def slow_greeting(told: Told) -> Said:
    return await Crowd(told, ("router",), 1, 60, _slow_greeting).run()


# ---- size


async def _endless_command(stream: Any) -> None:
    """The HELLO of CurveZMQ, but of 2^40 bytes."""
    await stream.send(GREETING)
    await stream.send(b"\x06" + (1 << 40).to_bytes(8, "big") + b"\x05HELLO")
    while True:
        await stream.send(bytes(65536))


async def unfinished_hello(told: Told) -> Said:
    return await Crowd(told, ("router",), 1, 8, _endless_command).run()


async def _large_frame(stream: Any) -> None:
    inside = await _under_tls(stream)
    await inside.send((16 * 1024 + 1).to_bytes(4, "big") + bytes(16 * 1024 + 1))
    await _closed(inside)


async def oversize_hello(told: Told) -> Said:
    return await Crowd(told, ("door",), 1, 4, _large_frame).run()


# ---- every kind of thing


async def rogue_door(told: Told) -> Said:
    """Every frame that a door may be shown, by somebody whom nobody knows. All that he is told is kept."""
    world = World(mesh=told["mesh"])
    frames = [sealed(world.stranger, sample_of(cls, world)).raw for tag, cls in SIGNED.items() if tag not in ("certificate", "deed")]
    frames += [world.rows["a"].raw, b"", b"x", pack(()), pack(("knock", 1, bytes(16), bytes(32))), pack(("knock", 1)), pack(("open", 1))]
    frames += [pack(("turned", 1, "no")), b"GET / HTTP/1.1\r\n\r\n", os.urandom(500)]
    words: set[str] = set()
    most, tried, end = 0, 0, time.monotonic() + told["seconds"]
    for frame in itertools.cycle(frames):
        if tried >= len(frames) and time.monotonic() > end:
            break
        tried += 1
        await anyio.sleep(KNOCK_EVERY_S)
        try:
            async with await _under_tls(await connected(told["door"], source(told))) as inside:
                await inside.send(len(frame).to_bytes(4, "big") + frame)
                answer = await inside.receive()
        except REFUSED_OPENING:
            words.add("(closed)")
            continue
        most = max(most, len(answer))
        words.add(_word(answer[4:]))
    return {"frames": tried, "words": sorted(words), "bytes_max": most}


def _word(answer: bytes) -> str:
    try:
        row = unpack_row(answer)
    except Refusal:
        return f"NO ROW: {answer!r}"
    return str(row[2]) if row[:1] == ("turned",) and len(row) == 3 else f"MORE THAN A WORD: {row!r}"


async def rogue_router(told: Told) -> Said:
    """Every message of the protocol, without encryption, with a name and a password, and with a key that nobody knows."""
    return await anyio.to_thread.run_sync(_rogue_router, told)


def _rogue_router(told: Told) -> Said:
    world = World(mesh=told["mesh"])
    messages = [world.seal([sample_of(cls, world)]) for cls in KINDS.values()]
    messages += [[str(kind_of(sample_of(cls, world))).encode(), encode(sample_of(cls, world), world.a.seal)] for cls in KINDS.values()]
    said: Said = {}
    for name, rogue in _rogue_sockets(told):
        monitor = rogue.get_monitor_socket()
        sent = 0
        for frames in messages:
            with suppress(zmq.Again):
                rogue.send_multipart(frames, zmq.NOBLOCK)
                sent += 1
        heard = 0
        while rogue.poll(1000):
            rogue.recv()
            heard += 1
        events = set()
        while monitor.poll(0):
            events.add(zmq.Event(int.from_bytes(monitor.recv_multipart()[0][:2], "little")).name)
        said[name] = {"heard": heard, "let_in": "HANDSHAKE_SUCCEEDED" in events}
        rogue.disable_monitor()
        rogue.close(0)
    return said


def _rogue_sockets(told: Told) -> list[tuple[str, zmq.Socket[bytes]]]:
    own = source(told)
    plain: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.DEALER)
    plain.connect(f"tcp://{own}:0;{told['router']}")
    password: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.DEALER)
    password.plain_username, password.plain_password = b"admin", b"admin"
    password.connect(f"tcp://{own}:0;{told['router']}")
    unknown = raw_dealer(f"{own}:0;{told['router']}", curve_key(told), CurveKey.make())
    return [("NULL", plain), ("PLAIN", password), ("CURVE", unknown)]


async def curve_crowd(told: Told) -> Said:
    """Handshakes with keys that nobody knows, as fast as they are refused."""
    return await anyio.to_thread.run_sync(_curve_crowd, told)


def _curve_crowd(told: Told) -> Said:
    key, end, tried = curve_key(told), time.monotonic() + told["seconds"], 0
    while time.monotonic() < end:
        sockets = [raw_dealer(f"{source(told, n)}:0;{told['router']}", key, CurveKey.make()) for n in range(CROWD)]
        monitors = [each.get_monitor_socket(zmq.EVENT_DISCONNECTED | zmq.EVENT_HANDSHAKE_FAILED_AUTH) for each in sockets]
        for each, monitor in zip(sockets, monitors, strict=True):
            monitor.poll(2000)
            each.disable_monitor()
            each.close(0)
        tried += CROWD
    return {"tried": tried}


_ALL = (
    *(
        rogue_door,
        rogue_router,
        silent_tcp,
        silent_tls,
        half_tls,
        silent_curve,
        silent_crowd,
        descriptors,
        tls_crowd,
        curve_crowd,
        tcp_flood,
    ),
    *(slow_loris, slow_greeting, unfinished_hello, oversize_hello),
)
STRANGERS: dict[str, Callable[[Told], Coroutine[Any, Any, Said]]] = {each.__name__: each for each in _ALL}
