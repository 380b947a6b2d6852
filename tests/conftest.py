"""A toy node for tests of the local path: real Unix sockets, real components, and a core of a page that awards everything at once."""

from __future__ import annotations

import asyncio
import inspect
import json
import signal
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from mesh.client import Mesh
from mesh.core.inputs import (
    Call,
    Drain,
    Enquire,
    HandlerEnded,
    Leave,
    RequestGone,
    Step,
    Submit,
    WorkerAttached,
)
from mesh.core.work.inputs import EffectBegin, EffectEnd
from mesh.effects import Execute, Need, Price, Reply, Stop
from mesh.limits import WorkLimits
from mesh.messages.signed import Signed
from mesh.reconnecting import Reconnecting
from mesh.runtime.clock import now_ms
from mesh.runtime.disk.blobs import Blobs
from mesh.runtime.disk.secrets import SecretDesk, Secrets
from mesh.runtime.disk.vault import open_vault
from mesh.runtime.home import Home
from mesh.runtime.local import LocalServer
from mesh.runtime.workers import Workers
from mesh.worker import Worker

# Started by something that ignores SIGINT (a job in the background), our children would ignore it too, and with it every Ctrl-C test.
signal.signal(signal.SIGINT, signal.default_int_handler)

SLOW = ("tests/inspector/", "tests/runtime/disk/", "tests/sim/", "tests/test_isolated.py")
"""What starts processes or runs many seeds: left out by ``scripts/test --fast``, as are those marked cluster."""


FIRST = (
    "tests/inspector/launch/test_launch.py",
    "tests/attacks/",
    "tests/stories/",
    "tests/sim/test_planted_bugs.py",
    "tests/sim/test_revocation.py",
    "tests/cluster/",
    "tests/hosts/",
    "tests/sim/",
    "tests/inspector/",
    "tests/test_isolated.py",
    "tests/runtime/",
)
"""Two run side by side and take a file at a time in this order: a long one begun last would leave the other with nothing to do."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.nodeid.startswith(SLOW):
            item.add_marker(pytest.mark.slow)
    items.sort(key=lambda item: next((place for place, start in enumerate(FIRST) if item.nodeid.startswith(start)), len(FIRST)))


class Toy:
    """One node. `seen` are all inputs its core got; `until(test)` waits for one. `lease_ms` may be changed before a call."""

    def __init__(self, folder: Path, **limits: Any) -> None:
        self.path = folder / "node.sock"
        self.lease_ms = 60_000
        self.execute_timeout_ms = 0
        self.answers = True
        self.seen: list[Any] = []
        self.stopped = asyncio.Event()
        self.blobs = Blobs(folder / "files", "toy", self.tell)
        self.workers = Workers("toy", self.tell)
        views = {"status": lambda _: {"schema": "mesh.status/1", "node": "toy"}, "slow": self._slow}
        self.server = LocalServer(
            self.path,
            "toy",
            self.tell,
            self.workers,
            self.blobs,
            views,
            WorkLimits(**limits),
            name="toy",
            stop=self.stopped.set,
            secret=self._secret,
            seal=lambda verdict: Signed("toy", verdict, b"signed"),
        )
        self.home = Home(folder / "home")
        self.audited: list[tuple[str, str, str, str]] = []
        self._inbox: deque[Any] = deque()
        self._scheduled = False
        self._watchers: list[tuple[Callable[[Any], bool], asyncio.Future[Any]]] = []
        self._offers: dict[str, int] = {}
        self._requests: dict[str, list[int]] = {}
        self._ended: dict[str, HandlerEnded] = {}
        self._steps: dict[tuple[str, str], str] = {}
        self.effects: dict[tuple[str, str], bytes] = {}
        self._running: dict[str, int] = {}
        self._capabilities: dict[str, str] = {}
        self._count = 0
        self.perform = self.workers.effects | self.server.effects | self.blobs.effects

    async def _slow(self, _: dict[str, Any]) -> dict[str, Any]:
        await asyncio.sleep(0)
        return {"slow": True}

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Toy]:
        async with anyio.create_task_group() as tasks:
            await tasks.start(self.blobs.run)
            await tasks.start(self.server.run)
            yield self
            tasks.cancel_scope.cancel()

    def tell(self, _sender: str, body: Any) -> None:
        self._inbox.append(body)
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._turn)

    def _turn(self) -> None:
        self._scheduled = False
        while self._inbox:
            body = self._inbox.popleft()
            self.seen.append(body)
            for effect in self._handle(body) if self.answers else ():
                self.perform[type(effect)](effect)
            for watch in self._watchers[:]:
                if watch[0](body):
                    self._watchers.remove(watch)
                    watch[1].set_result(body)
        self.workers.flush()
        self.server.flush()

    async def until(self, test: Callable[[Any], bool] | type) -> Any:
        """The first input, past or to come, that fits."""
        fits = (lambda body: isinstance(body, test)) if isinstance(test, type) else test
        for body in self.seen:
            if fits(body):
                return body
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._watchers.append((fits, future))
        return await asyncio.wait_for(future, 10)

    # ---- the core

    def _handle(self, body: Any) -> list[Any]:
        match body:
            case WorkerAttached():
                self._offers |= {offer.capability: body.worker for offer in body.offers}
                for task, fence in body.running:
                    self._running[task] = body.worker
                    if task not in self._requests and task not in self._ended:
                        return [Stop(body.worker, task, fence, "unknown")]
            case Call():
                return self._begin(body.request, body)
            case Submit():
                task = self._new()
                self._requests[task] = []
                return [Reply(body.request, True, {"task": task, "survives": "restart"}), self._execute(task, body)]
            case Step():
                task = self._steps.get((body.parent, body.name))
                if task is None:
                    return self._begin(body.request, body)
                self._requests[task].append(body.request)
                return self._answers(task)
            case EffectBegin():
                known = self.effects.get((body.task, body.key))
                return [Reply(body.request, True, {"state": "go", "output": b""} if known is None else {"state": "done", "output": known})]
            case EffectEnd():
                if not body.error:
                    self.effects[body.task, body.key] = body.output
                return [Reply(body.request, True, {"state": "noted", "output": b""})]
            case HandlerEnded():
                self._ended[body.task] = body
                self._running.pop(body.task, None)
                return self._answers(body.task)
            case RequestGone():
                gone = [task for task, requests in self._requests.items() if body.request in requests]
                return [Stop(self._running[task], task, 1, "gone") for task in gone if task in self._running]
            case Enquire():
                return self._enquire(body)
            case Drain():
                return [Reply(body.request, True, {"draining": not body.undo, "running": len(self._running)})]
            case Leave():
                return [Reply(body.request, True, {})]
        return []

    def _new(self) -> str:
        self._count += 1
        return f"toy.1.{self._count}"

    def _begin(self, request: int, body: Any) -> list[Any]:
        if body.capability not in self._offers:
            error = {"code": "no_such_capability", "message": f"nobody here offers {body.capability!r}", "fix": "mesh caps"}
            return [Reply(request, False, error)]
        task = self._new()
        self._requests[task] = [request]
        if isinstance(body, Step):
            self._steps[body.parent, body.name] = task
        return [self._execute(task, body)]

    def _execute(self, task: str, body: Any) -> Execute:
        worker = self._running[task] = self._offers[body.capability]
        self._capabilities[task] = body.capability
        parent = getattr(body, "parent", "")
        return Execute(
            worker, task, 1, body.capability, body.input, now_ms() + self.lease_ms, self.execute_timeout_ms, parent, 1, need=Need.FREE
        )

    def _answers(self, task: str) -> list[Any]:
        ended = self._ended.get(task)
        if ended is None:
            return []
        requests, self._requests[task] = self._requests.get(task, []), []
        state = {"ok": "done", "cancelled": "cancelled"}.get(ended.outcome, "failed")
        if state == "done":
            body: dict[str, Any] = {"task": task, "state": state, "output": ended.output}
        else:
            error = {"code": ended.error.get("kind", ended.outcome), "message": ended.outcome} | ended.error
            body = {"task": task, "state": state, "error": error}
        return [Reply(request, True, body) for request in requests]

    def _enquire(self, body: Enquire) -> list[Any]:
        if body.key not in self._requests:
            return [Reply(body.request, False, {"code": "unknown_task", "message": f"{body.key!r} is no task", "fix": "mesh tasks"})]
        if body.question == "result":
            ended = self._ended.get(body.key)
            assert ended is not None, "toys answer what has ended"
            return [Reply(body.request, True, {"task": body.key, "state": "done", "result": json.loads(ended.output)})]
        if body.question == "cancel":
            return [
                Stop(self._running[body.key], body.key, 1, "asked"),
                Reply(body.request, True, {"task": body.key, "state": "cancelling"}),
            ]
        return [Reply(body.request, True, {"task": body.key, "state": "held"})]

    # ---- secrets

    def keep(self, name: str, text: str, *scope: str) -> None:
        self._secrets().set(name, text, scope or ("*",))

    def _secrets(self) -> Secrets:
        return Secrets(self.home, lambda: open_vault(self.home, "file", environ={}))

    def _secret(self, worker: int, name: str, task: str, fence: int) -> str:
        return SecretDesk(self._secrets(), self._held, self._audit, lambda *_: None).read(worker, name, task, fence)

    def _held(self, worker: int, task: str, fence: int) -> str:
        return self._capabilities[task] if (self._running.get(task), fence) == (worker, 1) else ""

    def _audit(self, *, what: str, about: str, by: str, note: str) -> None:
        self.audited.append((what, about, by, note))

    # ---- what tests do with it

    def price(self, capability: str, data: bytes) -> None:
        self.perform[Price](Price(self._offers[capability], 7, "toy.1.99", capability, data))
        self.workers.flush()

    @asynccontextmanager
    async def serving(self, *agents: Any) -> AsyncIterator[list[Worker]]:
        """Workers of `agents`, attached."""
        workers = [Worker(agent, lambda: self.path) for agent in agents]
        tasks = [asyncio.ensure_future(worker.run()) for worker in workers]
        try:
            for agent in agents:
                await self.until(lambda body, agent=agent: isinstance(body, WorkerAttached) and body.agent == agent.name)
            yield workers
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    @asynccontextmanager
    async def client(self) -> AsyncIterator[Mesh]:
        connection = Reconnecting(lambda: self.path)
        await connection.open()
        try:
            yield Mesh(connection, 10.0)
        finally:
            connection.close()


@pytest.fixture
def with_toy(tmp_path: Path) -> Callable[[Callable[[Toy], Awaitable[None]]], None]:
    """``with_toy(story)`` runs the async function `story` with a toy node that listens."""

    def run(story: Callable[[Toy], Awaitable[None]], **limits: Any) -> None:
        async def main() -> None:
            async with Toy(tmp_path, **limits).running() as toy:
                await asyncio.wait_for(story(toy), 30)

        assert inspect.iscoroutinefunction(story)
        asyncio.run(main())

    return run


@pytest.fixture
def toy_class() -> type[Toy]:
    """For tests that start and stop toys themselves."""
    return Toy
