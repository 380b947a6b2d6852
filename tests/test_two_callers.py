"""The node core has exactly two callers, `runtime/driver.py` and `sim/world.py`: one story through both has the same effects and entries.

Each is recorded where it performs, not where the core decides: a caller that dropped, doubled or reordered something, or let it leave
before the disk had what it depends on, would differ.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any, Protocol

import pytest

from mesh.core.assembly import Assembly, build
from mesh.core.inputs import Call, Enquire, HandlerEnded, HandlerStarted, Heard, LinkUp, NewHead, Started, Submit, Synced, WorkerAttached
from mesh.core.keeping.inputs import Shelved
from mesh.core.outbox import Outbox
from mesh.effects import Dial, Execute, Extend, HangUp, Need, Price, ReadBody, ReadShelf, ReadTale, Remember, Reply, Send, Shelve, Stop
from mesh.ids import content_hash
from mesh.limits import Limits
from mesh.messages.membership import Alive, Offer
from mesh.messages.work import (
    Accept,
    Award,
    Bid,
    Cfp,
    Decline,
    Failure,
    Refuse,
    Result,
    ResultAck,
    Superseded,
)
from mesh.runtime.driver import Driver
from mesh.sim.disk import Disk
from mesh.sim.world import World, door

NAMES = ("boss", "hand")
GREET = Offer("greet", "greeter")
WORKER = 1
TOLD = (Cfp, Bid, Refuse, Award, Accept, Decline, Result, Failure, ResultAck, Superseded)
"""Messages of the story; the others follow the clock."""
LIMITS = Limits()


@dataclass
class Record:
    """What one node did, in order: entries, what left it, what it gave to its worker, what it answered."""

    done: list[tuple[Any, ...]] = field(default_factory=list)
    executed: list[Execute] = field(default_factory=list)
    awards: list[Award] = field(default_factory=list)
    replies: dict[int, tuple[bool, dict[str, Any]]] = field(default_factory=dict)
    early: list[Any] = field(default_factory=list)
    """Left before the disk had what they depend on."""

    def count(self, what: str) -> int:
        return sum(what in done for done in self.done)

    def append(self, entry: Any) -> None:
        self.done.append(("append", type(entry).__name__, getattr(entry, "task", ""), getattr(entry, "fence", 0)))

    def perform(self, effect: Any, synced: int) -> None:
        if effect.need is not Need.FREE and effect.after > synced:
            self.early.append(effect)
        kind = type(effect)
        if kind is Send and isinstance(effect.message, TOLD):
            message = effect.message
            self.done.append(("send", effect.to, type(message).__name__, named(message), effect.need.name))
            if type(message) is Award:
                self.awards.append(message)
        elif kind is Reply:
            self.done.append(("reply", effect.request, effect.ok))
            self.replies[effect.request] = (effect.ok, effect.body)
        elif kind is Execute:
            self.done.append(("execute", effect.task, effect.fence, effect.capability, effect.input, effect.attempt))
            self.executed.append(effect)
        elif kind in (Stop, Price):
            self.done.append((kind.__name__, effect.task))


def named(message: Any) -> Any:
    """The tasks and fences a message is about, without times."""
    items = getattr(message, "items", None)
    if items is None:
        return (message.task, message.fence)
    return tuple((item.task, getattr(item, "fence", 0)) if hasattr(item, "task") else tuple(item) for item in items)


class Caller(Protocol):
    """What the story needs of either."""

    records: dict[str, Record]

    def tell(self, node: str, sender: str, body: Any) -> None: ...

    async def until(self, done: Callable[[], Any], what: str) -> None: ...


# ---- the story


async def story(caller: Caller) -> None:
    boss, hand = caller.records["boss"], caller.records["hand"]
    caller.tell("hand", "hand", WorkerAttached(WORKER, 77, "greeter", (GREET,), 1))
    await caller.until(lambda: caller.offered(), "the offer to be known")  # type: ignore[attr-defined]
    for request, command in ((1, Submit(1, "greet", b'{"n":1}')), (2, Call(2, "greet", b'{"n":2}'))):
        caller.tell("boss", "boss", command)
        await caller.until(lambda: len(hand.executed) == request, f"handler {request} to be run")  # noqa: B023
        work = hand.executed[-1]
        caller.tell("hand", "hand", HandlerStarted(WORKER, work.task, work.fence))
        caller.tell("hand", "hand", HandlerEnded(WORKER, work.task, work.fence, "ok", b'"hi"', service_ms=1))
        await caller.until(lambda: request in boss.replies and boss.count("ResultAck") == request, f"the end of {request}")  # noqa: B023
    await caller.until(lambda: hand.count("Closed") == 1, "the last entry")
    # Both awards once more, as a resend that crossed its answer: nothing runs again.
    for award in list(boss.awards):
        caller.tell("hand", "boss", award)
    caller.tell("boss", "boss", Enquire(3, "result", boss.replies[1][1]["task"]))
    await caller.until(lambda: 3 in boss.replies, "the result")


# ---- caller one: the driver, over links and a disk in memory


class Wire:
    """The links between two drivers: one envelope per flush and peer."""

    def __init__(self, me: str, net: Drivers) -> None:
        self.me, self.net = me, net
        self.arrived: deque[list[tuple[str, Any]]] = deque()
        self.going: dict[str, list[Any]] = {}
        self.heard: dict[str, int] = {}
        self.effects: dict[type, Any] = {Send: self._send, Dial: self._dial, HangUp: lambda _: None}

    def _send(self, effect: Send) -> None:
        self.net.note(self.me, effect)
        self.going.setdefault(effect.to, []).append(effect.message)

    def _dial(self, effect: Dial) -> None:
        peer = effect.address.partition(":")[0]
        for here, there in ((self.me, peer), (peer, self.me)):
            self.net.tell(here, there, LinkUp(self.net.assemblies[there].membership.own))

    def flush(self) -> None:
        going, self.going = self.going, {}
        for peer, messages in going.items():
            there = self.net.wires[peer]
            stamp_ms = int(self.net.now_s * 1000)
            there.arrived.append([(self.me, Heard(stamp_ms, self.heard.get(peer, 0))), *((self.me, message) for message in messages)])
            there.heard[self.me] = stamp_ms
            self.net.drivers[peer].wake()

    def take(self) -> list[tuple[str, Any]] | None:
        return self.arrived.popleft() if self.arrived else None

    def waiting(self) -> bool:
        return bool(self.arrived)

    def refused(self, peer: str) -> None: ...


class Local:
    """Worker, clients and the rest of a node, written down."""

    def __init__(self, me: str, net: Drivers) -> None:
        kinds = (Execute, Extend, Stop, Price, Reply, Remember, ReadBody)
        self.effects: dict[type, Any] = {kind: lambda effect: net.note(me, effect) for kind in kinds}

    def flush(self) -> None: ...


class Paper:
    """The store: a commit a moment after it is asked for."""

    def __init__(self, me: str, net: Drivers) -> None:
        self.me, self.net, self.disk = me, net, Disk(me, 0.0)
        self.disk.begin_life()
        self.effects: dict[type, Any] = {Shelve: self._shelve, ReadShelf: self._read_shelf, ReadTale: self._read_tale}

    def add(self, seq: int, entry: Any, bodies: dict[str, bytes]) -> None:
        assert self.disk.add(entry, bodies) == seq
        self.net.records[self.me].append(entry)

    def _shelve(self, effect: Shelve) -> None:
        self.disk.shelve(effect)
        self.flush_soon()

    def _read_shelf(self, effect: ReadShelf) -> None:
        self.net.tell(self.me, self.me, self.disk.read_shelf(effect, LIMITS.records))

    def _read_tale(self, effect: ReadTale) -> None:
        self.net.tell(self.me, self.me, self.disk.shelf.tale(effect, LIMITS.records))

    def flush(self) -> None: ...

    def flush_soon(self) -> None:
        asyncio.get_running_loop().call_soon(self._sync)

    def _sync(self) -> None:
        while self.disk.begin_sync(LIMITS.records):
            group, shelved = self.disk.end_sync(0)
            if group is not None:
                self.net.tell(self.me, self.me, Synced(group.last))
                self.net.tell(self.me, self.me, NewHead(group.signed, group.entries, group.bodies))
            for effect in shelved:
                self.net.tell(self.me, self.me, Shelved(effect.author, effect.ticket))


class Drivers:
    """Two nodes under `Driver`; the clock goes on by hand."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.records = {name: Record() for name in NAMES}
        self.papers = {name: Paper(name, self) for name in NAMES}
        self.wires = {name: Wire(name, self) for name in NAMES}
        self.assemblies: dict[str, Assembly] = {}
        self.drivers: dict[str, Driver] = {}
        self.running: list[asyncio.Future[None]] = []
        for name in NAMES:
            me = Alive(name, 1, 1, name, door(name), door(name))
            self.assemblies[name] = build(me, random=Random(7), limits=LIMITS)
            driver = Driver(self.assemblies[name].node, lambda: self.now_s, self.papers[name], self.wires[name], Outbox(), 0.0)
            driver.add(self.wires[name])
            driver.add(Local(name, self))
            driver.add(self.papers[name])
            self.drivers[name] = driver

    def note(self, me: str, effect: Any) -> None:
        self.records[me].perform(effect, self.papers[me].disk.seq)

    def tell(self, node: str, sender: str, body: Any) -> None:
        self.drivers[node].tell(sender, body)

    def offered(self) -> bool:
        return offered(self.assemblies["boss"])

    async def until(self, done: Callable[[], Any], what: str) -> None:
        for _ in range(5000):
            for _ in range(20):
                await asyncio.sleep(0)
            if done() or any(task.done() for task in self.running):
                break
            self.now_s += 0.001
            for driver in self.drivers.values():
                driver.wake()
        for task in self.running:
            assert not task.done(), task.exception()
        assert done(), f"never came: {what}"


def by_driver() -> dict[str, Record]:
    async def run() -> dict[str, Record]:
        caller = Drivers()
        tasks = caller.running = [asyncio.ensure_future(driver.run()) for driver in caller.drivers.values()]
        await asyncio.sleep(0)
        for name in NAMES:
            caller.tell(name, name, Started((door("boss"),) if name != "boss" else ()))
        await story(caller)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        return caller.records

    return asyncio.run(run())


# ---- caller two: the world


class Noted:
    """Stands in for the world's workers: only takes."""

    def take(self, effect: Any) -> None: ...


class Worlds:
    """The same two nodes under `World`, in its virtual time."""

    def __init__(self) -> None:
        self.records = {name: Record() for name in NAMES}
        self.world = World(NAMES, 7, limits=LIMITS, seeds=("boss",), clock_spread_s=0.0)
        for name, host in self.world.hosts.items():
            record = self.records[name]
            host.workers[WORKER] = Noted()
            for kind, perform in host._perform.items():
                host._perform[kind] = self._noting(record, host, perform)
            host.disk.add = self._adding(record, host.disk.add)  # type: ignore[method-assign]
        self.world.start_all(0.0)

    @staticmethod
    def _noting(record: Record, host: Any, perform: Callable[[Any], None]) -> Callable[[Any], None]:
        def noting(effect: Any) -> None:
            record.perform(effect, host.disk.seq)
            perform(effect)

        return noting

    @staticmethod
    def _adding(record: Record, add: Callable[[Any, dict[str, bytes]], int]) -> Callable[[Any, dict[str, bytes]], int]:
        def adding(entry: Any, bodies: dict[str, bytes]) -> int:
            record.append(entry)
            return add(entry, bodies)

        return adding

    def tell(self, node: str, sender: str, body: Any) -> None:
        self.world.push(self.world.now_s, node, sender, body)

    def offered(self) -> bool:
        return offered(self.world.hosts["boss"].assembly)

    async def until(self, done: Callable[[], Any], what: str) -> None:
        for _ in range(5000):
            self.world.run(self.world.now_s + 0.001)
            if done():
                return
        raise AssertionError(f"never came: {what}")


def by_world() -> dict[str, Record]:
    caller = Worlds()
    caller.world.run(0.01)
    asyncio.run(story(caller))
    return caller.records


def offered(boss: Assembly) -> bool:
    """The manager can award at once: it is linked, and has heard offer and load."""
    row = boss.directory.get("hand")
    return row is not None and row.linked and "greet" in row.offers and "greet" in row.load and bool(row.stamp_ms)


# ---- the contract


@pytest.fixture(scope="module")
def both() -> tuple[dict[str, Record], dict[str, Record]]:
    return by_driver(), by_world()


@pytest.mark.parametrize("node", NAMES)
def test_the_same_story_has_the_same_entries_and_effects_in_the_same_order(both: Any, node: str) -> None:
    driver, world = both
    for kind in ("append", "send", "reply", "execute"):
        found = [[done for done in records[node].done if done[0] == kind] for records in both]
        assert found[0] == found[1]
    # Across kinds only the disk's own speed may reorder: what needs nothing of it keeps its place among its like.
    assert sorted(map(str, driver[node].done)) == sorted(map(str, world[node].done))


@pytest.mark.parametrize("number", [0, 1], ids=["driver", "world"])
def test_the_story_is_whole(both: Any, number: int) -> None:
    boss, hand = both[number]["boss"], both[number]["hand"]
    entries = {name: [done[1] for done in record.done if done[0] == "append"] for name, record in both[number].items()}
    assert [kind for kind in entries["boss"] if kind != "Calls"] == ["Opened", "Submitted", "Decided", "Bound", "Finished"]
    assert entries["hand"] == ["Opened", "Accepted", "Ended", "Closed"]
    assert len(hand.executed) == 2, "a repeated award runs nothing"
    assert content_hash(hand.executed[0].input) == content_hash(b'{"n":1}')
    assert boss.replies[2] == (True, {"task": hand.executed[1].task, "state": "done", "output": b'"hi"', "files": []})
    assert boss.replies[3][1]["result"] == "hi"


@pytest.mark.parametrize("number", [0, 1], ids=["driver", "world"])
def test_nothing_leaves_before_the_disk_has_what_it_depends_on(both: Any, number: int) -> None:
    for record in both[number].values():
        assert record.early == []
        sends = [done for done in record.done if done[0] == "send"]
        assert {done[4] for done in sends} > {"FREE"}, "of both sorts there was something"
