"""Environments of a version, made by the real pip, offline, out of wheels of a page."""

from __future__ import annotations

import hashlib
import os
import subprocess
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from mesh.inspector import versions
from mesh.inspector.versions import Wanted


def tiny(folder: Path, name: str, version: str, needs: str = "") -> Path:
    path = folder / f"{name}-{version}-py3-none-any.whl"
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{name}.py", f"version = {version!r}\n")
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return path


def run(words: Sequence[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, capture_output=True, text=True, check=False, timeout=120)


def run_without_own_pip(words: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """As where this Python has no pip of its own, or one from before 22.3: Debian's python3-venv alone, for one."""
    return subprocess.CompletedProcess(words, 1, "", "") if "import pip" in words[-1] else run(words)


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """All that pip sees: two versions of `dependency`."""
    folder = tmp_path / "index"
    folder.mkdir()
    for name in list(os.environ):
        if name.startswith("PIP_"):
            monkeypatch.delenv(name)
    for name, value in (
        ("CONFIG_FILE", os.devnull),
        ("NO_INDEX", "1"),
        ("FIND_LINKS", str(folder)),
        ("CACHE_DIR", str(tmp_path / "cache")),
    ):
        monkeypatch.setenv(f"PIP_{name}", value)
    for version in ("1.0", "2.0"):
        tiny(folder, "dependency", version)
    return folder


def wanted(folder: Path, *pins: str) -> Wanted:
    wheel = tiny(folder, "lanmesh", "1", "Requires-Dist: dependency\n")
    return Wanted(wheel, hashlib.sha256(wheel.read_bytes()).hexdigest(), pins)


def has(folder: Path, what: Wanted) -> str:
    program = "import lanmesh, dependency; print(dependency.version)"
    return run([str(versions.python_of(folder, what)), "-c", program]).stdout.strip()


def test_pins_are_kept_where_pip_can(index: Path, tmp_path: Path) -> None:
    older = wanted(tmp_path, "dependency==1.0")
    assert versions.ensure(tmp_path, older, run) and has(tmp_path, older) == "1.0"
    assert not versions.ensure(tmp_path, older, run), "it is there"

    gone = wanted(tmp_path, "dependency==3.0")
    place = versions.python_of(tmp_path, gone).parent.parent
    place.mkdir(parents=True)
    (place / "half").write_text("what was cut short is made anew")
    assert not (place.parent / older.key / "bin/pip").exists(), "this Python's own pip was used"
    assert versions.ensure(tmp_path, gone, run_without_own_pip) and (place / "bin/pip").exists() and has(tmp_path, gone) == "2.0"
    assert not (place / "half").exists() and place.name != versions.python_of(tmp_path, older).parent.parent.name

    versions.sweep(tmp_path, {gone.key})
    assert [each.name for each in (tmp_path / "versions").iterdir()] == [gone.key]


def test_whatever_it_is_made_of_makes_another_version(tmp_path: Path) -> None:
    one = Wanted(tmp_path, "a", ("x==1",), ("plot",), ("six",))
    others = [
        Wanted(tmp_path, "b", ("x==1",), ("plot",), ("six",)),
        Wanted(tmp_path, "a", ("x==2",), ("plot",), ("six",)),
        Wanted(tmp_path, "a", ("x==1",), (), ("six",)),
        Wanted(tmp_path, "a", ("x==1",), ("plot",), ()),
    ]
    assert len({each.key for each in (one, *others)}) == 5
    assert Wanted(tmp_path / "elsewhere", "a", ("x==1",), ("plot",), ("six",)).key == one.key
