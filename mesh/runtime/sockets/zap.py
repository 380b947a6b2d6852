"""Who may connect: our own ZAP handler (RFC 27). libzmq asks it about every handshake; it answers from a dictionary.

    CURVE handshake --> [version, request, domain, address, routing id, mechanism, key] --> key -> node? --> 200 and a ticket, or 400

A *ticket* is the User-Id that libzmq then attaches to each message of that one connection: it says which node and which key brought it,
and no peer can choose or copy it. Invariant: only keys that were admitted get in. libzmq is told to enforce the domain, so while nobody
answers here (not started, ended) nobody gets in either. No request waits for another, and none can end the loop: what goes wrong is
denied and counted. Does not cut live connections: `runtime/sockets/guard.py` does.

pyzmq's own authenticator is not used: it dies of one exception, and lets one handshake wait for another (seen, pyzmq 27).
"""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import zmq

from mesh.ids import NodeId
from mesh.limits import LinkLimits
from mesh.runtime.sockets.readiness import call_when_readable

ENDPOINT = "inproc://zeromq.zap.01"
"""Where libzmq looks for a handler, one per context."""
DOMAIN = b"lanmesh"
_VERSION = b"1.0"
_ADMITTED, _DENIED = b"200", b"400"


@dataclass(frozen=True, slots=True)
class Ticket:
    """One handshake that was let through. `number` counts with the connections: those accepted later have higher ones."""

    node: NodeId
    key: bytes
    number: int


@dataclass(frozen=True, slots=True)
class ZapStatistics:
    """`keys`: admitted now; `admitted` and `denied`: handshakes since start; `errors`: defects of ours, `last_error` being the newest."""

    running: bool
    keys: int
    admitted: int
    denied: dict[str, int]
    errors: int
    last_error: str


class Zap:
    """Answers on `raw`, a ROUTER bound at ENDPOINT (not REP: requests are independent of each other).

    `before` is called when a request has come, and takes in every connection that was accepted before it; `number` counts on from those.
    """

    def __init__(self, raw: zmq.Socket[bytes], limits: LinkLimits, number: Callable[[], int], before: Callable[[], None]) -> None:
        self._raw, self._limits, self._number, self._before = raw, limits, number, before
        self._nodes: dict[bytes, NodeId] = {}
        self._keys: dict[NodeId, list[bytes]] = {}
        """Each node's keys, the oldest first; nodes in the order they came in."""
        self._tickets: dict[NodeId, dict[str, Ticket]] = {}
        """Given out and not yet shown by a first message, by User-Id; the oldest first."""
        self.may_come: Callable[[NodeId], bool] = _always
        """Asked about each connection that would be let in."""
        self._running = False
        self._admitted = self._errors = 0
        self._last_error = ""
        self._denied: Counter[str] = Counter()

    async def run(self) -> None:
        """Answer until cancelled."""
        self._running = True
        try:
            await call_when_readable(self._raw.FD, self.answer)
        finally:
            self._running = False

    # ---- the table

    def holder(self, key: bytes) -> NodeId:
        """The node that `key` was admitted for, or the empty string."""
        return self._nodes.get(key, "")

    def admit(self, key: bytes, node: NodeId) -> bytes:
        """From now on `key`, which nobody else holds, opens our ROUTER in the name of `node`.

        Returns an older key of the node that should be retired for it, or b"".
        """
        assert self.holder(key) in ("", node), "its holder has to go first"
        self._nodes[key] = node
        keys = self._keys.setdefault(node, [])
        if key in keys:
            keys.remove(key)
        keys.append(key)
        return keys[0] if len(keys) > self._limits.transport_keys_max else b""

    def full(self, node: NodeId) -> bool:
        """Whether another node has to go before `node` can be admitted."""
        return node not in self._keys and len(self._keys) >= self._limits.peers_max

    def nodes(self) -> tuple[NodeId, ...]:
        """All admitted, in the order they came in."""
        return tuple(self._keys)

    def expel(self, node: NodeId) -> None:
        """No key of `node` opens anything any more, and its tickets are void."""
        for key in self._keys.pop(node, []):
            del self._nodes[key]
        self._tickets.pop(node, None)

    def retire(self, key: bytes) -> None:
        """The same for one key."""
        node = self._nodes.pop(key, None)
        if node is None:
            return
        self._keys[node].remove(key)
        if not self._keys[node]:
            del self._keys[node]
        left = {user: ticket for user, ticket in self._tickets.pop(node, {}).items() if ticket.key != key}
        if left:
            self._tickets[node] = left

    def claim(self, user: str) -> Ticket | None:
        """The ticket of a User-Id that is seen for the first time; None if it was given to nobody, or is void."""
        node = user.partition("/")[0]
        mine = self._tickets.get(node, {})
        ticket = mine.pop(user, None)
        if not mine:
            self._tickets.pop(node, None)
        return ticket

    def _give(self, node: NodeId, key: bytes) -> str:
        """A new ticket. Of a node that asks for ever more and never speaks, the oldest are void: its connections are cut if they do."""
        ticket = Ticket(node, key, self._number())
        user = f"{node}/{ticket.number}"
        mine = self._tickets.setdefault(node, {})
        mine[user] = ticket
        if len(mine) > self._limits.tickets_max:
            del mine[next(iter(mine))]
        return user

    # ---- the answers

    def answer(self) -> None:
        """Answer all requests that are there: at most one for each connection that has not finished its handshake."""
        while True:
            try:
                request = self._raw.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            try:
                self._before()
                self._answer(request)
            except Exception as error:  # noqa: BLE001 - counted and shown: whatever it is, the next handshake must get its answer
                self._errors += 1
                self._last_error = repr(error)

    def _answer(self, request: list[bytes]) -> None:
        if len(request) < 4:
            self._denied["malformed"] += 1  # there is nobody to answer
            return
        user, reason = self._judge(request)
        if reason:
            self._denied[reason] += 1
        else:
            self._admitted += 1
        reply = [_DENIED, b"denied", b"", b""] if reason else [_ADMITTED, b"", user, b""]
        self._raw.send_multipart([*request[:2], _VERSION, request[3], *reply], zmq.NOBLOCK)

    def _judge(self, request: list[bytes]) -> tuple[bytes, str]:
        """The User-Id for this connection, or why there is none."""
        if request[2] != _VERSION:
            return b"", "version"
        if len(request) != 9:
            return b"", "mechanism" if len(request) > 7 and request[7] != b"CURVE" else "malformed"
        _, _, _, _, domain, address, _, mechanism, key = request
        if domain != DOMAIN:
            return b"", "domain"
        if mechanism != b"CURVE":
            return b"", "mechanism"
        if not _is_address(address):
            return b"", "address"
        node = self._nodes.get(key)
        if node is None:
            return b"", "unknown_key"
        if not self.may_come(node):
            return b"", "too_fast"
        return self._give(node, key).encode(), ""

    def statistics(self) -> ZapStatistics:
        return ZapStatistics(self._running, len(self._nodes), self._admitted, dict(self._denied), self._errors, self._last_error)


def number_in(user: str) -> int:
    """The number of the ticket that this User-Id stands for."""
    return int(user.rpartition("/")[2])


def _is_address(address: bytes) -> bool:
    try:
        ipaddress.ip_address(address.decode("ascii"))
    except ValueError:
        return False
    return True


def _always(node: NodeId) -> bool:
    return True
