"""What a worker holds of a stream: numbered, bounded, sent in pieces, again when asked, and until it is taken."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from mesh.errors import MeshError
from mesh.outflow import LIMITS, PIECE_BYTES, Collected, Outflow


class Sent:
    def __init__(self, skip: int = 0) -> None:
        self.pieces: list[tuple[int, list[bytes], bool]] = []
        self.outflow = Outflow(("t", 1), skip, self._out, self._wait)

    def _out(self, verb: str, item: list[Any]) -> None:
        task, fence, first, items, last = item
        assert (verb, task, fence) == ("items", "t", 1)
        self.pieces.append((first, items, last))

    @staticmethod
    async def _wait(work: Awaitable[None]) -> None:
        await work

    async def take(self) -> list[tuple[int, list[bytes], bool]]:
        await turns()
        found, self.pieces = self.pieces, []
        return found


async def turns() -> None:
    for _ in range(4):
        await asyncio.sleep(0)


def run(story: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        await asyncio.wait_for(story(), 10)

    asyncio.run(bounded())


def test_what_is_put_in_one_turn_leaves_in_pieces_that_fit() -> None:
    async def story() -> None:
        sent = Sent()
        for data in (b"1", b"2", b"x" * PIECE_BYTES, b"y"):
            await sent.outflow.put(data)
        assert await sent.take() == [(1, [b"1", b"2"], False), (3, [b"x" * PIECE_BYTES], False), (4, [b"y"], False)]
        await sent.outflow.put(b"5")
        assert await sent.take() == [(5, [b"5"], False)]

    run(story)


@pytest.mark.parametrize(("size", "fits"), [(1, LIMITS.stream_items_max), (LIMITS.stream_bytes_max // 4, 4)])
def test_it_waits_when_the_window_is_full(size: int, fits: int) -> None:
    async def story() -> None:
        sent = Sent()
        for _ in range(fits):
            await sent.outflow.put(b"x" * size)
        waiting = asyncio.ensure_future(sent.outflow.put(b"y" * size))
        await turns()
        assert not waiting.done()
        sent.outflow.taken(0, False)
        await turns()
        assert not waiting.done(), "nothing was taken"
        sent.outflow.taken(1, False)
        await waiting

    run(story)


def test_one_item_may_always_go() -> None:
    async def story() -> None:
        await Sent().outflow.put(b"x" * (2 * LIMITS.stream_bytes_max))

    run(story)


def test_what_was_not_taken_is_sent_again() -> None:
    async def story() -> None:
        sent = Sent()
        for i in range(4):
            await sent.outflow.put(b"%d" % i)
        await sent.take()
        sent.outflow.taken(2, False)
        assert await sent.take() == []
        sent.outflow.taken(1, True)
        assert await sent.take() == [(3, [b"2", b"3"], False)]

    run(story)


def test_the_end_is_said_and_waits_until_all_is_taken() -> None:
    async def story() -> None:
        sent = Sent()
        await sent.outflow.put(b"1")
        await sent.take()
        ending = asyncio.ensure_future(sent.outflow.finish())
        assert await sent.take() == [(2, [], True)], "what was sent already is said to be the last"
        sent.outflow.taken(0, True)
        assert await sent.take() == [(1, [b"1"], True)]
        assert not ending.done()
        sent.outflow.taken(1, False)
        assert await ending == b"1"

    run(story)


def test_a_repeated_attempt_passes_over_what_came_before() -> None:
    async def story() -> None:
        sent = Sent(skip=2)
        for i in range(4):
            await sent.outflow.put(b"%d" % i)
        assert await sent.take() == [(3, [b"2", b"3"], False)]
        sent.outflow.taken(1, True)
        assert await sent.take() == [(3, [b"2", b"3"], False)], "of the skipped ones there is nothing to send"
        fewer = Sent(skip=2)
        await fewer.outflow.put(b"0")
        with pytest.raises(MeshError, match="ended after 1 items, and an earlier attempt had given 2"):
            await fewer.outflow.finish()
        same = Sent(skip=1)
        await same.outflow.put(b"0")
        assert await same.outflow.finish() == b"1", "all of it has come already: nobody is waited for"

    run(story)


def test_what_nobody_reads_is_a_list_within_bounds() -> None:
    async def story() -> None:
        sizes: list[int] = []
        collected = Collected(sizes.append)
        assert await collected.finish() == b"[]"
        for data in (b"1", b'"a"'):
            await collected.put(data)
        assert await collected.finish() == b'[1,"a"]' and sizes == [4, 8]

    run(story)
