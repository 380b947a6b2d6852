"""The links: signed envelopes to and from every peer we have met at a door.

    Send --> Link.queue --flush()--> envelopes, one signature for all of them --> DEALER of the peer
    ROUTER --take()--> one envelope: verified, in its session's window, decoded --> Heard, then its messages
    Dial --> HELLO at the door --> WELCOME --> DEALER; the peer's HELLO at ours --> both directions stand --> LinkUp
    a proven HELLO or WELCOME --binding--> the peer's transport key: admitted at our ROUTER, pinned in our DEALER

For the driver: call `take()` at the start of a turn and `flush()` at its end. `take` gives the inputs of exactly one envelope as
``[(peer, Heard), (peer, message), ...]``, or link events (LinkUp, LinkDown, DialFailed), or None when there is nothing; after None, or a
`waiting` that is False, the next arrival calls `wake`. Events and messages come in the order they happened: a peer's first message follows
its LinkUp.
Invariant: what `take` gives is authentic, came over its sender's own connection, and comes once; nothing here raises for a peer's doing.
Does not redial: the core says Dial. Who sends what is refused too often is cut and stays out for a while (`penalties.py`).
Sources: docs/protocol.md; what libzmq does and does not promise: `runtime/sockets.py`.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass
from typing import Any

import anyio
import anyio.abc
import anyio.lowlevel
import zmq

from mesh.core.inputs import DialFailed, Heard, LinkDown, LinkUp
from mesh.effects import Dial, HangUp, Send
from mesh.ids import NodeId
from mesh.limits import LinkLimits
from mesh.messages.session import Stale
from mesh.messages.signed import Signed
from mesh.runtime import clock
from mesh.runtime.dialling import connect, knock
from mesh.runtime.door import Door, DoorKeys, DoorStatistics
from mesh.runtime.frames import BadFrame
from mesh.runtime.link import ENVELOPES_PER_FLUSH, Link
from mesh.runtime.listening import Listening
from mesh.runtime.outgoing import CLASS_OF, WORK
from mesh.runtime.penalties import Penalties
from mesh.runtime.rates import Rates
from mesh.runtime.sessions import Greeting, Sessions, turned
from mesh.runtime.sockets import NotLoopback, Sender
from mesh.wire.codec import encode, kind_of
from mesh.wire.envelope import Batch, Expectations, frame_message, open_envelope, seal_flush
from mesh.wire.keyring import Keyring
from mesh.wire.objects import Signer
from mesh.wire.packing import Refusal, unpack_row

REFUSED_PER_TURN = 64
"""Bad envelopes that one `take` throws away before the rest of the node has its turn."""
REFUSED_ASK_S = 1.0
"""How long our own connect to a lost peer's door may take: refused means that its process is gone."""
REFUSED_ASKS = 5
"""A dying process may take a connection that is already on its way; only the next one is refused."""
_ENDED = (zmq.Event.DISCONNECTED, zmq.Event.CLOSED)


@dataclass(frozen=True, slots=True)
class LinksStatistics:
    """Counts since start. `refusals`: inputs turned down; `dropped`: outgoing messages given up; both by reason (snake_case)."""

    up: int
    known: int
    queued: int
    envelopes_sent: int
    messages_sent: int
    envelopes_received: int
    messages_received: int
    flushes: int
    clock_skewed: int
    refusals: dict[str, int]
    dropped: dict[str, int]
    sockets: dict[str, int]
    door: DoorStatistics
    punished: dict[str, int]
    """How often each peer was cut for what it sent."""


class Links:
    """All links of one node. Set `wake` before `run`; everything is called on the event loop's thread.

    `me` gives our newest signed row, `journal_head` the newest durable commit's hash (32 bytes, or none) for the headers.
    """

    def __init__(
        self,
        listening: Listening,
        signer: Signer,
        keyring: Keyring,
        me: Callable[[], Signed],
        binding: Callable[[], Signed],
        door_keys: Callable[[], DoorKeys],
        limits: LinkLimits,
        *,
        journal_head: Callable[[], bytes] = bytes,
        cert_serial: Callable[[], int] = int,
        enrol: Callable[[bytes], bytes] | None = None,
    ) -> None:
        self._sockets, self._receiver = listening.sockets, listening.receiver
        self._signer, self._keyring, self._limits = signer, keyring, limits
        self._door_keys, self._anywhere = door_keys, not listening.loopback_only
        self._journal_head, self._cert_serial = journal_head, cert_serial
        self._sessions = Sessions(me, binding, signer, keyring, limits)
        self._expect = Expectations(signer.node, self._sessions.inbound, clock.wall_ms, limits)
        self._door = Door(listening.door, limits, door_keys, self._answer, enrol)
        self._penalties = Penalties(limits)
        self._links: dict[NodeId, Link] = {}
        self._dirty: list[Link] = []
        self._events: deque[tuple[NodeId, Any]] = deque()
        self._dialing: set[str] = set()
        self._look = False
        """Something has come since the ROUTER was last seen empty: turns for this machine alone do not ask it."""
        self._dial_places = anyio.Semaphore(limits.dials_max)
        self._stale_rates = Rates(limits.stale_answers_per_s, limits.stale_answers_per_s, keys_max=limits.peers_max)
        self._tasks: anyio.abc.TaskGroup | None = None
        self._msg_id = self._hello_no = 0
        self._last_body: tuple[Any, bytes] = (None, b"")
        self._counts = Counter[str]()
        self.refusals: Counter[str] = Counter()
        self.dropped: Counter[str] = Counter()
        self.wake: Callable[[], None] = _nobody
        """Called when `take` has something again. Should only note it: it is called in the middle of things."""
        self.arrived: Callable[[], None] | None = None
        """If set, called instead of `wake` when an envelope has arrived, outside of any turn: it may run a whole one. That saves a pass of
        the event loop on each message that comes alone."""
        self.handlers: dict[type, Callable[[NodeId, Any], None]] = {Stale: self._on_stale}
        """Messages that the runtime itself answers: they never reach the core."""
        self.effects: dict[type, Callable[[Any], None]] = {Send: self._do_send, Dial: self._do_dial, HangUp: self._do_hang_up}

    async def run(self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Serve door and ROUTER until cancelled, then close every socket; what was sent last has a moment to leave."""
        try:
            async with anyio.create_task_group() as tasks:
                self._tasks = tasks
                tasks.start_soon(self._door.run)
                tasks.start_soon(self._sockets.run)
                tasks.start_soon(self._receiver.watch, _ignore)
                tasks.start_soon(self._receiver.listen, self._arrived)
                task_status.started()
        finally:
            self._tasks = None
            self._receiver.close()
            self._sockets.close()

    def _arrived(self) -> None:
        self._look = True
        (self.arrived or self.wake)()

    # ---- in

    def take(self) -> list[tuple[NodeId, Any]] | None:
        """The next inputs: see the module's docstring."""
        if self._events:
            items = list(self._events)
            self._events.clear()
            return items
        for _ in range(REFUSED_PER_TURN if self._look else 0):
            arrival = self._receiver.take()
            if arrival is None:
                self._look = False
                break
            if found := self._open(arrival.user, arrival.frames):
                return found
        return None

    def waiting(self) -> bool:
        """Whether `take` may have something."""
        self._look = self._look and self._receiver.readable()
        return self._look or bool(self._events)

    def _open(self, carrier: NodeId, frames: list[bytes]) -> list[tuple[NodeId, Any]] | None:
        """The inputs of one envelope; None if it was refused, or came before its link is up (then they are kept).

        `carrier`: the node whose transport key the connection proved; empty without encryption.
        """
        if carrier and not self._penalties.take(carrier, clock.now_s(), sum(map(len, frames))):
            self._punish(carrier, "too_fast")
            return None
        try:
            header, messages, refused, skewed = open_envelope(self._keyring, frames, self._expect, carrier)
        except Refusal as refusal:
            self.refusals[refusal.reason] += 1
            if refusal.reason == "stale_session":
                self._answer_stale(refusal.peer, frames[0])
            elif carrier and self._penalties.bad(carrier, refusal.reason, clock.now_s()):
                self._punish(carrier, refusal.reason)
            return None
        sender = header.sender
        self._sessions.used(self._sessions.inbound[header.session])
        link = self._links.get(sender)
        if link is None or header.echo_ms > clock.now_ms():
            self.refusals["future_echo" if link else "no_link"] += 1
            return None
        counts = self._counts
        counts["envelopes_received"] += 1
        counts["messages_received"] += len(messages)
        counts["clock_skewed"] += skewed
        for _, reason in refused:
            self.refusals[reason] += 1
            if carrier and self._penalties.bad(carrier, reason, clock.now_s()):
                self._punish(carrier, reason)
                return None
        link.stamp_ms = max(link.stamp_ms, header.stamp_ms)
        items: list[tuple[NodeId, Any]] = [(sender, Heard(header.stamp_ms, header.echo_ms))]
        for received in messages:
            message = received.message
            if (handler := self.handlers.get(type(message))) is not None:
                handler(sender, message)
            else:
                items.append((sender, message))
        if link.up:
            return items
        link.early.extend(items)
        return None

    def _answer_stale(self, peer: NodeId, header: bytes) -> None:
        link = self._links.get(peer)
        if link is not None and link.up and self._stale_rates.allow(peer):
            self._queue(link, Stale(unpack_row(header)[4]))
            self.flush()

    def _punish(self, peer: NodeId, reason: str) -> None:
        """Cut a peer for what it sends; its HELLO is turned away for a while, longer each time."""
        self._penalties.punish(peer, clock.now_s())
        self.refusals[f"cut_{reason}"] += 1
        self.expel(peer)

    def expel(self, peer: NodeId) -> None:
        """End everything with this peer at once: its key, its live connections, its sessions, our link to it."""
        self._sockets.expel(peer)
        self._sessions.forget(peer)
        link = self._links.get(peer)
        if link is not None:
            self._lose(link)
            link.greeted = False
            link.early.clear()

    def _on_stale(self, sender: NodeId, stale: Stale) -> None:
        link = self._links[sender]
        if stale.session == link.session and not link.rehello:
            link.rehello = True
            self._start(self._say_back, link, False)

    # ---- out

    def is_up(self, peer: NodeId) -> bool:
        link = self._links.get(peer)
        return link is not None and link.up

    def say(self, peer: NodeId, message: Any) -> None:
        """Send a message of the runtime's own, now. Dropped, and counted, if there is no link."""
        self._do_send(Send(peer, message))
        self.flush()

    def _do_send(self, effect: Send) -> None:
        link = self._links.get(effect.to)
        if link is None or not link.up:
            self.dropped["no_link"] += 1
        else:
            self._queue(link, effect.message)

    def _queue(self, link: Link, message: Any) -> None:
        last, body = self._last_body
        if message is not last:  # gossip sends one message to many
            body = encode(message, self._signer.seal)
            self._last_body = (message, body)
        if len(body) > self._limits.frame_bytes_max - 64:
            self.dropped["too_big"] += 1
            return
        self._msg_id += 1
        link.queue.add(CLASS_OF.get(type(message), WORK), frame_message(kind_of(message), body, self._msg_id))
        if not link.dirty:
            link.dirty = True
            self._dirty.append(link)

    def flush(self) -> None:
        """Once per turn: pack, sign once, send. What libzmq does not take now leaves as soon as it does."""
        if self._dirty:
            dirty, self._dirty = self._dirty, []
            for link in dirty:
                link.dirty = False
            self._last_body = (None, b"")
            self._flush(dirty)

    def _flush(self, links: Iterable[Link]) -> None:
        batches: list[Batch] = []
        owners: list[Link] = []
        counts = self._counts
        for link in links:
            if not link.up or link.stuck:
                continue
            for _ in range(ENVELOPES_PER_FLUSH):
                parts = link.queue.pack()
                if not parts:
                    break
                batches.append(Batch(link.node, link.session, link.next_seq, link.stamp_ms, parts))
                owners.append(link)
                link.next_seq += len(parts)
                counts["messages_sent"] += len(parts)
        if not batches:
            return
        counts["flushes"] += 1
        counts["envelopes_sent"] += len(batches)
        sealed = seal_flush(
            self._signer,
            batches,
            sent_ms=clock.wall_ms(),
            stamp_ms=clock.now_ms(),
            cert_serial=self._cert_serial(),
            journal_head=self._journal_head(),
        )
        for link, frames in zip(owners, sealed, strict=True):
            if (not link.send(frames) or link.queue) and not link.stuck:
                link.stuck = True
                assert link.tasks is not None and link.sender is not None, "a link that is up has its tasks"
                link.tasks.start_soon(self._unstick, link, link.sender)

    async def _unstick(self, link: Link, sender: Sender) -> None:
        """Send on as libzmq takes it. Ends when nothing is left; cancelled with the connection."""
        while link.sender is sender:
            await sender.wait_writable()
            if link.send_kept():
                link.stuck = False
                self._flush((link,))
                return
            await anyio.lowlevel.checkpoint()

    # ---- opening and losing

    def _start(self, method: Callable[..., Coroutine[Any, Any, None]], *args: Any) -> None:
        if self._tasks is not None:
            self._tasks.start_soon(method, *args)

    def _event(self, peer: NodeId, event: Any) -> None:
        self._events.append((peer, event))
        self.wake()

    def _do_dial(self, effect: Dial) -> None:
        if effect.address not in self._dialing:
            self._dialing.add(effect.address)
            self._start(self._dial, effect.address)

    async def _dial(self, address: str) -> None:
        """HELLO, WELCOME, the peer's own HELLO in return. Ends as LinkUp (again, if the link was up) or DialFailed."""
        async with self._dial_places:
            link, reason = await self._say_hello(address, "", back=True)
            if link is not None and not link.up:
                with anyio.move_on_after(self._limits.handshake_s) as waiting:
                    await link.ready.wait()
                reason = "" if link.up else "one_way" if waiting.cancelled_caught else "lost"
                if reason:
                    self._lose(link)
            elif link is not None:
                self._event(link.node, LinkUp(link.alive))
            self._dialing.discard(address)
        if reason:
            self._event(self._signer.node, DialFailed(address, reason))

    async def renew(self, peer: NodeId) -> bool:
        """Both directions anew, with our keys of today: HELLO at the peer's door, over which it says its own at ours.

        True when it is done.
        """
        link = self._links.get(peer)
        if link is None or not link.up:
            return False
        before = link.greetings
        _, reason = await self._say_hello(link.door, peer, back=True, renew=True)
        while not reason and link.greetings == before:
            link.greeted_again = anyio.Event()
            await link.greeted_again.wait()
        return not reason

    async def _say_back(self, link: Link, renew: bool) -> None:
        """Our half of a link that the peer began (`renew`: over a new connection, as the old one may be broken), or called stale."""
        _, reason = await self._say_hello(link.door, link.node, back=False, renew=renew)
        link.rehello = False
        if reason:
            self.refusals[f"hello_back_{reason}"] += 1
            if link.up and link.tasks is not None and link.sender is not None:
                link.tasks.start_soon(self._unstick, link, link.sender)

    async def _say_hello(self, address: str, recipient: NodeId, *, back: bool, renew: bool = False) -> tuple[Link | None, str]:
        """The link, with the session it gave us; or None and why not."""
        self._hello_no += 1
        number = self._hello_no
        try:
            nonce, frame = self._sessions.hello(recipient, back=back)
            with anyio.fail_after(self._limits.handshake_s):
                answer, door_key = await knock(address, self._door_keys(), lambda: frame, self._limits, anywhere=self._anywhere)
            greeting = self._sessions.welcomed(answer, nonce, recipient)
            if door_key and not self._keyring.has_key(greeting.peer, door_key):
                raise Refusal("wrong_door", greeting.peer)  # somebody stands between us and who answered
            link = self._met(greeting)
            if renew or not (back and link.up):  # a dial that finds its peer linked changes nothing
                self._adopt(link, greeting.session, number, renew)
            return link, ""
        except TimeoutError:
            return None, "timeout"
        except ConnectionRefusedError:
            return None, "refused"
        except NotLoopback:
            return None, "not_loopback"
        except (Refusal, BadFrame) as error:
            return None, error.reason
        except ValueError:
            return None, "bad_address"
        except OSError:
            return None, "unreachable"

    def _answer(self, frame: bytes) -> bytes:
        """What the door says to a HELLO."""
        try:
            welcome, greeting = self._sessions.answer(frame)
            link = self._met(greeting)
        except Refusal as refusal:
            self.refusals[f"hello_{refusal.reason}"] += 1
            return turned(refusal.reason)
        link.greeted = True
        link.greetings += 1
        link.greeted_again.set()
        self._check_up(link)
        opening = link.door in self._dialing or (link.session and not link.up)  # our own HELLO is under way, or has been said
        if greeting.back and not opening:
            link.stuck = link.stuck or link.up  # the peer may have forgotten our session: hold back until there is a new one
            self._start(self._say_back, link, True)
        return welcome

    def _met(self, greeting: Greeting) -> Link:
        """The peer's link, with what it says of itself now; its transport key is admitted.

        Raises Refusal ``old_life``, ``busy``, ``cut``.
        """
        if self._penalties.is_out(greeting.peer, clock.now_s()):
            raise Refusal("cut", greeting.peer)
        link = self._links.get(greeting.peer)
        if link is None:
            if len(self._links) >= self._limits.peers_max:
                self._forget_one()
            link = self._links[greeting.peer] = Link(greeting, self._limits, self.dropped)
        elif greeting.incarnation < link.incarnation:
            raise Refusal("old_life", greeting.peer)
        elif greeting.incarnation > link.incarnation:  # the process at the other end of our connection is gone
            self._lose(link)
            link.greeted, link.stamp_ms = False, 0
            link.early.clear()
        if link.curve_key not in (b"", greeting.curve_key):
            self._start(self._retire_later, link.curve_key)
        link.learn(greeting)
        self._sockets.admit(greeting.curve_key, greeting.peer)
        return link

    async def _retire_later(self, key: bytes) -> None:
        """A peer's earlier transport key: what is on its way under it still arrives, then it opens nothing any more."""
        await anyio.sleep(2 * self._limits.handshake_s)
        self._sockets.retire(key)

    def _forget_one(self) -> None:
        for node, link in self._links.items():
            if not link.up and link.sender is None:
                del self._links[node]
                return
        raise Refusal("busy")

    def _adopt(self, link: Link, session: bytes, number: int, renew: bool) -> None:
        """Send under this session, unless that of a later HELLO is here already. Raises NotLoopback, or ValueError for a bad address."""
        if number < link.hello_no:
            return
        assert self._tasks is not None, "greetings come while the links run"
        if renew or link.sender is None or link.sender.address != link.router or link.dialled_key != link.curve_key:
            link.open(self._sockets.dealer(link.router, link.curve_key), self._tasks, self._on_event)
        link.hello_no, link.session, link.next_seq = number, session, 1
        if not link.up and link.ready.is_set():
            link.ready = anyio.Event()
        self._check_up(link)

    def _on_event(self, link: Link, sender: Sender, event: zmq.Event) -> None:
        if link.sender is not sender:
            return
        if event is zmq.Event.HANDSHAKE_SUCCEEDED:
            link.connected = True
            self._check_up(link)
            assert link.tasks is not None, "its monitor is being watched"
            link.tasks.start_soon(self._unstick, link, sender)
        elif event in _ENDED:
            if link.up:
                self._start(self._ask_refused, link, link.incarnation)
            self._lose(link)

    def _check_up(self, link: Link) -> None:
        if not link.up and link.greeted and link.connected and link.session:
            link.up = True
            link.ready.set()
            self._events.append((link.node, LinkUp(link.alive)))
            self._events.extend(link.early)
            link.early.clear()
            self.wake()

    def _lose(self, link: Link) -> None:
        was_up = link.up
        if lost := link.shut():
            self.dropped["link_down"] += lost
        if was_up:
            self._event(link.node, LinkDown())

    async def _ask_refused(self, link: Link, incarnation: int) -> None:
        """Connect to the lost peer's door. Refused is hard evidence: its process is gone."""
        with anyio.move_on_after(REFUSED_ASK_S):
            for _ in range(REFUSED_ASKS):
                try:
                    async with await connect(link.door, anywhere=self._anywhere) as stream:
                        await stream.receive(1)
                except ConnectionRefusedError:
                    if not link.up and link.incarnation == incarnation:
                        self._event(link.node, LinkDown(refused=True))
                    return
                except (anyio.EndOfStream, anyio.BrokenResourceError, OSError):  # reset in the middle: it is just going
                    continue
                except ValueError:
                    break
        self.refusals["lost_not_refused"] += 1

    def _do_hang_up(self, effect: HangUp) -> None:
        link = self._links.pop(effect.peer, None)
        self._sockets.expel(effect.peer)
        self._sessions.forget(effect.peer)
        if link is not None and (lost := link.shut()):
            self.dropped["hung_up"] += lost

    def statistics(self) -> LinksStatistics:
        links = self._links.values()
        sockets = Counter(self._receiver.events)
        sockets["frames_dropped"] = self._receiver.frames_dropped
        counts = self._counts
        return LinksStatistics(
            up=sum(link.up for link in links),
            known=len(links),
            queued=sum(len(link.queue) + len(link.unsent) for link in links),
            envelopes_sent=counts["envelopes_sent"],
            messages_sent=counts["messages_sent"],
            envelopes_received=counts["envelopes_received"],
            messages_received=counts["messages_received"],
            flushes=counts["flushes"],
            clock_skewed=counts["clock_skewed"],
            refusals=dict(self.refusals),
            dropped=dict(self.dropped),
            sockets=dict(sockets),
            door=self._door.statistics(),
            punished=self._penalties.statistics(),
        )


def _nobody() -> None:
    """Before the driver has said who is to be woken."""


def _ignore(event: zmq.Event, value: int) -> None:
    """The ROUTER's events are counted, no more."""
