"""The door: a TCP listener under TLS 1.3 where strangers knock. Never a ROUTER, so that nothing unproven reaches libzmq.

    member     TLS, then  knock(nonce, proof) --> open(proof)      both know the mesh's discovery key; only then
               HELLO --> WELCOME or turned                         each says who it is
    no member  TLS, then  Join or Ask --> admission or turned      (`runtime/registrar.py`)

Invariant: a stranger costs at most one handshake, one frame of `door_frame_bytes_max`, `handshake_s` of time and one of
`door_connections_max` places (`door_per_address_max` from one address), and learns one word; whatever he sends (HTTP, other TLS, noise,
nothing) is one counted refusal. Does not know what a HELLO is: `runtime/sessions.py` does. Dialling is `runtime/dialling.py`.
"""

from __future__ import annotations

import ssl
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import anyio
import anyio.abc
import anyio.to_thread
from anyio.streams.tls import TLSStream

from mesh.limits import LinkLimits
from mesh.runtime.frames import BadFrame, read_frame, write_frame
from mesh.runtime.rates import Rates
from mesh.runtime.sessions import turned
from mesh.wire.packing import Refusal, pack, unpack_row
from mesh.wire.token import knock_proof, same

VERSION = 1
NONCE_BYTES = 16


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


class Door:
    """Serves `listener`.

    `answer(frame)` gives the answer to a HELLO and never raises or waits; `enrol(frame)` may wait, and raises Refusal.
    """

    def __init__(
        self,
        listener: anyio.abc.Listener[anyio.abc.SocketStream],
        limits: LinkLimits,
        keys: Callable[[], DoorKeys],
        answer: Callable[[bytes], bytes],
        enrol: Callable[[bytes], bytes] | None = None,
        noted: Callable[[str, str], None] | None = None,
    ) -> None:
        self._noted = noted
        self._listener, self._limits, self._keys, self._answer, self._enrol = listener, limits, keys, answer, enrol
        self._rates = Rates(limits.hello_per_s, limits.hello_burst, keys_max=limits.peers_max)
        self._places: Counter[str] = Counter()
        self._answered = self._enrolled = self._empty = 0
        self.refusals: Counter[str] = Counter()

    async def run(self) -> None:
        """Until cancelled; then the listener is closed and who is inside is put out."""
        async with self._listener:
            await self._listener.serve(self._serve)

    async def _serve(self, stream: anyio.abc.SocketStream) -> None:
        async with stream:
            address = _address_of(stream)
            if reason := self._full(address):
                self._refuse(reason, address)
                return
            self._places[address] += 1
            try:
                with anyio.fail_after(self._limits.handshake_s):
                    await self._converse(stream, address)
            except TimeoutError:
                self._refuse("timeout", address)
            except BadFrame as bad:
                if bad.reason == "empty":
                    self._empty += 1
                else:
                    self._refuse(bad.reason, address)
            finally:
                self._places[address] -= 1
                if not self._places[address]:
                    del self._places[address]

    def _refuse(self, reason: str, address: str) -> None:
        self.refusals[reason] += 1
        if self._noted is not None:
            self._noted(f"door_{reason}", address)

    def _full(self, address: str) -> str:
        if self._places.total() >= self._limits.door_connections_max:
            return "too_many_connections"
        return "too_many_from_address" if self._places[address] >= self._limits.door_per_address_max else ""

    async def _converse(self, stream: anyio.abc.SocketStream, address: str) -> None:
        keys = self._keys()
        inside = await self._under_tls(stream, address, keys)
        frame = await read_frame(inside, self._limits.door_frame_bytes_max)
        if keys.tls is None and not self._rates.allow(address):
            self._refuse("too_fast", address)
            await write_frame(inside, turned("busy"))
        elif _is_knock(frame):
            await self._let_in(inside, frame, keys, address)
        else:
            await write_frame(inside, await self._enrolment(frame, address))

    async def _under_tls(self, stream: anyio.abc.SocketStream, address: str, keys: DoorKeys) -> anyio.abc.ByteStream:
        """The connection inside TLS. A handshake costs milliseconds, so who is too fast is cut before it."""
        if keys.tls is None:
            return stream
        first = await _first_byte(stream)
        if not first:
            raise BadFrame("empty")
        if not self._rates.allow(address):
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
        return DoorStatistics(self._places.total(), self._answered, self._enrolled, self._empty, dict(self.refusals))


def _address_of(stream: anyio.abc.SocketStream) -> str:
    return str(stream.extra(anyio.abc.SocketAttribute.remote_address)[0])


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
