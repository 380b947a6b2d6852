"""Virtual environments on a machine that `mesh launch` reached, one for each version: never changed once complete, so that what runs in
one is not disturbed by the next.

    FOLDER/versions/KEY/      KEY: a hash of the wheel, the pins, the extras, the packages and the Python
      bin/python  complete    `complete` is written last: what was cut short is made anew

The standard library only: it runs out of the wheel, before anything is installed.
"""

from __future__ import annotations

import hashlib
import json
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mesh.errors import MeshError

_NO_INDEX = "(from versions: none)"
_PIP_CAN = "import pip, sys; sys.exit(tuple(map(int, pip.__version__.split('.')[:2])) < (22, 3))"
"""Since 22.3 pip installs into another environment (``--python``)."""
Run = Callable[[Sequence[str]], "subprocess.CompletedProcess[str]"]


@dataclass(frozen=True, slots=True)
class Wanted:
    """`pins`: ``name==version``, kept to where pip can. `extras` of ours, `packages` of others, both beside the wheel."""

    wheel: Path
    sha256: str
    pins: tuple[str, ...] = ()
    extras: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        parts = [self.sha256, self.pins, self.extras, self.packages, sys.version_info[:2]]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def python_of(folder: Path, wanted: Wanted) -> Path:
    return folder / "versions" / wanted.key / "bin" / "python"


def is_complete(folder: Path, wanted: Wanted) -> bool:
    return (folder / "versions" / wanted.key / "complete").exists()


def ensure(folder: Path, wanted: Wanted, run: Run) -> bool:
    """Make the version's environment if it is not there; True if this did. Raises MeshError with pip's own reason."""
    python = python_of(folder, wanted)
    place = python.parent.parent
    if is_complete(folder, wanted) and run([str(python), "-c", ""]).returncode == 0:
        return False
    shutil.rmtree(place, ignore_errors=True)
    pip = _make_venv(place, python, run)
    log = folder / "pip.log"
    _install(pip, wanted, place, log, run)
    (place / "complete").write_text("")
    return True


def _make_venv(place: Path, python: Path, run: Run) -> list[str]:
    """Returns the words that call its pip: this Python's own where it can, for putting another into the environment takes seconds."""
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    if run([sys.executable, "-c", "import ensurepip"]).returncode != 0:
        fix = f"sudo apt-get install python{version}-venv" if shutil.which("apt-get") else f"{sys.executable} -m ensurepip"
        raise MeshError(f"its Python {version} cannot make virtual environments: ensurepip is missing", fix=fix, code="no_ensurepip")
    own = run([sys.executable, "-c", _PIP_CAN]).returncode == 0
    made = run([sys.executable, "-m", "venv", *(["--without-pip"] if own else []), str(place)])
    if made.returncode != 0:
        raise MeshError(f"python -m venv failed: {_reason(made)}", fix=f"{sys.executable} -m venv /tmp/try", code="no_venv")
    return [sys.executable, "-m", "pip", "--python", str(python)] if own else [str(python), "-m", "pip"]


def _install(pip: list[str], wanted: Wanted, place: Path, log: Path, run: Run) -> None:
    """Not compiled: pip would compile everything, and Python compiles the few modules that are imported when they are."""
    constraints = place / "constraints.txt"
    constraints.write_text("".join(f"{pin}\n" for pin in wanted.pins))
    extras = f"[{','.join(wanted.extras)}]" if wanted.extras else ""
    command = [*pip, "install", "--disable-pip-version-check", "--no-input", "--no-warn-script-location", "--no-compile"]
    command += [f"{wanted.wheel}{extras}", *wanted.packages]
    done = run([*command, "--constraint", str(constraints)])
    if done.returncode != 0 and _pins_were_the_trouble(done.stdout + done.stderr):
        done = run(command)
    log.write_text(done.stdout + done.stderr)
    if done.returncode != 0:
        unreachable = "; does it reach a package index?" if _NO_INDEX in done.stderr else ""
        raise MeshError(f"pip cannot install it: {_reason(done)}{unreachable}", fix=f"cat {shlex.quote(str(log))}", code="pip")


def _pins_were_the_trouble(said: str) -> bool:
    """Another Python or another kind of machine may not have a version that is installed here; an index that is out of reach has none."""
    return "ResolutionImpossible" in said or ("No matching distribution found" in said and _NO_INDEX not in said)


def _reason(done: subprocess.CompletedProcess[str]) -> str:
    lines = [line.strip() for line in (done.stderr + done.stdout).splitlines() if line.strip()]
    errors = [line for line in lines if line.lower().startswith("error")]
    return (errors or lines or [f"exit code {done.returncode}"])[-1].removeprefix("ERROR: ")


def sweep(folder: Path, kept: set[str]) -> None:
    """Remove the versions that nothing runs in any more."""
    versions = folder / "versions"
    for place in versions.iterdir() if versions.exists() else ():
        if place.name not in kept:
            shutil.rmtree(place, ignore_errors=True)
