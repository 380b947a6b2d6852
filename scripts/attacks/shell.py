"""Many command lines, each in a process of its own that begins where the program is loaded already: a tenth of the processor time.

    Shell --words, what they read--> this module, in a process of its own --fork--> `dispatch`: exit code, stdout, stderr

What differs from a fresh `mesh`: /proc shows the shell's command line. Not for what goes on running: that is `Processes`.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from importlib import import_module

LIMIT_S = 120
LATER = ("mesh.client", "mesh.joining", "mesh.runtime.app", "typer._adapters")
"""What verbs load only when they are at work."""


class Shell:
    """Ends with `close`, or with whoever has it."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        words = [sys.executable, "-m", "attacks.shell"]
        self._process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environ, text=True)

    def run(
        self, *words: str, says: str = "", environ: Mapping[str, str] | None = None, folder: str = "."
    ) -> subprocess.CompletedProcess[str]:
        """One command line in `folder`, with `says` on its standard input, to its end or for LIMIT_S. `environ`: else our own."""
        process = self._process
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(json.dumps([words, says, dict(environ or {}), folder]) + "\n")
        process.stdin.flush()
        code, out, err = json.loads(process.stdout.readline())
        return subprocess.CompletedProcess(words, code, out, err)

    def close(self) -> None:
        self._process.communicate()


def main() -> None:
    from mesh.inspector.verbs import MODULES

    for module in (*sorted({f"mesh.inspector.{name}" for name in MODULES.values()}), *LATER):
        import_module(module)
    gc.freeze()
    for line in iter(sys.stdin.readline, ""):
        words, says, environ, folder = json.loads(line)
        with tempfile.TemporaryFile() as stdin, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            stdin.write(says.encode())
            stdin.seek(0)
            if (pid := os.fork()) == 0:
                if environ:
                    os.environ.clear()
                    os.environ.update(environ)
                os.chdir(folder)
                signal.alarm(LIMIT_S)
                run(words, stdin.fileno(), out.fileno(), err.fileno())
            _, status = os.waitpid(pid, 0)
            said = [file.seek(0) or file.read().decode() for file in (out, err)]
        print(json.dumps([os.waitstatus_to_exitcode(status), *said]), flush=True)


def run(words: list[str], *files: int) -> None:
    """In the child: as `mesh WORDS` with these as its standard files; does not return."""
    from mesh.inspector.cli import main as mesh

    for number, file in enumerate(files):
        os.dup2(file, number)
    sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w")  # noqa: SIM115 - they end with the process
    sys.argv = ["mesh", *words]
    try:
        mesh()
    except SystemExit as end:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(int(end.code or 0))


if __name__ == "__main__":
    main()
