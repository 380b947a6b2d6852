"""The links: signed envelopes to and from every peer we have met at a door.

    Send --> Link.queue --flush()--> envelopes, one signature for all of them --> DEALER of the peer
    ROUTER --take()--> one envelope: verified, in its session's window, decoded --> Heard, then its messages
    Dial --> `runtime/links/meeting.py`: who is there, and which links are up

For the driver: call `take()` at the start of a turn and `flush()` at its end. `take` gives the inputs of exactly one envelope as
``[(peer, Heard), (peer, message), ...]``, or link events (LinkUp, LinkDown, DialFailed), or None when there is nothing; after None, or a
`waiting` that is False, the next arrival calls `wake`. Events and messages come in the order they happened: a peer's first message follows
its LinkUp.
Invariant: what `take` gives is authentic, came over its sender's own connection, and comes once; nothing here raises for a peer's doing.
Does not redial: the core says Dial. Who sends what is refused too often is cut and stays out for a while (`penalties.py`).
Sources: docs/protocol.md; what libzmq does and does not promise: `runtime/sockets/sockets.py`.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import anyio
import anyio.abc
import anyio.lowlevel

from mesh.core.inputs import Heard
from mesh.effects import Dial, HangUp, Send
from mesh.ids import NodeId
from mesh.limits import LinkLimits
from mesh.messages.keeping import Ship
from mesh.messages.session import Stale
from mesh.messages.signed import Signed
from mesh.runtime import clock
from mesh.runtime.links.door import Door, DoorKeys, DoorStatistics
from mesh.runtime.links.link import ENVELOPES_PER_FLUSH, Link
from mesh.runtime.links.listening import Listening
from mesh.runtime.links.meeting import Meeting
from mesh.runtime.links.outgoing import CLASS_OF, WORK
from mesh.runtime.links.penalties import CONNECTION_EFFORT, HOSTILE, REFUSED_EFFORT, effort_of
from mesh.runtime.links.sessions import Sessions
from mesh.runtime.rates import Rates
from mesh.runtime.sockets.gate import GateStatistics
from mesh.runtime.sockets.sockets import Sender
from mesh.wire.blocks import add_chains
from mesh.wire.codec import encode, kind_of
from mesh.wire.envelope import Batch, Expectations, frame_message, open_envelope, seal_flush
from mesh.wire.keyring import Keyring
from mesh.wire.objects import Signer
from mesh.wire.packing import Refusal, unpack_row

REFUSED_PER_TURN = 64
"""Bad envelopes that one `take` throws away before the rest of the node has its turn."""


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
    gate: GateStatistics | None
    """None without encryption."""
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
        self._journal_head, self._cert_serial = journal_head, cert_serial
        self._sessions = Sessions(me, binding, signer, keyring, limits)
        self._expect = Expectations(signer.node, self._sessions.inbound, clock.wall_ms, limits)
        self._meeting = Meeting(
            signer.node,
            self._sockets,
            self._sessions,
            keyring,
            door_keys,
            limits,
            anywhere=not listening.loopback_only,
            tell=self._event,
            noted=self._note,
        )
        self._meeting.unstick = self._unstick
        self._door = Door(listening.door, limits, door_keys, self._meeting.answer, enrol, self._note, self._meeting.lives)
        self._links, self._penalties = self._meeting.links, self._meeting.penalties
        self._sockets.ask_before(lambda peer: not self._tax(peer, CONNECTION_EFFORT))
        self._dirty: list[Link] = []
        self._events: deque[tuple[NodeId, Any]] = deque()
        self._look = False
        """Something has come since the ROUTER was last seen empty: turns for this machine alone do not ask it."""
        self._stale_rates = Rates(limits.stale_answers_per_s, limits.stale_answers_per_s, keys_max=limits.peers_max)
        self._msg_id = self._price = 0
        """The price is that of the envelope taken last, due if the core refuses what is in it."""
        self._last_body: tuple[Any, bytes] = (None, b"")
        self._counts = Counter[str]()
        self.clocks: dict[NodeId, int] = {}
        """Peers whose wall clock is off by more than the limit, by how many milliseconds, when last heard."""
        self.refusals, self.dropped, self.turned_at = self._meeting.refusals, self._meeting.dropped, self._meeting.turned_at
        self.wake: Callable[[], None] = _nobody
        """Called when `take` has something again. Should only note it: it is called in the middle of things."""
        self.arrived: Callable[[], None] | None = None
        """If set, called instead of `wake` when an envelope has arrived, outside of any turn: it may run a whole one. That saves a pass of
        the event loop on each message that comes alone."""
        self.noted: Callable[[str, str], None] = _unnoted
        """Told the reason and the node (or address) of refusals that no honest peer earns: they go on record."""
        self.handlers: dict[type, Callable[[NodeId, Any], None]] = {Stale: self._meeting.on_stale}
        """Messages that the runtime itself answers: they never reach the core."""
        self.effects: dict[type, Callable[[Any], None]] = {
            Send: self._do_send,
            Dial: self._meeting.do_dial,
            HangUp: self._meeting.do_hang_up,
        }

    async def run(self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Serve door and ROUTER until cancelled, then close every socket; what was sent last has a moment to leave."""
        try:
            async with anyio.create_task_group() as tasks:
                self._meeting.tasks = tasks
                tasks.start_soon(self._door.run)
                tasks.start_soon(self._sockets.run)
                tasks.start_soon(self._receiver.listen, self._arrived)
                task_status.started()
        finally:
            self._meeting.tasks = None
            self._receiver.close()
            self._sockets.close()

    def _arrived(self) -> None:
        self._look = True
        (self.arrived or self.wake)()

    def _event(self, peer: NodeId, event: Any) -> None:
        self._events.append((peer, event))
        self.wake()

    def _note(self, reason: str, who: str) -> None:
        self.noted(reason, who)

    # ---- in

    def take(self) -> list[tuple[NodeId, Any]] | None:
        """The next inputs: see the module's docstring."""
        for _ in range(REFUSED_PER_TURN if self._look and not self._events else 0):
            arrival = self._receiver.take()
            if arrival is None:
                self._look = False
                break
            if found := self._open(arrival.user, arrival.frames):
                return found
        items = list(self._events)  # those too that a refused envelope has just caused
        self._events.clear()
        return items or None

    def waiting(self) -> bool:
        """Whether `take` may have something."""
        self._look = self._look and self._receiver.readable()
        return self._look or bool(self._events)

    def _open(self, carrier: NodeId, frames: list[bytes]) -> list[tuple[NodeId, Any]] | None:
        """The inputs of one envelope; None if it was refused, or came before its link is up (then they are kept).

        `carrier`: the node whose transport key the connection proved; empty without encryption.
        """
        size_bytes = sum(map(len, frames))
        if carrier and not self._penalties.take(carrier, clock.now_s(), size_bytes):
            self._meeting.punish(carrier, "too_fast")
            return None
        try:
            header, messages, refused, skewed = open_envelope(self._keyring, frames, self._expect, carrier)
        except Refusal as refusal:
            self.refusals[refusal.reason] += 1
            if refusal.reason == "stale_session":
                self._answer_stale(refusal.peer, frames[0])
            if not self._hold_against(carrier, refusal.reason, refusal.peer):
                self._tax(carrier, effort_of([], size_bytes)[0])
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
        if skewed:
            self.clocks[sender] = header.sent_ms - clock.wall_ms()
        elif self.clocks:
            self.clocks.pop(sender, None)
        for _, reason in refused:
            self.refusals[reason] += 1
            if self._hold_against(sender, reason):
                return None
        effort, self._price = effort_of([received.message for received in messages], size_bytes)
        if self._tax(carrier, effort + len(refused) * REFUSED_EFFORT):
            return None
        if link.heard != header.session:
            link.heard = header.session
            link.moved.set()
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

    def _hold_against(self, peer: NodeId, reason: str, claimed: NodeId = "") -> bool:
        """Note what an honest peer never sends; True if it was too much of it and the peer was cut.

        `peer`: who proved to have sent it; where nobody did, it is noted under the name it `claimed`, and nobody is cut for it.
        """
        if reason not in HOSTILE:
            return False
        self._note(reason, peer or claimed)
        if not peer or not self._penalties.bad(peer, reason, clock.now_s()):
            return False
        self._meeting.punish(peer, reason)
        return True

    def _tax(self, peer: NodeId, effort: int) -> bool:
        """Count what a peer costs beside the work it brings; True if that was too much and the peer was cut."""
        if not peer or not self._penalties.tax(peer, effort, clock.now_s()):
            return False
        self._meeting.punish(peer, "too_much_effort")
        return True

    def refused(self, peer: NodeId) -> None:
        """The core refused something of the envelope that was taken last: it was not free."""
        price, self._price = self._price, 0
        self._tax(peer, REFUSED_EFFORT + price)

    # ---- for the rest of the runtime

    def expel(self, peer: NodeId) -> None:
        """End everything with this peer at once."""
        self._meeting.expel(peer)

    async def renew(self, peer: NodeId) -> bool:
        """Both directions of this link anew, with our keys of today. True when it is done."""
        return await self._meeting.renew(peer)

    async def introduce(self, peer: NodeId, row: Signed) -> bool:
        """Show the peer this row, which brings another chain of ours. True if it believes it."""
        return await self._meeting.introduce(peer, row)

    def lose(self, peer: NodeId) -> None:
        """Give up our connection to this peer, whom the core dials anew."""
        self._meeting.lose(peer)

    def is_up(self, peer: NodeId) -> bool:
        link = self._links.get(peer)
        return link is not None and link.up

    def say(self, peer: NodeId, message: Any) -> None:
        """Send a message of the runtime's own, now. Dropped, and counted, if there is no link."""
        self._do_send(Send(peer, message))
        self.flush()

    # ---- out

    def _do_send(self, effect: Send) -> None:
        link = self._links.get(effect.to)
        if link is None or not link.up:
            self.dropped["no_link"] += 1
        else:
            self._queue(link, effect.message)

    def _queue(self, link: Link, message: Any) -> None:
        last, body = self._last_body
        if message is not last:  # gossip sends one message to many
            if type(message) is Ship and message.blocks:
                add_chains(message, self._keyring, (self._signer.node, link.node))
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
        """Send on as libzmq takes it. Ends when nothing is left; cancelled with the connection. One at a time waits for a connection."""
        if link.waited_for is sender:
            return
        link.waited_for = sender
        try:
            while link.sender is sender:
                await sender.wait_writable()
                if link.send_kept():
                    link.stuck = False
                    self._flush((link,))
                    return
                await anyio.lowlevel.checkpoint()
        finally:
            if link.waited_for is sender:
                link.waited_for = None

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
            gate=self._sockets.statistics(),
            punished=self._penalties.statistics(),
        )


def _nobody() -> None:
    """Before the driver has said who is to be woken."""


def _unnoted(reason: str, who: str) -> None:
    """Before anybody keeps a record."""
