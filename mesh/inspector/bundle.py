"""The code that `mesh launch` copies: the files behind the targets of `mesh run`, each by its hash. Reads only; runs nothing of it.

transform.py      that file                  package.agents:agent    the folder `package` (or `package.py`) here
transform         nothing: it is part of what is installed
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path

from mesh.errors import UsageError

FILES_MAX = 1000
BYTES_MAX = 64 * 1024 * 1024
"""This is for code. Data belongs into tasks, as File."""


@dataclass(frozen=True, slots=True)
class Bundle:
    """`targets` as they are called where the files lie beside each other; `files`: their paths here by their names there."""

    targets: tuple[str, ...]
    files: dict[str, Path]

    def hashes(self) -> dict[str, str]:
        return {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in sorted(self.files.items())}


def bundle(targets: list[str]) -> Bundle:
    """Raises UsageError for a target that is not here, or that is no code."""
    files: dict[str, Path] = {}
    for target in targets:
        for name, path in _files_of(target):
            if files.setdefault(name, path) != path:
                raise UsageError(f"two targets are called {name}", fix="launch them one by one")
    if len(files) > FILES_MAX or sum(path.stat().st_size for path in files.values()) > BYTES_MAX:
        message = f"the code is more than {FILES_MAX} files or {BYTES_MAX // 2**20} MiB"
        raise UsageError(message, fix="keep data out of the module's folder: it travels as File")
    return Bundle(tuple(Path(target).name if target.endswith(".py") else target for target in targets), files)


def _files_of(target: str) -> Iterator[tuple[str, Path]]:
    if target.endswith(".py"):
        path = Path(target).absolute()
        if not path.is_file():
            raise UsageError(f"there is no file {target!r}", fix="mesh launch HOST -- run FILE.py")
        yield path.name, path
    elif ":" in target:
        yield from _module(target.partition(":")[0].partition(".")[0], target)
    elif target not in {point.name for point in entry_points(group="mesh.agents")}:
        raise UsageError(f"there is no ready-made agent {target!r}", fix=f"mesh run {target}")


def _module(top: str, target: str) -> Iterator[tuple[str, Path]]:
    place = Path.cwd()
    if (place / f"{top}.py").is_file():
        yield f"{top}.py", place / f"{top}.py"
        return
    if not (place / top).is_dir():
        raise UsageError(f"{target}: there is no module {top!r} in this folder to copy", fix=f"cd to the folder that holds {top}")
    for path in sorted((place / top).rglob("*")):
        inside = path.relative_to(place)
        if path.is_file() and not any(part == "__pycache__" or part.startswith(".") for part in inside.parts):
            yield inside.as_posix(), path
