"""Admitting and cutting off: a node, one of its keys, and only that."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from mesh.limits import LinkLimits
from mesh.runtime.sockets import sockets
from mesh.runtime.sockets.curve import CurveKey
from mesh.runtime.sockets.descriptors import Place
from mesh.runtime.sockets.zap import Ticket

from .conftest import Ground, until

pytestmark = pytest.mark.anyio
MakeGround = Callable[..., Any]


async def test_expel_cuts_a_live_connection_at_once_and_keeps_the_others(ground: MakeGround) -> None:
    at: Ground
    async with ground() as at:
        left, bad = await at.linked("left")
        _, good = await at.linked("right")
        at.taking = False
        await at.say(bad, b"sent before")
        await until(at.receiver.readable)
        at.sockets.expel("left")
        at.take()
        await until(lambda: bad.events["disconnected"])
        assert at.of("left") == [[b"hello"]], "what was under way is not taken either"
        assert at.guard.cut == {"expelled": 1} and at.guard.void == 1 and at.zap.keys == 1

        again = left.dial(at.address, at.key.public)
        await until(lambda: again.events["disconnected"])
        assert at.zap.denied == {"unknown_key": 1}
        await at.say(good, b"still here")
        await until(lambda: [b"still here"] in at.of("right"))
        await until(lambda: at.guard.connections == 1)
        assert not good.events["disconnected"]

        at.sockets.admit(left.key.public, "left")
        await at.say(left.dial(at.address, at.key.public), b"pardoned")
        await until(lambda: [b"pardoned"] in at.of("left"))


async def test_whoever_was_let_in_and_has_not_spoken_is_cut_at_his_first_word(ground: MakeGround) -> None:
    at: Ground
    async with ground() as at:
        peer = at.peer("left")
        raw = at.bare(peer.key)
        raw.connect(f"tcp://{at.address}")
        await until(lambda: at.receiver.events["handshake_succeeded"])
        at.sockets.expel("left")
        raw.send(b"hello")
        await until(lambda: at.receiver.events["disconnected"])
        assert at.arrived == [] and at.guard.cut == {"expelled": 1} and at.guard.void == 1


async def test_a_handshake_that_was_granted_before_the_expulsion_gets_nowhere_after_it(ground: MakeGround) -> None:
    at: Ground
    async with ground() as at:
        peer = at.peer("left")
        zap = at.sockets._gate._zap  # type: ignore[union-attr]
        give = zap._give

        def and_expelled(node: str, key: bytes) -> str:
            user = give(node, key)
            at.sockets.expel("left")
            return user

        zap._give = and_expelled  # type: ignore[method-assign]
        await at.say(peer.dial(at.address, at.key.public), b"hello")
        await until(lambda: at.receiver.events["disconnected"])
        assert at.arrived == [] and at.guard.cut == {"expelled": 1}


async def test_retire_takes_one_key_and_what_came_in_with_it(ground: MakeGround) -> None:
    at: Ground
    async with ground() as at:
        peer, old = await at.linked("left")
        old_key, fresh = peer.key.public, CurveKey.make()
        at.sockets.admit(fresh.public, "left")
        peer.sockets.rekey(fresh)
        new = peer.dial(at.address, at.key.public)
        await at.say(new, b"anew")
        await until(lambda: [b"anew"] in at.of("left"))
        at.sockets.retire(old_key)
        await until(lambda: old.events["disconnected"])
        await at.say(new, b"still here")
        await until(lambda: [b"still here"] in at.of("left"))
        assert at.guard.cut == {"retired": 1} and at.zap.keys == 1 and not new.events["disconnected"]
        at.sockets.retire(old_key)
        at.sockets.expel("nobody")
        assert at.guard.cut == {"retired": 1}


async def test_the_oldest_of_too_many_keys_of_one_node_is_retired(ground: MakeGround) -> None:
    at: Ground
    async with ground(LinkLimits(transport_keys_max=2)) as at:
        _, oldest = await at.linked("left")
        for _ in range(2):
            assert at.sockets.admit(CurveKey.make().public, "left")
        await until(lambda: oldest.events["disconnected"])
        assert at.zap.keys == 2 and at.guard.cut == {"retired": 1}


async def test_a_key_that_is_used_stays_with_its_holder_and_one_that_is_only_claimed_does_not(ground: MakeGround) -> None:
    at: Ground
    async with ground() as at:
        peer = at.peer("thief")  # says that the key is his, and cannot use it
        assert at.sockets.admit(peer.key.public, "left")
        await at.say(peer.dial(at.address, at.key.public), b"hello")
        await until(lambda: at.of("left") == [[b"hello"]])
        assert not at.sockets.admit(peer.key.public, "thief")
        assert not at.sockets.admit(b"short", "thief")
        found = at.sockets.statistics()
        assert found is not None and found.refused_keys == {"key_in_use": 1, "no_key": 1} and found.zap.keys == 1


async def test_a_full_table_lets_go_of_whoever_is_not_connected(ground: MakeGround) -> None:
    at: Ground
    async with ground(LinkLimits(peers_max=2)) as at:
        absent = at.peer("absent")
        await at.linked("left")
        await at.linked("right")
        assert at.zap.keys == 2
        assert not at.sockets.admit(absent.key.public, "absent")
        assert at.sockets.admit(CurveKey.make().public, "left"), "it has its place already"
        found = at.sockets.statistics()
        assert found is not None and found.refused_keys == {"table_full": 1}


async def test_where_a_message_does_not_tell_its_descriptor_all_are_cut(ground: MakeGround, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sockets, "_fd_of", lambda _frame: -1)
    at: Ground
    async with ground() as at:
        left, bad = await at.linked("left")
        right, good = await at.linked("right")
        address = at.address
        assert not at.guard.watching
        at.sockets.expel("left")
        await until(lambda: bad.events["disconnected"] and good.events["disconnected"])
        assert at.address == address
        await at.say(right.dial(address, at.key.public), b"back again")
        again = left.dial(address, at.key.public)
        await until(lambda: again.events["disconnected"] and [b"back again"] in at.of("right"))
        assert at.of("left") == [[b"hello"]]


async def test_of_one_node_the_oldest_connection_goes_and_its_words_are_kept(ground: MakeGround) -> None:
    at: Ground
    async with ground(LinkLimits(connections_max=2)) as at:
        peer, oldest = await at.linked("left")
        at.taking = False
        await at.say(oldest, b"from the oldest")
        await until(at.receiver.readable)
        later = [peer.dial(at.address, at.key.public) for _ in range(2)]
        for number, sender in enumerate(later):
            await at.say(sender, b"%d" % number)
        at.take()
        await until(lambda: oldest.events["disconnected"] and len(at.of("left")) == 4 and at.guard.connections == 2)
        assert at.guard.cut == {"replaced": 1}
        assert not any(sender.events["disconnected"] for sender in later)


async def test_late_words_of_the_one_before_do_not_cut_who_has_his_descriptor_now(ground: MakeGround) -> None:
    at: Ground
    async with ground() as at:
        assert at.sockets._gate is not None
        guard = at.sockets._gate.guard
        stranger = at.tcp()
        await until(lambda: at.guard.unproven == 1)
        (connection,) = guard._inbound.values()
        guard.refuse(connection.fd, connection.number - 1)
        assert at.guard.cut == {}
        before = guard.claim(Ticket("left", b"k" * 32, connection.number - 1), b"before", connection.fd)
        assert before is not connection and connection.ticket is None and not guard.has("left")
        guard.refuse(connection.fd, connection.number + 1)
        assert at.guard.cut == {"expelled": 1} and at.guard.void == 2
        stranger.close()


async def test_another_connection_on_a_reused_descriptor_is_never_cut(ground: MakeGround) -> None:
    at: Ground
    async with ground() as at:
        _, sender = await at.linked("left")
        (connection,) = at.sockets._gate.guard._inbound.values()  # type: ignore[union-attr]
        place = Place()
        try:
            assert not place.shut(connection.fd, ("127.0.0.1", 1))
            assert not place.shut(99999, connection.peer) and not place.shut(-1, connection.peer) and not place.shut(0, connection.peer)
            await at.say(sender, b"still here")
            await until(lambda: [b"still here"] in at.of("left"))
            assert place.shut(connection.fd, connection.peer)
            await until(lambda: sender.events["disconnected"])
        finally:
            place.close()
