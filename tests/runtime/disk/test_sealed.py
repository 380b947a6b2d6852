"""A sealed journal: nothing of it is readable on disk, each moved or foreign row is named, a plain one goes on, an old copy is refused."""

from __future__ import annotations

import base64
import io
import json
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mesh.core.inputs import BodyRead, StoryRead
from mesh.effects import ReadBody, ReadStory
from mesh.ids import content_hash
from mesh.messages.records import Ended
from mesh.runtime.disk.sealing import is_sealed
from mesh.runtime.disk.store_file import StoreError
from mesh.runtime.disk.store_newest import Newest
from mesh.runtime.disk.store_read import export
from mesh.runtime.disk.vault import Vault, open_vault
from mesh.runtime.home import Home

SCRIPT = Path(__file__).parents[3] / "scripts" / "verify"
CANARY = "canary-8c1f27"
GIVEN, RESULT = json.dumps({"text": f"{CANARY}-given"}).encode(), json.dumps(f"{CANARY}-result").encode()


@pytest.fixture
def vault(tmp_path: Path) -> Vault:
    return open_vault(Home(tmp_path / "home"), "file", environ={})


@pytest.fixture
def sealed(desk: Any, vault: Vault) -> Any:
    """The desk, its journal of 16 entries written sealed in two lives, not open. `desk.more` opens it again."""
    desk.more = {"sealer": vault.sealer("journal", desk.signer.mesh, desk.signer.node)}
    for life in range(2):
        write_life(desk, life)
    return desk


def write_life(desk: Any, life: int) -> None:
    store = desk.start(**desk.more)
    me = desk.signer.node
    desk.write(store, desk.opened(store))
    entries = desk.story_of(f"{me}.{life}.1", me, GIVEN, RESULT)
    entries[4] = Ended(f"{me}.{life}.1", desk.FENCE, "error", content_hash(RESULT), (), f"{CANARY}-error", "agent", 5, 9)
    desk.write(store, *entries, bodies={content_hash(GIVEN): GIVEN, content_hash(RESULT): RESULT})
    desk.close()


def edit(desk: Any, *statements: str) -> None:
    file = sqlite3.connect(desk.path)
    for statement in statements:
        assert file.execute(statement).rowcount != 0, f"changed nothing: {statement}"
    file.commit()
    file.close()


def rows(desk: Any, statement: str) -> list[Any]:
    file = sqlite3.connect(desk.path)
    found = file.execute(statement).fetchall()
    file.close()
    return found


def refused(act: Callable[[], Any]) -> StoreError:
    with pytest.raises(StoreError) as caught:
        act()
    assert caught.value.fix
    return caught.value


# ---- what is on disk, and what comes back


def test_no_entry_and_no_body_is_readable_on_disk(desk: Any, vault: Vault) -> None:
    desk.more = {"sealer": vault.sealer("journal", desk.signer.mesh, desk.signer.node)}
    store = desk.start(**desk.more)
    desk.write(store, desk.opened(store))
    bodies = {content_hash(GIVEN): GIVEN, content_hash(RESULT): RESULT}
    desk.write(store, *desk.story_of("t", desk.signer.node, GIVEN, RESULT), bodies=bodies)
    seen = [path.read_bytes() for path in desk.path.parent.glob(desk.path.name + "*")]
    desk.close()
    seen.append(desk.path.read_bytes())
    for word in (CANARY, "otter", "least score", "upper", "agent"):
        for form in (word.encode(), word.encode().hex().encode(), base64.b64encode(word.encode())):
            assert not any(form in data for data in seen), form
    assert all(is_sealed(value) for (value,) in rows(desk, "SELECT entry FROM entries UNION ALL SELECT data FROM bodies"))


def test_it_is_read_back_as_if_it_had_been_plain(sealed: Any, tmp_path: Path) -> None:
    plain = type(sealed)(tmp_path / "plain.db")
    plain.more = {}
    for life in range(2):
        write_life(plain, life)
    store, other = sealed.open(**sealed.more), plain.open()
    assert sealed.rows == plain.rows and len(sealed.rows) == 16
    assert sealed.rows[1][2] == {} and CANARY in sealed.rows[5][1].error
    assert (store.head, store.head_seq) == (other.head, other.head_seq), "hashes and links are those of the plain text"
    stories = []
    for desk, opened in ((sealed, store), (plain, other)):
        opened.start()
        opened.effects[ReadBody](ReadBody(1, content_hash(GIVEN)))
        assert desk.told.wait(lambda item: isinstance(item, BodyRead)).data == GIVEN
        opened.effects[ReadStory](ReadStory(2, "story", f"{sealed.signer.node}.1.1"))
        stories.append(desk.told.wait(lambda item: isinstance(item, StoryRead)).body)
        assert opened.examine()["ok"]
    assert stories[0] == stories[1]
    plain.close()


def test_the_index_is_made_again_from_sealed_entries(sealed: Any) -> None:
    edit(sealed, "DELETE FROM about WHERE seq=3")
    assert sealed.open(**sealed.more).statistics().index_rebuilt


def test_a_journal_that_began_plain_goes_on_sealed(honest: Any, vault: Vault) -> None:
    more = {"sealer": vault.sealer("journal", honest.signer.mesh, honest.signer.node)}
    store = honest.start(**more)
    assert len(honest.rows) == 44
    honest.write(store, honest.opened(store), bodies={content_hash(GIVEN): GIVEN})
    assert store.examine()["ok"]
    honest.close()
    kinds = [is_sealed(entry) for (entry,) in rows(honest, "SELECT entry FROM entries ORDER BY seq")]
    assert kinds == [False] * 44 + [True]
    honest.open(**more)
    assert len(honest.rows) == 45


def test_a_new_generation_reads_the_old_ones(sealed: Any, vault: Vault) -> None:
    vault.rotate_dek()
    write_life(sealed, 2)
    assert {entry[2:6] for (entry,) in rows(sealed, "SELECT entry FROM entries")} == {b"\0\0\0\1", b"\0\0\0\2"}
    sealed.open(**sealed.more)
    assert len(sealed.rows) == 24


# ---- rows that are not where they belong

SWAPS = [
    ("UPDATE entries SET entry=(SELECT entry FROM entries WHERE seq=4) WHERE seq=3", "entry 3 does not open"),
    ("UPDATE entries SET entry=(SELECT entry FROM entries WHERE seq=3) WHERE seq=11", "entry 11 does not open"),
    ("UPDATE entries SET entry=(SELECT data FROM bodies LIMIT 1) WHERE seq=5", "entry 5 does not open"),
    ("UPDATE entries SET entry=substr(entry, 1, 40) WHERE seq=6", "entry 6 does not open"),
    ("UPDATE entries SET entry=substr(entry, 1, 10) WHERE seq=6", "entry 6 does not open"),
    ("UPDATE entries SET entry=x'c101' WHERE seq=6", "entry 6 does not open"),
    ("UPDATE entries SET entry=x'91a64f70656e6564' WHERE seq=6", "entry between 2 and 8 was changed"),
]


@pytest.mark.parametrize("statement,says", SWAPS)
def test_swapped_and_edited_entries_are_named(sealed: Any, statement: str, says: str) -> None:
    edit(sealed, statement)
    error = refused(lambda: sealed.open(**sealed.more))
    assert error.code == "journal_broken" and says in error.message


def test_an_entry_of_another_journal_of_the_same_vault_is_named(sealed: Any, vault: Vault, tmp_path: Path) -> None:
    other = type(sealed)(tmp_path / "other.db")
    other.signer = other.signer_from(9)
    other.more = {"sealer": vault.sealer("journal", other.signer.mesh, other.signer.node)}
    write_life(other, 0)
    file = sqlite3.connect(sealed.path)
    [(foreign,)] = rows(other, "SELECT entry FROM entries WHERE seq=3")
    file.execute("UPDATE entries SET entry=? WHERE seq=3", (foreign,))
    file.commit()
    file.close()
    assert (
        "entry 3 does not open (it was edited, moved from another row, or is another journal's)"
        in refused(lambda: sealed.open(**sealed.more)).message
    )


def test_an_older_value_of_the_same_row_is_named(sealed: Any, tmp_path: Path) -> None:
    """Two histories of one journal: the seal of a row of the one opens in the other, and the chain refuses it."""
    twin = type(sealed)(tmp_path / "twin.db")
    twin.more = sealed.more
    shutil.copy(sealed.path, twin.path)
    write_life(sealed, 2)
    store = twin.start(**twin.more)
    twin.write(store, *[twin.opened(store)] * 8)
    twin.close()
    [(older,)] = rows(twin, "SELECT entry FROM entries WHERE seq=19")
    file = sqlite3.connect(sealed.path)
    file.execute("UPDATE entries SET entry=? WHERE seq=19", (older,))
    file.commit()
    file.close()
    assert "an entry between 18 and 24 was changed on disk" in refused(lambda: sealed.open(**sealed.more)).message


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE bodies SET data=(SELECT data FROM bodies AS b WHERE b.hash<>bodies.hash)",
        "UPDATE bodies SET data=substr(data, 1, length(data) - 1)",
        "UPDATE bodies SET data=(SELECT entry FROM entries WHERE seq=2)",
        "UPDATE bodies SET data='{}'",
    ],
)
def test_a_swapped_or_edited_body_is_unknown_and_verify_names_it(sealed: Any, statement: str) -> None:
    edit(sealed, statement)
    store = sealed.start(**sealed.more)
    store.effects[ReadBody](ReadBody(1, content_hash(GIVEN)))
    assert sealed.told.wait(lambda item: isinstance(item, BodyRead)) == BodyRead(1, None)
    document = store.examine()
    assert not document["ok"] and f"the body {min(content_hash(GIVEN), content_hash(RESULT))}" in document["problem"]


def test_an_erased_body_is_no_damage(sealed: Any) -> None:
    edit(sealed, "DELETE FROM bodies")
    assert sealed.start(**sealed.more).examine()["ok"]


def test_damage_under_a_running_node_is_never_served(sealed: Any) -> None:
    store = sealed.start(**sealed.more)
    edit(sealed, "UPDATE entries SET entry=(SELECT entry FROM entries WHERE seq=4) WHERE seq=3")
    store.effects[ReadStory](ReadStory(1, "story", f"{sealed.signer.node}.0.1"))
    failed = sealed.told.wait(lambda item: type(item).__name__ == "StoreFailed")
    assert failed.code == "journal_broken" and "entry 3" in failed.message


# ---- the wrong vault


def test_a_sealed_journal_needs_its_own_vault(sealed: Any, tmp_path: Path) -> None:
    assert refused(sealed.open).code == "sealed"
    stranger = open_vault(Home(tmp_path / "stranger"), environ={})
    error = refused(lambda: sealed.open(sealer=stranger.sealer("journal", sealed.signer.mesh, sealed.signer.node)))
    assert error.code == "other_vault" and "vault.json" in error.message
    with pytest.raises(StoreError, match="is sealed"):
        export(sealed.path, io.BytesIO())
    sealed.open(**sealed.more)
    assert len(sealed.rows) == 16, "the attempts changed nothing"


def test_an_older_vault_file_is_named(sealed: Any, vault: Vault, tmp_path: Path) -> None:
    path = tmp_path / "home" / "mesh" / "vault.json"
    older = path.read_bytes()
    vault.rotate_dek()
    write_life(sealed, 2)
    path.write_bytes(older)
    again = open_vault(Home(tmp_path / "home"), environ={})
    error = refused(lambda: sealed.open(sealer=again.sealer("journal", sealed.signer.mesh, sealed.signer.node)))
    assert "entry 17" in error.message and "older vault.json" in error.message


# ---- for outsiders


def verdict(path: Path) -> tuple[int, str]:
    done = subprocess.run([sys.executable, str(SCRIPT), str(path)], capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout + done.stderr


def test_the_verifier_says_what_to_do_about_a_sealed_file_and_accepts_its_export(sealed: Any, tmp_path: Path) -> None:
    code, said = verdict(sealed.path)
    assert code == 2 and "SEALED" in said and "mesh verify --export FILE" in said and "BAD" not in said
    file = tmp_path / "export"
    with file.open("wb") as out:
        assert export(sealed.path, out, sealed.more["sealer"]) == 16
    assert verdict(file)[0] == 0
    store = sealed.start(**sealed.more)
    assert store.examine(tmp_path / "again")["ok"] and (tmp_path / "again").read_bytes() == file.read_bytes()


# ---- an old copy of the whole file


@pytest.fixture
def guarded(desk: Any, tmp_path: Path) -> Any:
    """A journal of one entry whose lives are remembered apart from it, not open."""
    desk.beside = tmp_path / "incarnation.json"
    one_life(desk)
    return desk


def one_life(desk: Any, entries: int = 1, **more: Any) -> Any:
    store = desk.start(newest=Newest(desk.beside), **more)
    desk.write(store, *[desk.opened(store)] * entries)
    desk.close()
    return store


def test_lives_are_counted_on_both_sides(guarded: Any) -> None:
    for life in range(2, 5):
        store = guarded.open(newest=Newest(guarded.beside))
        found = json.loads(guarded.beside.read_text())
        assert (store.incarnation, found["incarnation"], found["seq"]) == (life, life, 0)
        guarded.close()
        assert json.loads(guarded.beside.read_text())["seq"] == 1
    assert guarded.beside.stat().st_mode & 0o777 == 0o600


def test_a_deleted_journal_is_refused_until_a_person_goes_on(guarded: Any) -> None:
    guarded.path.unlink()
    error = refused(lambda: one_life(guarded))
    assert error.code == "rolled_back" and "it is gone" in error.message and "mesh up --accept-rollback" in error.fix
    assert not guarded.path.exists(), "nothing is put in its place"
    store = one_life(guarded, accept_rollback=True)
    assert store.incarnation == 2 and "it is gone" in store.statistics().rollback_accepted
    [record] = json.loads(guarded.beside.read_text())["accepted"]
    assert (record["was"], record["incarnation"]) == (1, 2) and "it is gone" in record["why"]
    assert one_life(guarded).statistics().rollback_accepted == "", "from here on it is the newest"


def test_an_older_copy_is_refused_until_a_person_goes_on(guarded: Any) -> None:
    copy = guarded.path.with_suffix(".copy")
    shutil.copy(guarded.path, copy)
    one_life(guarded)
    one_life(guarded)
    shutil.copy(copy, guarded.path)
    error = refused(lambda: one_life(guarded))
    assert error.code == "rolled_back" and "it knows of 1 lives of this node, which has begun life 3" in error.message
    assert guarded.path.read_bytes() == copy.read_bytes(), "nothing was changed"
    store = one_life(guarded, accept_rollback=True)
    assert store.incarnation == 4, "no number of a life is used twice"
    assert len(json.loads(guarded.beside.read_text())["accepted"]) == 1


def test_a_copy_from_within_the_last_life_is_refused_too(guarded: Any) -> None:
    store = guarded.start(newest=Newest(guarded.beside))
    guarded.write(store, guarded.opened(store))
    copy = guarded.path.with_suffix(".copy")
    with sqlite3.connect(guarded.path) as file:
        file.execute("VACUUM INTO ?", (str(copy),))
    file.close()
    guarded.write(store, guarded.opened(store))
    guarded.close()
    guarded.path.unlink()
    shutil.copy(copy, guarded.path)
    assert "it ends with entry 2, and had 3 when it was last closed" in refused(lambda: one_life(guarded)).message


def test_a_crash_between_the_two_files_is_no_rollback(guarded: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The journal has the new life, the file beside the key not yet."""

    def power_cut(self: Newest, incarnation: int, accepted: str = "") -> None:
        raise SystemExit

    monkeypatch.setattr(Newest, "begin", power_cut)
    with pytest.raises(SystemExit):
        guarded.open(newest=Newest(guarded.beside))
    monkeypatch.undo()
    assert guarded.open(newest=Newest(guarded.beside)).incarnation == 3


def test_a_journal_from_before_the_file_goes_on(honest: Any, tmp_path: Path) -> None:
    honest.beside = tmp_path / "incarnation.json"
    assert honest.open(newest=Newest(honest.beside)).incarnation == 3
    assert json.loads(honest.beside.read_text())["incarnation"] == 3


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b'{"incarnation": "1", "seq": 0, "accepted": []}', b"\xff", b"[" * 20_000])
def test_a_damaged_file_beside_the_key_is_named(guarded: Any, data: bytes) -> None:
    guarded.beside.write_bytes(data)
    error = refused(lambda: one_life(guarded))
    assert error.code == "newest_damaged" and str(guarded.beside) in error.message + error.fix


def test_a_life_that_failed_is_not_remembered_as_closed_in_order(guarded: Any) -> None:
    store = guarded.start(newest=Newest(guarded.beside))
    store._fail(StoreError("disk_full", "no space", "free some"))
    guarded.close()
    assert json.loads(guarded.beside.read_text())["seq"] == 0
