"""The door against everything that may knock at a TCP port, and dialling against everything that may answer at one."""

from __future__ import annotations

import ssl
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from importlib.util import find_spec

import anyio
import anyio.abc
import anyio.lowlevel
import pytest
from anyio.streams.tls import TLSStream

from mesh.limits import LinkLimits
from mesh.runtime.links.dialling import connect, key_at, knock, request
from mesh.runtime.links.door import Door, DoorKeys
from mesh.runtime.links.frames import BadFrame, read_frame, write_frame
from mesh.runtime.links.sessions import turned
from mesh.runtime.links.tls import client_context, server_context
from mesh.runtime.sockets.sockets import NotLoopback
from mesh.runtime.trust.keyfiles import public_of
from mesh.wire.packing import Refusal, pack
from mesh.wire.token import knock_proof

pytestmark = pytest.mark.anyio
TIME_S = 10
LIMITS = LinkLimits()
SEED, DISCOVERY, NONCE = b"d" * 32, b"k" * 32, b"n" * 16
KEYS = DoorKeys(server_context(SEED), public_of(SEED), DISCOVERY)
PLAIN = DoorKeys(None, b"", DISCOVERY)


@pytest.fixture(
    params=["asyncio", pytest.param("trio", marks=pytest.mark.skipif(find_spec("trio") is None, reason="trio is not installed"))]
)
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class House:
    """A door and what happened at it."""

    def __init__(self, door: Door, address: str) -> None:
        self.door, self.address = door, address
        self.noted: list[str] = []
        self.said: list[bytes] = []

    @property
    def refusals(self) -> dict[str, int]:
        return self.door.statistics().refusals

    async def knock(self, keys: DoorKeys = KEYS, hello: bytes = b"hello") -> tuple[bytes, bytes]:
        return await knock(self.address, keys, lambda: hello, LIMITS, anywhere=False)


@asynccontextmanager
async def opened(limits: LinkLimits = LIMITS, keys: DoorKeys = KEYS, enrol: Callable[[bytes], bytes] | None = None) -> AsyncIterator[House]:
    listener = (await anyio.create_tcp_listener(local_host="127.0.0.1")).listeners[0]
    port = listener.extra(anyio.abc.SocketAttribute.local_port)

    def answer(frame: bytes) -> bytes:
        house.said.append(frame)
        return b"answer to " + frame

    door = Door(listener, limits, lambda: keys, answer, enrol, lambda reason, who: house.noted.append(f"{reason} {who}"))
    house = House(door, f"127.0.0.1:{port}")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(door.run)
        with anyio.fail_after(TIME_S):
            yield house
        tasks.cancel_scope.cancel()


@asynccontextmanager
async def inside(address: str) -> AsyncIterator[TLSStream]:
    """Within TLS, nothing said yet."""
    async with await connect(address, anywhere=False) as stream:
        yield await TLSStream.wrap(stream, server_side=False, ssl_context=client_context(), standard_compatible=False)


async def until(seen: Callable[[], object]) -> None:
    while not seen():
        await anyio.lowlevel.checkpoint()


async def rest_of(stream: anyio.abc.ByteReceiveStream) -> bytes:
    """All that still comes."""
    found = b""
    with suppress(anyio.EndOfStream, anyio.BrokenResourceError, OSError):
        while True:
            found += await stream.receive()
    return found


def framed(frame: bytes) -> bytes:
    return len(frame).to_bytes(4, "big") + frame


def a_knock(discovery: bytes = DISCOVERY, door_key: bytes = KEYS.public, nonce: bytes = NONCE) -> bytes:
    return pack(("knock", 1, nonce, knock_proof(discovery, "knock", nonce, door_key)))


# ---- members


async def test_a_member_is_let_in_and_learns_the_doors_key() -> None:
    async with opened() as house:
        assert await house.knock() == (b"answer to hello", public_of(SEED))
        assert house.door.statistics().answered == 1 and not house.refusals and not house.noted


async def test_without_tls_nothing_is_known_of_the_key() -> None:
    async with opened(keys=PLAIN) as house:
        assert await house.knock(PLAIN) == (b"answer to hello", b"")


async def test_a_key_that_is_replaced_is_shown_to_the_next() -> None:
    keys = [KEYS]
    listener = (await anyio.create_tcp_listener(local_host="127.0.0.1")).listeners[0]
    address = f"127.0.0.1:{listener.extra(anyio.abc.SocketAttribute.local_port)}"
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(Door(listener, LIMITS, lambda: keys[0], lambda frame: frame).run)
        with anyio.fail_after(TIME_S):
            assert await key_at(address) == public_of(SEED)
            keys[0] = DoorKeys(server_context(b"e" * 32), public_of(b"e" * 32), DISCOVERY)
            assert await key_at(address) == public_of(b"e" * 32)
            assert (await knock(address, keys[0], lambda: b"x", LIMITS, anywhere=False))[0] == b"x"
        tasks.cancel_scope.cancel()


async def test_the_largest_hello_passes_in_small_pieces() -> None:
    frame = bytes(LIMITS.door_frame_bytes_max)
    async with opened() as house, inside(house.address) as stream:
        await write_frame(stream, a_knock())
        await read_frame(stream, 1000)
        sent = framed(frame)
        for at in range(0, len(sent), 1000):
            await stream.send(sent[at : at + 1000])
        assert await read_frame(stream, 1 << 20) == b"answer to " + frame


# ---- strangers, before TLS


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (b"GET / HTTP/1.1\r\nHost: here\r\n\r\n", "tls_failed"),
        (b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00", "tls_failed"),
        (b"\x00" * 100, "tls_failed"),
        (b"\xff\x00\x00\x00\x00\x00\x00\x00\x01\x7f", "tls_failed"),
        (b"\x16", "tls_failed"),
    ],
)
async def test_noise_is_one_counted_refusal_and_is_told_nothing_of_us(sent: bytes, reason: str) -> None:
    async with opened() as house:
        async with await connect(house.address, anywhere=False) as stream:
            with suppress(OSError, anyio.BrokenResourceError):  # it may have hung up on us already
                await stream.send(sent)
                await stream.send_eof()
            came = await rest_of(stream)
            await until(lambda: house.refusals)
        assert house.refusals == {reason: 1} and house.noted == [f"door_{reason} 127.0.0.1"]
        assert len(came) <= 7 and came[:1] in (b"", b"\x15"), "a TLS alert at most"
        assert (await house.knock())[0] == b"answer to hello"


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (b"GET / HTTP/1.1\r\nHost: here\r\n\r\n", "http"),
        (b"POST /api HTTP/1.1\r\n\r\n", "http"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "tls"),
        (b"\xff\xff\xff\xff" + bytes(100), "frame_too_large"),
        (b"\x00\x00\x40\x01" + bytes(100), "frame_too_large"),
        (b"\x00\x00\x00\x00", "frame_too_large"),
        (b"\x00\x00", "cut_short"),
        (b"\x00\x00\x00\x08abc", "cut_short"),
        (b"\x00\x00\x00\x08", "cut_short"),
        (framed(b"\x93noise"), "malformed"),
        (framed(pack(("knock", 1))), "malformed"),
        (framed(pack(("knock", 2, NONCE, b"p" * 32))), "malformed"),
        (framed(pack(("knock", 1, b"short", b"p" * 32))), "malformed"),
        (framed(pack(("knock", 1, NONCE, "text"))), "malformed"),
    ],
)
@pytest.mark.parametrize("tls", [False, True])
async def test_frames_that_are_none_of_ours(sent: bytes, reason: str, tls: bool) -> None:
    async with opened(keys=KEYS if tls else PLAIN) as house:
        async with await connect(house.address, anywhere=False) as plain:
            stream: anyio.abc.ByteStream = plain
            if tls:
                stream = await TLSStream.wrap(plain, server_side=False, ssl_context=client_context(), standard_compatible=False)
            with suppress(OSError, anyio.BrokenResourceError):
                await stream.send(sent)
                await plain.send_eof()
            assert await rest_of(stream) == b"", "not a word"
            await until(lambda: house.refusals)
        assert house.refusals == {reason: 1} and not house.said


async def test_a_connection_without_a_word_is_no_refusal() -> None:
    for keys in (KEYS, PLAIN):
        async with opened(keys=keys) as house:
            async with await connect(house.address, anywhere=False):
                pass
            await until(lambda house=house: house.door.statistics().empty == 1)
            assert not house.refusals


@pytest.mark.parametrize("say", [b"", b"\x16", b"\x16\x03\x01\x02\x00"])
async def test_silence_ends_after_the_handshake_time(say: bytes) -> None:
    async with opened(LinkLimits(handshake_s=0.05)) as house, await connect(house.address, anywhere=False) as stream:
        if say:
            await stream.send(say)
        assert await rest_of(stream) == b""
        await until(lambda: house.refusals == {"timeout": 1})


async def test_silence_within_tls_and_after_the_knock_ends_too() -> None:
    async with opened(LinkLimits(handshake_s=0.3)) as house:
        async with inside(house.address) as stream:
            assert await rest_of(stream) == b""
        async with inside(house.address) as stream:
            await write_frame(stream, a_knock())
            assert len(await rest_of(stream)) < 100
        await until(lambda: house.refusals == {"timeout": 2})
        assert not house.said


async def test_of_too_many_at_once_the_longest_silent_are_put_out_and_the_door_stays_open() -> None:
    async with opened(LinkLimits(door_connections_max=3)) as house:
        streams = [await connect(house.address, anywhere=False) for _ in range(6)]
        await until(lambda: house.refusals.get("silent_too_long") == 3)
        assert house.door.statistics().open == 3
        for stream in streams[:3]:
            with pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
                await stream.receive()
        for stream in streams:
            await stream.aclose()
        await until(lambda: house.door.statistics().open == 0)
        assert (await house.knock())[0] == b"answer to hello"


async def test_one_address_cannot_take_all_places() -> None:
    async with opened(LinkLimits(door_connections_max=8, door_per_address_max=2)) as house:
        streams = [await connect(house.address, anywhere=False) for _ in range(5)]
        await until(lambda: house.refusals.get("silent_too_long") == 3)
        assert house.door.statistics().open == 2
        for stream in streams:
            await stream.aclose()
        await until(lambda: house.door.statistics().open == 0)
        assert (await house.knock())[0] == b"answer to hello"


async def test_too_fast_is_cut_before_tls_costs_anything() -> None:
    async with opened(LinkLimits(hello_per_s=0.001, hello_burst=2)) as house:
        assert [(await house.knock())[0] for _ in range(2)] == [b"answer to hello"] * 2
        for _ in range(2):
            with pytest.raises(BadFrame) as caught:
                await house.knock()
            assert caught.value.reason == "no_door"
        await until(lambda: house.refusals == {"too_fast": 2})


async def test_too_fast_without_tls_is_told_busy() -> None:
    async with opened(LinkLimits(hello_per_s=0.001, hello_burst=2), PLAIN) as house:
        assert [(await house.knock(PLAIN))[0] for _ in range(3)] == [b"answer to hello"] * 2 + [turned("busy")]
        assert house.refusals == {"too_fast": 1}


# ---- strangers, within TLS


async def test_who_does_not_know_the_discovery_key_learns_one_word_and_says_no_hello() -> None:
    async with opened() as house:
        answer, _ = await house.knock(DoorKeys(KEYS.tls, KEYS.public, b"x" * 32))
        assert answer == turned("other_mesh")
        await until(lambda: house.refusals == {"knock_other_mesh": 1})
        assert not house.said and house.noted == ["door_knock_other_mesh 127.0.0.1"]


async def test_a_knock_for_another_door_opens_none() -> None:
    """Recorded there, said here: the proof covers the door's key."""
    async with opened() as house, inside(house.address) as stream:
        await write_frame(stream, a_knock(door_key=public_of(b"e" * 32)))
        assert await read_frame(stream, 1000) == turned("other_mesh")
        assert await rest_of(stream) == b""
        assert not house.said


async def test_a_home_asks_to_be_let_in() -> None:
    def enrol(frame: bytes) -> bytes:
        if frame == pack(("join", "no")):
            raise Refusal("used")
        if frame == pack(("ask", "later")):
            raise Refusal("wait")
        return b"admission for " + frame

    async with opened(enrol=enrol) as house:
        frame = pack(("join", "yes"))
        assert await request(house.address, lambda _: frame, LIMITS, pinned=KEYS.public) == (b"admission for " + frame, KEYS.public)
        assert (await request(house.address, lambda _: pack(("join", "no")), LIMITS))[0] == turned("used")
        assert (await request(house.address, lambda _: pack(("ask", "later")), LIMITS))[0] == turned("wait")
        assert house.door.statistics().enrolled == 1
        await until(lambda: house.refusals == {"join_used": 1})
        assert house.noted == ["door_join_used 127.0.0.1"], "to wait is no refusal"


async def test_a_node_that_admits_nobody_says_so() -> None:
    async with opened() as house:
        assert (await request(house.address, lambda _: pack(("join", "x")), LIMITS))[0] == turned("no_issuer")
        await until(lambda: house.refusals == {"no_enrolment": 1})


# ---- what answers


async def test_dialling_where_nobody_lives() -> None:
    with pytest.raises(ConnectionRefusedError):
        await knock("127.0.0.1:1", KEYS, lambda: b"x", LIMITS, anywhere=False)
    for outside in ("192.0.2.1:7710", "otter.local:7710"):
        with pytest.raises(NotLoopback):
            await knock(outside, KEYS, lambda: b"x", LIMITS, anywhere=False)
    with pytest.raises(NotLoopback):
        await knock("192.0.2.1:7710", PLAIN, lambda: b"x", LIMITS, anywhere=True)
    with pytest.raises(ValueError, match="no host:port"):
        await knock("nowhere", KEYS, lambda: b"x", LIMITS, anywhere=False)


@asynccontextmanager
async def served(serve: Callable[[anyio.abc.SocketStream], object]) -> AsyncIterator[str]:
    listener = (await anyio.create_tcp_listener(local_host="127.0.0.1")).listeners[0]
    port = listener.extra(anyio.abc.SocketAttribute.local_port)

    async def guarded(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            with suppress(ssl.SSLError, anyio.BrokenResourceError, anyio.EndOfStream, OSError, BadFrame):
                await serve(stream)  # type: ignore[misc]

    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, guarded)
        with anyio.fail_after(TIME_S):
            yield f"127.0.0.1:{port}"
        tasks.cancel_scope.cancel()


async def test_a_web_server_is_no_door() -> None:
    async def web(stream: anyio.abc.SocketStream) -> None:
        await stream.receive()
        await stream.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    async with served(web) as address:
        for dial in (
            knock(address, KEYS, lambda: b"x", LIMITS, anywhere=False),
            request(address, lambda _: b"x", LIMITS),
            key_at(address),
        ):
            with pytest.raises(BadFrame) as caught:
                await dial
            assert caught.value.reason == "no_door"


async def test_who_has_tls_and_a_key_but_does_not_know_the_mesh_is_told_nothing() -> None:
    """Somebody between, or in the place of, a door: he shows a key of his own and never hears a HELLO."""
    heard: list[bytes] = []

    async def imposter(stream: anyio.abc.SocketStream) -> None:
        tls = await TLSStream.wrap(stream, server_side=True, ssl_context=server_context(b"i" * 32), standard_compatible=False)
        heard.append(await read_frame(tls, 16384))
        await write_frame(tls, pack(("open", 1, b"p" * 32)))
        heard.append(await read_frame(tls, 16384))

    async with served(imposter) as address:
        with pytest.raises(BadFrame) as caught:
            await knock(address, KEYS, lambda: pytest.fail("a HELLO was made for a stranger"), LIMITS, anywhere=False)
        assert caught.value.reason == "other_mesh"
        [knocked] = heard
        assert KEYS.discovery not in knocked and len(knocked) < 100
        asked: list[bytes] = []
        with pytest.raises(BadFrame) as caught:
            await request(address, lambda key: asked.append(key) or b"secret", LIMITS, pinned=KEYS.public)  # type: ignore[func-returns-value]
        assert caught.value.reason == "wrong_key" and not asked and len(heard) == 1, "not one frame was said to it"


@asynccontextmanager
async def relayed(target: str) -> AsyncIterator[tuple[str, bytearray]]:
    """Somebody in the middle: his own TLS towards the dialler, and what he hears passed on to the real door, over TLS too."""
    heard = bytearray()

    async def relay(stream: anyio.abc.SocketStream) -> None:
        ours = await TLSStream.wrap(stream, server_side=True, ssl_context=server_context(b"m" * 32), standard_compatible=False)
        async with inside(target) as theirs, anyio.create_task_group() as tasks:

            async def pump(source: TLSStream, sink: TLSStream, keep: bytearray | None) -> None:
                with suppress(anyio.EndOfStream, anyio.BrokenResourceError, OSError, ssl.SSLError):
                    while True:
                        data = await source.receive()
                        if keep is not None:
                            keep += data
                        await sink.send(data)
                tasks.cancel_scope.cancel()

            tasks.start_soon(pump, ours, theirs, heard)
            tasks.start_soon(pump, theirs, ours, None)

    async with served(relay) as address:
        yield address, heard


async def test_through_a_relay_with_a_key_of_its_own_nobody_is_let_in() -> None:
    """The knock is bound to the key that the dialler saw, which is not the door's; and no HELLO leaves."""
    async with opened() as house, relayed(house.address) as (address, heard):
        answer, key = await knock(address, KEYS, lambda: b"hello with a certificate", LIMITS, anywhere=False)
        assert answer == turned("other_mesh") and key == public_of(b"m" * 32)
        assert b"hello with" not in heard and not house.said
        assert house.refusals == {"knock_other_mesh": 1}


async def test_a_token_says_nothing_to_a_relay() -> None:
    async with opened(enrol=lambda frame: frame) as house, relayed(house.address) as (address, heard):
        with pytest.raises(BadFrame) as caught:
            await request(address, lambda _: b"join with a proof", LIMITS, pinned=KEYS.public)
        assert caught.value.reason == "wrong_key" and not heard
        assert house.door.statistics().enrolled == 0


async def test_an_answer_is_never_longer_than_it_may_be() -> None:
    async def flood(stream: anyio.abc.SocketStream) -> None:
        tls = await TLSStream.wrap(stream, server_side=True, ssl_context=server_context(SEED), standard_compatible=False)
        await read_frame(tls, 16384)
        await tls.send(b"\x7f\xff\xff\xff" + bytes(100_000))

    async with served(flood) as address:
        for dial in (knock(address, KEYS, lambda: b"x", LIMITS, anywhere=False), request(address, lambda _: b"x", LIMITS)):
            with pytest.raises(BadFrame) as caught:
                await dial
            assert caught.value.reason == "frame_too_large"


async def test_whatever_is_refused_is_told_in_one_word() -> None:
    """Every no of the door, as bytes: a fixed frame around a word of the list below."""
    words: Counter[str] = Counter()

    def enrol(frame: bytes) -> bytes:
        raise Refusal("unknown_invite")

    async with opened(enrol=enrol) as house:
        for frame in (a_knock(b"x" * 32), a_knock(door_key=b""), pack(("join", 1)), pack(("nothing",)), pack((5,))):
            async with inside(house.address) as stream:
                await write_frame(stream, frame)
                came = await rest_of(stream)
                word = next(word for word in ("other_mesh", "unknown_invite") if came == framed(turned(word)))
                words[word] += 1
    assert words == {"other_mesh": 2, "unknown_invite": 3}
