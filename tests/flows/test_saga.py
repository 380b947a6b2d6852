"""The order in which things are undone: that in which they ended, whatever a driver heard first."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

from mesh import Context
from mesh.flows.saga import Committed, Saga
from mesh.flows.spec import Step


class Ledger:
    """A context whose effects are on record."""

    def __init__(self) -> None:
        self.record: dict[str, Any] = {}

    async def effect(self, key: str, function: Callable[[], Any]) -> Any:
        if key not in self.record:
            self.record[key] = await function()
        return self.record[key]


def work(name: str, ended_ms: int, index: int | None = None) -> Committed:
    return Committed(name, cast(Step, None), {}, 0, None, index, None, ended_ms)


async def undone(*heard: tuple[str, list[Committed]]) -> list[str]:
    saga = Saga(cast(Context, Ledger()))
    for step, works in heard:
        await saga.committed(step, works)
    return [one.name for one in saga.to_undo()]


def test_what_ended_later_is_undone_first_whatever_was_heard_first() -> None:
    """A driver that takes over hears of all that has ended at once, and of a loop's last turn before of what a longer way leads to."""
    loop = ("s3", [work("s3#1", 10, 0), work("s3#2", 40, 1)])
    other = ("s4", [work("s4", 30)])
    for heard in ((loop, other), (other, loop)):
        assert asyncio.run(undone(*heard)) == ["s3#2", "s3#1", "s4"]


def test_of_one_millisecond_the_places_on_record_decide() -> None:
    assert asyncio.run(undone(("a", [work("a", 5)]), ("b", [work("b", 5)]))) == ["b", "a"]
    assert asyncio.run(undone(("b", [work("b", 5)]), ("a", [work("a", 5)]))) == ["a", "b"]
