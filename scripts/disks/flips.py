"""Rot: one random bit of the journal's file flipped, a thousand times, each in a fresh copy. Who notices, and what could have spread?

    copy, flip --> start? --> what it left out? --> verify? --> every body, story and remembered word read: as it was?

A flip that nobody notices must change nothing: every row of every table reads as before (free pages, unused bytes, SQLite's own hints). And
nothing but the honest bytes is ever given out for others: what cannot be proven is not sent.

    scripts/disk flips [--flips 1000] [--seed N]      exit 1 if a flip went unnoticed, or something else than the truth was given out
"""

from __future__ import annotations

import argparse
import contextlib
import random
import shutil
import sqlite3
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from disks.lives import BLOCKS, JOURNAL, NODE, PEER, SEALER, open_store, scratch
from mesh.core.inputs import NewHead
from mesh.core.keeping.blocks import end_of
from mesh.core.records.journal import last_of, seal_of
from mesh.core.records.still_open import sum_up
from mesh.effects import LogState, ReadShelf, Remember, Shelve
from mesh.errors import MeshError
from mesh.ids import content_hash
from mesh.limits import RecordsLimits
from mesh.messages.keeping import Block
from mesh.messages.records import Accepted, Commit, Ended, Finished, Fork, Opened, Submitted, Summed, Witness
from mesh.messages.signed import Signed
from mesh.runtime.disk.store import Store
from mesh.runtime.disk.store_file import UNREADABLE, StoreError, connect
from mesh.runtime.disk.store_read import Reader
from mesh.runtime.disk.store_rows import Rows
from mesh.runtime.disk.store_scrub import Scrub
from mesh.wire import ed25519
from mesh.wire.objects import Signer, node_id

TASKS = 20
FENCE = 1 << 32 | 1
PEERS = 6

Facts = dict[str, Any]
"""Everything that the journal says when it is asked."""


@dataclass
class Findings:
    noticed: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)


def honest(folder: Path) -> None:
    """A journal with every table in use, half of it summed up, closed in order."""
    folder.mkdir(mode=0o700)
    heads: list[Signed] = []
    store = open_store(folder, lambda _, item: heads.append(item.signed) if isinstance(item, NewHead) else None)
    store.start()
    opened = Opened(store.incarnation, store.head, 0, "otter")
    store.add(1, opened, {})
    seq = 1
    rows = [(1, opened)]
    for number in range(TASKS):
        if number == TASKS // 2:
            seq += 1
            found = sum_up(NODE, rows, 0, RecordsLimits(sum_ended_max=3))
            store.add(seq, Summed(found.upto, found.open or ()), {})
        given, result = b'{"n":%d}' % number * 40, b"%d" % number * 300
        store.flush_soon()
        for entry in _story(f"{NODE}.1.{number}", given, result):
            seq += 1
            rows.append((seq, entry))
            store.add(seq, entry, {content_hash(given): given, content_hash(result): result})
    store.close()
    store = open_store(folder, lambda *_: None)
    store.start()
    store.effects[Remember](_remembered(heads[-1]))
    store.effects[Shelve](Shelve(PEER.node, 1, LogState(1, seq=len(BLOCKS)), None, tuple(BLOCKS)))
    store.close()


def _story(task: str, given: bytes, result: bytes) -> list[Any]:
    me, read, made = NODE, content_hash(given), content_hash(result)
    return [
        Submitted(task, "upper", read, "cli", 0, 3, "", "", (), 1),
        Accepted(task, FENCE, me, "upper", read, 3),
        Ended(task, FENCE, "ok", made, (), "", "agent", 5, 9),
        Finished(task, FENCE, "done", me, "agent", made, (), "", 5, 10),
    ]


def _remembered(head: Signed) -> Remember:
    signers = [Signer(node_id(ed25519.signer_of(bytes([seed]) * 32)[0]), bytes([seed]) * 32, "mesh-one") for seed in range(20, 20 + PEERS)]

    def said(signer: Signer, body: Any) -> Signed:
        signed = Signed(signer.node, body)
        signer.seal(signed)
        return signed

    def commit(signer: Signer, root: bytes) -> Signed:
        return said(signer, Commit(signer.node, 1, 0, 1, 1, bytes(32), root * 32, 0))

    return Remember(
        tuple(commit(signer, b"a") for signer in signers),
        (Fork(signers[0].node, commit(signers[0], b"a"), commit(signers[0], b"b")),),
        tuple(said(signer, Witness(NODE, 1, last_of(head.body), seal_of(head), 9)) for signer in signers),
        soon=True,
    )


def facts(store: Store, rows: list[Any]) -> Facts:
    """Asked the way the node and its peers ask: only what can be proven is answered. `rows`: what was replayed. Raises MeshError,
    sqlite3.Error."""
    damages: Counter[str] = Counter()
    reader = Reader(Rows(store.path, SEALER), RecordsLimits(), store._is_own, NODE, damages)
    try:
        tasks = [f"{NODE}.1.{number}" for number in range(TASKS)]
        names = sorted({name for _, entry, _ in rows for name in (getattr(entry, "input", ""), getattr(entry, "output", "")) if name})
        told: Facts = {f"entry {seq}": entry for seq, entry, _ in rows}
        told |= {f"replayed {name} with {seq}": body for seq, _, bodies in rows for name, body in bodies.items()}
        told |= {f"body {name}": reader.body(name) for name in names}
        told |= {f"story {task}": reader.story(task) for task in tasks}
        told |= {f"touched {name}": reader.touched(name) for name in names}
        said = store.remembered()
        told |= {f"{what} {one.author}": one.raw for what in ("heads", "witnesses", "own") for one in getattr(said, what)}
        told |= {f"state of {one.author}": one.state for one in store.shelf_known()}
        told |= {f"block {end_of(block)}": block for block in _shelf(reader)}
        if damages or store.statistics().shelf_damaged:
            raise StoreError("shelf_damaged", "counted, and shown to people", "mesh status")
        told |= {f"fork {fork.author}": (fork.one.raw, fork.other.raw) for fork in said.forks}
        return told
    finally:
        reader.close()


def scrubbed(store: Store) -> bool:
    """Verify what the start left out, as the node does. True: the index is made again. Raises MeshError, sqlite3.Error."""
    with contextlib.closing(connect(store.path, read_only=True)) as connection:
        scrub = Scrub(connection, Rows(store.path, SEALER), NODE, RecordsLimits(), store._end)
        while not scrub.done:
            scrub.step()
    if scrub.index_differs:
        store._rebuild_index()
    return scrub.index_differs


def _shelf(reader: Reader) -> list[Block]:
    found: list[Block] = []
    while more := reader.shelf.read(ReadShelf(1, PEER.node, end_of(found[-1]) if found else (1, 0), (1, len(BLOCKS)), 1 << 20)).blocks:
        found += more
    return found


def tables(path: Path) -> list[Any]:
    """Every row, and what the tables are. The newest life's number and its sum are this opening's."""
    with contextlib.closing(sqlite3.connect(path)) as file:
        names = [name for (name,) in file.execute("SELECT name FROM sqlite_schema WHERE type='table' ORDER BY name")]
        rows = {name: file.execute(f"SELECT * FROM {name} ORDER BY 1, 2").fetchall() for name in names}
        rows["meta"] = [row for row in rows["meta"] if not str(row[0]).startswith("incarnation")]
        return [rows, file.execute("SELECT type, name, tbl_name, sql FROM sqlite_schema ORDER BY name").fetchall()]


def examine(folder: Path, truth: Facts, rows: list[Any]) -> tuple[str, str]:
    """Who noticed that something is wrong with the journal in `folder`, and what went wrong all the same: empty where nothing did."""
    try:
        with contextlib.closing(open_store(folder, lambda *_: None)) as store:
            try:
                replayed = list(store.replay())
            except (MeshError, *UNREADABLE):
                return "when it is replayed", ""
            try:
                healed = scrubbed(store)  # what is asked before that may come to lack what an index with a flipped bit does not find
            except (MeshError, *UNREADABLE):
                return "after the start", ""
            try:
                told = facts(store, replayed)
            except (MeshError, *UNREADABLE):
                return "when it is read", ""
            lies = [name for name, fact in told.items() if name in truth and fact not in (truth[name], None)]
            if lies or told.keys() - truth.keys():
                return "", f"it was given out wrong: {lies or sorted(told.keys() - truth.keys())}"
            if not store.examine()["ok"]:
                return "by mesh verify", ""
            if told != truth:
                return "", f"it was silently left out: {[name for name in truth if told.get(name) != truth[name]]}"
            healed = healed or store.statistics().index_rebuilt
    except MeshError:
        return "at the start", ""
    if tables(folder / JOURNAL) != rows:
        return "", "a row is not what it was"
    return ("in the index, which was made again", "") if healed else ("no effect", "")


def run(flips: int, seed: int) -> Findings:
    findings, chance, folder = Findings(), random.Random(seed), scratch()
    try:
        honest(folder / "honest")
        copy = folder / "truth"
        shutil.copytree(folder / "honest", copy)
        with contextlib.closing(open_store(copy, lambda *_: None)) as store:
            truth = facts(store, list(store.replay()))
            assert store.examine()["ok"]
        rows = tables(copy / JOURNAL)
        data = (folder / "honest" / JOURNAL).read_bytes()
        for _ in range(flips):
            at, bit = chance.randrange(len(data)), chance.randrange(8)
            noticed, wrong = _flipped(folder, data, at, bit, truth, rows)
            if not wrong:
                findings.noticed[noticed] += 1
            else:
                findings.wrong.append(f"bit {bit} of byte {at}: {wrong}")
        return findings
    finally:
        shutil.rmtree(folder)


def _flipped(folder: Path, data: bytes, at: int, bit: int, truth: Facts, rows: list[Any]) -> tuple[str, str]:
    copy = folder / "flipped"
    shutil.copytree(folder / "honest", copy)
    try:
        (copy / JOURNAL).write_bytes(data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :])
        return examine(copy, truth, rows)
    finally:
        shutil.rmtree(copy)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flips", type=int, default=1000)
    parser.add_argument("--seed", type=int, help="[default: a fresh one]")
    options = parser.parse_args()
    seed = random.SystemRandom().randrange(10**9) if options.seed is None else options.seed
    print(f"seed {seed}", flush=True)
    found = run(options.flips, seed)
    for noticed, count in found.noticed.most_common():
        print(f"{count:>6}  {noticed if noticed == 'no effect' else f'noticed {noticed}'}")
    print(f"{len(found.wrong):>6}  went unnoticed, or was given out")
    for wrong in found.wrong[:20]:
        print(f"        {wrong}")
    return 1 if found.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
