"""A folder of releases: archives under names of their own, and `current`, a link to one of them.

Invariant: one rename moves the link, so whoever looks sees the one release or the other, whole. Nothing is ever deleted but the link.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CURRENT = "current"


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """One at a time moves the link."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def current_of(folder: Path) -> str:
    """The name of the current release; "" if there is none."""
    link = folder / CURRENT
    return os.readlink(link) if link.is_symlink() else ""


def point_to(folder: Path, release: str) -> None:
    new = folder / ".next"
    new.unlink(missing_ok=True)
    new.symlink_to(release)
    new.replace(folder / CURRENT)


def switch(folder: Path, key: str, archive: Path, release: str) -> str:
    """Make it current; what was before. Under the same key again, as after a crash in the middle: the same answer."""
    with alone(folder):
        note, new = folder / f".former-{key}", folder / ".new"
        if not note.exists():
            new.write_text(current_of(folder))
            new.replace(note)
        shutil.copyfile(archive, new)
        new.replace(folder / release)
        point_to(folder, release)
        return note.read_text()


def put_back(folder: Path, release: str, former: str) -> str:
    """Make `former` current in place of `release`; where another is current by now it stays. What is current then."""
    with alone(folder):
        if current_of(folder) == release and former:
            point_to(folder, former)
        elif current_of(folder) == release:
            (folder / CURRENT).unlink()
        return current_of(folder)
