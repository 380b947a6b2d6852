"""The running program as a wheel: what `mesh launch` installs on other machines, so that they run this very version.

    this installation (a wheel, an editable install, a checkout)  ->  lanmesh-VERSION-py3-none-any.whl, in memory

Invariant: the same sources give the same bytes on every machine and from every folder (sorted, dated 1980, stored, no description), so
the sha256 says whether anything changed. Builds nothing and needs no network: the package is pure Python. Source: PEP 427, PEP 376.
"""

from __future__ import annotations

import base64
import hashlib
import io
import re
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import Distribution, PackageNotFoundError, distributions
from importlib.util import find_spec
from pathlib import Path

from mesh.errors import MeshError, UsageError

DISTRIBUTION = "lanmesh"
PACKAGES = ("mesh", "mesh_agents")
HEADERS = ("Metadata-Version", "Name", "Version", "Summary", "License-Expression", "Requires-Python", "Requires-Dist", "Provides-Extra")
"""Of METADATA only what pip acts on: the description may be older than the code in an editable install."""
DATED = (1980, 1, 1, 0, 0, 0)
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?")
_PACKAGE = re.compile(rf"({_NAME.pattern})(\[{_NAME.pattern}(?:,{_NAME.pattern})*\])?((?:[<>=!~]=?=?[A-Za-z0-9.*+!_-]+,?)*)")


@dataclass(frozen=True, slots=True)
class Wheel:
    name: str
    data: bytes
    sha256: str
    version: str


def repack() -> Wheel:
    """Raises MeshError if this program was not installed at all."""
    found = _distribution()
    stem = f"{DISTRIBUTION}-{found.version}"
    files = dict(_sources())
    files[f"{stem}.dist-info/METADATA"] = _metadata(found)
    files[f"{stem}.dist-info/WHEEL"] = b"Wheel-Version: 1.0\nGenerator: mesh\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    files[f"{stem}.dist-info/entry_points.txt"] = _entry_points(found)
    record = f"{stem}.dist-info/RECORD"
    lines = [f"{name},sha256={_digest(data)},{len(data)}" for name, data in sorted(files.items())]
    files[record] = "\n".join([*lines, f"{record},,", ""]).encode()
    data = _zip(files)
    return Wheel(f"{stem}-py3-none-any.whl", data, hashlib.sha256(data).hexdigest(), found.version)


def _distribution() -> Distribution:
    """An egg-info folder that happens to lie in the current directory is the last choice."""
    found = sorted(distributions(name=DISTRIBUTION), key=lambda each: each.read_text("METADATA") is None)
    if not found:
        raise MeshError(f"{DISTRIBUTION} runs from sources that were never installed", fix="pip install -e .")
    return found[0]


def _sources() -> Iterator[tuple[str, bytes]]:
    for package in PACKAGES:
        spec = find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            raise MeshError(f"the package {package} is not installed", fix="pip install -e .")
        root = Path(spec.submodule_search_locations[0])
        for path in sorted(root.rglob("*")):
            inside = path.relative_to(root)
            if path.is_file() and not any(part == "__pycache__" or part.startswith(".") for part in inside.parts):
                yield f"{package}/{inside.as_posix()}", path.read_bytes()


def _metadata(found: Distribution) -> bytes:
    lines = [f"{header}: {value}" for header in HEADERS for value in found.metadata.get_all(header) or ()]
    return ("\n".join(lines) + "\n").encode()


def _entry_points(found: Distribution) -> bytes:
    groups: dict[str, list[str]] = {}
    for point in sorted(found.entry_points, key=lambda each: (each.group, each.name)):
        groups.setdefault(point.group, []).append(f"{point.name} = {point.value}")
    return "\n\n".join("\n".join([f"[{group}]", *lines]) for group, lines in groups.items()).encode() + b"\n"


def _digest(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()


def _zip(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:  # what deflate makes of it depends on the zlib
        for name, data in sorted(files.items()):
            entry = zipfile.ZipInfo(name, DATED)
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, data)
    return out.getvalue()


# ---- what it needs


def known_extras() -> list[str]:
    return sorted(_distribution().metadata.get_all("Provides-Extra") or [])


def check_package(requirement: str) -> str:
    """A package as pip takes it from an index: ``pandas``, ``pandas>=2``. Raises UsageError for paths, addresses and options."""
    if not _PACKAGE.fullmatch(requirement):
        raise UsageError(f"--with {requirement!r} is no package's name", fix="--with pandas, or --with 'pandas>=2'")
    return requirement


def pins(extras: Iterable[str], packages: Iterable[str]) -> list[str]:
    """``name==version`` of everything installed here that this program, with these extras and packages, needs: pip's constraints there."""
    waiting = [name for extra in ("", *extras) for name in _needs(_distribution(), extra)]
    waiting += map(_name_in, packages)
    found: dict[str, str] = {}
    while waiting:
        name = _normal(waiting.pop())
        if name not in found and (installed := _installed(name)) is not None:
            found[name] = installed.version
            waiting += _needs(installed, "")
    return [f"{name}=={version}" for name, version in sorted(found.items())]


def _needs(found: Distribution, extra: str) -> Iterator[str]:
    """Names in its requirements: without `extra` those that no extra asks for. Other markers are not judged: a pin too many is harmless."""
    for requirement in found.requires or ():
        wanted = re.search(r"""extra\s*==\s*['"]([^'"]+)['"]""", requirement)
        if (_normal(wanted[1]) if wanted else "") == _normal(extra):
            yield _name_in(requirement)


def _name_in(requirement: str) -> str:
    found = _NAME.match(requirement)
    assert found is not None, "a requirement begins with a name"
    return found[0]


def _installed(name: str) -> Distribution | None:
    try:
        return Distribution.from_name(name)
    except PackageNotFoundError:
        return None


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
