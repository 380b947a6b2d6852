"""A process of its own for one task: the worker's side. The other side is `isolated.py`.

    worker --task, arguments, answers--> socket pair --> process: loads the agent, runs one handler, ends
           <--step, call, checkpoint, emit, secret, put, fetch, progress, said, ended--
    stop, timeout, the worker's end --SIGKILL to its process group-->

The process gets no descriptor but that pair, /dev/null and two pipes for what it prints; of the environment PATH, TZ and the language
(what a program needs to run and to read text), and the import path where it is not the interpreter's own. HOME is an empty folder that goes
with the task: libraries that look for credentials and settings there find none. Invariant: a task's end is told only when its process is
gone; whatever it sends is checked before anybody acts on it, and bounded. It is no sandbox: like every process of this user it may open
what the user may open, the node's folder among it, reach the network, and start what leaves its process group and outlives it; what it is
spared is being handed any of that.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
from asyncio.subprocess import Process, SubprocessStreamProtocol
from collections.abc import Coroutine
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mesh import isolation_checks as checks
from mesh.agent import Agent
from mesh.errors import MeshError, NodeBusy
from mesh.failures import report
from mesh.origin import Origin, origin_of
from mesh.runner import Runner
from mesh.runs import Run, RunEnded
from mesh.runtime.protocol_local import BadFrame, Channel

ASKS_MAX = 1024
"""Steps, calls and pieces of files of one process that wait at once."""
ASKS_BYTES_MAX = 64 * 1024 * 1024
PRINTED_BYTES_MAX = 1024 * 1024
"""Of each of stdout and stderr, per task; what is more is counted and dropped."""
LINE_BYTES_MAX = 64 * 1024
PRINT_S = 1.0
"""After its end: time for what it printed last to be read."""
EXIT_S = 5.0
"""After its result: time to close its lifespan."""
FOLDER = "mesh-task-"
"""A task's own folder is called so, with its worker's process id, in the system's place for temporary files."""
Ended = tuple[str, bytes, tuple[tuple[str, int], ...], dict[str, Any]]
_KEPT = ("PATH", "TZ", "LANG")


class Processes:
    """Of one agent: a process for each task of its isolated capabilities. Raises DeclarationError if no other process can load it."""

    def __init__(self, agent: Agent) -> None:
        self._origin = origin_of(agent)
        self.running: dict[int, Run] = {}
        """By process id."""
        self._burials: set[asyncio.Task[None]] = set()
        _sweep()

    async def run(self, run: Run, runner: Runner) -> tuple[bytes, tuple[tuple[str, int], ...]]:
        """The handler's output and files. Raises RunEnded: its failure, or what became of its process."""
        process = _Process(run, runner)
        try:
            await process.start(self._origin)
            self.running[process.pid] = run
            return await process.end()
        finally:
            process.kill()
            burial = asyncio.ensure_future(self._bury(process))
            self._burials.add(burial)
            burial.add_done_callback(self._burials.discard)
            await asyncio.shield(burial)

    async def _bury(self, process: _Process) -> None:
        await process.bury()
        self.running.pop(process.pid, None)

    async def close(self) -> None:
        """Wait until no process and no folder of one is left."""
        if self._burials:
            await asyncio.wait(self._burials)


class _Process:
    def __init__(self, run: Run, runner: Runner) -> None:
        self._run, self._runner = run, runner
        self._loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[Ended] = self._loop.create_future()
        self._finished = False
        """It said how its handler ended, and ends by itself."""
        self._channel = Channel(self._on_message, self._on_closed)
        self._asks: dict[int, asyncio.Task[None]] = {}
        self._asked_bytes = 0
        self._process: Process | None = None
        self._transport: asyncio.SubprocessTransport | None = None
        self._printers: list[asyncio.Task[None]] = []
        self._folder = ""

    @property
    def pid(self) -> int:
        return self._process.pid if self._process is not None else 0

    # ---- its life

    async def start(self, origin: Origin) -> None:
        """Raises RunEnded if the system gives us no process."""
        ours, theirs = socket.socketpair()
        try:
            self._folder = tempfile.mkdtemp(prefix=f"{FOLDER}{os.getpid()}-")
            self._transport, streams = await self._loop.subprocess_exec(
                lambda: SubprocessStreamProtocol(limit=LINE_BYTES_MAX, loop=self._loop),
                *(sys.executable, "-P", "-s", "-m", "mesh.isolated", str(theirs.fileno())),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=environment(self._folder),
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
            )
            self._process = Process(self._transport, streams, self._loop)
        except OSError as error:
            ours.close()
            message = f"no process could be started for this task: {error.strerror}"
            raise RunEnded("worker_lost", _failure("worker_lost", message)) from error
        finally:
            theirs.close()
        await self._loop.create_unix_connection(lambda: self._channel, sock=ours)
        printed = ((self._process.stdout, "stdout"), (self._process.stderr, "stderr"))
        self._printers = [self._loop.create_task(self._print(stream, sink)) for stream, sink in printed if stream is not None]
        self._channel.send_soon([0, "task", self._task(origin)])

    def _task(self, origin: Origin) -> dict[str, Any]:
        run, runner = self._run, self._runner
        assert run.capability.limits is not None and runner.shelf is not None
        return {
            "origin": asdict(origin),
            "limits": asdict(run.capability.limits),
            "item": [
                run.task,
                run.fence,
                run.capability.name,
                run.input,
                1 << 62,
                run.timeout_ms,
                run.parent,
                run.attempt,
                run.checkpoint,
                run.stream,
                0,
                list(run.rank),
                False,
                [],
                list(run.pins),
                [list(one) for one in run.baggage],
            ],
            "blobs": str(runner.shelf.blobs),
            "body_bytes_max": runner.body_bytes_max,
            "parent": os.getpid(),
        }

    async def end(self) -> tuple[bytes, tuple[tuple[str, int], ...]]:
        outcome, output, files, error = await self._ended
        assert self._process is not None
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._process.wait(), EXIT_S)
        if outcome != "ok":
            raise RunEnded(outcome, error)
        return output, files

    def kill(self) -> None:
        """At once, with all that it has started in its group."""
        process = self._process
        if process is not None and not (self._finished and process.returncode is not None):
            with contextlib.suppress(ProcessLookupError, PermissionError):  # PermissionError: on macOS, of a zombie
                os.killpg(process.pid, signal.SIGKILL)

    async def bury(self) -> None:
        """Until nothing of it is left."""
        self._ended.cancel()
        for ask in self._asks.values():
            ask.cancel()
        self._channel.close("done")
        if self._process is not None:
            await self._process.wait()
        if self._printers:
            # What has left the group may hold the pipes open for as long as it likes.
            await asyncio.wait(self._printers, timeout=PRINT_S)
            for printer in self._printers:
                printer.cancel()
        if self._transport is not None:
            self._transport.close()
        if self._folder:
            await asyncio.to_thread(shutil.rmtree, self._folder, ignore_errors=True)

    # ---- what it says

    def _on_message(self, message: list[Any]) -> None:
        number, verb, params = message
        try:
            if verb == "ended":
                self._end(checks.ended(params, self._runner.body_bytes_max))
            elif verb == "progress":
                self._runner.telling.progress(self._run, *checks.progress(params))
            elif verb == "said":
                for text in checks.said(params):
                    self._runner.telling.log(self._run, text)
            elif verb == "gone":
                if (ask := self._asks.pop(params.get("id"), None)) is not None:
                    ask.cancel()
            elif number and number not in self._asks:
                self._begin(number, verb, checks.request(verb, params, self._runner.body_bytes_max))
            else:
                raise BadFrame("bad_request")
        except (BadFrame, TypeError, ValueError, KeyError) as error:
            self._refuse(error.reason if isinstance(error, BadFrame) else "bad_frame")

    def _begin(self, number: int, verb: str, params: dict[str, Any]) -> None:
        size = sum(len(params.get(name, b"")) for name in ("input", "data", "value")) + len(str(params.get("args", "")))
        if len(self._asks) >= ASKS_MAX or self._asked_bytes + size > ASKS_BYTES_MAX:
            self._channel.send_soon(
                [number, False, NodeBusy(f"{len(self._asks)} requests of this task wait already", fix="wait for some").body()]
            )
            return
        if verb == "put":
            params["upload"] = f"{self.pid}/{params['upload']}"
        self._asked_bytes += size
        self._asks[number] = self._loop.create_task(self._answer(number, size, self._runner.relay(self._run, verb, params)))

    async def _answer(self, number: int, size: int, work: Coroutine[Any, Any, dict[str, Any]]) -> None:
        try:
            ok, body = True, await work
        except MeshError as error:
            ok, body = False, error.body()
        finally:
            self._asked_bytes -= size
            self._asks.pop(number, None)
        self._channel.send_soon([number, ok, body])

    def _end(self, item: Ended) -> None:
        if not self._ended.done():
            self._finished = True
            self._ended.set_result(item)

    def _fail(self, outcome: str, message: str, *, retryable: bool = True) -> None:
        if not self._ended.done():
            kind = "error" if outcome == "error" else outcome
            self._ended.set_exception(RunEnded(outcome, _failure(kind, message, retryable=retryable)))

    def _refuse(self, reason: str) -> None:
        self._fail("error", f"the process of this task said what makes no sense ({reason}), and was killed", retryable=False)

    def _on_closed(self, reason: str) -> None:
        if reason not in ("closed", "reset", "done"):
            self._refuse(reason)
        if not self._ended.done():
            self._watch = self._loop.create_task(self._died())

    async def _died(self) -> None:
        """Its end of the pair is closed, and it has not said how it ended: how did it?"""
        assert self._process is not None
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._process.wait(), EXIT_S)
        code, limits = self._process.returncode, self._run.capability.limits
        assert limits is not None
        who = f"the process of {self._run.task} (pid {self.pid})"
        if code == -signal.SIGXCPU:
            self._fail("error", f"{who} used up its {limits.cpu_s} s of processor time (limits: cpu_s)", retryable=False)
        elif code is None:
            self._fail("worker_lost", f"{who} cut its line to the worker, and was killed")
        elif code < 0:
            cause = " (out of memory, perhaps)" if code == -signal.SIGKILL else ""
            self._fail("worker_lost", f"{who} was killed by {_name(-code)}{cause}")
        else:
            self._fail("worker_lost", f"{who} ended with exit code {code} before its handler did")

    # ---- what it prints

    async def _print(self, source: asyncio.StreamReader, sink: str) -> None:
        """Pass on whole lines, secrets taken out. Reads to the end in any case: a full pipe would stop the handler."""
        rest, passed, dropped = b"", 0, 0
        while data := await source.read(LINE_BYTES_MAX):
            if passed > PRINTED_BYTES_MAX:
                dropped += len(data)
                continue
            passed += len(data)
            rest = self._write(rest + data, sink)
        self._write(rest + b"\n" if rest else b"", sink, whole=True)
        if dropped:
            report(f"{self._run.task} printed {dropped} bytes more than is passed on")

    def _write(self, data: bytes, sink: str, *, whole: bool = False) -> bytes:
        """Writes up to the last line's end, and returns the rest."""
        redactor = self._run.redactor
        cut = len(data) if whole else data.rfind(b"\n") + 1
        if not cut and len(data) > LINE_BYTES_MAX:
            # A line without end is cut where no secret can be.
            cut = max(0, len(data) - 4 * (redactor.longest if redactor is not None else 0))
        text = data[:cut].decode("utf-8", "replace")
        if text:
            text = text if redactor is None else redactor.text(text)
            # Tasks inherit the context of their run, so its log is kept of what is written here.
            stream = getattr(sys, sink)
            encoding = stream.encoding or "utf-8"
            with contextlib.suppress(OSError, ValueError):  # nobody reads what this worker prints, or not any more
                stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
                stream.flush()
        return data[cut:]


def _sweep() -> None:
    """Remove the folders of tasks whose worker was killed and could not."""
    for folder in Path(tempfile.gettempdir()).glob(f"{FOLDER}*"):
        worker = folder.name.removeprefix(FOLDER).partition("-")[0]
        try:
            if folder.lstat().st_uid == os.geteuid():
                os.kill(int(worker), 0)
        except ProcessLookupError:
            shutil.rmtree(folder, ignore_errors=True)
        except (ValueError, OverflowError, PermissionError, FileNotFoundError):  # none of a task, of another's worker, or gone meanwhile
            continue


def environment(folder: str) -> dict[str, str]:
    """All that the process finds in its environment."""
    kept = {name: value for name, value in os.environ.items() if name in _KEPT or name.startswith("LC_")}
    own = {os.path.realpath(sysconfig.get_paths()[name]) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    added = [path for path in sys.path if path and os.path.exists(path) and not _is_own(os.path.realpath(path), own)]
    return kept | {"HOME": folder, "TMPDIR": folder, "PYTHONPATH": os.pathsep.join(added)}


def _is_own(path: str, own: set[str]) -> bool:
    """The interpreter looks there by itself."""
    return path in own or os.path.basename(path) == "lib-dynload" or path.endswith(".zip")


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _failure(kind: str, message: str, *, retryable: bool = True) -> dict[str, Any]:
    return {"kind": kind, "message": message, "retryable": retryable, "details": ""}
