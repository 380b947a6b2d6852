"""Delivery: the work of ``data/delivery.toml``, a flow that brings a program written in Python from its sources to its users, or back.

    sources --build--> archive --canary--> promote --> smoke        a failed smoke: roll_back, what was current before is current again
       '-----test-------------------------'

What runs here is the project's own code, under a time limit, with an empty environment; that is no sandbox. The folder of releases is
one machine's: promote, roll_back and smoke have to run there.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mesh_agents.releases import CURRENT, current_of, put_back, switch

from mesh import Agent, Context, File

agent = Agent("delivery", tags=["flow"])

MAIN, TESTS = "__main__.py", "tests"
SOURCES_BYTES_MAX = 64 * 1024 * 1024
SAID_BYTES_MAX = 64 * 1024
DATED = (1980, 1, 1, 0, 0, 0)
"""Of every module in an archive: the same sources give the same bytes on every node."""
TEST_S, RUN_S = 120.0, 10.0
LINES = 8
"""Of what failing tests said, the last."""
ROUNDS = 2
"""How often the canary runs each sample."""


@dataclass
class Built:
    archive: File
    modules: int


@dataclass
class Tested:
    tests: int


@dataclass
class Canary:
    runs: int
    failures: int
    slowest_ms: int


@dataclass
class Promoted:
    """Names in the folder of releases; `former` is "" where nothing was current."""

    release: str
    former: str


@dataclass
class Smoked:
    release: str
    known: int


def ran(words: list[str], folder: Path, given: str, limit_s: float) -> tuple[int | None, str]:
    """The exit code of a Python program (None: its time was over, and all of it was killed), and the beginning of what it said."""
    with tempfile.TemporaryFile() as said:
        line = [sys.executable, "-I", "-B", "-X", "utf8", *words]
        process = subprocess.Popen(
            line, cwd=folder, env={}, stdin=subprocess.PIPE, stdout=said, stderr=subprocess.STDOUT, start_new_session=True
        )
        code: int | None = None
        try:
            process.communicate(given.encode(), limit_s)
            code = process.returncode
        except subprocess.TimeoutExpired:
            code = None
        finally:
            with suppress(ProcessLookupError, PermissionError):  # nothing of its group is left
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        said.seek(0)
        return code, said.read(SAID_BYTES_MAX).decode(errors="replace")


def unpacked(sources: File, folder: Path) -> None:
    with zipfile.ZipFile(sources.path) as archive:
        if (size := sum(entry.file_size for entry in archive.infolist())) > SOURCES_BYTES_MAX:
            raise ValueError(f"{sources.name} unpacks to {size} bytes, over {SOURCES_BYTES_MAX}")
        archive.extractall(folder)


@agent.capability(name="ci.build", idempotent=True, timeout_s=60)
def build(sources: File) -> Built:
    """One archive that Python runs, of all modules but the tests. Fails where one of them is no Python."""
    path = Path(tempfile.mkdtemp(prefix="mesh-build-")) / f"{Path(sources.name).stem}.pyz"
    with tempfile.TemporaryDirectory() as at, path.open("wb") as out:
        folder = Path(at)
        unpacked(sources, folder)
        names = sorted(found.relative_to(folder).as_posix() for found in folder.rglob("*.py"))
        modules = [name for name in names if not name.startswith(f"{TESTS}/")]
        if MAIN not in modules:
            raise ValueError(f"{sources.name} has no {MAIN}")
        out.write(b"#!/usr/bin/env python3\n")
        with zipfile.ZipFile(out, "w") as archive:
            for name in modules:
                code = (folder / name).read_bytes()
                compile(code, name, "exec", dont_inherit=True)
                archive.writestr(zipfile.ZipInfo(name, DATED), code)
    return Built(File.of(path), len(modules))


@agent.capability(name="ci.test", idempotent=True, timeout_s=TEST_S + 30)
def test(sources: File, limit_s: float = TEST_S) -> Tested:
    """Run the project's own tests, with unittest. Fails where one does, where there are none, and after `limit_s`."""
    with tempfile.TemporaryDirectory() as at:
        unpacked(sources, Path(at))
        words = ["-m", "unittest", "discover", "-s", TESTS, "-t", "."]
        code, said = ran(words, Path(at), "", min(limit_s, TEST_S))
    last = [line for line in said.splitlines() if line.strip(" -=")][-LINES:]
    if code is None:
        raise ValueError(f"the tests were not over after {limit_s:g} s")
    number = next((int(line.split()[1]) for line in last if line.startswith("Ran ") and line.split()[1].isdigit()), 0)
    if not number:
        raise ValueError("there are no tests: " + " / ".join(last))
    if code != 0:
        raise ValueError("the tests fail: " + " / ".join(last))
    return Tested(number)


@agent.capability(name="ci.canary", idempotent=True, timeout_s=600)
def canary(ctx: Context, archive: File, samples: list[str], failures_max: float = 0.0) -> Canary:
    """Run what was built on samples, before it is anybody's release. Fails if more than this part of the runs does."""
    took: list[float] = []
    failed: list[str] = []
    for number in range(ROUNDS * len(samples)):
        began = time.perf_counter()
        code, said = ran([str(archive.path)], archive.path.parent, samples[number % len(samples)], RUN_S)
        took.append(time.perf_counter() - began)
        failed += [] if code == 0 else [said.strip().rpartition("\n")[2] or f"exit {code}"]
        ctx.progress((number + 1) / (ROUNDS * len(samples)), f"{len(failed)} of {number + 1} runs failed")
    if len(failed) > failures_max * len(took):
        raise ValueError(f"{len(failed)} of {len(took)} runs failed, the first: {failed[0]}")
    return Canary(len(took), len(failed), round(1000 * max(took, default=0.0)))


@agent.capability(name="ci.promote", idempotent=True, timeout_s=60)
async def promote(ctx: Context, archive: File, releases: str) -> Promoted:
    """Make it the current release of the folder `releases`, on this machine."""
    release = f"{Path(archive.name).stem}-{archive.sha256[:8]}.pyz"
    former = await ctx.effect("switch", lambda: switch(Path(releases), ctx.task.key, archive.path, release))
    return Promoted(release, former)


@agent.capability(name="ci.roll_back", idempotent=True, timeout_s=60)
async def roll_back(ctx: Context, release: str, former: str, releases: str) -> str:
    """Undo `ci.promote`. What is current then."""
    current: str = await ctx.effect("put back", lambda: put_back(Path(releases), release, former))
    return current


@agent.capability(name="ci.smoke", idempotent=True, timeout_s=600)
def smoke(release: str, known: list[dict[str, Any]], releases: str) -> Smoked:
    """Ask the release where its users find it what is known. Fails at the first answer that is another."""
    folder = Path(releases)
    if (current := current_of(folder)) != release:
        raise ValueError(f"{current or 'nothing'} is current, and not {release}")
    for one in known:
        code, said = ran([str(folder.absolute() / CURRENT)], folder, str(one["given"]), RUN_S)
        if (code, said) != (0, one["said"]):
            raise ValueError(f"of {one['given']!r} it says {said!r} (exit {code}), and not {one['said']!r}")
    return Smoked(release, len(known))


if __name__ == "__main__":
    agent.run()
