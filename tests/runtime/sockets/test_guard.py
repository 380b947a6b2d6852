"""What one connection may cost, and that no honest one is taken for a bad one."""

from __future__ import annotations

import mmap
import socket
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
import zmq

from mesh.limits import LinkLimits
from mesh.runtime.clock import now_s
from mesh.runtime.sockets import guard as guards
from mesh.runtime.sockets.curve import CurveKey
from mesh.runtime.sockets.descriptors import Place
from mesh.runtime.sockets.guard import Guard
from mesh.runtime.sockets.sockets import FRAMES_DROPPED_PER_TURN, FRAMES_MAX
from mesh.wire.envelope import HEADER_BYTES_MAX

from .conftest import Ground, until
from .hostile import GREETING, HostileMember

MakeGround = Callable[..., Any]
LINUX = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="NOTICE: bytes are watched on Linux only")


def core_of(at: Ground) -> Guard:
    assert at.sockets._gate is not None
    return at.sockets._gate.guard


def undelivered(at: Ground) -> list[int]:
    """Per connection to the ROUTER: bytes received and not taken, handshake included."""
    core = core_of(at)
    traffic = [(core._place.traffic(one.fd), one) for one in core._inbound.values()]
    core._place.leave()
    return [found[0] - one.delivered for found, one in traffic if found is not None]


def ended(stream: socket.socket) -> bool:
    """Whether the other side has hung up, as far as can be seen now. What it said before is thrown away."""
    stream.setblocking(False)
    try:
        while stream.recv(4096):
            pass
    except BlockingIOError:
        return False
    except ConnectionResetError:
        pass
    return True


# ---- bytes


def test_an_honest_peer_cannot_reach_the_limit() -> None:
    limits = LinkLimits()
    largest = limits.frame_bytes_max + 4096
    assert HEADER_BYTES_MAX + 1024 <= 4096, "header, proof and what CURVE adds"
    assert (limits.rcvhwm + 1) * largest <= limits.undelivered_bytes_max < (limits.rcvhwm + 2) * largest


@LINUX
@pytest.mark.anyio
async def test_the_largest_envelopes_of_an_honest_peer_wait_as_long_as_we_like(ground: MakeGround) -> None:
    at: Ground
    async with ground() as at:
        _, sender = await at.linked("left")
        at.taking = False
        envelope = [bytes(HEADER_BYTES_MAX), bytes(at.limits.frame_bytes_max - 38), bytes(480)]

        async def send_many() -> None:
            for _ in range(40):
                await at.say(sender, *envelope)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(send_many)
            await until(lambda: max(undelivered(at)) > (at.limits.rcvhwm - 3) * at.limits.frame_bytes_max)  # the first two still count
            core_of(at).sweep(now_s())
            assert at.guard.cut == {}
            at.take()
        await until(lambda: len(at.of("left")) == 41)
        core_of(at).sweep(now_s())
        assert at.guard.cut == {} and not sender.events["disconnected"]


@LINUX
@pytest.mark.anyio
async def test_every_byte_taken_is_counted_however_it_was_cut_into_frames(ground: MakeGround) -> None:
    at: Ground
    async with ground() as at:
        _, sender = await at.linked("left")
        (before,) = undelivered(at)
        assert before == 567, "the handshake, which is never taken"
        lots = [[bytes(size)] for size in (1, 221, 222, 223, 254, 255, 256, 70_000)] + [[b""] * 5, [b"", bytes(300)], [b""]]
        for frames in lots:
            await at.say(sender, *frames)
        await until(lambda: len(at.of("left")) == 1 + len(lots))
        assert undelivered(at) == [before]


@LINUX
@pytest.mark.anyio
async def test_a_message_that_never_ends_is_cut_and_others_are_served(ground: MakeGround) -> None:
    at: Ground
    async with ground() as at:
        _, good = await at.linked("right")
        bad = await anyio.to_thread.run_sync(HostileMember, at.address, at.key.public, at.peer("left").key)
        sent: list[int] = []

        async def flood() -> None:
            sent.append(await anyio.to_thread.run_sync(bad.flood, 60_000, 1 << 30))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(flood)
            told = 0
            while not sent:
                await at.say(good, b"%d" % told)
                told += 1
                await until(lambda told=told: len(at.of("right")) == 1 + told)
        bad.close()
        assert at.guard.cut == {"undelivered_bytes": 1} and at.of("left") == [] and told > 3
        assert sent[0] < 128 << 20


@pytest.mark.anyio
async def test_of_a_message_of_many_frames_a_few_are_kept_and_whoever_sent_it_is_cut(ground: MakeGround) -> None:
    at: Ground
    async with ground() as at:
        _, bad = await at.linked("left")
        at.taking = False
        await at.say(bad, *[b"x"] * 2000)
        await until(at.receiver.readable)
        first = at.receiver.take()
        assert first is not None and first.user == "left" and first.frames == [b"x"] * FRAMES_MAX
        turns = 0
        while (arrival := at.receiver.take()) is not None:
            assert arrival == ("", []), "nothing that could be taken for an envelope"
            turns += 1
        assert turns == (2000 - FRAMES_MAX) // FRAMES_DROPPED_PER_TURN and at.receiver.frames_dropped == 2000 - FRAMES_MAX
        await until(lambda: bad.events["disconnected"])
        assert at.guard.cut == {"too_many_frames": 1}


@LINUX
@pytest.mark.anyio
async def test_a_peer_that_answers_through_our_dealer_is_cut(ground: MakeGround) -> None:
    at: Ground
    async with ground() as at:
        key = CurveKey.make()
        server = at._context.socket(zmq.ROUTER)
        at._raw.append(server)
        server.linger, server.curve_server, server.curve_secretkey = 0, True, key.secret
        server.bind("tcp://127.0.0.1:*")
        sender = at.peer("left").dial(server.getsockopt(zmq.LAST_ENDPOINT).decode().removeprefix("tcp://"), key.public)
        at._tasks.start_soon(at._peers[0].sockets.run)
        await at.say(sender, b"hello")
        routing_id = server.recv_multipart()[0]
        while not sender.events["disconnected"]:
            if server.poll(0, zmq.POLLOUT):
                server.send_multipart([routing_id, bytes(30_000)], zmq.NOBLOCK)
            await anyio.lowlevel.checkpoint()
        found = at._peers[0].sockets.statistics()
        assert found is not None and found.guard.cut == {"answered": 1} and found.guard.dialled == 0


# ---- before and after the handshake


@pytest.mark.anyio
async def test_a_claim_of_390_mib_before_the_handshake_ends_the_connection(ground: MakeGround) -> None:
    at: Ground
    async with ground() as at:
        stranger = at.tcp()
        stranger.sendall(GREETING + b"\x06" + struct.pack(">Q", 390 << 20) + b"\x05HELLO" + bytes(50_000))
        await until(lambda: at.receiver.events["disconnected"])
        assert ended(stranger) and at.guard.cut == {}, "libzmq does it by itself"


@LINUX
@pytest.mark.anyio
async def test_a_handshake_of_many_bytes_is_cut_before_it_is_complete(ground: MakeGround) -> None:
    at: Ground
    async with ground() as at:
        stranger = at.tcp()
        stranger.sendall(GREETING + b"\x06" + struct.pack(">Q", 1_000_000) + b"\x05HELLO" + bytes(100_000))
        await until(lambda: at.guard.cut == {"handshake_bytes": 1})
        await until(lambda: ended(stranger))
        assert at.guard.unproven == 0


@pytest.mark.anyio
async def test_a_silent_stranger_is_dropped(ground: MakeGround) -> None:
    at: Ground
    async with ground(LinkLimits(handshake_s=0.2)) as at:
        stranger = at.tcp()
        await until(lambda: at.guard.unproven == 1)
        await until(lambda: ended(stranger))
        await until(lambda: at.guard.connections == 0)
        assert at.guard.cut == {} and at.guard.unproven == 0


@pytest.mark.anyio
async def test_a_member_that_never_says_a_word_is_cut(ground: MakeGround) -> None:
    at: Ground
    async with ground(LinkLimits(silent_s=60.0)) as at:
        _, sender = await at.linked("right")
        raw = at.bare(at.peer("left").key)
        raw.connect(f"tcp://{at.address}")
        await until(lambda: at.receiver.events["handshake_succeeded"] == 2)
        core = core_of(at)
        core.sweep(now_s() + 59)
        assert at.guard.cut == {} and at.guard.unproven == (0 if at.guard.watching else 1)
        core.sweep(now_s() + 61)
        await until(lambda: at.receiver.events["disconnected"])
        assert at.guard.cut == {"silent": 1} and not sender.events["disconnected"]


# ---- how many


@pytest.mark.anyio
async def test_of_one_address_the_oldest_unfinished_go_and_an_honest_peer_gets_in(ground: MakeGround) -> None:
    at: Ground
    async with ground(LinkLimits(handshake_s=30.0, unproven_per_address_max=5)) as at:
        strangers = []
        for number in range(12):
            strangers.append(at.tcp())
            await until(lambda number=number: at.receiver.events["accepted"] == number + 1)
        await until(lambda: sum(ended(one) for one in strangers[:7]) == 7)
        assert not any(ended(one) for one in strangers[7:])
        assert at.guard.cut == {"too_many_of_address": 7} and at.guard.unproven == 5
        elsewhere = at.tcp("127.0.0.2")
        await until(lambda: at.guard.unproven == 6)
        await at.linked("left")
        assert at.guard.unproven == 5, "to get in he pushed out one of the five"
        assert not ended(elsewhere)


@pytest.mark.anyio
async def test_of_all_addresses_together_the_oldest_go(ground: MakeGround) -> None:
    at: Ground
    async with ground(LinkLimits(handshake_s=30.0, unproven_per_address_max=5, unproven_max=6)) as at:
        strangers = []
        for number in range(10):
            strangers.append(at.tcp(f"127.0.0.{number + 2}"))
            await until(lambda number=number: at.receiver.events["accepted"] == number + 1)
        await until(lambda: sum(ended(one) for one in strangers[:4]) == 4)
        assert at.guard.cut == {"too_many_unproven": 4} and at.guard.unproven == 6
        await at.linked("left")


@LINUX
@pytest.mark.anyio
async def test_whoever_has_finished_his_handshake_is_not_among_them(ground: MakeGround) -> None:
    """Members that have not spoken yet: libzmq does not tell which connection has finished, its READY on the wire does."""
    at: Ground
    async with ground(LinkLimits(handshake_s=30.0, unproven_per_address_max=2)) as at:
        quiet = []
        for number in range(4):
            raw = at.bare(at.peer(f"n{number}").key)
            raw.connect(f"tcp://{at.address}")
            quiet.append(raw)
            await until(lambda number=number: at.receiver.events["handshake_succeeded"] == number + 1)
        strangers = []
        for number in range(4):
            strangers.append(at.tcp())
            await until(lambda number=number: at.receiver.events["accepted"] == number + 5)
        await until(lambda: sum(ended(one) for one in strangers) == 2)
        assert at.guard.cut == {"too_many_of_address": 2}
        for raw in quiet:
            raw.send(b"hello")
        await until(lambda: len(at.arrived) == 4)


@pytest.mark.anyio
async def test_without_descriptors_the_older_half_of_the_unfinished_goes(ground: MakeGround, monkeypatch: pytest.MonkeyPatch) -> None:
    at: Ground
    async with ground(LinkLimits(handshake_s=30.0)) as at:
        strangers = [at.tcp() for _ in range(6)]
        await until(lambda: at.guard.unproven == 6)
        monkeypatch.setattr(core_of(at)._place, "room", lambda: False)
        core_of(at).look()
        monkeypatch.undo()
        assert at.guard.cut == {"no_descriptors": 3}
        await until(lambda: [ended(one) for one in strangers] == [True] * 3 + [False] * 3)


# ---- what watching costs


@pytest.mark.anyio
async def test_a_node_that_nobody_is_connected_to_does_not_watch(ground: MakeGround, monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[float] = []
    monkeypatch.setattr(Guard, "look", lambda _: looked.append(time.monotonic()))
    at: Ground
    async with ground() as at:
        for _ in range(100):
            await anyio.lowlevel.checkpoint()
        assert looked == []
        await at.linked("left")
        await until(lambda: len(looked) == 4)
        assert looked[-1] - looked[0] >= 3 * guards.LOOK_S * 0.9, "20 times a second, no more"


@pytest.mark.anyio
async def test_a_look_goes_to_every_connection_only_when_memory_grows_or_now_and_then(ground: MakeGround) -> None:
    at: Ground
    async with ground() as at:
        await at.linked("left")
        core = core_of(at)
        core._swept_s = now_s() + 1000  # not now and then
        core._memory.mark()
        before = at.guard.sweeps
        core.look()
        assert at.guard.sweeps == before + (0 if core._place.counts_bytes and core._memory._file >= 0 else 1)
        with mmap.mmap(-1, 2 * guards.SWEEP_BYTES) as ballast:
            for page in range(0, len(ballast), mmap.PAGESIZE):
                ballast[page] = 1
            core.look()
        assert at.guard.sweeps == before + 1
        core._swept_s = now_s() - guards.SWEEP_S
        core.look()
        assert at.guard.sweeps == before + 2


def test_looking_keeps_no_descriptor() -> None:
    place = Place()
    before = len(list(Path("/proc/self/fd").iterdir())) if Path("/proc/self/fd").exists() else 0
    for fd in (0, 1, -1, 12345):
        place.names(fd)
        place.traffic(fd)
        place.unread_bytes(fd)
    place.leave()
    assert place.room()
    if before:
        assert len(list(Path("/proc/self/fd").iterdir())) == before
    place.close()
