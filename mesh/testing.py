"""A whole mesh inside your test: real nodes, your real handlers, virtual time, one process.

    async with LocalMesh(nodes={"n1": [a], "n2": [b]}) as m:
        task = await m.submit("report.render", month="2026-10")
        m.kill("n2")                                  # its node and its workers, at once
        assert await task.result() == ...             # somebody else did it

Nodes, leases, bids and the journal are those of a real mesh, driven by the simulator: what takes seconds (a lease, a backoff, a
``ctx.sleep`` of thirty days) takes no real time, and the same `seed` gives the same run as long as handlers wait only through their
context. Handlers run on the test's own event loop. No socket is opened and nothing is stored, except files, in a temporary folder.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from mesh.agent import Agent
from mesh.client import Mesh, Task, View
from mesh.context import TaskInfo
from mesh.core import inputs
from mesh.effects import Execute, Extend, Price, Stop
from mesh.errors import NodeLost, NoNode, UsageError
from mesh.limits import Limits
from mesh.runner import Runner
from mesh.sim.host import Host
from mesh.sim.world import World
from mesh.simulated import Connection, materialise
from mesh.virtual import HostTime, VirtualTime

DEFAULT_NODES = ("n1", "n2", "n3")
START_S = 1.0
"""Virtual time in which the nodes find each other."""
CLOSE_S = 5.0
"""Real time that handlers and lifespans have to end in."""


class LocalMesh:
    """A mesh of simulated nodes that serve real agents.

    `agents`: every one of them is served on each of three nodes. `nodes` instead says which node serves what. The mesh is a client of its
    first living node: `call`, `submit`, `options`, `tasks`, ... as on `mesh.client.Mesh`; `at(node)` is one of another.
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
        self.world = World(tuple(self._agents), seed, limits=limits, clock_spread_s=0.0)
        self.secrets = dict(secrets or {})
        self._attachments: dict[str, list[_Attachment]] = {name: [] for name in self._agents}
        self._cuts: list[tuple[str, str]] = []
        self._asked: dict[asyncio.Future[dict[str, Any]], str] = {}
        self._services: set[asyncio.Task[None]] = set()
        self._workers = 0
        self._time: VirtualTime
        self._pump: asyncio.Task[None]
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> LocalMesh:
        self._time = VirtualTime(self.world, busy=self._busy, open_work=self._open_work)
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
        for attachments in self._attachments.values():
            for attachment in attachments:
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
        self._host(node)
        self.world.crash(node, power=True)
        for attachment in self._attachments[node]:
            attachment.close()
        self._attachments[node] = []
        for future, asked in self._asked.items():
            if asked == node and not future.done():
                future.set_exception(NodeLost(f"{node} went down before it answered"))
        self._time.touch()

    def restart(self, node: str) -> None:
        """Start `node` again on its disk, and its agents. Raises UsageError."""
        if self._host(node).up:
            raise UsageError(f"{node} is up", fix=f"kill({node!r}) first")
        self.world.start(node)
        for agent in self._agents[node]:
            self._later(self._serve(node, agent))
        self._time.touch()

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
        """Let `seconds` of virtual time pass, for the nodes as well: leases run out, backoffs end."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._time.waiting += 1

        def over() -> None:
            if not done.done():
                done.set_result(None)
            self._time.touch()

        self.world.after(seconds, over)
        self._time.touch()
        try:
            await done
        finally:
            self._time.waiting -= 1

    # ---- as a client

    def at(self, node: str) -> Mesh:
        """A client of `node`. Raises UsageError."""
        return Mesh(Connection(self, self._host(node)))

    def _any(self) -> Mesh:
        for host in self.world.living():
            return self.at(host.name)
        raise NoNode("every node of this LocalMesh is down", fix="restart one")

    async def call(self, capability: str, /, **arguments: Any) -> Any:
        """As `Mesh.call`, at the first living node."""
        return await self._any().call(capability, **arguments)

    async def submit(self, capability: str, /, **arguments: Any) -> Task:
        """As `Mesh.submit`, at the first living node."""
        return await self._any().submit(capability, **arguments)

    def options(self, *, timeout_s: float | None = None, retries: int | None = None) -> View:
        """As `Mesh.options`, at the first living node."""
        return self._any().options(timeout_s=timeout_s, retries=retries)

    async def nodes(self) -> dict[str, Any]:
        return await self._any().nodes()

    async def tasks(self) -> dict[str, Any]:
        return await self._any().tasks()

    # ---- inside

    def _host(self, node: str) -> Host:
        host = self.world.hosts.get(node)
        if host is None:
            raise UsageError(f"no node {node!r} here", fix=f"the nodes are: {', '.join(self.world.names)}")
        return host

    def _later(self, work: Any) -> None:
        service = asyncio.create_task(work)
        self._services.add(service)
        service.add_done_callback(self._services.discard)

    async def _serve(self, node: str, agent: Agent) -> None:
        """Open the agent's lifespan, attach, and stay until the node's end."""
        ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._later(self._stay(node, agent, ready))
        await ready

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
        return any(attachment.runner.computing() for attachment in self._running())

    def _open_work(self) -> bool:
        """Have the nodes something to do beyond waiting for handlers? Then their time has to pass."""
        live = waiting = held = 0
        for host in self.world.living():
            statistics = host.assembly.manager.statistics()
            live, waiting, held = live + statistics.live, waiting + statistics.waiting, held + statistics.held
        running = sum(attachment.runner.statistics().running + attachment.runner.statistics().queued for attachment in self._running())
        return live > held + waiting or held != running


class _Runner(Runner):
    """Knows which of its runs wait for virtual time or for the mesh, and which compute."""

    def __init__(self, mesh: LocalMesh, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._mesh = mesh
        self._waits: dict[str, int] = {}

    def computing(self) -> bool:
        return self.statistics().running > len(self._waits) or bool(self._pricing)

    @asynccontextmanager
    async def _waiting(self, task: TaskInfo) -> AsyncIterator[None]:
        self._waits[task.id] = self._waits.get(task.id, 0) + 1
        self._mesh._time.touch()
        try:
            yield
        finally:
            self._waits[task.id] -= 1
            if not self._waits[task.id]:
                del self._waits[task.id]

    async def step(self, task: TaskInfo, name: str, capability: str, arguments: dict[str, Any]) -> Any:
        async with self._waiting(task):
            return await super().step(task, name, capability, arguments)

    async def call(self, task: TaskInfo, capability: str, arguments: dict[str, Any]) -> Any:
        async with self._waiting(task):
            return await super().call(task, capability, arguments)

    async def effect_begin(self, task: TaskInfo, key: str, call: int, at_most_once: bool) -> bytes | None:
        async with self._waiting(task):
            return await super().effect_begin(task, key, call, at_most_once)

    async def effect_end(self, task: TaskInfo, key: str, call: int, output: bytes, error: str) -> None:
        async with self._waiting(task):
            await super().effect_end(task, key, call, output, error)

    async def sleep(self, task: TaskInfo, seconds: float) -> None:
        async with self._waiting(task):
            await super().sleep(task, seconds)


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
        self._tell(inputs.WorkerAttached(self._number, self._number, self._agent.name, self._agent.offers(), self._agent.concurrency))

    def take(self, effect: Any) -> None:
        kind = type(effect)
        if kind is Execute:
            materialise(self._mesh, self._host)
            item = [effect.task, effect.fence, effect.capability, effect.input, effect.lease_end_ms, effect.timeout_ms]
            self.runner.execute([*item, effect.parent, effect.attempt])
            self.runner.flush()
        elif kind is Extend:
            for item in effect.items:
                self.runner.extend(list(item))
            self._mesh._time.nudge()
            return
        elif kind is Stop:
            self.runner.stop(effect.task, effect.fence)
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
        elif verb == "waits":
            self._tell(inputs.HandlerWaits(self._number, *item))
        elif verb == "priced":
            self._tell(inputs.Priced(self._number, *item))
        self._mesh._time.touch()

    def _tell(self, body: Any) -> None:
        self._host.tell(body)
