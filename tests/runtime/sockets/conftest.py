"""A node's sockets under CURVE, real peers of it on loopback, and strangers with bare sockets."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib.util import find_spec
from typing import Any

import anyio
import anyio.abc
import anyio.lowlevel
import pytest
import zmq

from mesh.limits import LinkLimits
from mesh.runtime.sockets.curve import CurveKey
from mesh.runtime.sockets.gate import GateStatistics
from mesh.runtime.sockets.guard import GuardStatistics
from mesh.runtime.sockets.sockets import Arrival, Sender, Sockets, split_address
from mesh.runtime.sockets.zap import ZapStatistics

TIME_S = 20


@pytest.fixture(
    params=["asyncio", pytest.param("trio", marks=pytest.mark.skipif(find_spec("trio") is None, reason="trio is not installed"))]
)
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


async def until(seen: Callable[[], object]) -> None:
    """Let everybody run until it is so."""
    with anyio.fail_after(TIME_S):
        while not seen():
            await anyio.lowlevel.checkpoint()


class Peer:
    """Another node's sockets: it has a key, and dials."""

    def __init__(self, tasks: anyio.abc.TaskGroup, name: str) -> None:
        self.name, self.key = name, CurveKey.make()
        self.sockets = Sockets(LinkLimits(), self.key)
        self.senders: list[Sender] = []
        self._tasks = tasks

    def dial(self, address: str, server_key: bytes) -> Sender:
        """A DEALER whose monitor is watched: what happened to it is in its `events`."""
        sender = self.sockets.dealer(address, server_key)
        self._tasks.start_soon(sender.watch, lambda _event, _value: None)
        self.senders.append(sender)
        return sender

    def close(self) -> None:
        for sender in self.senders:
            sender.close()
        self.sockets.close()


class Ground:
    """One node that listens, and what has arrived there."""

    def __init__(self, limits: LinkLimits, tasks: anyio.abc.TaskGroup) -> None:
        self.limits, self.key = limits, CurveKey.make()
        self.sockets = Sockets(limits, self.key)
        self.receiver = self.sockets.router()
        self.arrived: list[Arrival] = []
        self.taking = True
        self._tasks = tasks
        self._peers: list[Peer] = []
        self._raw: list[Any] = []
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()

    @property
    def address(self) -> str:
        return self.receiver.address

    @property
    def zap(self) -> ZapStatistics:
        return self._statistics().zap

    @property
    def guard(self) -> GuardStatistics:
        return self._statistics().guard

    def _statistics(self) -> GateStatistics:
        found = self.sockets.statistics()
        assert found is not None
        return found

    async def run(self) -> None:
        await self._tasks.start(self.sockets.run)
        self._tasks.start_soon(self.receiver.listen, self._take)

    def _take(self) -> None:
        while self.taking and (arrival := self.receiver.take()) is not None:
            self.arrived.append(arrival)

    def take(self) -> None:
        """Take what was left while `taking` was False."""
        self.taking = True
        self._take()

    def of(self, name: str) -> list[list[bytes]]:
        return [frames for user, frames in self.arrived if user == name]

    def peer(self, name: str, *, admitted: bool = True) -> Peer:
        peer = Peer(self._tasks, name)
        self._peers.append(peer)
        if admitted:
            assert self.sockets.admit(peer.key.public, name)
        return peer

    async def linked(self, name: str) -> tuple[Peer, Sender]:
        """A peer that has said one word."""
        peer = self.peer(name)
        sender = peer.dial(self.address, self.key.public)
        await self.say(sender, b"hello")
        await until(lambda: [b"hello"] in self.of(name))
        return peer, sender

    async def say(self, sender: Sender, *frames: bytes) -> None:
        with anyio.fail_after(TIME_S):
            await sender.wait_writable()
        assert sender.send(list(frames))

    def bare(self, key: CurveKey | None = None, **options: Any) -> zmq.Socket[bytes]:
        """A DEALER that does as it likes, not yet connected."""
        raw = self._context.socket(zmq.DEALER)
        raw.linger, raw.reconnect_ivl, raw.immediate = 0, -1, True
        if key is not None:
            raw.curve_publickey, raw.curve_secretkey, raw.curve_serverkey = key.public, key.secret, self.key.public
        for name, value in options.items():
            setattr(raw, name, value)
        self._raw.append(raw)
        return raw

    def tcp(self, source: str = "127.0.0.1") -> socket.socket:
        """A connection that says nothing by itself."""
        stranger = socket.create_connection(split_address(self.address), timeout=TIME_S, source_address=(source, 0))
        self._raw.append(stranger)
        return stranger

    def close(self) -> None:
        for one in self._raw:
            one.close()
        self._context.term()
        for peer in self._peers:
            peer.close()
        self.receiver.close()
        self.sockets.close()


@pytest.fixture
def ground() -> Callable[..., Any]:
    @asynccontextmanager
    async def made(limits: LinkLimits | None = None, *, running: bool = True) -> AsyncIterator[Ground]:
        at = None
        try:
            async with anyio.create_task_group() as tasks:
                at = Ground(limits or LinkLimits(), tasks)
                if running:
                    await at.run()
                yield at
                tasks.cancel_scope.cancel()
        finally:
            if at is not None:
                at.close()

    return made
