"""The file of a backup: a tar archive of one node's files and its home's.

    backup.json         first: what it is a backup of, and when it was made
    home/... node/...   the files, or, where they are private, what the home's vault sealed of them
    contents.json       last: size and SHA-256 of every file, and which are sealed: an archive without it was cut off

Invariant: what is taken out has exactly the bytes that were put in, under names that stay inside the folder it is taken out to; else it is
refused whole. Readable with any `tar`; knows nothing of what the files mean.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from mesh.errors import Refused

SCHEMA = "mesh.backup-file/1"
FACTS, CONTENTS = "backup.json", "contents.json"
FACTS_BYTES_MAX = 64 * 1024
CONTENTS_BYTES_MAX = 256 * 1024 * 1024
"""About a million files."""
PIECE_BYTES = 1024 * 1024
_FACTS = {"node": str, "id": str, "mesh": str, "made_ms": int, "incarnation": int, "entries": int}
_NAME = re.compile(r"(home|node)(/[A-Za-z0-9_][A-Za-z0-9_.-]*)+")
_NOT_WHOLE = (tarfile.TarError, EOFError, ValueError, KeyError, TypeError, RecursionError)


@dataclass(frozen=True, slots=True)
class Content:
    """One file in the archive, as it lies there."""

    name: str
    size: int
    sha256: str
    sealed: bool


class _Hashed(io.RawIOBase):
    """Hashes what is read through it."""

    def __init__(self, source: BinaryIO) -> None:
        self._source, self.hash = source, hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        data = self._source.read(size)
        self.hash.update(data)
        return data


class Writer:
    """Writes an archive to `out`. Methods raise OSError."""

    def __init__(self, out: BinaryIO, facts: dict[str, Any]) -> None:
        self._tar = tarfile.TarFile(fileobj=out, mode="w", format=tarfile.PAX_FORMAT)
        self._contents: list[Content] = []
        self._put(FACTS, json.dumps({"schema": SCHEMA, **facts}, indent=1).encode())

    def add(self, name: str, data: bytes, *, sealed: bool = False) -> None:
        self._put(name, data)
        self._contents.append(Content(name, len(data), hashlib.sha256(data).hexdigest(), sealed))

    def add_file(self, name: str, path: Path) -> None:
        """A file that nobody changes meanwhile."""
        with path.open("rb") as file:
            hashed = _Hashed(file)
            info = _info(name, os.fstat(file.fileno()).st_size)
            self._tar.addfile(info, hashed)
        self._contents.append(Content(name, info.size, hashed.hash.hexdigest(), False))

    def close(self) -> None:
        rows = [{"name": one.name, "size": one.size, "sha256": one.sha256, "sealed": one.sealed} for one in self._contents]
        self._put(CONTENTS, json.dumps(rows, indent=0).encode())
        self._tar.close()

    def _put(self, name: str, data: bytes) -> None:
        self._tar.addfile(_info(name, len(data)), io.BytesIO(data))


def _info(name: str, size: int) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o600
    return info


def read_facts(path: Path) -> dict[str, Any]:
    """What `path` is a backup of. Raises Refused ``not_a_backup``, ``newer_backup``, OSError."""
    not_one = Refused(f"{path} is not a backup of a node", fix="mesh backup FILE makes one", code="not_a_backup")
    try:
        with tarfile.open(path, "r:") as tar:
            first = tar.next()
            if first is None or first.name != FACTS or first.size > FACTS_BYTES_MAX:
                raise not_one
            facts = json.loads(_read(tar, first))
            schema = facts["schema"]
    except _NOT_WHOLE:
        raise not_one from None
    if type(schema) is not str or not schema.startswith(SCHEMA.partition("/")[0] + "/"):
        raise not_one
    if schema != SCHEMA:
        raise Refused(f"{path} was made by a newer version ({schema})", fix="pip install -U lanmesh", code="newer_backup")
    if any(type(facts.get(name)) is not kind for name, kind in _FACTS.items()):
        raise not_one
    return dict(facts)


def take_out(path: Path, folder: Path) -> list[Content]:
    """All files of the archive into `folder`, 0600, in folders of mode 0700; compared with its contents. Raises Refused
    ``backup_damaged``, OSError.
    """
    found: list[Content] = []
    try:
        with tarfile.open(path, "r:") as tar:
            for info in tar:
                if info.name == CONTENTS and info.size <= CONTENTS_BYTES_MAX:
                    listed = [Content(row["name"], row["size"], row["sha256"], row["sealed"]) for row in json.loads(_read(tar, info))]
                    break
                if info.name != FACTS:
                    found.append(_take(tar, info, folder))
            else:
                raise ValueError("its end is missing")
        if [(one.name, one.size, one.sha256) for one in listed] != [(one.name, one.size, one.sha256) for one in found]:
            raise ValueError("its files are not those it was made of")
    except _NOT_WHOLE as error:
        what = f"{path} is damaged: {error}"
        raise Refused(what, fix="take another copy of it", code="backup_damaged") from None
    return listed


def _take(tar: tarfile.TarFile, info: tarfile.TarInfo, folder: Path) -> Content:
    if not info.isreg() or not _NAME.fullmatch(info.name):
        raise ValueError(f"{info.name!r} is no file of a backup")
    target, hasher = folder / info.name, hashlib.sha256()
    for parent in reversed(target.relative_to(folder).parents):
        (folder / parent).mkdir(mode=0o700, exist_ok=True)
    with open(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as out:
        for piece in _pieces(tar, info):
            hasher.update(piece)
            out.write(piece)
        out.flush()
        os.fsync(out.fileno())
    return Content(info.name, info.size, hasher.hexdigest(), False)


def _read(tar: tarfile.TarFile, info: tarfile.TarInfo) -> bytes:
    return b"".join(_pieces(tar, info))


def _pieces(tar: tarfile.TarFile, info: tarfile.TarInfo) -> Iterator[bytes]:
    source = tar.extractfile(info)
    if source is None:
        raise ValueError(f"{info.name!r} is no file")
    left = info.size
    while left:
        piece = source.read(min(PIECE_BYTES, left))
        if not piece:
            raise ValueError(f"{info.name} ends early")
        left -= len(piece)
        yield piece
