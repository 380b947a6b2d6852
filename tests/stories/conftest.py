"""Real processes on loopback, each test in a home of its own. Waiting is for events: a line, a document, the end of a process."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"
sys.path.insert(0, str(SCRIPTS))

from attacks.shell import Shell  # noqa: E402

MESH = [sys.executable, "-m", "mesh.inspector.cli"]
LIMIT_S = 120.0


class Shells:
    """What a person does in a few shells: all with the same $MESH_HOME and folder."""

    def __init__(self, folder: Path, shell: Shell) -> None:
        self.folder, self._shell = folder, shell
        self.home = folder / "home"
        self._started: list[subprocess.Popen[str]] = []
        self._environ = os.environ | {"MESH_HOME": str(self.home), "HOME": str(folder), "PYTHONUNBUFFERED": "1"}

    def run(self, *words: str, code: int = 0) -> str:
        """`mesh WORDS` to its end; what it printed."""
        done = self._shell.run(*words, environ=self._environ, folder=str(self.folder))
        assert done.returncode == code, f"{words} ended with {done.returncode}, not {code}\n{done.stdout}\n{done.stderr}"
        self.said = done.stderr
        return done.stdout

    def json(self, *words: str, code: int = 0) -> Any:
        return json.loads(self.run(*words, "--json", code=code))

    def start(self, *words: str, python: bool = False) -> subprocess.Popen[str]:
        """The same, left running."""
        line = [sys.executable, *words] if python else [*MESH, *words]
        process = subprocess.Popen(
            line, cwd=self.folder, env=self._environ, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self._started.append(process)
        return process

    def line(self, process: subprocess.Popen[str], part: str) -> str:
        """The next line of the process with `part` in it."""
        assert process.stdout is not None
        seen = []
        for line in process.stdout:
            seen.append(line)
            if part in line:
                return line
        raise AssertionError(f"it ended and never said {part!r}: {seen}")

    def until(self, look: Callable[[], Any]) -> Any:
        """Ask again until the answer is a yes."""
        deadline = time.monotonic() + LIMIT_S
        while time.monotonic() < deadline:
            if found := look():
                return found
        raise AssertionError(f"never true: {look}")

    def end(self, process: subprocess.Popen[str], how: signal.Signals = signal.SIGTERM) -> int:
        process.send_signal(how)
        code = process.wait(LIMIT_S)
        if process.stdout is not None:
            process.stdout.close()
        return code

    def file(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.write_text(text)
        return path

    def clear(self) -> None:
        for process in self._started:
            if process.poll() is None:
                process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()
        for number in self._running():
            os.kill(number, signal.SIGKILL)
        self.until(lambda: not self._running())  # a node that is ending by itself still takes away its own files

    def _running(self) -> list[int]:
        """Processes of this folder, whoever started them. (Of one that has ended no command line is left.)"""
        from mesh.launch import command_line

        numbers = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
        return [number for number in numbers if os.fsencode(self.folder) in command_line(number)]


@pytest.fixture(scope="session")
def shell() -> Iterator[Shell]:
    """Where commands begin; what goes on running begins from nothing."""
    made = Shell(os.environ | {"PYTHONPATH": str(SCRIPTS)})
    yield made
    made.close()


@pytest.fixture
def shells(shell: Shell) -> Iterator[Shells]:
    folder = Path(tempfile.mkdtemp(prefix="mesh-story-"))
    found = Shells(folder, shell)
    yield found
    found.clear()
    shutil.rmtree(folder)
