"""Both callers of the node core hold effects to the same two watermarks: one small node, one story, in the driver and in the world."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import replace
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest

from mesh.core.deadlines import Deadlines
from mesh.core.directory import Directory
from mesh.core.inputs import Call, Found, NewHead, Started, Synced, TurnEnds
from mesh.core.node import Node
from mesh.core.outbox import Outbox
from mesh.core.records.journal import last_of
from mesh.effects import Append, Later, Need, Reply, Watermark
from mesh.limits import Limits, RecordsLimits
from mesh.messages.membership import Alive
from mesh.messages.records import Parked
from mesh.runtime.driver import Driver
from mesh.sim.disk import Disk
from mesh.sim.world import World


class Guarded:
    """Does what a `Call` names: ``write`` needs both watermarks, ``note`` needs none, ``kept N`` and ``forsaken N`` move the second. Writes
    down facts, and what it hears of its journal."""

    def __init__(self) -> None:
        self.facts: list[str] = []
        self.heard: list[int] = []
        nothing: Callable[..., None] = lambda now_s, sender, item: None  # noqa: E731
        self.inputs: dict[type, Any] = {
            Call: self._call,
            Found: self._found,
            NewHead: self._new_head,
            **dict.fromkeys((Started, TurnEnds), nothing),
        }

    def _call(self, now_s: float, sender: str, item: Call) -> Iterable[Any]:
        verb, _, rest = item.capability.partition(" ")
        if verb == "write":
            yield Append(Parked(f"t.{item.request}", "toy"))
            yield Reply(item.request, True, {"needs": "keepers"}, need=Need.KEPT)
            yield Reply(item.request + 100, True, {"needs": "disk"})
            yield Later(Found(f"kept {item.request}"), need=Need.KEPT)
        elif verb == "note":
            yield Append(Parked(f"t.{item.request}", "toy"), lazy=True)
        else:
            yield Watermark(int(rest), int(verb == "forsaken"))

    def _found(self, now_s: float, sender: str, item: Found) -> None:
        assert sender == "a", "a fact for later comes from the node itself"
        self.facts.append(item.address)

    def _new_head(self, now_s: float, sender: str, item: NewHead) -> None:
        self.heard.append(last_of(item.signed.body))


STORY = ("write", "kept 1", "write", "write", "kept 2", "kept 9", "forsaken 2", "write", "kept 4")


def by_driver(story: Iterable[str] = STORY) -> list[Any]:
    async def run() -> list[Any]:
        seen: list[Any] = []
        machine, disk = Guarded(), Disk("a", 0.0)
        disk.begin_life()

        def sync() -> None:
            while disk.begin_sync(RecordsLimits()):
                group, _ = disk.end_sync(0)
                assert group is not None
                driver.tell("a", Synced(group.last))
                driver.tell("a", NewHead(group.signed))

        store = SimpleNamespace(add=lambda seq, entry, bodies: disk.add(entry, bodies), flush_soon=sync)
        quiet = SimpleNamespace(take=lambda: None, waiting=lambda: False, refused=lambda peer: None)
        driver = Driver(Node("a", (machine,), Deadlines()), lambda: 0.0, store, quiet, Outbox(), 60.0)  # type: ignore[arg-type]
        driver.add(SimpleNamespace(effects={Reply: lambda effect: seen.append(effect.request)}, flush=lambda: None))  # type: ignore[arg-type]
        task = asyncio.ensure_future(driver.run())
        for number, verb in enumerate(story, 1):
            driver.tell("a", Call(number, verb, b""))
            for _ in range(20):
                await asyncio.sleep(0)
            seen.append((verb, tuple(machine.facts), tuple(machine.heard)))
        task.cancel()
        await asyncio.wait([task])
        return seen

    return asyncio.run(run())


def by_world(story: Iterable[str] = STORY) -> list[Any]:
    seen: list[Any] = []
    machine = Guarded()

    def build(me: Alive, random: Random, seq: int, head: bytes) -> Any:
        return SimpleNamespace(node=Node("a", (machine,), Deadlines(), seq), directory=Directory("a"))

    world = World(("a",), 1, build_node=build, limits=replace(Limits(), records=RecordsLimits(company_s=60.0)))
    world.start("a")
    perform = world.hosts["a"]._perform
    perform[Reply] = lambda effect: seen.append(effect.request)
    for number, verb in enumerate(story, 1):
        world.push(world.now_s, "a", "a", Call(number, verb, b""))
        world.run(world.now_s + 1.0)
        seen.append((verb, tuple(machine.facts), tuple(machine.heard)))
    return seen


@pytest.mark.parametrize("caller", [by_driver, by_world])
def test_the_story(caller: Callable[[], list[Any]]) -> None:
    found = caller()
    assert [each for each in found if type(each) is int] == [1, 101, 103, 104, 3, 4, 108, 8]
    facts = {number: each[1] for number, each in enumerate([each for each in found if type(each) is tuple], 1)}
    assert facts[1] == ("kept 1",), "while nobody keeps it, what is synced is kept"
    assert facts[4] == ("kept 1",)
    assert facts[5] == ("kept 1", "kept 3"), "entry 2 is the third call's"
    assert facts[6] == ("kept 1", "kept 3", "kept 4"), "the keepers say more than there is: the own disk counts too"
    assert facts[8] == facts[6], "a log that another took over keeps nothing of this node's"
    assert facts[9] == (*facts[6], "kept 8")


def test_both_are_alike() -> None:
    assert by_driver() == by_world()


@pytest.mark.parametrize("caller", [by_driver, by_world])
def test_what_nothing_waits_for_travels_with_what_something_does(caller: Callable[[Iterable[str]], list[Any]]) -> None:
    found = caller(("note", "note", "write", "note", "kept 1", "write", "kept 9", "note"))
    heard = [each[2] for each in found if type(each) is tuple]
    assert heard[:4] == [(), (), (), ()], "three entries in one commit; while nothing waits for the keepers no machine hears of it"
    assert heard[4:] == [(), (3, 5), (3, 5), (3, 5)], "they hear in order, once something does; and the fourth entry went with the fifth"
