"""From the token to the first answer: `mesh join -` on a fresh home, then a task from it to an agent on the inviting node.

The task is asked for by turns by a program that runs already, and by `mesh call`; the commands are started from nothing. On loopback, over
mDNS; minimum, median and p95 of the joins.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from common import HERE, percentile, show

from mesh.sync import connect

MESH = (sys.executable, "-m", "mesh.inspector.cli")


def mesh(home: Path, *words: str, says: str = "") -> dict[str, Any]:
    done = subprocess.run([*MESH, *words, "--home", str(home), "--json"], input=says, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"mesh {' '.join(words)}: {done.stdout}{done.stderr}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def home(folder: Path, name: str) -> Path:
    """A home whose node stays on this machine."""
    path = folder / name
    path.mkdir()
    (path / "config.toml").write_text('bind = "127.0.0.1"\n')
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--joins", type=int, default=20)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="mesh-bench-"))
    first = home(folder, "first")
    joined_s: list[float] = []
    by_program_s: list[float] = []
    by_command_s: list[float] = []
    try:
        mesh(first, "init", "bench")
        worker = mesh(first, "run", str(HERE / "noop_agent.py"), "--detach")["pid"]
        for number in range(asked.joins):
            place, token = home(folder, f"home{number}"), mesh(first, "invite")["token"]
            began_s = time.monotonic()
            mesh(place, "join", "-", "--name", f"n{number}", says=token)
            joined_s.append(time.monotonic() - began_s)
            if number % 2:
                mesh(place, "call", "noop", "text=x")
                by_command_s.append(time.monotonic() - began_s)
            else:
                with connect(home=place) as client:
                    client.call("noop", text="x")
                by_program_s.append(time.monotonic() - began_s)
            mesh(place, "down")
        rows = [
            ("mesh join", joined_s),
            ("to a program's first answer", by_program_s),
            ("to the first answer of mesh call", by_command_s),
        ]
        show(
            [{"what": what, "min_s": min(took), "p50_s": percentile(took, 0.5), "p95_s": percentile(took, 0.95)} for what, took in rows],
            asked.json,
        )
        os.kill(worker, signal.SIGTERM)
    finally:
        mesh(first, "down")
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    os.environ.pop("MESH_HOME", None)
    main()
