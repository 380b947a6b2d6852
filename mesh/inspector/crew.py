"""The processes of a demo: its nodes and their workers, in a home of their own."""

from __future__ import annotations

import shutil
import signal
import subprocess
from pathlib import Path

import anyio
import anyio.to_thread

from mesh.client import connect
from mesh.errors import MeshError, NoNode
from mesh.inspector.launch import end, last_words, spawn, wait_ready
from mesh.runtime.home import Home

STOP_S = 5.0


class Crew:
    """Everything lives in `folder`: ``home/`` (keys, journals), ``logs/``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.home = folder / "home"
        self._nodes: dict[str, subprocess.Popen[bytes]] = {}
        self._workers: dict[str, subprocess.Popen[bytes]] = {}
        self._killed: set[str] = set()

    def _log(self, name: str) -> Path:
        return self._folder / "logs" / f"{name}.log"

    async def start(self, names: list[str]) -> str:
        """Start a node per name, all at once; returns how they find each other. An earlier demo here is stopped and cleared away first."""
        await self.stop()
        for part in ("home", "logs"):
            shutil.rmtree(self._folder / part, ignore_errors=True)
        self._folder.mkdir(parents=True, exist_ok=True)
        home = Home(self.home.absolute())
        first, *others = names
        info = await self._start_node(home, first, [])
        multicast = await self._multicast_works(first)
        seeds = [] if multicast else ["--no-mdns", "--join", str(info["door"])]
        async with anyio.create_task_group() as group:
            for name in others:
                group.start_soon(self._start_node, home, name, seeds)
        return "over mDNS on loopback" if multicast else f"through the seed {info['door']} (multicast is blocked here)"

    async def _multicast_works(self, name: str) -> bool:
        """Whether the first node hears its own record: if not, the others are told where it is."""
        async with connect(home=self.home, node=name) as mesh:
            while True:
                discovery = (await mesh.status())["discovery"]
                if discovery["heard_self"] or discovery["blocked"]:
                    return not discovery["blocked"]
                await anyio.sleep(0.02)

    async def _start_node(self, home: Home, name: str, seeds: list[str]) -> dict[str, object]:
        process = spawn(["up", "--home", str(self.home.absolute()), "--name", name, *seeds], self._log(name))
        self._nodes[name] = process
        return await anyio.to_thread.run_sync(wait_ready, home.node(name), process, self._log(name))

    def work(self, node: str, agents: list[str]) -> None:
        """Start one worker process with these agents, attached to `node`."""
        words = ["run", *agents, "--home", str(self.home.absolute()), "--name", node]
        self._workers[node] = spawn(words, self._log(f"{node}-worker"))

    def check(self) -> None:
        """Raises MeshError, with its last words, if a process that should run has ended."""
        for suffix, processes in (("", self._nodes), ("-worker", self._workers)):
            for name, process in processes.items():
                if name not in self._killed and process.poll() is not None:
                    log = self._log(name + suffix)
                    raise MeshError(f"the {'worker' if suffix else 'node'} of {name} ended: {last_words(log)}", fix=f"see {log}")

    def kill(self, name: str) -> list[int]:
        """kill -9 the node `name` and its worker. Their pids."""
        self._killed.add(name)
        pids = [processes[name].pid for processes in (self._nodes, self._workers) if name in processes]
        for pid in pids:
            end(pid, signal.SIGKILL)
        return pids

    async def stop(self) -> int:
        """Take down the nodes of this home, workers first; how many nodes ran. What does not end in time is killed."""
        running = Home(self.home.absolute()).running()
        for process in self._workers.values():
            end(process.pid)
        async with anyio.create_task_group() as group:
            for folder in running:
                group.start_soon(self._down, folder.name)
        await anyio.to_thread.run_sync(self._reap)
        return len(running)

    async def _down(self, name: str) -> None:
        with anyio.move_on_after(STOP_S):
            try:
                async with connect(home=self.home, node=name) as mesh:
                    workers = (await mesh.status())["workers"]
                    await mesh.down()
                for pid in {worker["pid"] for worker in workers}:
                    end(pid)
            except NoNode:
                return
            except MeshError:
                pass  # it hangs: killed below
        folder = Home(self.home.absolute()).node(name)
        with anyio.move_on_after(STOP_S):
            while folder.is_running():
                await anyio.sleep(0.02)
            return
        info = folder.info()
        if info is not None and isinstance(info.get("pid"), int):
            end(info["pid"], signal.SIGKILL)

    def _reap(self) -> None:
        for process in (*self._workers.values(), *self._nodes.values()):
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
