"""Our ZAP handler: a dictionary look-up that nothing can stop, and nobody has to wait for."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest
import zmq

from mesh.limits import LinkLimits
from mesh.runtime.sockets.zap import DOMAIN, ENDPOINT, Zap

from .conftest import Ground, until

pytestmark = pytest.mark.anyio
MakeGround = Callable[..., Any]
KEY = bytes(range(32))


def asking(at: Ground) -> zmq.Socket[bytes]:
    """Speaks to the handler as libzmq does."""
    raw = at.sockets._context.socket(zmq.DEALER)
    raw.linger = 0
    raw.connect(ENDPOINT)
    return raw


def request(**changed: bytes) -> list[bytes]:
    row = {"version": b"1.0", "id": b"1", "domain": DOMAIN, "address": b"127.0.0.1", "routing_id": b"", "mechanism": b"CURVE", "key": KEY}
    return [b"", *(row | changed).values()]


@pytest.mark.parametrize(
    ("frames", "reason"),
    [
        (request(version=b"2.0"), "version"),
        (request(version=b""), "version"),
        (request(domain=b"global"), "domain"),
        (request(domain=b""), "domain"),
        (request(address=b"localhost"), "address"),
        (request(address=b""), "address"),
        (request(address=b"\xff\xfe"), "address"),
        (request(mechanism=b"GSSAPI"), "mechanism"),
        (request(mechanism=b"PLAIN"), "mechanism"),
        ([*request(mechanism=b"PLAIN"), b"password"], "mechanism"),
        (request(mechanism=b"NULL")[:-1], "mechanism"),
        (request()[:-1], "malformed"),
        (request()[:-2], "malformed"),
        (request()[:4], "malformed"),
        ([*request(), b"more"], "malformed"),
        (request(key=KEY[:-1]), "unknown_key"),
        (request(key=KEY + b"x"), "unknown_key"),
        (request(key=b""), "unknown_key"),
        (request(key=bytes(32)), "unknown_key"),
    ],
)
async def test_all_but_a_request_for_an_admitted_key_is_denied_and_counted(ground: MakeGround, frames: list[bytes], reason: str) -> None:
    at: Ground
    async with ground() as at:
        assert at.sockets.admit(KEY, "left")
        with asking(at) as raw:
            raw.send_multipart(frames)
            await until(lambda: at.zap.denied)
            answer = raw.recv_multipart()
            assert at.zap.denied == {reason: 1} and at.zap.admitted == 0
            assert answer[:4] == [b"", b"1.0", frames[2], b"400"] and answer[5:] == [b"", b""]
            raw.send_multipart(request())
            await until(lambda: at.zap.admitted)
            assert raw.recv_multipart()[3] == b"200" and at.zap.errors == 0


async def test_garbage_is_survived(ground: MakeGround) -> None:
    at: Ground
    async with ground() as at:
        with asking(at) as raw:
            for count in range(1, 12):
                for size in (0, 1, 32, 5000):
                    raw.send_multipart([os.urandom(size) for _ in range(count)])
            await until(lambda: sum(at.zap.denied.values()) == 44)
        await at.linked("left")
        assert at.zap.running and at.zap.errors == 0


async def test_an_exception_is_counted_and_shown_and_the_next_gets_in(ground: MakeGround, monkeypatch: pytest.MonkeyPatch) -> None:
    judge = Zap._judge
    raised: list[str] = []

    def broken(zap: Zap, frames: list[bytes]) -> tuple[bytes, str]:
        if not raised:
            raised.append("once")
            raise ZeroDivisionError("a defect")
        return judge(zap, frames)

    monkeypatch.setattr(Zap, "_judge", broken)
    at: Ground
    async with ground(LinkLimits(handshake_s=0.3)) as at:
        peer = at.peer("left")
        unlucky = peer.dial(at.address, at.key.public)
        await until(lambda: unlucky.events["disconnected"])
        assert at.zap.errors == 1 and at.zap.last_error == "ZeroDivisionError('a defect')" and at.zap.running
        await at.say(peer.dial(at.address, at.key.public), b"hello")
        await until(lambda: at.arrived)


async def test_fifty_joins_do_not_wait_for_each_other(ground: MakeGround) -> None:
    """All fifty are asked for before the first is answered, and one look answers them all."""
    at: Ground
    async with ground(LinkLimits(handshake_s=20.0), running=False) as at:
        senders = [at.peer(f"n{number}").dial(at.address, at.key.public) for number in range(50)]

        def asked() -> bool:
            at.receiver.catch_up()
            waiting = (at.sockets._gate.guard._place.traffic(fd) for fd in at.sockets._gate.guard._inbound)  # type: ignore[union-attr]
            return sum(traffic is not None and traffic[0] >= 567 for traffic in waiting) == 50  # INITIATE has come

        await until(asked)
        await at.run()
        for sender in senders:
            await at.say(sender, b"hello")
        await until(lambda: len(at.arrived) == 50)
        assert at.zap.admitted == 50 and {user for user, _ in at.arrived} == {f"n{number}" for number in range(50)}


async def test_tickets_that_nobody_shows_are_bounded(ground: MakeGround) -> None:
    at: Ground
    async with ground() as at:
        at.sockets.admit(KEY, "left")
        with asking(at) as raw:
            users = []
            for count in range(1, 20):
                raw.send_multipart(request())
                await until(lambda count=count: at.zap.admitted == count)
                users.append(raw.recv_multipart()[5].decode())
        zap = at.sockets._gate._zap  # type: ignore[union-attr]
        assert len(set(users)) == 19 and len(zap._tickets["left"]) == at.limits.tickets_max
        assert zap.claim(users[0]) is None and zap.claim(users[-1]) is not None and zap.claim(users[-1]) is None
