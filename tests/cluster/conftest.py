"""A mesh of real processes on loopback, each test's in a home of its own, judged by a ledger file that the mesh knows nothing of.

Waiting is always for something seen from outside (a line of the ledger, an answer of a node), within a bound that only a defect exceeds.
Every process is ended by its own pid. When a test is over the independent verifier reads every journal of its home, and no node may have
died of an exception, or have cut another off.
"""

from __future__ import annotations

import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest

from mesh.runtime.disk.store_read import export
from mesh.runtime.disk.vault import open_vault
from mesh.runtime.home import Home
from mesh.sync import Mesh, connect

T = TypeVar("T")

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
GATED, ONLY = HERE / "gated_agent.py", HERE / "only_agent.py"
CLI = (sys.executable, "-m", "mesh.inspector.cli")
LIMIT_S = 60.0
LOOK_EVERY_S = 0.02
LOG_TAIL = 6000


def until(done: Callable[[], T], what: str, limit_s: float = LIMIT_S) -> T:
    """What `done` returns, as soon as that is true."""
    end = time.monotonic() + limit_s
    while True:
        found = done()
        if found:
            return found
        assert time.monotonic() < end, f"gave up waiting for {what} after {limit_s:g} s"
        time.sleep(LOOK_EVERY_S)


@dataclass(frozen=True)
class Line:
    """One line of the ledger. `at_s` is on the machine's monotonic clock."""

    what: str
    label: str
    task: str
    fence: int
    pid: int
    at_s: float


class Ledger:
    """What handlers really did."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def lines(self, what: str, label: str) -> list[Line]:
        if not self.path.exists():
            return []
        words = (line.split() for line in self.path.read_text().splitlines())
        found = (Line(w[0], w[1], w[2], int(w[3]), int(w[4]), float(w[5])) for w in words)
        return [line for line in found if line.what == what and line.label == label]

    def starts(self, label: str) -> list[Line]:
        return self.lines("start", label)

    def ends(self, label: str) -> list[Line]:
        return self.lines("end", label)

    def wait(self, what: str, label: str, count: int = 1) -> Line:
        """The `count`-th such line."""
        return until(lambda: self.lines(what, label)[count - 1 : count], f"{what} {count} of {label}")[0]


class Cluster:
    """Nodes and workers of one home. A worker is named after its node."""

    cli = CLI

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.home = folder / "home"
        self.ledger = Ledger(folder / "ledger")
        self.nodes: dict[str, subprocess.Popen[bytes]] = {}
        self.workers: dict[str, subprocess.Popen[bytes]] = {}
        self._all: list[subprocess.Popen[bytes]] = []
        self._clients: dict[str, Mesh] = {}
        self._stack = ExitStack()

    # ---- processes

    def spawn(self, log: str, words: list[str], **environment: str) -> subprocess.Popen[bytes]:
        with (self.folder / f"{log}.log").open("ab") as out:
            process = subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env={**os.environ, **environment}, start_new_session=True
            )
        self._all.append(process)
        return process

    def node(self, *names: str, join: list[str] | None = None) -> None:
        """Start nodes and wait until they answer; they join all that run."""
        for name in names:
            words = [*CLI, "up", "--home", str(self.home), "--name", name, "--no-mdns"]
            for door in self.doors() if join is None else join:
                words += ["--join", door]
            self.nodes[name] = process = self.spawn(name, words)
            folder = Home(self.home).node(name)

            def ready(process: subprocess.Popen[bytes] = process, folder: Any = folder) -> bool:
                assert process.poll() is None, f"the node {folder.name} ended"
                return bool((info := folder.info()) and info["pid"] == process.pid)

            until(ready, f"node {name}")

    def doors(self) -> list[str]:
        running = (Home(self.home).node(name).info() for name, process in self.nodes.items() if process.poll() is None)
        return [info["door"] for info in running if info]

    def info(self, name: str) -> dict[str, Any]:
        info = Home(self.home).node(name).info()
        assert info is not None
        return info

    def worker(self, *names: str, agent: Path = GATED, slots: int = 8) -> None:
        """Start a worker at each of these nodes and wait until it is attached."""
        for name in names:
            words = [*CLI, "run", str(agent), "--home", str(self.home), "--name", name]
            self.workers[name] = self.spawn(f"{name}-worker", words, GATED_SLOTS=str(slots))
        for name in names:
            until(lambda name=name: self.attached(name), f"the worker of {name}")

    def attached(self, name: str) -> bool:
        assert self.workers[name].poll() is None, f"the worker of {name} ended"
        return any(worker["pid"] == self.workers[name].pid for worker in self.client(name).status()["workers"])

    def whose(self, line: Line) -> str:
        """The node at which that handler ran."""
        return next(name for name, process in self.workers.items() if process.pid == line.pid)

    @staticmethod
    def kill(*processes: subprocess.Popen[bytes]) -> float:
        """SIGKILL, all at once. When that was, on the ledger's clock."""
        for process in processes:
            process.send_signal(signal.SIGKILL)
        at_s = time.clock_gettime(time.CLOCK_MONOTONIC)
        for process in processes:
            process.wait()
        return at_s

    def run(self, *words: str, timeout_s: float = LIMIT_S) -> subprocess.CompletedProcess[bytes]:
        """One command of the command line, to its end."""
        return subprocess.run([*CLI, *words], stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout_s, check=False)

    # ---- looking

    def client(self, name: str) -> Mesh:
        """A connection to that node; it survives the node's restart."""
        if name not in self._clients:
            self._clients[name] = self._stack.enter_context(connect(home=self.home, node=name, timeout_s=LIMIT_S))
        return self._clients[name]

    def rows(self, observer: str) -> dict[str, dict[str, Any]]:
        """What `observer` says of each node."""
        return {row["name"]: row for row in self.client(observer).nodes()["nodes"]}

    def states(self, observer: str) -> dict[str, str]:
        return {name: row["state"] for name, row in self.rows(observer).items()}

    def gather(self) -> None:
        """Wait until every running node is linked with every other, and knows what the workers offer."""
        names = [name for name, process in self.nodes.items() if process.poll() is None]
        working = {name for name in names if name in self.workers and self.workers[name].poll() is None}

        def whole() -> bool:
            for observer in names:
                rows = self.rows(observer)
                if any(name not in rows or rows[name]["state"] != "alive" for name in names):
                    return False
                if any(not rows[name]["linked"] for name in names if name != observer) or any(not rows[name]["caps"] for name in working):
                    return False
            return True

        until(whole, f"{names} to be linked with each other")

    def entries(self, task: str, kind: str, at: str) -> list[dict[str, Any]]:
        """The task's journal entries of one kind, as the node `at` tells them; all proven."""
        entries = [entry for entry in self.client(at).story(task)["entries"] if entry["kind"] == kind and entry["task"] == task]
        assert all(entry["verified"] for entry in entries)
        return entries

    # ---- work

    def gate(self, name: str) -> str:
        return str(self.folder / name)

    def open(self, name: str, process: subprocess.Popen[bytes] | None = None) -> None:
        """Let the handlers at this gate go on, or only those of one process."""
        (self.folder / (f"{name}.{process.pid}" if process else name)).touch()

    def submit(self, at: str, capability: str, label: str, **arguments: Any) -> Any:
        return self.client(at).submit(capability, ledger=str(self.ledger.path), label=label, **arguments)

    def committed_once(self, task: Any, at: str) -> dict[str, Any]:
        """The one terminal entry of a task that is done, which is that of its newest fence."""
        finished = self.entries(task.id, "Finished", at)
        assert len(finished) == 1, finished
        assert finished[0]["state"] == "done"
        assert finished[0]["fence"] == max(entry["fence"] for entry in self.entries(task.id, "Decided", at))
        return finished[0]

    # ---- the end

    def close(self) -> None:
        self._stack.close()
        for how in (signal.SIGTERM, signal.SIGKILL):
            for process in self._all:
                if process.poll() is None:
                    process.send_signal(signal.SIGCONT)
                    process.send_signal(how)
            end = time.monotonic() + 5
            for process in self._all:
                try:
                    process.wait(max(0.01, end - time.monotonic()))
                except subprocess.TimeoutExpired:
                    continue

    def verify(self) -> None:
        """The independent verifier accepts every journal, no process has died of a defect, and no node took another for hostile.

        Call after `close`.
        """
        journals = [self.exported(path) for path in sorted(self.home.rglob("journal.sqlite"))]
        if journals:
            checked = subprocess.run([sys.executable, ROOT / "scripts" / "verify", *journals], capture_output=True, text=True, check=False)
            assert checked.returncode == 0, checked.stdout + checked.stderr
        for journal in journals:
            assert (cut := re.search(rb"cut_[a-z_]{4,}", journal.read_bytes())) is None, (journal.name, cut)
        for log in sorted(self.folder.glob("*.log")):
            text = log.read_text(errors="replace")
            assert "Traceback" not in text, f"{log.name}:\n{text[-LOG_TAIL:]}"

    def exported(self, journal: Path) -> Path:
        """A node's sealed journal as the verifier can read it."""
        with closing(sqlite3.connect(f"{journal.as_uri()}?mode=ro", uri=True)) as file:
            meta = dict(file.execute("SELECT name, value FROM meta"))
        sealer = open_vault(Home(self.home)).sealer("journal", meta["author"].decode())
        out = self.folder / f"{journal.parent.name}.export"
        with out.open("wb") as file:
            export(journal, file, sealer)
        return out

    def report(self) -> str:
        logs = [f"--- {log.name}\n{log.read_text(errors='replace')[-LOG_TAIL:]}" for log in sorted(self.folder.glob("*.log"))]
        ledger = self.ledger.path.read_text()[-LOG_TAIL:] if self.ledger.path.exists() else "(empty)"
        return "\n".join([*logs, f"--- ledger\n{ledger}"])


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    made = Cluster(tmp_path)
    try:
        yield made
    finally:
        made.close()
    made.verify()


@pytest.fixture
def cluster_class() -> type[Cluster]:
    """For tests of several homes."""
    return Cluster


@pytest.fixture
def only_agent() -> Path:
    """An agent file with one capability that the others do not offer."""
    return ONLY


@pytest.fixture
def eventually() -> Callable[..., Any]:
    """`until`, for tests."""
    return until


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Show what the processes said when a test fails."""
    outcome = yield
    report = outcome.get_result()  # type: ignore[attr-defined]
    made = getattr(item, "funcargs", {}).get("cluster")
    if report.failed and isinstance(made, Cluster):
        report.sections.append((f"processes ({report.when})", made.report()))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.cluster)
