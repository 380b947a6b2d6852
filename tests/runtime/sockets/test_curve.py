"""Transport keys, and what they give: only the pinned key is spoken to, only admitted ones get in, and each message says whose it is."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import zmq

from mesh.limits import LinkLimits
from mesh.runtime.sockets.curve import CurveKey
from mesh.runtime.sockets.sockets import Arrival, Sockets, Unprotected, require_numeric
from mesh.runtime.sockets.zap import DOMAIN

from .conftest import Ground, until

MakeGround = Callable[..., Any]


def test_a_key_is_two_times_32_bytes_and_shows_only_one() -> None:
    key = CurveKey.make()
    assert len(key.public) == len(key.secret) == 32 and key != CurveKey.make()
    assert CurveKey.of(key.secret) == key
    assert key.secret.hex() not in repr(key) and repr(key.secret) not in repr(key)
    with pytest.raises(dataclasses.FrozenInstanceError):
        key.secret = b""  # type: ignore[misc]
    for public, secret in ((b"", key.secret), (key.public, b""), (key.public + b"x", key.secret)):
        with pytest.raises(ValueError, match="32 bytes"):
            CurveKey(public, secret)
    with pytest.raises(ValueError, match="32 bytes"):
        CurveKey.of(b"short")


@pytest.mark.anyio
async def test_the_right_pin_works_and_each_message_says_whose_it_is(ground: MakeGround) -> None:
    at: Ground
    async with ground() as at:
        left, right = at.peer("left"), at.peer("right")
        for peer in (left, right):
            sender = peer.dial(at.address, at.key.public)
            await at.say(sender, b"from", peer.name.encode())
        await until(lambda: len(at.arrived) == 2)
        assert sorted(at.arrived) == [Arrival("left", [b"from", b"left"]), Arrival("right", [b"from", b"right"])]
        assert at.zap.running and at.zap.admitted == 2 and at.zap.denied == {}
        assert at.guard.running and at.guard.connections == 2 and at.guard.unproven == 0 and at.guard.cut == {}


@pytest.mark.anyio
async def test_a_wrong_pin_delivers_nothing(ground: MakeGround) -> None:
    at: Ground
    async with ground() as at:
        peer = at.peer("left")
        sender = peer.dial(at.address, CurveKey.make().public)
        await until(lambda: sender.events["disconnected"])
        assert not sender.send([b"secret"]) and not sender.events["handshake_succeeded"]
        assert at.arrived == [] and at.zap.admitted == 0


@pytest.mark.anyio
async def test_an_unknown_key_is_denied_and_works_once_it_is_admitted(ground: MakeGround) -> None:
    at: Ground
    async with ground() as at:
        peer = at.peer("left", admitted=False)
        sender = peer.dial(at.address, at.key.public)
        await until(lambda: sender.events["disconnected"])
        assert at.zap.denied == {"unknown_key": 1} and at.arrived == []
        at.sockets.admit(peer.key.public, "left")
        await at.say(peer.dial(at.address, at.key.public), b"hello")
        await until(lambda: at.arrived == [Arrival("left", [b"hello"])])


@pytest.mark.anyio
@pytest.mark.parametrize("options", [{}, {"plain_username": b"left", "plain_password": b"left"}], ids=["null", "plain"])
async def test_other_mechanisms_do_not_even_reach_our_handler(ground: MakeGround, options: dict[str, bytes]) -> None:
    at: Ground
    async with ground() as at:
        raw = at.bare(**options)
        raw.connect(f"tcp://{at.address}")
        await until(lambda: at.receiver.events["disconnected"])
        assert raw.poll(0, zmq.POLLOUT) == 0 and at.arrived == []
        assert at.zap.admitted == 0 and at.zap.denied == {}


@pytest.mark.anyio
@pytest.mark.parametrize(
    "greeting",
    [b"\xff" + bytes(8) + b"\x7f\x01\x05", b"\xff" + bytes(8) + b"\x7f\x00", b"\x01\x00\x01\x00", b"GET / HTTP/1.1\r\n\r\n"],
    ids=["zmtp-2", "zmtp-1", "zmtp-1-bare", "http"],
)
async def test_older_protocols_and_noise_get_nowhere(ground: MakeGround, greeting: bytes) -> None:
    at: Ground
    async with ground(LinkLimits(handshake_s=0.3)) as at:
        stranger = at.tcp()
        stranger.sendall(greeting.ljust(64, b"\0"))
        await until(lambda: at.receiver.events["disconnected"])
        assert at.zap.admitted == 0 and at.arrived == [] and at.guard.connections == 0


@pytest.mark.anyio
async def test_while_nobody_answers_nobody_gets_in(ground: MakeGround) -> None:
    at: Ground
    async with ground(LinkLimits(handshake_s=0.3), running=False) as at:
        peer = at.peer("left")
        sender = peer.dial(at.address, at.key.public)
        await until(lambda: sender.events["disconnected"])
        assert not sender.events["handshake_succeeded"] and not at.receiver.readable()
        assert not at.zap.running and at.zap.admitted == 0
        await at.run()
        await at.say(peer.dial(at.address, at.key.public), b"hello")
        await until(lambda: at.arrived)


@pytest.mark.anyio
async def test_two_endpoints_with_two_keys_serve_at_once(ground: MakeGround) -> None:
    at: Ground
    async with ground() as at:
        left, right = at.peer("left"), at.peer("right")
        old_address, fresh = at.address, CurveKey.make()
        old = left.dial(old_address, at.key.public)
        await at.say(old, b"old")
        new_address = at.receiver.add_endpoint("127.0.0.1", 0, fresh)
        assert at.receiver.address == new_address != old_address
        new = right.dial(new_address, fresh.public)
        for _ in range(3):
            await at.say(old, b"old")
            await at.say(new, b"new")
        await until(lambda: len(at.arrived) == 7)
        crossed = left.dial(new_address, at.key.public)
        await until(lambda: crossed.events["disconnected"])
        assert not crossed.events["handshake_succeeded"], "each endpoint has its own key"

        at.taking = False
        await at.say(old, b"last word")
        await until(at.receiver.readable)
        at.receiver.drop_endpoint(old_address)
        at.take()
        await until(lambda: old.events["disconnected"])
        await at.say(new, b"still here")
        await until(lambda: [b"still here"] in at.of("right") and [b"last word"] in at.of("left"))
        late = left.dial(old_address, at.key.public)
        await until(lambda: late.events["connect_delayed"] + late.events["closed"])
        assert not late.events["connected"] and at.guard.connections == 1


@pytest.mark.anyio
async def test_after_rekey_new_dealers_use_the_new_key(ground: MakeGround) -> None:
    at: Ground
    async with ground() as at:
        peer, _ = await at.linked("left")
        fresh = CurveKey.make()
        at.sockets.admit(fresh.public, "left-anew")
        peer.sockets.rekey(fresh)
        await at.say(peer.dial(at.address, at.key.public), b"hello")
        await until(lambda: at.of("left-anew") == [[b"hello"]])


@pytest.mark.anyio
async def test_every_socket_has_every_option(ground: MakeGround) -> None:
    at: Ground
    async with ground() as at:
        _, sender = await at.linked("left")
        for one in (at.receiver, sender):
            raw = one._raw
            assert (raw.maxmsgsize, raw.handshake_ivl, raw.sndhwm, raw.rcvhwm) == (1 << 20, 2000, 16, 11)
            assert (
                raw.mechanism == zmq.CURVE
                and raw.getsockopt(zmq.ZAP_DOMAIN).rstrip(b"\0") == DOMAIN
                and raw.getsockopt(zmq.ZAP_ENFORCE_DOMAIN) == 1
            )
            assert raw.tcp_keepalive == 1
        assert sender._raw.immediate == 1 and sender._raw.reconnect_ivl == -1 and at.receiver._raw.curve_server == 1


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("option", "value"),
    [
        (zmq.MAXMSGSIZE, -1),
        (zmq.HANDSHAKE_IVL, 0),
        (zmq.RCVHWM, 0),
        (zmq.SNDHWM, 0),
        (zmq.ZAP_ENFORCE_DOMAIN, 0),
        (zmq.ZAP_DOMAIN, b"global"),
    ],
)
async def test_nothing_unprotected_binds_where_others_see_it(ground: MakeGround, option: int, value: int | bytes) -> None:
    at: Ground
    async with ground() as at:
        at.receiver._raw.setsockopt(option, value)
        for host in ("192.0.2.7", "0.0.0.0", "::"):
            with pytest.raises(Unprotected):
                at.receiver.add_endpoint(host, 0, at.key)
        assert len(at.receiver._endpoints) == 1


@pytest.mark.anyio
async def test_names_are_not_looked_up(ground: MakeGround) -> None:
    assert require_numeric("localhost") == "127.0.0.1" and require_numeric("192.0.2.7") == "192.0.2.7"
    at: Ground
    async with ground() as at:
        for host in ("example.org", "*", "127.0.0.1.example.org", "eth0"):
            with pytest.raises(ValueError, match="address"):
                at.receiver.add_endpoint(host, 0, at.key)
            with pytest.raises(ValueError, match="address"):
                at.sockets.dealer(f"{host}:7711", at.key.public)
        for key in (b"", b"short", at.key.public + b"x"):
            with pytest.raises(ValueError, match="transport key"):
                at.sockets.dealer(at.address, key)


def test_without_a_key_there_is_nothing_to_admit() -> None:
    plain = Sockets(LinkLimits())
    try:
        assert plain.admit(b"", "left") and plain.statistics() is None
        plain.expel("left")
        plain.retire(b"")
        plain.rekey(CurveKey.make())
        receiver = plain.router()
        sender = plain.dealer(receiver.address, CurveKey.make().public)
        assert receiver._raw.mechanism == sender._raw.mechanism == zmq.NULL
        sender.close()
        receiver.close()
    finally:
        plain.close()
