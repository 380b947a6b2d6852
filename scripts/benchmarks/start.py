"""What it costs to have the mesh: import, start to first call, idle memory, installed size."""

from __future__ import annotations

import argparse
import asyncio
import importlib.metadata
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from common import HERE, mesh, rss_mib, show


def import_ms(then: str = "pass") -> float:
    """`import mesh`, and what is used of it, beyond a bare interpreter; median of seven."""

    def run(code: str) -> float:
        times = []
        for _ in range(7):
            started = time.perf_counter()
            subprocess.run([sys.executable, "-c", code], check=True)
            times.append(time.perf_counter() - started)
        return statistics.median(times)

    return 1000 * (run(f"import mesh; {then}") - run("pass"))


def command_ms() -> float:
    """`mesh --help`, whole process, median of five."""
    times = []
    for _ in range(5):
        started = time.perf_counter()
        subprocess.run([sys.executable, "-m", "mesh.inspector.cli", "--help"], check=True, stdout=subprocess.DEVNULL)
        times.append(time.perf_counter() - started)
    return 1000 * statistics.median(times)


async def first_call(made: Any) -> tuple[float, float, float]:
    """Seconds from starting a node to it answering, and to a second node's first signed answer; idle MiB of a node."""
    from mesh import connect

    made.node("server")
    made.worker(HERE / "noop_agent.py", "server")
    async with connect(home=made.home, node="server") as client:
        while not (await client.caps())["caps"]:  # noqa: ASYNC110  the answer of another process is no event
            await asyncio.sleep(0.01)
    started = time.monotonic()
    made.node("caller")
    up = time.monotonic() - started
    async with connect(home=made.home, node="caller") as client:
        await client.call("noop", text="x")
    first = time.monotonic() - started
    await asyncio.sleep(2)
    return up, first, rss_mib(made.nodes["caller"].pid)


def installed() -> tuple[int, float]:
    """Distributions that an install of the core brings, and their size in MiB without byte code."""
    todo, seen = ["lanmesh"], set()
    size = 0
    while todo:
        name = todo.pop().lower().replace("_", "-")
        if name in seen:
            continue
        seen.add(name)
        try:
            found = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        size += sum(Path(str(found.locate_file(file))).stat().st_size for file in found.files or () if _counts(found, file))
        needed = (one.split(";")[0].split("[")[0] for one in found.requires or () if "extra ==" not in one)
        todo += [one.strip(" ()<>=!~.0123456789") for one in needed]
    return len(seen), size / 2**20


def _counts(found: importlib.metadata.Distribution, file: Any) -> bool:
    path = Path(str(found.locate_file(file)))
    return path.is_file() and path.suffix != ".pyc"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    with mesh() as made:
        up, first, idle = asyncio.run(first_call(made))
    count, size = installed()
    rows = [
        {"what": "import mesh (ms)", "value": import_ms()},
        {"what": "from mesh import connect (ms)", "value": import_ms("mesh.connect")},
        {"what": "from mesh import Agent (ms)", "value": import_ms("mesh.Agent")},
        {"what": "mesh --help (ms)", "value": command_ms()},
        {"what": "node start to ready (s)", "value": up},
        {"what": "node start to first signed call (s)", "value": first},
        {"what": "idle node (MiB)", "value": idle},
        {"what": "distributions", "value": count},
        {"what": "installed (MiB)", "value": size},
    ]
    show(rows, asked.json)


if __name__ == "__main__":
    main()
