"""Every way to falsify a journal on disk, tried at every place of it: each is detected, and what is wrong is named.

Plain, where no seal helps (as against whoever has the vault's key too), and sealed. `ENTRIES` is the length of the journal; all of this
costs its square, so that ten thousand are for a night: ``LANMESH_AUDIT_ENTRIES=10000 scripts/test tests/runtime/store``.
"""

from __future__ import annotations

import os
import re
import sqlite3
import threading
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from mesh.core.inputs import Remembered
from mesh.core.records import merkle
from mesh.core.records.journal import last_of, seal_of
from mesh.effects import Remember
from mesh.ids import short
from mesh.messages.records import Audited, Commit, Witness
from mesh.messages.signed import Signed
from mesh.runtime.disk.store_chain import peek
from mesh.runtime.disk.store_read import examine
from mesh.runtime.disk.store_rows import Rows
from mesh.runtime.disk.vault import open_vault
from mesh.runtime.home import Home
from mesh.wire import ed25519
from mesh.wire.codec import encode_entry
from mesh.wire.objects import Signer, body_bytes, signed_bytes

ENTRIES = int(os.environ.get("LANMESH_AUDIT_ENTRIES", "200"))
SIZES = (1, 2, 5, 1, 8, 3, 20)
"""Of commits, over and over."""


class Archive:
    """An honest journal, co-signed at its end by two peers, and what `mesh verify` finds in it after each attempt to falsify it."""

    def __init__(self, desk: Any, peers: tuple[Signer, ...]) -> None:
        self.path: Path = desk.path
        self.signer: Signer = desk.signer
        self.rows = Rows(self.path, desk.more.get("sealer"))
        self.peers = [short(peer.node) for peer in peers]
        self._honest = self.path.read_bytes()
        self._verify = ed25519.verifier_of(self.signer.public_key)
        self.commits = [peek(raw)[0].body for (raw,) in self.read("SELECT raw FROM commits ORDER BY first")]

    def read(self, statement: str) -> list[Any]:
        file = sqlite3.connect(self.path)
        found = file.execute(statement).fetchall()
        file.close()
        return found

    def holding(self, seq: int) -> Commit:
        return next(commit for commit in self.commits if commit.first <= seq <= last_of(commit))

    def _is_own(self, raw: bytes) -> bool:
        _, body, signature = peek(raw)
        return self._verify(signature, signed_bytes("commit", self.signer.mesh, body))

    def after(self, *statements: str | tuple[str, tuple[Any, ...]]) -> str:
        """What is found wrong after these changes; then they are undone."""
        file = sqlite3.connect(self.path)
        for statement in statements:
            sql, values = (statement, ()) if isinstance(statement, str) else statement
            assert file.execute(sql, values).rowcount, f"changed nothing: {sql}"
        file.commit()
        file.close()
        document = examine(self.rows, self.signer.node, self._is_own)
        assert document["ok"] == (not document["problem"])
        self.path.write_bytes(self._honest)
        return str(document["problem"])


def written(desk: Any, sealer: Any) -> Archive:
    desk.more = {"sealer": sealer} if sealer is not None else {}
    store = desk.start(**desk.more)
    desk.write(store, desk.opened(store))
    done, at = 1, 0
    while done < ENTRIES:
        size = min(SIZES[at % len(SIZES)], ENTRIES - done)
        desk.write(store, *(Audited("joined", f"n{done + number}", "me", "by invitation", done + number) for number in range(size)))
        done, at = done + size, at + 1
    newest = desk.told.heads[-1]
    assert last_of(newest.body) == ENTRIES
    peers = tuple(desk.signer_from(seed) for seed in (21, 22))
    store.effects[Remember](Remember(witnesses=tuple(cosigned(peer, newest) for peer in peers), soon=True))
    desk.close()
    return Archive(desk, peers)


def cosigned(peer: Signer, head: Signed) -> Signed:
    body = Witness(head.author, head.body.incarnation, last_of(head.body), seal_of(head), 9)
    signed = Signed(peer.node, body)
    peer.seal(signed)
    return signed


@pytest.fixture(scope="module", params=["plain", "sealed"])
def archive(request: pytest.FixtureRequest, desks: Any, tmp_path_factory: pytest.TempPathFactory) -> Archive:
    folder = tmp_path_factory.mktemp(request.param)
    desk = desks(folder / "journal.db")
    sealer = None
    if request.param == "sealed":
        sealer = open_vault(Home(folder / "home"), "file", environ={}).sealer("journal", desk.signer.mesh, desk.signer.node)
    return written(desk, sealer)


def named(archive: Archive, problem: str, seq: int) -> None:
    """The problem names entry `seq`, or, in a plain journal, the commit that holds it: its root says no more."""
    if archive.rows.sealer is not None:
        assert f"entry {seq} does not open" in problem, problem
        return
    found = re.search(r"an entry between (\d+) and (\d+) was changed", problem)
    assert found, problem
    commit = archive.holding(seq)
    assert (int(found[1]), int(found[2])) == (commit.first, last_of(commit))


def test_the_honest_journal_is_good_and_shows_who_co_signed_it(archive: Archive) -> None:
    document = examine(archive.rows, archive.signer.node, archive._is_own)
    assert document["ok"] and document["entries"] == ENTRIES
    assert sorted((short(peer), last) for peer, last in document["witnesses"]) == sorted((peer, ENTRIES) for peer in archive.peers)


def test_every_record_edited(archive: Archive) -> None:
    for seq, entry in archive.read("SELECT seq, entry FROM entries"):
        at = len(entry) // 2
        edited = entry[:at] + bytes([entry[at] ^ 1]) + entry[at + 1 :]
        named(archive, archive.after(("UPDATE entries SET entry=? WHERE seq=?", (edited, seq))), seq)


def test_every_record_replaced_by_another_that_is_well_formed(archive: Archive) -> None:
    """The seal is no help against whoever has the vault's key; the chain is."""
    forged = archive.rows.entry_in
    for seq in range(1, ENTRIES + 1):
        entry = forged(seq, encode_entry(Audited("joined", "somebody else", "me", "by invitation", seq)))
        problem = archive.after(("UPDATE entries SET entry=? WHERE seq=?", (entry, seq)))
        commit = archive.holding(seq)
        assert f"an entry between {commit.first} and {last_of(commit)} was changed" in problem, problem


def test_every_record_deleted(archive: Archive) -> None:
    for seq in range(1, ENTRIES + 1):
        assert f"entry {seq} is missing" in archive.after(f"DELETE FROM entries WHERE seq={seq}")


def test_every_record_deleted_and_the_rest_moved_up(archive: Archive) -> None:
    for seq in range(1, ENTRIES):
        problem = archive.after(
            f"DELETE FROM entries WHERE seq={seq}",
            f"UPDATE entries SET seq=-seq WHERE seq>{seq}",
            "UPDATE entries SET seq=-seq-1 WHERE seq<0",
        )
        if archive.holding(seq) is archive.commits[-1]:
            assert f"entry {ENTRIES} is missing" in problem, problem
        else:
            named(archive, problem, seq)


def test_every_record_swapped_with_its_neighbour(archive: Archive) -> None:
    for seq in range(1, ENTRIES):
        problem = archive.after(
            f"UPDATE entries SET seq=-1 WHERE seq={seq}",
            f"UPDATE entries SET seq={seq} WHERE seq={seq + 1}",
            f"UPDATE entries SET seq={seq + 1} WHERE seq=-1",
        )
        if archive.rows.sealer is None and archive.holding(seq) is archive.holding(seq + 1):
            assert f"the entries {seq} and {seq + 1} changed places" in problem, problem
        else:
            named(archive, problem, seq)


def test_cut_off_after_every_record(archive: Archive) -> None:
    """The commits that reach beyond it go too, so that what is left is whole in itself where a commit ends there."""
    for seq in range(ENTRIES):
        problem = archive.after(f"DELETE FROM commits WHERE first + count - 1 > {seq}", f"DELETE FROM entries WHERE seq > {seq}")
        if seq == 0 or seq == last_of(archive.holding(seq)):
            assert f"it ends with entry {seq}, and " in problem and f"up to entry {ENTRIES}: its end was cut off" in problem, problem
            assert all(peer in problem for peer in archive.peers)
        else:
            assert f"entry {archive.holding(seq).first} belongs to no commit" in problem, problem


def test_every_commit_deleted_edited_and_swapped(archive: Archive) -> None:
    for one, other in zip(archive.commits, archive.commits[1:], strict=False):
        problem = archive.after(f"DELETE FROM commits WHERE first={one.first}")
        assert f"the commit of entries {other.first} to {last_of(other)} does not follow" in problem, problem
        problem = archive.after(f"UPDATE commits SET raw=(SELECT raw FROM commits WHERE first={other.first}) WHERE first={one.first}")
        assert f"the commit that begins with entry {one.first} was changed on disk" in problem, problem
        columns = "raw, hash, digest, count"
        swap = f"UPDATE commits SET ({columns})=(SELECT {columns} FROM commits WHERE first={other.first}) WHERE first={one.first}"
        assert f"the commit that begins with entry {one.first} disagrees with its row" in archive.after(swap)


def forked(archive: Archive, commit: Commit, entries: list[bytes]) -> tuple[str | tuple[str, tuple[Any, ...]], ...]:
    """The author himself signs other entries for the place of `commit`: what nobody else can do, and what the chain alone cannot show."""
    body = Commit(
        commit.author,
        commit.incarnation,
        commit.epoch,
        commit.first,
        len(entries),
        commit.prev,
        merkle.root([merkle.leaf(entry) for entry in entries]),
        commit.hlc,
    )
    raw = archive.signer.seal(Signed(commit.author, body))
    hashed = sha256(body_bytes(raw)).digest()
    stored = [(archive.rows.entry_in(seq, entry), seq) for seq, entry in enumerate(entries, commit.first)]
    return (
        ("UPDATE commits SET raw=?, hash=?, digest=? WHERE first=?", (raw, hashed, sha256(raw).digest(), commit.first)),
        *(("UPDATE entries SET entry=? WHERE seq=?", pair) for pair in stored),
    )


def test_a_fork_of_the_newest_commit_is_named_by_who_co_signed_the_other(archive: Archive) -> None:
    newest = archive.commits[-1]
    entries = [encode_entry(Audited("joined", "x", "me", "y", number)) for number in range(newest.count)]
    problem = archive.after(*forked(archive, newest, entries))
    assert f"co-signed another entry {ENTRIES} than it holds: it was replaced" in problem and any(p in problem for p in archive.peers)


def test_a_fork_of_every_earlier_commit_breaks_the_link_after_it(archive: Archive) -> None:
    for one, other in zip(archive.commits, archive.commits[1:], strict=False):
        entries = [encode_entry(Audited("joined", "x", "me", "y", number)) for number in range(one.count)]
        problem = archive.after(*forked(archive, one, entries))
        assert f"the commit of entries {other.first} to {last_of(other)} does not follow the one that ends with {last_of(one)}" in problem


# ---- what the next life knows of it


def open_again(desk: Any, change: Callable[[sqlite3.Connection], None] | None = None) -> Remembered:
    if change is not None:
        file = sqlite3.connect(desk.path)
        change(file)
        file.commit()
        file.close()
    remembered: Remembered = desk.open().remembered()
    desk.close()
    return remembered


def test_the_core_gets_the_co_signatures_and_the_commits_they_name(desk: Any) -> None:
    desk.more = {}
    store = desk.start()
    desk.write(store, desk.opened(store))
    desk.write(store, *[desk.opened(store)] * 3)
    first, second = desk.told.heads
    peers = [desk.signer_from(seed) for seed in (21, 22)]
    store.effects[Remember](Remember(witnesses=(cosigned(peers[0], first),)))
    store.effects[Remember](Remember(witnesses=(cosigned(peers[1], first), cosigned(peers[0], second)), soon=True))
    desk.close()
    remembered = open_again(desk)
    assert sorted((one.author, one.body.last) for one in remembered.witnesses) == sorted([(peers[0].node, 4), (peers[1].node, 1)])
    assert sorted(last_of(own.body) for own in remembered.own) == [1, 4] and {seal_of(own) for own in remembered.own} == {
        seal_of(first),
        seal_of(second),
    }

    def cut(file: sqlite3.Connection) -> None:
        file.execute("DELETE FROM entries WHERE seq>1")
        file.execute("DELETE FROM commits WHERE first>1")

    remembered = open_again(desk, cut)
    assert max(one.body.last for one in remembered.witnesses) == 4 and [last_of(own.body) for own in remembered.own] == [1]


def test_what_is_asked_for_soon_is_written_without_a_commit(desk: Any) -> None:
    store = desk.start()
    desk.write(store, desk.opened(store))
    head = desk.told.heads[-1]
    written = threading.Event()
    store._connection.set_trace_callback(lambda sql: written.set() if sql == "COMMIT" else None)
    store.effects[Remember](Remember(witnesses=(cosigned(desk.signer_from(21), head),), soon=True))
    assert written.wait(30)
