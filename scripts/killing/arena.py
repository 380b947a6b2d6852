"""One demo's nodes and workers on loopback, as the demo starts them, and a client at each. What happens is an event with a time.

Who asks here asks again, at another node, when one is gone or knows nothing: as a person would.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common import Mesh, Processes
from kills_judge import Ledger, Line

from mesh import connect
from mesh.client import Mesh as Client
from mesh.errors import MeshError, TaskFailed
from mesh.joining import make_mesh
from mesh.runtime.home import Home

AGENT = Path(__file__).with_name("witness_agent.py")
LOOK_EVERY_S, ROWS_EVERY_S, AGAIN_S = 0.005, 0.05, 0.1
ASK_LIMIT_S, WORK_LIMIT_S, WHOLE_LIMIT_S = 8.0, 90.0, 60.0
Row = dict[str, Any]
CRITICAL = {"policy": "kills", "mode": "hybrid", "rule": [{"id": "all", "admit": "closed"}]}


def now_s() -> float:
    return time.clock_gettime(time.CLOCK_MONOTONIC)


@dataclass(frozen=True, slots=True)
class Event:
    """`what`: submitted, start, end, done, asked, answered. `pid`: of the worker that wrote it."""

    at_s: float
    what: str
    task: str
    pid: int = 0


class Arena:
    """`crew`: which agents each node runs, the first node is where work is submitted. `critical`: every node stands by as coordinator, and
    all work waits for the word of whoever is in office."""

    def __init__(self, group: Processes, crew: dict[str, list[str]], stack: contextlib.AsyncExitStack, *, critical: bool = False) -> None:
        self.made = Mesh(group, 'bind = "127.0.0.1"\n' + ('role = ["coordinator"]\n' if critical else ""))
        self._critical = critical
        make_mesh(Home(self.made.home), "token", "demo")
        self.folder = self.made.folder
        self.crew, self.names = crew, tuple(crew)
        self.entry = self.names[0]
        self.ledger = Ledger(self.folder / "ledger")
        self.clients: dict[str, Client] = {}
        self.ids: dict[str, str] = {}
        self.events: list[Event] = []
        self.rows: dict[str, Row] = {}
        """The newest row of each task that anybody told."""
        self.done: dict[str, tuple[float, int]] = {}
        """When a task was first told to be done, and under which fence."""
        self.refused: Counter[str] = Counter()
        self.down: set[str] = set()
        """Nodes that are dead on purpose."""
        self._stack, self._lines = stack, 0
        self._fresh = asyncio.Event()

    async def start(self) -> None:
        for name in self.names:
            await asyncio.to_thread(self.made.node, name)
            self.work(name)
        for name in self.names:
            self.clients[name] = await self._stack.enter_async_context(connect(home=self.made.home, node=name, timeout_s=ASK_LIMIT_S))
            self.ids[name] = (await self.clients[name].status())["id"]
        for watch in (self._read, self._look):
            watching = asyncio.create_task(watch())
            self._stack.callback(watching.cancel)
        await self.whole()
        if self._critical:
            await self.ask(lambda m: m.set_policy(CRITICAL), self.entry, what="the policy")
            await self._until_office()

    async def _until_office(self) -> None:
        for _ in range(round(WHOLE_LIMIT_S / AGAIN_S)):
            if (await self.office())["holder"]:
                return
            await asyncio.sleep(AGAIN_S)
        raise TimeoutError("nobody came into office")

    async def office(self) -> Row:
        """Who coordinates, as a living node knows it."""
        living = [name for name in self.names if name not in self.down]
        return dict(await self.ask(lambda m: m.coordinator(), *living, what="who coordinates"))

    def work(self, name: str) -> None:
        if agents := self.crew[name]:
            self.made.worker(AGENT, name, environ={"KILLS_LEDGER": str(self.ledger.path), "KILLS_AGENTS": " ".join(agents)})

    # ---- what happens

    def say(self, what: str, task: str, pid: int = 0, at_s: float | None = None) -> None:
        self.events.append(Event(at_s or now_s(), what, task, pid))
        self._fresh.set()

    async def event(self) -> None:
        """Until another one has come."""
        self._fresh.clear()
        await self._fresh.wait()

    async def _read(self) -> None:
        while True:
            self.read()
            await asyncio.sleep(LOOK_EVERY_S)

    def read(self) -> None:
        """What handlers have written since."""
        self.ledger.look()
        for line in self.ledger.lines[self._lines :]:
            if line.what in ("start", "end"):
                self.say(line.what, line.task, line.pid, line.at_s)
        self._lines = len(self.ledger.lines)

    async def _look(self) -> None:
        """At the rows of all tasks, as the node tells them that work is submitted to; while it is dead, as another does."""
        while True:
            at = next(name for name in self.names if name not in self.down)
            with contextlib.suppress(MeshError, TimeoutError):
                for row in (await asyncio.wait_for(self.clients[at].tasks(), 1))["tasks"]:
                    self._note(row)
            await asyncio.sleep(ROWS_EVERY_S)

    def _note(self, row: Row) -> None:
        task = row["task"]
        before = self.rows.get(task)
        if before is None or (row["fence"], row["state"] == "done") >= (before["fence"], before["state"] == "done"):
            self.rows[task] = row
        if row["state"] == "done" and task not in self.done:
            self.done[task] = now_s(), row["fence"]
            self.say("done", task)

    def worker_of(self, pid: int) -> str:
        """The node whose worker that is, or was."""
        return next((name for name, process in self.made.workers.items() if process.pid == pid), "")

    def running(self) -> list[Line]:
        self.read()
        return [line for name, process in self.made.workers.items() if name not in self.down for line in self.ledger.running(process.pid)]

    # ---- asking

    async def ask(self, question: Callable[[Client], Awaitable[Any]], *nodes: str, what: str = "") -> Any:
        """Of these nodes, or any, in turn until one answers. Raises TaskFailed, and TimeoutError after a minute and a half."""
        end_s, asked = now_s() + WORK_LIMIT_S, 0
        last: Exception | None = None
        while now_s() < end_s:
            name = (nodes or self.names)[asked % len(nodes or self.names)]
            asked += 1
            try:
                return await asyncio.wait_for(question(self.clients[name]), ASK_LIMIT_S)
            except TaskFailed:
                raise
            except (MeshError, TimeoutError) as error:
                last = error
                self.refused[f"{getattr(error, 'code', 'timeout')} at {'a dead node' if name in self.down else 'a living node'}"] += 1
                await asyncio.sleep(AGAIN_S)
        raise TimeoutError(f"no answer in {WORK_LIMIT_S:g} s to {what or 'a question'}; the last: {last!r}")

    async def result(self, task: str, *nodes: str) -> Row:
        """Its end, however it ended."""
        return dict(await self.ask(lambda m: m.result(task, timeout_s=ASK_LIMIT_S / 2), *nodes, what=f"the result of {task}"))

    async def whole(self) -> None:
        """Until every node is linked with every other, has two keepers and leads its own log, and every worker is attached."""
        end_s, why = now_s() + WHOLE_LIMIT_S, ""
        while now_s() < end_s:
            try:
                why = next(filter(None, [await asyncio.wait_for(self._apart(name), 2) for name in self.names]), "")
            except (MeshError, TimeoutError) as error:
                why = repr(error)
            if not why:
                return
            await asyncio.sleep(AGAIN_S)
        raise TimeoutError(f"the mesh is not whole {WHOLE_LIMIT_S:g} s later: {why}")

    async def _apart(self, name: str) -> str:
        status = await self.clients[name].status()
        rows = {row["name"]: row for row in (await self.clients[name].nodes())["nodes"]}
        apart = [other for other in self.names if other != name and not rows.get(other, {}).get("linked")]
        keepers, wanted = status["keepers"], {self.made.workers[name].pid} if self.crew[name] else set()
        if apart or len(keepers["keepers"]) != 2 or not keepers["leads"] or {worker["pid"] for worker in status["workers"]} != wanted:
            return f"{name}: apart from {apart}, keepers {keepers}, workers {status['workers']}"
        offered = {(offer, name) for cap in (await self.clients[self.entry].caps())["caps"] for offer in cap["offered_by"]}
        missing = [agent for agent in self.crew[name] if (f"{agent}@{name}", name) not in offered]
        return f"{self.entry} does not know of {missing} at {name}" if missing else ""

    # ---- blows

    def kill(self, name: str, *, node: bool, worker: bool) -> list[int]:
        """kill -9 of what runs under that name; their pids."""
        struck = [self.made.nodes[name]] if node else []
        struck += [self.made.workers[name]] if worker and name in self.made.workers else []
        if node:
            self.down.add(name)
        for process in struck:
            process.send_signal(signal.SIGKILL)
        return [process.pid for process in struck]

    def kill_stock(self, pid: int) -> list[int]:
        """kill -9 of a process that a node started for what it offers by itself."""
        os.kill(pid, signal.SIGKILL)
        return [pid]

    async def back(self, name: str) -> None:
        """Whatever is dead under that name runs again, in its home."""
        if self.made.nodes[name].poll() is not None:
            self.made.nodes[name].wait()
            await asyncio.to_thread(self.made.node, name)
            self.down.discard(name)
        if name in self.made.workers and self.made.workers[name].poll() is not None:
            self.ledger.gone(self.made.workers[name].pid)
            self.work(name)
