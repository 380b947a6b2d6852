"""Starting node and worker processes on this machine, and waiting until they answer. Processes are ended by their own pid."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from mesh.errors import MeshError, TimedOut
from mesh.runtime.home import ASKS_AROUND, Home, NodeFolder

READY_S = 15.0
LOOK_EVERY_S = 0.01
_OUTLIVING: list[subprocess.Popen[bytes]] = []
"""Nodes that stay when this process ends: dropping their handles would warn of a child left behind, which is what is meant."""
MESH = (sys.executable, "-P", "-m", "mesh.inspector.cli")
"""-P: whatever lies in the folder where somebody happens to stand is not imported by the process that holds the node's keys."""


def spawn(words: list[str], log: Path) -> subprocess.Popen[bytes]:
    """Start `mesh WORDS` in a session of its own, so that Ctrl-C here does not reach it; what it says goes to `log`."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as out:
        return subprocess.Popen([*MESH, *words], stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True)


def wait_ready(folder: NodeFolder, process: subprocess.Popen[bytes], log: Path) -> dict[str, Any]:
    """What the node says of itself once it answers. Raises MeshError with its last words if it ends first, TimedOut if it does neither."""
    deadline = time.monotonic() + READY_S
    while time.monotonic() < deadline:
        info = folder.info()
        ended = process.poll() is not None
        if info is not None and info.get(ASKS_AROUND):
            deadline = max(deadline, time.monotonic() + READY_S)  # it bounds that itself
        elif info is not None and (ended or info.get("pid") == process.pid):
            return info
        # Two may start one node at once: the second finds it running, and waits for the first's.
        if ended and not folder.is_running():
            words, fix = last_words(log)
            failed = MeshError(f"the node {folder.name} did not start: {words}", fix=fix or f"see {log}")
            failed.exit_code = process.returncode if process.returncode in (2, 5) else 1
            raise failed
        time.sleep(LOOK_EVERY_S)
    raise TimedOut(f"the node {folder.name} did not answer within {READY_S:g} s", fix=f"see {log}")


def start_node(folder: NodeFolder, words: list[str]) -> dict[str, Any]:
    """Start a node's process and wait until it answers: what it says of itself. Raises MeshError with its last words."""
    folder.make()
    process = spawn(["up", *words], folder.log_path)
    _OUTLIVING.append(process)
    return wait_ready(folder, process, folder.log_path)


def node_for_worker(home: Home, name: str) -> NodeFolder:
    """Where a worker attaches: the node called `name`; without a name one that runs, the home's first where none does."""
    return home.node(name) if name else next(iter(home.running()), home.node())


def last_words(log: Path) -> tuple[str, str]:
    """What a process said last, and what to type then ("" if it did not say)."""
    lines = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
    told = [number for number, line in enumerate(lines) if line.startswith("mesh: ")]
    if not told:
        return (lines or ["it said nothing"])[-1], ""
    fixes = [line.removeprefix("try:").strip() for line in lines[told[-1] :] if line.startswith("try:")]
    return lines[told[-1]].removeprefix("mesh: "), fixes[-1] if fixes else ""


def end(pid: int, how: signal.Signals = signal.SIGTERM) -> bool:
    """Signal one process by its pid. False if it is gone already."""
    try:
        os.kill(pid, how)
    except ProcessLookupError:
        return False
    return True


def command_line(pid: int) -> bytes:
    """How the process was started; b"" if it does not run (a zombie does not)."""
    proc = Path("/proc")
    if (proc / "self/cmdline").exists():
        try:
            return (proc / str(pid) / "cmdline").read_bytes()
        except OSError:
            return b""
    return subprocess.run(["ps", "-o", "command=", "-p", str(pid)], capture_output=True, check=False).stdout
