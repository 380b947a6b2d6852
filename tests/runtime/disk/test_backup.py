"""Backups of a node whose journal is being written, put back elsewhere and where they came from; and what is no backup."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import subprocess
import sys
import tarfile
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from mesh.errors import MeshError
from mesh.messages.records import Opened, Parked
from mesh.runtime.disk import archive
from mesh.runtime.disk.backup import back_up
from mesh.runtime.disk.restore import LIVES_AHEAD, LIVES_PER_S, restore
from mesh.runtime.disk.store import Store
from mesh.runtime.disk.store_file import StoreError
from mesh.runtime.disk.store_newest import Newest
from mesh.runtime.disk.vault import open_vault
from mesh.runtime.home import Home, NodeRunning
from mesh.runtime.trust.identity import load_identity
from mesh.wire.objects import Signer

FILE = b"what a user put\n" * 100


class Node:
    """The node otter of a home, as its process opens it."""

    def __init__(self, home: Path, told: Any, kek: str = "file", **more: Any) -> None:
        self.home, self.told = Home(home), told
        self.folder = self.home.node("otter")
        identity = load_identity(self.folder)
        vault = open_vault(self.home, kek)
        self.id = identity.node
        self.store = Store(
            self.folder.journal_path,
            Signer(identity.node, identity.seed, identity.credentials.mesh),
            told,
            sealer=vault.sealer("journal", identity.node),
            newest=Newest(self.folder.incarnation_path),
            **more,
        )
        self.entries = [entry for _, entry, _ in self.store.replay()]
        self.store.start()
        self.seq = self.store.head_seq

    def write(self, count: int) -> None:
        """Some commits, on disk."""
        opened = Opened(self.store.incarnation, self.store.head, self.store.head_seq, "otter")
        for _ in range(count):
            self.seq += 1
            self.store.add(self.seq, Parked("t", "") if self.seq > 1 else opened)
            self.store.flush_soon()
        self.told.synced(self.seq)

    def put(self, data: bytes) -> Path:
        name = hashlib.sha256(data).hexdigest()
        path = self.folder.files_path / name[:2] / name
        path.parent.mkdir(parents=True, mode=0o700)
        path.write_bytes(data)
        return path


@pytest.fixture
def node(tmp_path: Path, desk: Any) -> Any:
    made = Node(tmp_path / "home", desk.told)
    yield made
    made.store.close()


@pytest.fixture
def backup(node: Node, tmp_path: Path) -> Path:
    node.write(30)
    node.put(FILE)
    path = tmp_path / "otter.backup"
    assert back_up(node.folder, path)["entries"] == 30
    return path


def code_of(error: pytest.ExceptionInfo[MeshError]) -> str:
    assert error.value.fix
    return error.value.code


def test_a_node_comes_back_in_another_place_as_itself(node: Node, backup: Path, tmp_path: Path, desk: Any) -> None:
    found = restore(backup, Home(tmp_path / "new"))
    assert (found["id"], found["entries"], found["files"], found["new_home"]) == (node.id, 30, 1, True)
    with closing(Node(tmp_path / "new", desk.told).store) as store:
        assert store.incarnation == found["incarnation"] > LIVES_AHEAD
        assert store.statistics().rollback_accepted.startswith("restored from a backup of 20")
    again = Home(tmp_path / "new").node("otter")
    for path in (node.folder.identity_path, node.folder.transport_path, node.folder.deed_path, node.folder.certificate_path):
        assert (again.path / path.name).read_bytes() == path.read_bytes()
    [file] = again.files_path.glob("??/*")
    assert file.read_bytes() == FILE and file.stat().st_mode & 0o777 == 0o400
    assert all(path.stat().st_mode & 0o077 == 0 for path in Path(tmp_path / "new").rglob("*"))


def test_a_backup_is_its_owner_s_and_private_files_are_sealed_in_it(node: Node, backup: Path, tmp_path: Path) -> None:
    assert backup.stat().st_mode & 0o777 == 0o600
    data = backup.read_bytes()
    for path in (node.folder.identity_path, node.home.mesh_path / "home.key", node.home.mesh_path / "root.key"):
        assert path.read_bytes() not in data
    kek = (node.home.mesh_path / "kek.1").read_bytes()
    assert kek in data
    apart = back_up(node.folder, tmp_path / "apart", with_key=False)
    assert kek not in (tmp_path / "apart").read_bytes() and not apart["key"] and apart["kek"] == "file"
    with pytest.raises(MeshError) as error:
        restore(tmp_path / "apart", Home(tmp_path / "new"))
    assert code_of(error) == "no_kek" and str(tmp_path / "new/mesh/kek.1") in error.value.fix
    (tmp_path / "new/mesh/kek.1").write_bytes(kek)
    (tmp_path / "new/mesh/kek.1").chmod(0o600)
    assert restore(tmp_path / "apart", Home(tmp_path / "new"))["entries"] == 30


def test_under_load_every_backup_has_all_that_was_acknowledged_before_it(node: Node, tmp_path: Path, desk: Any) -> None:
    written = 0

    def more() -> None:
        nonlocal written
        for _ in range(60):
            written += 1
            node.store.add(written, Parked(f"t{written}", "x" * 200))
            node.store.flush_soon()

    ends = []
    for number in range(4):
        more()
        acknowledged = node.store.statistics().seq
        found = back_up(node.folder, tmp_path / f"backup-{number}")
        assert acknowledged <= found["entries"] <= written
        ends.append(found["entries"])
    desk.told.synced(written)
    restore(tmp_path / "backup-2", Home(tmp_path / "new"))
    again = Node(tmp_path / "new", desk.told)
    again.store.close()
    assert again.entries == [Parked(f"t{seq}", "x" * 200) for seq in range(1, ends[2] + 1)]


def test_a_node_that_was_killed_can_be_backed_up(node: Node, tmp_path: Path) -> None:
    """What it had acknowledged lies in the log still, which nobody has moved into the file."""
    node.write(20)
    shutil.copytree(node.home.path, tmp_path / "dead", ignore=shutil.ignore_patterns("*-shm"))
    folder = Home(tmp_path / "dead").node("otter")
    assert folder.journal_path.with_name("journal.sqlite-wal").stat().st_size
    before = folder.journal_path.read_bytes()
    assert back_up(folder, tmp_path / "backup")["entries"] == 20
    assert folder.journal_path.read_bytes() == before


def test_with_a_passphrase_the_backup_opens_with_it_and_not_without(tmp_path: Path, desk: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "phrase").write_text("four words are enough")
    (tmp_path / "phrase").chmod(0o600)
    monkeypatch.setenv("MESH_PASSPHRASE_FILE", str(tmp_path / "phrase"))
    load_identity(Home(tmp_path / "home").node("otter"))
    open_vault(Home(tmp_path / "home"), "passphrase")
    node = Node(tmp_path / "home", desk.told, kek="auto")
    node.write(3)
    node.store.close()
    assert back_up(node.folder, tmp_path / "backup")["kek"] == "passphrase"
    monkeypatch.delenv("MESH_PASSPHRASE_FILE")
    with pytest.raises(MeshError) as error:
        restore(tmp_path / "backup", Home(tmp_path / "new"))
    assert code_of(error) == "no_kek" and "MESH_PASSPHRASE_FILE" in error.value.fix
    asked: list[str] = []
    assert restore(tmp_path / "backup", Home(tmp_path / "new"), prompt=lambda q: asked.append(q) or "four words are enough")["entries"] == 3
    assert asked


def test_a_folder_gets_a_file_of_its_own_name(node: Node, tmp_path: Path) -> None:
    node.write(1)
    (tmp_path / "backups").mkdir()
    found = back_up(node.folder, tmp_path / "backups")
    assert [str(path) for path in (tmp_path / "backups").iterdir()] == [found["file"]] and "/otter-" in found["file"]
    with pytest.raises(MeshError) as error:
        back_up(node.folder, Path(found["file"]))
    assert code_of(error) == "file_exists"


# ---- the old place, and lives


def test_in_its_old_place_it_replaces_only_on_request_and_nothing_is_deleted(node: Node, backup: Path) -> None:
    node.write(1)
    with node.folder.lock(), pytest.raises(NodeRunning):
        restore(backup, node.home, replace=True)
    node.store.close()
    with pytest.raises(MeshError) as error:
        restore(backup, node.home)
    assert code_of(error) == "node_exists"
    before = node.folder.journal_path.read_bytes()
    found = restore(backup, node.home, replace=True)
    assert (Path(found["moved_aside"]) / "journal.sqlite").read_bytes() == before
    assert [folder.name for folder in node.home.nodes()] == ["otter"], "what was moved aside is no node"
    assert not found["new_home"]


def test_no_life_is_begun_twice_however_often_the_backup_comes_back(node: Node, backup: Path) -> None:
    node.store.close()
    begun = [node.store.incarnation]
    made_ms = archive.read_facts(backup)["made_ms"]
    for later_s in (0, 0, 3600, -3600):
        begun.append(restore(backup, node.home, replace=True, now_ms=made_ms + later_s * 1000)["incarnation"])
        shutil.rmtree(next(node.folder.path.parent.glob(".otter.before-*")))
    assert begun[1] > begun[0] + LIVES_AHEAD
    assert begun == sorted(set(begun)), "in the old place it knows its newest life"
    elsewhere = [restore(backup, Home(node.home.path.with_name(f"new-{s}")), now_ms=made_ms + s * 1000)["incarnation"] for s in (0, 60)]
    assert elsewhere[1] - elsewhere[0] == 60 * LIVES_PER_S, "elsewhere the clock keeps them apart"


def test_a_restored_journal_writes_nothing_before_it_is_released(node: Node, backup: Path, tmp_path: Path, desk: Any) -> None:
    restore(backup, Home(tmp_path / "new"))
    for _ in range(2):
        again = Node(tmp_path / "new", desk.told)
        again.store.add(31, Parked("held", ""))
        again.store.flush_soon()
        again.store.close()
        assert len(again.entries) == 30 and again.store.held
    again = Node(tmp_path / "new", desk.told)
    again.store.add(31, Parked("held", ""))
    again.store.flush_soon()
    again.store.release()
    desk.told.synced(31)
    again.store.close()
    again = Node(tmp_path / "new", desk.told)
    again.store.close()
    assert len(again.entries) == 31 and not again.store.held
    assert not again.store.statistics().rollback_accepted, "it is the newest now"


def test_who_accepts_the_rollback_does_not_wait(node: Node, backup: Path, tmp_path: Path, desk: Any) -> None:
    restore(backup, Home(tmp_path / "new"))
    again = Node(tmp_path / "new", desk.told, accept_rollback=True)
    assert not again.store.held and again.store.statistics().rollback_accepted
    again.store.close()
    again = Node(tmp_path / "new", desk.told)
    again.store.close()
    assert not again.store.held


# ---- what cannot be


def tar_of(**files: bytes) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


@pytest.mark.parametrize(
    "data,code",
    [
        (b"", "not_a_backup"),
        (b"hello" * 1000, "not_a_backup"),
        (tar_of(other=b"{}"), "not_a_backup"),
        (tar_of(**{"backup.json": b"[" * 100_000}), "not_a_backup"),
        (tar_of(**{"backup.json": b"no json"}), "not_a_backup"),
        (tar_of(**{"backup.json": b'{"schema": "mesh.status/1"}'}), "not_a_backup"),
        (tar_of(**{"backup.json": b'{"schema": "mesh.backup-file/1"}'}), "not_a_backup"),
        (tar_of(**{"backup.json": b'{"schema": "mesh.backup-file/2"}'}), "newer_backup"),
    ],
)
def test_what_is_not_a_backup(tmp_path: Path, data: bytes, code: str) -> None:
    (tmp_path / "file").write_bytes(data)
    with pytest.raises(MeshError) as error:
        restore(tmp_path / "file", Home(tmp_path / "new"))
    assert code_of(error) == code and error.value.exit_code == 5
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("place", ["", "folder"])
def test_no_file_at_all(tmp_path: Path, place: str) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(MeshError) as error:
        restore(tmp_path / (place or "nothing"), Home(tmp_path / "new"))
    assert (code_of(error), error.value.exit_code) == ("no_such_file", 2)


def test_a_damaged_backup_is_refused_whole(backup: Path, tmp_path: Path) -> None:
    data = backup.read_bytes()
    marks = [data.index(FILE) + 50, data.index(b"SQLite format 3") + 5000, data.index(b'"sha256"') + 20]
    for at in (*(mark for mark in marks), -1):
        changed = data[: len(data) // 2] if at < 0 else data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
        backup.write_bytes(changed)
        with pytest.raises(MeshError) as error:
            restore(backup, Home(tmp_path / "new"))
        assert code_of(error) == "backup_damaged"
        assert [path.name for path in (tmp_path / "new").iterdir()] == ["mesh"] and not [*(tmp_path / "new/mesh").iterdir()]


@pytest.mark.parametrize("name", ["../../outside", "/etc/outside", "node/../../outside", "node", "elsewhere/file", "node/.hidden"])
def test_names_that_lead_elsewhere_are_no_files_of_a_backup(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_bytes(tar_of(**{"backup.json": b'{"schema": "mesh.backup-file/1"}', name: b"x", "contents.json": b"[]"}))
    (tmp_path / "out").mkdir()
    with pytest.raises(MeshError) as error:
        archive.take_out(tmp_path / "file", tmp_path / "out")
    assert code_of(error) == "backup_damaged"
    assert not [*tmp_path.rglob("outside")] and not [*(tmp_path / "out").rglob("*")]


def test_a_link_is_no_file_of_a_backup(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "file", "w") as tar:
        link = tarfile.TarInfo("node/link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    with pytest.raises(MeshError) as error:
        archive.take_out(tmp_path / "file", tmp_path / "out")
    assert code_of(error) == "backup_damaged"


def test_another_mesh_s_home_is_left_alone(backup: Path, tmp_path: Path) -> None:
    load_identity(Home(tmp_path / "other").node("otter"))
    before = {path: path.read_bytes() for path in (tmp_path / "other").rglob("*") if path.is_file()}
    with pytest.raises(MeshError) as error:
        restore(backup, Home(tmp_path / "other"), replace=True)
    assert code_of(error) == "other_mesh"
    assert {path: path.read_bytes() for path in (tmp_path / "other").rglob("*") if path.is_file()} == before


def test_a_home_that_is_none_is_not_filled_up(backup: Path, tmp_path: Path) -> None:
    Home(tmp_path / "new").make()
    (tmp_path / "new/mesh/home.key").write_bytes(b"whose?")
    with pytest.raises(MeshError) as error:
        restore(backup, Home(tmp_path / "new"))
    assert code_of(error) == "home_in_use"


def test_a_damaged_journal_makes_no_backup(node: Node, backup: Path, tmp_path: Path) -> None:
    node.store.close()
    data = bytearray(node.folder.journal_path.read_bytes())
    data[data.rindex(b"\xa6commit") + 80] ^= 1
    node.folder.journal_path.write_bytes(data)
    (tmp_path / "backups").mkdir()
    with pytest.raises(StoreError):
        back_up(node.folder, tmp_path / "backups" / "new")
    assert not [*(tmp_path / "backups").iterdir()], "nothing half made is left"


def test_no_node_no_backup(tmp_path: Path) -> None:
    with pytest.raises(MeshError) as error:
        back_up(Home(tmp_path / "home").node("otter"), tmp_path / "new")
    assert (code_of(error), error.value.exit_code) == ("no_such_node", 3)


def test_which_of_several_nodes_is_asked_not_guessed(tmp_path: Path) -> None:
    """They were all started with --name: none is the home's first."""
    home = Home(tmp_path / "home")
    for name in ("heron", "otter"):
        (home.path / "nodes" / name).mkdir(parents=True)
    with pytest.raises(MeshError) as error:
        back_up(home.node(), tmp_path / "new")
    assert error.value.message.endswith(", only heron, otter") and error.value.fix.endswith("/new --node heron")


FULL = """
mount -t tmpfs -o size=40k none "$1" || exit 77
"$2" -m mesh.inspector.cli backup "$1/new" --home "$3" --json; code=$?
ls -A "$1"; exit $code
"""


def test_a_full_disk_is_said_and_leaves_nothing(node: Node, backup: Path, tmp_path: Path) -> None:
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("NOTICE: not root, so no full disk is made")
    (tmp_path / "small").mkdir()
    words = ["unshare", "--mount", "--propagation", "private", "sh", "-c", FULL, "sh", tmp_path / "small", sys.executable, node.home.path]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode == 77:
        pytest.skip(f"NOTICE: no small disk here: {done.stderr.strip()}")
    assert '"code": "disk_full"' in done.stdout and done.stdout.count("\n") == 1, "nothing is left there"
