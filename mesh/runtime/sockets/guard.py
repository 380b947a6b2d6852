"""Who is connected to our ROUTER, what he may cost, and the switch that cuts him off.

    accepted --(libzmq said READY)--> proven --(first message shows its ticket)--> known: node and key, until the connection ends

What libzmq does not bound is bounded here, by looking at each connection through the descriptor that the socket's monitor tells:

    handshakes     connections that have not finished theirs, of one address and in all: the oldest goes, honest ones take milliseconds
    bytes          come in and not yet taken by us: a message that never ends defeats HWM (601 MiB in 1.7 s, libzmq 4.3.5)
    connections    of one node; and those that have proven a key and then never say a word
    answers        what a peer sends back through our DEALER, which nobody reads

Invariant: what is cut is exactly the connection that was meant (`runtime/sockets/descriptors.py` says how), and an honest peer never is,
except that the oldest of too many at once goes. Where the system does not count bytes, `watching` is False and bytes are not bounded; all
else is. Decides nothing about nodes: whom to expel, its caller says.
"""

from __future__ import annotations

import itertools
import resource
from collections import Counter, deque
from collections.abc import Callable, Container
from dataclasses import dataclass
from typing import Any

import anyio

from mesh.ids import NodeId
from mesh.limits import LinkLimits
from mesh.runtime.clock import now_s
from mesh.runtime.sockets.descriptors import Memory, Place
from mesh.runtime.sockets.zap import Ticket

LOOK_S = 0.05
"""How often memory is looked at while anybody is connected: a flood of 350 MB/s is seen after 18 MB. Costs 20 us each time."""
SWEEP_S = 1.0
"""How often every connection is looked at; at once when memory has grown by SWEEP_BYTES, as it must if somebody floods us."""
SWEEP_BYTES = 4 * 1024 * 1024
ENDED_KEPT_S = 5.0
"""What a peer sent before it hung up may still be in libzmq; so long it is known who that was."""
ENDED_KEPT_MAX = 1024
UNPROVEN_BYTES_MAX = 16 * 1024
"""Of a handshake; an honest one has 567."""
ANSWER_BYTES_MAX = 64 * 1024
"""Come back through a DEALER. An honest peer sends its half of the handshake and nothing more: 301 bytes."""
READY_BYTES = 256
"""A ROUTER of ours only ever says its greeting and WELCOME (234 bytes), then READY (301 together) or ERROR (246)."""


class Connection:
    """One TCP connection. `number` tells when it was accepted; `delivered` counts the bytes of the wire that were taken."""

    __slots__ = ("cut", "delivered", "fd", "node", "number", "peer", "port", "proven", "routing_id", "since_s", "ticket")

    def __init__(self, fd: int, peer: tuple[Any, ...], port: int, number: int) -> None:
        self.fd, self.peer, self.port, self.number = fd, peer, port, number
        """`fd`: libzmq's own, -1 once it has ended, or where it is not known; `peer`: the other end's address; `port`: ours."""
        self.since_s = now_s()
        self.delivered = 0
        self.proven = self.cut = False
        self.node: NodeId = ""
        self.routing_id = b""
        self.ticket: Ticket | None = None

    def is_of(self, node: NodeId, key: bytes) -> bool:
        """Whether it came in as this node's, under this key (b"": any)."""
        return self.ticket is not None and self.ticket.node == node and key in (b"", self.ticket.key)


@dataclass(frozen=True, slots=True)
class GuardStatistics:
    """`watching`: bytes are bounded; `connections`: to our ROUTER, of which `unproven` have not finished their handshake; `dialled`: of our
    DEALERs; `cut`: by reason, since start; `void`: messages of whom we had cut off, which went nowhere."""

    running: bool
    watching: bool
    connections: int
    unproven: int
    dialled: int
    cut: dict[str, int]
    void: int
    sweeps: int


class Guard:
    """Told by the sockets' monitors and by `Receiver.take`; everything is called on the event loop's thread."""

    def __init__(self, limits: LinkLimits) -> None:
        self._limits = limits
        descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._unproven_max = max(1, min(limits.unproven_max, descriptors // 4))
        self._place, self._memory = Place(), Memory()
        self._numbers = itertools.count(1)
        self._inbound: dict[int, Connection] = {}
        """By descriptor."""
        self._unproven: dict[int, Connection] = {}
        """Of these, who is still in the handshake; the oldest first."""
        self._addresses: dict[str, dict[int, Connection]] = {}
        """The same once more, by the address they come from."""
        self._dialled: dict[object, tuple[Connection, Callable[[], None]]] = {}
        self._nodes: dict[NodeId, list[Connection]] = {}
        self._ended: deque[Connection] = deque()
        self.known: dict[bytes, Connection] = {}
        """Whose messages are taken, by the routing id that libzmq gave: it never gives one twice."""
        self._blind = False
        """Messages do not tell their descriptor: nobody can say who is silent, or what of whom was taken."""
        self._void = self._sweeps = 0
        self._swept_s = 0.0
        self._cuts: Counter[str] = Counter()
        self._running = False
        self._somebody = anyio.Event()

    def number(self) -> int:
        """The next number: connections and tickets share the count."""
        return next(self._numbers)

    # ---- what the monitors tell

    def accepted(self, fd: int, ports: Container[int]) -> None:
        """Somebody is connected to our ROUTER, which is bound to `ports`."""
        self.ended(fd)
        names = self._place.names(fd)
        if names is None or names[1][1] not in ports:  # gone already, and the descriptor may be somebody else's by now
            return
        connection = Connection(fd, names[0], names[1][1], self.number())
        of_address = self._addresses.setdefault(connection.peer[0], {})
        self._inbound[fd] = self._unproven[fd] = of_address[fd] = connection
        self._thin(of_address, min(self._limits.unproven_per_address_max, self._unproven_max), "too_many_of_address")
        self._thin(self._unproven, self._unproven_max, "too_many_unproven")
        self._somebody.set()

    def ended(self, fd: int) -> None:
        """libzmq is done with this connection to our ROUTER."""
        connection = self._inbound.pop(fd, None)
        if connection is not None:
            self._prove(connection)
            connection.fd = -1
            self._part(connection)

    def dialled(self, dealer: object, fd: int, lost: Callable[[], None]) -> None:
        """A DEALER of ours is connected. `lost` is called if that has to end."""
        names = self._place.names(fd)
        if names is not None:
            self._dialled[dealer] = (Connection(fd, names[0], names[1][1], 0), lost)
            self._somebody.set()

    def hung_up(self, dealer: object) -> None:
        """That DEALER is closed, or its connection has ended."""
        self._dialled.pop(dealer, None)

    def unbound(self, port: int) -> None:
        """libzmq drops the connections of an endpoint without telling."""
        for connection in [one for one in self._inbound.values() if one.port == port]:
            self.ended(connection.fd)

    # ---- who it is

    def claim(self, ticket: Ticket, routing_id: bytes, fd: int) -> Connection:
        """The connection whose first message has come, under this ticket. `fd`: as the message tells; -1 if it does not."""
        self._blind = self._blind or fd < 0
        connection = self._inbound.get(fd)
        ended = connection is None or connection.ticket is not None or connection.number > ticket.number
        if ended or connection is None:
            connection = Connection(-1, (), 0, ticket.number)
        connection.node, connection.routing_id, connection.ticket = ticket.node, routing_id, ticket
        self._prove(connection)
        self.known[routing_id] = connection
        mine = self._nodes.setdefault(ticket.node, [])
        mine.append(connection)
        live = [one for one in mine if not one.cut]
        if ended and fd >= 0:
            self._part(connection)
        elif len(live) > self._limits.connections_max and not self.cut(live[0], "replaced"):
            self._part(live[0])
        return connection

    def _part(self, connection: Connection) -> None:
        """It has ended. What it sent may still come, for a while."""
        if connection.ticket is None:
            return
        mine = self._nodes.get(connection.ticket.node, [])
        if connection in mine:
            mine.remove(connection)
            connection.since_s = now_s()
            self._ended.append(connection)
        if not mine:
            self._nodes.pop(connection.ticket.node, None)
        while len(self._ended) > ENDED_KEPT_MAX:
            self._forget_ended()

    def _forget_ended(self) -> None:
        self.known.pop(self._ended.popleft().routing_id, None)

    def refuse(self, fd: int, number: int) -> None:
        """A message came in under ticket `number`, which is void: its connection, if it is still there, is cut."""
        self._void += 1
        connection = self._inbound.get(fd)
        if connection is not None and connection.ticket is None and connection.number < number:
            self.cut(connection, "expelled")

    def has(self, node: NodeId, key: bytes = b"") -> bool:
        """Whether `node` is connected (under `key`)."""
        return any(one.is_of(node, key) and not one.cut for one in self._nodes.get(node, ()))

    # ---- cutting

    def cut(self, connection: Connection, reason: str) -> bool:
        """Shut it down, now, and count that. False if it was gone already, or if its descriptor is not known."""
        self._prove(connection)
        if not connection.cut and self._place.shut(connection.fd, connection.peer):
            connection.cut = True
            self._cuts[reason] += 1
        return connection.cut

    def disown(self, connection: Connection, reason: str) -> None:
        """Cut it, and take nothing any more of what it has sent before."""
        self.known.pop(connection.routing_id, None)
        self.cut(connection, reason)

    def expel(self, node: NodeId, key: bytes = b"") -> bool:
        """Disown all connections of `node` (under `key`). False if one goes on because nobody knows which it is."""
        for connection in [*self._ended, *self._nodes.get(node, ())]:
            if connection.is_of(node, key):
                self.disown(connection, "retired" if key else "expelled")
        return not any(one.is_of(node, key) and one.fd < 0 for one in self._nodes.get(node, ()))

    def _thin(self, crowd: dict[int, Connection], most: int, reason: str) -> None:
        """Until no more than `most` of these are unproven. The oldest goes first: who waits on purpose is older than who does not."""
        while len(crowd) > most:
            oldest = next(iter(crowd.values()))
            traffic = self._place.traffic(oldest.fd)
            if traffic is not None and traffic[1] >= READY_BYTES:
                self._prove(oldest)
            else:
                self.cut(oldest, reason)
        self._place.leave()

    def _prove(self, connection: Connection) -> None:
        """It no longer counts among those that are still to prove themselves."""
        if self._unproven.get(connection.fd) is connection:
            del self._unproven[connection.fd]
            of_address = self._addresses[connection.peer[0]]
            del of_address[connection.fd]
            if not of_address:
                del self._addresses[connection.peer[0]]
        connection.proven = True

    # ---- watching

    async def run(self) -> None:
        """Watch until cancelled. While nobody is connected it sleeps."""
        self._running = True
        try:
            while True:
                if not self._inbound and not self._dialled:
                    self._somebody = anyio.Event()
                    await self._somebody.wait()
                self.look()
                await anyio.sleep(LOOK_S)
        finally:
            self._running = False

    def look(self) -> None:
        """One turn: are descriptors left, is memory growing, is it time to look at everybody?"""
        now = now_s()
        if self._unproven and not self._place.room():
            self._thin(self._unproven, len(self._unproven) // 2, "no_descriptors")
        if now - self._swept_s >= SWEEP_S or (self._place.counts_bytes and self._memory.grew(SWEEP_BYTES)):
            self._swept_s = now
            self.sweep(now)
            self._memory.mark()

    def sweep(self, now: float) -> None:
        """Look at every connection. `now`: seconds, as `clock.now_s`."""
        self._sweeps += 1
        while self._ended and now - self._ended[0].since_s > ENDED_KEPT_S:
            self._forget_ended()
        for connection in tuple(self._inbound.values()):
            if not connection.cut and (reason := self._fault(connection, now)):
                self.disown(connection, reason)
        for dealer, (connection, lost) in tuple(self._dialled.items()):
            traffic = self._place.traffic(connection.fd)
            if traffic is not None and traffic[0] > ANSWER_BYTES_MAX and self.cut(connection, "answered"):
                self.hung_up(dealer)
                lost()
        self._place.leave()

    def _fault(self, connection: Connection, now: float) -> str:
        """Why this one has to go, or the empty string."""
        traffic = self._place.traffic(connection.fd)
        if traffic is not None:
            received, sent = traffic
            if not connection.proven and sent >= READY_BYTES:
                self._prove(connection)
            if not connection.proven and received > UNPROVEN_BYTES_MAX:
                return "handshake_bytes"
            excess = received - connection.delivered - self._limits.undelivered_bytes_max
            if excess > 0 and not self._blind and excess > self._place.unread_bytes(connection.fd):
                return "undelivered_bytes"
        if connection.ticket is None and not self._blind and now - connection.since_s > self._limits.silent_s:
            return "silent"
        return ""

    def statistics(self) -> GuardStatistics:
        return GuardStatistics(
            self._running,
            self._place.counts_bytes and not self._blind,
            len(self._inbound),
            len(self._unproven),
            len(self._dialled),
            dict(self._cuts),
            self._void,
            self._sweeps,
        )

    def close(self) -> None:
        """Give its own descriptors back."""
        self._place.close()
        self._memory.close()
