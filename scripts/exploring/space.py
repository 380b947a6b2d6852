"""Every state that can be reached within bounds, breadth first.

A state is: the nodes, everything that was ever said, what the bounds still allow, and what was once believed. What was said may
be delivered for ever: every message may be late, out of order, lost (never delivered) or delivered many times, for free. That leaves two
faults to bound: crashes, and disks that are put back (a keeper's, to how it was at the beginning; then nothing arrives any more of what
it had said: links begin anew). Elections, commits, changes of members and crashes are bounded; shipping again and probing are not.

A step of one node depends on that node and its input alone, so each is done once and looked up afterwards: nodes and messages are numbers,
all that was said is a set of bits. States are told apart by 64 bits of hash.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Generic, NamedTuple, TypeVar

from exploring.member import Broken, Caller, Event, Node, thawed
from exploring.packed import AUTHOR, Mail, log_of
from exploring.promises import Past, match, remember, safe, well_formed
from mesh.core.keeping.replica import LEADER

T = TypeVar("T")
IMAGE = 3
"""Pieces that an older image of a disk holds: one entry, and two members taken in."""
TERMS_MAX = 20
"""More than any bounds allow."""


class Bounds(NamedTuple):
    """How often each may happen, all nodes together."""

    campaigns: int = 2
    commits: int = 1
    changes: int = 0
    crashes: int = 2
    old_disks: int = 0


class State(NamedTuple):
    nodes: tuple[int, ...]
    said: int
    left: Bounds
    past: int


@dataclass
class Found:
    states: int = 0
    steps: int = 0
    depth: int = 0
    nodes: int = 0
    messages: int = 0
    whole: bool = True
    """False: it stopped at the number of states it may look at."""
    broken: str = ""
    trace: list[str] = field(default_factory=list)


class Table(Generic[T]):
    """Things by number, in order of appearance."""

    def __init__(self) -> None:
        self.things: list[T] = []
        self.numbers: dict[T, int] = {}

    def number(self, thing: T) -> int:
        found = self.numbers.get(thing)
        if found is None:
            found = self.numbers[thing] = len(self.things)
            self.things.append(thing)
        return found


def dead_at(mail: Mail) -> int:
    """The term from which on, once its receiver has it on disk, this message can do nothing: terms never fall."""
    term = mail.body[0]
    if mail.kind == "shipped":
        return term + 1 if mail.body[1] else term
    if mail.kind == "vote":
        _, granted, pre = mail.body
        return term + 1 if granted and not pre else term
    return TERMS_MAX


def moves(node: Node, changes: tuple[tuple[str, ...], ...], *, loose: bool) -> Iterator[tuple[Event, Bounds]]:
    """What this node may do of itself, and what it costs."""
    free = Bounds(0, 0, 0, 0)
    if node.queue:
        yield ("sync",), free
    view = node.view
    log = log_of(view)
    if node.me in log.members and node.role != LEADER and not node.lapse:
        yield ("stand" if loose else "campaign",), free._replace(campaigns=1)
    if node.me == AUTHOR:
        yield ("commit", 1), free._replace(commits=1)
        yield ("commit_and_crash", 1), free._replace(commits=1, crashes=1)
    if node.role == LEADER:
        yield ("ship_all",), free
        for name, *_ in node.peers:
            yield ("retry", name), free
            for at in ((0, 0), *[piece.at for piece in view]) if loose else ():
                yield ("ship_from", name, at, False), free
                yield ("ship_from", name, at, True), free
        yield from _led(node, log, changes)
    yield ("crash",), free._replace(crashes=1)
    if node.me != AUTHOR and len(node.disk) >= IMAGE:
        yield ("old_disk", IMAGE), free._replace(old_disks=1)


def _led(node: Node, log: Any, changes: tuple[tuple[str, ...], ...]) -> Iterator[tuple[Event, Bounds]]:
    free = Bounds(0, 0, 0, 0)
    if node.me != AUTHOR:
        if log.last[0] < node.term:
            yield ("take_over",), free
        return
    if node.length > log.seq:
        yield ("catch_up",), free
    replica = thawed(node, log, None)
    for members in changes:
        if replica.may_change(members):
            yield ("commit", 1, members), free._replace(changes=1)
        for learner in members:
            if learner not in log.members and learner not in replica.peers:
                yield ("teach", learner), free


def bits(mask: int) -> Iterator[int]:
    while mask:
        low = mask & -mask
        mask ^= low
        yield low.bit_length() - 1


MIRROR = {"K1": "K2", "K2": "K1"}


def mirror(thing: Any) -> Any:
    """The same with the two keepers' names exchanged."""
    if isinstance(thing, str):
        return MIRROR.get(thing, thing)
    if not isinstance(thing, tuple):
        return thing
    parts = [mirror(part) for part in thing]
    if hasattr(thing, "_fields"):
        return type(thing)(*parts)
    names = parts and all(isinstance(part, str) for part in parts)
    return tuple(sorted(parts) if names else parts)


def forgetful(node: Node) -> Node:
    """Judged, and then forgotten: what a follower holds for kept. It decides nothing about logs and votes, and would double the states."""
    return node if node.role == LEADER else node._replace(kept=(0, 0))


Done = tuple[int, int, int]
"""Of a step: the node after it, what was said, and the node with all that it believes."""


class Space:
    def __init__(self, nodes: tuple[Node, ...], past: Past, bounds: Bounds, changes: tuple[tuple[str, ...], ...], caller: Caller) -> None:
        self.names = [node.me for node in nodes]
        self._caller = caller
        self._changes = changes
        self._nodes: Table[Node] = Table()
        self._believers: Table[Node] = Table()
        self._mails: Table[Mail] = Table()
        self._pasts: Table[Past] = Table()
        self._views: Table[Any] = Table()
        self._view_of: list[int] = []
        self._disk_of: list[int] = []
        self._term_of: list[int] = []
        self._inert: list[int] = []
        self._moves: dict[int, list[tuple[Event, Bounds | None]]] = {}
        self._hum: dict[int, int] = {}
        self._echo: dict[tuple[int, int], int] = {}
        self._to = [0] * len(nodes)
        self._of = [0] * len(nodes)
        """The messages that each has said."""
        self._dead = [[0] * (TERMS_MAX + 1) for _ in nodes]
        self._delivered: dict[tuple[int, int], Done] = {}
        self._moved: dict[tuple[int, Event], Done] = {}
        self._mirrored: dict[int, int] = {}
        self._mirrored_said: dict[int, int] = {}
        self._remembered: dict[tuple[int, int], int] = {}
        self._matched: set[tuple[int, int]] = set()
        self._safe: set[tuple[int, ...]] = set()
        first = tuple(self._node(self._plain(node)) for node in nodes)
        self.start = State(first, self._closed(first, 0), bounds, self._pasts.number(past))

    def _plain(self, node: Node) -> Node:
        return forgetful(self._caller.plain(node)) if self._caller.loose else node

    def explore(self, states_max: int) -> Found:
        found = Found(states=1)
        came = {hash(self.start): 0}
        layer = [self.start]
        try:
            while layer and found.whole:
                layer = self._layer(layer, came, found, states_max)
                found.depth += bool(layer)
        except Broken as broken:
            found.broken = str(broken)
        found.states, found.nodes, found.messages = len(came), len(self._nodes.things), len(self._mails.things)
        return found

    def _layer(self, layer: list[State], came: dict[int, int], found: Found, states_max: int) -> list[State]:
        below: list[State] = []
        for state in layer:
            mark = hash(state)
            try:
                for _, after in self.successors(state):
                    found.steps += 1
                    key = hash(after)
                    if key not in came:
                        came[key] = mark
                        below.append(after)
            except Broken:
                found.trace = self._trace(mark, came)
                raise
            if len(came) > states_max:
                found.whole = False
                return []
        return below

    def _trace(self, mark: int, came: dict[int, int]) -> list[str]:
        """How one gets there: the way is known by its hashes, so it is gone again."""
        way = []
        while mark:
            way.append(mark)
            mark = came[mark]
        state, lines = self.start, []
        for mark in reversed(way[:-1]):
            what, state = next((what, after) for what, after in self.successors(state) if hash(after) == mark)
            lines.append(what)
        return lines

    # ---- one state

    def successors(self, state: State) -> Iterator[tuple[Any, State]]:
        for place, number in enumerate(state.nodes):
            for event, cost in self._own_moves(number):
                left = state.left
                if cost:
                    left = Bounds(*[have - need for have, need in zip(left, cost)])
                    if min(left) < 0:
                        continue
                before = state._replace(said=state.said & ~self._of[place]) if event[0] == "old_disk" else state
                yield (self.names[place], event), self._after(before, place, self._moved[number, event], left)
            for bit in bits(state.said & self._to[place] & ~self._inert[number]):
                yield self._mails.things[bit], self._after(state, place, self._delivered[number, bit], state.left)

    def _own_moves(self, number: int) -> list[tuple[Event, Bounds | None]]:
        """Those that change the node; what the others say is in `_hum`."""
        found = self._moves.get(number)
        if found is None:
            found, hum = [], 0
            for event, cost in moves(self._nodes.things[number], self._changes, loose=self._caller.loose):
                done = self._moved[number, event] = self._step(number, event)
                if done[0] != number:
                    found.append((event, cost if any(cost) else None))
                elif not any(cost):
                    hum |= done[1]
            self._moves[number], self._hum[number] = found, hum
        return found

    def _closed(self, nodes: tuple[int, ...], said: int) -> int:
        """All that is said without anybody changing by it. More that was said only allows more: so it may as well be said at once."""
        before = -1
        while before != said:
            before = said
            for place, number in enumerate(nodes):
                if number not in self._moves:
                    self._own_moves(number)
                pending = said & self._to[place]
                echo = self._echo.get((number, pending))
                if echo is None:
                    echo = self._echo[number, pending] = self._hum[number] | self._answers(number, pending)
                said |= echo
        for place, number in enumerate(nodes):
            said &= ~self._dead[place][self._term_of[number]]
        return said

    def _answers(self, number: int, pending: int) -> int:
        said = 0
        for bit in bits(pending):
            done = self._delivered.get((number, bit))
            if done is None:
                done = self._delivered[number, bit] = self._step(number, ("deliver", self._mails.things[bit]))
                if done[0] == number and self._believers.things[done[2]] == self._nodes.things[number]:
                    self._inert[number] |= 1 << bit
            if done[0] == number:
                said |= done[1]
        return said

    def _step(self, number: int, event: Event) -> Done:
        node, sent = self._caller.step(self._nodes.things[number], event)
        said = 0
        for mail in sent:
            said |= 1 << self._mail(mail)
        after = self._node(forgetful(node) if self._caller.loose else node)
        return after, said, self._believers.number(node)

    def _after(self, state: State, place: int, done: Done, left: Bounds) -> State:
        number, more, believer = done
        nodes = (*state.nodes[:place], number, *state.nodes[place + 1 :])
        past = self._judge(state.past, nodes, place, believer)
        return self._one_of_two(State(nodes, self._closed(nodes, state.said | more), left, past))

    def _one_of_two(self, state: State) -> State:
        """The two keepers are alike: of a state and its mirror image only one is looked at."""
        nodes = state.nodes
        mirrored = (self._mirror_node(nodes[0]), self._mirror_node(nodes[2]), self._mirror_node(nodes[1]))
        if mirrored > nodes:
            return state
        said = self._mirrored_said.get(state.said)
        if said is None:
            said = sum(1 << self._mail(mirror(self._mails.things[bit])) for bit in bits(state.said))
            self._mirrored_said[state.said] = said
        past = self._pasts.number(mirror(self._pasts.things[state.past]))
        return min(state, State(mirrored, said, state.left, past))

    def _mirror_node(self, number: int) -> int:
        found = self._mirrored.get(number)
        if found is None:
            node: Node = mirror(self._nodes.things[number])
            found = self._mirrored[number] = self._node(node._replace(peers=tuple(sorted(node.peers))))
        return found

    # ---- judging

    def _judge(self, past: int, nodes: tuple[int, ...], place: int, believer: int) -> int:
        number = nodes[place]
        after = self._remembered.get((past, believer))
        if after is None:
            after = self._pasts.number(remember(self._pasts.things[past], self._believers.things[believer]))
            self._remembered[past, believer] = after
        view = self._view_of[number]
        for at, other in enumerate(nodes):
            pair = (view, self._view_of[other])
            if at != place and pair not in self._matched:
                match(self._views.things[pair[0]], self._views.things[pair[1]])
                self._matched.add(pair)
        old = [self._nodes.things[one].lapses > 0 for one in nodes]
        disks = (after, *[self._disk_of[one] for one in nodes], *old)
        if disks not in self._safe:
            views = [self._views.things[self._disk_of[one]] for one in nodes]
            safe(self._pasts.things[after], list(zip(self.names, views, old)))
            self._safe.add(disks)
        return after

    # ---- numbers

    def _node(self, node: Node) -> int:
        number = self._nodes.number(node)
        if number == len(self._view_of):
            view = node.view
            well_formed(view)
            self._view_of.append(self._views.number(view))
            self._disk_of.append(self._views.number(node.disk))
            self._term_of.append(min(node.kept_term, node.term))
            self._inert.append(0)
        return number

    def _mail(self, mail: Mail) -> int:
        known = len(self._mails.things)
        number = self._mails.number(mail)
        if number == known:
            bit, place = 1 << number, self.names.index(mail.to)
            self._to[place] |= bit
            self._of[self.names.index(mail.sender)] |= bit
            for term in range(dead_at(mail), TERMS_MAX + 1):
                self._dead[place][term] |= bit
        return number
