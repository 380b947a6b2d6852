"""What a node remembers of its journal beside its key: the newest life it began, and where the journal ended when it was last closed.

    start:  journal --incarnation n, synced--> this file, synced --> the life begins         close: the last entry's number

Invariant: no life is used before both have it, the journal first; so a journal that knows fewer lives than this file was deleted, or an
older copy of it was put back. Going on then is a person's decision, and stays on record here. Does not see that both were put back
together, nor that a copy from within the very life that ended in a crash was: the heads that other nodes hold show that.
"""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mesh.runtime.clock import wall_ms
from mesh.runtime.disk.store_file import StoreError
from mesh.runtime.home import HomeError, read_private, write_atomic

SCHEMA = "mesh.incarnation/1"
ACCEPTED_MAX = 64
"""Accepted rollbacks that are remembered, the newest ones."""


@dataclass(slots=True)
class Newest:
    """The file at `path`. `read` before anything else."""

    path: Path
    incarnation: int = 0
    seq: int = 0
    """Number of the last entry when that life was closed in order; 0 while it runs, or if it crashed."""
    accepted: list[dict[str, Any]] = field(default_factory=list)
    restored: str = ""
    """The journal was put back from a backup (which one), and nobody has said yet that this is the newest; else empty."""

    def read(self) -> None:
        """Raises StoreError ``newest_damaged``, HomeError if others may read it."""
        raw = read_private(self.path)
        if raw is None:
            return
        try:
            found = json.loads(raw)
            incarnation, seq, accepted = found["incarnation"], found["seq"], found["accepted"]
            restored = found.get("restored", "")
            if type(incarnation) is not int or type(seq) is not int or type(accepted) is not list or type(restored) is not str:
                raise TypeError("its fields")
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise StoreError(
                "newest_damaged",
                f"{self.path}, which remembers the newest life of this node, is damaged: {type(error).__name__} {error}",
                f"restore it from a backup; or, if the journal beside it is the newest one: rm {self.path}",
            ) from None
        self.incarnation, self.seq, self.accepted, self.restored = incarnation, seq, accepted, restored

    def doubt(self, exists: bool, incarnation: int, seq: int) -> str:
        """Why a journal that knows lives up to `incarnation` and entries up to `seq` is not the newest; "" if nothing says so."""
        if not exists and self.incarnation:
            return f"it is gone, but this node has begun life {self.incarnation} with it"
        if incarnation < self.incarnation:
            return f"it knows of {incarnation} lives of this node, which has begun life {self.incarnation}"
        if incarnation == self.incarnation and seq < self.seq:
            return f"it ends with entry {seq}, and had {self.seq} when it was last closed"
        return ""

    def begin(self, incarnation: int, accepted: str = "") -> None:
        """A life that the journal has already. `accepted`: the doubt that a person overruled. Raises HomeError."""
        if accepted:
            record = {"at_ms": wall_ms(), "incarnation": incarnation, "was": self.incarnation, "why": accepted}
            self.accepted = [*self.accepted, record][-ACCEPTED_MAX:]
        self.incarnation, self.seq = incarnation, 0
        self._write()

    def restore(self, incarnation: int, restored: str) -> None:
        """The journal that is beside this from now on is a copy; no life up to `incarnation` is begun again. Raises HomeError."""
        self.incarnation, self.seq, self.restored = max(incarnation, self.incarnation), 0, restored
        self._write()

    def confirm(self) -> None:
        """It may go on as the newest. Raises HomeError."""
        self.restored = ""
        self._write()

    def close(self, seq: int) -> None:
        """The life ends in order, with entry `seq`."""
        self.seq = seq
        # What was written at its beginning still counts: only a copy from within this life would now pass.
        with contextlib.suppress(HomeError):
            self._write()

    def _write(self) -> None:
        found = {"schema": SCHEMA, "incarnation": self.incarnation, "seq": self.seq, "accepted": self.accepted, "restored": self.restored}
        write_atomic(self.path, json.dumps(found, indent=1).encode())


def rolled_back(path: Path, doubt: str) -> StoreError:
    """The error for a journal that is not the newest."""
    return StoreError(
        "rolled_back",
        f"the journal {path} was deleted, or an old copy of it was put back: {doubt}. What it acknowledged since then would be lost",
        "put the newest copy back; or, to go on without it (others keep proof of it): mesh up --accept-rollback",
    )
