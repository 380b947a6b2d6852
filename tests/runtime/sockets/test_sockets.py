"""The socket factory and its binding to the event loop."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from importlib.util import find_spec

import anyio
import anyio.lowlevel
import pytest
import zmq

from mesh.limits import LinkLimits
from mesh.runtime.links.listening import listen
from mesh.runtime.sockets import sockets
from mesh.runtime.sockets.sockets import NotLoopback, Sockets, require_loopback, split_address

TIME_S = 10


@pytest.fixture(
    params=["asyncio", pytest.param("trio", marks=pytest.mark.skipif(find_spec("trio") is None, reason="trio is not installed"))]
)
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def factory() -> Iterator[Sockets]:
    made = Sockets(LinkLimits(sndhwm=4, rcvhwm=4))
    yield made
    made.close()


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.7", "::", "example.org", "", "*", "127.0.0.1.example.org"])
def test_nothing_binds_or_connects_outside_loopback(factory: Sockets, host: str) -> None:
    with pytest.raises(NotLoopback):
        factory.router(host)
    with pytest.raises(ValueError, match=r"loopback|host:port"):
        factory.dealer(f"{host}:7711")


def test_addresses() -> None:
    assert split_address("127.0.0.1:7710") == ("127.0.0.1", 7710)
    assert split_address("[::1]:7710") == ("::1", 7710)
    assert require_loopback("localhost") == "127.0.0.1" and require_loopback("127.8.9.1") == "127.8.9.1"
    for bad in ("", ":1", "host", "host:", "host:0", "host:65536", "host:-1", "host:1x", "host:\u0661"):
        with pytest.raises(ValueError, match="no host:port"):
            split_address(bad)


def test_options_of_both_kinds(factory: Sockets) -> None:
    receiver = factory.router()
    sender = factory.dealer(receiver.address)
    try:
        for socket in (receiver, sender):
            raw = socket._raw
            assert (raw.maxmsgsize, raw.handshake_ivl, raw.sndhwm, raw.rcvhwm) == (1 << 20, 2000, 4, 4)
        assert sender._raw.immediate == 1 and sender._raw.reconnect_ivl == -1
    finally:
        sender.close()
        receiver.close()


def test_a_taken_port_is_an_os_error(factory: Sockets) -> None:
    receiver = factory.router()
    other = Sockets(LinkLimits())
    try:
        with pytest.raises(OSError, match="cannot bind"):
            other.router(port=int(receiver.address.split(":")[1]))
    finally:
        receiver.close()
        other.close()


def test_libc_is_seeded_before_each_router(factory: Sockets) -> None:
    libc = ctypes.CDLL(None)
    found = set()
    for _ in range(8):
        libc.srand(1)
        factory.router().close()
        found.add(libc.rand())
    assert len(found) > 1, "rand() went on from the constant that was there before"


@pytest.mark.anyio
async def test_a_cancelled_wait_loses_nothing(factory: Sockets) -> None:
    receiver = factory.router()
    sender = factory.dealer(receiver.address)
    try:
        with anyio.fail_after(TIME_S):
            await sender.wait_writable()
            got: list[bytes] = []
            for number in range(200):
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(receiver.wait)
                    await sender.wait_writable()
                    assert sender.send([b"%d" % number, b"x"])
                    tasks.cancel_scope.cancel()
                while len(got) <= number:
                    await receiver.wait()
                    while arrival := receiver.take():
                        got.append(arrival.frames[0])
        assert got == [b"%d" % number for number in range(200)]
    finally:
        sender.close()
        receiver.close()


@pytest.mark.anyio
async def test_a_full_queue_says_so_and_wakes_when_there_is_room(factory: Sockets) -> None:
    receiver = factory.router()
    sender = factory.dealer(receiver.address)
    try:
        with anyio.fail_after(TIME_S):
            await sender.wait_writable()
            sent = taken = 0
            while sender.send([bytes(60_000)]):
                sent += 1
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(sender.wait_writable)
                while taken < sent:
                    await receiver.wait()
                    while receiver.take():
                        taken += 1
            assert sender.send([b"more"])
    finally:
        sender.close()
        receiver.close()


@pytest.mark.anyio
async def test_a_message_of_many_frames_is_cut_not_kept(factory: Sockets) -> None:
    receiver = factory.router()
    sender = factory.dealer(receiver.address)
    try:
        with anyio.fail_after(TIME_S):
            await sender.wait_writable()
            assert sender.send([b"x"] * 5000)
            while (arrival := receiver.take()) is None:
                await receiver.wait()
            assert len(arrival.frames) == sockets.FRAMES_MAX
            turns = 0
            while receiver.take() is not None:
                turns += 1
        assert receiver.frames_dropped == 5000 - sockets.FRAMES_MAX
        assert turns == receiver.frames_dropped // sockets.FRAMES_DROPPED_PER_TURN, "others have their turn in between"
    finally:
        sender.close()
        receiver.close()


@pytest.mark.anyio
async def test_the_monitor_tells_of_connect_and_disconnect_and_a_dealer_never_redials(factory: Sockets) -> None:
    receiver = factory.router()
    sender = factory.dealer(receiver.address)
    told: list[zmq.Event] = []
    try:
        with anyio.fail_after(TIME_S):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(sender.watch, lambda event, _value: told.append(event))
                while zmq.Event.HANDSHAKE_SUCCEEDED not in told:
                    await anyio.lowlevel.checkpoint()
                receiver.close()
                while zmq.Event.DISCONNECTED not in told:
                    await anyio.lowlevel.checkpoint()
                tasks.cancel_scope.cancel()
        assert zmq.Event.CONNECT_RETRIED not in told and sender.events["disconnected"] == 1
    finally:
        sender.close()
        receiver.close()


@pytest.mark.anyio
async def test_a_second_node_takes_the_next_free_pair_of_ports() -> None:
    first, second = await listen(LinkLimits()), await listen(LinkLimits())
    try:
        for listening in (first, second):
            door, router = (int(address.split(":")[1]) for address in (listening.door_address, listening.router_address))
            assert router == door + 1 and door % 2 == 0
        assert first.door_address != second.door_address
        with pytest.raises(OSError, match=r"[Aa]ddress already in use"):
            await listen(LinkLimits(), port=int(first.door_address.split(":")[1]))
    finally:
        await first.aclose()
        await second.aclose()
    with pytest.raises(NotLoopback):
        await listen(LinkLimits(), "0.0.0.0")
