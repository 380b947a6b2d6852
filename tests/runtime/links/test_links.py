"""Links between nodes in one process, over real sockets on loopback: sessions, loss of a peer, strangers, noise, load."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import anyio.lowlevel
import pytest
import zmq
from anyio.streams.tls import TLSAttribute, TLSStream
from attacks.world import Line, line_of, sealed

from mesh.core.inputs import DialFailed, Heard, LinkDown, LinkUp
from mesh.effects import Dial, HangUp, Send
from mesh.limits import LinkLimits
from mesh.messages.keeping import Block, Ship, Yield
from mesh.messages.membership import Ack, Load, Offer, Ping
from mesh.messages.session import Stale
from mesh.messages.signed import Signed
from mesh.messages.trust import NODE, Revocation
from mesh.messages.work import FilePart
from mesh.runtime import clock
from mesh.runtime.links.door import DoorKeys
from mesh.runtime.links.frames import read_frame, write_frame
from mesh.runtime.links.links import Links
from mesh.runtime.links.listening import Listening, listen
from mesh.runtime.links.tls import client_context, key_in, server_context
from mesh.runtime.sockets.curve import CurveKey
from mesh.runtime.sockets.sockets import Sockets
from mesh.wire.chain import join_chain
from mesh.wire.codec import encode, kind_of
from mesh.wire.envelope import Batch, frame_message, seal_flush
from mesh.wire.keyring import Keyring
from mesh.wire.packing import pack
from mesh.wire.token import knock_proof

pytestmark = pytest.mark.anyio
LIMITS = LinkLimits()
TIME_S = 20
DISCOVERY = b"k" * 32


@pytest.fixture(
    params=["asyncio", pytest.param("trio", marks=pytest.mark.skipif(find_spec("trio") is None, reason="trio is not installed"))]
)
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class Peer:
    """A node without a core: keeps what it is told, answers Ping with Ack. `curve` None: nothing is encrypted."""

    def __init__(
        self,
        line: Line,
        seed: int,
        listening: Listening,
        curve: CurveKey | None,
        limits: LinkLimits,
        incarnation: int,
        offers: tuple[Offer, ...],
        discovery: bytes,
    ) -> None:
        self.line, self.signer, self.listening, self.curve = line, line.node, listening, curve
        self.node, self.discovery = self.signer.node, discovery
        self.door, self.router = listening.door_address, listening.router_address
        self._incarnation, self._offers = incarnation, offers
        self.row = self.own_row()
        self.bind(curve)
        tls = server_context(bytes([seed]) * 32) if curve else None
        self.keys = DoorKeys(tls, line.node.public_key if curve else b"", discovery)
        self.keyring = Keyring(line.node.mesh, (line.root.public_key,))
        self.keyring.open(self.row.raw)
        self.links = Links(listening, self.signer, self.keyring, lambda: self.row, lambda: self.binding, lambda: self.keys, limits)
        self.links.wake = self._wake
        self.noted: list[tuple[str, str]] = []
        self.links.noted = lambda reason, who: self.noted.append((reason, who))
        self.told: list[tuple[str, Any]] = []
        self.echoing = True
        self._ready, self._news = anyio.Event(), anyio.Event()
        self.scope = anyio.CancelScope()

    def own_row(self, version: int = 1) -> Signed:
        return self.line.row(
            f"n{self.node[:4]}", incarnation=self._incarnation, version=version, door=self.door, router=self.router, offers=self._offers
        )

    def bind(self, curve: CurveKey | None, seq: int = 1) -> None:
        self.curve = curve
        self.binding = self.line.binding(curve_key=curve.public if curve else bytes(32), seq=seq)

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
                if self.links.waiting():  # so many were refused in this turn that others come first
                    await anyio.lowlevel.checkpoint()
                else:
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

    def __init__(self, tasks: anyio.abc.TaskGroup, secure: bool) -> None:
        self.tasks, self.secure = tasks, secure

    async def start(
        self,
        seed: int,
        *,
        mesh: str = "mesh-one",
        root: int = 1,
        incarnation: int = 1,
        port: int = 0,
        limits: LinkLimits = LIMITS,
        offers: tuple[Offer, ...] = (),
        discovery: bytes = DISCOVERY,
    ) -> Peer:
        curve = CurveKey.of(os.urandom(32)) if self.secure else None
        line = line_of(seed, mesh, root=root)
        peer = Peer(line, seed, await listen(limits, port=port, curve=curve), curve, limits, incarnation, offers, discovery)
        await self.tasks.start(peer.run)
        return peer

    async def pair(self, limits: LinkLimits = LIMITS) -> tuple[Peer, Peer]:
        left, right = await self.start(1, limits=limits), await self.start(2, limits=limits)
        left.dial(right.door)
        await left.until(lambda: left.of(LinkUp, right.node))
        await right.until(lambda: right.of(LinkUp, left.node))
        return left, right


@asynccontextmanager
async def ground(*, plain: bool = False) -> AsyncIterator[Ground]:
    with anyio.fail_after(3 * TIME_S):
        async with anyio.create_task_group() as tasks:
            yield Ground(tasks, not plain)
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


async def test_a_log_comes_with_the_certificates_of_who_took_it_over_and_is_gone() -> None:
    async with ground() as place:
        left, right = await place.pair()
        gone = line_of(3, "mesh-one")
        left.keyring.open(gone.row("gone").raw)
        took = sealed(gone.node, Yield(left.node, 2, 5, gone.node.node, 1, 2))
        left.send(right.node, Ship(left.node, 3, 0, 0, 0, 0, (Block(2, took),)))
        left.send(right.node, Ping(1))
        left.links.flush()
        await left.until(lambda: left.of(Ack))
        (ship,) = right.of(Ship)
        assert ship.blocks[0].head.body == took.body and right.keyring.chain_of(gone.node.node) == gone.chain()


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
        left.links.flush()
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


async def test_another_mesh_is_turned_away_before_anybody_says_who_he_is() -> None:
    async with ground() as at:
        left, stranger = await at.start(1), await at.start(2, mesh="mesh-two", root=9, discovery=b"x" * 32)
        stranger.dial(left.door)
        await stranger.until(lambda: stranger.of(DialFailed))
        assert stranger.of(DialFailed)[0].reason == "other_mesh"
        assert left.links.statistics().door.refusals == {"knock_other_mesh": 1}
        assert not left.told and not left.links.refusals
        left.dial(stranger.door)
        await left.until(lambda: left.of(DialFailed))
        assert left.of(DialFailed)[0].reason == "other_mesh"


async def test_who_only_knows_the_discovery_key_is_turned_away_with_a_reason_on_record() -> None:
    async with ground() as at:
        left, stranger = await at.start(1), await at.start(2, mesh="mesh-two", root=9)
        imposter = await at.start(3, root=9)
        stranger.dial(left.door)
        imposter.dial(left.door)
        await stranger.until(lambda: stranger.of(DialFailed))
        await imposter.until(lambda: imposter.of(DialFailed))
        assert stranger.of(DialFailed)[0].reason in ("other_mesh", "bad_certificate")
        assert imposter.of(DialFailed)[0].reason == "bad_certificate"
        assert sum(left.links.refusals.values()) == 2 and not left.told
        assert len(left.noted) == 2 and all(reason.startswith("hello_") for reason, _ in left.noted)


async def test_20_000_messages_with_512_in_flight() -> None:
    async with ground() as at:
        left, right = await at.pair(LinkLimits(effort_burst=10_000_000.0))  # such a flood is none of an honest peer's
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
        left.links.flush()
        assert left.links.statistics().dropped == {"no_link": 1}
        left.dial(right.door)
        await left.until(lambda: left.of(DialFailed) == [DialFailed(right.door, "refused")])


CHILD = """
import importlib.util, sys
sys.path.insert(0, sys.argv[2])
spec = importlib.util.spec_from_file_location("peers", sys.argv[1])
peers = importlib.util.module_from_spec(spec)
spec.loader.exec_module(peers)
peers.anyio.run(peers.child)
"""
SCRIPTS = str(Path(__file__).parents[3] / "scripts")


async def child() -> None:
    """Another process's node: says its door, echoes until it is killed."""
    async with anyio.create_task_group() as tasks:
        peer = await Ground(tasks, True).start(2)
        print(peer.door, flush=True)


@pytest.mark.cluster
async def test_a_killed_process_is_known_at_once() -> None:
    async with ground() as at:
        left = await at.start(1)
        async with await anyio.open_process([sys.executable, "-c", CHILD, __file__, SCRIPTS], stderr=None) as process:
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


@pytest.mark.parametrize("plain", [False, True])
async def test_replayed_altered_and_misdirected_envelopes_have_no_effect(plain: bool) -> None:
    async with ground(plain=plain) as at:
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
        left.links.flush()
        left.links._links[right.node].stamp_ms = 0
        left.send(right.node, Ping(2))
        left.links.flush()
        await right.until(lambda: right.of(Ping))
        assert right.of(Ping) == [Ping(2)]
        assert right.links.statistics().refusals == {"future_echo": 1}


async def test_noise_on_the_router_is_counted_and_survived() -> None:
    async with ground(plain=True) as at:
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
    async with ground(plain=True) as at:
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
    async with ground(plain=True) as at:
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


# ---- keys


async def test_a_new_transport_key_is_taken_into_use_while_messages_flow() -> None:
    async with ground() as at:
        left, right = await at.pair(LinkLimits(effort_burst=10_000_000.0))
        old, fresh = left.listening.receiver.address, CurveKey.of(os.urandom(32))
        left.router = left.listening.add_router(fresh)
        left.listening.sockets.rekey(fresh)
        left.bind(fresh, seq=2)
        left.row = left.own_row(version=2)
        for probe in range(50):
            right.send(left.node, Ping(probe))
            left.send(right.node, Ping(1000 + probe))
        right.links.flush()
        left.links.flush()
        renewed: list[bool] = []

        async def renew() -> None:
            renewed.append(await left.links.renew(right.node))

        at.tasks.start_soon(renew)
        beats = 0
        while not renewed:  # it waits for a sign that the peer's new connection works
            right.send(left.node, Load(beats, ()))
            right.links.flush()
            beats += 1
            await anyio.lowlevel.checkpoint()
        assert renewed == [True]
        left.listening.receiver.drop_endpoint(old)
        for probe in range(50, 100):
            right.send(left.node, Ping(probe))
            left.send(right.node, Ping(1000 + probe))
        right.links.flush()
        left.links.flush()
        await right.until(lambda: len(right.of(Ack)) == 100)
        await left.until(lambda: len(left.of(Ack)) == 100)
        assert left.of(Ping) == [Ping(probe) for probe in range(100)]
        assert right.of(Ping) == [Ping(1000 + probe) for probe in range(100)]
        assert not left.of(LinkDown) and not right.of(LinkDown)
        assert right.links._links[left.node].curve_key == fresh.public and right.links._links[left.node].router == left.router
        for peer in (left, right):
            assert not peer.links.statistics().refusals and not peer.links.statistics().dropped


async def test_a_new_identity_key_is_known_before_it_is_used_and_the_old_one_for_a_while_after() -> None:
    async with ground() as at:
        left, right = await at.pair()
        third = await at.start(3)
        old = left.line
        left.line = old.renewed(40)
        fresh = left.own_row(version=2)
        assert await left.links.introduce(right.node, fresh)
        assert right.keyring.has_key(left.node, left.line.node.public_key) and right.keyring.has_key(left.node, old.node.public_key)
        left.send(right.node, Ping(1))
        left.links.flush()
        left.links.flush()
        await left.until(lambda: left.of(Ack) == [Ack(1)])
        # A door that still shows the key before is no stranger's.
        right.links.effects[HangUp](HangUp(left.node))
        right.dial(left.door)
        await right.until(lambda: len(right.of(LinkUp)) == 2)
        left.signer.rekey(bytes([40]) * 32)
        left.keyring.open(fresh.raw)
        left.row, left.binding = fresh, left.line.binding(curve_key=left.curve.public if left.curve else b"", seq=2)
        left.keys = DoorKeys(server_context(bytes([40]) * 32), left.line.node.public_key, DISCOVERY)
        await left.until(lambda: len(left.of(LinkUp)) == 2)
        left.send(right.node, Ping(2))
        left.links.flush()
        await left.until(lambda: left.of(Ack) == [Ack(1), Ack(2)])
        third.dial(left.door)
        await third.until(lambda: third.of(LinkUp))
        for peer in (left, right, third):
            assert not peer.links.statistics().refusals, "nobody was refused anything"


async def test_renewing_what_is_no_link_does_nothing() -> None:
    async with ground() as at:
        left, right = await at.start(1), await at.start(2)
        assert not await left.links.renew(right.node) and not await left.links.introduce(right.node, left.row)


async def test_an_old_binding_said_again_is_turned_away() -> None:
    """A HELLO recorded before the transport key was replaced."""
    async with ground() as at:
        left, right = await at.pair()
        left.bind(CurveKey.of(os.urandom(32)), seq=2)
        left.links.effects[HangUp](HangUp(right.node))
        left.dial(right.door)
        await left.until(lambda: len(left.of(LinkUp)) == 2)
        left.bind(CurveKey.of(os.urandom(32)), seq=1)
        left.dial(right.door)
        await left.until(lambda: left.of(DialFailed))
        assert left.of(DialFailed)[0].reason == "old_binding"


# ---- enemies


@asynccontextmanager
async def member_between(target: str) -> AsyncIterator[str]:
    """An insider: he knows the discovery key, shows a key of his own, and passes HELLO and WELCOME on."""
    listener = (await anyio.create_tcp_listener(local_host="127.0.0.1")).listeners[0]
    mine = b"m" * 32
    context, key = server_context(mine), line_of(mine[0]).node.public_key

    async def serve(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            ours = await TLSStream.wrap(stream, server_side=True, ssl_context=context, standard_compatible=False)
            nonce = (await read_frame(ours, 16384))[-50:-34]
            await write_frame(ours, pack(("open", 1, knock_proof(DISCOVERY, "open", nonce, key))))
            hello = await read_frame(ours, 16384)
            host, port = target.split(":")
            async with await anyio.connect_tcp(host, int(port)) as plain:
                theirs = await TLSStream.wrap(plain, server_side=False, ssl_context=client_context(), standard_compatible=False)
                der = theirs.extra(TLSAttribute.peer_certificate_binary)
                real = key_in(der)
                await write_frame(theirs, pack(("knock", 1, nonce, knock_proof(DISCOVERY, "knock", nonce, real))))
                await read_frame(theirs, 16384)
                await write_frame(theirs, hello)
                await write_frame(ours, await read_frame(theirs, 1 << 20))

    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, serve)
        yield f"127.0.0.1:{listener.extra(anyio.abc.SocketAttribute.local_port)}"
        tasks.cancel_scope.cancel()


async def test_a_member_between_two_others_is_found_out_by_his_key() -> None:
    async with ground() as at:
        left, right = await at.start(1), await at.start(2)
        async with member_between(right.door) as address:
            left.dial(address)
            await left.until(lambda: left.of(DialFailed))
            assert left.of(DialFailed) == [DialFailed(address, "wrong_door")]
            assert not left.of(LinkUp) and not right.of(LinkUp)


def hostile(sender: Peer, to: Peer, probe: int) -> list[bytes]:
    """An envelope whose signature does not hold."""
    link = sender.links._links[to.node]
    part = frame_message(kind_of(Ping(probe)), encode(Ping(probe)), 1)
    batch = Batch(to.node, link.session, link.next_seq, 0, [part])
    frames = seal_flush(sender.signer, [batch], sent_ms=clock.wall_ms(), stamp_ms=clock.now_ms())[0]
    return [frames[0], frames[1], bytes(64) + frames[2][64:]]


async def test_who_sends_too_much_that_is_refused_is_cut_and_comes_back_later() -> None:
    limits = LinkLimits(bad_per_minute=3, penalty_s=0.2)
    async with ground() as at:
        left, right = await at.pair(limits)
        link = left.links._links[right.node]
        for number in range(6):
            assert link.sender is not None
            await link.sender.wait_writable()
            assert link.sender.send(hostile(left, right, number))
        await right.until(lambda: right.of(LinkDown))
        assert right.links.refusals["bad_signature"] == 4 and right.links.refusals["cut_bad_signature"] == 1
        assert right.links.statistics().punished == {left.node: 1}
        assert right.noted[:4] == [("bad_signature", left.node)] * 4
        await left.until(lambda: left.of(LinkDown))
        left.dial(right.door)
        await left.until(lambda: left.of(DialFailed))
        assert left.of(DialFailed)[0].reason == "cut"
        left.told.clear()
        while not left.of(LinkUp):
            left.told.clear()
            left.dial(right.door)
            await left.until(lambda: left.of(LinkUp) or left.of(DialFailed))
        left.send(right.node, Ping(99))
        left.links.flush()
        await left.until(lambda: left.of(Ack) == [Ack(99)])


async def test_who_sends_too_much_at_once_is_cut() -> None:
    async with ground() as at:
        left, right = await at.pair(LinkLimits(envelopes_per_s=1.0, envelopes_burst=5.0))
        right.echoing = False
        for number in range(60):
            left.send(right.node, Ping(number))
            left.links.flush()
        await right.until(lambda: right.of(LinkDown))
        assert right.links.refusals["cut_too_fast"] == 1 and len(right.of(Ping)) < 60


async def test_nobody_is_cut_for_what_a_stranger_says_in_his_name() -> None:
    """Without encryption a connection proves nothing."""
    async with ground(plain=True) as at:
        left, right = await at.pair(LinkLimits(bad_per_minute=3))
        sockets = Sockets(LIMITS)
        stranger = sockets.dealer(right.router)
        try:
            with anyio.fail_after(TIME_S):
                for number in range(10):
                    await stranger.wait_writable()
                    assert stranger.send(hostile(left, right, number))
                while right.links.refusals["bad_signature"] < 10:
                    await anyio.lowlevel.checkpoint()
        finally:
            stranger.close()
            sockets.close()
        assert right.noted == [("bad_signature", left.node)] * 10, "it is on record, under the name that was used"
        left.send(right.node, Ping(1))
        left.links.flush()
        left.links.flush()
        await left.until(lambda: left.of(Ack) == [Ack(1)])
        assert not right.of(LinkDown)


async def test_who_was_revoked_is_cut_at_once_and_stays_out() -> None:
    async with ground() as at:
        left, right = await at.pair()
        chain = join_chain(left.line.certificates())
        said = sealed(right.line.root, Revocation("mesh-one", NODE, left.node, "left", "sold", 1, chain))
        right.keyring.authorities.open(said.raw)
        assert right.keyring.forget_revoked() == [left.node]
        right.links.expel(left.node)
        await right.until(lambda: right.of(LinkDown))
        await left.until(lambda: left.of(LinkDown))
        left.dial(right.door)
        await left.until(lambda: left.of(DialFailed))
        assert left.of(DialFailed)[0].reason == "revoked"
        right.dial(left.door)
        await right.until(lambda: right.of(DialFailed))
        assert right.of(DialFailed)[0].reason == "revoked"


async def test_a_door_s_word_stands_until_it_says_another(monkeypatch: pytest.MonkeyPatch) -> None:
    async with ground() as at:
        left, right = await at.pair()
        told = dict.fromkeys((right.door, "127.0.0.1:1"), "revoked")
        left.links.turned_at.update(told)
        said: list[dict[str, str]] = []
        hello = left.links._sessions.hello

        def noting(*args: Any, **kwargs: Any) -> Any:
            said.append(dict(left.links.turned_at))
            return hello(*args, **kwargs)

        monkeypatch.setattr(left.links._sessions, "hello", noting)
        left.dial(right.door)
        await left.until(lambda: len(left.of(LinkUp)) == 2)
        assert said == [told], "while we ask again, people are still told"
        assert right.door not in left.links.turned_at, "and not when it lets us in"


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
