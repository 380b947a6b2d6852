"""A disk that forgets: what may be left of a folder when the power goes, drawn from everything that POSIX lets a file system do.

    synced                      is there
    written, not synced         each write there or not, whatever came before or after it; or there in some sectors only
    truncated, not synced       done or not
    made, renamed, deleted      done or not, each by itself, until its folder is synced

Taken as given, as SQLite does: a sector of 512 bytes is old or new, and what a write does not touch stays. A hole before a sector that came
through holds zeros or what the disk had there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random

from disks.vfs import Op

SECTOR = 512
Change = tuple[int, bytes | None]
"""Bytes at an offset; None: the file ends there."""


@dataclass
class File:
    """One file, whatever its name: what is on the platter, and what came since its last sync."""

    durable: bytearray = field(default_factory=bytearray)
    pending: list[Change] = field(default_factory=list)

    def sync(self) -> None:
        for change in self.pending:
            apply(self.durable, change, b"")
        self.pending.clear()


def apply(data: bytearray, change: Change, filling: bytes) -> None:
    """`filling` is what a hole shows."""
    offset, new = change
    if new is None:
        del data[offset:]
    if len(data) < offset:
        missing = offset - len(data)
        data.extend((filling * missing)[:missing] if filling else bytes(missing))
    if new is not None:
        data[offset : offset + len(new)] = new


class Disk:
    """Follows a log. `names` are those programs see, `kept` those on the platter."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.names = {name: File(bytearray(data)) for name, data in files.items()}
        self.kept = dict(self.names)
        self._changed: list[dict[str, File | None]] = []
        """Changes of names since the folder was synced: which file a name now means, None for no more."""

    def follow(self, op: Op) -> None:
        match op:
            case "write", name, offset, data:
                self.names[name].pending.append((offset, data))
            case "truncate", name, size:
                self.names[name].pending.append((size, None))
            case "sync", name:
                self.names[name].sync()
            case "create", name:
                self._rename({name: File()})
            case "delete", name:
                self._rename({name: None})
            case "rename", name, new:
                self._rename({name: None, new: self.names[name]})
            case ("folder",):
                self.kept = dict(self.names)
                self._changed.clear()

    def _rename(self, change: dict[str, File | None]) -> None:
        self._changed.append(change)
        _renamed(self.names, change)

    def crash(self, random: Random) -> dict[str, bytes]:
        """The files after one possible power cut at this moment."""
        names = dict(self.kept)
        share = random.choice((0.0, 0.5, 1.0))
        for change in self._changed:
            if random.random() < share:
                _renamed(names, change)
        return {name: left_of(file, random) for name, file in names.items()}


def _renamed(names: dict[str, File], change: dict[str, File | None]) -> None:
    for name, file in change.items():
        if file is None:
            names.pop(name, None)
        else:
            names[name] = file


def left_of(file: File, random: Random) -> bytes:
    """What a power cut leaves of one file."""
    data = bytearray(file.durable)
    filling = random.choice((b"", random.randbytes(SECTOR)))
    manner = random.choice(("none", "all", "beginning", "some", "torn"))
    until = random.randrange(len(file.pending) + 1)
    for index, change in enumerate(file.pending):
        if manner == "all" or (manner == "beginning" and index < until) or (manner == "some" and random.random() < 0.5):
            apply(data, change, filling)
        elif manner == "torn":
            for part in _torn(change, random):
                apply(data, part, filling)
    return bytes(data)


def _torn(change: Change, random: Random) -> Iterator[Change]:
    """Those sectors of one write that came through."""
    offset, data = change
    if data is None:
        if random.random() < 0.5:
            yield change
        return
    at = 0
    while at < len(data):
        size = min(SECTOR - (offset + at) % SECTOR, len(data) - at)
        if random.random() < 0.5:
            yield offset + at, data[at : at + size]
        at += size
