"""Real power cuts of a file system under a real node: the kernel's own shutdown of ext4 (and xfs), which drops all that was not synced.

    image in a file --loop--> ext4 --> home of a node        outside: clients, an agent, a ledger of what was answered
    shutdown (nothing more reaches the disk, nor does the log) --> the node ends by itself --> mount again, start again --> judged

Judged by the ledger alone: whatever was answered (a task taken, its result, its file) must be there in the next life. At the end of an
image its journal is read whole and checked by `scripts/verify`, which shares no code with the node.

Unlike a power cut the shutdown is not one moment: on Linux 6.18 an fdatasync of ext4 that is under way meanwhile may say 0 although its
journal transaction was just dropped (a loop of pwrite and fdatasync alone shows it). So the ledger closes right before the call: what is
answered later is not counted, and told apart as "in the race".

    scripts/disk cuts [--cuts 50] [--seed N]      0 of what was answered is lost; then a planted bug loses some
    scripts/disk cuts --bug NAME                   only with that bug of `scripts/disk crashes` in the node

Exit 1 if something was lost, or the planted bug was not found; exit 77 where there can be no cuts.

Needs root, for a loop device and a mount namespace of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import fcntl
import hashlib
import os
import random
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from disks.bugs import BUGS
from mesh import Agent, File
from mesh.client import Mesh, connect
from mesh.errors import MeshError, NoSuchCapability
from mesh.messages.records import Finished, Submitted
from mesh.runtime.disk import store_chain
from mesh.runtime.disk.store_file import connect as connect_file
from mesh.runtime.disk.store_rows import Rows
from mesh.runtime.disk.vault import open_vault
from mesh.runtime.home import Home
from mesh.wire.codec import decode_entry
from mesh.worker import Worker

SHUTDOWN = 0x8004587D
"""FS_IOC_SHUTDOWN, the same number on ext4, xfs and f2fs."""
NO_LOG_FLUSH = struct.pack("I", 2)
INSIDE = "LANMESH_CUTS_INSIDE"
IMAGE_BYTES = 96 * 1024 * 1024
CUTS_OF_AN_IMAGE = 5
"""Then a new one, so that first lives are cut as well."""
CLIENTS = 6
NODE_S = 60.0
"""For a start or an end; only a defect takes so long."""
NOT_HERE = 77
PLANTED = "synchronous=NORMAL is faster"
PLANTED_CUTS = 10
MESH = "import sys; from disks.bugs import BUGS; from mesh.inspector.cli import main; BUGS[sys.argv.pop(1)]['patch']().__enter__(); main()"
"""The program with a bug in it, which is its first word."""
ROOT = Path(__file__).parents[2]

agent = Agent("keeper", concurrency=8)


@agent.capability(idempotent=True)
async def keep(text: str, raw: File | None = None) -> str:
    return text.upper()


@dataclass
class Ledger:
    """What clients were told, on a disk that is not cut."""

    tasks: list[str] = field(default_factory=list)
    results: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    in_race: int = 0

    @property
    def answers(self) -> int:
        return len(self.tasks) + len(self.results) + len(self.files)


class Disk:
    """A file system in a file, mounted or not."""

    def __init__(self, folder: Path, kind: str, options: str) -> None:
        self._kind, self._options = kind, options
        self._image, self.path = folder / "image", folder / "mounted"
        self.path.mkdir()
        with self._image.open("wb") as image:
            image.truncate(IMAGE_BYTES)
        _run(f"mkfs.{kind}", "-q", str(self._image))

    def mount(self) -> None:
        _run("mount", "-t", self._kind, "-o", ",".join(filter(None, ("loop", self._options))), str(self._image), str(self.path))

    def unmount(self) -> None:
        _run("umount", str(self.path))

    def cut(self) -> None:
        handle = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.ioctl(handle, SHUTDOWN, NO_LOG_FLUSH)
        finally:
            os.close(handle)


class Node:
    """`mesh up` in a home on the disk."""

    def __init__(self, home: Path, log: Path, bug: str) -> None:
        self.home, self._log = home, log
        self._program = ("-c", MESH, bug) if bug else ("-m", "mesh.inspector.cli")

    def start(self) -> None:
        words = [sys.executable, *self._program, "up", "--home", str(self.home), "--name", "otter", "--no-mdns"]
        with self._log.open("wb") as out:
            self._process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=out, stderr=out, cwd="/")
        _until(self._answers, "the node to start")

    def _answers(self) -> bool:
        """It says so itself; what an earlier life said may have come back from the disk."""
        assert self._process.poll() is None, f"the node did not start: {self._log.read_text()[-2000:]}"
        return (Home(self.home).node("otter").info() or {}).get("pid") == self._process.pid

    def ended(self) -> int:
        return self._process.wait(NODE_S)

    def end(self) -> None:
        """At the end of it all, however that came."""
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        self._process.terminate()
        assert self.ended() == 0, self._log.read_text()[-2000:]


class Life:
    """Clients at work until the power goes. `after`: this many answers come before the cut."""

    def __init__(self, disk: Disk, node: Node, ledger: Ledger, after: int, outside: Path) -> None:
        self._disk, self._node, self._ledger, self._after, self._outside = disk, node, ledger, after, outside
        self._answers = 0
        self._cut = asyncio.Event()
        self._over = False

    async def run(self) -> None:
        worker = asyncio.create_task(Worker(agent, lambda: Home(self._node.home).node("otter").socket_path).run())
        try:
            async with connect(home=self._node.home, node="otter", timeout_s=NODE_S) as mesh:
                await self._agent_is_there(mesh)
                clients = [asyncio.create_task(self._work(mesh, number)) for number in range(CLIENTS)]
                async with asyncio.timeout(NODE_S):
                    await self._cut.wait()
                self._over = True
                self._disk.cut()
                await asyncio.wait(clients, timeout=NODE_S)
                for client in clients:
                    client.result()
        finally:
            worker.cancel()
            await asyncio.wait([worker])

    async def _agent_is_there(self, mesh: Mesh) -> None:
        async with asyncio.timeout(NODE_S):
            while True:
                with contextlib.suppress(NoSuchCapability):
                    await mesh.call("keep", text="here")
                    return

    async def _work(self, mesh: Mesh, number: int) -> None:
        """Until the node is gone."""
        with contextlib.suppress(MeshError):
            for count in range(100_000):
                raw = self._file(f"{number} {count}") if count % 4 == 0 else None
                task = await mesh.submit("keep", text="x" * 500, raw=raw)
                self._answered(self._ledger.tasks, task.id)
                if raw is not None:
                    self._answered(self._ledger.files, hashlib.sha256(raw.path.read_bytes()).hexdigest())
                if count % 3 == 0:
                    await task.result()
                    self._answered(self._ledger.results, task.id)

    def _file(self, label: str) -> File:
        path = self._outside / f"file-{label.replace(' ', '-')}"
        path.write_bytes(os.urandom(2000))
        return File.of(path)

    def _answered(self, column: list[str], what: str) -> None:
        if self._over:
            self._ledger.in_race += 1
            return
        column.append(what)
        self._answers += 1
        if self._answers >= self._after:
            self._cut.set()


def lost(home: Home, ledger: Ledger) -> list[str]:
    """What the ledger has and the journal, or the store of files, has not. The node may run."""
    folder = home.node("otter")
    rows = Rows(folder.journal_path, open_vault(home).sealer("journal", _author(folder.journal_path)))
    submitted: set[str] = set()
    finished: set[str] = set()
    with contextlib.closing(connect_file(folder.journal_path, read_only=True)) as connection:
        for _, _, entries in store_chain.read_commits(connection, rows, _author(folder.journal_path)):
            for entry in map(decode_entry, entries):
                if type(entry) is Submitted:
                    submitted.add(entry.task)
                elif type(entry) is Finished:
                    finished.add(entry.task)
    found = [f"task {task}" for task in ledger.tasks if task not in submitted]
    found += [f"result of {task}" for task in ledger.results if task not in finished]
    for name in ledger.files:
        path = folder.files_path / name[:2] / name
        if not path.exists() or hashlib.sha256(path.read_bytes()).hexdigest() != name:
            found.append(f"file {name[:12]}")
    return found


def _author(path: Path) -> str:
    with contextlib.closing(connect_file(path, read_only=True)) as connection:
        return bytes(connection.execute("SELECT value FROM meta WHERE name='author'").fetchone()[0]).decode()


def an_image(disk: Disk, folder: Path, cuts: int, moments: random.Random, bug: str) -> tuple[Ledger, list[str]]:
    """So many cuts of one file system, and then a life that is not cut. What was answered, and what of it was lost."""
    ledger, found = Ledger(), []
    node = Node(disk.path / "home", folder / "node.log", bug)
    for _ in range(cuts):
        with _running(disk, node):
            found += lost(Home(node.home), ledger) if ledger.tasks else []
            asyncio.run(Life(disk, node, ledger, moments.randrange(1, 200), folder).run())
            assert node.ended() != 0, "a node whose disk is gone says that it is well"
    with _running(disk, node):
        found += lost(Home(node.home), ledger)
        verified = asyncio.run(_verified(node.home, folder / "exported"))
        found += [] if verified["ok"] else [f"verify: {verified['problem']}"]
        node.stop()
    _run(sys.executable, str(ROOT / "scripts" / "verify"), str(folder / "exported"))
    return ledger, sorted(set(found))


@contextlib.contextmanager
def _running(disk: Disk, node: Node) -> Iterator[None]:
    disk.mount()
    try:
        node.start()
        try:
            yield
        finally:
            node.end()
    finally:
        disk.unmount()


async def _verified(home: Path, export: Path) -> dict[str, Any]:
    async with connect(home=home, node="otter") as mesh:
        return await mesh.verify(export=str(export))


def _until(done: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + NODE_S
    while not done():
        assert time.monotonic() < end, f"gave up waiting for {what}"
        time.sleep(0.02)


# ---- the command


def why_not() -> str:
    """Why there can be no cuts here; empty if there can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "not root on Linux"
    if not Path("/dev/loop-control").exists():
        return "no loop devices here"
    return next((f"no {tool} here" for tool in ("unshare", "mount", "mkfs.ext4") if shutil.which(tool) is None), "")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cuts", type=int, default=50)
    parser.add_argument("--seed", type=int, help="of the moments [default: a fresh one]")
    parser.add_argument("--bug", default="", choices=[name for name, plan in BUGS.items() if "patch" in plan])
    options = parser.parse_args()
    if why := why_not():
        print(f"NOTICE: no file system is cut: {why}", file=sys.stderr)
        return NOT_HERE
    if INSIDE not in os.environ:  # mounts of its own: nothing stays behind, and nobody else sees them
        command = ["unshare", "--mount", "--propagation", "private", sys.executable, "-m", "disks.cuts", *sys.argv[1:]]
        return subprocess.run(command, env={**os.environ, INSIDE: "1"}, check=False).returncode
    seed = random.SystemRandom().randrange(10**9) if options.seed is None else options.seed
    print(f"seed {seed}", flush=True)
    bad = cut_all(options.cuts, seed, options.bug)
    if bad or options.bug or options.cuts < PLANTED_CUTS:
        return 1 if bad else 0
    print(f"bug: {PLANTED}", flush=True)
    return 0 if cut_all(PLANTED_CUTS, seed, PLANTED) else 1


def cut_all(cuts: int, seed: int, bug: str) -> int:
    """How much was lost."""
    moments, done, bad, answers, race = random.Random(seed), 0, 0, 0, 0
    kinds = [("ext4", "data=ordered"), ("ext4", "data=writeback"), *([("xfs", "")] if shutil.which("mkfs.xfs") else [])]
    while done < cuts:
        kind, mounted_with = kinds[done // CUTS_OF_AN_IMAGE % len(kinds)]
        now = min(CUTS_OF_AN_IMAGE, cuts - done)
        with tempfile.TemporaryDirectory(prefix="lanmesh-cuts-") as folder:
            ledger, found = an_image(Disk(Path(folder), kind, mounted_with), Path(folder), now, moments, bug)
        done, answers, race, bad = done + now, answers + ledger.answers, race + ledger.in_race, bad + len(found)
        told = f"{len(ledger.tasks)} tasks, {len(ledger.results)} results, {len(ledger.files)} files answered"
        print(f"{kind} {mounted_with}: {now} cuts, {told}, {len(found)} lost {found[:3] if found else ''}".rstrip(), flush=True)
    print(f"{done} cuts, {answers} answers ({race} more in the race), {bad} lost", flush=True)
    return bad


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: {done.stderr.strip() or done.stdout.strip()}")


if __name__ == "__main__":
    sys.exit(main())
