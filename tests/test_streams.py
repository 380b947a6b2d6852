"""Streams across nodes: in order, paced by their reader, through lost messages and killed nodes; and the bugs that would show here."""

from __future__ import annotations

import asyncio
import gc
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from mesh import Agent, Context, File, StreamRestarted
from mesh.core.work.stream import Stream as ManagersStream
from mesh.core.work.streams import Streams
from mesh.errors import InvalidArgument, NoSuchCapability, TaskFailed, TimedOut, TooBig
from mesh.limits import WorkLimits
from mesh.messages.work import Items, Taken
from mesh.outflow import Outflow
from mesh.sim.network import Network
from mesh.testing import LocalMesh

WINDOW = WorkLimits().stream_items_max
NODES = ("n2", "n3")


def run(work: Awaitable[Any], limit_s: float = 30) -> Any:
    async def bounded() -> Any:
        return await asyncio.wait_for(work, limit_s)

    return asyncio.run(bounded())


class Made:
    """What the handlers of an agent have done."""

    def __init__(self) -> None:
        self.count = 0
        self.closed = 0
        self.agent = Agent("counter")
        self._declare()

    def _declare(self) -> None:
        @self.agent.capability(idempotent=True)
        async def again(ctx: Context, n: int, pause_s: float = 0.1) -> AsyncIterator[int]:
            """The same items each time."""
            for i in range(n):
                await ctx.sleep(pause_s)
                self.count += 1
                yield i

        @self.agent.capability
        async def once(ctx: Context, n: int, pause_s: float = 0.1) -> AsyncIterator[str]:
            """Items that tell which attempt made them."""
            try:
                for i in range(n):
                    await ctx.sleep(pause_s)
                    self.count += 1
                    yield f"{ctx.task.attempt}.{i}"
            finally:
                self.closed += 1

        @self.agent.capability
        def plain(n: int, size: int = 1) -> Iterator[str]:
            for i in range(n):
                self.count += 1
                yield str(i) * size

        @self.agent.capability(idempotent=True, retries=1)
        async def stumbles(ctx: Context, n: int, fewer: int = 0) -> AsyncIterator[int]:
            """Fails at its middle the first time."""
            for i in range(n if ctx.task.attempt == 1 else n - fewer):
                if ctx.task.attempt == 1 and i == n // 2:
                    raise ValueError("stumbled")
                yield i

        @self.agent.capability
        def breaks(n: int) -> Iterator[int]:
            yield from range(n)
            raise ValueError("broken")

        @self.agent.capability
        def files(n: int) -> Iterator[File]:
            for i in range(n):
                with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
                    file.write(str(i))
                    file.flush()
                    yield File.of(file.name)

        @self.agent.capability
        async def single(x: int) -> int:
            return x


def mesh(made: Made, seed: int = 1) -> LocalMesh:
    return LocalMesh(nodes={"n1": [], **{node: [made.agent] for node in NODES}}, seed=seed)


async def read(stream: Any, at: Callable[[int], Awaitable[None]] | None = None) -> list[list[Any]]:
    """All items, a list for each beginning. `at` is called after each item with how many there were in all."""
    parts: list[list[Any]] = [[]]
    count = 0
    async with stream as items:
        while True:
            try:
                async for item in items:
                    parts[-1].append(item)
                    count += 1
                    if at is not None:
                        await at(count)
                return parts
            except StreamRestarted as error:
                assert error.read == len(parts[-1])
                parts.append([])


async def owner(m: LocalMesh) -> str:
    while True:
        for row in (await m.tasks())["tasks"]:
            if row["state"] == "held":
                return str(row["owner"])
        await m.sleep(0.01)


def whole(parts: list[list[Any]], n: int) -> None:
    """The judge of a stream that can be replayed: every item once, in order, and no restart."""
    assert parts == [list(range(n))]


def begun_anew(parts: list[list[Any]], n: int) -> None:
    """The judge of one that cannot: each part is of one attempt, from its first item; the last is complete."""
    for part in parts:
        attempts = {item.split(".")[0] for item in part}
        assert len(attempts) <= 1 and [int(item.split(".")[1]) for item in part] == list(range(len(part)))
    assert len(parts[-1]) == n and len({part[0][0] for part in parts if part}) == len([part for part in parts if part])


def test_items_come_in_order_and_a_call_or_a_submission_gives_their_list() -> None:
    async def story() -> None:
        made = Made()
        async with mesh(made) as m:
            assert [item async for item in m.stream("again", n=5)] == list(range(5))
            assert [item async for item in m.at("n3").stream("plain", n=300)] == [str(i) for i in range(300)]
            assert [item async for item in m.stream("again", n=0)] == []
            assert [item async for item in m.stream("single", x=7)] == [7]
            assert await m.call("plain", n=3) == ["0", "1", "2"]
            task = await m.submit("again", n=3)
            assert await task.result() == [0, 1, 2]
            assert (await m.at("n2").task(task.id))["state"] == "done"
            with pytest.raises(TaskFailed, match=r"the items of plain, collected, is .* bytes as JSON, over"):
                await m.call("plain", n=100, size=6000)
            assert len([item async for item in m.stream("plain", n=100, size=6000)]) == 100, "more than fits a result"
            with pytest.raises(TaskFailed, match="an item of plain is"):
                await read(m.stream("plain", n=1, size=600_000))

    run(story())


def test_what_goes_wrong_is_said_as_for_a_call() -> None:
    async def story() -> None:
        made = Made()
        async with mesh(made) as m:
            with pytest.raises(NoSuchCapability, match="agan"):
                await read(m.stream("agan", n=1))
            with pytest.raises(InvalidArgument):
                await read(m.stream("again", m=1))
            with pytest.raises(TooBig):
                await read(m.stream("plain", n="x" * 600_000))
            with pytest.raises(TimedOut, match="the next item of the stream of 'again'"):
                await read(m.options(timeout_s=2).stream("again", n=2, pause_s=5))
            await m.sleep(1)
            assert all(row["state"] != "held" for row in (await m.tasks())["tasks"]), "nobody reads it: it is cancelled"

    run(story())


@pytest.mark.parametrize("capability", ["once", "plain"])
def test_a_slow_reader_slows_the_handler(capability: str) -> None:
    async def story() -> None:
        made = Made()
        async with mesh(made) as m:
            taken, waits = 0, {1, 70, 140}

            async def at(count: int) -> None:
                nonlocal taken
                if count in waits:
                    await m.sleep(60)
                    # Up to `count - 1` at most had been asked beyond; one item more is made, and waits for room.
                    assert made.count <= count + WINDOW + 1
                    taken += 1

            parts = await read(m.stream(capability, n=200) if capability == "plain" else m.stream("once", n=200, pause_s=0.01), at)
            assert len(parts) == 1 and len(parts[0]) == 200 and taken == 3

    run(story())


def test_large_items_are_bounded_by_their_bytes() -> None:
    async def story() -> None:
        made = Made()
        async with mesh(made) as m:
            stream = m.stream("plain", n=10, size=300 * 1024)
            async with stream as items:
                assert len(await anext(items)) == 300 * 1024
                await m.sleep(60)
                assert made.count <= 1 + 4, "1 MiB, and one that waits"
                assert len([item async for item in items]) == 9

    run(story())


@pytest.mark.parametrize("capability", ["again", "once"])
def test_its_handler_is_killed_at_every_item(capability: str) -> None:
    async def story() -> None:
        made = Made()
        n = 7
        async with mesh(made) as m:
            for index in range(n + 1):
                for node in NODES:
                    if not m.world.hosts[node].up:
                        m.restart(node)
                await m.sleep(8)

                async def at(count: int, index: int = index) -> None:
                    if count == index:
                        m.kill(await owner(m))

                stream = m.stream(capability, n=n)
                if index == 0:
                    reading = asyncio.ensure_future(read(stream))
                    m.kill(await owner(m))
                    parts = await reading
                elif index == n:
                    parts = await read(stream)  # its handler has ended by then, or will at once: nobody is left to kill
                else:
                    parts = await read(stream, at)
                if capability == "again":
                    whole(parts, n)
                else:
                    begun_anew(parts, n)
                    assert len(parts) == (2 if 0 < index < n else 1)

    run(story())


def lossy(patch: pytest.MonkeyPatch, seed: int, rate: float, kinds: tuple[type, ...] = (Items, Taken)) -> None:
    """So many of these messages never arrive."""
    random, send = Random(seed), Network.send

    def lose(self: Network, sender: str, to: str, stamp_ms: int, echo_ms: int, messages: tuple[Any, ...]) -> None:
        send(self, sender, to, stamp_ms, echo_ms, tuple(m for m in messages if type(m) not in kinds or random.random() >= rate))

    patch.setattr(Network, "send", lose)


def stormy(seed: int, capability: str = "again", n: int = 150) -> list[list[Any]]:
    """A third of the pieces is lost, the node is cut off for a moment, and one is killed at some item."""

    async def story() -> list[list[Any]]:
        made, random = Made(), Random(seed)
        victim = random.randrange(5, n - 80)
        async with mesh(made, seed) as m:

            async def at(count: int) -> None:
                if count == victim // 2:
                    m.partition({"n1"}, {await owner(m)})
                    await m.sleep(random.random())
                    m.heal()
                elif count == victim:
                    m.kill(await owner(m))

            return await read(m.options(timeout_s=30).stream(capability, n=n, pause_s=0.01), at)

    parts: list[list[Any]] = run(story())
    return parts


@pytest.mark.parametrize("seed", range(2))
def test_lost_messages_a_partition_and_a_kill_cost_nothing(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    lossy(monkeypatch, seed, 0.33)
    whole(stormy(seed), 150)
    begun_anew(stormy(seed, "once"), 150)


def test_a_reader_who_leaves_ends_the_handler() -> None:
    async def story() -> None:
        made = Made()
        async with mesh(made) as m:
            async with m.stream("once", n=1000) as items:
                assert await anext(items) == "1.0"
            await m.sleep(1)
            assert made.closed == 1
            async for _ in m.stream("once", n=1000):
                break
            gc.collect()
            await m.sleep(1)
            assert made.closed == 2, "a stream that nobody has any more is closed"
            stream = m.stream("once", n=3)
            assert await anext(stream) == "1.0"
            await stream.aclose()
            assert [item async for item in stream] == []
            await m.sleep(1)
            rows = (await m.tasks())["tasks"]
            assert [row["state"] for row in rows] == ["cancelled"] * 3
            await m.sleep(5)
            assert len(m.world.hosts["n1"].assembly.manager._streams) == 0

    run(story())


def test_a_handler_that_fails_gives_what_it_had() -> None:
    async def story() -> None:
        made = Made()
        async with mesh(made) as m:
            whole(await read(m.stream("stumbles", n=10)), 10)
            got: list[int] = []
            with pytest.raises(TaskFailed, match="broken"):
                async for item in m.stream("breaks", n=150):
                    got.append(item)  # noqa: PERF401  those before the error count
            assert got == list(range(150)), "all of them, and then the reason"
            with pytest.raises(TaskFailed, match="the stream ended after 4 items, and an earlier attempt had given 5"):
                await read(m.stream("stumbles", n=10, fewer=6))

    run(story())


def test_items_may_hold_files(tmp_path: Path) -> None:
    async def story() -> None:
        made = Made()
        async with mesh(made) as m:
            client = m.at("n1")
            files = [file async for file in client.stream("files", n=3)]
            for i, file in enumerate(files):
                await client.get(file.sha256, tmp_path / "got")
                assert (tmp_path / "got").read_text() == str(i) and file.size == 1
            assert [file.sha256 for file in await client.call("files", n=2)] == [file.sha256 for file in files[:2]]

    run(story())


# ---- planted bugs


def forgets_what_was_received(patch: pytest.MonkeyPatch) -> None:
    """After a re-award the items come once more."""
    begin = ManagersStream.begin

    def twisted(self: ManagersStream, attempt: int, *, replays: bool) -> Any:
        if replays:
            self.items.clear()
            self.received = self.handed = self.taken = 0
        return begin(self, attempt, replays=replays)

    patch.setattr(ManagersStream, "begin", twisted)


def passes_over_one_too_many(patch: pytest.MonkeyPatch) -> None:
    """A new attempt drops an item that its reader does not have."""
    put, dropped = Outflow.put, set[Outflow]()

    async def twisted(self: Outflow, data: bytes) -> None:
        if self._skip and self._count == self._skip and self not in dropped:
            dropped.add(self)
        else:
            await put(self, data)

    patch.setattr(Outflow, "put", twisted)


def takes_every_piece_for_the_next(patch: pytest.MonkeyPatch) -> None:
    """What is sent once more counts as new, and what was lost as never there."""
    on_items = Streams._on_items

    def twisted(self: Streams, now_s: float, sender: str, made: Items) -> Any:
        task = self._book.tasks.get(made.task)
        if task is not None and task.stream is not None:
            made.first = task.stream.received + 1
        return on_items(self, now_s, sender, made)

    patch.setattr(Streams, "_on_items", twisted)


def says_nothing_of_a_new_beginning(patch: pytest.MonkeyPatch) -> None:
    """The items of the second attempt follow those of the first."""
    begin = ManagersStream.begin

    def twisted(self: ManagersStream, attempt: int, *, replays: bool) -> Any:
        yield from begin(self, attempt, replays=replays)
        self.epoch = 0

    patch.setattr(ManagersStream, "begin", twisted)


def never_sends_again(patch: pytest.MonkeyPatch) -> None:
    """What was lost on the way stays lost."""
    taken = Outflow.taken
    patch.setattr(Outflow, "taken", lambda self, upto, again: taken(self, upto, False))


PLANTED = (
    (forgets_what_was_received, "again"),
    (passes_over_one_too_many, "again"),
    (takes_every_piece_for_the_next, "again"),
    (says_nothing_of_a_new_beginning, "once"),
    (never_sends_again, "again"),
)


@pytest.mark.parametrize(("plant", "capability"), PLANTED, ids=lambda value: getattr(value, "__name__", value))
def test_a_planted_bug_shows(plant: Callable[[pytest.MonkeyPatch], None], capability: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lossy(monkeypatch, 1, 0.33)
    plant(monkeypatch)
    judge = whole if capability == "again" else begun_anew
    with pytest.raises((AssertionError, TimedOut, TaskFailed)):
        judge(stormy(1, capability), 150)
