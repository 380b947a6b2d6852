"""Somebody who stands between two machines: every byte between them passes here, and is forwarded, changed, replaced, or made up.

    heron <--> left (has otter's address)  RELAY  right (has heron's address) <--> otter

A stream is cut into *units* (the greeting and the frames of ZMTP, the records of TLS), and the mode of the moment decides what goes on in
place of each. All bytes are kept, so that what could be read here can be searched.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import socket
import ssl
from collections import Counter, defaultdict
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import anyio
import anyio.abc
from anyio.streams.tls import TLSStream

from attacks.spaces import Space
from mesh.runtime.links.tls import client_context, server_context

BROKEN = (OSError, ssl.SSLError, anyio.BrokenResourceError, anyio.ClosedResourceError, anyio.EndOfStream)
GREETING = {"signature": 10, "version": 1, "mechanism": 53}
"""The parts of ZMTP's greeting: each side waits for the other's before it says the next."""
Change = Callable[["Relay", "Unit"], list[bytes]]


@dataclass
class Unit:
    """`kind`: signature, version, mechanism, HELLO, WELCOME, INITIATE, READY, ERROR, MESSAGE; or record-0, record-1, ... of TLS.
    `inward`: to who listens."""

    port: str
    inward: bool
    kind: str
    data: bytes


@dataclass
class Relay:
    """Forward everything, until `change` is set. `seen`: all that passed, per stream; `kept`: the last units of each kind."""

    tasks: anyio.abc.TaskGroup
    change: Change | None = None
    impostor: bool = False
    """Be the other side of TLS oneself, with a key of one's own, at every door."""
    heard: list[bytes] = field(default_factory=list)
    """As an impostor: what was said under TLS, by whoever dialled."""
    seen: list[bytearray] = field(default_factory=list)
    kept: dict[str, list[bytes]] = field(default_factory=lambda: defaultdict(list))
    counts: Counter[str] = field(default_factory=Counter)
    chance: random.Random = field(default_factory=lambda: random.Random(7))
    scopes: set[anyio.CancelScope] = field(default_factory=set)

    async def listen(self, host: str, port: int, facing: Space, beyond: Space, what: str, *, to: tuple[str, int] | None = None) -> None:
        """At `host` (whose machine is on the other side) for who is on this one. `what`: door or router; `to`: where it leads."""
        ear = facing.socket()
        ear.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        ear.bind((host, port))
        ear.listen()
        listener = await anyio.abc.SocketListener.from_socket(ear)
        self.tasks.start_soon(self._serve, listener, partial(self._meet, beyond, to or (host, port), what))

    async def _serve(self, listener: anyio.abc.SocketListener, meet: Callable[[anyio.abc.SocketStream], Coroutine[Any, Any, None]]) -> None:
        async with listener:
            await listener.serve(meet)

    async def _meet(self, beyond: Space, to: tuple[str, int], what: str, near: anyio.abc.SocketStream) -> None:
        self.counts[f"{what} connections"] += 1
        with anyio.CancelScope() as scope:
            self.scopes.add(scope)
            try:
                async with near, await _dialled(beyond, to) as far:
                    if self.impostor and what == "door":
                        await self._impersonate(near, far)
                    else:
                        await _both(self._pass(near, far, what, inward=True), self._pass(far, near, what, inward=False))
            except BROKEN:
                self.counts["broken off"] += 1
            finally:
                self.scopes.discard(scope)

    async def _impersonate(self, near: anyio.abc.SocketStream, far: anyio.abc.SocketStream) -> None:
        """TLS with each of them; what one says is told to the other."""
        inside = await TLSStream.wrap(near, server_side=True, ssl_context=server_context(os.urandom(32)), standard_compatible=False)
        beyond = await TLSStream.wrap(far, server_side=False, ssl_context=client_context(), standard_compatible=False)

        async def tell(source: TLSStream, target: TLSStream, heard: list[bytes]) -> None:
            async for data in source:
                heard.append(data)
                await target.send(data)

        await _both(tell(inside, beyond, self.heard), tell(beyond, inside, []))

    async def _pass(self, source: anyio.abc.SocketStream, target: anyio.abc.SocketStream, what: str, *, inward: bool) -> None:
        cut, seen = Cutter(what, inward), bytearray()
        self.seen.append(seen)
        async for data in source:
            seen += data
            for unit in cut.units(data):
                forwarded = self.change(self, unit) if self.change is not None else [unit.data]
                if forwarded != [unit.data]:
                    self.counts[f"changed {unit.kind}"] += 1
                self._keep(unit)
                for each in forwarded:
                    await target.send(each)

    def _keep(self, unit: Unit) -> None:
        kept = self.kept[f"{unit.port} {unit.kind}"]
        kept.append(unit.data)
        del kept[:-50]

    def hang_up(self) -> None:
        """End every connection: both sides begin anew."""
        for scope in tuple(self.scopes):
            scope.cancel()


async def _dialled(beyond: Space, to: tuple[str, int]) -> anyio.abc.SocketStream:
    mouth = beyond.socket()
    mouth.setblocking(False)
    try:
        with anyio.fail_after(2):
            await asyncio.get_running_loop().sock_connect(mouth, to)
        return await anyio.abc.SocketStream.from_socket(mouth)
    except BaseException:
        mouth.close()
        raise


async def _both(*directions: Coroutine[Any, Any, None]) -> None:
    """Until one of them ends."""
    async with anyio.create_task_group() as tasks:

        async def until_it_ends(direction: Coroutine[Any, Any, None]) -> None:
            with contextlib.suppress(*BROKEN):
                await direction
            tasks.cancel_scope.cancel()

        for direction in directions:
            tasks.start_soon(until_it_ends, direction)


class Cutter:
    """Bytes of one direction, as units."""

    def __init__(self, port: str, inward: bool) -> None:
        self._port, self._inward, self._rest, self._count = port, inward, b"", 0

    def units(self, data: bytes) -> Iterator[Unit]:
        self._rest += data
        while size := self._size():
            unit, self._rest = self._rest[:size], self._rest[size:]
            yield Unit(self._port, self._inward, self._kind(unit), unit)
            self._count += 1

    def _size(self) -> int:
        """Of the first unit, if it is all there."""
        rest = self._rest
        if self._port == "door":
            size = 5 + int.from_bytes(rest[3:5], "big") if len(rest) >= 5 else 0
        elif self._count < len(GREETING):
            size = [*GREETING.values()][self._count]
        elif len(rest) < 9:
            size = 2 + rest[1] if len(rest) >= 2 and not rest[0] & 2 else 0
        else:
            size = 9 + int.from_bytes(rest[1:9], "big") if rest[0] & 2 else 2 + rest[1]
        return size if len(rest) >= size else 0

    def _kind(self, unit: bytes) -> str:
        if self._port == "door":
            return f"record-{self._count}"
        if self._count < len(GREETING):
            return [*GREETING][self._count]
        body = unit[9:] if unit[0] & 2 else unit[2:]
        return body[1 : 1 + body[0]].decode("ascii", "replace")


# ---- what he does to a unit


def flip(kind: str, port: str = "router", *, from_end: int = 0) -> Change:
    """One bit, anywhere in units of this kind (`from_end`: in so many last bytes: there is padding before them)."""

    def change(relay: Relay, unit: Unit) -> list[bytes]:
        if unit.port != port or unit.kind != kind:
            return [unit.data]
        data = bytearray(unit.data)
        first = max(9 if port == "router" else 5, len(data) - from_end if from_end else 0)
        at = relay.chance.randrange(min(first, len(data) - 1), len(data))
        data[at] ^= 1 << relay.chance.randrange(8)
        return [bytes(data)]

    return change


def replay(kind: str, port: str = "router") -> Change:
    """What was said on an earlier connection, in place of what is said now."""

    def change(relay: Relay, unit: Unit) -> list[bytes]:
        kept = [each for each in relay.kept[f"{port} {kind}"] if each != unit.data]
        return [relay.chance.choice(kept)] if unit.port == port and unit.kind == kind and kept else [unit.data]

    return change


def twice(kind: str, port: str = "router") -> Change:
    def change(relay: Relay, unit: Unit) -> list[bytes]:
        return [unit.data] * (1 + (unit.port == port and unit.kind == kind))

    return change


def swallow(kind: str, port: str = "router") -> Change:
    def change(relay: Relay, unit: Unit) -> list[bytes]:
        return [] if unit.port == port and unit.kind == kind else [unit.data]

    return change


def version(number: int) -> Change:
    def change(relay: Relay, unit: Unit) -> list[bytes]:
        return [bytes([number])] if unit.kind == "version" else [unit.data]

    return change


def mechanism(name: bytes, *, inward: bool | None = None) -> Change:
    """Another one, for both sides or for one."""

    def change(relay: Relay, unit: Unit) -> list[bytes]:
        if unit.kind != "mechanism" or inward not in (None, unit.inward):
            return [unit.data]
        return [unit.data[:1] + name.ljust(20, b"\0") + unit.data[21:]]

    return change


MODES: dict[str, Change] = {
    "version 1.0": version(0),
    "version 2.0": version(1),
    "mechanism NULL": mechanism(b"NULL"),
    "mechanism NULL, to who dials": mechanism(b"NULL", inward=False),
    "mechanism NULL, to who listens": mechanism(b"NULL", inward=True),
    "mechanism PLAIN": mechanism(b"PLAIN"),
    **{f"bit of {kind}": flip(kind, from_end=120) for kind in ("HELLO", "WELCOME", "INITIATE", "READY")},
    **{f"old {kind}": replay(kind) for kind in ("HELLO", "WELCOME", "INITIATE", "READY")},
    **{f"{kind} twice": twice(kind) for kind in ("HELLO", "INITIATE")},
    **{f"no {kind}": swallow(kind) for kind in ("WELCOME", "READY")},
    "bit of the first TLS record": flip("record-0", "door"),
    "bit of a later TLS record": flip("record-2", "door"),
    "old ClientHello and ServerHello": replay("record-0", "door"),
    "old TLS records": replay("record-2", "door"),
    "TLS records twice": twice("record-2", "door"),
}
"""What keeps the two apart for as long as it goes on."""

LATER: dict[str, Change] = {
    "bit of MESSAGE": flip("MESSAGE"),
    "old MESSAGE": replay("MESSAGE"),
    "MESSAGE twice": twice("MESSAGE"),
    "no MESSAGE": swallow("MESSAGE"),
}
"""What is done to a connection that stands already."""
