"""Lives of one journal, each cut off by a power failure, and what the next one must find.

    files --life: the real store works, watched--> log --cut anywhere in it--> files --the real store opens them--> judged --> next life

Acknowledged is what the store told as `Synced` or `Shelved`. Of a cut at any moment the next life must hold every acknowledged entry as it
was written, its bodies, every block of another's log, and every head that was told, begin a life that was never begun before, and start: an
honest disk gives no reason to refuse. Same seed, same work and cuts; SQLite's salts and the seals' nonces are fresh each time.
"""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import sqlite3
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Any

from disks.images import Disk
from disks.vfs import Op, Watcher
from mesh.core.inputs import NewHead, StoreFailed, Synced
from mesh.core.keeping.inputs import Shelved
from mesh.core.records.journal import JournalWriter, last_of
from mesh.effects import LogState, ReadShelf, Shelve
from mesh.errors import MeshError
from mesh.limits import RecordsLimits
from mesh.messages.keeping import Block
from mesh.messages.records import Opened, Parked
from mesh.runtime.disk import store_chain
from mesh.runtime.disk.sealing import KeySealer, aead_of
from mesh.runtime.disk.shelf import ShelfReader
from mesh.runtime.disk.store import Store
from mesh.runtime.disk.store_newest import Newest
from mesh.wire import ed25519
from mesh.wire.codec import encode_entry
from mesh.wire.objects import Signer, body_bytes, node_id

KEY, PEER_KEY = bytes([7]) * 32, bytes([8]) * 32
NODE = node_id(ed25519.signer_of(KEY)[0])
PEER = Signer(node_id(ed25519.signer_of(PEER_KEY)[0]), PEER_KEY, "mesh-one")
JOURNAL = "journal.sqlite"
LIVES = 3
TRIALS_OF_A_LIFE = 20
WAIT_S = 60.0
SEALER = KeySealer("ab" * 16, ("journal", NODE), {1: aead_of("chacha20-poly1305", bytes(32))}.__getitem__, lambda: 1)


def _blocks(count: int) -> list[Block]:
    """Of another author's log, as its author's store makes them."""
    writer = JournalWriter(PEER.node, 1, seal=lambda signed: hashlib.sha256(body_bytes(PEER.seal(signed))).digest())
    made = []
    for number in range(count):
        data = encode_entry(Parked(f"p{number}", "y" * 500))
        made.append(Block(1, writer.commit([data], 5), (data,)))
    return made


BLOCKS = _blocks(64)
Patch = Callable[[], contextlib.AbstractContextManager[Any]]


@dataclass
class Truth:
    """What the world outside has been told up to some moment."""

    incarnation: int = 0
    acknowledged: int = 0
    entries: dict[int, bytes] = field(default_factory=dict)
    """By number, as written; what follows `acknowledged` may be lost."""
    bodies: dict[int, str] = field(default_factory=dict)
    heads: dict[int, bytes] = field(default_factory=dict)
    """The chain's hash after that entry."""
    shelved: int = 0
    """So many of `BLOCKS` were told to be kept."""

    def learn(self, op: Op) -> None:
        match op:
            case "life", incarnation:
                self.incarnation = incarnation
            case "acknowledged", seq:
                self.acknowledged = max(self.acknowledged, seq)
            case "head", seq, head:
                self.heads[seq] = head
            case "shelved", count:
                self.shelved = count

    def copy(self) -> Truth:
        return replace(self, entries=dict(self.entries), bodies=dict(self.bodies), heads=dict(self.heads))


@dataclass
class Findings:
    """What many trials gave. `wrong`: each first of its kind, with where it was."""

    trials: int = 0
    lives: int = 0
    kept_more: int = 0
    """Trials in which more had come through than was acknowledged."""
    syncs: int = 0
    """Trials in which the power went right before or right after a sync."""
    wrong: dict[str, str] = field(default_factory=dict)


def scratch() -> Path:
    """Memory, where the system has a folder there: what is synced for real proves nothing here."""
    shared = Path("/dev/shm")
    return Path(tempfile.mkdtemp(prefix="lanmesh-disk-", dir=shared if shared.is_dir() else None))


def history(seed: int, findings: Findings, trials: int, plan: dict[str, Any] | None = None) -> None:
    """One journal's lives, `trials` cuts in all. `plan`: what is wrong on purpose, as `Watcher` takes it, and a `patch` of the store."""
    random, plan = Random(seed), dict(plan or {})
    patch: Patch = plan.pop("patch", contextlib.nullcontext)
    files: dict[str, bytes] = {}
    truth = Truth()
    folder = scratch()
    try:
        for life in range(LIVES):
            share = max(1, trials // LIVES)
            with patch():
                log = _live(folder / f"life-{life}", files, random, plan, truth)
                findings.lives += 1
                going_on = _cut(folder / "trial", files, log, truth, random, share, findings, f"seed {seed}, life {life}")
            if going_on is None:
                return
            files, truth = going_on
    finally:
        shutil.rmtree(folder)


# ---- a life


class _Told:
    """Puts what the store tells into the log, between what it does."""

    def __init__(self, log: list[Op]) -> None:
        self.log = log
        self._over = self._shelved = 0
        self._changed = threading.Condition()

    def __call__(self, _: str, item: Any) -> None:
        with self._changed:
            if isinstance(item, Synced):
                self.log.append(("acknowledged", item.seq))
            elif isinstance(item, NewHead):
                self._over = last_of(item.signed.body)
                self.log.append(("head", self._over, hashlib.sha256(body_bytes(item.signed.raw)).digest()))
            elif isinstance(item, Shelved):
                self._shelved = item.ticket
                self.log.append(("shelved", item.ticket))
            assert not isinstance(item, StoreFailed), item.message
            self._changed.notify()

    def wait(self, seq: int, shelved: int) -> None:
        """Until the commit that ends with `seq` is over, and so many blocks are kept."""
        with self._changed:
            done = self._changed.wait_for(lambda: self._over >= seq and self._shelved >= shelved, WAIT_S)
            assert done, f"entry {seq} or block {shelved} was never acknowledged"


def _live(folder: Path, files: dict[str, bytes], random: Random, plan: dict[str, Any], truth: Truth) -> list[Op]:
    """One life, over in order at its end; what it writes is added to `truth`."""
    _lay(folder, files)
    with Watcher(folder, **plan).watching() as log:
        told = _Told(log)
        with contextlib.closing(open_store(folder, told)) as store:
            log.append(("life", store.incarnation))
            list(store.replay())
            # Checkpoints come after 1000 pages: lives are too short for that.
            store._connection.execute(f"PRAGMA wal_autocheckpoint={random.choice((4, 25, 1000))}")
            store.start()
            seq, shelved = store.head_seq, 0
            kept = len(_kept(store))
            for _ in range(random.randrange(1, 9)):
                for _ in range(random.choice((1, 1, 3, 20))):
                    seq += 1
                    _write(store, seq, random, truth)
                if random.random() < 0.5 and kept < len(BLOCKS):
                    kept = shelved = kept + 1
                    store.effects[Shelve](Shelve(PEER.node, kept, LogState(1, seq=kept), None, (BLOCKS[kept - 1],)))
                store.flush_soon()
                told.wait(seq, shelved)
    return log


def _kept(store: Store) -> list[Block]:
    """What is on the shelf, seal and root checked."""
    reader = ShelfReader(store._connection, store._rows, NODE, RecordsLimits(), Counter(), store._is_own)
    found: list[Block] = []
    while more := reader.read(ReadShelf(1, PEER.node, (1, len(found)), (1, len(BLOCKS)), 1 << 20)).blocks:
        found += more
    return found


def _write(store: Store, seq: int, random: Random, truth: Truth) -> None:
    """An entry with a body of its own."""
    first = seq == store.head_seq + 1
    entry = Opened(store.incarnation, store.head, store.head_seq, "otter") if first else Parked(f"t{seq}", "x" * random.randrange(300))
    data = random.randbytes(random.choice((10, 600, 9000)))
    name = hashlib.sha256(data).hexdigest()
    truth.entries[seq], truth.bodies[seq] = encode_entry(entry), name
    store.add(seq, entry, {name: data})


def open_store(folder: Path, tell: Callable[[str, Any], None]) -> Store:
    newest = Newest(folder / "incarnation.json")
    return Store(folder / JOURNAL, Signer(NODE, KEY, "mesh-one"), tell, wall_ms=lambda: 1_700_000_000_000, sealer=SEALER, newest=newest)


def _lay(folder: Path, files: dict[str, bytes]) -> None:
    folder.mkdir(mode=0o700)
    for name, data in files.items():
        (folder / name).write_bytes(data)
        (folder / name).chmod(0o600)


# ---- power cuts


def _cut(
    folder: Path, files: dict[str, bytes], log: list[Op], truth: Truth, random: Random, trials: int, findings: Findings, where: str
) -> tuple[dict[str, bytes], Truth] | None:
    """Cut the life in `log` so often, each time somewhere. Answers what one of the cuts left, to go on with, and what was true then; None
    where that was wrong.
    """
    points = sorted(_moment(log, random) for _ in range(trials))
    chosen = random.randrange(trials)
    disk, at, going_on = Disk(files), 0, None
    for trial, point in enumerate(points):
        for op in log[at : point + 1]:
            disk.follow(op)
            truth.learn(op)
        at = point + 1
        image = disk.crash(random)
        findings.trials += 1
        findings.syncs += any(op[0] in ("sync", "folder") for op in log[point : point + 2])
        if found := judge(folder, image, truth, findings):
            where_exactly = f"{where}, after operation {point} of {len(log)}: {' '.join(map(str, log[point][:2]))}"
            findings.wrong.setdefault(found.split(":")[0], f"{found} ({where_exactly})")
        elif trial == chosen:
            going_on = image, truth.copy()
    return going_on


def _moment(log: list[Op], random: Random) -> int:
    """After which operation the power goes: any, or, as often, right before a sync, when most is at stake, or right after it."""
    syncs = [at for at, op in enumerate(log) if op[0] in ("sync", "folder")]
    if random.random() < 0.5 or not syncs:
        return random.randrange(len(log))
    return max(0, random.choice(syncs) - random.randrange(2))


def judge(folder: Path, image: dict[str, bytes], truth: Truth, findings: Findings) -> str:
    """What is wrong with the files that a power cut left; empty if nothing is."""
    _lay(folder, image)
    try:
        with contextlib.closing(open_store(folder, lambda *_: None)) as store:
            return _judged(store, truth, findings)
    except MeshError as error:
        return f"refused {error.code}: {error.message}"
    except sqlite3.Error as error:
        return f"unreadable: {error}"
    finally:
        shutil.rmtree(folder)


def _judged(store: Store, truth: Truth, findings: Findings) -> str:
    rows = {seq: encode_entry(entry) for seq, entry, _ in store.replay()}
    if len(rows) < truth.acknowledged:
        return f"lost: {truth.acknowledged - len(rows)} of {truth.acknowledged} acknowledged entries"
    if any(rows[seq] != truth.entries[seq] for seq in range(1, truth.acknowledged + 1)):
        return "changed: an acknowledged entry is not what it was"
    if any(rows[seq] != truth.entries.get(seq) for seq in rows):
        return "invented: an entry that nobody wrote"
    if store.incarnation <= truth.incarnation:
        return f"life again: {store.incarnation} was begun before"
    findings.kept_more += len(rows) > truth.acknowledged
    return _judged_rows(store, truth)


def _judged_rows(store: Store, truth: Truth) -> str:
    connection: sqlite3.Connection = store._connection
    if (kept := _kept(store)) != BLOCKS[: len(kept)] or len(kept) < truth.shelved:
        return f"lost block: {len(kept)} of another's log are kept, {truth.shelved} were told"
    for seq in range(1, truth.acknowledged + 1):
        if store_chain.read_body(connection, store._rows, truth.bodies[seq]) is None:
            return f"lost body: of the acknowledged entry {seq}"
    heads = {first + count - 1: head for first, count, head in connection.execute("SELECT first, count, hash FROM commits")}
    for seq, head in truth.heads.items():
        if heads.get(seq) != head:
            return f"fork: the head that was told after entry {seq} is not in the chain"
    examined = store.examine()
    return "" if examined["ok"] else f"verify: {examined['problem']}"


def run(seeds: Iterator[int], trials: int, plan: dict[str, Any] | None = None, *, until_wrong: bool = False) -> Findings:
    """Histories, seed after seed, until so many trials are done."""
    findings = Findings()
    while findings.trials < trials and not (until_wrong and findings.wrong):
        history(next(seeds), findings, min(LIVES * TRIALS_OF_A_LIFE, trials - findings.trials), plan)
    return findings
