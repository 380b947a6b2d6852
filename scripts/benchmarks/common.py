"""Shared by the benchmarks: processes, percentiles, CPU time, a small mesh in a folder of its own."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
MESH = ("-m", "mesh.inspector.cli")
TICKS = os.sysconf("SC_CLK_TCK")


def percentile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def cpu_s(pids: list[int]) -> float:
    """User and system seconds of these processes so far."""
    total = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        total += int(fields[11]) + int(fields[12])
    return total / TICKS


def rss_mib(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return 0.0


def wait_for(done: Callable[[], Any], what: str, limit_s: float = 30.0) -> Any:
    end = time.monotonic() + limit_s
    while time.monotonic() < end:
        found = done()
        if found:
            return found
        time.sleep(0.02)
    raise SystemExit(f"gave up waiting for {what}")


class Processes:
    """Child processes that end with the block, by their own pid."""

    def __init__(self) -> None:
        self.all: list[subprocess.Popen[str]] = []

    def start(
        self, words: list[str], *, ready: str = "", log: Path | None = None, environ: Mapping[str, str] | None = None
    ) -> subprocess.Popen[str]:
        """`environ`: added to this process's own."""
        more = {**os.environ, **(environ or {})}
        with (log or Path(os.devnull)).open("a") as out:
            process = subprocess.Popen(words, stdout=subprocess.PIPE if ready else out, stderr=out, text=True, env=more)
        self.all.append(process)
        if ready:
            assert process.stdout is not None
            for line in process.stdout:
                if ready in line:
                    return process
            raise SystemExit(f"{words} ended before it said {ready!r}")
        return process

    def stop(self) -> None:
        for how in (signal.SIGTERM, signal.SIGKILL):
            for process in self.all:
                if process.poll() is None:
                    process.send_signal(how)
            end = time.monotonic() + 3
            for process in self.all:
                try:
                    process.wait(max(0.01, end - time.monotonic()))
                except subprocess.TimeoutExpired:
                    continue


@contextmanager
def processes() -> Iterator[Processes]:
    group = Processes()
    try:
        yield group
    finally:
        group.stop()


class Mesh:
    """Nodes and workers on loopback, in a home that is removed afterwards."""

    def __init__(self, group: Processes, config: str = "") -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="mesh-bench-"))
        self.home = self.folder / "home"
        self._group = group
        self.nodes: dict[str, subprocess.Popen[str]] = {}
        self.workers: dict[str, subprocess.Popen[str]] = {}
        self._first_door = ""
        if config:
            self.home.mkdir()
            (self.home / "config.toml").write_text(config)

    def node(self, name: str, program: Sequence[str] = MESH, role: str = "") -> None:
        join = (["--join", self._first_door] if self._first_door else []) + (["--role", role] if role else [])
        words = [sys.executable, *program, "up", "--home", str(self.home), "--name", name, "--no-mdns", *join]
        self.nodes[name] = self._group.start(words, log=self.folder / f"{name}.log")
        info = wait_for(lambda: self.info(name), f"node {name}")
        self._first_door = self._first_door or info["door"]

    def info(self, name: str) -> dict[str, Any] | None:
        from mesh.runtime.home import Home

        return Home(self.home).node(name).info()

    def worker(self, target: Path | str, name: str, *others: Path | str, environ: Mapping[str, str] | None = None) -> None:
        """One process for all of these targets."""
        words = [sys.executable, *MESH, "run", str(target), *map(str, others), "--home", str(self.home), "--name", name]
        self.workers[name] = self._group.start(words, log=self.folder / f"{name}-worker.log", environ=environ)

    def close(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


@contextmanager
def mesh(config: str = "") -> Iterator[Mesh]:
    """`config`: the home's config.toml."""
    with processes() as group:
        made = Mesh(group, config)
        try:
            yield made
        finally:
            group.stop()
            made.close()


def cell(value: Any) -> str:
    return "-" if value is None else f"{value:,.2f}" if isinstance(value, float) else str(value)


def show(rows: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        print(json.dumps(rows))
        return
    keys = list(dict.fromkeys(key for row in rows for key in row))
    cells = [[cell(row.get(key)) for key in keys] for row in rows]
    widths = [max(len(key), *(len(row[i]) for row in cells)) for i, key in enumerate(keys)]
    for line in [keys, *cells]:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
