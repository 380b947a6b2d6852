"""A few membership machines in virtual time: links, loss, pauses, partitions, from one seed. And one machine alone, for literal effects."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

import pytest

from mesh.core.deadlines import Deadlines
from mesh.core.directory import Directory, Row
from mesh.core.inputs import (
    DialFailed,
    Heard,
    LinkDown,
    LinkUp,
    MemberAlive,
    MemberDied,
    MemberLeft,
    MemberLinked,
    MemberRestarted,
    MemberRevoked,
    MemberSuspected,
    MemberUnreachable,
    OffersChanged,
    Started,
)
from mesh.core.membership.membership import Membership
from mesh.core.node import Node
from mesh.effects import Dial, HangUp, Refused, Reply, Send
from mesh.limits import MembershipLimits
from mesh.messages.membership import Alive, Offer
from mesh.messages.signed import Signed

FACTS = (
    MemberAlive,
    MemberLinked,
    MemberSuspected,
    MemberUnreachable,
    MemberDied,
    MemberLeft,
    MemberRestarted,
    MemberRevoked,
    OffersChanged,
)


def door(name: str) -> str:
    return name + ":1"


def alive(name: str, incarnation: int = 1, version: int = 1, offers: tuple[Offer, ...] = (), at: str = "") -> Signed:
    return Signed(name, Alive(name, incarnation, version, name, at or door(name), at or door(name), offers))


class Facts:
    """Takes every fact, so that a node of one machine is whole."""

    def __init__(self) -> None:
        self.seen: list[tuple[float, Any]] = []
        self.inputs: dict[type, Callable[[float, str, Any], None]] = dict.fromkeys(FACTS, self._note)

    def _note(self, now_s: float, _: str, fact: Any) -> None:
        self.seen.append((now_s, fact))


class Solo:
    """One machine behind its node; no network: `feed` gives the effects."""

    def __init__(self, name: str = "a", limits: MembershipLimits | None = None, seed: int = 1, incarnation: int = 1) -> None:
        self.name = name
        self.deadlines = Deadlines()
        self.directory = Directory(name, name)
        self.limits = limits or MembershipLimits()
        me = alive(name, incarnation).body
        self.machine = Membership(self.directory, self.deadlines, self.limits, Random(seed), me=me)
        self.facts = Facts()
        self.node = Node(name, (self.machine, self.facts), self.deadlines)
        self.now_s = 100.0

    def feed(self, sender: str, body: Any, at_s: float | None = None) -> list[Any]:
        if at_s is not None:
            self.now_s = at_s
        return self.node.handle(self.now_s, sender, body)

    def run(self, until_s: float, quiet: tuple[str, ...] = ()) -> list[tuple[float, Any]]:
        """All effects of deadlines up to `until_s`, each at its very time. Nodes in `quiet` are heard from before each."""
        made = []
        while (at := self.deadlines.next()) is not None and at <= until_s:
            self.now_s = max(self.now_s, at)
            for peer in quiet:
                made += [(self.now_s, e) for e in self.machine.inputs[Heard](self.now_s, peer, Heard(0, 0)) or ()]
            made += [(self.now_s, effect) for effect in self.node.handle(self.now_s, self.name)]
        self.now_s = until_s
        return made

    def calm(self) -> None:
        """Let what is due now happen, so that the effects of the next input stand alone."""
        self.run(self.now_s)

    def meet(self, *names: str) -> None:
        for name in names:
            self.feed(name, LinkUp(alive(name)))

    def row(self, name: str) -> Row:
        row = self.directory.get(name)
        assert row is not None
        return row

    def states(self) -> dict[str, str]:
        return {row.node: row.state for row in self.directory.rows()}

    def take_facts(self) -> list[Any]:
        taken = [fact for _, fact in self.facts.seen]
        self.facts.seen.clear()
        return taken


class Host(Solo):
    def __init__(self, name: str, incarnation: int, limits: MembershipLimits, seed: int) -> None:
        super().__init__(name, limits, seed, incarnation)
        self.up = True
        self.paused = False
        self.inbox: list[tuple[str, Any]] = []
        self.refusals: Counter[str] = Counter()
        self.replies: list[Reply] = []
        self.stamps: dict[str, int] = {}
        self.armed_at_s = float("-inf")


class Cluster:
    """`loss`: of each message by itself, which is harsher than a stream that resends. Links break only by a kill or a HangUp."""

    def __init__(self, names: str = "abcde", *, seed: int = 1, loss: float = 0.0, limits: MembershipLimits | None = None) -> None:
        self.random = Random(seed)
        self.loss = loss
        self.limits = limits or MembershipLimits()
        self.now_s = 1000.0
        self.hosts: dict[str, Host] = {}
        self.lives: Counter[str] = Counter()
        self.links: dict[tuple[str, str], int] = {}
        self.cuts: dict[tuple[str, str], None] = {}
        self.queue: list[tuple[float, int, str, Host | None, str, Any]] = []
        self.count = 0
        self.sent = 0
        self.on_fact: Callable[[str, Any], None] | None = None
        for name in names:
            self.start(name, (door(names[0]),) if name != names[0] else ())

    # ---- what tests do

    def start(self, name: str, seeds: tuple[str, ...] = ()) -> Host:
        self.lives[name] += 1
        host = self.hosts[name] = Host(name, self.lives[name], self.limits, self.random.randrange(1 << 30))
        self._push(self.now_s, name, name, Started(seeds))
        return host

    def kill(self, name: str, silent: bool = False) -> None:
        """`silent`: the machine is gone, so nobody is told and connects hang."""
        self.hosts[name].up = False
        for pair in [pair for pair in self.links if name in pair]:
            del self.links[pair]
            peer = pair[1] if pair[0] == name else pair[0]
            if not silent and pair[0] == name:
                self._push(self.now_s + 0.002, peer, name, LinkDown())
        if silent:
            self.cut({name}, {other for other in self.hosts if other != name})

    def pause(self, name: str, seconds: float) -> None:
        self.hosts[name].paused = True
        self.run(seconds)
        self.hosts[name].paused = False
        inbox, self.hosts[name].inbox = self.hosts[name].inbox, []
        self._turn(self.hosts[name], name, None)
        for sender, body in inbox:
            self._turn(self.hosts[name], sender, body)

    def cut(self, one: set[str], other: set[str]) -> None:
        for left in sorted(one):
            for right in sorted(other):
                self.cuts[left, right] = self.cuts[right, left] = None

    def mend(self) -> None:
        self.cuts.clear()

    def run(self, seconds: float) -> None:
        until_s = self.now_s + seconds
        while self.queue and self.queue[0][0] <= until_s:
            at_s, _, name, life, sender, body = heapq.heappop(self.queue)
            self.now_s = at_s
            host = self.hosts.get(name)
            if host is None or not host.up or (life is not None and life is not host):
                continue
            if body is None and at_s != host.armed_at_s:
                continue  # a wake-up that was moved
            if host.paused:
                if body is not None:
                    host.inbox.append((sender, body))
                continue
            self._turn(host, sender, body)
        self.now_s = until_s

    def run_until(self, done: Callable[[], bool], most_s: float) -> float:
        """Seconds until `done`; fails after `most_s`."""
        start_s = self.now_s
        while not done():
            assert self.now_s - start_s < most_s, self.views()
            self.run(0.05)
        return self.now_s - start_s

    def views(self) -> dict[str, dict[str, str]]:
        return {name: host.states() for name, host in self.hosts.items() if host.up}

    def all_see(self, state: str, *names: str) -> bool:
        return all(view.get(name) == state for observer, view in self.views().items() for name in names if name != observer)

    def whole(self) -> bool:
        """All that are up see all that are up alive, under the same rows, and are linked with them."""
        up = [host for host in self.hosts.values() if host.up]
        for host in up:
            for other in up:
                row, own = host.directory.get(other.name), other.directory.get(other.name)
                assert own is not None
                if row is None or row.state != "alive" or not row.linked:
                    return False
                if (row.incarnation, row.version, row.offers) != (own.incarnation, own.version, own.offers):
                    return False
        return True

    def facts(self, kind: type) -> list[tuple[float, str, Any]]:
        """Every fact of that type told anywhere: when, where, what."""
        return [(at_s, name, fact) for name, host in self.hosts.items() for at_s, fact in host.facts.seen if type(fact) is kind]

    # ---- inside

    def _push(self, at_s: float, name: str, sender: str, body: Any) -> None:
        self.count += 1
        heapq.heappush(self.queue, (at_s, self.count, name, self.hosts.get(name), sender, body))

    def _turn(self, host: Host, sender: str, body: Any) -> None:
        items = [body]
        if isinstance(body, tuple):
            stamp, echo, link, message = body
            if self.links.get((sender, host.name)) != link:
                return
            host.stamps[sender] = stamp
            items = [Heard(stamp, echo), message]
        for item in items:
            for effect in host.node.handle(self.now_s, sender, item):
                self._perform(host, effect)
        wake = host.node.wake_at()
        if wake is not None and (wake < host.armed_at_s or host.armed_at_s <= self.now_s):
            host.armed_at_s = max(wake, self.now_s)
            self._push(host.armed_at_s, host.name, host.name, None)

    def _perform(self, host: Host, effect: Any) -> None:
        name = host.name
        if isinstance(effect, Send):
            link = self.links.get((name, effect.to))
            self.sent += 1
            if link is None or (name, effect.to) in self.cuts or self.random.random() < self.loss:
                return
            stamp = int(self.now_s * 1000)
            delay_s = 0.0002 + 0.0005 * self.random.random()
            self._push(self.now_s + delay_s, effect.to, name, (stamp, host.stamps.get(effect.to, 0), link, effect.message))
        elif isinstance(effect, Dial):
            self._dial(host, effect.address)
        elif isinstance(effect, HangUp):
            self._hang_up(name, effect.peer)
        elif isinstance(effect, Refused):
            host.refusals[effect.reason] += 1
        elif isinstance(effect, Reply):
            host.replies.append(effect)
        else:
            raise AssertionError(effect)

    def _hang_up(self, name: str, peer: str) -> None:
        if self.links.pop((name, peer), None) is not None:
            del self.links[peer, name]
            self._push(self.now_s, name, peer, LinkDown())
            if (name, peer) not in self.cuts:
                self._push(self.now_s + 0.001, peer, name, LinkDown())

    def _dial(self, host: Host, address: str) -> None:
        name, target = host.name, address.partition(":")[0]
        there = self.hosts.get(target)
        later = self.now_s + 0.001
        if target == name:
            self._push(later, name, name, DialFailed(address, "self"))
        elif (name, target) in self.cuts or (there is not None and there.paused):
            self._push(self.now_s + 2.0, name, name, DialFailed(address, "timeout"))
        elif there is None or not there.up:
            self._push(later, name, name, DialFailed(address, "refused"))
        else:
            self.count += 1
            self.links[name, target] = self.links[target, name] = self.count
            self._push(later, name, target, LinkUp(there.machine.own))
            self._push(later, target, name, LinkUp(host.machine.own))


@pytest.fixture
def solo() -> type[Solo]:
    return Solo


@pytest.fixture
def cluster() -> type[Cluster]:
    return Cluster


@pytest.fixture
def row_of() -> Callable[..., Signed]:
    """Signed ALIVE of a name."""
    return alive


@pytest.fixture
def offer() -> Iterator[Offer]:
    yield Offer("greet", "greeter")
