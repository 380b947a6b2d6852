"""A whole mesh inside your test: real nodes, your real handlers, virtual time, one process.

    async with LocalMesh(nodes={"n1": [a], "n2": [b]}) as m:
        task = await m.submit("report.render", month="2026-10")
        m.kill("n2")                                  # its node and its workers, at once
        assert await task.result() == ...             # somebody else did it

What can go wrong: machines die (`kill`, `power_cut`) and come back from their disks (`restart`), disks are slow or full (`slow_disk`,
`fill_disk`, `mend_disk`), networks split (`partition`, `heal`).

Nodes, leases, bids and the journal are those of a real mesh, driven by the simulator: what takes seconds (a lease, a backoff) or days (a
``ctx.sleep``, a retry, a timeout) takes no real time, and the same `seed` gives the same run as long as handlers wait only through their
context. Handlers run on the test's own event loop, plain functions in threads. No socket is opened and nothing is stored, except files, in
a temporary folder.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

from mesh.agent import Agent
from mesh.answering import Answering
from mesh.capture import capturing
from mesh.client import Mesh, Task, View
from mesh.core import inputs
from mesh.effects import Credit, Execute, Extend, Price, Stop
from mesh.errors import NodeLost, NoNode, UsageError
from mesh.limits import Limits
from mesh.policies import Governing
from mesh.presiding import Presiding
from mesh.publishing import Triggering
from mesh.runtime.almanac import CronTicks
from mesh.sim.host import Host
from mesh.sim.world import World
from mesh.simulated import Connection, materialise
from mesh.simulated_runner import SimulatedRunner as _Runner
from mesh.streaming import Stream
from mesh.swapping import Swapping
from mesh.virtual import LIVED_S, HostTime, VirtualTime, has_own_work

DEFAULT_NODES = ("n1", "n2", "n3")
SYNC_S = 0.001
"""What a disk takes to sync."""
START_S = 1.0
"""Virtual time in which the nodes find each other."""
CLOSE_S = 5.0
"""Real time that handlers and lifespans have to end in."""


class LocalMesh(Triggering, Answering, Governing, Presiding, Swapping):
    """A mesh of simulated nodes that serve real agents.

    `agents`: every one of them is served on each of three nodes. `nodes` instead says which node serves what. The mesh is a client of its
    first living node: `call`, `stream`, `submit`, `options`, `tasks`, `logs`, ... as on `mesh.client.Mesh`; `at(node)` is one of another.
    `secrets` are what handlers find under ``secret://name``, at every node. ``isolation="process"`` has no effect here.
    Raises UsageError for both or neither.
    """

    def __init__(
        self,
        agents: Sequence[Agent] = (),
        nodes: Mapping[str, Sequence[Agent]] | None = None,
        *,
        seed: int = 1,
        limits: Limits | None = None,
        secrets: Mapping[str, str] | None = None,
    ) -> None:
        if bool(agents) == (nodes is not None):
            raise UsageError("LocalMesh takes either agents or nodes", fix='write LocalMesh(agents=[a]) or LocalMesh(nodes={"n1": [a]})')
        self._agents = {name: tuple(served) for name, served in nodes.items()} if nodes else dict.fromkeys(DEFAULT_NODES, tuple(agents))
        for served in self._agents.values():
            for agent in served:
                agent.offers()
        # A heap without a clock spread: tests read durations, not clocks.
        self.world = World(tuple(self._agents), seed, limits=limits, sync_s=SYNC_S, clock_spread_s=0.0, cron=CronTicks())
        self.world.on_down = self._went_down
        self.secrets = dict(secrets or {})
        self._attachments: dict[str, list[_Attachment]] = {name: [] for name in self._agents}
        self._cuts: list[tuple[str, str]] = []
        self._asked: dict[asyncio.Future[dict[str, Any]], str] = {}
        self._services: set[asyncio.Task[None]] = set()
        self._workers = self._starting = 0
        self._clock: VirtualTime | None = None
        self._pump: asyncio.Task[None]
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> LocalMesh:
        self._stack.enter_context(capturing())
        self._clock = VirtualTime(self.world, busy=self._busy, open_work=self._open_work)
        self.folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="mesh-test-")))
        self.world.start_all(0.0)
        self.world.run(START_S)
        ready = [self._serve(name, agent) for name, served in self._agents.items() for agent in served]
        await asyncio.gather(*ready)
        self.world.run(START_S + 0.1)
        self._pump = asyncio.create_task(self._time.pump())
        await self._until_known()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for attachment in self._running():
            attachment.close()
        if self._services:
            # So that what follows a lifespan's `yield` runs, as at any orderly end.
            await asyncio.wait(self._services, timeout=CLOSE_S)
        for service in (*self._services, self._pump):
            service.cancel()
        ends = await asyncio.gather(*self._services, self._pump, return_exceptions=True)
        await self._stack.aclose()
        for end in ends:
            if isinstance(end, Exception) and kind is None:
                raise end

    # ---- faults

    def kill(self, node: str) -> None:
        """The machine `node` is gone at once, with its workers and what was not on its disk yet. Raises UsageError."""
        self.power_cut(node)

    def power_cut(self, *nodes: str) -> None:
        """These machines lose their power at the same moment; all of them, if none is named. Workers end, what was not synced is lost.

        Raises UsageError.
        """
        time = self._time
        for host in [self._host(node) for node in nodes or self.world.names]:
            self.world.crash(host.name, power=True)
        time.touch()

    def restart(self, *nodes: str) -> None:
        """Start these nodes again, each from its disk, and their agents; every node that is down, if none is named.

        Raises UsageError if one is up, or its disk is full.
        """
        down = [name for name, host in self.world.hosts.items() if not host.up]
        for host in [self._host(node) for node in nodes or down]:
            if host.up:
                raise UsageError(f"{host.name} is up", fix=f"kill({host.name!r}) first")
            if host.disk.failing:
                raise UsageError(f"the disk of {host.name} is full", fix=f"mend_disk({host.name!r}) first")
            self._time.catch_up(host)
            self.world.start(host.name)
            for agent in self._agents[host.name]:
                self._later(_end_of(self._serve(host.name, agent)))
        self._time.touch()

    def slow_disk(self, node: str, sync_s: float) -> None:
        """Whatever the node writes is safe only after so many seconds of virtual time: until then nothing that depends on it leaves.

        Raises UsageError.
        """
        if not 0 < sync_s <= 3600:
            raise UsageError(f"a sync cannot take {sync_s} s", fix=f"slow_disk({node!r}, sync_s=2.0)")
        self._host(node).disk.sync_s = sync_s

    def fill_disk(self, node: str) -> None:
        """No space is left at `node`: at its next write it steps down, and its agents with it, until `mend_disk` and `restart`.

        Raises UsageError.
        """
        self._host(node).disk.failing = "full"

    def mend_disk(self, node: str) -> None:
        """The disk of `node` is fast and has space again. Does not start the node. Raises UsageError."""
        disk = self._host(node).disk
        disk.failing, disk.sync_s = "", SYNC_S

    def partition(self, one: Iterable[str], other: Iterable[str]) -> None:
        """Nothing passes between the nodes of `one` and those of `other` any more, until `heal`. Raises UsageError."""
        others = tuple(other)
        for here in one:
            for there in others:
                for pair in ((here, there), (there, here)):
                    self._host(pair[0])
                    self.world.network.cut(*pair)
                    self._cuts.append(pair)
        self._time.touch()

    def heal(self) -> None:
        """End every partition."""
        cuts, self._cuts = self._cuts, []
        for pair in cuts:
            self.world.network.mend(*pair)
        self._time.touch()

    # ---- time

    @property
    def now_s(self) -> float:
        """Virtual seconds since the mesh began."""
        return self._time.now_s()

    async def sleep(self, seconds: float) -> None:
        """Let `seconds` of virtual time pass, for the nodes as well: leases run out, backoffs end.

        The nodes live through the first minute of it, which is more than it takes to find out who is dead; of the rest they only notice
        what they wait for in days as others do (retries, timeouts).
        """
        self._time.waiting += 1
        try:
            await self._live(min(seconds, LIVED_S))
            if seconds > LIVED_S:
                await self._time.sleep(seconds - LIVED_S)
        finally:
            self._time.waiting -= 1

    async def _live(self, seconds: float) -> None:
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._time.living += 1

        def over() -> None:
            if not done.done():
                done.set_result(None)
            self._time.touch()

        self.world.after(seconds, over)
        self._time.touch()
        try:
            await done
        finally:
            self._time.living -= 1

    # ---- as a client

    def at(self, node: str) -> Mesh:
        """A client of `node`. Raises UsageError."""
        return Mesh(Connection(self, self._host(node)))

    def _any(self) -> Mesh:
        _ = self._time
        for host in self.world.living():
            return self.at(host.name)
        raise NoNode("every node of this LocalMesh is down", fix="restart one")

    async def call(self, capability: str, /, **arguments: Any) -> Any:
        """As `Mesh.call`, at the first living node."""
        return await self._any().call(capability, **arguments)

    def stream(self, capability: str, /, **arguments: Any) -> Stream:
        """As `Mesh.stream`, at the first living node."""
        return self._any().stream(capability, **arguments)

    async def submit(self, capability: str, /, **arguments: Any) -> Task:
        """As `Mesh.submit`, at the first living node."""
        return await self._any().submit(capability, **arguments)

    def options(self, **options: Any) -> View:
        """As `Mesh.options`, at the first living node."""
        return self._any().options(**options)

    async def nodes(self) -> dict[str, Any]:
        return await self._any().nodes()

    async def logs(self, task: str = "", *, node: str = "") -> dict[str, Any]:
        """As `Mesh.logs`, at the first living node."""
        return await self._any().logs(task, node=node)

    async def tasks(self) -> dict[str, Any]:
        return await self._any().tasks()

    # ---- inside

    @property
    def _time(self) -> VirtualTime:
        """Raises UsageError where nothing runs yet."""
        if self._clock is None:
            raise UsageError("this LocalMesh has not begun", fix="async with LocalMesh(...) as mesh: ..., and use it inside")
        return self._clock

    def _host(self, node: str) -> Host:
        host = self.world.hosts.get(node)
        if host is None:
            raise UsageError(f"no node {node!r} here", fix=f"the nodes are: {', '.join(self.world.names)}")
        return host

    def _went_down(self, node: str) -> None:
        """Its process has ended: so have its agents, and whoever waits for an answer hears of it."""
        for attachment in self._attachments[node]:
            attachment.close()
        self._attachments[node] = []
        for future, asked in self._asked.items():
            if asked == node and not future.done():
                future.set_exception(NodeLost(f"{node} went down before it answered"))
        self._time.touch()

    def _later(self, work: Any) -> None:
        service = asyncio.create_task(work)
        self._services.add(service)
        service.add_done_callback(self._services.discard)

    def _serve(self, node: str, agent: Agent) -> asyncio.Future[None]:
        """Open the agent's lifespan, attach (then the future ends), and stay until the node's end. Time waits as for any code that runs."""
        ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._starting += 1
        ready.add_done_callback(self._has_started)
        self._later(self._stay(node, agent, ready))
        return ready

    def _has_started(self, _: asyncio.Future[None]) -> None:
        self._starting -= 1
        self._time.touch()

    async def _stay(self, node: str, agent: Agent, ready: asyncio.Future[None]) -> None:
        try:
            async with agent.open() as lifespan:
                self._workers += 1
                attachment = _Attachment(self, self._host(node), agent, self._workers, lifespan)
                self._attachments[node].append(attachment)
                attachment.attach()
                if not ready.done():
                    ready.set_result(None)
                await attachment.over.wait()
                await attachment.runner.drained()
                attachment.runner.close()
        except BaseException as error:
            if not ready.done():
                ready.set_exception(error)
                return
            raise

    async def _until_known(self) -> None:
        """Everybody knows what everybody offers."""
        wanted = {name: sum(len(agent.capabilities) for agent in served) for name, served in self._agents.items()}
        for _ in range(100):
            views = [{row.node: len(row.offers) for row in host.directory.rows()} for host in self.world.living()]
            if all(view.get(name, 0) >= bool(count) for view in views for name, count in wanted.items()):
                return
            await self.sleep(0.05)

    def _running(self) -> Iterable[_Attachment]:
        return (attachment for attachments in self._attachments.values() for attachment in attachments)

    def _busy(self) -> bool:
        return self._starting > 0 or any(attachment.runner.computing() for attachment in self._running())

    def _open_work(self) -> bool:
        """Have the nodes something to do beyond waiting for handlers? Then their time has to pass."""
        running = sum(len(attachment.runner.held()) for attachment in self._running())
        return has_own_work(self.world.living(), running, any(attachment.runner.for_readers for attachment in self._running()))


async def _end_of(future: asyncio.Future[None]) -> None:
    await future


class _Attachment:
    """One agent attached to one node: what a worker process is to a real one. The host's view of it is `take` and `node_gone`."""

    def __init__(self, mesh: LocalMesh, host: Host, agent: Agent, number: int, lifespan: Any) -> None:
        self._mesh, self._host, self._agent, self._number = mesh, host, agent, number
        self.over = asyncio.Event()
        connection = Connection(mesh, host, number)
        self.runner = _Runner(
            mesh,
            agent,
            out=self._out,
            ask=connection.ask,
            clock=HostTime(mesh._time, host),
            shelf=connection.shelf,
            body_bytes_max=mesh.world.limits.work.body_bytes_max,
            lifespan=lifespan,
        )

    def attach(self) -> None:
        self._host.workers[self._number] = self
        agent, number = self._agent, self._number
        attached = inputs.WorkerAttached(number, number, agent.name, agent.offers(), agent.concurrency)
        attached.labels, attached.resources = agent.labels, agent.resources
        self._tell(attached)

    def take(self, effect: Any) -> None:
        kind = type(effect)
        if kind is Execute:
            materialise(self._mesh, self._host)
            self.runner.execute(effect.row())
            self.runner.flush()
        elif kind is Extend:
            for item in effect.items:
                self.runner.extend(list(item))
            self._mesh._time.nudge()
            return
        elif kind is Stop:
            self.runner.stop(effect.task, effect.fence)
        elif kind is Credit:
            self.runner.taken([effect.task, effect.fence, effect.upto, effect.again])
        elif kind is Price:
            self.runner.price([effect.round, effect.task, effect.capability, effect.input])
        self._mesh._time.touch()

    def node_gone(self, *, killed: bool) -> None:
        """Only machines die here, with everything on them."""
        self.close()

    def close(self) -> None:
        if self._host.workers.pop(self._number, None) is not None and self._host.up:
            self._tell(inputs.WorkerGone(self._number, self._number))
        self.runner.stop_all()
        self.over.set()

    def _out(self, verb: str, item: list[Any]) -> None:
        if self._host.workers.get(self._number) is not self:
            return
        if verb == "ended":
            task, fence, outcome, output, files, error, service_ms = item
            refs = tuple((sha256, size) for sha256, size in files)
            self._tell(inputs.HandlerEnded(self._number, task, fence, outcome, output, refs, error, service_ms))
        elif verb == "started":
            self._tell(inputs.HandlerStarted(self._number, *item))
        elif verb == "progress":
            self._tell(inputs.HandlerProgress(self._number, *item))
        elif verb == "said":
            task, fence, attempt, lines, dropped = item
            self._tell(inputs.HandlerSaid(self._number, task, fence, attempt, tuple(map(tuple, lines)), dropped))
        elif verb == "items":
            task, fence, first, items, last = item
            self._tell(inputs.HandlerItems(self._number, task, fence, first, tuple(items), last))
        elif verb == "waits":
            self._tell(inputs.HandlerWaits(self._number, *item))
        elif verb == "priced":
            self._tell(inputs.Priced(self._number, *item))
        self._mesh._time.touch()

    def _tell(self, body: Any) -> None:
        self._host.tell(body)
