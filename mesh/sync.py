"""The mesh for scripts and notebooks: the same methods, blocking.

    from mesh.sync import connect
    with connect() as m:
        print(m.call("greet", name="Bob"))

One event loop in a thread of its own serves a connection. `Context` here is the blocking context of handlers that are plain functions.
"""

from __future__ import annotations

import os
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from anyio.from_thread import BlockingPortal, start_blocking_portal

from mesh import client, streaming
from mesh.blocking import BlockingContext as Context
from mesh.client import TIMEOUT_S, Document
from mesh.state import BlockingState

__all__ = ["Context", "Mesh", "Stream", "Task", "View", "connect"]


@contextmanager
def connect(home: str | os.PathLike[str] | None = None, node: str | None = None, timeout_s: float | None = TIMEOUT_S) -> Iterator[Mesh]:
    """As `mesh.connect`."""
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(client.connect(home, node, timeout_s)) as mesh:
        yield Mesh(portal, mesh)


class Task:
    """As `mesh.client.Task`."""

    def __init__(self, portal: BlockingPortal, task: client.Task) -> None:
        self._portal, self._task = portal, task
        self.id, self.survives = task.id, task.survives

    def result(self, timeout_s: float | None = None) -> Any:
        return self._portal.call(self._task.result, timeout_s)

    def status(self) -> Document:
        return self._portal.call(self._task.status)

    def why(self) -> list[Document]:
        return self._portal.call(self._task.why)

    def cancel(self, reason: str = "") -> Document:
        return self._portal.call(self._task.cancel, reason)

    def __repr__(self) -> str:
        return repr(self._task)


class Stream:
    """As `mesh.streaming.Stream`: an iterator. Use it in ``with``, or read it to its end."""

    def __init__(self, portal: BlockingPortal, stream: streaming.Stream) -> None:
        self._portal, self._stream = portal, stream

    def __iter__(self) -> Stream:
        return self

    def __next__(self) -> Any:
        found = self._portal.call(self._next)
        if not found:
            raise StopIteration
        return found[0]

    async def _next(self) -> tuple[Any, ...]:
        try:
            return (await self._stream.__anext__(),)
        except StopAsyncIteration:
            return ()

    def close(self) -> None:
        """As `aclose`."""
        self._portal.call(self._stream.aclose)

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class View:
    """`call`, `stream` and `submit` under some options."""

    def __init__(self, portal: BlockingPortal, work: client.Work) -> None:
        self._portal, self._work = portal, work

    def call(self, capability: str, /, **arguments: Any) -> Any:
        return self._portal.call(lambda: self._work.call(capability, **arguments))

    def stream(self, capability: str, /, **arguments: Any) -> Stream:
        return Stream(self._portal, self._work.stream(capability, **arguments))

    def submit(self, capability: str, /, **arguments: Any) -> Task:
        return Task(self._portal, self._portal.call(lambda: self._work.submit(capability, **arguments)))


class Mesh(View):
    """As `mesh.client.Mesh`."""

    def __init__(self, portal: BlockingPortal, mesh: client.Mesh) -> None:
        super().__init__(portal, mesh)
        self._mesh = mesh

    @property
    def node(self) -> Document:
        return self._mesh.node

    def options(self, **options: Any) -> View:
        return View(self._portal, self._mesh.options(**options))

    def publish(self, topic: str, /, *, event_id: str = "", **values: Any) -> Document:
        return self._portal.call(lambda: self._mesh.publish(topic, event_id=event_id, **values))

    def schedules(self) -> Document:
        return self._portal.call(self._mesh.schedules)

    def add_schedule(self, name: str, when: str, capability: str, /, *, arguments: Document | None = None, **options: Any) -> Document:
        return self._portal.call(lambda: self._mesh.add_schedule(name, when, capability, arguments=arguments, **options))

    def change_schedule(self, action: str, name: str, /) -> Document:
        return self._portal.call(self._mesh.change_schedule, action, name)

    def signal(self, task: str, name: str, value: Any = None, *, event: str = "") -> Document:
        return self._portal.call(partial(self._mesh.signal, task, name, value, event=event))

    def update(self, task: str, name: str, value: Any = None, *, event: str = "", timeout_s: float | None = None) -> Any:
        return self._portal.call(partial(self._mesh.update, task, name, value, event=event, timeout_s=timeout_s))

    def state(self, name: str = "", *, task: str = "") -> BlockingState:
        async def ended(work: Coroutine[Any, Any, Any]) -> Any:
            return await work

        return BlockingState(self._mesh.state(name, task=task), lambda work: self._portal.call(ended, work))

    def states(self) -> Document:
        return self._portal.call(self._mesh.states)

    def approvals(self, about: str = "") -> Document:
        return self._portal.call(self._mesh.approvals, about)

    def approve(self, gate: str, *, note: str = "", output: Any = client.KEEP) -> Document:
        return self._portal.call(partial(self._mesh.approve, gate, note=note, output=output))

    def deny(self, gate: str, *, note: str = "") -> Document:
        return self._portal.call(partial(self._mesh.deny, gate, note=note))

    def checkpoint(self, task: str) -> Document:
        return self._portal.call(self._mesh.checkpoint, task)

    def status(self) -> Document:
        return self._portal.call(self._mesh.status)

    def nodes(self) -> Document:
        return self._portal.call(self._mesh.nodes)

    def caps(self, *, everything: bool = False, stats: bool = False) -> Document:
        return self._portal.call(partial(self._mesh.caps, everything=everything, stats=stats))

    def statistics(self) -> Document:
        return self._portal.call(self._mesh.statistics)

    def verify(self, export: str | os.PathLike[str] | None = None) -> Document:
        return self._portal.call(self._mesh.verify, export)

    def office(self, verb: str, /, **params: Any) -> Document:
        return self._portal.call(lambda: self._mesh.office(verb, **params))

    def tasks(self) -> Document:
        return self._portal.call(self._mesh.tasks)

    def task(self, task: str) -> Document:
        return self._portal.call(self._mesh.task, task)

    def result(self, task: str, *, timeout_s: float | None = None) -> Document:
        return self._portal.call(lambda: self._mesh.result(task, timeout_s=timeout_s))

    def cancel(self, task: str, *, reason: str = "") -> Document:
        return self._portal.call(lambda: self._mesh.cancel(task, reason=reason))

    def retry(self, task: str) -> Document:
        return self._portal.call(self._mesh.retry, task)

    def story(self, task: str) -> Document:
        return self._portal.call(self._mesh.story, task)

    def logs(self, task: str = "", *, node: str = "", after: dict[str, int] | None = None) -> Document:
        return self._portal.call(lambda: self._mesh.logs(task, node=node, after=after))

    def find(self, sha256: str) -> Document:
        return self._portal.call(self._mesh.find, sha256)

    def put(self, path: str | os.PathLike[str]) -> Document:
        return self._portal.call(self._mesh.put, path)

    def get(self, sha256: str, to: str | os.PathLike[str]) -> int:
        return self._portal.call(self._mesh.get, sha256, to)

    def down(self, wait_s: float | None = None) -> Document:
        return self._portal.call(self._mesh.down, wait_s)

    def drain(self, *, wait_s: float = 0.0, undo: bool = False) -> Document:
        return self._portal.call(lambda: self._mesh.drain(wait_s=wait_s, undo=undo))
