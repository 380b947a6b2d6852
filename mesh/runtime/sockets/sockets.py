"""The socket factory: every ZeroMQ socket of a node is made here, with every option that safety needs; nothing else in `mesh` creates one.

    Receiver   our ROUTER. It only receives: a ROUTER that sends drops silently when it believes a queue is full
    Sender     one DEALER per peer; it only sends. SNDHWM is small, so that the queue is ours, with classes, not libzmq's
    Sockets    makes them, with a transport key: CURVE on both, our ZAP handler (`zap.py`), the guard (`guard.py`)

The anyio binding is thin: wait for the ZeroMQ file descriptor, then work without blocking until EAGAIN. The descriptor is edge-like: it
tells that *something* happened, once; so EVENTS is asked again before every wait. Receiving never awaits: a cancelled wait loses nothing.

Invariants: nothing binds outside loopback unless CURVE, our ZAP handler and its enforced domain, MAXMSGSIZE, HANDSHAKE_IVL and the HWMs
are set on that very socket (`_require_safe`, the one place where anything binds); what `take` gives came over a connection that proved
the key of the node named with it; libc's `rand` is seeded from the operating system before the first ROUTER, because libzmq counts
routing ids up from it and aborts the process when somebody has claimed the next one; every monitor is drained, else libzmq's I/O thread
stops at 2000 events. Without a transport key all is plain and stays on loopback. Does not know envelopes or sessions.

Figures and trials: pyzmq 27, libzmq 4.3.5; `docs/architecture.md`, "Sockets".
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple, cast

import anyio
import anyio.lowlevel
import zmq
import zmq.backend

from mesh.ids import NodeId
from mesh.limits import LinkLimits
from mesh.runtime.sockets.addresses import NotLoopback, is_loopback, require_loopback, require_numeric, split_address, tcp_endpoint
from mesh.runtime.sockets.curve import KEY_BYTES, CurveKey
from mesh.runtime.sockets.gate import Gate, GateStatistics
from mesh.runtime.sockets.guard import Connection, Guard
from mesh.runtime.sockets.readiness import call_when_readable
from mesh.runtime.sockets.zap import DOMAIN, ENDPOINT

__all__ = ["Arrival", "NotLoopback", "Receiver", "Sender", "Sockets", "Unprotected", "require_loopback", "require_numeric", "split_address"]

LIBZMQ_MIN = (4, 3, 5)
"""Older ones have known holes."""
FRAMES_MAX = 8
"""Frames of one message that are kept; the rest is read and thrown away. An envelope has fewer, so such a message is refused anyway."""
FRAMES_DROPPED_PER_TURN = 256
"""A message of 16 MiB may have half a million frames: others have their turn in between."""
MONITOR_EVENTS_PER_TURN = 64
GOODBYE_MS = 200
"""LINGER: how long what was sent last may take to leave, at the end of a node too."""
REBIND_MS = 1000
KEEPALIVE_S = 30
"""A ROUTER that only receives never notices that a host has lost power; the kernel asks after so much silence, and for as long again."""
_MONITOR_EVENT = struct.Struct("=hi")
_EVENTS_TOLD = int(zmq.EVENT_ALL) & ~int(zmq.EVENT_ACCEPT_FAILED)
"""Without descriptors libzmq fails to accept as fast as it can, and would tell each time: the guard looks for itself."""

# Plain integers, and the C method below pyzmq's: its conversion of enumerations costs more than the calls do (10 us an envelope).
_NOBLOCK = int(zmq.NOBLOCK)
_MORE = int(zmq.NOBLOCK | zmq.SNDMORE)
_EVENTS = int(zmq.EVENTS)
_POLLIN, _POLLOUT = int(zmq.POLLIN), int(zmq.POLLOUT)
_SRCFD = int(zmq.SRCFD)
_get = cast(Callable[[object, int], int], zmq.backend.Socket.get)
_send = cast(Callable[[object, bytes, int], None], zmq.backend.Socket.send)
_text = cast(Callable[[object, bytes], str], zmq.backend.Frame.get)
_number = cast(Callable[[object, int], int], zmq.backend.Frame.get)

# What a frame costs on the wire beside its content, under CURVE: flags and length, "\x07MESSAGE", nonce, MAC, flags.
_SMALL_MAX = 255 - 33
_SMALL_EXTRA, _LARGE_EXTRA = 2 + 33, 9 + 33

MonitorEvent = Callable[[zmq.Event, int], None]


class Unprotected(RuntimeError):
    """A socket was about to bind outside this machine without everything that protects it: a defect of ours. Nothing was opened."""


class Arrival(NamedTuple):
    """One message, and the node whose transport key brought it (the empty string without encryption)."""

    user: NodeId
    frames: list[bytes]


_CUT_SHORT = Arrival("", [])
"""In the middle of a message of too many frames: no envelope, and there may be more."""


class _Socket:
    """What both directions share: options, the monitor, closing."""

    def __init__(self, raw: zmq.Socket[bytes], limits: LinkLimits, guard: Guard | None) -> None:
        self._raw, self._limits, self._guard = raw, limits, guard
        raw.linger = GOODBYE_MS
        raw.maxmsgsize = limits.frame_bytes_max
        raw.handshake_ivl = int(limits.handshake_s * 1000)
        raw.rcvhwm = limits.rcvhwm
        raw.sndhwm = limits.sndhwm
        raw.tcp_keepalive = 1
        raw.tcp_keepalive_idle = KEEPALIVE_S
        raw.tcp_keepalive_intvl = KEEPALIVE_S // 3
        raw.tcp_keepalive_cnt = 3
        if guard is not None:
            raw.zap_domain = DOMAIN
            raw.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)
        self._fd: int = raw.FD
        self._monitor: zmq.Socket[bytes] = raw.get_monitor_socket(_EVENTS_TOLD)
        self._tell: MonitorEvent = _nobody
        self.events: Counter[str] = Counter()
        """What the monitor told, by libzmq's name of the event, in lower case."""
        self.closed = False

    async def watch(self, on_event: MonitorEvent) -> None:
        """Drain the monitor until cancelled, telling each event and its value. Must run for as long as the socket lives."""
        self._tell = on_event
        fd: int = self._monitor.FD
        while True:
            if self._drain():
                await anyio.lowlevel.checkpoint()
            else:
                await anyio.wait_readable(fd)

    def _drain(self) -> bool:
        """Take in what the monitor has to tell. True if there may be more."""
        for _ in range(MONITOR_EVENTS_PER_TURN):
            try:
                frame, *_address = self._monitor.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return False
            number, value = _MONITOR_EVENT.unpack(frame)
            event = zmq.Event(number)
            self.events[(event.name or "unknown").lower()] += 1
            if self._guard is not None:
                self._inform(self._guard, event, value)
            self._tell(event, value)
        return True

    def _inform(self, guard: Guard, event: zmq.Event, value: int) -> None:
        """Let the guard know of a connection's beginning or end; `value` is its descriptor."""
        raise NotImplementedError

    def close(self) -> None:
        """What libzmq has already taken has GOODBYE_MS to leave. Call when no task waits on this socket any more."""
        if not self.closed:
            self.closed, self._tell = True, _nobody
            while self._drain():  # an I/O thread that waits for room in there would never let the monitor go
                pass
            self._raw.disable_monitor()
            self._monitor.close(0)
            self._raw.close(GOODBYE_MS)


class Receiver(_Socket):
    """The ROUTER. Routing ids stay in here, whatever a peer claims: who sent is proven by the connection's key, and a signature inside."""

    def __init__(self, raw: zmq.Socket[bytes], limits: LinkLimits, gate: Gate | None) -> None:
        super().__init__(raw, limits, gate.guard if gate is not None else None)
        self._gate = gate
        self._known: dict[bytes, Connection] = gate.guard.known if gate is not None else {}
        self._endpoints: dict[str, CurveKey | None] = {}
        self._ports: set[int] = set()
        self._cutting_short = False
        self.frames_dropped = 0
        self.address = ""
        """``host:port`` as bound; of several endpoints, the newest."""

    def add_endpoint(self, host: str, port: int, curve: CurveKey | None) -> str:
        """Serve under `curve` at one more address, beside those before; returns it as ``host:port``. Port 0 lets the system choose.

        Raises NotLoopback, ValueError if `host` is no numeric address, or OSError if the port is taken.
        """
        assert (curve is None) == (self._gate is None), "a ROUTER is plain or secured as a whole"
        raw, endpoint = self._raw, tcp_endpoint(host, port, secured=curve is not None)
        if curve is not None:
            raw.curve_server = True
            raw.curve_publickey, raw.curve_secretkey = curve.public, curve.secret
        raw.ipv6 = "[" in endpoint
        self._require_safe(require_numeric(host))
        try:
            raw.bind(endpoint)
        except zmq.ZMQError as error:
            # Telling the monitor of it may have changed libzmq's errno.
            number = errno.EADDRINUSE if error.errno == errno.EAGAIN else error.errno or 0
            raise OSError(number, f"cannot bind {host}:{port}: {os.strerror(number)}") from error
        self.address = cast(bytes, raw.getsockopt(zmq.LAST_ENDPOINT)).decode().removeprefix("tcp://").rstrip("\0")
        self._endpoints[self.address] = curve
        self._ports.add(split_address(self.address)[1])
        return self.address

    def _require_safe(self, host: str) -> None:
        """Raises Unprotected unless this socket may be seen at `host`. While our handler does not answer nobody gets in: that is safe."""
        raw = self._raw
        safe = (
            self._gate is not None
            and raw.getsockopt(zmq.MECHANISM) == zmq.CURVE
            and raw.getsockopt(zmq.CURVE_SERVER) == 1
            and cast(bytes, raw.getsockopt(zmq.ZAP_DOMAIN)).rstrip(b"\0") == DOMAIN
            and raw.getsockopt(zmq.ZAP_ENFORCE_DOMAIN) == 1
            and 0 < cast(int, raw.getsockopt(zmq.MAXMSGSIZE)) <= self._limits.frame_bytes_max
            and raw.getsockopt(zmq.HANDSHAKE_IVL) != 0
            and raw.getsockopt(zmq.RCVHWM) != 0
            and raw.getsockopt(zmq.SNDHWM) != 0
        )
        if not safe and not is_loopback(host):
            raise Unprotected(f"{host} would be bound without protection")

    def drop_endpoint(self, address: str) -> None:
        """Serve no longer at `address`, as `add_endpoint` returned it. The connections that came in there end."""
        del self._endpoints[address]
        self._raw.unbind(f"tcp://{address}")
        port = split_address(address)[1]
        self._ports.discard(port)
        if self._guard is not None:
            self._drain()
            self._guard.unbound(port)

    def rebind(self) -> None:
        """End every connection, by leaving every endpoint and coming back: for where one cannot be told from others. Takes milliseconds.

        Raises OSError if an endpoint cannot be had again.
        """
        for address, curve in tuple(self._endpoints.items()):
            self.drop_endpoint(address)
            while True:
                try:
                    self.add_endpoint(*split_address(address), curve)
                    break
                except OSError as error:
                    if error.errno != errno.EADDRINUSE or not self._monitor.poll(REBIND_MS):
                        raise
                    self._drain()  # it is free when libzmq has told so

    def _inform(self, guard: Guard, event: zmq.Event, value: int) -> None:
        if event is zmq.Event.ACCEPTED:
            guard.accepted(value, self._ports)
        elif event is zmq.Event.DISCONNECTED:
            guard.ended(value)

    def catch_up(self) -> None:
        """Take in all that the monitor has to tell, now."""
        while self._drain():
            pass

    def take(self) -> Arrival | None:
        """One message, or None if there is none now. At most FRAMES_MAX frames are kept, and whoever sends more is cut."""
        recv, known = self._raw.recv, self._known
        while True:
            if self._cutting_short and self._drop_frames():
                return _CUT_SHORT
            try:
                routing_id = recv(_NOBLOCK)
            except zmq.Again:
                return None
            frame = recv(_NOBLOCK, False)
            connection, first = known.get(routing_id), False
            if connection is None and self._gate is not None:
                first, connection = True, self._meet(self._gate, routing_id, frame)
            frames = [frame.bytes]
            while frame.more:
                if len(frames) == FRAMES_MAX:
                    self._cut_short(connection)
                    break
                frame = recv(_NOBLOCK, False)
                frames.append(frame.bytes)
            if connection is not None:
                wire_bytes = 0
                for data in frames:
                    size_bytes = len(data)
                    wire_bytes += size_bytes + (_SMALL_EXTRA if size_bytes <= _SMALL_MAX else _LARGE_EXTRA)
                connection.delivered += wire_bytes
                if not first or frames != [b""]:
                    return Arrival(connection.node, frames)
            elif self._gate is None:
                return Arrival("", frames)

    def _meet(self, gate: Gate, routing_id: bytes, frame: zmq.Frame) -> Connection | None:
        """The first message of a connection is here; None if whoever sent it has been cut off."""
        connection = gate.meet(_told(frame, b"User-Id"), routing_id, _fd_of(frame))
        if connection is not None and _told(frame, b"Identity"):  # good for nothing but to guess the one that libzmq gives next
            gate.guard.disown(connection, "chose_routing_id")
            return None
        return connection

    def _cut_short(self, connection: Connection | None) -> None:
        self._cutting_short = True
        if connection is not None and self._gate is not None:
            self._gate.guard.disown(connection, "too_many_frames")

    def _drop_frames(self) -> bool:
        """Throw away what is left of a message of too many frames. True if there is more of it."""
        for _ in range(FRAMES_DROPPED_PER_TURN):
            self.frames_dropped += 1
            if not self._raw.recv(_NOBLOCK, copy=False).more:
                self._cutting_short = False
                return False
        return True

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
        await call_when_readable(self._fd, arrived)


class Sender(_Socket):
    """One DEALER to one peer. It connects once (RECONNECT_IVL -1): after DISCONNECTED a new one is made, HELLO first."""

    def __init__(self, raw: zmq.Socket[bytes], limits: LinkLimits, guard: Guard | None, address: str, endpoint: str) -> None:
        super().__init__(raw, limits, guard)
        self.address = address
        raw.immediate = True
        raw.reconnect_ivl = -1
        raw.ipv6 = "[" in endpoint
        raw.probe_router = guard is not None  # one empty message, so that the other side knows at once which connection is whose
        raw.connect(endpoint)

    def _inform(self, guard: Guard, event: zmq.Event, value: int) -> None:
        if event is zmq.Event.CONNECTED:
            guard.dialled(self, value, self._lost)
        elif event is zmq.Event.DISCONNECTED:
            guard.hung_up(self)

    def _lost(self) -> None:
        """Cut by the guard. libzmq would tell only after it has got rid of what came back, and nobody takes that."""
        self.events["disconnected"] += 1
        self._tell(zmq.Event.DISCONNECTED, -1)

    def close(self) -> None:
        super().close()
        if self._guard is not None:
            self._guard.hung_up(self)

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
    """The factory. One per node: it owns the ZeroMQ context and the gate (who may connect, who is connected).

    With a transport key everything is encrypted, only admitted keys get in, and only while `run` runs. Without one everything is plain,
    loopback only; `admit`, `expel`, `retire` and `rekey` then have nothing to do. `close` it after every socket is closed.
    """

    def __init__(self, limits: LinkLimits, curve: CurveKey | None = None) -> None:
        """Raises RuntimeError if libzmq is older than LIBZMQ_MIN or has no CURVE."""
        if zmq.zmq_version_info() < LIBZMQ_MIN:
            raise RuntimeError(f"libzmq {zmq.zmq_version()} is too old; {'.'.join(map(str, LIBZMQ_MIN))} is needed: pip install -U pyzmq")
        if not zmq.has("curve"):
            raise RuntimeError("this libzmq was built without CURVE: pip install --force-reinstall --only-binary pyzmq pyzmq")
        self._limits, self._curve = limits, curve
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        # A link is a DEALER, its monitor's two ends; the ROUTER has as many.
        self._context.set(zmq.MAX_SOCKETS, 3 * limits.peers_max + 64)
        self._receiver: Receiver | None = None
        self._gate: Gate | None = None
        if curve is not None:
            handler = self._context.socket(zmq.ROUTER)
            handler.bind(ENDPOINT)
            self._gate = Gate(handler, limits, self._catch_up)

    async def run(self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Answer handshakes, watch connections and drain the ROUTER's monitor, until cancelled. Make the ROUTER first."""
        async with anyio.create_task_group() as tasks:
            if self._receiver is not None:
                tasks.start_soon(self._receiver.watch, _nobody)
            if self._gate is not None:
                tasks.start_soon(self._gate.run)
            task_status.started()

    def _catch_up(self) -> None:
        if self._receiver is not None and not self._receiver.closed:
            self._receiver.catch_up()

    def router(self, host: str = "127.0.0.1", port: int = 0) -> Receiver:
        """The node's ROUTER, bound; port 0 lets the system choose. There is one at a time.

        Raises NotLoopback, ValueError if `host` is no numeric address, or OSError if the port is taken.
        """
        assert self._receiver is None or self._receiver.closed, "a node has one ROUTER"
        tcp_endpoint(host, port, secured=self._curve is not None)
        _seed_libc()
        receiver = Receiver(self._context.socket(zmq.ROUTER), self._limits, self._gate)
        try:
            receiver.add_endpoint(host, port, self._curve)
        except (OSError, Unprotected):
            receiver.close()
            raise
        self._receiver = receiver
        return receiver

    def dealer(self, address: str, server_key: bytes = b"") -> Sender:
        """A DEALER that starts to connect to ``host:port``, and speaks only to who holds `server_key` (ignored without encryption).

        Raises NotLoopback, or ValueError for what is no numeric address or no key.
        """
        endpoint = tcp_endpoint(*split_address(address), secured=self._curve is not None)
        if self._curve is not None and len(server_key) != KEY_BYTES:
            raise ValueError("whom to expect must be said: the peer's transport key")
        raw = self._context.socket(zmq.DEALER)
        if self._curve is not None:
            raw.curve_publickey, raw.curve_secretkey, raw.curve_serverkey = self._curve.public, self._curve.secret, server_key
        return Sender(raw, self._limits, self._gate.guard if self._gate is not None else None, address, endpoint)

    def rekey(self, curve: CurveKey) -> None:
        """DEALERs made from now on use this key. For the ROUTER: `Receiver.add_endpoint`."""
        if self._curve is not None:
            self._curve = curve

    def ask_before(self, may_come: Callable[[NodeId], bool]) -> None:
        """Let `may_come` decide about each connection of an admitted node to our ROUTER."""
        if self._gate is not None:
            self._gate.ask_before(may_come)

    def admit(self, key: bytes, node: NodeId) -> bool:
        """From now on `key` opens our ROUTER in the name of `node`. False, and counted, if it cannot: `Gate.admit` says when."""
        return self._gate is None or self._gate.admit(key, node)

    def expel(self, node: NodeId) -> None:
        """No key of `node` opens our ROUTER any more, its live connections to it are cut now, and nothing they have sent is taken.

        Where libzmq does not tell which connection a message came over, all are cut, by `Receiver.rebind`. Raises OSError as that does.
        """
        if self._gate is not None and not self._gate.expel(node) and self._receiver is not None:
            self._receiver.rebind()

    def retire(self, key: bytes) -> None:
        """The same for one key of a node; its connections under other keys go on."""
        if self._gate is not None and not self._gate.retire(key) and self._receiver is not None:
            self._receiver.rebind()

    def statistics(self) -> GateStatistics | None:
        """None without encryption."""
        return self._gate.statistics() if self._gate is not None else None

    def close(self) -> None:
        """End the context. Blocks for ever if a socket is still open, so that a leak shows."""
        if self._gate is not None:
            self._gate.close()
        self._context.term()


def _told(frame: zmq.Frame, what: bytes) -> str:
    """What libzmq says of the connection that brought this frame; the empty string if nothing. The peer may have made up some of it."""
    try:
        return _text(frame, what)
    except zmq.ZMQError:
        return ""
    except UnicodeDecodeError:
        return "?"


def _fd_of(frame: zmq.Frame) -> int:
    """The descriptor of the connection that brought this frame, or -1 where libzmq does not tell."""
    try:
        return _number(frame, _SRCFD)
    except zmq.ZMQError:
        return -1


def _nobody(event: zmq.Event, value: int) -> None:
    """For events that are counted, no more."""


def _seed_libc() -> None:
    """Routing ids of libzmq count up from libc's ``rand()``: make the first one unguessable."""
    libc = ctypes.CDLL(None)
    libc.srand(ctypes.c_uint(int.from_bytes(os.urandom(4), "little")))
