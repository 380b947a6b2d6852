"""Files: values that travel by content hash, while their bytes stay in the nodes' stores until somebody opens them.

    File.of(path) --put--> the node's store      {"$file": {"sha256", "size", "name"}} inside arguments and results
    File.path     <------- the node's store, under the file's own name

Invariant: what a reference names never changes, it is a hash. Does not copy bytes through messages; the nodes fetch from one another
before a handler starts. The blob layout (`aa/aabb...`) is that of `runtime/disk/blobs.py`.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
import stat
import tempfile
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from mesh.errors import MeshError, NodeLost, NoNode, NoSuchFile, UsageError, from_body
from mesh.runtime.protocol_local import Splitter, frame

CHUNK_BYTES = 1024 * 1024
WINDOW = 4
"""Chunks of one upload that are on their way at once."""
FETCH_TIMEOUT_S = 120.0
NAME_BYTES_MAX = 200

Ask = Callable[[str, dict[str, Any]], Awaitable[dict[str, Any]]]
"""Send a verb to the local node and wait for its answer. Raises MeshError."""


def sha256_of(path: str | os.PathLike[str]) -> str:
    """The file's SHA-256 as 64 hexadecimal digits, what ``sha256sum`` prints. Raises OSError."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def plain_name(name: str) -> str:
    """`name` as one harmless path component: what a peer calls a file never leaves the folder it is put into."""
    name = "".join("_" if ord(char) < 32 or char in "/\\\x7f" else char for char in name.replace("\\", "/").rpartition("/")[2])
    while len(name.encode("utf-8", "surrogatepass")) > NAME_BYTES_MAX:
        name = name[1:]
    return name if name not in ("", ".", "..") else "file"


def is_hash(text: object) -> bool:
    return isinstance(text, str) and len(text) == 64 and all(char in "0123456789abcdef" for char in text)


class Shelf:
    """Where this process finds the bytes of files it has references to: the local node's store, read-only.

    `sock` is the node's local socket, used to bring a file here that is still elsewhere.
    """

    def __init__(self, blobs: Path, sock: Path) -> None:
        self.blobs = blobs
        self._sock = sock
        self._folder: Path | None = None
        self._lock = threading.Lock()

    def place(self, file: File) -> Path:
        """A path under the file's own name. Brings the file to this machine if it is not here. Raises NoSuchFile, NoNode, OSError."""
        blob = self.blobs / file.sha256[:2] / file.sha256
        if not blob.exists():
            self.bring(file)
            if not blob.exists():
                raise NoSuchFile(f"the file {file.name!r} ({file.sha256[:12]}...) is not in this node's store")
        with self._lock:
            if self._folder is None:
                self._folder = Path(tempfile.mkdtemp(prefix="mesh-files-"))
            link = self._folder / file.sha256[:16] / file.name
            if not link.is_symlink():
                link.parent.mkdir(exist_ok=True)
                link.symlink_to(blob)
        return link

    def bring(self, file: File) -> None:
        """Have the local node fetch the bytes from another. Blocks. Raises NoSuchFile, NoNode, MeshError."""
        _fetch(self._sock, file.sha256, file.size)

    def close(self) -> None:
        """Remove the links; the bytes stay in the node's store."""
        with self._lock:
            folder, self._folder = self._folder, None
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


class File:
    """A file as a value: parameter or result of a capability, alone or inside a model, a dataclass, a list or a dict.

    Make one with `File.of(path)`. One that came from the mesh has its bytes at `path`, which is to be read, never written.
    """

    __slots__ = ("_sha256", "_shelf", "_source", "name", "size")

    def __init__(self, name: str, size: int, sha256: str = "", *, source: Path | None = None, shelf: Shelf | None = None) -> None:
        self.name = name
        self.size = size
        self._sha256 = sha256
        self._source = source
        self._shelf = shelf

    @classmethod
    def of(cls, path: str | os.PathLike[str], name: str | None = None) -> File:
        """The file at `path`, to be passed on. `name` is what others see; else the file's own. Raises OSError, UsageError.

        Its bytes are read when the value leaves this process; until then they should not change.
        """
        source = Path(path).absolute()
        found = source.stat()
        if not stat.S_ISREG(found.st_mode):
            raise UsageError(f"{str(path)!r} is not a regular file", fix="name a file; pack a folder into an archive first")
        return cls(plain_name(name or source.name), found.st_size, source=source)

    @property
    def sha256(self) -> str:
        """64 hexadecimal digits, what ``sha256sum`` prints."""
        if not self._sha256:
            assert self._source is not None
            self._sha256 = sha256_of(self._source)
        return self._sha256

    @property
    def path(self) -> Path:
        """Where its bytes are on this machine, under the file's own name.

        A handler's parameters are always here. If only another node has the bytes (a step's result may stay where it was made), they are
        brought here first, which blocks: in async code write ``await file.fetch()``. Raises NoSuchFile, NoNode, OSError.
        """
        if self._source is not None:
            return self._source
        if self._shelf is None:
            raise NoSuchFile(f"the bytes of {self.name!r} are not here yet: only its name and size are known while work is being priced")
        return self._shelf.place(self)

    async def fetch(self) -> Path:
        """`path`, without blocking the event loop. Raises the same."""
        import asyncio

        return await asyncio.to_thread(lambda: self.path)

    def unstored(self, shelf: Shelf | None) -> Path | None:
        """Where its bytes are read from, if the node of `shelf` has not been given them yet."""
        return None if self._sha256 and self._shelf is shelf else self._source

    def stored(self, sha256: str, size: int, shelf: Shelf | None) -> None:
        """The local node has the bytes now: from here on the value is its reference."""
        self._sha256, self.size, self._shelf = sha256, size, shelf

    def reference(self) -> dict[str, Any]:
        """The form in which it travels inside JSON. An unstored file has an empty hash here."""
        return {"$file": {"sha256": self._sha256, "size": self.size, "name": self.name}}

    @classmethod
    def from_reference(cls, value: Any, shelf: Shelf | None) -> File | None:
        """The File that a JSON value stands for; None if it stands for none."""
        inner = value.get("$file") if type(value) is dict and len(value) == 1 else None
        if type(inner) is not dict:
            return None
        sha256, size, name = inner.get("sha256"), inner.get("size"), inner.get("name")
        if not isinstance(sha256, str) or not is_hash(sha256) or type(size) is not int or size < 0 or type(name) is not str:
            return None
        return cls(plain_name(name), size, sha256, shelf=shelf)

    def __repr__(self) -> str:
        return f"File({self.name!r}, {self.size} bytes{', ' + self._sha256[:12] if self._sha256 else ''})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, File) and self.sha256 == other.sha256

    def __hash__(self) -> int:
        return hash(self.sha256)

    # ---- pydantic

    @classmethod
    def __get_pydantic_core_schema__(cls, _source: Any, _handler: Any) -> Any:
        from pydantic_core import core_schema

        return core_schema.with_info_plain_validator_function(
            _validated, serialization=core_schema.plain_serializer_function_ser_schema(_serialized, info_arg=True)
        )

    @classmethod
    def __get_pydantic_json_schema__(cls, _schema: Any, _handler: Any) -> dict[str, Any]:
        fields = {
            "sha256": {"type": "string", "pattern": "^[0-9a-f]{64}$"},
            "size": {"type": "integer", "minimum": 0},
            "name": {"type": "string"},
        }
        inner = {"type": "object", "properties": fields, "required": list(fields), "additionalProperties": False}
        return {"type": "object", "title": "File", "properties": {"$file": inner}, "required": ["$file"], "additionalProperties": False}


def _validated(value: Any, info: Any) -> File:
    if isinstance(value, File):
        return value
    file = File.from_reference(value, info.context.get("shelf") if info.context else None)
    if file is None:
        raise ValueError("is not a file; pass File.of(path), on the command line name=@path")
    return file


def _serialized(file: File, info: Any) -> dict[str, Any]:
    if info.context is not None:
        info.context["files"].append(file)
    return file.reference()


async def put_all(ask: Ask, files: list[File], shelf: Shelf | None) -> bool:
    """Put the bytes of those that are not stored yet into the local node's store. True if there were any.

    Raises OSError if a file cannot be read any more, MeshError if the node refuses it (full disk, too big).
    """
    fresh = False
    for file in files:
        while source := file.unstored(shelf):
            try:
                file.stored(*await put(ask, source), shelf)
            except NodeLost:  # from the beginning, once there is a node again; `ask` raises NoNode if there will be none
                continue
            fresh = True
    return fresh


async def put(ask: Ask, source: Path) -> tuple[str, int]:
    """Stream one file to the local node, a few chunks at a time. Returns its hash and size. Raises OSError, MeshError."""
    import asyncio

    handle = await asyncio.to_thread(open, source, "rb")
    upload, offset = os.urandom(8).hex(), 0
    under_way: list[asyncio.Future[dict[str, Any]]] = []
    try:
        chunk = await asyncio.to_thread(handle.read, CHUNK_BYTES)
        while True:
            following = await asyncio.to_thread(handle.read, CHUNK_BYTES) if len(chunk) == CHUNK_BYTES else b""
            params = {"upload": upload, "offset": offset, "data": chunk, "last": not following}
            under_way.append(asyncio.ensure_future(ask("put", params)))
            offset += len(chunk)
            if not following:
                break
            chunk = following
            if len(under_way) >= WINDOW:
                await under_way.pop(0)
        answers = [await each for each in under_way]
    finally:
        handle.close()
        for each in under_way:
            each.cancel()
    return str(answers[-1]["sha256"]), int(answers[-1]["size"])


def _fetch(sock: Path, sha256: str, size: int) -> None:
    """Ask the local node, on a connection of its own, to bring a file here. Blocks. Raises NoSuchFile, NoNode, MeshError."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as channel:
        channel.settimeout(FETCH_TIMEOUT_S)
        try:
            channel.connect(str(sock))
            channel.sendall(frame([1, "fetch", {"file": sha256, "size": size}]))
            splitter, messages = Splitter(), list[list[Any]]()
            while not messages:
                data = channel.recv(65536)
                if not data:
                    raise NoNode("the node went away while it fetched a file")
                messages = splitter.feed(data)
        except TimeoutError as error:
            raise NoSuchFile(f"no node gave the file {sha256[:12]}... within {FETCH_TIMEOUT_S:g} s") from error
        except OSError as error:
            raise NoNode(f"the local node does not answer: {error.strerror or error}") from error
    _, ok, body = messages[0]
    if not ok:
        raise from_body(body)


def check_files(files: list[File], count_max: int) -> tuple[tuple[str, int], ...]:
    """The references' hashes and sizes, each once, in order. Raises MeshError beyond `count_max`."""
    seen = {file.sha256: file.size for file in files}
    if len(seen) > count_max:
        raise MeshError(
            f"{len(seen)} files in one value, over the {count_max} that may travel together",
            fix="pack them into an archive",
            code="too_big",
        )
    return tuple(seen.items())
