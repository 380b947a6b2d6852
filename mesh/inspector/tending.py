"""What `mesh launch` keeps running on a machine: user services where systemd manages them, else processes on their own, and the record
of both.

    FOLDER/state.json     key -> mode, unit or pid, stamp, version, files        key: "node", or "run-NAME" for a worker

Invariant: a service's stamp (a hash of all it is made of) is on record only once it runs with it, so whatever is cut short is done again.
The standard library only: it runs out of the wheel.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mesh.errors import MeshError, Refused
from mesh.inspector import units
from mesh.launch import command_line, end
from mesh.runtime.home import write_atomic

STOP_S = 30.0
LOOK_EVERY_S = 0.05
SERVICE, PROCESS = "service", "process"


@dataclass(frozen=True, slots=True)
class Service:
    """`words`: those after ``mesh``. `python`: the interpreter of its version's environment, `version`, made of the wheel `wheel`."""

    key: str
    unit: str
    description: str
    python: str
    version: str
    wheel: str
    words: tuple[str, ...]
    directory: str
    environment: Mapping[str, str] = field(default_factory=dict)
    after: str = ""
    files: Mapping[str, str] = field(default_factory=dict)

    @property
    def stamp(self) -> str:
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()

    def as_unit(self, home: Path) -> units.Unit:
        # -P: what lies in the folder it starts in must not be taken for our modules.
        words = (self.python, "-P", "-m", "mesh.inspector.cli", *self.words)
        return units.Unit(self.unit, home, self.description, words, self.environment, self.directory, self.after, f"made of {self.stamp}")


class Tending:
    """`detach` starts a service as a process and returns its pid: ``mesh up --detach`` or ``mesh run --detach``. Raises MeshError."""

    def __init__(self, folder: Path, home: Path, detach: Callable[[Service], int]) -> None:
        self._path, self._home, self._detach = folder / "state.json", home, detach
        self.services: dict[str, dict[str, Any]] = self._read()
        self.why_processes, self.fix = "", ""
        """Why nothing new becomes a user service here, and what would help; known after `choose`."""

    def _read(self) -> dict[str, dict[str, Any]]:
        if not self._path.exists():
            return {}
        found = json.loads(self._path.read_text())
        return dict(found["services"])

    def save(self) -> None:
        write_atomic(self._path, json.dumps({"schema": "mesh.launched/1", "services": self.services}, indent=1).encode())

    def choose(self) -> None:
        """User services, if they can be managed and outlive this login."""
        self.why_processes = units.why_not()
        if self.why_processes:
            return
        if not units.lingers():
            units.linger()
        if not units.lingers():
            self.why_processes = "its services end at logout"
            self.fix = f"sudo loginctl enable-linger {units.account()}"

    # ---- looking

    def is_alive(self, key: str) -> bool:
        record = self.services.get(key)
        if record is None:
            return False
        if record["mode"] == SERVICE:
            return units.is_written(record["unit"]) and units.is_active(record["unit"])
        return self._is_ours(record["pid"])

    def pid_of(self, key: str) -> int:
        record = self.services[key]
        return int(record["pid"]) if record["mode"] == PROCESS else units.pid_of(record["unit"])

    def _is_ours(self, pid: int) -> bool:
        """Pids are used again: only one whose command line names this home."""
        return pid > 0 and os.fsencode(self._home) in command_line(pid)

    # ---- doing

    def ensure(self, service: Service, *, again: bool = False) -> bool:
        """Let it run exactly like this; False if it does already. `again`: start it anew all the same. Raises MeshError, its last words."""
        record = self.services.get(service.key)
        if not again and record is not None and record["stamp"] == service.stamp and self.is_alive(service.key):
            return False
        mode = PROCESS if self.why_processes else SERVICE
        if record is not None and (record["mode"] == PROCESS or mode == PROCESS):
            self._stop(record)
        if record is None and mode == SERVICE and units.is_written(service.unit):
            path = units.folder() / service.unit
            fix = f"systemctl --user disable --now {service.unit}; rm {path}"
            raise Refused(f"it has a service {service.unit} that launch did not make", fix=fix)
        fresh = {"mode": mode, "unit": service.unit, "pid": 0, "stamp": "", "files": dict(service.files)}
        fresh |= {"version": service.version, "wheel": service.wheel}
        self.services[service.key] = fresh
        self.save()
        if mode == SERVICE:
            units.write(service.as_unit(self._home))
            units.enable(service.unit)
            units.restart(service.unit)
        else:
            fresh["pid"] = self._detach(service)
        fresh["stamp"] = service.stamp
        self.save()
        return True

    def forget(self, key: str) -> bool:
        """Stop it and take it off the record; True if it ran."""
        record = self.services.pop(key)
        ran = self._is_ours(record["pid"]) if record["mode"] == PROCESS else units.is_active(record["unit"])
        self._stop(record)
        self.save()
        return ran

    def _stop(self, record: dict[str, Any]) -> None:
        if record["mode"] == SERVICE:
            units.remove(record["unit"])
            return
        pid = int(record["pid"])
        if self._is_ours(pid):
            end(pid)
            if not self._gone(pid):
                end(pid, signal.SIGKILL)
            if not self._gone(pid):
                raise MeshError(f"process {pid} does not end", fix=f"kill -9 {pid}")

    def _gone(self, pid: int) -> bool:
        until = time.monotonic() + STOP_S
        while self._is_ours(pid):
            if time.monotonic() > until:
                return False
            time.sleep(LOOK_EVERY_S)
        return True
