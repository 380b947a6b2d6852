"""Every ZeroMQ socket of a node is made here, with every option that safety needs; nothing else in `mesh` creates one.

    Receiver   our ROUTER. It only receives: a ROUTER that sends drops silently when it believes a queue is full
    Sender     one DEALER per peer; it only sends. SNDHWM is small, so that the queue is ours, with classes, not libzmq's

The anyio binding is thin: wait for the ZeroMQ file descriptor, then work without blocking until EAGAIN. The descriptor is edge-like: it
tells that *something* happened, once; so EVENTS is asked again before every wait. Receiving never awaits: a cancelled wait loses nothing.
The one descriptor that every message passes is watched by asyncio's loop itself where there is one: a task would be switched to in between.

Invariants: no socket binds or connects outside loopback (CURVE comes first); libc's `rand` is seeded from the operating system before
the first ROUTER, because libzmq counts routing ids up from it and aborts the process when a stranger claims the next one; every monitor
is drained, else libzmq's own queue grows. Does not know envelopes, peers or sessions.

Figures and trials: pyzmq 27, libzmq 4.3.5; `docs/architecture.md`, "Sockets".
"""

from __future__ import annotations

import asyncio
import ctypes
import ipaddress
import os
import struct
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, cast

import anyio
import anyio.lowlevel
import zmq
import zmq.backend

from mesh.limits import LinkLimits

LIBZMQ_MIN = (4, 3, 5)
"""Older ones have known holes."""
FRAMES_MAX = 8
"""Frames of one message that are kept; the rest is read and thrown away. An envelope has fewer, so such a message is refused anyway."""
MONITOR_EVENTS_PER_TURN = 64
GOODBYE_MS = 200
"""LINGER: how long what was sent last may take to leave, at the end of a node too."""
_MONITOR_EVENT = struct.Struct("=hi")

# Plain integers, and the C method below pyzmq's: its conversion of enumerations costs more than the calls do (10 us an envelope).
_NOBLOCK = int(zmq.NOBLOCK)
_MORE = int(zmq.NOBLOCK | zmq.SNDMORE)
_EVENTS = int(zmq.EVENTS)
_POLLIN, _POLLOUT = int(zmq.POLLIN), int(zmq.POLLOUT)
_get = cast(Callable[[object, int], int], zmq.backend.Socket.get)
_send = cast(Callable[[object, bytes, int], None], zmq.backend.Socket.send)

MonitorEvent = Callable[[zmq.Event, int], None]


class NotLoopback(ValueError):
    """An address outside this machine was asked for. Nothing was opened."""

    def __init__(self, host: str) -> None:
        super().__init__(f"{host} is not a loopback address; links are not encrypted yet, so a node stays on its machine")
        self.host = host


def split_address(address: str) -> tuple[str, int]:
    """``host:port`` or ``[v6]:port`` -> (host, port). Raises ValueError if it is neither, or the port is not in 1..65535."""
    host, colon, digits = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not host or not digits.isascii() or not digits.isdigit() or not 0 < int(digits) < 65536:
        raise ValueError(f"{address!r} is no host:port")
    return host, int(digits)


def require_loopback(host: str) -> str:
    """A numeric loopback address; the name localhost becomes one. Raises NotLoopback for everything else: no name is looked up."""
    if host == "localhost":
        return "127.0.0.1"
    try:
        inside = ipaddress.ip_address(host).is_loopback
    except ValueError:
        inside = False
    if not inside:
        raise NotLoopback(host)
    return host


def _endpoint(host: str, port: int) -> str:
    host = require_loopback(host)
    return f"tcp://[{host}]:{port}" if ":" in host else f"tcp://{host}:{port}"


class _Socket:
    """What both directions share: options, the monitor, closing."""

    def __init__(self, raw: zmq.Socket[bytes], limits: LinkLimits) -> None:
        self._raw = raw
        raw.linger = GOODBYE_MS
        raw.maxmsgsize = limits.frame_bytes_max
        raw.handshake_ivl = int(limits.handshake_s * 1000)
        raw.rcvhwm = limits.rcvhwm
        raw.sndhwm = limits.sndhwm
        self._fd: int = raw.FD
        self._monitor: zmq.Socket[bytes] = raw.get_monitor_socket()
        self.events: Counter[str] = Counter()
        """What the monitor told, by libzmq's name of the event, in lower case."""
        self.closed = False

    async def watch(self, on_event: MonitorEvent) -> None:
        """Drain the monitor until cancelled, telling each event and its value. Must run for as long as the socket lives."""
        fd: int = self._monitor.FD
        while True:
            for _ in range(MONITOR_EVENTS_PER_TURN):
                try:
                    frame, *_address = self._monitor.recv_multipart(zmq.NOBLOCK)
                except zmq.Again:
                    break
                number, value = _MONITOR_EVENT.unpack(frame)
                event = zmq.Event(number)
                self.events[(event.name or "unknown").lower()] += 1
                on_event(event, value)
            else:
                await anyio.lowlevel.checkpoint()
                continue
            await anyio.wait_readable(fd)

    def close(self) -> None:
        """What libzmq has already taken has GOODBYE_MS to leave. Call when no task waits on this socket any more."""
        if not self.closed:
            self.closed = True
            self._raw.disable_monitor()
            self._monitor.close(0)
            self._raw.close(GOODBYE_MS)


class Receiver(_Socket):
    """The ROUTER. Routing ids stay in here: who sent is proven by the envelope's signature."""

    def __init__(self, raw: zmq.Socket[bytes], limits: LinkLimits) -> None:
        super().__init__(raw, limits)
        self.frames_dropped = 0
        self.address = ""
        """``host:port`` as bound."""

    def bind(self, host: str, port: int) -> None:
        """Raises NotLoopback, or OSError if the port is taken."""
        endpoint = _endpoint(host, port)
        self._raw.ipv6 = "[" in endpoint
        try:
            self._raw.bind(endpoint)
        except zmq.ZMQError as error:
            raise OSError(error.errno, f"cannot bind {host}:{port}: {error.strerror}") from error
        self.address = cast(bytes, self._raw.getsockopt(zmq.LAST_ENDPOINT)).decode().removeprefix("tcp://").rstrip("\0")

    def take(self) -> Any:
        from types import SimpleNamespace

        f = self.take_()
        return None if f is None else SimpleNamespace(user="", frames=f)

    def add_endpoint(self, host: str, port: int, curve: object) -> str:
        return self.address

    def drop_endpoint(self, address: str) -> None: ...

    def take_(self) -> list[bytes] | None:
        """The frames of one message without the routing id, or None if there is none now. At most FRAMES_MAX frames are kept."""
        raw = self._raw
        try:
            frame = raw.recv(_NOBLOCK, copy=False)
        except zmq.Again:
            return None
        frames: list[bytes] = []
        while frame.more:
            frame = raw.recv(_NOBLOCK, copy=False)
            if len(frames) < FRAMES_MAX:
                frames.append(frame.bytes)
            else:
                self.frames_dropped += 1
        return frames

    def readable(self) -> bool:
        """True if `take` would give a message."""
        return bool(_get(self._raw, _EVENTS) & _POLLIN)

    async def wait(self) -> None:
        """Return when there may be a message. Spurious returns are normal. Lets others run in any case."""
        if self.readable():
            await anyio.lowlevel.checkpoint()
        else:
            await anyio.wait_readable(self._fd)

    async def listen(self, arrived: Callable[[], None]) -> None:
        """Call `arrived` when a message has come, until cancelled. Whoever is called takes all: of one that is left nobody tells again."""
        arrived()
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:  # trio
            while True:
                await self.wait()
                arrived()
        loop.add_reader(self._fd, arrived)
        try:
            await anyio.sleep_forever()
        finally:
            loop.remove_reader(self._fd)


class Sender(_Socket):
    """One DEALER to one peer. It connects once (RECONNECT_IVL -1): after DISCONNECTED a new one is made, HELLO first."""

    def __init__(self, raw: zmq.Socket[bytes], limits: LinkLimits, address: str, endpoint: str) -> None:
        super().__init__(raw, limits)
        self.address = address
        raw.immediate = True
        raw.reconnect_ivl = -1
        raw.ipv6 = "[" in endpoint
        raw.connect(endpoint)

    def send(self, frames: Sequence[bytes]) -> bool:
        """Hand one message to libzmq. False if it takes none now (not connected yet, or SNDHWM is reached); nothing was sent then."""
        raw, more = self._raw, _MORE
        last = len(frames) - 1
        try:
            for index, frame in enumerate(frames):  # libzmq takes the whole message or, at its first frame, nothing
                _send(raw, frame, more if index < last else _NOBLOCK)
        except zmq.Again:
            return False
        return True

    def writable(self) -> bool:
        """True if `send` would take a message."""
        return bool(_get(self._raw, _EVENTS) & _POLLOUT)

    async def wait_writable(self) -> None:
        """Return when `send` would take a message."""
        while not self.writable():
            await anyio.wait_readable(self._fd)


class Sockets:
    """The factory. One per node: it owns the ZeroMQ context. `close` it after every socket is closed."""

    def __init__(self, limits: LinkLimits, curve: object = None) -> None:
        """Raises RuntimeError if libzmq is older than LIBZMQ_MIN."""
        if zmq.zmq_version_info() < LIBZMQ_MIN:
            raise RuntimeError(f"libzmq {zmq.zmq_version()} is too old; {'.'.join(map(str, LIBZMQ_MIN))} is needed: pip install -U pyzmq")
        self._limits = limits
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        # A link is a DEALER, its monitor's two ends; the ROUTER has as many.
        self._context.set(zmq.MAX_SOCKETS, 3 * limits.peers_max + 64)

    def router(self, host: str = "127.0.0.1", port: int = 0) -> Receiver:
        """A bound ROUTER; port 0 lets the system choose. Raises NotLoopback, or OSError if the port is taken."""
        require_loopback(host)
        _seed_libc()
        receiver = Receiver(self._context.socket(zmq.ROUTER), self._limits)
        try:
            receiver.bind(host, port)
        except OSError:
            receiver.close()
            raise
        return receiver

    def admit(self, key: bytes, node: str) -> None: ...
    def expel(self, node: str) -> None: ...
    def retire(self, key: bytes) -> None: ...
    def rekey(self, curve: object) -> None: ...
    async def run(self) -> None: ...

    def dealer(self, address: str, key: bytes = b"") -> Sender:
        """A DEALER that starts to connect to ``host:port``. Raises NotLoopback, or ValueError for what is no address."""
        endpoint = _endpoint(*split_address(address))
        return Sender(self._context.socket(zmq.DEALER), self._limits, address, endpoint)

    def close(self) -> None:
        """End the context. Blocks for ever if a socket is still open, so that a leak shows."""
        self._context.term()


def _seed_libc() -> None:
    """Routing ids of libzmq count up from libc's ``rand()``: make the first one unguessable."""
    libc = ctypes.CDLL(None)
    libc.srand(ctypes.c_uint(int.from_bytes(os.urandom(4), "little")))
