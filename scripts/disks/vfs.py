"""Watches what the journal does to its folder: every write, sync, truncation, creation, renaming and deletion, in order.

    mesh's store --> sqlite3 --> SQLite --> our VFS --log--> SQLite's own VFS --> the real file
                 '-> os.open, os.fsync, os.replace --log--> (the same folder)

The VFS is SQLite's own with five functions exchanged, registered through ctypes in the very library that Python's `sqlite3` uses, so the
store runs as it is. SQLite syncs folders inside of a file's sync; the call with which it opens them is exchanged too, and tells. What is
not seen: writes to memory-mapped files, which SQLite makes to its -shm alone, and that is made anew after a crash.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

Op = tuple[Any, ...]
"""``("write", name, offset, data)``, ``("truncate", name, size)``, ``("sync" | "create" | "delete", name)``, ``("rename", name, new)``,
``("folder",)``: names were synced; and what the watcher's user puts between them."""

CANTOPEN, MISUSE = 14, 21
_METHODS = (
    *("xClose", "xRead", "xWrite", "xTruncate", "xSync", "xFileSize", "xLock", "xUnlock", "xCheckReservedLock", "xFileControl"),
    *("xSectorSize", "xDeviceCharacteristics", "xShmMap", "xShmLock", "xShmBarrier", "xShmUnmap", "xFetch", "xUnfetch"),
)
_FUNCTIONS = (
    *("xOpen", "xDelete", "xAccess", "xFullPathname", "xDlOpen", "xDlError", "xDlSym", "xDlClose", "xRandomness", "xSleep"),
    *("xCurrentTime", "xGetLastError", "xCurrentTimeInt64", "xSetSystemCall", "xGetSystemCall", "xNextSystemCall"),
)
_int, _pointer, _int64 = ctypes.c_int, ctypes.c_void_p, ctypes.c_int64
_Open = ctypes.CFUNCTYPE(_int, _pointer, _pointer, _pointer, _int, _pointer)
_Delete = ctypes.CFUNCTYPE(_int, _pointer, _pointer, _int)
_Write = ctypes.CFUNCTYPE(_int, _pointer, _pointer, _int, _int64)
_Truncate = ctypes.CFUNCTYPE(_int, _pointer, _int64)
_Sync = ctypes.CFUNCTYPE(_int, _pointer, _int)
_Folder = ctypes.CFUNCTYPE(_int, ctypes.c_char_p, _pointer)
_Get = ctypes.CFUNCTYPE(_pointer, _pointer, ctypes.c_char_p)
_Set = ctypes.CFUNCTYPE(_int, _pointer, ctypes.c_char_p, _pointer)


class _Io(ctypes.Structure):
    _fields_ = [("iVersion", _int), *((name, _pointer) for name in _METHODS)]


class _Vfs(ctypes.Structure):
    _fields_ = [
        *((name, _int) for name in ("iVersion", "szOsFile", "mxPathname")),
        *(("pNext", _pointer), ("zName", ctypes.c_char_p), ("pAppData", _pointer)),
        *((name, _pointer) for name in _FUNCTIONS),
    ]


def _library() -> ctypes.CDLL:
    import _sqlite3

    library = ctypes.CDLL(_sqlite3.__file__)
    library.sqlite3_vfs_find.restype = _pointer
    library.sqlite3_vfs_find.argtypes = [ctypes.c_char_p]
    library.sqlite3_vfs_register.argtypes = [_pointer, _int]
    library.sqlite3_vfs_unregister.argtypes = [_pointer]
    return library


def why_not() -> str:
    """Why SQLite cannot be watched here; empty if it can."""
    if sys.platform != "linux":
        return f"this is {sys.platform}, and file descriptors are told from /proc"
    try:
        found = _library().sqlite3_vfs_find(b"unix")
    except (OSError, AttributeError, ImportError) as error:
        return f"this Python's SQLite shows no functions to register a file system ({error})"
    return "" if found else "this SQLite has no file system called unix"


class Watcher:
    """`log` grows while `watching`. Of files in `folder` itself; those with an ending in `PASSING` mean nothing after a crash.

    `folders` False: nobody ever syncs a folder. `deaf`: files of these names whose syncs do nothing, on a disk that lies.
    """

    PASSING = (".lock", "-shm")

    def __init__(self, folder: Path, *, folders: bool = True, deaf: tuple[str, ...] = ()) -> None:
        self.log: list[Op] = []
        self._folder, self._folders, self._deaf = folder, folders, deaf
        self._names: dict[int, str] = {}
        """Which file an open sqlite3_file is, by its address."""
        self._kept: list[Any] = []
        """What C points to."""

    @contextlib.contextmanager
    def watching(self) -> Iterator[list[Op]]:
        """All connections opened in here must be closed in here."""
        with self._sqlite(), self._os():
            yield self.log

    def _name(self, path: str | bytes | os.PathLike[str]) -> str:
        """What the log calls a file; empty for those that are none of ours."""
        found = Path(os.fsdecode(path))
        ours = found.parent == self._folder and not found.name.endswith(self.PASSING)
        return found.name if ours else ""

    # ---- SQLite's calls

    @contextlib.contextmanager
    def _sqlite(self) -> Iterator[None]:
        library = _library()
        default = library.sqlite3_vfs_find(b"unix")
        before = _Vfs.from_address(default)
        vfs = _Vfs()
        ctypes.memmove(ctypes.byref(vfs), default, ctypes.sizeof(_Vfs))
        vfs.pNext, vfs.zName = None, b"watched"
        vfs.xOpen = self._keep(_Open(self._opening(_Open(before.xOpen))))
        vfs.xDelete = self._keep(_Delete(self._deleting(_Delete(before.xDelete))))
        open_folder = _Get(before.xGetSystemCall)(default, b"openDirectory")
        exchange = _Set(before.xSetSystemCall)
        exchange(default, b"openDirectory", self._keep(_Folder(self._opening_folder(_Folder(open_folder)))))
        library.sqlite3_vfs_register(ctypes.addressof(vfs), 1)
        try:
            yield
        finally:
            library.sqlite3_vfs_unregister(ctypes.addressof(vfs))
            library.sqlite3_vfs_register(default, 1)
            exchange(default, b"openDirectory", open_folder)

    def _keep(self, function: Any) -> int:
        self._kept.append(function)
        address = ctypes.cast(function, _pointer).value
        assert address is not None
        return address

    def _opening(self, original: Any) -> Callable[..., int]:
        def opening(vfs: int, name: int | None, file: int, flags: int, out: int) -> int:
            path = ctypes.string_at(name) if name else b""
            known = self._name(path) if path else ""
            is_new = bool(known) and not os.path.exists(path)
            code: int = original(vfs, name, file, flags, out)
            if known and code == 0:
                if is_new and os.path.exists(path):
                    self.log.append(("create", known))
                self._names[file] = known
                self._exchange(file)
            return code

        return opening

    def _exchange(self, file: int) -> None:
        """The methods of this one open file are ours from here on."""
        place = _pointer.from_address(file)
        methods = _Io()
        ctypes.memmove(ctypes.byref(methods), place.value, ctypes.sizeof(_Io))
        methods.xWrite = self._keep(_Write(self._writing(_Write(methods.xWrite))))
        methods.xTruncate = self._keep(_Truncate(self._truncating(_Truncate(methods.xTruncate))))
        methods.xSync = self._keep(_Sync(self._syncing(_Sync(methods.xSync))))
        self._kept.append(methods)
        place.value = ctypes.addressof(methods)

    def _writing(self, original: Any) -> Callable[..., int]:
        def writing(file: int, data: int, size: int, offset: int) -> int:
            self.log.append(("write", self._names[file], offset, ctypes.string_at(data, size)))
            code: int = original(file, data, size, offset)
            return code

        return writing

    def _truncating(self, original: Any) -> Callable[..., int]:
        def truncating(file: int, size: int) -> int:
            self.log.append(("truncate", self._names[file], size))
            code: int = original(file, size)
            return code

        return truncating

    def _syncing(self, original: Any) -> Callable[..., int]:
        def syncing(file: int, flags: int) -> int:
            if self._names[file] not in self._deaf:
                self.log.append(("sync", self._names[file]))
            code: int = original(file, flags)
            return code

        return syncing

    def _deleting(self, original: Any) -> Callable[..., int]:
        def deleting(vfs: int, name: int, sync_folder: int) -> int:
            path = ctypes.string_at(name)
            if (known := self._name(path)) and os.path.exists(path):
                self.log.append(("delete", known))
            code: int = original(vfs, name, sync_folder)
            return code

        return deleting

    def _opening_folder(self, original: Any) -> Callable[..., int]:
        def opening_folder(path: bytes, out: int) -> int:
            if not self._folders:
                return CANTOPEN  # SQLite goes on without
            if Path(os.fsdecode(path)).parent == self._folder:
                self.log.append(("folder",))
            code: int = original(path, out)
            return code

        return opening_folder

    # ---- Python's calls

    @contextlib.contextmanager
    def _os(self) -> Iterator[None]:
        real = {name: getattr(os, name) for name in ("open", "fsync", "replace")}

        def opened(path: Any, flags: int, *more: Any, **named: Any) -> int:
            is_new = bool(flags & os.O_CREAT) and not os.path.exists(path)
            handle: int = real["open"](path, flags, *more, **named)
            if is_new and (known := self._name(path)):
                self.log.append(("create", known))
            return handle

        def synced(handle: int) -> None:
            self._synced(Path(os.readlink(f"/proc/self/fd/{handle}")))
            real["fsync"](handle)

        def replaced(old: Any, new: Any) -> None:
            name, target = self._name(old), self._name(new)
            if name and target:
                self._written(name)
                self.log.append(("rename", name, target))
            real["replace"](old, new)

        os.open, os.fsync, os.replace = opened, synced, replaced  # type: ignore[assignment]
        try:
            yield
        finally:
            os.open, os.fsync, os.replace = real["open"], real["fsync"], real["replace"]

    def _synced(self, path: Path) -> None:
        if path == self._folder:
            if self._folders:
                self.log.append(("folder",))
        elif name := self._name(path):
            self._written(name)
            self.log.append(("sync", name))

    def _written(self, name: str) -> None:
        """What Python wrote into a file is seen where it matters: when it is synced, or renamed without that."""
        data = (self._folder / name).read_bytes()
        if ("write", name, 0, data) not in self.log[-4:]:
            self.log.append(("write", name, 0, data))
