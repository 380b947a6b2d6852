"""The processes of a demo: its nodes and their workers, in a home of their own.

Every process is on record in ``processes.json`` before it does anything, so that a later command can end all of them, also those whose
node has died and those of a demo that was killed itself. A pid is only signalled if its command line still names this home.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread

from mesh.client import connect
from mesh.errors import MeshError, NoNode, Refused, TimedOut
from mesh.joining import make_mesh
from mesh.launch import command_line, end, last_words, spawn, wait_ready
from mesh.runtime.home import Home, Lock

STOP_S = 5.0
LOOK_S = 0.02


class Crew:
    """Everything lives in `folder`: ``home/`` (keys, journals), ``logs/``, ``processes.json``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.home = (folder / "home").absolute()
        self._nodes: dict[str, subprocess.Popen[bytes]] = {}
        self._workers: dict[str, subprocess.Popen[bytes]] = {}
        self._killed: set[str] = set()
        self._lock: Lock | None = None

    def take(self) -> None:
        """This folder is ours until this process ends. Raises Refused if another demo is at work in it."""
        self._folder.mkdir(parents=True, exist_ok=True)
        self._lock = Lock.take(self._folder / "demo.lock")
        if self._lock is None:
            raise Refused(
                f"another demo is at work in {self._folder}", fix="wait for it, or use a folder of its own: mesh demo --dir OTHER"
            )

    def _log(self, name: str) -> Path:
        return self._folder / "logs" / f"{name}.log"

    # ---- up

    async def start(self, names: list[str], *, mdns: bool) -> str:
        """Start a node per name; returns how they find each other. What an earlier demo left in the folder is cleared away."""
        for part in ("home", "logs"):
            shutil.rmtree(self._folder / part, ignore_errors=True)
        home = Home(self.home).make()
        home.config_path.write_text('bind = "127.0.0.1"\n')  # this machine only, and yet with all that guards a mesh on a LAN
        make_mesh(home, "token", "demo")
        first, *others = names
        info = await self._start_node(home, first, [] if mdns else ["--no-mdns"])
        blocked = await self._why_blocked(first) if mdns else "mDNS is switched off"
        seeds = ["--no-mdns", "--join", str(info["door"])] if blocked else []
        async with anyio.create_task_group() as group:
            for name in others:
                group.start_soon(self._start_node, home, name, seeds)
        return f"through a seed, {info['door']}, because {blocked}" if blocked else "over mDNS on loopback"

    async def _why_blocked(self, name: str) -> str:
        """ "" if the first node hears its own record; if not, why, and the others are told where it is."""
        async with connect(home=self.home, node=name) as mesh:
            while True:
                discovery = (await mesh.status())["discovery"]
                if discovery["heard_self"] or discovery["blocked"]:
                    return str(discovery["blocked"])
                await anyio.sleep(LOOK_S)

    async def _start_node(self, home: Home, name: str, seeds: list[str]) -> dict[str, Any]:
        process = spawn(["up", "--home", str(self.home), "--name", name, *seeds], self._log(name))
        self._nodes[name] = process
        self._record()
        return await anyio.to_thread.run_sync(wait_ready, home.node(name), process, self._log(name))

    def work(self, node: str, agents: list[str]) -> None:
        """Start one worker process with these agents, attached to `node`."""
        words = ["run", *agents, "--home", str(self.home), "--name", node]
        self._workers[node] = spawn(words, self._log(f"{node}-worker"))
        self._record()

    def _record(self) -> None:
        pids = [process.pid for process in (*self._nodes.values(), *self._workers.values())]
        (self._folder / "processes.json").write_text(json.dumps({"schema": "mesh.processes/1", "pids": pids}))

    def check(self) -> None:
        """Raises MeshError, with its last words, if a process that should run has ended."""
        for suffix, processes in (("", self._nodes), ("-worker", self._workers)):
            for name, process in processes.items():
                if name not in self._killed and process.poll() is not None:
                    log = self._log(name + suffix)
                    words, fix = last_words(log)
                    raise MeshError(f"the {'worker' if suffix else 'node'} of {name} ended: {words}", fix=fix or f"see {log}")

    def kill(self, name: str) -> list[int]:
        """kill -9 the node `name` and its worker. Their pids."""
        self._killed.add(name)
        pids = [processes[name].pid for processes in (self._nodes, self._workers) if name in processes]
        for pid in pids:
            end(pid, signal.SIGKILL)
        return pids

    # ---- down

    async def stop(self) -> int:
        """Take down the nodes of this home, then end every process on record; how many processes ran. What does not end is killed."""
        pids = [pid for pid in self._recorded() if self._is_ours(pid)]
        async with anyio.create_task_group() as group:
            for folder in Home(self.home).running():
                group.start_soon(self._down, folder.name)
        for pid in pids:
            end(pid)
        try:
            with anyio.fail_after(STOP_S):
                await self._gone(pids)
        except TimeoutError:
            for pid in pids:
                if self._is_ours(pid):
                    end(pid, signal.SIGKILL)
            with anyio.move_on_after(STOP_S):
                await self._gone(pids)
        left = [pid for pid in pids if self._is_ours(pid)]
        if left:
            raise TimedOut(f"processes {', '.join(map(str, left))} do not end", fix=f"kill -9 {' '.join(map(str, left))}")
        (self._folder / "processes.json").unlink(missing_ok=True)
        return len(pids)

    def _recorded(self) -> list[int]:
        try:
            pids = json.loads((self._folder / "processes.json").read_text())["pids"]
        except (OSError, ValueError, KeyError, TypeError):
            pids = []
        infos = [folder.info() for folder in Home(self.home).running()]
        return list(dict.fromkeys([*(pid for pid in pids if isinstance(pid, int)), *(int(info["pid"]) for info in infos if info)]))

    def _is_ours(self, pid: int) -> bool:
        """Whether the process runs and is one of this home's: pids are used again."""
        own = next((each for each in (*self._nodes.values(), *self._workers.values()) if each.pid == pid), None)
        if own is not None:
            return own.poll() is None
        return os.fsencode(self.home) in command_line(pid)

    async def _gone(self, pids: list[int]) -> None:
        while any(self._is_ours(pid) for pid in pids):  # noqa: ASYNC110  a pid sends no event
            await anyio.sleep(LOOK_S)

    async def _down(self, name: str) -> None:
        """Politely: it says LEFT. What hangs is killed afterwards."""
        with anyio.move_on_after(STOP_S):
            try:
                async with connect(home=self.home, node=name, timeout_s=STOP_S) as mesh:
                    await mesh.down()
            except (NoNode, TimedOut):
                return
