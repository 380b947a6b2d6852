"""scripts/verify accepts honest journals and refuses each of the seven mutations of invariant L2, however well they are covered up."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import io
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from types import ModuleType
from typing import Any

import msgpack
import pytest

from mesh.core.records import merkle
from mesh.messages.records import Opened, Rekeyed
from mesh.runtime.disk.store_read import export
from mesh.runtime.trust.keyfiles import Lives, PastKey
from mesh.wire import ed25519
from mesh.wire.objects import Signer, handover_bytes, signed_bytes

SCRIPT = Path(__file__).parents[3] / "scripts" / "verify"
FIRST_ENTRY = 1
BODY, SIGNATURE = 2, 3
AUTHOR, COUNT, PREV, ROOT = 0, 4, 5, 6


@pytest.fixture(scope="session")
def verifier() -> ModuleType:
    loader = importlib.machinery.SourceFileLoader("independent_verifier", str(SCRIPT))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    assert spec
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


class Exported:
    """An export taken apart, to be changed and put together again."""

    def __init__(self, data: bytes, signer: Signer) -> None:
        self.header, *self.commits = list(msgpack.Unpacker(io.BytesIO(data), raw=False))
        self.signer = signer

    def bytes(self) -> bytes:
        return b"".join(msgpack.packb(part) for part in (self.header, *self.commits))

    def body(self, at: int) -> list[Any]:
        fields: list[Any] = msgpack.unpackb(msgpack.unpackb(self.commits[at][0])[BODY])
        return fields

    def sign(self, at: int, body: bytes | list[Any], signer: Signer | None = None, name: str = "") -> None:
        """Replace a commit by `body`, signed for real. Nothing but the owner of the key can do this."""
        signer = signer or self.signer
        data = body if isinstance(body, bytes) else msgpack.packb(body)
        raw = msgpack.packb(["commit", name or signer.node, data, signer.sign(signed_bytes("commit", signer.mesh, data))])
        self.commits[at][0] = raw

    def relink(self, start: int, signer: Signer | None = None, **changes: Any) -> None:
        """Sign everything from commit `start` on again, so that links and roots hold: what the author himself could do."""
        for at in range(start, len(self.commits)):
            body = self.body(at)
            body[PREV] = sha256(msgpack.unpackb(self.commits[at - 1][0])[BODY]).digest() if at else bytes(32)
            body[COUNT] = len(self.commits[at][1])
            body[ROOT] = merkle.root([merkle.leaf(entry) for entry in self.commits[at][1]])
            body[AUTHOR] = changes.get("author", body[AUTHOR])
            self.sign(at, body, signer, changes.get("author", ""))
        self.header[5] = sha256(msgpack.unpackb(self.commits[-1][0])[BODY]).digest()


@pytest.fixture
def exported(honest: Any) -> Exported:
    out = io.BytesIO()
    assert export(honest.path, out) == 44
    return Exported(out.getvalue(), honest.signer)


def verdict(path: Path, *options: str) -> tuple[int, str]:
    done = subprocess.run([sys.executable, str(SCRIPT), str(path), *options], capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout + done.stderr


def refused(exported: Exported, tmp_path: Path, *options: str) -> str:
    file = tmp_path / "mutated"
    file.write_bytes(exported.bytes())
    code, said = verdict(file, *options)
    assert code == 1 and "BAD" in said, said
    return said


def test_it_shares_no_code_with_the_mesh() -> None:
    assert "import mesh" not in SCRIPT.read_text() and "from mesh" not in SCRIPT.read_text()


def test_the_file_and_its_export_are_good(honest: Any, exported: Exported, tmp_path: Path) -> None:
    file = tmp_path / "export"
    file.write_bytes(exported.bytes())
    key, head = honest.signer.public_key.hex(), exported.header[5].hex()
    code, said = verdict(honest.path, str(file), "--key", key, "--author", honest.signer.node, "--head", head)
    assert code == 0 and said.count("good. 44 entries in 8 commits of 2 lives") == 2


def test_a_journal_in_use_is_verified_beside_its_node(honest: Any) -> None:
    store = honest.start()
    honest.write(store, honest.opened(store))
    code, said = verdict(honest.path)
    assert code == 0 and "45 entries" in said


def test_an_empty_journal_is_good(desk: Any, tmp_path: Path) -> None:
    desk.open()
    desk.close()
    with (tmp_path / "export").open("wb") as out:
        assert export(desk.path, out) == 0
    for path in (desk.path, tmp_path / "export"):
        assert verdict(path)[0] == 0


def check(verifier: ModuleType, exported: Exported) -> None:
    _, _, author, mesh, key, head, seq = exported.header
    last, _, _, end, _ = verifier.check(author, mesh, key, exported.commits)
    verifier.need((last, end) == (seq, head), "another end than was claimed")


@pytest.mark.parametrize("bit", range(8))
def test_mutation_1_flipped_bits(verifier: ModuleType, exported: Exported, bit: int) -> None:
    """In signed bytes and entries of the first, a middle and the last commit: every 5th byte, each bit."""
    check(verifier, exported)
    for at in (0, 3, 7):
        raw, entries = exported.commits[at]
        for place in range(bit % 5, len(raw), 5):
            exported.commits[at][0] = raw[:place] + bytes([raw[place] ^ 1 << bit]) + raw[place + 1 :]
            with pytest.raises(verifier.Bad):
                check(verifier, exported)
        exported.commits[at][0] = raw
        for index, entry in enumerate(entries):
            for place in range(bit % 5, len(entry), 5):
                entries[index] = entry[:place] + bytes([entry[place] ^ 1 << bit]) + entry[place + 1 :]
                with pytest.raises(verifier.Bad):
                    check(verifier, exported)
            entries[index] = entry


def swap_entries(exported: Exported) -> None:
    entries = exported.commits[2][1]
    entries[1], entries[2] = entries[2], entries[1]


def swap_commits(exported: Exported) -> None:
    exported.commits[2], exported.commits[3] = exported.commits[3], exported.commits[2]


def delete_entry(exported: Exported) -> None:
    del exported.commits[2][1][3]


def delete_commit(exported: Exported) -> None:
    del exported.commits[2]


def delete_first(exported: Exported) -> None:
    del exported.commits[0]


def delete_life(exported: Exported) -> None:
    """The whole second life's beginning, links signed again: its entries now follow without Opened."""
    del exported.commits[4]
    exported.relink(4)


def truncate(exported: Exported) -> None:
    del exported.commits[-1]


def truncate_to_a_life(exported: Exported) -> None:
    del exported.commits[4:]
    exported.header[6] = 22


def change_author(exported: Exported) -> None:
    exported.header[2] = "a" * 32


def change_author_in_a_commit(exported: Exported) -> None:
    body = exported.body(3)
    body[AUTHOR] = "a" * 32
    raw = msgpack.unpackb(exported.commits[3][0])
    raw[BODY] = msgpack.packb(body)
    exported.commits[3][0] = msgpack.packb(raw)


def change_author_signed(exported: Exported) -> None:
    """The author signs in another's name."""
    exported.relink(0, author="a" * 32)


def resign(exported: Exported) -> None:
    exported.relink(0, _other(), author=exported.signer.node)


def resign_with_its_key(exported: Exported) -> None:
    exported.relink(0, _other(), author=exported.signer.node)
    exported.header[4] = _other().public_key


def resign_one(exported: Exported) -> None:
    exported.sign(7, exported.body(7), _other(), exported.signer.node)


def long_number(exported: Exported) -> None:
    """An int in a longer form than needed, in an entry; roots and signatures made again by the author."""
    entries = exported.commits[2][1]
    at = entries[3].rindex(b"\x04")
    entries[3] = entries[3][:at] + b"\xcc\x04" + entries[3][at + 1 :]
    assert msgpack.unpackb(entries[3])[0] == "Bound"
    exported.relink(2)


def long_array(exported: Exported) -> None:
    """The commit's own array in a longer form, signed by the author."""
    body = msgpack.packb(exported.body(7))
    exported.sign(7, b"\xdc\x00" + bytes([body[0] & 15]) + body[1:])
    exported.header[5] = sha256(msgpack.unpackb(exported.commits[7][0])[BODY]).digest()


def long_outside(exported: Exported) -> None:
    raw = exported.commits[7][0]
    exported.commits[7][0] = b"\xdc\x00\x04" + raw[1:]


def trailing(exported: Exported) -> None:
    exported.commits[7][1][-1] += b"\xc0"
    exported.relink(7)


def _other() -> Signer:
    from mesh.wire.objects import node_id

    return Signer(node_id(ed25519.signer_of(b"x" * 32)[0]), b"x" * 32, "mesh-one")


def unopened(exported: Exported) -> None:
    exported.commits[4][1][0] = exported.commits[3][1][3]
    exported.relink(4)


def cites_another_head(exported: Exported) -> None:
    entry = msgpack.unpackb(exported.commits[4][1][0])
    entry[2] = bytes(32)
    exported.commits[4][1][0] = msgpack.packb(entry)
    exported.relink(4)


MUTATIONS: list[tuple[Callable[[Exported], None], str]] = [
    (swap_entries, "not those that were signed"),
    (swap_commits, "does not follow"),
    (delete_entry, "were signed"),
    (delete_commit, "does not follow"),
    (delete_first, "does not follow"),
    (delete_life, "does not follow"),
    (truncate, "it has 44 entries, and has 37"),
    (truncate_to_a_life, "its tail is cut"),
    (change_author, "is not the id of the key"),
    (change_author_in_a_commit, "signature does not hold"),
    (change_author_signed, "signed as"),
    (resign, "signature does not hold"),
    (resign_with_its_key, "is not the id of the key"),
    (resign_one, "signature does not hold"),
    (long_number, "not in canonical form"),
    (long_array, "not in canonical form"),
    (long_outside, "not in canonical form"),
    (trailing, "not readable"),
    (unopened, "a life begins with Opened"),
    (cites_another_head, "cites another head"),
]


@pytest.mark.parametrize("mutate,said", MUTATIONS, ids=lambda value: getattr(value, "__name__", ""))
def test_mutations_2_to_7(exported: Exported, tmp_path: Path, mutate: Callable[[Exported], None], said: str) -> None:
    mutate(exported)
    assert said in refused(exported, tmp_path)


def test_relinking_alone_changes_nothing(exported: Exported, verifier: ModuleType) -> None:
    """The mutations above are refused for what they change, not for how they are covered up."""
    before = exported.bytes()
    exported.relink(0)
    assert exported.bytes() == before
    check(verifier, exported)


def test_another_nodes_journal_needs_author_or_key_to_be_told(exported: Exported, tmp_path: Path) -> None:
    other = _other()
    exported.relink(0, other, author=other.node)
    for entry in (exported.commits[4][1],):
        opened = msgpack.unpackb(entry[0])
        opened[2] = sha256(msgpack.unpackb(exported.commits[3][0])[BODY]).digest()
        entry[0] = msgpack.packb(opened)
    exported.relink(4, other, author=other.node)
    exported.header[2], exported.header[4] = other.node, other.public_key
    file = tmp_path / "theirs"
    file.write_bytes(exported.bytes())
    assert verdict(file)[0] == 0
    assert "not of" in refused(exported, tmp_path, "--author", exported.signer.node)
    assert "not one of those you named" in refused(exported, tmp_path, "--key", exported.signer.public_key.hex())


def test_a_database_with_a_cut_tail_needs_the_head_to_be_told(honest: Any, exported: Exported, tmp_path: Path) -> None:
    cut = tmp_path / "cut.db"
    shutil.copy(honest.path, cut)
    file = sqlite3.connect(cut)
    file.execute("DELETE FROM commits WHERE first=38")
    file.execute("DELETE FROM entries WHERE seq>=38")
    file.commit()
    file.close()
    assert verdict(cut)[0] == 0
    code, said = verdict(cut, "--head", exported.header[5].hex())
    assert code == 1 and "its tail is cut" in said


@pytest.mark.parametrize(
    "content", [b"", b"hello", b"SQLite format 3\0" + b"\xff" * 3000, msgpack.packb(["lanmesh-journal", 1, 2]), b"\x93"]
)
def test_anything_else_is_refused_in_words(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "file"
    file.write_bytes(content)
    code, said = verdict(file)
    assert code == 1 and "BAD" in said and "Traceback" not in said


def test_usage(tmp_path: Path) -> None:
    assert verdict(tmp_path / "missing")[0] == 1
    assert subprocess.run([sys.executable, str(SCRIPT)], capture_output=True, timeout=60).returncode == 2


# ---- a node that took other keys into use, and moved to another mesh


def seed_of(number: int) -> bytes:
    return bytes([100 + number]) * 32


def handover(old: bytes, new: bytes) -> PastKey:
    """The word of the key with the first seed for the one with the other."""
    public, sign = ed25519.signer_of(old)
    follows = ed25519.signer_of(new)[0]
    return PastKey(public, follows, sign(handover_bytes(public, follows)))


@pytest.fixture
def moved(desk: Any) -> Exported:
    """Four lives. 1: a new key while it runs. 2: in another mesh. 3: two new keys since the last commit, and back. 4: nothing new."""
    first = desk.signer
    chain = [handover(bytes([7]) * 32, seed_of(1)), handover(seed_of(1), seed_of(2)), handover(seed_of(2), seed_of(3))]
    lives = (("mesh-one", 0, ()), ("mesh-two", 1, ("mesh-one",)), ("mesh-one", 3, ("mesh-two",)), ("mesh-one", 3, ("mesh-two",)))
    for mesh, keys, before in lives:
        signer = Signer(first.node, seed_of(keys) if keys else bytes([7]) * 32, mesh)
        store = desk.start(signer=signer, lives=Lives(tuple(chain[:keys]), before))
        begins = store.begins
        desk.write(store, Opened(store.incarnation, store.head, store.head_seq, "otter", begins.mesh), *begins.handovers)
        if not keys:
            store.rekey(seed_of(1))
            desk.write(store, Rekeyed(chain[0].old, chain[0].new, chain[0].proof, desk.WALL_MS))
        desk.write(store, *desk.story_of(f"{first.node}.{store.incarnation}.1", first.node, b"{}", b"1"))
        desk.close()
    out = io.BytesIO()
    export(desk.path, out)
    return Exported(out.getvalue(), first)


def entry_of(exported: Exported, kind: str, number: int = 0) -> tuple[list[bytes], int, list[Any]]:
    """Where the entry of that kind stands: the entries of its commit, its place among them, its fields."""
    found = [
        (entries, at, fields)
        for _, entries in exported.commits
        for at, entry in enumerate(entries)
        if (fields := msgpack.unpackb(entry))[0] == kind
    ]
    return found[number]


def test_a_journal_goes_on_under_new_keys_and_in_other_meshes(moved: Exported, desk: Any, tmp_path: Path) -> None:
    file = tmp_path / "moved"
    file.write_bytes(moved.bytes())
    newest = ed25519.signer_of(seed_of(3))[0].hex()
    for path in (file, desk.path):
        code, said = verdict(path, "--author", desk.signer.node, "--key", newest)
        assert code == 0 and "of 4 lives" in said and "under 4 keys in 3 meshes" in said, said
    assert verdict(file, "--key", desk.signer.public_key.hex())[0] == 0
    code, said = verdict(file, "--key", _other().public_key.hex())
    assert code == 1 and "not one of those you named" in said


def forged_proof(moved: Exported) -> None:
    entries, at, fields = entry_of(moved, "Rekeyed")
    fields[3] = ed25519.signer_of(seed_of(1))[1](handover_bytes(fields[1], fields[2]))
    entries[at] = msgpack.packb(fields)


def proof_for_another_purpose(moved: Exported) -> None:
    """The old key did sign these bytes, but not as a handover."""
    entries, at, fields = entry_of(moved, "Rekeyed")
    fields[3] = ed25519.signer_of(bytes([7]) * 32)[1](signed_bytes("commit", "", fields[1] + fields[2]))
    entries[at] = msgpack.packb(fields)


def rekeyed_by_a_stranger(moved: Exported) -> None:
    """Somebody hands over a key of his own, with a proof that holds for it."""
    entries, at, fields = entry_of(moved, "Rekeyed")
    word = handover(b"x" * 32, seed_of(1))
    entries[at] = msgpack.packb(["Rekeyed", word.old, word.new, word.proof, fields[4]])


def rekeyed_from_an_old_key(moved: Exported) -> None:
    """The first key, given up and perhaps stolen, hands over once more."""
    entries, at, fields = entry_of(moved, "Rekeyed", 1)
    word = handover(bytes([7]) * 32, seed_of(3))
    entries[at] = msgpack.packb(["Rekeyed", word.old, word.new, word.proof, fields[4]])


def no_handover(moved: Exported) -> None:
    entries, at, _ = entry_of(moved, "Rekeyed")
    entries[at] = msgpack.packb(["Rekeyed", 1, 2, 3, 4])


def never_rekeyed(moved: Exported) -> None:
    entries, at, _ = entry_of(moved, "Rekeyed")
    entries[at] = entry_of(moved, "Bound")[0][3]


def opened_in_a_mesh_it_is_not_in(moved: Exported) -> None:
    entries, at, fields = entry_of(moved, "Opened", 1)
    entries[at] = msgpack.packb([*fields[:5], "mesh-three"])


def never_moved(moved: Exported) -> None:
    entries, at, fields = entry_of(moved, "Opened", 1)
    entries[at] = msgpack.packb([*fields[:5], ""])


def moved_to_where_it_was(moved: Exported) -> None:
    entries, at, fields = entry_of(moved, "Opened", 3)
    entries[at] = msgpack.packb([*fields[:5], "mesh-one"])


def mesh_that_is_no_name(moved: Exported) -> None:
    entries, at, fields = entry_of(moved, "Opened", 1)
    entries[at] = msgpack.packb([*fields[:5], 5])


def begun_in_another_mesh(moved: Exported) -> None:
    moved.header[3] = "mesh-two"


MOVED_MUTATIONS: list[tuple[Callable[[Exported], None], str]] = [
    (forged_proof, "the old key did not agree"),
    (proof_for_another_purpose, "the old key did not agree"),
    (rekeyed_by_a_stranger, "not the one in use"),
    (rekeyed_from_an_old_key, "not the one in use"),
    (no_handover, "no handover of a key"),
    (never_rekeyed, "signature does not hold"),
    (opened_in_a_mesh_it_is_not_in, "signature does not hold"),
    (never_moved, "signature does not hold"),
    (moved_to_where_it_was, "moves to no other mesh"),
    (mesh_that_is_no_name, "moves to no other mesh"),
    (begun_in_another_mesh, "signature does not hold"),
]


@pytest.mark.parametrize("mutate,said", MOVED_MUTATIONS, ids=lambda value: getattr(value, "__name__", ""))
def test_keys_and_meshes_change_only_by_the_authors_word(
    moved: Exported, tmp_path: Path, mutate: Callable[[Exported], None], said: str
) -> None:
    mutate(moved)
    assert said in refused(moved, tmp_path)
