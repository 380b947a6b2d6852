"""Where a node keeps what it must not lose, and how others on this machine find it.

    HOME/                       --home DIR, else $MESH_HOME, else the platform's folder
      config.toml               optional (`settings.py`)
      mesh/                     the home's membership (`credentials.py`)
      node/                     the home's first node, named after the host
        name  journal.sqlite  files/  peers.json  and the node's keys (`identity.py`)
        node.lock               held while the node runs      node.json   who runs: pid, addresses      node.sock   for local clients
        node.ended              why it ended, where nobody told it to (`ended.py`)
      nodes/NAME/               further nodes, the same inside
      meshes/NAME/              `--mesh NAME`: a home of its own, with its own genesis

Invariants: one process per node folder (flock, which dies with its holder); every file is replaced whole (temporary, fsync, rename) and
readable by its owner only, in folders that only he can enter. Does not read keys or settings, and starts nothing.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import socket
import stat
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mesh.errors import Refused, UsageError

SOCKET_PATH_BYTES_MAX = 103
"""What both Linux (107) and macOS (103) take for the path of a Unix socket."""
SHORT_PATH = Path("/tmp")
"""Not from the environment: a client started by cron or ssh must look in the same place as the node that a shell started."""
PEERS_MAX = 256
ASKS_AROUND = "asks_around"
"""In what a node says of itself: true while it asks whether the backup it came from is the newest (`restored.py`)."""
LOCK_TRIES = 25
LOCK_RETRY_S = 0.01
"""Somebody who only looks whether a node runs holds its lock for some microseconds: a start tries a few times."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,31}")


class HomeError(UsageError):
    """The home cannot be used as it is. The message names the file; the fix is what to type."""

    code = "home"


class NodeRunning(Refused):
    """Another process runs this node. `pid` is 0 where it is not known."""

    code = "node_running"

    def __init__(self, name: str, folder: Path, pid: int) -> None:
        by = f"process {pid}" if pid else "another process"
        super().__init__(f"node {name} already runs as {by} ({folder})", fix=f"mesh down --node {name}, or choose another --name")
        self.pid = pid


# ---- files


@contextlib.contextmanager
def _explained(doing: str, path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        fix = (
            f"free space at {path.parent}" if full else "choose another folder with --home DIR or MESH_HOME=DIR, or make this one writable"
        )
        raise HomeError(f"cannot {doing} {path}: {error.strerror or error}", fix=fix) from error


def write_atomic(path: Path, data: bytes) -> None:
    """Replace `path` whole, 0600, durably: after a crash it holds the old bytes or the new ones. Raises HomeError."""
    with _explained("write", path):
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # 0600
        try:
            with open(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """The names in it survive a power cut. Raises OSError."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _make_folders(folder: Path) -> None:
    """As `mkdir -p`, but every new folder is its owner's alone, whatever the umask, and its name is synced."""
    if not folder.is_dir():
        if folder.parent != folder:
            _make_folders(folder.parent)
        folder.mkdir(mode=0o700, exist_ok=True)
        with contextlib.suppress(PermissionError):  # a parent that may be entered and written, not read
            sync_folder(folder.parent)


def make_private(folder: Path) -> Path:
    """Make `folder` (and its parents) if it is not there, for its owner only. Raises HomeError, also if others may get in."""
    with _explained("make", folder):
        _make_folders(folder)
        found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode):
        raise HomeError(f"{folder} is not a folder of its own", fix=f"remove {folder}")
    if found.st_uid != os.geteuid():
        raise HomeError(f"{folder} belongs to another user (uid {found.st_uid})", fix="run as that user, or choose another --home")
    if found.st_mode & 0o077:
        raise HomeError(f"others may enter {folder} (mode {found.st_mode & 0o777:o})", fix=f"chmod 700 {folder}")
    return folder


def read_private(path: Path, bytes_max: int = 64 * 1024) -> bytes | None:
    """The bytes of a file that must be its owner's alone; None if there is none. Raises HomeError, with the chmod line where it is open."""
    with _explained("read", path):
        try:
            with open(path, "rb") as file:
                mode = os.fstat(file.fileno()).st_mode
                data = file.read(bytes_max)
        except FileNotFoundError:
            return None
    if mode & 0o077:
        raise HomeError(f"others may read {path} (mode {mode & 0o777:o})", fix=f"chmod 600 {path}")
    return data


def check_name(name: str, option: str = "--name") -> str:
    """Raises UsageError for what is no name of a node or mesh: it becomes a folder's name and is shown everywhere."""
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"{option} {name!r}: a name has 1 to 32 of a-z, A-Z, 0-9, '.', '-' and '_', and starts with a letter or digit",
            fix=f"{option} otter",
        )
    return name


def host_name() -> str:
    """This host's name, made fit to be a node's."""
    name = re.sub(r"[^a-z0-9_-]", "-", socket.gethostname().partition(".")[0].lower()).strip("-_")
    return name[:32] or "node"


# ---- locks


class Lock:
    """An flock that this process holds until `release`, or until it dies. Programs it starts do not inherit it."""

    def __init__(self, handle: int) -> None:
        self._handle = handle

    @classmethod
    def take(cls, path: Path, *, wait: bool = False) -> Lock | None:
        """None if another process (or another `Lock` of this one) holds it and `wait` is False. Raises HomeError."""
        with _explained("lock", path):
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        if wait:
            fcntl.flock(handle, fcntl.LOCK_EX)
            return cls(handle)
        for tries_left in reversed(range(LOCK_TRIES)):
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if tries_left:
                    time.sleep(LOCK_RETRY_S)
            else:
                return cls(handle)
        os.close(handle)
        return None

    @staticmethod
    def is_held(path: Path) -> bool:
        """Whether somebody holds it now. Changes nothing."""
        try:
            handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(handle)
        return False

    def write(self, text: str) -> None:
        os.truncate(self._handle, 0)
        os.pwrite(self._handle, text.encode(), 0)

    def release(self) -> None:
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1

    def __enter__(self) -> Lock:
        return self

    def __exit__(self, *exc: object) -> None:
        self.release()


# ---- folders


class NodeFolder:
    """One node's files. Making the object touches nothing; `make` creates the folder."""

    def __init__(self, home: Home, path: Path, name: str) -> None:
        self.home, self.path, self.name = home, path, name
        self.identity_path = path / "identity.key"
        self.certificate_path = path / "certificate"
        self.deed_path = path / "deed"
        self.past_keys_path = path / "past.keys"
        self.transport_path = path / "transport.key"
        self.binding_path = path / "binding"
        self.members_path = path / "members"
        self.journal_path = path / "journal.sqlite"
        self.incarnation_path = path / "incarnation.json"
        self.files_path = path / "files"
        self.lock_path = path / "node.lock"
        self.info_path = path / "node.json"
        self.peers_path = path / "peers.json"
        self.log_path = path / "node.log"
        self.ended_path = path / "node.ended"
        self.workers_path = path / "workers.json"

    def make(self) -> NodeFolder:
        """Raises HomeError."""
        self.home.make()
        make_private(self.path.parent if self.path.parent != self.home.path else self.path)
        make_private(self.path)
        if not (self.path / "name").exists():
            write_atomic(self.path / "name", self.name.encode())
        return self

    def lock(self) -> Lock:
        """Held while the node runs. Raises NodeRunning, naming the process that has it."""
        lock = Lock.take(self.lock_path)
        if lock is None:
            raise NodeRunning(self.name, self.path, self._holder())
        lock.write(str(os.getpid()))
        return lock

    def _holder(self) -> int:
        try:
            text = self.lock_path.read_text()
        except (OSError, ValueError):
            return 0
        return int(text) if text.isascii() and text.isdigit() else 0

    @property
    def socket_path(self) -> Path:
        """Where local clients meet the node: in its folder, or, where that path is too long for the kernel, in a short private folder."""
        path = self.path / "node.sock"
        if len(os.fsencode(path)) <= SOCKET_PATH_BYTES_MAX:
            return path
        short = hashlib.sha256(os.fsencode(path)).hexdigest()[:16]
        return SHORT_PATH / f"lanmesh-{os.geteuid()}" / f"{short}.sock"

    def make_socket_folder(self) -> Path:
        """The socket's path, its folder made and its predecessor gone. Call with the lock held. Raises HomeError."""
        path = self.socket_path
        make_private(path.parent)
        with _explained("replace", path):
            path.unlink(missing_ok=True)
        return path

    def is_running(self) -> bool:
        return Lock.is_held(self.lock_path)

    # ---- what others read

    def write_info(self, info: Mapping[str, Any]) -> None:
        """Say who runs here: ``{"name", "node", "pid", "door", "router", "socket", ...}``. Call with the lock held. Raises HomeError."""
        write_atomic(self.info_path, json.dumps({"schema": "mesh.node/1", **info}, indent=1).encode())

    def clear_info(self) -> None:
        """The node stops: nobody runs here."""
        with _explained("remove", self.info_path):
            self.info_path.unlink(missing_ok=True)

    def info(self) -> dict[str, Any] | None:
        """What the running node said; None if none runs, or it has not said anything yet."""
        if not self.is_running():
            return None
        try:
            found = json.loads(self.info_path.read_bytes())
        except (OSError, ValueError):
            return None
        return found if isinstance(found, dict) else None

    def save_peers(self, doors: list[str]) -> None:
        """Remember doors that answered, the newest first: they are dialled when all seeds are gone. Raises HomeError."""
        write_atomic(self.peers_path, json.dumps({"schema": "mesh.peers/1", "doors": doors[:PEERS_MAX]}).encode())

    def peers(self) -> tuple[str, ...]:
        """Doors remembered. A cache: whatever is wrong with the file, it is as if it were empty."""
        try:
            doors = json.loads(self.peers_path.read_bytes())["doors"]
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return ()
        return tuple(door for door in doors[:PEERS_MAX] if isinstance(door, str)) if isinstance(doors, list) else ()


class Home:
    """One account's membership in one mesh on this machine. Making the object touches nothing."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.mesh_path = path / "mesh"
        self.config_path = path / "config.toml"

    @classmethod
    def locate(
        cls, home: str | Path | None = None, mesh: str = "", *, environ: Mapping[str, str] = os.environ, platform: str = sys.platform
    ) -> Home:
        """The home meant by ``--home`` and ``--mesh``. Touches nothing. Raises HomeError if no folder is known, UsageError for a name."""
        chosen = str(home or "") or environ.get("MESH_HOME", "")
        if chosen:
            path = Path(chosen).expanduser().absolute()
        else:
            path = _platform_folder(environ, platform)
        return cls(path / "meshes" / check_name(mesh, "--mesh")) if mesh else cls(path)

    def make(self) -> Home:
        """Raises HomeError: not writable, or open to every writer."""
        with _explained("make", self.path):
            _make_folders(self.path)
            mode = self.path.stat().st_mode
        if mode & 0o002:
            raise HomeError(f"everybody may write into {self.path} (mode {mode & 0o7777:o})", fix=f"chmod 700 {self.path}")
        make_private(self.mesh_path)
        return self

    def lock(self) -> Lock:
        """Held for moments, while keys are made: several nodes may start at once."""
        lock = Lock.take(self.mesh_path / "lock", wait=True)
        assert lock is not None
        return lock

    def node(self, name: str = "") -> NodeFolder:
        """The folder of the node called `name`; without a name, of the home's first, or its only one. Raises UsageError for a bad name."""
        first = self._first()
        if not name or name == first.name:
            return first
        return NodeFolder(self, self.path / "nodes" / check_name(name), name)

    def _first(self) -> NodeFolder:
        path = self.path / "node"
        if not path.is_dir() and len(named := self._named()) == 1:
            return named[0]
        try:
            name = (path / "name").read_text()
        except (OSError, ValueError):
            name = ""
        return NodeFolder(self, path, name if _NAME.fullmatch(name) else host_name())

    def nodes(self) -> list[NodeFolder]:
        """Every node this home has ever had, the first one first, the others by name."""
        return ([self._first()] if (self.path / "node").is_dir() else []) + self._named()

    def _named(self) -> list[NodeFolder]:
        more = self.path / "nodes"
        try:
            names = sorted(entry.name for entry in os.scandir(more) if entry.is_dir() and _NAME.fullmatch(entry.name))
        except OSError:
            names = []
        return [NodeFolder(self, more / name, name) for name in names]

    def running(self) -> list[NodeFolder]:
        """The nodes of this home that run now."""
        return [folder for folder in self.nodes() if folder.is_running()]


def _platform_folder(environ: Mapping[str, str], platform: str) -> Path:
    state = environ.get("XDG_STATE_HOME", "")
    if platform != "darwin" and os.path.isabs(state):
        return Path(state) / "lanmesh"
    home = environ.get("HOME", "")
    if not os.path.isabs(home):
        raise HomeError("HOME is not set, so there is no folder for keys and journal", fix="name one: --home DIR, or MESH_HOME=DIR")
    return Path(home) / ("Library/Application Support/lanmesh" if platform == "darwin" else ".local/share/lanmesh")
