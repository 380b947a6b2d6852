"""Links between nodes in one process, over real sockets on loopback: sessions, loss of a peer, strangers, noise, load."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib.util import find_spec
from typing import Any

import anyio
import anyio.abc
import anyio.lowlevel
import pytest
import zmq
from mesh.wire.signing import Keyring, Signer, node_id

from mesh.core.inputs import DialFailed, Heard, LinkDown, LinkUp
from mesh.effects import Dial, HangUp, Send
from mesh.limits import LinkLimits
from mesh.messages.membership import Ack, Alive, Offer, Ping
from mesh.messages.session import Certificate, Stale
from mesh.messages.signed import Signed
from mesh.messages.work import FilePart
from mesh.runtime import clock
from mesh.runtime.links.links import Links
from mesh.runtime.links.listening import Listening, listen
from mesh.runtime.sockets.sockets import Sockets
from mesh.wire.codec import encode, kind_of
from mesh.wire.envelope import Batch, frame_message, seal_flush

pytestmark = pytest.mark.anyio
LIMITS = LinkLimits()
TIME_S = 20


@pytest.fixture(
    params=["asyncio", pytest.param("trio", marks=pytest.mark.skipif(find_spec("trio") is None, reason="trio is not installed"))]
)
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class Root:
    """A mesh: its root key, and certificates for as many nodes as a test wants."""

    def __init__(self, mesh: str = "mesh-one", seed: bytes = b"r" * 32) -> None:
        self.mesh = mesh
        self.key = Signer("", seed, mesh)
        self.key.node = node_id(self.key.public_key)

    def member(self, seed: int) -> tuple[Signer, bytes]:
        signer = Signer("", bytes([seed]) * 32, self.mesh)
        signer.node = node_id(signer.public_key)
        certificate = Certificate(self.mesh, signer.node, signer.public_key, "member", 1, 0)
        return signer, self.key.seal(Signed(self.key.node, certificate))

    def keyring(self) -> Keyring:
        return Keyring(self.mesh, self.key.public_key)


class Peer:
    """A node without a core: keeps what it is told, answers Ping with Ack."""

    def __init__(
        self, root: Root, seed: int, listening: Listening, limits: LinkLimits, incarnation: int, offers: tuple[Offer, ...]
    ) -> None:
        self.signer, certificate = root.member(seed)
        self.node = self.signer.node
        self.door, self.router = listening.door_address, listening.router_address
        self.row = Signed(self.node, Alive(self.node, incarnation, 1, f"n{seed}", self.door, self.router, offers, certificate))
        self.links = Links(listening, self.signer, root.keyring(), lambda: self.row, limits)
        self.links.wake = self._wake
        self.told: list[tuple[str, Any]] = []
        self.echoing = True
        self._ready, self._news = anyio.Event(), anyio.Event()
        self.scope = anyio.CancelScope()

    def _wake(self) -> None:
        self._ready.set()

    async def run(self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        with self.scope:
            async with anyio.create_task_group() as tasks:
                await tasks.start(self.links.run)
                task_status.started()
                await self._drive()

    async def _drive(self) -> None:
        while True:
            items = self.links.take()
            if items is None:
                self._ready = anyio.Event()
                await self._ready.wait()
                continue
            self.told += items
            for sender, item in items:
                if type(item) is Ping and self.echoing:
                    self.send(sender, Ack(item.probe))
            self.links.flush()
            self._news.set()
            await anyio.lowlevel.checkpoint()

    def send(self, to: str, message: Any) -> None:
        self.links.effects[Send](Send(to, message))

    def dial(self, address: str) -> None:
        self.links.effects[Dial](Dial(address))

    async def until(self, seen: Callable[[], object]) -> None:
        with anyio.fail_after(TIME_S):
            while not seen():
                self._news = anyio.Event()
                await self._news.wait()

    def of(self, kind: type, sender: str = "") -> list[Any]:
        return [item for who, item in self.told if type(item) is kind and sender in ("", who)]


class Ground:
    """Where the peers of one test live."""

    def __init__(self, tasks: anyio.abc.TaskGroup) -> None:
        self.tasks = tasks
        self.root = Root()

    async def start(
        self,
        seed: int,
        *,
        root: Root | None = None,
        incarnation: int = 1,
        port: int = 0,
        limits: LinkLimits = LIMITS,
        offers: tuple[Offer, ...] = (),
    ) -> Peer:
        peer = Peer(root or self.root, seed, await listen(limits, port=port), limits, incarnation, offers)
        await self.tasks.start(peer.run)
        return peer

    async def pair(self) -> tuple[Peer, Peer]:
        left, right = await self.start(1), await self.start(2)
        left.dial(right.door)
        await left.until(lambda: left.of(LinkUp, right.node))
        await right.until(lambda: right.of(LinkUp, left.node))
        return left, right


@asynccontextmanager
async def ground() -> AsyncIterator[Ground]:
    with anyio.fail_after(3 * TIME_S):
        async with anyio.create_task_group() as tasks:
            yield Ground(tasks)
            tasks.cancel_scope.cancel()


async def test_a_dial_opens_both_directions_and_messages_come_in_order() -> None:
    async with ground() as at:
        left, right = await at.pair()
        for probe in range(100):
            left.send(right.node, Ping(probe))
        left.links.flush()
        await left.until(lambda: len(left.of(Ack)) == 100)
        assert left.of(Ack) == [Ack(probe) for probe in range(100)]
        assert right.of(Ping) == [Ping(probe) for probe in range(100)]
        assert left.of(LinkUp)[0].alive == right.row
        numbers = left.links.statistics()
        assert numbers.up == numbers.known == 1 and not numbers.refusals and not numbers.dropped


async def test_stamps_are_echoed() -> None:
    async with ground() as at:
        left, right = await at.pair()
        for probe in (1, 2):
            left.send(right.node, Ping(probe))
            left.links.flush()
            await left.until(lambda wanted=probe: len(left.of(Ack)) == wanted)
        first, second = right.of(Heard)[0], right.of(Heard)[-1]
        assert first.echo_ms == 0 and 0 < first.stamp_ms <= clock.now_ms()
        assert left.of(Heard)[0].echo_ms == first.stamp_ms
        assert second.echo_ms == left.of(Heard)[0].stamp_ms


async def test_a_flush_to_many_peers_is_one_signature() -> None:
    async with ground() as at:
        hub = await at.start(1)
        others = [await at.start(seed) for seed in range(2, 6)]
        for other in others:
            hub.dial(other.door)
        await hub.until(lambda: len(hub.of(LinkUp)) == 4)
        before = hub.signer.signatures
        for other in others:
            for probe in range(40):
                hub.send(other.node, Ping(probe))
        hub.links.flush()
        assert hub.signer.signatures == before + 1
        await hub.until(lambda: len(hub.of(Ack)) == 160)


async def test_simultaneous_dials_end_in_one_link() -> None:
    async with ground() as at:
        left, right = await at.start(1), await at.start(2)
        left.dial(right.door)
        right.dial(left.door)
        await left.until(lambda: left.of(LinkUp))
        await right.until(lambda: right.of(LinkUp))
        left.send(right.node, Ping(1))
        right.send(left.node, Ping(2))
        left.links.flush()
        right.links.flush()
        await left.until(lambda: left.of(Ack) == [Ack(1)])
        await right.until(lambda: right.of(Ack) == [Ack(2)])
        assert not left.of(LinkDown) and not right.of(LinkDown)


async def test_dialling_a_linked_peer_ends_as_link_up_again() -> None:
    async with ground() as at:
        left, right = await at.pair()
        left.dial(right.door)
        await left.until(lambda: len(left.of(LinkUp)) == 2)
        left.send(right.node, Ping(1))
        left.links.flush()
        await left.until(lambda: left.of(Ack) == [Ack(1)])
        assert not left.of(LinkDown) and not right.of(LinkDown)


async def test_dials_that_fail_say_why() -> None:
    async with ground() as at:
        left = await at.start(1)
        async with await anyio.create_tcp_listener(local_host="127.0.0.1") as silent:
            port = silent.extra(anyio.abc.SocketAttribute.local_port)
            limits = LinkLimits(handshake_s=0.3)
            quick = await at.start(3, limits=limits)
            quick.dial(f"127.0.0.1:{port}")
            left.dial("127.0.0.1:1")
            left.dial("192.0.2.1:7710")
            left.dial("nonsense")
            left.dial(left.door)
            await left.until(lambda: len(left.of(DialFailed)) == 4)
            await quick.until(lambda: quick.of(DialFailed))
        found = {failed.address: failed.reason for failed in left.of(DialFailed)}
        assert found == {"127.0.0.1:1": "refused", "192.0.2.1:7710": "not_loopback", "nonsense": "bad_address", left.door: "self"}
        assert quick.of(DialFailed) == [DialFailed(f"127.0.0.1:{port}", "timeout")]


async def test_another_mesh_is_turned_away() -> None:
    async with ground() as at:
        left, stranger = await at.start(1), await at.start(2, root=Root("mesh-two", b"s" * 32))
        imposter = await at.start(3, root=Root("mesh-one", b"t" * 32))
        stranger.dial(left.door)
        imposter.dial(left.door)
        await stranger.until(lambda: stranger.of(DialFailed))
        await imposter.until(lambda: imposter.of(DialFailed))
        assert stranger.of(DialFailed)[0].reason == "other_mesh"
        assert imposter.of(DialFailed)[0].reason == "bad_certificate"
        assert left.links.statistics().refusals == {"hello_other_mesh": 1, "hello_bad_certificate": 1}
        assert not left.told


async def test_20_000_messages_with_512_in_flight() -> None:
    async with ground() as at:
        left, right = await at.pair()
        total, sent = 20_000, 512
        for probe in range(sent):
            left.send(right.node, Ping(probe))
        left.links.flush()
        answered: list[int] = []
        with anyio.fail_after(3 * TIME_S):
            while len(answered) < total:
                await left.until(lambda: left.told)
                fresh = [item.probe for _, item in left.told if type(item) is Ack]
                left.told.clear()
                right.told.clear()
                answered += fresh
                for _ in fresh:
                    if sent < total:
                        left.send(right.node, Ping(sent))
                        sent += 1
                left.links.flush()
        assert answered == list(range(total))
        assert not left.links.statistics().dropped and not right.links.statistics().dropped


async def test_large_messages_pass_and_control_overtakes_bulk() -> None:
    async with ground() as at:
        left, right = await at.pair()
        right.echoing = False
        piece = FilePart("ab" * 32, 0, 1 << 20, os.urandom(48 * 1024))
        for _ in range(200):
            left.send(right.node, piece)
        left.send(right.node, Ping(7))
        left.links.flush()
        await right.until(lambda: len(right.of(FilePart)) == 200)
        kinds = [type(item) for _, item in right.told if type(item) in (Ping, FilePart)]
        assert kinds[0] is Ping
        left.send(right.node, FilePart("ab" * 32, 0, 1 << 20, os.urandom(600 * 1024)))
        left.send(right.node, FilePart("ab" * 32, 0, 1 << 20, os.urandom(2 * 1024 * 1024)))
        left.links.flush()
        await right.until(lambda: len(right.of(FilePart)) == 201)
        assert left.links.statistics().dropped == {"too_big": 1}


async def test_a_peer_that_ends_is_refused_at_its_door() -> None:
    async with ground() as at:
        left, right = await at.pair()
        right.scope.cancel()
        await left.until(lambda: len(left.of(LinkDown)) == 2)
        assert left.of(LinkDown, right.node) == [LinkDown(), LinkDown(refused=True)]
        left.send(right.node, Ping(1))
        assert left.links.statistics().dropped == {"no_link": 1}
        left.dial(right.door)
        await left.until(lambda: left.of(DialFailed) == [DialFailed(right.door, "refused")])


CHILD = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("peers", sys.argv[1])
peers = importlib.util.module_from_spec(spec)
spec.loader.exec_module(peers)
peers.anyio.run(peers.child)
"""


async def child() -> None:
    """Another process's node: says its door, echoes until it is killed."""
    async with anyio.create_task_group() as tasks:
        peer = await Ground(tasks).start(2)
        print(peer.door, flush=True)


@pytest.mark.cluster
async def test_a_killed_process_is_known_at_once() -> None:
    async with ground() as at:
        left = await at.start(1)
        async with await anyio.open_process([sys.executable, "-c", CHILD, __file__], stderr=None) as process:
            assert process.stdout is not None
            left.dial((await process.stdout.receive()).decode().strip())
            await left.until(lambda: left.of(LinkUp))
            left.send(left.of(LinkUp)[0].alive.author, Ping(1))
            left.links.flush()
            await left.until(lambda: left.of(Ack))
            process.kill()
            await process.wait()
        await left.until(lambda: LinkDown(refused=True) in left.of(LinkDown))
        assert left.of(LinkDown) == [LinkDown(), LinkDown(refused=True)]


async def test_a_restarted_peer_gets_new_sessions() -> None:
    async with ground() as at:
        left, right = await at.pair()
        port = int(right.door.split(":")[1])
        right.scope.cancel()
        await left.until(lambda: len(left.of(LinkDown)) == 2)
        again = await at.start(2, incarnation=2)
        assert again.node == right.node and port
        left.told.clear()
        again.dial(left.door)
        await left.until(lambda: left.of(LinkUp))
        assert left.of(LinkUp)[0].alive.body.incarnation == 2
        await again.until(lambda: again.of(LinkUp))
        again.send(left.node, Ping(3))
        again.links.flush()
        await again.until(lambda: again.of(Ack) == [Ack(3)])
        assert left.of(Heard)[0].echo_ms == 0, "what a former life stamped is not echoed to the new one"


async def test_a_restart_seen_only_by_its_hello_ends_the_old_link_first() -> None:
    async with ground() as at:
        left, right = await at.pair()
        again = await at.start(2, incarnation=2)  # the old process still answers: as one that hangs
        again.dial(left.door)
        await left.until(lambda: len(left.of(LinkUp)) == 2)
        assert [type(item) for who, item in left.told if who == right.node] == [LinkUp, LinkDown, LinkUp]


async def test_an_unknown_session_is_answered_and_opened_anew() -> None:
    async with ground() as at:
        left, right = await at.pair()
        right.links._sessions.forget(left.node)
        left.send(right.node, Ping(1))
        left.links.flush()
        with anyio.fail_after(TIME_S):
            while left.links._links[right.node].next_seq != 1:  # a new session
                await anyio.lowlevel.checkpoint()
        left.send(right.node, Ping(2))
        left.links.flush()
        await left.until(lambda: left.of(Ack))
        assert left.of(Ack) == [Ack(2)]
        assert right.links.statistics().refusals == {"stale_session": 1}
        assert not left.of(LinkDown) and not right.of(LinkDown)


async def test_a_stale_answer_about_another_session_changes_nothing() -> None:
    async with ground() as at:
        left, right = await at.pair()
        before = left.links._links[right.node].session
        right.send(left.node, Stale(b"x" * 16))
        right.send(left.node, Ping(1))
        right.links.flush()
        await right.until(lambda: right.of(Ack))
        assert left.links._links[right.node].session == before
        assert not left.of(Stale)


async def test_replayed_altered_and_misdirected_envelopes_have_no_effect() -> None:
    async with ground() as at:
        left, right = await at.pair()
        link = left.links._links[right.node]
        part = frame_message(kind_of(Ping(9)), encode(Ping(9)), 1)

        def sealed(to: str) -> list[bytes]:
            return seal_flush(
                left.signer, [Batch(to, link.session, link.next_seq, 0, [part])], sent_ms=clock.wall_ms(), stamp_ms=clock.now_ms()
            )[0]

        good = sealed(right.node)
        link.next_seq += 1
        altered = [good[0], good[1][:-1] + b"\x0a", good[2]]
        forged = [good[0], good[1], bytes(64) + good[2][64:]]
        assert link.sender is not None
        for frames in (altered, forged, good, good, sealed(left.node), good):
            assert link.sender.send(frames)
        left.send(right.node, Ping(10))
        left.links.flush()
        await right.until(lambda: Ping(10) in right.of(Ping))
        assert right.of(Ping) == [Ping(9), Ping(10)]
        assert right.links.statistics().refusals == {"payload_changed": 1, "bad_signature": 1, "replayed": 2, "not_for_me": 1}


async def test_an_echo_from_the_future_is_refused() -> None:
    async with ground() as at:
        left, right = await at.pair()
        left.links._links[right.node].stamp_ms = clock.now_ms() + 3_600_000
        left.send(right.node, Ping(1))
        left.links.flush()
        left.links._links[right.node].stamp_ms = 0
        left.send(right.node, Ping(2))
        left.links.flush()
        await right.until(lambda: right.of(Ping))
        assert right.of(Ping) == [Ping(2)]
        assert right.links.statistics().refusals == {"future_echo": 1}


async def test_noise_on_the_router_is_counted_and_survived() -> None:
    async with ground() as at:
        left, right = await at.pair()
        noise: list[list[bytes]] = [
            [b""],
            [b"x"],
            [b"x"] * 3,
            [b"x"] * 1000,
            [os.urandom(900_000)] * 3,
            [b"\x9d" + bytes(12), b"", bytes(68)],
        ]
        noise += [[os.urandom(size), os.urandom(size), os.urandom(68)] for size in range(0, 500, 7)]
        sockets = Sockets(LIMITS)
        stranger = sockets.dealer(right.router)
        try:
            with anyio.fail_after(TIME_S):
                for frames in noise:
                    await stranger.wait_writable()
                    assert stranger.send(frames)
                left.send(right.node, Ping(1))
                left.links.flush()
                await left.until(lambda: left.of(Ack) == [Ack(1)])
                while sum(right.links.refusals.values()) < len(noise):
                    await anyio.lowlevel.checkpoint()
        finally:
            stranger.close()
            sockets.close()
        assert right.links.statistics().sockets["frames_dropped"] == 992
        assert set(right.links.refusals) <= {"frames", "malformed", "too_big", "version"}


async def test_a_frame_beyond_the_limit_costs_only_its_connection() -> None:
    async with ground() as at:
        left, right = await at.pair()
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        raw = context.socket(zmq.DEALER)
        raw.linger = 0
        raw.connect(f"tcp://{right.router}")
        raw.send_multipart([bytes(LIMITS.frame_bytes_max + 1)])
        with anyio.fail_after(TIME_S):
            while not right.links.statistics().sockets.get("disconnected"):
                await anyio.lowlevel.checkpoint()
        context.destroy(0)
        left.send(right.node, Ping(1))
        left.links.flush()
        await left.until(lambda: left.of(Ack) == [Ack(1)])


async def test_a_peer_that_does_not_read_costs_bounded_memory_and_says_so() -> None:
    limits = LinkLimits(queue_messages_max=64, queue_bytes_max=1 << 20)
    async with ground() as at:
        left, right = await at.start(1, limits=limits), await at.start(2)
        left.dial(right.door)
        await left.until(lambda: left.of(LinkUp))
        right.links.take = lambda: None  # type: ignore[method-assign]
        for number in range(2000):
            left.send(right.node, FilePart("ab" * 32, number, 1 << 20, bytes(48 * 1024)))
            left.links.flush()
        numbers = left.links.statistics()
        assert numbers.dropped["overflow_bulk"] > 1000
        assert numbers.queued <= 64 + 2 * 16


async def test_after_hanging_up_a_dial_mends_both_directions() -> None:
    async with ground() as at:
        left, right = await at.pair()
        left.links.effects[HangUp](HangUp(right.node))
        right.send(left.node, Ping(1))
        right.links.flush()
        with anyio.fail_after(TIME_S):
            while not left.links.refusals["stale_session"]:
                await anyio.lowlevel.checkpoint()
        left.dial(right.door)
        await left.until(lambda: len(left.of(LinkUp)) == 2)
        right.send(left.node, Ping(2))
        left.send(right.node, Ping(3))
        left.links.flush()
        right.links.flush()
        await right.until(lambda: right.of(Ack) == [Ack(2)])
        await left.until(lambda: left.of(Ack) == [Ack(3)])
        assert not left.of(LinkDown) and not right.of(LinkDown)


async def test_a_row_too_large_for_the_door_goes_without_its_offers() -> None:
    offers = tuple(Offer(f"capability{number}", "a", input_schema="x" * 1000) for number in range(40))
    async with ground() as at:
        left, right = await at.start(1, offers=offers), await at.start(2)
        left.dial(right.door)
        await right.until(lambda: right.of(LinkUp))
        row = right.of(LinkUp)[0].alive.body
        assert row.offers == () and row.version == 0 and row.router == left.router


async def test_ending_twice_in_a_row_gives_the_ports_back() -> None:
    async with ground() as at:
        left, right = await at.pair()
        ports = [int(address.split(":")[1]) for address in (left.door, left.router)]
        left.scope.cancel()
        await right.until(lambda: right.of(LinkDown))
        right.scope.cancel()
        with anyio.fail_after(TIME_S):
            for port in ports:  # each by itself: the number above one of them may be anybody's
                while True:
                    try:
                        listener = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=port)
                        break
                    except OSError:
                        await anyio.lowlevel.checkpoint()
                await listener.aclose()
