"""The door: a TCP listener under TLS 1.3 where strangers knock. Never a ROUTER, so that nothing unproven reaches libzmq.

    member     TLS, then  knock(nonce, proof) --> open(proof)      both know the mesh's discovery key; only then
               HELLO --> WELCOME or turned                         each says who it is
    no member  TLS, then  Join or Ask --> admission or turned      (`runtime/trust/registrar.py`)

Invariant: a stranger costs at most one handshake, one frame of `door_frame_bytes_max`, `handshake_s` of time and one of
`door_connections_max` places (`door_per_address_max` from one address), and learns one word; whatever he sends (HTTP, other TLS, noise,
nothing) is one counted refusal. Where places run out, whoever has stood there longest without a word goes; where connections or handshakes
come too fast, those of one address are turned away, then those of all addresses at which no linked peer lives. Nothing that comes from
outside ends the door, nor does want of descriptors. Does not know what a HELLO is: `runtime/links/sessions.py` does. Dialling is
`runtime/links/dialling.py`.
"""

from __future__ import annotations

import resource
import socket
import ssl
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import anyio
import anyio.abc
import anyio.to_thread
from anyio.streams.tls import TLSStream

from mesh.limits import LinkLimits
from mesh.runtime.links.frames import BadFrame, read_frame, write_frame
from mesh.runtime.links.sessions import turned
from mesh.runtime.rates import Rates
from mesh.wire.packing import Refusal, pack, unpack_row
from mesh.wire.token import knock_proof, same

VERSION = 1
NONCE_BYTES = 16
ACCEPTS_PER_TURN = 64
"""Connections taken before others have their turn."""
ACCEPT_AGAIN_S = 0.1
"""After a failure to accept, mostly for want of descriptors."""


@dataclass(frozen=True, slots=True)
class DoorStatistics:
    """`empty`: connections closed without a word, as peers do who ask only whether this process lives."""

    open: int
    answered: int
    enrolled: int
    empty: int
    refusals: dict[str, int]


@dataclass(slots=True)
class DoorKeys:
    """What the door shows and asks for. Replaced whole when a key is rotated. `tls` None: no encryption (benchmarks, loopback)."""

    tls: ssl.SSLContext | None
    public: bytes
    """The node's identity key: what the TLS certificate holds."""
    discovery: bytes


@dataclass(slots=True, eq=False)
class _Guest:
    """One connection. `scope` ends it."""

    address: str
    scope: anyio.CancelScope
    inside: bool = True


class Door:
    """Serves `listener`.

    `answer(frame)` gives the answer to a HELLO and never raises or waits; `enrol(frame)` may wait, and raises Refusal. `lives(address)`:
    whether a linked peer lives there.
    """

    def __init__(
        self,
        listener: anyio.abc.SocketListener,
        limits: LinkLimits,
        keys: Callable[[], DoorKeys],
        answer: Callable[[bytes], bytes],
        enrol: Callable[[bytes], bytes] | None = None,
        noted: Callable[[str, str], None] | None = None,
        lives: Callable[[str], bool] = lambda address: False,
    ) -> None:
        self._noted, self._lives = noted, lives
        self._listener, self._limits, self._keys, self._answer, self._enrol = listener, limits, keys, answer, enrol
        self._handshakes = Rates(limits.hello_per_s, limits.hello_burst, keys_max=limits.peers_max)
        self._all_handshakes = Rates(limits.all_hellos_per_s, limits.all_hellos_burst)
        self._connects = Rates(limits.connects_per_s, limits.connects_burst, keys_max=limits.peers_max)
        self._all_connects = Rates(limits.all_connects_per_s, limits.all_connects_burst)
        descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._places = max(1, min(limits.door_connections_max, descriptors // 4))
        self._silent: dict[_Guest, None] = {}
        """Inside, and no word said yet; the longest there first."""
        self._inside: Counter[str] = Counter()
        self._answered = self._enrolled = self._empty = 0
        self.refusals: Counter[str] = Counter()

    async def run(self) -> None:
        """Until cancelled; then the listener is closed and who is inside is put out."""
        listening = self._listener.extra(anyio.abc.SocketAttribute.raw_socket)
        async with self._listener, anyio.create_task_group() as tasks:
            while True:
                await anyio.wait_readable(listening)
                if not self._accept(listening, tasks):
                    await anyio.sleep(ACCEPT_AGAIN_S)

    def _accept(self, listening: socket.socket, tasks: anyio.abc.TaskGroup) -> bool:
        """Take those who wait outside. False if that is impossible now."""
        for _ in range(ACCEPTS_PER_TURN):
            try:
                stream, (address, *_) = listening.accept()
            except (BlockingIOError, ConnectionError):  # none is left, or one that is gone again
                return True
            except OSError:
                self._refuse("no_descriptors", "")
                return False
            if reason := self._turned_away(address):
                stream.close()
                self._refuse(reason, address)
            else:
                guest = _Guest(address, anyio.CancelScope())
                self._inside[address] += 1
                self._silent[guest] = None
                tasks.start_soon(self._serve, stream, guest)
        return True

    def _turned_away(self, address: str) -> str:
        """Why nobody more from this address is let in now; empty if somebody is. May put somebody out for him."""
        if not (self._connects.allow(address) and (self._lives(address) or self._all_connects.allow(""))):
            return "too_many_connects"
        if not (self._handshakes.has(address) and (self._lives(address) or self._all_handshakes.has(""))):
            return "too_fast"
        if self._inside[address] >= self._limits.door_per_address_max and not self._make_room(address):
            return "too_many_from_address"
        if self._inside.total() >= self._places and not self._make_room(""):
            return "too_many_connections"
        return ""

    def _make_room(self, address: str) -> bool:
        """Put out who has stood there longest without a word ("": of all). False if there is none."""
        oldest = next((guest for guest in self._silent if address in ("", guest.address)), None)
        if oldest is None:
            return False
        self._refuse("silent_too_long", oldest.address)
        self._leave(oldest)
        oldest.scope.cancel()
        return True

    def _leave(self, guest: _Guest) -> None:
        """His place is free. Twice is as once."""
        self._silent.pop(guest, None)
        if guest.inside:
            guest.inside = False
            self._inside[guest.address] -= 1
            if not self._inside[guest.address]:
                del self._inside[guest.address]

    async def _serve(self, accepted: socket.socket, guest: _Guest) -> None:
        try:
            with guest.scope:
                async with await _stream_of(accepted) as stream:
                    with anyio.fail_after(self._limits.handshake_s):
                        await self._converse(stream, guest)
        except TimeoutError:
            self._refuse("timeout", guest.address)
        except BadFrame as bad:
            if bad.reason == "empty":
                self._empty += 1
            else:
                self._refuse(bad.reason, guest.address)
        except OSError:  # gone before it was looked at
            self._empty += 1
        finally:
            self._leave(guest)

    def _refuse(self, reason: str, address: str) -> None:
        self.refusals[reason] += 1
        if self._noted is not None:
            self._noted(f"door_{reason}", address)

    async def _converse(self, stream: anyio.abc.SocketStream, guest: _Guest) -> None:
        keys, address = self._keys(), guest.address
        inside = await self._under_tls(stream, address, keys)
        frame = await read_frame(inside, self._limits.door_frame_bytes_max)
        self._silent.pop(guest, None)
        if keys.tls is None and not self._may_greet(address):
            self._refuse("too_fast", address)
            await write_frame(inside, turned("busy"))
        elif _is_knock(frame):
            await self._let_in(inside, frame, keys, address)
        else:
            await write_frame(inside, await self._enrolment(frame, address))

    def _may_greet(self, address: str) -> bool:
        return self._handshakes.allow(address) and (self._lives(address) or self._all_handshakes.allow(""))

    async def _under_tls(self, stream: anyio.abc.SocketStream, address: str, keys: DoorKeys) -> anyio.abc.ByteStream:
        """The connection inside TLS. A handshake costs milliseconds, so who is too fast is cut before it."""
        if keys.tls is None:
            return stream
        first = await _first_byte(stream)
        if not first:
            raise BadFrame("empty")
        if not self._may_greet(address):
            raise BadFrame("too_fast")
        try:
            return await TLSStream.wrap(_Unread(stream, first), server_side=True, ssl_context=keys.tls, standard_compatible=False)
        except (ssl.SSLError, anyio.BrokenResourceError, anyio.EndOfStream, OSError):
            raise BadFrame("tls_failed") from None

    async def _let_in(self, stream: anyio.abc.ByteStream, frame: bytes, keys: DoorKeys, address: str) -> None:
        nonce, proof = _read_knock(frame)
        if not same(knock_proof(keys.discovery, "knock", nonce, keys.public), proof):
            self._refuse("knock_other_mesh", address)
            await write_frame(stream, turned("other_mesh"))
            return
        await write_frame(stream, pack(("open", VERSION, knock_proof(keys.discovery, "open", nonce, keys.public))))
        hello = await read_frame(stream, self._limits.door_frame_bytes_max)
        self._answered += 1
        await write_frame(stream, self._answer(hello))

    async def _enrolment(self, frame: bytes, address: str) -> bytes:
        if self._enrol is None:
            self._refuse("no_enrolment", address)
            return turned("no_issuer")
        try:
            answer = await anyio.to_thread.run_sync(self._enrol, frame)
        except Refusal as refusal:
            if refusal.reason != "wait":
                self._refuse(f"join_{refusal.reason}", address)
            return turned(refusal.reason)
        self._enrolled += 1
        return answer

    def statistics(self) -> DoorStatistics:
        return DoorStatistics(self._inside.total(), self._answered, self._enrolled, self._empty, dict(self.refusals))


async def _stream_of(accepted: socket.socket) -> anyio.abc.SocketStream:
    try:
        return await anyio.abc.SocketStream.from_socket(accepted)
    except BaseException:
        accepted.close()
        raise


async def _first_byte(stream: anyio.abc.SocketStream) -> bytes:
    try:
        return await stream.receive(1)
    except (anyio.EndOfStream, anyio.BrokenResourceError, OSError):
        return b""


class _Unread(anyio.abc.ByteStream):
    """A stream whose first byte has been looked at."""

    def __init__(self, stream: anyio.abc.SocketStream, first: bytes) -> None:
        self._stream, self._first = stream, first

    async def receive(self, max_bytes: int = 65536) -> bytes:
        if self._first:
            first, self._first = self._first, b""
            return first
        return await self._stream.receive(max_bytes)

    async def send(self, item: bytes) -> None:
        await self._stream.send(item)

    async def send_eof(self) -> None:
        await self._stream.send_eof()

    async def aclose(self) -> None:
        await self._stream.aclose()


def _is_knock(frame: bytes) -> bool:
    try:
        return unpack_row(frame)[:1] == ("knock",)
    except Refusal as refusal:
        raise BadFrame(refusal.reason) from None


def _read_knock(frame: bytes) -> tuple[bytes, bytes]:
    row = unpack_row(frame)
    if len(row) != 4 or row[1] != VERSION or type(row[2]) is not bytes or type(row[3]) is not bytes or len(row[2]) != NONCE_BYTES:
        raise BadFrame("malformed")
    return row[2], row[3]
