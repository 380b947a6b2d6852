"""What a member can try beside flooding: messages without end, connections without number, names that are not his."""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread
import zmq

from attacks.samples import sample_of
from attacks.strangers import CROWD, REFUSED_OPENING, _under_tls, connected, source
from attacks.world import World
from mesh.messages import KINDS
from mesh.messages.membership import Ping
from mesh.runtime.links.dialling import _knock
from mesh.runtime.links.frames import BadFrame
from mesh.runtime.links.sessions import read_turned
from mesh.runtime.links.tls import key_in
from mesh.wire.packing import pack

if TYPE_CHECKING:
    from attacks.member import Member

Said = dict[str, Any]


async def unfinished(member: Member) -> Said:
    """One message of 400 frames of a megabyte. Nothing of it can be taken before the last has come."""
    return await anyio.to_thread.run_sync(_unfinished, member, bytes(1024 * 1024 - 4096), 400)


async def unfinished_small(member: Member) -> Said:
    """The same of a million frames of one byte: what libzmq keeps for each is larger than the frame."""
    return await anyio.to_thread.run_sync(_unfinished, member, b"x", 1_000_000)


def _unfinished(member: Member, frame: bytes, frames: int) -> Said:
    socket = member.dealer(immediate=1)
    monitor = socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
    socket.send(b"")
    for _ in range(frames):
        socket.send(frame, zmq.SNDMORE, copy=False)
    began = time.monotonic()
    socket.send(b"")  # libzmq sends nothing of a message before it is whole
    cut_s = time.monotonic() - began if monitor.poll(1000 * member.told["seconds"]) else None
    time.sleep(max(0.0, began + member.told["seconds"] - time.monotonic()))
    socket.disable_monitor()
    socket.close(0)
    return {"cut_s": cut_s}


async def reconnects(member: Member) -> Said:
    """Connect with a good key, say one empty message, and come again."""

    def run() -> Said:
        end, tried, let_in = time.monotonic() + member.told["seconds"], 0, 0
        while time.monotonic() < end:
            sockets = [member.dealer() for _ in range(8)]
            monitors = [socket.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED) for socket in sockets]
            for socket, monitor in zip(sockets, monitors, strict=True):
                if monitor.poll(2000):
                    let_in += int.from_bytes(monitor.recv_multipart()[0][:2], "little") == zmq.EVENT_HANDSHAKE_SUCCEEDED
                with suppress(zmq.Again):
                    socket.send(b"", zmq.NOBLOCK)
                socket.disable_monitor()
                socket.close(20)
            tried += len(sockets)
        return {"tried": tried, "let_in": let_in}

    return await anyio.to_thread.run_sync(run)


async def hellos(member: Member) -> Said:
    """HELLO at the door, valid and asking for one in return, from many addresses."""
    words: Counter[str] = Counter()

    async def again(own: str) -> None:
        while True:
            try:
                words[await say_hello(member, own)] += 1
            except (BadFrame, *REFUSED_OPENING):
                words["(closed)"] += 1
                await anyio.sleep(0.02)

    async with anyio.create_task_group() as tasks:
        for host, _ in itertools.product(range(CROWD), range(2)):
            tasks.start_soon(again, source(member.told, host))
        await anyio.sleep(member.told["seconds"])
        tasks.cancel_scope.cancel()
    return {"words": dict(words)}


async def say_hello(member: Member, own: str) -> str:
    from anyio.streams.tls import TLSAttribute

    links = member.links
    async with await _under_tls(await connected(member.told["door"], own)) as stream:
        key = key_in(stream.extra(TLSAttribute.peer_certificate_binary))
        _, frame = links._sessions.hello()
        answer = await _knock(stream, links._meeting._door_keys(), key, lambda: frame, links._limits)
        no = read_turned(answer)
        return no.reason if no else "WELCOME"


async def names(member: Member) -> Said:
    """In the name of the victim's other peers, and under routing ids of others."""

    def run() -> Said:
        others = [node for node in member.told["others"] if node not in (member.victim, member.identity.node)]
        sent = 0
        for number, other in enumerate(others * 5):
            socket = member.dealer(routing_id=other.encode()[:32])
            honest = member.envelopes([Ping(1)])[0]
            row = list(_row(honest[0]))
            row[2] = other
            socket.send(b"")
            socket.send_multipart([pack(tuple(row)), honest[1], honest[2]])
            sent += 1
            time.sleep(0.05 * (number % 2))
            socket.close(100)
        return {"sent": sent}

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(anyio.sleep, member.told["seconds"])
        return await anyio.to_thread.run_sync(run)


def _row(header: bytes) -> tuple[Any, ...]:
    from mesh.wire.packing import unpack_row

    return unpack_row(header)


async def kinds(member: Member) -> Said:
    """One of every kind of message there is, rightly sealed, again and again."""
    world = World(mesh=member.told["mesh"])
    samples = [sample_of(cls, world) for cls in KINDS.values()]

    def frames() -> Any:
        while True:
            for sample in samples:
                body = sample
                yield from member.envelopes([body], per_signature=1)

    sent = await anyio.to_thread.run_sync(member.flood, frames(), member.told["seconds"])
    return {"sent": sent, "cut_s": member.cut_s}


INSIDERS: dict[str, Callable[[Any], Coroutine[Any, Any, Said]]] = {
    each.__name__: each for each in (unfinished, unfinished_small, reconnects, hellos, names, kinds)
}
