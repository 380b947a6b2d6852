"""A process of its own for one task: this is its program. Started by `isolation.py` as ``python -m mesh.isolated FD``.

    confine (limits, no core, ends with its worker) --> load the agent --> open its lifespan --> run one handler --> say how it ended

The worker's `Runner` runs here too, with one run; what it asks of the node goes over the socket pair FD to the worker, which asks for it.
A thread reads that pair, so that the process ends with its worker even while a handler never lets go of the loop. Nothing here is trusted
by the other side: user code shares this process.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import ctypes
import os
import resource
import signal
import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mesh.agent import Agent
from mesh.capture import capturing
from mesh.errors import from_body
from mesh.failures import failure, report
from mesh.files import FETCH_TIMEOUT_S, File, Shelf
from mesh.limits import IsolationLimits
from mesh.origin import Origin, load
from mesh.runner import Runner
from mesh.runtime.protocol_local import Splitter, frame
from mesh.worker import RealClock

MIB = 1024 * 1024
CPU_GRACE_S = 5
"""Between the signal that says so and the one that nobody can catch."""
_SET_PDEATHSIG, _SET_DUMPABLE = 1, 4


class Line:
    """The line to the worker. `ask` is what a worker's own `ask` is; any thread may use it."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._splitter = Splitter()
        self._sending = threading.Lock()
        self._waiting: dict[int, concurrent.futures.Future[dict[str, Any]]] = {}
        self._last = 0

    def first(self) -> dict[str, Any]:
        """The task, which comes before all else."""
        messages: list[list[Any]] = []
        while not messages:
            messages = self._splitter.feed(self._read())
        params: dict[str, Any] = messages[0][2]
        return params

    def listen(self) -> None:
        """Take answers until the worker is gone; then end, with everything that was started here."""
        while True:
            for number, ok, body in self._splitter.feed(self._read()):
                future = self._waiting.pop(number, None)
                if future is not None and not future.done():
                    future.set_result(body) if ok else future.set_exception(from_body(body))

    def _read(self) -> bytes:
        try:
            data = self._channel.recv(65536)
        except OSError:
            data = b""
        if not data:
            end()
        return data

    def send(self, number: int, verb: str, params: dict[str, Any]) -> None:
        data = frame([number, verb, params])
        with self._sending:
            self._channel.sendall(data)

    def ask_soon(self, verb: str, params: dict[str, Any]) -> tuple[int, concurrent.futures.Future[dict[str, Any]]]:
        future: concurrent.futures.Future[dict[str, Any]] = concurrent.futures.Future()
        with self._sending:
            self._last = number = self._last + 1
        self._waiting[number] = future
        self.send(number, verb, params)
        return number, future

    async def ask(self, verb: str, params: dict[str, Any]) -> dict[str, Any]:
        number, future = self.ask_soon(verb, params)
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            self.send(0, "gone", {"id": number})
            raise


class RelayedShelf(Shelf):
    """Files of other nodes are brought here by the worker."""

    def __init__(self, blobs: Path, line: Line) -> None:
        super().__init__(blobs, Path("/nonexistent"))
        self._line = line

    def bring(self, file: File) -> None:
        self._line.ask_soon("fetch", {"file": file.sha256, "size": file.size})[1].result(FETCH_TIMEOUT_S)


def end() -> None:
    """Of this process and of all in its group, at once."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os.killpg(0, signal.SIGKILL)


def confine(limits: IsolationLimits, parent: int) -> None:
    """Bound what this process may use, before any user code is loaded."""
    for which, soft, grace in (
        (resource.RLIMIT_CORE, 0, 0),
        (resource.RLIMIT_AS, limits.memory_mib * MIB, 0),
        (resource.RLIMIT_CPU, limits.cpu_s, CPU_GRACE_S),
        (resource.RLIMIT_NOFILE, limits.open_files, 0),
        (resource.RLIMIT_FSIZE, limits.file_mib * MIB, 0),
    ):
        _, hard = resource.getrlimit(which)
        most = soft + grace if hard == resource.RLIM_INFINITY else min(soft + grace, hard)
        try:
            resource.setrlimit(which, (min(soft, most), most))
        except (OSError, ValueError) as error:
            report(f"this system does not bound {which} of a process: {error}")
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        libc.prctl(_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        # Other processes of this user can neither read its memory nor attach to it: a secret may be in there.
        libc.prctl(_SET_DUMPABLE, 0, 0, 0, 0)
        if os.getppid() != parent:
            end()


async def serve(agent: Agent, line: Line, task: dict[str, Any]) -> None:
    """Run the one task; its end is said by the runner."""
    over = asyncio.Event()

    def out(verb: str, item: list[Any]) -> None:
        if verb == "progress":
            line.send(0, "progress", {"fraction": item[2], "note": item[3]})
        elif verb == "said":
            line.send(0, "said", {"lines": item[3]})
        elif verb == "ended":
            _, _, outcome, output, files, error, _ = item
            say_ended(line, outcome, output, files, error)
            over.set()

    # The worker reads what this process prints, and shows what comes over the line.
    with capturing(printed=False):
        async with agent.open() as lifespan:
            shelf = RelayedShelf(Path(task["blobs"]), line)
            clock, size_max = RealClock(), task["body_bytes_max"]
            runner = Runner(
                agent, out=out, ask=line.ask, clock=clock, shelf=shelf, body_bytes_max=size_max, lifespan=lifespan, relayed=True
            )
            runner.execute(task["item"])
            await over.wait()


def say_ended(line: Line, outcome: str, output: bytes, files: list[list[Any]], error: dict[str, Any]) -> None:
    line.send(0, "ended", {"outcome": "ok" if outcome == "ok" else "error", "output": output, "files": files, "error": error})


def guarded(line: Line, work: Callable[[], Any]) -> Any:
    """What user code raises outside of its handler (its module, its lifespan) is the task's failure too, and would be again."""
    try:
        return work()
    except BaseException as error:  # noqa: BLE001  user code may raise anything, SystemExit too; told as its failure
        found = failure(error) | {"retryable": False}
        what = "the agent could not be loaded in a process of its own"
        say_ended(line, "error", b"", [], found | {"message": f"{what}: {found['message']}"})
        end()


def main() -> None:
    channel = socket.socket(fileno=int(sys.argv[1]))
    channel.set_inheritable(False)
    line = Line(channel)
    task = line.first()
    confine(IsolationLimits(**task["limits"]), task["parent"])
    threading.Thread(target=line.listen, name="mesh-line", daemon=True).start()
    agent = guarded(line, lambda: load(Origin(**task["origin"])))
    guarded(line, lambda: asyncio.run(serve(agent, line, task)))
    end()


if __name__ == "__main__":
    main()
