"""A worker: the user's process, attached to the local node, running one agent's handlers.

    node --execute, extend, stop, taken, price--> Runner --started, progress, said, items, ended, priced--> node      in lots
         <------- step, call, put -------- ctx                                                       one write per turn

Invariant: a result is kept until it is old enough to be on the node's disk: after the node's restart the worker attaches again, says what
it still runs and what had ended, and sends those results once more. Without a node nothing new starts, and after `adopt_grace_s` what runs
is cancelled. No key, no journal and no socket of the node is in this process.
"""

from __future__ import annotations

import asyncio
import random
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mesh.agent import Agent
from mesh.capture import capturing
from mesh.errors import NodeLost, NoNode
from mesh.failures import leave_no_core, report
from mesh.files import Shelf
from mesh.labels import stated
from mesh.link import Link
from mesh.runner import Runner
from mesh.runs import RunnerStatistics, Timer

if TYPE_CHECKING:
    from mesh.isolation import Processes

RESULTS_KEPT_S = 10.0
"""Longer than any group commit: a result that old is on the node's disk."""
RESULTS_KEPT_BYTES_MAX = 32 * 1024 * 1024
RETRY_MIN_S = 0.05
RETRY_MAX_S = 2.0
LOT_BYTES_MAX = 4 * 1024 * 1024
ENDING_S = 5.0
"""Time for handlers to clean up when the worker is told to end."""

_CLOCK: int = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


class RealClock:
    """The machine's clock that counts sleep, on which leases are given, and the event loop's timers."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()

    def now_ms(self) -> int:
        return int(time.clock_gettime(_CLOCK) * 1000)

    def wall_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def call_later(self, seconds: float, call: Callable[[], None]) -> Timer:
        return self._loop.call_later(seconds, call)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


@dataclass(frozen=True, slots=True)
class WorkerStatistics:
    attached: bool
    attachments: int
    results_kept: int
    runner: RunnerStatistics


class Worker:
    """Serves `agent` at the node whose socket `find` names; asked again before each attempt, since a restarted node may be elsewhere.

    `on_attached` gets what the node said of itself, each time; `on_lost` is called when it went away.
    """

    def __init__(
        self,
        agent: Agent,
        find: Callable[[], Path],
        *,
        on_attached: Callable[[dict[str, Any]], None] | None = None,
        on_lost: Callable[[], None] | None = None,
    ) -> None:
        self._agent, self._find, self._on_attached, self._on_lost = agent, find, on_attached, on_lost
        self._offers = [_fields(offer) for offer in agent.offers()]
        self._processes = processes_of(agent)
        self._link: Link | None = None
        self._runner: Runner | None = None
        self._ready: asyncio.Event = asyncio.Event()
        self._lost: asyncio.Event = asyncio.Event()
        self._lots: dict[str, list[Any]] = {}
        self._scheduled = False
        self._results: deque[tuple[float, list[Any]]] = deque()
        self._results_bytes = 0
        self._attachments = 0
        self._grace: Timer | None = None

    async def run(self) -> None:
        """Until cancelled; then the handlers are cancelled, and the node gives their work to others. Raises what the lifespan raises."""
        told_to_end: asyncio.CancelledError | None = None
        with capturing():
            async with self._agent.open() as lifespan:
                try:
                    await self._serve(lifespan)
                except asyncio.CancelledError as error:
                    # Outside of the lifespan, so that what follows its `yield` runs as at any orderly end.
                    told_to_end = error
        if told_to_end is not None:
            raise told_to_end

    async def _serve(self, lifespan: Any) -> None:
        clock = RealClock()
        runner = self._runner = Runner(
            self._agent,
            out=self._out,
            ask=self._ask,
            clock=clock,
            body_bytes_max=0,
            lifespan=lifespan,
            isolation=self._processes,
        )
        runner.connected(False)
        try:
            await self._stay_attached(runner, clock)
        finally:
            if self._link is not None:
                self._link.close()
            runner.stop_all()
            await asyncio.wait([asyncio.ensure_future(runner.drained())], timeout=ENDING_S)
            if self._processes is not None:
                await asyncio.wait([asyncio.ensure_future(self._processes.close())], timeout=ENDING_S)
            runner.close()
            if runner.shelf is not None:
                runner.shelf.close()

    def statistics(self) -> WorkerStatistics:
        assert self._runner is not None, "the worker runs"
        return WorkerStatistics(self._ready.is_set(), self._attachments, len(self._results), self._runner.statistics())

    # ---- attaching

    async def _stay_attached(self, runner: Runner, clock: RealClock) -> None:
        wait_s = RETRY_MIN_S
        while True:
            try:
                await self._attach(runner)
            except NoNode:
                # Jitter: several workers of one node come back at different moments.
                await asyncio.sleep(wait_s * random.uniform(0.5, 1.0))
                wait_s = min(2 * wait_s, RETRY_MAX_S)
                continue
            wait_s = RETRY_MIN_S
            await self._lost.wait()
            self._ready.clear()
            runner.connected(False)
            if self._on_lost is not None:
                self._on_lost()
            self._grace = clock.call_later(self._link.node["adopt_grace_s"] if self._link else 0.0, runner.stop_all)

    async def _attach(self, runner: Runner) -> None:
        self._lost = lost = asyncio.Event()
        link = Link(self._find(), on_push=self._on_push, on_turn=self._flush_soon, on_lost=lost.set)
        await link.open()
        runner.body_bytes_max = link.node["body_bytes_max"]
        blobs = Path(link.node["blobs"])
        if runner.shelf is None or runner.shelf.blobs != blobs:
            runner.shelf = Shelf(blobs, link.path)
        running = runner.held() + [[item[0], item[1]] for _, item in self._results]
        # Whatever was collected for the old connection is either in `running` or of no use any more.
        self._lots.clear()
        self._link = link
        params = {
            "agent": self._agent.name,
            "concurrency": self._agent.concurrency,
            "offers": self._offers,
            "running": running,
            **stated(self._agent),
        }
        try:
            await link.ask("attach", params, timeout_s=10.0)
        except BaseException:
            link.close()
            raise
        if self._grace is not None:
            self._grace.cancel()
            self._grace = None
        self._attachments += 1
        if self._results:
            self._lots.pop("ended", None)
            self._send_ended(link, [item for _, item in self._results])
        self._ready.set()
        runner.connected(True)
        self._flush_soon()
        if self._on_attached is not None:
            self._on_attached(link.node)

    async def _ask(self, verb: str, params: dict[str, Any]) -> dict[str, Any]:
        """For the runner: waits for a node. What may be asked twice is asked again after the node's restart."""
        while True:
            if not self._ready.is_set():
                await self._ready.wait()
            link, lost = self._link, self._lost
            assert link is not None
            try:
                return await link.ask(verb, params)
            except NodeLost:
                if verb not in ("step", "spend", "secret", "checkpoint", "effect", "effected", "subscribers", "submit"):
                    raise
                await lost.wait()
                if link is self._link:
                    self._ready.clear()

    # ---- frames

    def _on_push(self, verb: str, params: dict[str, Any]) -> None:
        runner = self._runner
        assert runner is not None
        items = params["items"]
        if verb == "execute":
            for item in items:
                runner.execute(item)
        elif verb == "extend":
            for item in items:
                runner.extend(item)
        elif verb == "stop":
            for task, fence, _reason in items:
                runner.stop(task, fence)
        elif verb == "price":
            for item in items:
                runner.price(item)
        elif verb == "taken":
            for item in items:
                runner.taken(item)

    def _out(self, verb: str, item: list[Any]) -> None:
        if verb == "ended":
            self._keep(item)
        if not self._ready.is_set() and self._link is None:
            return
        lot = self._lots.get(verb)
        if lot is None:
            lot = self._lots[verb] = []
        lot.append(item)
        if not self._scheduled:
            self._flush_soon()

    def _keep(self, item: list[Any]) -> None:
        now = time.monotonic()
        results = self._results
        results.append((now, item))
        self._results_bytes += len(item[3])
        if self._ready.is_set():
            while results[0][0] < now - RESULTS_KEPT_S:
                self._results_bytes -= len(results.popleft()[1][3])
        while self._results_bytes > RESULTS_KEPT_BYTES_MAX:
            self._results_bytes -= len(results.popleft()[1][3])

    def _flush_soon(self) -> None:
        """After the tasks that this turn has started: what they end at once leaves in the same write."""
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        self._scheduled = False
        assert self._runner is not None
        self._runner.flush()
        link = self._link
        if link is None or not self._ready.is_set():
            return
        lots, self._lots = self._lots, {}
        for verb in ("started", "progress", "waits", "priced"):
            if items := lots.get(verb):
                link.tell(verb, {"items": items})
        for verb in ("said", "items"):
            for item in lots.get(verb, ()):  # each may be as large as a lot
                link.tell(verb, {"items": [item]})
        if items := lots.get("ended"):
            self._send_ended(link, items)
        link.flush()

    def _send_ended(self, link: Link, items: list[list[Any]]) -> None:
        start, total = 0, 0
        for i, item in enumerate(items):
            total += len(item[3])
            if total > LOT_BYTES_MAX:
                link.tell("ended", {"items": items[start : i + 1]})
                start, total = i + 1, 0
        if start < len(items):
            link.tell("ended", {"items": items[start:]})


async def serve(
    agents: Sequence[Agent],
    sock: Path,
    *,
    on_attached: Callable[[dict[str, Any]], None] | None = None,
    on_lost: Callable[[], None] | None = None,
) -> None:
    """Serve agents at the node behind `sock` until cancelled, or told to end by SIGTERM or SIGINT.

    `on_attached` is called with what the node says of itself when all are attached, and after each time a node's restart was survived;
    `on_lost` when the node went away, once for all agents.
    Raises DeclarationError for an agent without capabilities, and whatever a lifespan raises.
    """
    names = [agent.name for agent in agents]
    present: set[str] = set()

    def attached(name: str, node: dict[str, Any]) -> None:
        present.add(name)
        if len(present) == len(names) and on_attached is not None:
            on_attached(node)

    def lost(name: str) -> None:
        if len(present) == len(names) and on_lost is not None:
            on_lost()
        present.discard(name)

    workers = [
        Worker(agent, lambda: sock, on_attached=partial(attached, agent.name), on_lost=partial(lost, agent.name)) for agent in agents
    ]
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    with ending_signals(loop, ended.set):
        tasks = [asyncio.ensure_future(worker.run()) for worker in workers]
        told = asyncio.ensure_future(ended.wait())
        try:
            await asyncio.wait([*tasks, told], return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (*tasks, told):
                task.cancel()
            ends = await asyncio.gather(*tasks, return_exceptions=True)
    for end in ends:
        if isinstance(end, BaseException) and not isinstance(end, asyncio.CancelledError):
            raise end


def run_agent(agent: Agent, home: Path | None, node: str) -> None:
    """``agent.run()``: find or start the node, then serve. Blocks until Ctrl-C. Raises MeshError."""
    from mesh.launch import node_for_worker, start_node
    from mesh.runtime.home import Home

    leave_no_core()
    agent.offers()
    processes_of(agent)
    folder = node_for_worker(Home.locate(home), node)
    if not folder.is_running():
        words = (["--home", str(home)] if home else []) + (["--name", node] if node else [])
        start_node(folder, [*words, "--while-used"])

    def attached(found: dict[str, Any]) -> None:
        report(f"{agent.name}@{found['node']} offers {', '.join(agent.capabilities)}")

    asyncio.run(serve([agent], folder.socket_path, on_attached=attached, on_lost=lambda: report(gone(folder.name))))


def gone(node: str) -> str:
    """What a worker says when its node went away."""
    return f"node {node} is gone, taken down or dead; this worker waits for it to come back: mesh up --name {node}"


def processes_of(agent: Agent) -> Processes | None:
    """What runs its isolated capabilities; None if it has none. Raises DeclarationError if no other process could load it."""
    if all(capability.limits is None for capability in agent.capabilities.values()):
        return None
    from mesh.isolation import Processes

    return Processes(agent)


@contextmanager
def ending_signals(loop: asyncio.AbstractEventLoop, call: Callable[[], None]) -> Iterator[None]:
    """While inside, SIGINT and SIGTERM call `call`. In a thread other than the main one there are no signals to take."""
    taken = []
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, call)
            taken.append(number)
    try:
        yield
    finally:
        for number in taken:
            loop.remove_signal_handler(number)


def _fields(offer: Any) -> list[Any]:
    names = (
        "capability",
        "agent",
        "version",
        "doc",
        "idempotent",
        "timeout_ms",
        "retries",
        "on_lost",
        "priced",
        "input_schema",
        "output_schema",
    )
    times = [offer.queue_timeout_ms, offer.heartbeat_ms]
    starts = [list(offer.topics), [list(astuple(plan)) for plan in offer.schedules]]
    return [*(getattr(offer, name) for name in names), list(offer.tags), *times, offer.limit, offer.rate, offer.rate_ms, *starts]
