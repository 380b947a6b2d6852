"""A node's discovery alone, as a process in a machine.  KEY [public]

    start NODE PORT [CAPABILITY...]     announces and listens
    late NODE PORT SECONDS              the same, as if the UTC day ended in so many seconds
    again SECONDS                       from the next start on: how often the network is asked anew
    stop
    look SECONDS                        who is there? As somebody who is no member asks
    tell                                statistics, memory and how late the loop was since the last time

Answers, and what is found, are lines of JSON on stdout; `at_s` is a clock that all processes of the machine share.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import anyio.abc

from mesh.limits import DiscoveryLimits
from mesh.runtime.clock import now_s, wall_ms
from mesh.runtime.lan.blinding import DAY_MS, Blinding
from mesh.runtime.lan.discovery import Discovery, browse
from mesh.runtime.lan.interfaces import find

PROBE_S = 0.01


def put(event: str, **fields: Any) -> None:
    print(json.dumps({"event": event, "at_s": now_s(), **fields}), flush=True)


def memory_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


class Finder:
    def __init__(self, key: str, public: bool, tasks: anyio.abc.TaskGroup) -> None:
        self._tags, self._public, self._tasks = Blinding(bytes.fromhex(key)), public, tasks
        self._interface = find().interface
        self._limits = DiscoveryLimits()
        self._discovery: Discovery | None = None
        self._scope = anyio.CancelScope()
        self._late_s: list[float] = []
        self._cpu_s = time.process_time()

    async def start(self, node: str, port: str, *capabilities: str, clock: Callable[[], int] = wall_ms) -> None:
        self._discovery = Discovery(
            node,
            self._tags,
            f"{self._interface.address}:{port}",
            self._limits,
            lambda _, found: put("found", address=found.address),
            interface=self._interface,
            public=self._public,
            wall_ms=clock,
        )
        self._discovery.advertise(capabilities)
        put("started", address=f"{self._interface.address}:{port}")
        self._scope = anyio.CancelScope()
        self._tasks.start_soon(self._run, self._discovery, self._scope)

    async def _run(self, discovery: Discovery, scope: anyio.CancelScope) -> None:
        with scope:
            await discovery.run()
        put("stopped", blocked=discovery.statistics().blocked)

    async def late(self, node: str, port: str, seconds: str) -> None:
        ahead_ms = DAY_MS - wall_ms() % DAY_MS - int(float(seconds) * 1000)
        await self.start(node, port, clock=lambda: wall_ms() + ahead_ms)

    async def again(self, seconds: str) -> None:
        self._limits = DiscoveryLimits(look_again_s=float(seconds))

    async def stop(self) -> None:
        self._scope.cancel()

    async def look(self, seconds: str) -> None:
        seen = await browse(self._interface, float(seconds))
        put("seen", seen=[dataclasses.asdict(each) for each in seen])

    async def tell(self) -> None:
        assert self._discovery
        late_ms = sorted(late_s * 1000 for late_s in self._late_s) or [0.0]
        cpu_s = time.process_time()
        statistics = dataclasses.asdict(self._discovery.statistics())
        put(
            "told",
            **statistics,
            memory_mib=memory_mib(),
            cpu_s=cpu_s - self._cpu_s,
            late_p50_ms=late_ms[len(late_ms) // 2],
            late_p99_ms=late_ms[int(len(late_ms) * 0.99)],
        )
        self._late_s, self._cpu_s = [], cpu_s

    async def probe(self) -> None:
        while True:
            before_s = time.monotonic()
            await anyio.sleep(PROBE_S)
            self._late_s.append(time.monotonic() - before_s - PROBE_S)


async def main(key: str, how: str = "") -> None:
    async with anyio.create_task_group() as tasks:
        finder = Finder(key, how == "public", tasks)
        tasks.start_soon(finder.probe)
        import zeroconf.asyncio  # noqa: F401  so that what is measured is the network

        put("ready")
        async for line in anyio.wrap_file(sys.stdin):
            verb, *words = line.split()
            await getattr(finder, verb)(*words)
        tasks.cancel_scope.cancel()


with contextlib.suppress(KeyboardInterrupt):
    anyio.run(main, *sys.argv[1:])
