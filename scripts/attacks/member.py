"""An attacker who is a member: he has joined with a token, keeps a link as a node does, and says over it whatever he likes.

Identity, certificate, HELLO, door and link are the program's own; the messages go over a second connection with his own key, so that
nothing of the program stands between him and the wire.
"""

from __future__ import annotations

import random
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any

import anyio
import zmq

from mesh.effects import Dial
from mesh.joining import join_by_token
from mesh.limits import LinkLimits
from mesh.messages.membership import Ack, Alive, Ping
from mesh.messages.signed import Signed
from mesh.runtime import clock
from mesh.runtime.home import Home
from mesh.runtime.links.door import DoorKeys
from mesh.runtime.links.links import Links
from mesh.runtime.links.listening import listen
from mesh.runtime.links.tls import server_context
from mesh.runtime.trust.identity import load_identity
from mesh.wire.codec import encode, kind_of
from mesh.wire.envelope import Batch, frame_message, seal_flush

LIMITS = LinkLimits()


class Member:
    """`victim` is the node he is linked with; `session` what it gave him to send under."""

    def __init__(self, told: dict[str, Any], links: Links, identity: Any, row: Signed) -> None:
        self.told, self.links, self.identity, self.row = told, links, identity, row
        self.victim: str = told["node"]
        self._numbers = count(1)
        self.cut_s: float | None = None
        self.turned: list[str] = []

    # ---- the link

    @property
    def link(self) -> Any:
        return self.links._links[self.victim]

    async def link_up(self) -> None:
        """Dial until the victim takes us."""
        while not self.links.is_up(self.victim):
            self.links.effects[Dial](Dial(self.told["door"]))
            await anyio.sleep(0.2)
            self._drain()
        self.next_seq = 1

    def _drain(self) -> None:
        """Answer probes: who does not is soon nobody's peer."""
        while (items := self.links.take()) is not None:
            for peer, body in items:
                if isinstance(body, Ping):
                    self.links.say(peer, Ack(body.probe, body.trust))

    async def keep(self) -> None:
        """Take what comes, for as long as the link is wanted."""
        while True:
            self._drain()
            await anyio.sleep(0.02)

    # ---- what he says

    def envelopes(self, messages: Iterable[Any], *, per_envelope: int = 32, per_signature: int = 4096) -> list[list[bytes]]:
        """Valid ones, as a node would seal them. `messages`: objects of the protocol, or (kind, body)."""
        batches: list[Batch] = []
        parts: list[bytes] = []
        for message in messages:
            kind, body = message if isinstance(message, tuple) else (kind_of(message), encode(message, self.identity.signer.seal))
            parts.append(frame_message(kind, body, next(self._numbers)))
            if len(parts) == per_envelope:
                batches.append(self._batch(parts))
                parts = []
        if parts:
            batches.append(self._batch(parts))
        sealed: list[list[bytes]] = []
        for at in range(0, len(batches), per_signature):
            chunk = batches[at : at + per_signature]
            sealed += seal_flush(self.identity.signer, chunk, sent_ms=clock.wall_ms(), stamp_ms=clock.now_ms(), journal_head=b"")
        return sealed

    def _batch(self, parts: list[bytes]) -> Batch:
        first, self.next_seq = self.next_seq, self.next_seq + len(parts)
        return Batch(self.victim, self.link.session, first, 0, parts)

    # ---- how he says it

    def dealer(self, **options: int) -> zmq.Socket[bytes]:
        """A connection of his own to the victim's ROUTER, with his own transport key."""
        return raw_dealer(self.told["router"], self.link.curve_key, self.identity.curve, **options)

    def flood(self, frames: Iterator[list[bytes]], seconds: float) -> int:
        """As fast as the victim takes it, until the connection is cut or the time is over. How many were sent."""
        socket = self.dealer()
        monitor = socket.get_monitor_socket(zmq.EVENT_DISCONNECTED | zmq.EVENT_CLOSED | zmq.EVENT_HANDSHAKE_FAILED_AUTH)
        sent, began = 0, time.monotonic()
        socket.send(b"")
        try:
            for each in frames:
                while not _over(monitor, began + seconds):
                    try:
                        socket.send_multipart(each)
                        sent += 1
                        break
                    except zmq.Again:
                        continue
                else:
                    break
            while time.monotonic() - began < seconds and not monitor.poll(20):
                continue
            if monitor.poll(0) and self.cut_s is None:
                self.cut_s = time.monotonic() - began
        finally:
            socket.disable_monitor()
            socket.close(0)
        return sent


def _over(monitor: zmq.Socket[bytes], end_s: float) -> bool:
    return bool(monitor.poll(0)) or time.monotonic() > end_s


def raw_dealer(router: str, server: bytes, curve: Any, **options: int) -> zmq.Socket[bytes]:
    socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.DEALER)
    socket.curve_publickey, socket.curve_secretkey, socket.curve_serverkey = curve.public, curve.secret, server
    socket.linger, socket.sndtimeo, socket.reconnect_ivl, socket.sndhwm = 0, 100, -1, 64
    for name, value in options.items():
        setattr(socket, name, value)
    socket.connect(f"tcp://{router}")
    return socket


@asynccontextmanager
async def member(told: dict[str, Any]) -> AsyncIterator[Member]:
    """Joined, linked, and about to misbehave."""
    home = Home(Path(told["folder"]))
    await join_by_token(home, told["token"], "mallory", "mallory")
    identity = load_identity(home.node("mallory"))
    listening = await listen(LIMITS, "127.0.0.1", 0, curve=identity.curve)
    body = Alive(identity.node, 1, 1, "mallory", listening.door_address, listening.router_address, certificate=identity.chain)
    row = Signed(identity.node, body)
    row = Signed(identity.node, body, identity.signer.seal(row))
    keys = DoorKeys(server_context(identity.seed), identity.signer.public_key, identity.credentials.discovery_key)
    links = Links(listening, identity.signer, identity.keyring, lambda: row, lambda: identity.binding, lambda: keys, LIMITS)
    made = Member(told, links, identity, row)
    async with anyio.create_task_group() as tasks:
        await tasks.start(links.run)
        await made.link_up()
        tasks.start_soon(made.keep)
        yield made
        tasks.cancel_scope.cancel()


def noise(size: int, seed: int) -> bytes:
    return random.Random(seed).randbytes(size)


__all__ = ["LIMITS", "Member", "member", "noise", "raw_dealer"]
