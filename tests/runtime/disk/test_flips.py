"""Flipped bits: a small part of `scripts/disk flips`, the places that chance seldom finds, and the proof that it can find something."""

from __future__ import annotations

import contextlib
import random
import shutil
import sqlite3
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

sys.path.insert(0, str(Path(__file__).parents[3] / "scripts"))

from disks import flips
from disks.lives import JOURNAL, open_store

from mesh.runtime.disk.store_file import StoreError
from mesh.runtime.disk.store_rows import Rows


class Rot:
    """An honest journal, and what it says."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        flips.honest(folder / "honest")
        shutil.copytree(folder / "honest", folder / "truth")
        with contextlib.closing(open_store(folder / "truth", lambda *_: None)) as store:
            self.truth = flips.facts(store, list(store.replay()))
        self.rows = flips.tables(folder / "truth" / JOURNAL)
        self.data = (folder / "honest" / JOURNAL).read_bytes()

    def flip(self, at: int, bit: int = 0) -> tuple[str, str]:
        return flips._flipped(self.folder, self.data, at, bit, self.truth, self.rows)

    def place(self, table: str, column: str) -> tuple[int, int]:
        """Where in the file the first such value lies, and how long it is."""
        with contextlib.closing(sqlite3.connect(self.folder / "honest" / JOURNAL)) as file:
            [value] = file.execute(f"SELECT {column} FROM {table} ORDER BY 1 LIMIT 1").fetchone()
        data = value.encode() if isinstance(value, str) else value
        assert self.data.count(data) >= 1
        return self.data.index(data), len(data)


@pytest.fixture(scope="module")
def rot(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rot]:
    yield Rot(tmp_path_factory.mktemp("rot"))


def test_flipped_bits_are_noticed_or_change_nothing() -> None:
    seed = random.SystemRandom().randrange(10**9)
    found = flips.run(30, seed)
    assert not found.wrong, f"repeat with: scripts/disk flips --flips 30 --seed {seed}"
    assert sum(found.noticed.values()) == 30 and len(found.noticed) >= 3


@pytest.mark.parametrize(
    "table,column",
    [("peer_heads", "raw"), ("witnesses", "raw"), ("forks", "one"), ("forks", "other"), ("bodies", "data"), ("bodies", "hash")],
)
def test_a_flip_in_what_stands_outside_the_chain_is_noticed(rot: Rot, table: str, column: str) -> None:
    at, size = rot.place(table, column)
    for offset in (0, 2, size // 2, size - 1):
        noticed, wrong = rot.flip(at + offset)
        assert noticed in ("by mesh verify", "when it is read") and not wrong, f"byte {offset} of {size}"


def test_every_flip_of_the_newest_life_s_number_is_noticed(rot: Rot) -> None:
    at = rot.data.index(b"incarnation2") + len("incarnation")
    assert [rot.flip(at, bit) for bit in range(8)] == [("at the start", "")] * 8


def test_a_flip_in_how_the_tables_were_made_is_noticed(rot: Rot) -> None:
    at = rot.data.index(b"CREATE TABLE bodies(hash TEXT PRIMARY KEY")
    for offset in (len("CREATE TABLE bodies(hash "), len("CREATE TABLE bodies(hash TEXT PRIMARY "), len("CREATE TABLE ")):
        noticed, wrong = rot.flip(at + offset, 1)
        assert noticed and noticed != "no effect" and not wrong


def test_what_sqlite_cannot_say_in_words_is_damage_all_the_same(rot: Rot, tmp_path: Path) -> None:
    """It quotes the garbage, and Python fails to decode that."""
    folder = tmp_path / "copy"
    shutil.copytree(rot.folder / "honest", folder)
    (folder / JOURNAL).write_bytes(rot.data.replace(b"CREATE TABLE entries", b"CREATE\xccTABLE\xccentries"))
    with pytest.raises(StoreError) as caught:
        open_store(folder, lambda *_: None)
    assert caught.value.code == "journal_broken"


def test_a_name_that_became_a_number_is_damage(rot: Rot, tmp_path: Path) -> None:
    """A bit of a row's header says which kind of value follows."""
    folder = tmp_path / "copy"
    shutil.copytree(rot.folder / "honest", folder)
    with contextlib.closing(sqlite3.connect(folder / JOURNAL)) as file:
        file.execute("PRAGMA writable_schema=ON")
        file.execute("UPDATE sqlite_schema SET sql=replace(sql, 'hash TEXT', 'hash BLOB') WHERE name='bodies'")
        file.commit()
    with contextlib.closing(sqlite3.connect(folder / JOURNAL)) as file:
        file.execute("UPDATE bodies SET hash=7 WHERE rowid=1")
        file.commit()
    with contextlib.closing(open_store(folder, lambda *_: None)) as store:
        assert "the body 7 does not open" in store.examine()["problem"]


def test_what_is_not_sealed_would_be_found(tmp_path: Path) -> None:
    """The measure itself: without the seal a changed head of a peer goes unnoticed, and is told as such."""
    with mock.patch.object(Rows, "memory_in", lambda self, row, plain: plain):
        rot = Rot(tmp_path)
    at, size = rot.place("peer_heads", "raw")
    assert "given out wrong" in rot.flip(at + size - 1)[1]


def test_a_fork_is_kept_once(rot: Rot) -> None:
    """Every time it is kept it would be sealed differently."""
    folder: Any = rot.folder / "again"
    shutil.copytree(rot.folder / "honest", folder)
    with contextlib.closing(open_store(folder, lambda *_: None)) as store:
        store.start()
        known = store.remembered()
        store.effects[flips.Remember](flips.Remember((), known.forks))
    with contextlib.closing(open_store(folder, lambda *_: None)) as store:
        assert store.remembered() == known and len(known.forks) == 1
        assert store.remembered().forks[0].one.raw == known.forks[0].one.raw
