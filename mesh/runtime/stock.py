"""Stock workers: what a node offers by itself, with no process behind it until there is work for one.

    stand by --first Execute--> process started --attach--> a worker like any other --nothing to do for a while--> told to end, stand by
                                     |                            |
                                     '--------- it died ----------'--> WorkerGone, and after a pause: stand by

Invariant: to the core it is one worker from first to last: what is executed before its process is there waits here, and no number is used
twice. Node and process share a socket pair on which nothing is said: its end is how each knows that the other has gone. Runs no user code,
and does not know what its processes do: `mesh.inspector.stock` says what is in stock.
"""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import anyio.to_thread

from mesh.messages.membership import Offer
from mesh.runtime.workers import Workers

ATTACH_S = 30.0
"""A process has so long to attach; then it counts as dead."""
IDLE_S = 120.0
"""A process that had nothing to do for so long (at most twice that) is told to end: it holds some 50 MiB, and another one takes 0.7 s."""
PAUSE_MIN_S = 1.0
PAUSE_MAX_S = 60.0
"""After a death nothing is offered for a while, longer each time: the work goes elsewhere meanwhile."""
HEALTHY_S = 60.0
"""Whoever lived so long before does not count as failing again and again."""
ENDING_S = 10.0
"""A process that was told to end has so long for it, then it is killed."""
_ENDING: list[subprocess.Popen[bytes]] = []
"""Processes that end with their node, which does not wait for them: dropping their handles would warn of a child left behind."""


@dataclass(frozen=True, slots=True)
class Stock:
    """One agent in stock, as its code declares it: its one capability is idempotent, and has no bounds. `command` starts its process, which
    finds the path of the node's socket as its last argument, and the socket pair as its standard input."""

    agent: str
    capability: str
    command: tuple[str, ...]
    doc: str = ""
    input_schema: str = ""
    output_schema: str = ""
    concurrency: int = 256
    role: str = ""
    """Only nodes that have it offer this (`--role`), and they have its process ready, since somebody waits for it; "": every node."""

    def offer(self) -> Offer:
        return Offer(
            self.capability,
            self.agent,
            doc=self.doc,
            idempotent=True,
            input_schema=self.input_schema,
            output_schema=self.output_schema,
        )


@dataclass(frozen=True, slots=True)
class StockStatistics:
    """Of this life of the node."""

    standing_by: int
    started: int
    died: int
    rested: int
    """Processes that were told to end for want of work."""


class StockWorkers:
    """Keeps `stock` offered at `workers`. `sock` is the node's own socket; what processes print goes to `log`.

    `may_serve`: whether this home's certificate allows a capability; what it does not allow is not offered.
    """

    def __init__(
        self,
        stock: tuple[Stock, ...],
        workers: Workers,
        sock: Path,
        log: Path,
        may_serve: Callable[[str], bool],
        *,
        idle_s: float = IDLE_S,
        pause_min_s: float = PAUSE_MIN_S,
    ) -> None:
        self._stock, self._workers, self._sock, self._log, self._may_serve = stock, workers, sock, log, may_serve
        self._idle_s, self._pause_min_s = idle_s, pause_min_s
        self._standing_by = self._started = self._died = self._rested = 0
        self._tasks: anyio.abc.TaskGroup

    async def run(self) -> None:
        """Until cancelled; the processes end with that."""
        async with anyio.create_task_group() as self._tasks:
            for stock in self._stock:
                if self._may_serve(stock.capability):
                    self._tasks.start_soon(self._tend, stock)

    def statistics(self) -> StockStatistics:
        return StockStatistics(self._standing_by, self._started, self._died, self._rested)

    async def _tend(self, stock: Stock) -> None:
        pause_s = self._pause_min_s
        while True:
            began_s = anyio.current_time()
            wanted = asyncio.Event()
            number = self._workers.stand_by(stock.offer(), stock.concurrency, wanted.set)
            await self._serve(stock, number, wanted)
            self._workers.gone(number)
            self._died += 1
            if anyio.current_time() - began_s > HEALTHY_S:
                pause_s = self._pause_min_s
            await anyio.sleep(pause_s)
            pause_s = min(2 * pause_s, PAUSE_MAX_S)

    async def _serve(self, stock: Stock, number: int, wanted: asyncio.Event) -> None:
        """One process after another, each when there is work for it; returns when one has died."""
        while True:
            self._standing_by += 1
            try:
                if not stock.role:
                    await wanted.wait()
            finally:
                self._standing_by -= 1
            came = asyncio.Event()
            process, pair = self._start(stock, number, came.set)
            reader, writer = await asyncio.open_connection(sock=pair)
            ended = asyncio.ensure_future(reader.read(1))
            try:
                lives = await self._until_idle(number, came, ended, rests=not stock.role)
            except asyncio.CancelledError:
                writer.close()
                _ENDING.append(process)
                raise
            if lives:
                self._workers.rest(number)
                wanted.clear()
                self._rested += 1
            self._tasks.start_soon(self._see_off, process, writer, ended)
            if not lives:
                return

    def _start(self, stock: Stock, number: int, came: Callable[[], None]) -> tuple[subprocess.Popen[bytes], socket.socket]:
        """The process, and our end of the pair. Nothing is awaited before the node knows whom to expect."""
        ours, theirs = socket.socketpair()
        with theirs, open(self._log, "ab", opener=_private) as out:
            words = [*stock.command, str(self._sock)]
            process = subprocess.Popen(words, stdin=theirs.fileno(), stdout=out, stderr=out, start_new_session=True)
        self._workers.expect(number, process.pid, came)
        self._started += 1
        return process, ours

    async def _until_idle(self, number: int, came: asyncio.Event, ended: asyncio.Future[bytes], *, rests: bool) -> bool:
        """True when it has had nothing to do for a while; False when it has died, or did not attach."""
        coming = asyncio.ensure_future(came.wait())
        either: list[asyncio.Future[Any]] = [coming, ended]
        await asyncio.wait(either, timeout=ATTACH_S, return_when=asyncio.FIRST_COMPLETED)
        coming.cancel()
        done = -1
        while came.is_set():
            await asyncio.wait([ended], timeout=self._idle_s)
            worker = self._workers.of(number)
            if ended.done() or worker is None:
                return False
            if rests and not worker.running and worker.executed == done:
                return True
            done = worker.executed
        return False

    async def _see_off(self, process: subprocess.Popen[bytes], writer: asyncio.StreamWriter, ended: asyncio.Future[bytes]) -> None:
        """Tell it to end, and see to it that it does."""
        try:
            writer.write_eof()
            await asyncio.wait([ended], timeout=ENDING_S)
        finally:
            writer.close()
        if process.poll() is None:
            process.kill()
        await anyio.to_thread.run_sync(process.wait)


def _private(path: str, flags: int) -> int:
    """For `open`: what is made is for this account alone."""
    return os.open(path, flags, 0o600)
