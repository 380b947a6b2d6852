"""Defects planted in the store, each of which the crash trials must find. What a defect does is named as its author would excuse it."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from mesh.core.inputs import Synced
from mesh.runtime.disk import store, store_file, store_newest


def _with_pragmas(*pragmas: str) -> Callable[[], Any]:
    """Connections that set something else after all was set right."""
    connect = store_file.connect

    def planted(path: Path, *, read_only: bool = False) -> sqlite3.Connection:
        connection = connect(path, read_only=read_only)
        for pragma in () if read_only else pragmas:
            connection.execute(f"PRAGMA {pragma}")
        return connection

    return lambda: mock.patch.object(store_file, "connect", planted)


@contextlib.contextmanager
def _told_before_it_is_synced() -> Iterator[None]:
    commit = store.Store._commit

    def planted(self: store.Store, group: Any, remember: Any) -> Any:
        if group.entries:
            self._tell(self._signer.node, Synced(group.entries[-1][0]))
        return commit(self, group, remember)

    with mock.patch.object(store.Store, "_commit", planted):
        yield


@contextlib.contextmanager
def _two_transactions() -> Iterator[None]:
    insert = store.insert

    def planted(connection: Any, *more: Any) -> None:
        class Halved:
            """Commits between the chain's row and its entries."""

            def execute(self, *words: Any) -> None:
                connection.execute(*words)
                connection.execute("COMMIT")
                connection.execute("BEGIN IMMEDIATE")

            executemany = connection.executemany

        insert(Halved(), *more)

    with mock.patch.object(store, "insert", planted):
        yield


@contextlib.contextmanager
def _life_remembered_before_the_journal_has_it() -> Iterator[None]:
    begin = store.Store._begin_life

    def planted(self: store.Store, end: Any) -> None:
        before = int(store_file.get_meta(self._connection, "incarnation") or b"0")
        assert self._newest is not None
        doubt = self._newest.doubt(True, before, end.seq)
        if not doubt:
            newest, self._newest.incarnation, self._newest.seq = self._newest, before, 0
            newest.begin(before + 1)
            newest.incarnation = before
        begin(self, end)

    with mock.patch.object(store.Store, "_begin_life", planted):
        yield


@contextlib.contextmanager
def _small_files_not_synced() -> Iterator[None]:
    def planted(path: Path, data: bytes) -> None:
        temporary = path.with_name(f".{path.name}.new")
        handle = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        os.write(handle, data)
        os.close(handle)
        os.replace(temporary, path)

    with mock.patch.object(store_newest, "write_atomic", planted):
        yield


@contextlib.contextmanager
def _life_not_synced() -> Iterator[None]:
    """Neither when it is raised, nor by moving the log into the file."""
    begin = store.Store._begin_life

    def planted(self: store.Store, end: Any) -> None:
        self._connection.execute("PRAGMA synchronous=OFF")
        begin(self, end)
        self._connection.execute("PRAGMA synchronous=FULL")

    with mock.patch.object(store.Store, "_begin_life", planted), mock.patch.object(store_file, "settle", lambda _: None):
        yield


BUGS: dict[str, dict[str, Any]] = {
    "synchronous=NORMAL is faster": {"patch": _with_pragmas("synchronous=NORMAL")},
    "synchronous=OFF is faster still": {"patch": _with_pragmas("synchronous=OFF")},
    "a journal that is deleted at each commit": {"patch": _with_pragmas("journal_mode=DELETE", "synchronous=FULL")},
    "acknowledged before it is synced": {"patch": _told_before_it_is_synced},
    "a commit and its entries in two transactions": {"patch": _two_transactions},
    "folders need no sync": {"folders": False},
    "small files need no sync": {"patch": _small_files_not_synced},
    "a life is remembered first, then written": {"patch": _life_remembered_before_the_journal_has_it},
    "a life needs no sync": {"patch": _life_not_synced},
    "the disk says it has synced, and has not": {"deaf": ("journal.sqlite",)},
    "the disk syncs no log": {"deaf": ("journal.sqlite-wal",)},
}
"""name -> the plan of `lives.history`."""
