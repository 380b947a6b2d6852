"""Damage of every column and row: found when the journal is opened, or at the first read, with the place and a way out; never skipped."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable
from typing import Any

import pytest

from mesh.core.inputs import BodyRead, StoreFailed
from mesh.effects import ReadBody, ReadStory
from mesh.ids import content_hash
from mesh.runtime.disk.store_file import StoreError


def edit(desk: Any, *statements: str) -> None:
    file = sqlite3.connect(desk.path)
    for statement in statements:
        assert file.execute(statement).rowcount != 0, f"changed nothing: {statement}"
    file.commit()
    file.close()


def flip(desk: Any, table: str, column: str, where: str, at: int) -> None:
    """One bit of one value. Bytes and text: bit 0 of byte `at`; numbers: the lowest bit."""
    file = sqlite3.connect(desk.path)
    [value] = file.execute(f"SELECT {column} FROM {table} WHERE {where}").fetchone()
    if isinstance(value, int):
        changed: Any = value ^ 1
    else:
        data = bytearray(value.encode() if isinstance(value, str) else value)
        data[at] ^= 1
        changed = data.decode() if isinstance(value, str) else bytes(data)
    file.execute(f"UPDATE {table} SET {column}=? WHERE {where}", (changed,))
    file.commit()
    file.close()


def refused(desk: Any) -> StoreError:
    with pytest.raises(StoreError) as caught:
        desk.open()
    assert caught.value.code in ("journal_broken", "other_author")
    assert caught.value.fix
    return caught.value


@pytest.mark.parametrize("at", [0, 1, 40, 60, 100, -1, -32, -64])
@pytest.mark.parametrize("where", ["first=1", "first=24", "first=(SELECT max(first) FROM commits)"])
def test_a_flipped_bit_in_a_signed_commit(honest: Any, at: int, where: str) -> None:
    flip(honest, "commits", "raw", where, at)
    assert "commit" in refused(honest).message


@pytest.mark.parametrize(
    "change", ["name='vaulu' WHERE name='vault'", "name=CAST('vault' AS BLOB) WHERE name='vault'", "name='mesi' WHERE name='mesh'"]
)
def test_a_changed_name_of_a_fact_is_no_missing_fact(honest: Any, change: str) -> None:
    """It would be made again in silence, as for a journal that had none."""
    if "vault" in change:
        edit(honest, "INSERT INTO meta VALUES('vault', 'v')")
    edit(honest, f"UPDATE meta SET {change}")
    assert "no version writes" in refused(honest).message


@pytest.mark.parametrize("column", ["first", "count", "hash", "digest"])
@pytest.mark.parametrize("where", ["first=2", "first=38"])
def test_a_flipped_bit_beside_a_commit(honest: Any, column: str, where: str) -> None:
    flip(honest, "commits", column, where, 5)
    refused(honest)


@pytest.mark.parametrize("seq", [1, 2, 21, 44])
@pytest.mark.parametrize("at", [0, 1, 3, -1])
def test_a_flipped_bit_in_an_entry(honest: Any, seq: int, at: int) -> None:
    flip(honest, "entries", "entry", f"seq={seq}", at)
    assert f"entry between {1 if seq == 1 else 2 if seq == 2 else 16 if seq == 21 else 38} and" in refused(honest).message


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM entries WHERE seq=5",
        "DELETE FROM entries WHERE seq=44",
        "UPDATE entries SET seq=seq+100 WHERE seq=44",
        "INSERT INTO entries VALUES(45, x'91a1')",
        "UPDATE entries SET entry='text' WHERE seq=3",
        "DELETE FROM commits WHERE first=2",
        "DELETE FROM commits WHERE first=1",
        "DELETE FROM commits WHERE first=38",
        "DELETE FROM commits",
        "UPDATE commits SET raw='text' WHERE first=2",
        "UPDATE meta SET value=x'ff' WHERE name='incarnation'",
        "UPDATE meta SET value=CAST('1' AS BLOB) WHERE name='incarnation'",
        "DELETE FROM meta WHERE name='incarnation'",
        "UPDATE meta SET value=x'00' WHERE name='key'",
        "DELETE FROM meta WHERE name='author'",
        "DROP TABLE entries",
    ],
)
def test_missing_foreign_or_moved_rows(honest: Any, statement: str) -> None:
    edit(honest, statement)
    refused(honest)


def test_swapped_entries(honest: Any) -> None:
    edit(honest, "UPDATE entries SET seq=-1 WHERE seq=4", "UPDATE entries SET seq=4 WHERE seq=5", "UPDATE entries SET seq=5 WHERE seq=-1")
    assert "the entries 4 and 5 changed places" in refused(honest).message


def test_a_refusal_changes_nothing_and_a_copy_put_back_works(honest: Any) -> None:
    copy = honest.path.with_suffix(".copy")
    shutil.copy(honest.path, copy)
    edit(honest, "DELETE FROM entries WHERE seq=5")
    refused(honest)
    refused(honest)
    shutil.copy(copy, honest.path)
    assert (honest.open().incarnation, len(honest.rows)) == (3, 44)


def test_a_newest_commit_by_another_key(honest: Any) -> None:
    """Consistent in itself: only the signature tells."""
    file = sqlite3.connect(honest.path)
    forger = honest.signer_from(66)

    from mesh.runtime.disk.store_chain import peek
    from mesh.wire.objects import signed_bytes
    from mesh.wire.packing import pack

    [raw] = file.execute("SELECT raw FROM commits WHERE first=38").fetchone()
    _, body, _ = peek(raw)
    forged = pack(("commit", honest.signer.node, body, forger.sign(signed_bytes("commit", forger.mesh, body))))
    from hashlib import sha256

    file.execute("UPDATE commits SET raw=?, digest=? WHERE first=38", (forged, sha256(forged).digest()))
    file.commit()
    file.close()
    assert "signature of its newest commit" in refused(honest).message


INDEX_DAMAGE = [
    "DELETE FROM about",
    "DELETE FROM about WHERE seq=20",
    "UPDATE about SET seq=seq+1 WHERE seq=44 AND key LIKE '%.1.2'",
    "INSERT INTO about VALUES('invented', 3)",
]


@pytest.mark.parametrize("statement", INDEX_DAMAGE)
def test_the_index_is_a_fold_and_is_made_again(honest: Any, statement: str) -> None:
    def rows() -> list[Any]:
        file = sqlite3.connect(honest.path)
        found = file.execute("SELECT key, seq FROM about ORDER BY key, seq").fetchall()
        file.close()
        return found

    before = rows()
    edit(honest, statement)
    assert rows() != before
    store = honest.open()
    assert store.statistics().index_rebuilt and rows() == before
    honest.close()
    assert not honest.open().statistics().index_rebuilt


def test_a_flipped_bit_in_a_body_makes_it_unknown(honest: Any) -> None:
    name = content_hash(b'{"n":1}')
    flip(honest, "bodies", "data", f"hash='{name}'", 3)
    store = honest.start()
    store.effects[ReadBody](ReadBody(1, name))
    assert honest.told.wait(lambda item: isinstance(item, BodyRead)) == BodyRead(1, None)


def during_life(statement: Callable[[Any], None], honest: Any) -> StoreFailed:
    """Damage done under a running node, found by the first read of that place."""
    store = honest.start()
    statement(honest)
    store.effects[ReadStory](ReadStory(1, "story", f"{honest.signer.node}.0.1"))
    failed: StoreFailed = honest.told.wait(lambda item: isinstance(item, StoreFailed))
    return failed


@pytest.mark.parametrize(
    "table,column,where,at",
    [
        ("entries", "entry", "seq=10", 2),
        ("entries", "entry", "seq=10", -1),
        ("commits", "raw", "first=9", -1),
        ("commits", "raw", "first=9", 50),
    ],
)
def test_damage_under_a_running_node_is_never_served(honest: Any, table: str, column: str, where: str, at: int) -> None:
    failed = during_life(lambda desk: flip(desk, table, column, where, at), honest)
    assert failed.code == "journal_broken"
    assert not any("StoryRead" in type(item).__name__ for item in honest.told.items)


def test_a_cut_file(honest: Any) -> None:
    data = honest.path.read_bytes()
    honest.path.write_bytes(data[: len(data) // 2])
    refused(honest)


def test_a_restored_old_copy_opens_with_an_old_head(desk: Any) -> None:
    """The disk alone cannot tell; peers who know the newer head do (core/records)."""
    store = desk.start()
    desk.write(store, desk.opened(store))
    desk.close()
    copy = desk.path.with_suffix(".copy")
    shutil.copy(desk.path, copy)
    store = desk.start()
    desk.write(store, desk.opened(store))
    newest = desk.told.heads[-1]
    desk.close()
    shutil.copy(copy, desk.path)
    store = desk.open()
    assert store.head_seq == 1 < newest.body.first
    assert json.loads(json.dumps(store.incarnation)) == newest.body.incarnation
