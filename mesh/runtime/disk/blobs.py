"""The node's files, by the hash of their bytes.

    FOLDER/aa/aabb...      one file per content, 0400        FOLDER/tmp/      what is not whole yet; emptied at every start

Invariant: whatever has its name is whole and its bytes have that hash: it is written elsewhere, hashed on the way, synced, and renamed.
All disk work is done by two threads, one for writing (so pieces stay in order), one for reading. A full or failing disk is counted and
reported to whoever asked; it never stops the node. Does not decide what is fetched from whom: that is `core/work/files.py`.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import anyio
import anyio.abc

from mesh.core.inputs import FileKnown, FileRead, FileSealed
from mesh.effects import ReadFile, WriteFile
from mesh.errors import MeshError, NoSuchFile, Refused
from mesh.ids import Hash, NodeId
from mesh.limits import FileLimits

UPLOADS_MAX = 256
"""Unfinished uploads of all clients together."""


@dataclass(frozen=True, slots=True)
class BlobsStatistics:
    stored: int
    bytes_in: int
    bytes_out: int
    wrong_hash: int
    disk_errors: int
    uploads: int
    fetches: int


@dataclass(slots=True)
class _Part:
    """A file that is being written. `next`: the offset of the byte that comes next; `broken`: a piece did not fit, or the disk failed."""

    path: Path
    handle: BinaryIO
    hasher: Any = field(default_factory=hashlib.sha256)
    next: int = 0
    broken: OSError | None = None


@dataclass(slots=True)
class _Upload:
    """A client's; the writing thread makes its `part`."""

    part: _Part | None = None


class Blobs:
    """`tell` hands an input to the node, on the loop's thread. `me` is the node: its own completions come from itself."""

    def __init__(self, folder: Path, me: NodeId, tell: Callable[[NodeId, Any], None], limits: FileLimits | None = None) -> None:
        self.folder = folder
        self._me, self._tell, self._limits = me, tell, limits or FileLimits()
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="mesh-write")
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="mesh-read")
        self._fetches: dict[Hash, _Part] = {}
        self._uploads: dict[tuple[object, str], _Upload] = {}
        self._arrivals: dict[Hash, list[asyncio.Future[None]]] = {}
        self._count = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stored = self._bytes_in = self._bytes_out = self._wrong = self._errors = 0
        self.effects: dict[type, Callable[[Any], None]] = {ReadFile: self._read, WriteFile: self._write}

    def open(self) -> None:
        """Make the folders, 0700, and empty the one for unfinished files. Raises OSError."""
        self._loop = asyncio.get_running_loop()
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        shutil.rmtree(self.folder / "tmp", ignore_errors=True)
        (self.folder / "tmp").mkdir(mode=0o700)

    async def run(self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Until cancelled. Raises OSError if the folder cannot be made."""
        self.open()
        task_status.started()
        try:
            await anyio.sleep_forever()
        finally:
            self._writer.shutdown(wait=True, cancel_futures=True)
            self._reader.shutdown(wait=True, cancel_futures=True)
            for part in [*self._fetches.values(), *(upload.part for upload in self._uploads.values())]:
                if part is not None:
                    part.handle.close()

    def flush(self) -> None:
        """Nothing is collected here."""

    # ---- asked for by other parts of the runtime

    def path(self, file: Hash) -> Path:
        """Where the file is, or would be."""
        return self.folder / file[:2] / file

    def has(self, file: Hash) -> bool:
        return self.path(file).exists()

    async def arrival(self, file: Hash, timeout_s: float) -> None:
        """Return when the file is here. Raises NoSuchFile if it has not come by then."""
        if self.has(file):
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiting = self._arrivals.setdefault(file, [])
        waiting.append(future)
        try:
            await asyncio.wait_for(future, timeout_s)
        except TimeoutError as error:
            raise NoSuchFile(f"no node gave the file {file[:12]}... within {timeout_s:g} s") from error
        finally:
            waiting.remove(future)
            if not waiting:
                self._arrivals.pop(file, None)

    async def upload(self, owner: object, name: str, offset: int, data: bytes, last: bool) -> dict[str, Any]:
        """A piece of a file that a local client puts, in order. After the last one: ``{"sha256", "size"}``, and the node knows the file.

        Raises Refused for a piece out of order, too many or too large uploads, MeshError if the disk is full or fails.
        """
        if offset + len(data) > self._limits.file_bytes_max:
            self._drop(owner, name)
            raise Refused(f"the file is larger than {self._limits.file_bytes_max} bytes", fix="split it", code="too_big")
        key = (owner, name)
        if key not in self._uploads and offset == 0:
            if len(self._uploads) >= UPLOADS_MAX:
                raise Refused("too many files are being put at once", fix="try again", code="node_busy")
            self._uploads[key] = _Upload()
        upload = self._uploads.get(key)
        if upload is None:
            raise Refused("a piece of a file came out of order", fix="put the file again")

        def work() -> Hash | None:
            # Pieces are sent ahead of answers: all that must happen in order happens in the one writing thread.
            if upload.part is None:
                upload.part = self._begin()
            return self._add(upload.part, offset, data, last)

        try:
            found: Hash | None = await self._in_writer(work)
        except MeshError:
            self._drop(owner, name)
            raise
        part = upload.part
        assert part is not None
        if part.broken is not None:
            self._drop(owner, name)
            raise self._disk_error(part.broken)
        if not last:
            return {}
        del self._uploads[key]
        assert found is not None
        self._known(found, part.next)
        return {"sha256": found, "size": part.next}

    async def read(self, file: Hash, offset: int, size: int) -> dict[str, Any]:
        """A piece for a local client: ``{"data", "total"}``. Raises NoSuchFile, MeshError if the disk fails."""
        try:
            total, data = await asyncio.get_running_loop().run_in_executor(self._reader, self._read_piece, file, offset, size)
        except OSError as error:
            raise self._disk_error(error) from error
        if data is None:
            raise NoSuchFile(f"the file {file[:12]}... is not in this node's store")
        self._bytes_out += len(data)
        return {"data": data, "total": total}

    def forget_owner(self, owner: object) -> None:
        """A client is gone: what it had not finished putting goes too."""
        for key in [key for key in self._uploads if key[0] is owner]:
            self._drop(*key)

    def statistics(self) -> BlobsStatistics:
        return BlobsStatistics(
            self._stored, self._bytes_in, self._bytes_out, self._wrong, self._errors, len(self._uploads), len(self._fetches)
        )

    # ---- effects

    def _read(self, effect: ReadFile) -> None:
        def work() -> FileRead:
            try:
                total, data = self._read_piece(effect.file, effect.offset, effect.size)
            except OSError:
                self._errors += 1
                total, data = -1, None
            return FileRead(effect.to, effect.file, effect.offset, total, data)

        self._background(self._reader, work, lambda read: self._tell(self._me, read))

    def _write(self, effect: WriteFile) -> None:
        def work() -> bool | None:
            part = self._fetches.get(effect.file)
            try:
                if part is None or effect.offset == 0:
                    if part is not None:
                        self._discard(part)
                    part = self._fetches[effect.file] = self._begin()
                found = self._add(part, effect.offset, effect.data, effect.last, effect.file)
            except OSError:
                self._errors += 1
                found = None
            if not effect.last:
                return None
            self._fetches.pop(effect.file, None)
            return found == effect.file

        self._background(self._writer, work, lambda ok: self._sealed(effect.file, ok))

    def _sealed(self, file: Hash, ok: bool | None) -> None:
        if ok is not None:
            self._wrong += not ok
            self._tell(self._me, FileSealed(file, ok))
            if ok:
                self._arrived(file)

    # ---- in the threads

    def _read_piece(self, file: Hash, offset: int, size: int) -> tuple[int, bytes | None]:
        try:
            handle = os.open(self.path(file), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return -1, None
        try:
            return os.fstat(handle).st_size, os.pread(handle, size, offset)
        finally:
            os.close(handle)

    def _begin(self) -> _Part:
        self._count += 1
        path = self.folder / "tmp" / f"{os.getpid()}-{self._count}"
        return _Part(path, open(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb", buffering=0))

    def _add(self, part: _Part, offset: int, data: bytes, last: bool, expected: Hash = "") -> Hash | None:
        """Append a piece; after the last one, keep the file under its hash. None while it is not whole, or if it never will be."""
        if part.broken is None:
            try:
                self._append(part, offset, data)
                if last:
                    return self._keep(part, expected)
                return None
            except OSError as error:
                part.broken = error
                self._errors += 1
        if last:
            self._discard(part)
        return None

    def _append(self, part: _Part, offset: int, data: bytes) -> None:
        if offset != part.next:
            raise OSError(errno.EINVAL, "a piece came out of order")
        view = memoryview(data)
        while view:
            view = view[part.handle.write(view) :]
        part.hasher.update(data)
        part.next += len(data)
        self._bytes_in += len(data)

    def _keep(self, part: _Part, expected: Hash) -> Hash:
        found: Hash = part.hasher.hexdigest()
        target = self.path(found)
        if (expected and found != expected) or target.exists():
            self._discard(part)
            return found
        os.fchmod(part.handle.fileno(), 0o400)
        os.fsync(part.handle.fileno())
        part.handle.close()
        target.parent.mkdir(mode=0o700, exist_ok=True)
        os.rename(part.path, target)
        for folder in (target.parent, self.folder):
            handle = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
        self._stored += 1
        return found

    def _discard(self, part: _Part) -> None:
        part.handle.close()
        part.path.unlink(missing_ok=True)

    # ---- between threads and loop

    async def _in_writer(self, work: Callable[[], Any]) -> Any:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._writer, work)
        except OSError as error:
            self._errors += 1
            raise self._disk_error(error) from error

    def _background(self, threads: ThreadPoolExecutor, work: Callable[[], Any], then: Callable[[Any], None]) -> None:
        loop = self._loop
        assert loop is not None, "the store is not open"

        def done(future: Any) -> None:
            if not future.cancelled():
                loop.call_soon_threadsafe(then, future.result())

        threads.submit(work).add_done_callback(done)

    def _drop(self, owner: object, name: str) -> None:
        upload = self._uploads.pop((owner, name), None)
        if upload is not None:
            self._writer.submit(lambda: self._discard(upload.part) if upload.part is not None else None)

    def _known(self, file: Hash, size: int) -> None:
        self._tell(self._me, FileKnown(file, size))
        self._arrived(file)

    def _arrived(self, file: Hash) -> None:
        for future in self._arrivals.get(file, ()):
            if not future.done():
                future.set_result(None)

    def _disk_error(self, error: OSError | None) -> MeshError:
        what = error.strerror or str(error) if error else "the file could not be kept"
        full = error is not None and error.errno in (errno.ENOSPC, errno.EDQUOT)
        fix = f"free space under {self.folder}" if full else "mesh doctor"
        return MeshError(f"the node's file store: {what}", fix=fix, code="disk_full" if full else "disk_error")
