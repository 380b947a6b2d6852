"""The delivery: each step as a plain function over a small project, the folder of releases, the flow in a mesh of its own."""

from __future__ import annotations

import asyncio
import os
import time
import zipfile
from importlib.resources import files
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mesh_agents
import pytest
from mesh_agents import delivery
from mesh_agents.delivery import build, canary, smoke
from mesh_agents.delivery import test as run_tests
from mesh_agents.releases import current_of, put_back, switch

from mesh import File
from mesh.errors import TaskFailed
from mesh.flows.agent import FLOW
from mesh.flows.agent import agent as flows
from mesh.flows.reading import read_file
from mesh.flows.spec import document
from mesh.testing import LocalMesh

MAIN = "import sys\nfrom echo import said\nprint(said(sys.stdin.read()))\n"
ECHO = "def said(text):\n    return text.upper()\n"
CHECK = """import unittest
from echo import said
class Said(unittest.TestCase):
    def test_it(self):
        self.assertEqual(said('A'), 'A')
        self.assertEqual(said('a'), 'A')
"""
PROJECT = {"__main__.py": MAIN, "echo.py": ECHO, "tests/__init__.py": "", "tests/test_echo.py": CHECK}
CTX: Any = SimpleNamespace(progress=lambda fraction, note: None)


def packed(folder: Path, name: str = "echo.zip", **changed: str) -> File:
    """The project; `changed`: other text of a module, "" leaves it out."""
    with zipfile.ZipFile(folder / name, "w") as archive:
        for path, text in PROJECT.items():
            if new := changed.get(Path(path).stem, text or "\n"):
                archive.writestr(path, new)
    return File.of(folder / name)


def test_the_same_sources_give_the_same_archive_without_tests(tmp_path: Path) -> None:
    built, again = build(packed(tmp_path)), build(packed(tmp_path))
    assert built.archive.sha256 == again.archive.sha256 and (built.archive.name, built.modules) == ("echo.pyz", 2)
    assert zipfile.ZipFile(built.archive.path).namelist() == ["__main__.py", "echo.py"]
    assert build(packed(tmp_path, echo=ECHO + "#")).archive.sha256 != built.archive.sha256
    with pytest.raises(SyntaxError):
        build(packed(tmp_path, echo="def said("))
    with pytest.raises(ValueError, match=r"echo.zip has no __main__.py"):
        build(packed(tmp_path, __main__=""))


def test_tests_fail_as_tests_do_where_there_are_none_and_in_time(tmp_path: Path) -> None:
    assert run_tests(packed(tmp_path)).tests == 1
    with pytest.raises(ValueError, match=r"the tests fail: .*AssertionError: 'a' != 'A'"):
        run_tests(packed(tmp_path, echo=ECHO.replace("upper", "lower")))
    with pytest.raises(ValueError, match="there are no tests: "):
        run_tests(packed(tmp_path, test_echo=""))
    began = time.monotonic()
    sleeps = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', 'import time; time.sleep(60)', {str(tmp_path)!r}])\n"
    with pytest.raises(ValueError, match=r"were not over after 0\.5 s"):
        run_tests(packed(tmp_path, test_echo=sleeps), limit_s=0.5)
    assert time.monotonic() - began < 30, "what the tests had started went with them"


def test_a_canary_counts_runs_that_fail(tmp_path: Path) -> None:
    archive = build(packed(tmp_path, echo="def said(text):\n    return 1 // len(text)\n")).archive
    with pytest.raises(ValueError, match=r"2 of 4 runs failed, the first: .*ZeroDivisionError"):
        canary(CTX, archive, ["a", ""], 0.4)
    found = canary(CTX, archive, ["a", ""], 0.5)
    assert (found.runs, found.failures) == (4, 2)


def test_one_rename_switches_and_an_undoing_undoes_its_own_alone(tmp_path: Path) -> None:
    folder, archive = tmp_path / "releases", tmp_path / "a"
    archive.write_text("1")
    assert (switch(folder, "k1", archive, "one"), current_of(folder)) == ("", "one")
    assert switch(folder, "k1", archive, "one") == "", "begun again after a crash it does not take itself for the former one"
    assert (switch(folder, "k2", archive, "two"), switch(folder, "k2", archive, "two")) == ("one", "one")
    assert (folder / "current").read_text() == "1"
    assert put_back(folder, "one", "") == "two", "another is current by now"
    assert put_back(folder, "two", "one") == put_back(folder, "two", "one") == "one"
    assert put_back(folder, "one", "") == current_of(folder) == ""
    assert sorted(name for name in os.listdir(folder) if name[0] != ".") == ["one", "two"]


def test_a_smoke_asks_what_is_current(tmp_path: Path) -> None:
    archive = build(packed(tmp_path)).archive
    with pytest.raises(ValueError, match="nothing is current, and not one"):
        smoke("one", [], str(tmp_path))
    switch(tmp_path, "k", archive.path, "one")
    assert smoke("one", [{"given": "a", "said": "A\n"}], str(tmp_path)).known == 1
    with pytest.raises(ValueError, match=r"of 'b' it says 'B\\n' \(exit 0\), and not 'b\\n'"):
        smoke("one", [{"given": "b", "said": "b\n"}], str(tmp_path))


def test_a_release_that_answers_wrongly_is_rolled_back_by_the_flow(tmp_path: Path) -> None:
    spec = document(read_file(str(Path(str(files(mesh_agents))) / "data" / "delivery.toml"))[0])
    releases = tmp_path / "releases"

    async def story() -> None:
        async with LocalMesh(nodes={"n1": [flows], "n2": [delivery.agent], "n3": [delivery.agent]}) as m:

            async def deliver(sources: File) -> Any:
                given = {"sources": sources, "samples": ["a"], "known": [{"given": "a", "said": "A\n"}], "releases": str(releases)}
                return (await (await m.submit(FLOW, spec=spec, input=given)).result())["output"]

            done = await deliver(packed(tmp_path, "good.zip"))
            assert (done["former"], done["tests"], done["known"]) == ("", 1, 1)
            assert done["release"] == current_of(releases) and done["release"].startswith("good-")
            with pytest.raises(TaskFailed, match=r"step 'smoke' failed: ValueError: of 'a' it says .*; undone: promote"):
                await deliver(
                    packed(
                        tmp_path,
                        "bad.zip",
                        echo="def said(text):\n    return 'A' if 'releases' not in __file__ else '?'\n",
                    )
                )
            assert current_of(releases) == done["release"]
            with pytest.raises(TaskFailed, match=r"step 'test' failed"):
                await deliver(packed(tmp_path, "worse.zip", echo="def said(text):\n    return text + '?'\n"))
            names = [path.name.partition("-")[0] for path in releases.glob("*.pyz")]
            assert sorted(names) == ["bad", "good"], "what fails its tests is never put there"

    asyncio.run(asyncio.wait_for(story(), 30))
