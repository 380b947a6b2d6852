"""This program as a wheel: pip takes it, it runs, and its bytes depend on nothing but the sources."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import subprocess
import sys
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest

from mesh.errors import UsageError
from mesh.inspector import wheel

ROOT = Path(__file__).parents[3]
TELL = "from mesh.inspector.wheel import repack; print(repack().sha256)"


def told(python: str | Path, program: str, cwd: Path) -> str:
    done = subprocess.run([python, "-c", program], cwd=cwd, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_pip_installs_it_and_what_is_installed_packs_itself_again(tmp_path: Path) -> None:
    """Offline, into an environment with nothing else: the wheel of an installed wheel is that wheel, byte for byte."""
    packed = wheel.repack()
    (tmp_path / packed.name).write_bytes(packed.data)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    python = tmp_path / "venv/bin/python"
    pip = [sys.executable, "-m", "pip", "--python", python]
    subprocess.run([*pip, "install", "--quiet", "--no-index", "--no-deps", "--no-compile", tmp_path / packed.name], check=True, timeout=120)
    checked = subprocess.run([*pip, "show", "--files", "lanmesh"], capture_output=True, text=True, check=True).stdout
    assert f"Version: {packed.version}" in checked and "bin/mesh" in checked
    where = "import mesh, mesh_agents; from importlib.metadata import entry_points; from pathlib import Path;"
    where += "print(mesh.__file__, (Path(mesh_agents.__file__).parent / 'data/weather.csv').stat().st_size, "
    where += "sorted(point.name for point in entry_points(group='mesh.agents')))"
    found = told(python, where, tmp_path)
    assert found.startswith(str(tmp_path / "venv")) and all(f"'{name}'" in found for name in ("pipeline", "support", "delivery"))
    assert f" {(ROOT / 'agents/data/weather.csv').stat().st_size} " in found
    assert told(python, TELL, tmp_path) == packed.sha256


def test_the_same_bytes_from_every_folder(tmp_path: Path) -> None:
    """In a checkout the current folder may hold an egg-info of another day."""
    assert told(sys.executable, TELL, ROOT) == told(sys.executable, TELL, tmp_path) == wheel.repack().sha256


def test_record_names_every_file_with_its_hash() -> None:
    packed = wheel.repack()
    with zipfile.ZipFile(io.BytesIO(packed.data)) as archive:
        names = archive.namelist()
        assert names == sorted(names) and not [name for name in names if "__pycache__" in name or name.endswith(".pyc")]
        record = f"lanmesh-{packed.version}.dist-info/RECORD"
        rows = list(csv.reader(archive.read(record).decode().splitlines()))
        assert sorted(row[0] for row in rows) == names
        for name, digest, size in rows:
            if name != record:
                data = archive.read(name)
                assert digest == "sha256=" + base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
                assert int(size) == len(data)


def test_the_far_end_runs_out_of_the_wheel_with_the_standard_library_alone(tmp_path: Path) -> None:
    """Where nothing is installed yet: no site-packages, no installed mesh, only a Python and the file."""
    packed = wheel.repack()
    (tmp_path / packed.name).write_bytes(packed.data)
    program = f"import sys, json; sys.path.insert(0, {str(tmp_path / packed.name)!r}); import mesh.inspector.landing as landing;"
    program += "tops = {name.partition('.')[0] for name in sys.modules} - set(sys.stdlib_module_names) - {'__main__'};"
    program += "print(json.dumps([landing.__file__, sorted(tops)]))"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [str(tmp_path / packed.name / "mesh/inspector/landing.py"), ["mesh"]]


def test_pins_are_what_is_installed_here_of_what_it_needs() -> None:
    base = wheel.pins([], [])
    names = {pin.partition("==")[0] for pin in base}
    assert {"pyzmq", "msgpack", "typer", "typing-extensions"} <= names, "what the dependencies need is pinned too"
    assert f"msgpack=={version('msgpack')}" in base
    assert not names & {"lanmesh", "pytest", "ruff", "matplotlib", "pip"}, "what else is installed here says nothing about it"
    assert {"matplotlib", "numpy"} <= {pin.partition("==")[0] for pin in wheel.pins(["plot"], [])}
    assert f"pluggy=={version('pluggy')}" in wheel.pins([], ["pytest>=8"])
    assert wheel.pins([], ["a-package-that-is-not-here"]) == base


@pytest.mark.parametrize("requirement", ["pandas", "pandas>=2", "pandas[performance]==2.1.*", "Foo_bar.baz>=1,<2", "x!=1.0"])
def test_packages_of_an_index(requirement: str) -> None:
    assert wheel.check_package(requirement) == requirement


@pytest.mark.parametrize(
    "requirement", ["", "-r file", "--index-url=x", "./here.whl", "/abs", "a @ file:///b", "git+ssh://x", "a b", "a;b", "a\nb", "$(x)"]
)
def test_what_is_no_package_of_an_index_is_refused(requirement: str) -> None:
    with pytest.raises(UsageError):
        wheel.check_package(requirement)
