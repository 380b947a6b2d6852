"""The network between hosts: links as pairs of ordered streams, doors, and everything that can go wrong with them.

    a ---- stream a->b, in order ----> b        delay; loss = delay (a stream resends); a cut holds the stream, then breaks the link
      <--- stream b->a, in order -----

A link is up or down for both ends at once and has a number; what is under way when it breaks is lost. A held stream (stall, cut) bursts
when it is let go. What real streams never do, but queues that overflow and resent envelopes can: single messages vanish, come twice or out
of order (`drop`, `duplicate`, `reorder_s`); machines must bear that too. Draws come from one generator per sending host.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any, Protocol

from mesh.ids import NodeId
from mesh.messages.work import Award

DIAL_TIMEOUT_S = 2.0
LINK_TIMEOUT_S = 4.0
"""How long a stream may be held before its link is given up (heartbeats of the transport)."""
RESET_S = 0.002
"""A killed process is noticed by its peers after so long."""
RESEND_S = 0.2
HELD_MAX = 4096
"""Envelopes in a held stream; beyond it the newest are lost, as from a full queue."""


@dataclass(slots=True)
class Envelope:
    """What one turn of the sender says to one peer, with the stamps of the header."""

    link: int
    stamp_ms: int
    echo_ms: int
    messages: tuple[Any, ...]


class Stream:
    """One direction of a link."""

    __slots__ = ("free_at_s", "held", "hold", "link")

    def __init__(self, link: int, free_at_s: float) -> None:
        self.link = link
        self.free_at_s = free_at_s
        self.held: list[tuple[Any, ...]] | None = None
        self.hold = 0
        """How often it has been held: tells one hold from the next."""


@dataclass(slots=True)
class Weather:
    """How the network behaves now. All zero: a clean LAN."""

    delay_s: float = 0.0
    loss: float = 0.0
    """Chance that a segment is lost and sent again: late, with all behind it."""
    drop: float = 0.0
    duplicate: float = 0.0
    reorder_s: float = 0.0
    replay_s: float = 0.0
    """Awards come once more, about so much later, over the same link."""


class Ends(Protocol):
    """What the network needs of the world."""

    now_s: float

    def push(self, at_s: float, host: NodeId, sender: NodeId, body: Any) -> None: ...

    def at(self, at_s: float, what: Callable[[], None]) -> None: ...

    def link_changed(self, host: NodeId, peer: NodeId, *, up: bool) -> None: ...

    def dial_ended(self, caller: NodeId, target: NodeId, reason: str) -> None: ...

    def refuses(self, one: NodeId, other: NodeId) -> bool:
        """One of the two holds the other for revoked: no handshake between them succeeds."""
        ...

    def answers(self, host: NodeId) -> str:
        """How a connection there goes now: ``open``, ``refused`` (no process), ``frozen`` (stopped process), ``off`` (no machine)."""
        ...


class Network:
    """All links of a world. `base_s` and `jitter_s`: one way, on a quiet LAN."""

    def __init__(self, ends: Ends, rng: Callable[[NodeId], Random], *, base_s: float = 0.0002, jitter_s: float = 0.0003) -> None:
        self._ends = ends
        self._rng_of = rng
        self._rngs: dict[NodeId, Random] = {}
        self._base_s = base_s
        self._jitter_s = jitter_s
        self._streams: dict[tuple[NodeId, NodeId], Stream] = {}
        self._holds: dict[tuple[NodeId, NodeId], int] = {}
        self._cuts: dict[tuple[NodeId, NodeId], int] = {}
        self._links = 0
        self.weather = Weather()
        self.lost = 0
        self.sent = 0

    def set_way(self, base_s: float, jitter_s: float) -> None:
        """What a message takes from now on."""
        self._base_s, self._jitter_s = base_s, jitter_s

    # ---- envelopes

    def send(self, sender: NodeId, to: NodeId, stamp_ms: int, echo_ms: int, messages: tuple[Any, ...]) -> None:
        """Give an envelope to the link; without a link it is lost, as in the runtime."""
        stream = self._streams.get((sender, to))
        if stream is None:
            self.lost += len(messages)
            return
        self.sent += 1
        if stream.held is not None:
            if len(stream.held) < HELD_MAX:
                stream.held.append((stamp_ms, echo_ms, messages))
            else:
                self.lost += len(messages)
            return
        rng = self._rngs.get(sender) or self._rng(sender)
        weather = self.weather
        now = self._ends.now_s
        arrival = now + self._base_s + self._jitter_s * rng.random() + weather.delay_s * (0.5 + rng.random() if weather.delay_s else 0.0)
        if weather.loss and rng.random() < weather.loss:
            resend = RESEND_S
            while rng.random() < weather.loss and resend < 2.0:
                resend *= 2
            arrival += resend
        if weather.drop or weather.duplicate or weather.reorder_s:
            self._send_badly(rng, stream, sender, to, arrival, (stamp_ms, echo_ms, messages))
            return
        if weather.replay_s and (awards := tuple(message for message in messages if type(message) is Award)):
            later_s = arrival + weather.replay_s * (0.2 + rng.random())
            self._ends.push(later_s, to, sender, Envelope(stream.link, stamp_ms, echo_ms, awards))
        if arrival < stream.free_at_s:
            arrival = stream.free_at_s
        stream.free_at_s = arrival
        self._ends.push(arrival, to, sender, Envelope(stream.link, stamp_ms, echo_ms, messages))

    def _send_badly(self, rng: Random, stream: Stream, sender: NodeId, to: NodeId, arrival: float, envelope: tuple[Any, ...]) -> None:
        """Message by message: each may vanish, come twice, or overtake."""
        weather = self.weather
        stamp_ms, echo_ms, messages = envelope
        for message in messages:
            if weather.drop and rng.random() < weather.drop:
                self.lost += 1
                continue
            copies = 2 if weather.duplicate and rng.random() < weather.duplicate else 1
            for _ in range(copies):
                at = arrival
                if weather.reorder_s:
                    at += weather.reorder_s * rng.random()
                elif copies == 2:
                    at += 0.01 * rng.random()
                else:
                    at = stream.free_at_s = max(at, stream.free_at_s)
                self._ends.push(at, to, sender, Envelope(stream.link, stamp_ms, echo_ms, (message,)))

    def current(self, sender: NodeId, to: NodeId, link: int) -> bool:
        """Is the link that an envelope came by still that one?"""
        stream = self._streams.get((sender, to))
        return stream is not None and stream.link == link

    def linked(self, one: NodeId, other: NodeId) -> bool:
        return (one, other) in self._streams

    # ---- links

    def dial(self, caller: NodeId, target: NodeId) -> None:
        """HELLO at the door of `target`. Ends as `link_changed` for both, or as `dial_ended` with what went wrong."""
        rng = self._rngs.get(caller) or self._rng(caller)
        trip_s = 2 * (self._base_s + self._jitter_s * rng.random() + self.weather.delay_s * rng.random())
        self._ends.at(self._ends.now_s + trip_s, lambda: self._knock(caller, target))

    def _knock(self, caller: NodeId, target: NodeId) -> None:
        if self._cut(caller, target) or self._cut(target, caller):
            self._ends.at(self._ends.now_s + DIAL_TIMEOUT_S, lambda: self._ends.dial_ended(caller, target, "timeout"))
            return
        answer = self._ends.answers(target)
        if answer == "refused":
            self._ends.dial_ended(caller, target, "refused")
        elif answer != "open":
            self._ends.at(self._ends.now_s + DIAL_TIMEOUT_S, lambda: self._ends.dial_ended(caller, target, "timeout"))
        elif self._ends.refuses(caller, target):
            self._ends.dial_ended(caller, target, "revoked")
        elif self._ends.answers(caller) in ("open", "frozen"):
            self._connect(caller, target)

    def _connect(self, caller: NodeId, target: NodeId) -> None:
        if self.linked(caller, target):
            self._ends.link_changed(caller, target, up=True)
            return
        self._links += 1
        for pair in ((caller, target), (target, caller)):
            stream = self._streams[pair] = Stream(self._links, self._ends.now_s)
            if pair in self._holds:
                self._begin_hold(pair, stream)
        self._ends.link_changed(target, caller, up=True)
        self._ends.link_changed(caller, target, up=True)

    def hang_up(self, one: NodeId, other: NodeId) -> None:
        """Break the link between them, if there is one, and tell both ends. What is under way is lost."""
        if self._streams.pop((one, other), None) is None:
            return
        del self._streams[(other, one)]
        self._ends.link_changed(one, other, up=False)
        self._ends.link_changed(other, one, up=False)

    def died(self, host: NodeId, peers: list[NodeId], *, silent: bool) -> None:
        """The process at `host` is gone: its links break after a reset arrives, or, `silent`, after the transport's timeout."""
        for peer in peers:
            stream = self._streams.pop((host, peer), None)
            if stream is None:
                continue
            del self._streams[(peer, host)]
            quiet = silent or self._cut(host, peer)
            self._tell_down(peer, host, LINK_TIMEOUT_S if quiet else RESET_S)

    def _tell_down(self, peer: NodeId, host: NodeId, after_s: float) -> None:
        """Until `peer` learns of it he sends into the void; if they have met again before, the news is old."""

        def tell() -> None:
            if not self.linked(peer, host):
                self._ends.link_changed(peer, host, up=False)

        self._ends.at(self._ends.now_s + after_s, tell)

    # ---- faults

    def hold(self, sender: NodeId, to: NodeId) -> None:
        """Nothing from `sender` arrives at `to` until `let_go`. Holds add up."""
        pair = (sender, to)
        self._holds[pair] = self._holds.get(pair, 0) + 1
        stream = self._streams.get(pair)
        if stream is not None and stream.held is None:
            self._begin_hold(pair, stream)

    def let_go(self, sender: NodeId, to: NodeId) -> None:
        pair = (sender, to)
        left = self._holds[pair] = self._holds[pair] - 1
        if left:
            return
        del self._holds[pair]
        stream = self._streams.get(pair)
        if stream is None or stream.held is None:
            return
        burst, stream.held = stream.held, None
        for stamp_ms, echo_ms, messages in burst:
            self.send(sender, to, stamp_ms, echo_ms, messages)

    def cut(self, sender: NodeId, to: NodeId) -> None:
        """As `hold`, and nobody can dial over it either way."""
        self._cuts[(sender, to)] = self._cuts.get((sender, to), 0) + 1
        self.hold(sender, to)

    def mend(self, sender: NodeId, to: NodeId) -> None:
        pair = (sender, to)
        self._cuts[pair] -= 1
        if not self._cuts[pair]:
            del self._cuts[pair]
        self.let_go(sender, to)

    def _begin_hold(self, pair: tuple[NodeId, NodeId], stream: Stream) -> None:
        stream.held = []
        stream.hold += 1
        number = stream.hold

        def give_up() -> None:
            if stream.held is not None and stream.hold == number and self._streams.get(pair) is stream:
                self.hang_up(*pair)

        self._ends.at(self._ends.now_s + LINK_TIMEOUT_S, give_up)

    def _cut(self, sender: NodeId, to: NodeId) -> bool:
        return (sender, to) in self._cuts

    def _rng(self, host: NodeId) -> Random:
        rng = self._rngs[host] = self._rng_of(host)
        return rng
