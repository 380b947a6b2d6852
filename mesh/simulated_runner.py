"""The runner of a `LocalMesh`: real handlers on the test's loop, and a count of those that wait for virtual time."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from mesh.context import Document, TaskInfo
from mesh.ids import TaskId
from mesh.runner import Runner
from mesh.runs import Run

if TYPE_CHECKING:
    from mesh.testing import LocalMesh


class SimulatedRunner(Runner):
    """Knows which of its runs wait for virtual time or for the mesh, and which compute."""

    def __init__(self, mesh: LocalMesh, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._mesh = mesh
        self._waits: dict[str, int] = {}
        self.for_readers = 0
        """Runs that wait for the readers of their streams."""

    def computing(self) -> bool:
        return len(self._runs) - len(self._queue) > len(self._waits) or bool(self._prices)

    @asynccontextmanager
    async def _waiting(self, task: TaskId) -> AsyncIterator[None]:
        self._waits[task] = self._waits.get(task, 0) + 1
        self._mesh._time.touch()
        try:
            yield
        finally:
            self._waits[task] -= 1
            if not self._waits[task]:
                del self._waits[task]
            else:
                self._mesh._time.dealing = True

    async def wait_for_reader(self, run: Run, work: Awaitable[None]) -> None:
        self.for_readers += 1
        try:
            async with self._waiting(run.task):
                await super().wait_for_reader(run, work)
        finally:
            self.for_readers -= 1

    async def step(self, task: TaskInfo, name: str, capability: str, arguments: Document, how: Document) -> Any:
        async with self._waiting(task.id):
            return await super().step(task, name, capability, arguments, how)

    async def checkpoint(self, task: TaskInfo, value: Any, signals: dict[str, int], anew: bool) -> None:
        async with self._waiting(task.id):
            await super().checkpoint(task, value, signals, anew)

    async def call(self, task: TaskInfo, capability: str, arguments: Document, how: Document) -> Any:
        async with self._waiting(task.id):
            return await super().call(task, capability, arguments, how)

    async def effect_begin(self, task: TaskInfo, key: str, call: int, at_most_once: bool) -> bytes | None:
        async with self._waiting(task.id):
            return await super().effect_begin(task, key, call, at_most_once)

    async def effect_end(self, task: TaskInfo, key: str, call: int, output: bytes, error: str) -> None:
        async with self._waiting(task.id):
            await super().effect_end(task, key, call, output, error)

    async def spend(self, task: TaskInfo, kind: str, key: str, amounts: list[list[Any]]) -> Document:
        async with self._waiting(task.id):
            return await super().spend(task, kind, key, amounts)

    async def of_handler(self, task: TaskInfo, question: str, args: Document, scope: str) -> Document:
        async with self._waiting(task.id):
            return await super().of_handler(task, question, args, scope)

    async def sleep(self, task: TaskInfo, seconds: float) -> None:
        async with self._waiting(task.id):
            await super().sleep(task, seconds)

    async def publish(self, task: TaskInfo, topic: str, event_id: str, given: Document) -> Document:
        async with self._waiting(task.id):
            return await super().publish(task, topic, event_id, given)
