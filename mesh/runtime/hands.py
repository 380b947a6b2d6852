"""Which processes have attached as workers, across lives of the node: so that one which begins again knows at once whether any is left to
wait for.

    a worker attaches --its pid and when it began, on disk--> ...the node dies, and begins again --> `any_left`

Invariant: who is attached is on disk before the node hears of him, so who is not there is not left. Whatever cannot be told (another pid
namespace, a pid that is not seen from here, a damaged file) counts as somebody who is left: then the node waits, as long as it always has.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from mesh.runtime.home import HomeError, read_private, write_atomic

UNSEEN = 0
"""The pid of a process in another namespace."""


class Hands:
    """`path`: the file of one node. Raises nothing but what the disk does when it is written."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: dict[int, str] = {}
        self._sure = True
        """False: somebody may be left who is not among the known."""
        self._read()

    def _read(self) -> None:
        try:
            raw = read_private(self._path)
            found: dict[str, Any] = json.loads(raw) if raw is not None else {"space": _space(), "began": {}}
            self._known = {int(pid): str(began) for pid, began in found["began"].items()}
            self._sure = found["space"] == _space() and UNSEEN not in self._known and raw is not None
        except (HomeError, ValueError, KeyError, TypeError, AttributeError):
            self._known, self._sure = {}, False

    def any_left(self) -> bool:
        """Whether a process that was attached in an earlier life may still run."""
        return not self._sure or any(map(self._lives, self._known))

    def _lives(self, pid: int) -> bool:
        return pid == UNSEEN or began(pid) == self._known[pid]

    def add(self, pid: int) -> None:
        """It is about to attach. Raises HomeError."""
        self._known = {one: at for one, at in self._known.items() if self._lives(one)} | {pid: began(pid)}
        write_atomic(self._path, json.dumps({"space": _space(), "began": self._known}).encode())


def began(pid: int) -> str:
    """When the process began, in a form that another one of that pid has not; "" if it does not run."""
    try:
        # The name, in brackets, may hold anything: what follows it has a fixed form (proc(5)); the 20th of those is when it began.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return "" if fields[0] in "ZX" else fields[19]
    except (OSError, IndexError):
        return "" if Path("/proc/self").exists() or not _runs(pid) else "runs"


def _runs(pid: int) -> bool:
    """Where no /proc tells more."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _space() -> str:
    """Which pid namespace this is; "" where there is no telling."""
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""
