"""Real kill -9 of a writing process: nothing acknowledged is lost, and what was not acknowledged is whole or absent.

The child kills itself inside a chosen statement of SQLite, or right before it would have acknowledged; or the parent kills it from outside
after so many acknowledgements. No timing: every kill waits for an event.
"""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mesh.core.inputs import NewHead
from mesh.messages.records import Opened, Parked
from mesh.runtime.disk.store_file import StoreError

CHILD = """
import os, signal, sys, threading
from mesh.core.inputs import Synced
from mesh.messages.records import Opened, Parked
from mesh.runtime.disk.store import Store
from mesh.wire import ed25519
from mesh.wire.objects import Signer, node_id

path, where, lots, lot = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
die = lambda: os.kill(os.getpid(), signal.SIGKILL)
key = bytes([7]) * 32
acknowledged = synced = 0
moved = threading.Condition()

def tell(node, item):
    global acknowledged, synced
    if isinstance(item, Synced):
        acknowledged += 1
        if where == "told" and acknowledged > lots:
            die()
        print(item.seq, flush=True)
        with moved:
            synced = item.seq
            moved.notify()

def trace(sql):
    if acknowledged == lots and sql.startswith(where):
        die()

store = Store(path, Signer(node_id(ed25519.signer_of(key)[0]), key, "mesh-one"), tell)
list(store.replay())
print("incarnation", store.incarnation, flush=True)
store._connection.set_trace_callback(trace)
store.start()
seq = store.head_seq + 1
store.add(seq, Opened(store.incarnation, store.head, store.head_seq, "otter"), {})
store.flush_soon()
while True:
    for _ in range(lot):
        seq += 1
        store.add(seq, Parked(f"t{seq}", "x" * 300), {"%064d" % seq: b"y" * 5000})
    store.flush_soon()
    with moved:
        moved.wait_for(lambda: seq - synced < 3 * lot)
"""


def crash(path: Path, where: str, lots: int, lot: int = 20, kill_after: int = 0) -> tuple[int, int]:
    """Run the child until it is killed. Answers its incarnation and the last number it acknowledged."""
    arguments = [sys.executable, "-c", CHILD, str(path), where, str(lots), str(lot)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout
        incarnation = int(child.stdout.readline().split()[1])
        acknowledged = 0
        for count, line in enumerate(child.stdout, 1):
            acknowledged = int(line)
            if kill_after and count == kill_after:
                child.kill()
        assert child.wait(60) == -signal.SIGKILL
    return incarnation, acknowledged


def whole(desk: Any, acknowledged: int) -> Any:
    """The journal after a crash: opens by itself, has everything acknowledged, and only entries as they were written."""
    store = desk.open()
    assert store.head_seq >= acknowledged
    for seq, entry, _ in desk.rows:
        assert isinstance(entry, Opened) or entry == Parked(f"t{seq}", "x" * 300)
    return store


@pytest.mark.parametrize("where", ["BEGIN", "INSERT INTO commits", "INSERT INTO entries", "INSERT OR IGNORE INTO bodies", "COMMIT", "told"])
@pytest.mark.parametrize("lots", [0, 3])
def test_killed_inside_a_commit(desk: Any, where: str, lots: int) -> None:
    _, acknowledged = crash(desk.path, where, lots)
    store = whole(desk, acknowledged)
    if where != "told":
        assert store.head_seq == acknowledged, "a commit that did not end left no trace"
    else:
        assert store.head_seq > acknowledged, "it was on disk, and only the word of it was lost"


@pytest.mark.parametrize("acknowledgements", [1, 2, 7, 30])
def test_killed_from_outside_at_full_speed(desk: Any, acknowledgements: int) -> None:
    _, acknowledged = crash(desk.path, "outside", 0, lot=3, kill_after=acknowledgements)
    whole(desk, acknowledged)


def test_life_after_life_makes_one_chain(desk: Any) -> None:
    """Tail lost, never a fork: each life cites the last durable head, and numbers go on without gap or repetition."""
    incarnations, heads = [], []
    for where in ("COMMIT", "told", "INSERT INTO entries", "told"):
        incarnation, acknowledged = crash(desk.path, where, 2)
        incarnations.append(incarnation)
        store = whole(desk, acknowledged)
        incarnations.append(store.incarnation)
        heads.append((store.head, store.head_seq))
        desk.close()
    assert incarnations == list(range(1, 9)), "no incarnation is used twice, whatever happened to the life before"
    store = desk.start()
    cited = [(entry.head, entry.seq) for _, entry, _ in desk.rows if isinstance(entry, Opened)]
    assert cited == [(bytes(32), 0), *heads[:-1]]
    desk.write(store, desk.opened(store))
    new = desk.told.wait(lambda item: isinstance(item, NewHead)).signed.body
    assert (new.incarnation, new.first, new.prev) == (9, heads[-1][1] + 1, heads[-1][0])
    verify = Path(__file__).parents[3] / "scripts" / "verify"
    done = subprocess.run([sys.executable, str(verify), str(desk.path)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_the_incarnation_is_on_disk_before_it_is_known(desk: Any) -> None:
    """Killed before anything was written in that life: the next one still has a larger number."""
    assert crash(desk.path, "BEGIN", 0) == (1, 0)
    assert crash(desk.path, "BEGIN", 0) == (2, 0)
    assert desk.open().incarnation == 3


def test_another_process_is_refused_until_this_one_is_gone(desk: Any) -> None:
    arguments = [sys.executable, "-c", CHILD, str(desk.path), "outside", "0", "1"]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout
        child.stdout.readline()
        with pytest.raises(StoreError) as caught:
            desk.open()
        child.kill()
    assert caught.value.code == "store_locked"
    assert desk.open().incarnation == 2


def test_a_lost_log_costs_one_life_and_no_incarnation(desk: Any) -> None:
    """Somebody deleted the -wal file after a crash: the chain is shorter but whole, and no number of a life is used again."""
    incarnation, acknowledged = crash(desk.path, "told", 3)
    desk.path.with_name(desk.path.name + "-wal").unlink()
    store = desk.open()
    assert store.head_seq < acknowledged and store.incarnation == incarnation + 1


def test_killed_while_the_file_was_made(desk: Any) -> None:
    file = sqlite3.connect(desk.path)
    file.execute("PRAGMA journal_mode=WAL")
    file.close()
    assert desk.path.stat().st_size > 0
    store = desk.start()
    desk.write(store, desk.opened(store))


def test_a_stray_log_of_another_journal_is_not_swallowed(desk: Any, tmp_path: Path) -> None:
    """The -wal file of a crashed journal beside another: refused as damage, or ignored; never mixed in silently."""
    crash(desk.path, "told", 5)
    log = desk.path.with_name(desk.path.name + "-wal").read_bytes()
    assert log
    desk.path = tmp_path / "other.db"
    desk.signer = desk.signer_from(8)
    store = desk.start()
    desk.write(store, desk.opened(store))
    desk.close()
    desk.path.with_name(desk.path.name + "-wal").write_bytes(log)
    try:
        store = desk.open()
    except StoreError as error:
        assert error.code in ("journal_broken", "other_author")
    else:
        assert [type(entry) for _, entry, _ in desk.rows] == [Opened]
