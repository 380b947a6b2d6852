"""The driver: a turn is a callback of the event loop, whoever asked for it, and components may do in it all that a task may."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import anyio
import pytest

from mesh.core.inputs import TurnEnds
from mesh.core.outbox import Outbox
from mesh.runtime.driver import Driver


@dataclass
class Knock:
    after: int = 0


class Door:
    """A node whose every input yields one effect, and the component that performs it by starting a task."""

    me = "otter"
    seq = 0

    def __init__(self) -> None:
        self.effects: dict[type, Callable[[Any], None]] = {Knock: self._do_knock}
        self.opened = anyio.Event()
        self.tasks: anyio.abc.TaskGroup

    def handle(self, _now_s: float, _sender: str, body: Any = None) -> list[Any]:
        if isinstance(body, Exception):
            raise body
        return [] if body is None or type(body) is TurnEnds else [Knock()]

    def wake_at(self) -> float | None:
        return None

    def take(self) -> None:
        return None

    def waiting(self) -> bool:
        return False

    def refused(self, peer: str) -> None: ...

    def add(self, seq: int, entry: Any, bodies: dict[str, bytes]) -> None:
        raise AssertionError("nothing is appended")

    def flush(self) -> None: ...

    flush_soon = flush

    def _do_knock(self, _: Knock) -> None:
        self.tasks.start_soon(self._open)

    async def _open(self) -> None:
        self.opened.set()


async def _knocked(tell: Callable[[Driver], None]) -> None:
    door = Door()
    driver = Driver(door, lambda: 0.0, door, door, Outbox(), 0.0)  # type: ignore[arg-type]
    driver.add(door)
    async with anyio.create_task_group() as door.tasks:
        door.tasks.start_soon(driver.run)
        await asyncio.sleep(0)
        tell(driver)
        with anyio.fail_after(10):
            await door.opened.wait()
        door.tasks.cancel_scope.cancel()


def _from_a_thread(driver: Driver) -> None:
    thread = threading.Thread(target=driver.tell_threadsafe, args=("otter", "knock"))
    thread.start()
    thread.join()


def test_a_component_may_start_a_task_in_a_turn_that_a_thread_asked_for() -> None:
    asyncio.run(_knocked(_from_a_thread))


def test_a_component_may_start_a_task_in_a_turn_of_any_loop() -> None:
    asyncio.run(_knocked(lambda driver: driver.tell("otter", "knock")))
    anyio.run(_knocked, lambda driver: driver.tell("otter", "knock"))


def test_what_a_turn_raises_ends_the_run() -> None:
    with pytest.raises(BaseExceptionGroup) as raised:
        asyncio.run(_knocked(lambda driver: driver.tell("otter", KeyError("a kind without a method"))))
    assert raised.group_contains(KeyError)
