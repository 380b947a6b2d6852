"""What a simulated host keeps of others' logs: synced before it is told, gone with a crash before that, read back alike."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest

from mesh.core.deadlines import Deadlines
from mesh.core.directory import Directory
from mesh.core.inputs import Call, NewHead, Replay, Started, TurnEnds
from mesh.core.keeping.inputs import ShelfKnown, ShelfRead, Shelved, TaleRead
from mesh.core.node import Node
from mesh.effects import Append, LogState, Need, ReadShelf, ReadTale, Shelve
from mesh.ids import content_hash
from mesh.limits import RecordsLimits
from mesh.messages.keeping import Block, Yield
from mesh.messages.membership import Alive
from mesh.messages.records import Accepted, Guarded, Parked
from mesh.messages.signed import Signed
from mesh.sim.disk import Disk, Group
from mesh.sim.world import World


class Keeper:
    """Yields what a `Call` brings along, and writes down what it is told."""

    def __init__(self) -> None:
        self.told: list[Any] = []
        write: Callable[..., None] = lambda now_s, sender, item: self.told.append(item)  # noqa: E731
        kinds = (Started, NewHead, Replay, ShelfKnown, Shelved, ShelfRead, TaleRead)
        self.inputs: dict[type, Any] = {Call: self._call, TurnEnds: lambda now_s, sender, item: None, **dict.fromkeys(kinds, write)}

    def _call(self, now_s: float, sender: str, item: Call) -> Iterable[Any]:
        yield item.capability

    def got(self, kind: type) -> list[Any]:
        return [item for item in self.told if type(item) is kind]


def build(me: Alive, random: Random, seq: int, head: bytes) -> Any:
    machine = Keeper()
    return SimpleNamespace(node=Node(me.node, (machine,), Deadlines(), seq), directory=Directory(me.node), machine=machine)


@pytest.fixture
def world() -> World:
    made = World(("a",), 1, build_node=build, sync_s=0.01)
    made.start("a")
    return made


def ask(world: World, effect: Any, for_s: float = 1.0) -> None:
    world.push(world.now_s, "a", "a", Call(1, effect, b""))
    world.run(world.now_s + for_s)


def keeper(world: World) -> Keeper:
    machine: Keeper = world.hosts["a"].assembly.machine
    return machine


def blocks_of(author: str, term: int, *lengths: int) -> list[Block]:
    """Commits as their author's disk writes them, each entry with a body."""
    disk = Disk(author, 0.0)
    disk.begin_life()
    found = []
    for length in lengths:
        for _ in range(length):
            body = b"%d" % disk.waiting + author.encode()
            disk.add(Accepted(f"t{disk.seq + disk.waiting + 1}", 1, "m", "c", content_hash(body)), {content_hash(body): body})
        disk.begin_sync(RecordsLimits())
        group, _ = disk.end_sync(0)
        assert group is not None
        found.append(Block(term, group.signed, group.entries, group.bodies))
    return found


def shelve(ticket: int, blocks: Iterable[Block] = (), cut: tuple[int, int] | None = None, term: int = 1) -> Shelve:
    return Shelve("b", ticket, LogState(term, "b"), cut, tuple(blocks), need=Need.FREE)


def read(world: World, author: str = "b", since: tuple[int, int] = (0, 0), until: tuple[int, int] = (9, 99), size: int = 1 << 20) -> Any:
    ask(world, ReadShelf(7, author, since, until, size, need=Need.FREE))
    return list(keeper(world).got(ShelfRead)[-1].blocks)


def test_what_is_shelved_is_told_after_the_sync_and_read_back_in_order(world: World) -> None:
    blocks = blocks_of("b", 1, 2, 1, 3)
    ask(world, shelve(1, blocks[:2]), 0.001)
    assert keeper(world).got(Shelved) == [], "the sync is under way"
    ask(world, shelve(2, blocks[2:]))
    assert keeper(world).got(Shelved) == [Shelved("b", 1), Shelved("b", 2)]
    assert read(world) == blocks
    assert read(world, since=(1, 2)) == blocks[1:] and read(world, until=(1, 3)) == blocks[:2]
    assert read(world, since=(1, 6)) == [] and read(world, "c") == []
    assert read(world, size=1) == blocks[:1], "one at least"


def test_a_cut_forgets_what_follows_and_a_yield_stands_behind_the_entries(world: World) -> None:
    blocks = blocks_of("b", 1, 2, 1, 3)
    ask(world, shelve(1, blocks))
    took = Block(3, Signed("c", Yield("b", 3, 3, "c")))
    ask(world, shelve(2, [took], cut=(1, 3), term=3))
    assert read(world) == [*blocks[:2], took]
    assert read(world, since=(1, 3)) == [took] and read(world, until=(2, 99)) == blocks[:2]


def test_a_tale_gives_entries_with_their_bodies(world: World) -> None:
    ask(world, shelve(1, blocks_of("b", 1, 2, 3)))
    ask(world, ReadTale(5, "b", 1, 3, need=Need.FREE))
    (tale,) = keeper(world).got(TaleRead)
    assert [(seq, entry.task) for seq, entry, _ in tale.rows] == [(2, "t2"), (3, "t3"), (4, "t4")] and tale.more
    assert all(list(bodies) == [entry.input] for _, entry, bodies in tale.rows)
    ask(world, ReadTale(6, "b", 4, 3, need=Need.FREE))
    assert [(seq, entry.task) for seq, entry, _ in keeper(world).got(TaleRead)[1].rows] == [(5, "t5")]
    assert not keeper(world).got(TaleRead)[1].more


@pytest.mark.parametrize("keep", [True, False])
def test_a_crash_keeps_a_shelving_with_the_group_it_is_written_in(world: World, keep: bool) -> None:
    blocks = blocks_of("b", 1, 1, 1, 1)
    ask(world, shelve(1, blocks[:1]))
    ask(world, shelve(2, blocks[1:2], term=2), 0.001)
    ask(world, shelve(3, blocks[2:], term=3), 0.001)
    world.crash("a", keep_written=keep)
    world.start("a")
    world.run(world.now_s + 1.0)
    known = [ShelfKnown("b", LogState(2 if keep else 1, "b"))]
    assert keeper(world).told[:2] == [*known, Started(())], "what an earlier life kept comes before the life begins"
    assert read(world) == blocks[: 2 if keep else 1]
    assert keeper(world).got(Shelved) == []


def test_entries_and_shelvings_share_one_sync_in_order(world: World) -> None:
    host = world.hosts["a"]
    ask(world, Append(Parked("t1", "toy")), 0.001)
    for effect in (Append(Parked("t2", "toy")), shelve(1, blocks_of("b", 1, 1)), Append(Parked("t3", "toy"))):
        ask(world, effect, 0.0001)
    world.run(world.now_s + 1.0)
    assert [group.last for group in host.disk.groups] == [1, 3]
    told = [
        item.signed.body.count if type(item) is NewHead else item.ticket for item in keeper(world).told if type(item) in (NewHead, Shelved)
    ]
    assert told == [1, 1, 2], "the shelving first: for the keepers of what is its own nothing waits"


def test_the_own_log_is_read_from_the_journal(world: World) -> None:
    disk = world.hosts["a"].disk
    for entry in (Parked("t1", "toy"), Guarded(4, ("a", "b")), Parked("t3", "toy")):
        ask(world, Append(entry, {content_hash(b"x"): b"x"}))
    ask(world, Shelve("a", 1, LogState(), None, (Block(3, Signed("c", Yield("a", 3, 1, "c"))),), need=Need.FREE))
    groups: list[Group] = disk.groups
    old, *new = [(group.signed, group.entries, group.bodies) for group in groups]
    assert read(world, "a", until=(1, 1)) == [Block(1, *old)]
    assert read(world, "a", since=(1, 1), until=(3, 1)) == [Block(3, Signed("c", Yield("a", 3, 1, "c")))]
    assert read(world, "a", since=(3, 1), until=(4, 3)) == [Block(4, *new[0], ("a", "b")), Block(4, *new[1])]
    assert read(world, "a", since=(5, 1), until=(5, 2)) == [Block(5, *new[0])], "of another term: no change of who keeps it"
