"""The journal's keeper: one writer thread that commits whatever has queued, one reader thread that answers.

    loop thread:   add, add, flush_soon -->  queue  --> writer thread: encode, sign, one transaction, one fsync
                   Synced(seq), NewHead  <---------------------'
    Shelve --------------------------> the same queue, in order --> Shelved, after the same sync (shelf.py)
                   what is read --> the reading thread (store_reading.py)

Group commit adapts by itself: idle, the first entry is committed at once; while the disk is busy the next commit gathers what arrives,
at most 256 entries or 384 KiB. Invariants: `Synced` is told only after SQLite has synced; the incarnation is raised and synced before
anybody sees it; one failed write ends all writing (a failed fsync may have dropped the pages it failed on), `run` raises, and the node
steps down. Does not decide what is written, and repairs nothing but the index. The queue needs no bound of its own: a task's next entry
waits, in the outbox, for the last one's `Synced`, and live tasks are bounded.
"""

from __future__ import annotations

import contextlib
import hashlib
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import anyio.from_thread
import anyio.lowlevel
import anyio.to_thread

from mesh.core.inputs import NewHead, Remembered, StoreFailed, Synced
from mesh.core.keeping.inputs import ShelfKnown, Shelved
from mesh.core.records.journal import JournalWriter
from mesh.core.records.records import Beginning
from mesh.effects import Remember, Shelve
from mesh.errors import MeshError
from mesh.ids import Hash, NodeId
from mesh.limits import RecordsLimits
from mesh.messages.records import Rekeyed
from mesh.messages.signed import Signed
from mesh.runtime.clock import wall_ms
from mesh.runtime.disk import shelf, store_chain, store_file, store_memory, store_sums
from mesh.runtime.disk.sealing import Sealer
from mesh.runtime.disk.store_file import StoreError
from mesh.runtime.disk.store_group import Group, Item, Queued, gather, insert
from mesh.runtime.disk.store_newest import Newest, rolled_back
from mesh.runtime.disk.store_read import examine
from mesh.runtime.disk.store_reading import Reading
from mesh.runtime.disk.store_rows import Rows
from mesh.runtime.trust.keyfiles import Lives
from mesh.wire import ed25519
from mesh.wire.objects import Signer, body_bytes, signed_bytes
from mesh.wire.packing import Refusal

SUSPECT = "suspect"
"""The fact that a life ended because damage was found in its journal."""


@dataclass(frozen=True, slots=True)
class StoreStatistics:
    incarnation: int
    seq: int
    """Last synced entry."""
    commits: int
    """Verified or written."""
    unverified: int
    """Entries that the start of this life left out, while they are still being verified."""
    queued: int
    commit_entries_mean: float
    commit_ms_max: float
    """The slowest group commit of this life, disk included."""
    index_rebuilt: bool
    rollback_accepted: str
    """Why this life's journal is not the newest one, which a person chose to go on without; empty while nothing says so."""
    failed: str
    """Why nothing is written any more; empty while all is well."""
    shelf_damaged: int
    """Rows of others' logs that were not what had been written there, each time one was read."""


class Store:
    """One node's journal. Opening checks what is needed to go on, and raises the incarnation; the rest is verified after the start.

    `tell_threadsafe` hands an input to the driver from any thread. `sealer` seals entries and bodies on disk; without one they are plain.
    `newest` remembers this journal's newest life apart from it; `accept_rollback` goes on although the journal is behind that.
    Raises StoreError: ``store_locked``, ``newer_schema``, ``journal_broken``, ``disk_full``, ``store_read_only``, ``not_a_journal``,
    ``other_author``, ``other_vault``, ``sealed``, ``rolled_back``, ``newest_damaged``, ``disk_error``.
    """

    def __init__(
        self,
        path: Path | str,
        signer: Signer,
        tell_threadsafe: Callable[[NodeId, Any], None],
        limits: RecordsLimits | None = None,
        wall_ms: Callable[[], int] = wall_ms,
        *,
        lives: Lives | None = None,
        sealer: Sealer | None = None,
        newest: Newest | None = None,
        accept_rollback: bool = False,
    ) -> None:
        self.path = Path(path)
        self._lives = lives or Lives()
        self._following: dict[bytes, bytes] = {}
        """Seeds of keys that are to follow, by public key."""
        self._rows = Rows(self.path, sealer)
        self._newest, self._accept_rollback, self._rollback_accepted = newest, accept_rollback, ""
        self.held = False
        """Restored from a backup: nothing is written before `release`."""
        self._signer, self._tell, self._wall_ms = signer, tell_threadsafe, wall_ms
        self._limits = limits or RecordsLimits()
        self._verify_own = (ed25519.verifier_of(signer.public_key), *(ed25519.verifier_of(past.old) for past in self._lives.keys))
        self._pending: list[Item] = []
        self._shelving = False
        self._queue: list[Item] = []
        self._remember: list[Remember] = []
        self._urgent = False
        self._something = threading.Condition()
        self._closing = False
        self._threads: list[threading.Thread] = []
        self._failure: StoreError | None = None
        self._failed: Callable[[], None] = lambda: None
        self._entries = self._groups = 0
        self._commit_s_max = 0.0
        self._index_rebuilt = False
        self._index_differs = False
        tell = partial(self._tell, signer.node)
        self._reading = Reading(self._rows, signer.node, self._is_own, self._limits, tell, self._fail, self._heal_index)
        self.effects: dict[type, Callable[[Any], None]] = {
            **self._reading.effects,
            Remember: self._do_remember,
            Shelve: self._do_shelve,
        }
        try:
            self._lock = store_file.Lock(self.path.with_name(self.path.name + ".lock"))
        except OSError as error:
            raise store_file.explain(self.path, error) from error
        try:
            self._open()
        except BaseException:
            self._lock.close()
            raise

    # ---- opening

    def _open(self) -> None:
        if self._newest is not None:
            self._newest.read()
            if not self.path.exists():
                self._doubt(self._newest.doubt(False, 0, 0))
        self._connection = store_file.open_writer(self.path)
        try:
            self._claim()
            end = self._walk()
            self._end = self._reading.end = end
            self._begin_life(end)
            store_file.settle(self._connection)
        except (*store_file.UNREADABLE, ValueError) as error:
            self._connection.close()
            if isinstance(error, store_file.UNREADABLE):
                raise store_file.explain(self.path, error) from error
            raise store_file.broken(self.path, f"its table of facts cannot be read: {error}") from error
        except MeshError:
            self._connection.close()
            raise
        self.begins = self._beginning(end.newest)
        if self._newest is not None:
            self._newest.begin(self.incarnation, self._rollback_accepted)
            self.held = bool(self._newest.restored)
        self.head, self.head_seq = end.head, end.seq
        self.durable_head = end.head
        """The newest synced commit's hash: what envelopes carry. Replaced whole, so any thread may read it."""
        self._commits = end.commits
        self._synced = self._added = end.seq
        self._writer = JournalWriter(self._signer.node, self.incarnation, seal=self._seal, head=end.head, next_seq=end.seq + 1, hlc=end.hlc)

    def _walk(self) -> store_chain.ChainEnd:
        """After a life in which damage was found nothing is left out."""
        suspect = store_file.get_meta(self._connection, SUSPECT) is not None
        end = store_sums.begin(self._connection, self._rows, self._signer.node, self._is_own, whole=suspect)
        if suspect:
            self._in_transaction(lambda c: c.execute("DELETE FROM meta WHERE name=?", (SUSPECT,)))
        return end

    def _begin_life(self, end: store_chain.ChainEnd) -> None:
        """Raise the incarnation, above every one that this journal, or whoever remembers it, knows of."""
        before = store_file.get_life(self.path, self._connection)
        if before < end.incarnation:
            raise store_file.broken(self.path, f"it holds entries of incarnation {end.incarnation}, but says the last was {before}")
        remembered = 0
        if self._newest is not None:
            self._doubt(self._newest.doubt(True, before, end.seq))
            remembered = self._newest.incarnation
        self.incarnation = max(before, remembered) + 1
        self._in_transaction(lambda c: store_file.set_life(c, self.incarnation))

    def _doubt(self, doubt: str) -> None:
        assert self._newest is not None
        restored = self._newest.restored
        if doubt and not (self._accept_rollback or restored):
            raise rolled_back(self.path, doubt)
        if self._accept_rollback:
            self._newest.restored = ""
        self._rollback_accepted = self._rollback_accepted or restored or doubt

    def _claim(self) -> None:
        """A journal belongs to one node for good, and once it is sealed to one vault; `mesh` and `key` are those in which it began."""
        first = self._lives.keys[0].old if self._lives.keys else self._signer.public_key
        mine = {"author": self._signer.node.encode(), "mesh": self._signer.mesh.encode(), "key": first}
        known = {name: store_file.get_meta(self._connection, name) for name in mine}
        meshes = [mesh.encode() for mesh in (*self._lives.meshes, self._signer.mesh)]
        if not any(known.values()):
            self._in_transaction(lambda c: store_file.set_metas(c, mine))
        elif (known["author"], known["key"]) != (mine["author"], mine["key"]) or known["mesh"] not in meshes:
            author = (known["author"] or b"?").decode(errors="replace")
            raise StoreError(
                "other_author",
                f"the journal {self.path} belongs to {author}, not to this node or mesh",
                f"restore the keys beside it, or begin anew: mv {self.path.parent} {self.path.parent}.old",
            )
        sealed_by = (store_file.get_meta(self._connection, "vault") or b"").decode(errors="replace")
        if not sealed_by and self._rows.vault:
            self._in_transaction(lambda c: store_file.set_metas(c, {"vault": self._rows.vault.encode()}))
        elif sealed_by != self._rows.vault:
            raise store_file.other_vault(self.path, sealed_by, self._rows.vault)

    def _in_transaction(self, work: Callable[[sqlite3.Connection], Any]) -> None:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            work(self._connection)
            self._connection.execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise

    def _seal(self, signed: Signed) -> bytes:
        return hashlib.sha256(body_bytes(self._signer.seal(signed))).digest()

    def _is_own(self, raw: bytes) -> bool:
        """Whether this node signed a commit. Safe in any thread."""
        try:
            _, body, signature = store_chain.peek(raw)
        except Refusal:
            return False
        return self._key_of(body, signature) is not None

    def _key_of(self, body: bytes, signature: bytes) -> tuple[int, str] | None:
        """Which of this node's keys (0: today's, then the past ones) signed a commit, and in which mesh; None if none did."""
        for mesh in (self._signer.mesh, *self._lives.meshes):
            for index, verify in enumerate(self._verify_own):
                if verify(signature, signed_bytes("commit", mesh, body)):
                    return index, mesh
        return None

    def _beginning(self, newest: bytes) -> Beginning:
        """What this life's first commit has to say: the newest one of the last may stand in another mesh, or under another key."""
        if not newest:
            began = (store_file.get_meta(self._connection, "mesh") or b"").decode()
            return Beginning("" if began == self._signer.mesh else self._signer.mesh)
        _, body, signature = store_chain.peek(newest)
        found = self._key_of(body, signature)
        assert found is not None, "the chain was checked"
        index, mesh = found
        since = self._lives.keys[index - 1 :] if index else ()
        handovers = tuple(Rekeyed(past.old, past.new, past.proof, self._wall_ms()) for past in since)
        return Beginning("" if mesh == self._signer.mesh else self._signer.mesh, handovers)

    def rekey(self, seed: bytes) -> None:
        """The entry `Rekeyed` that names this key will come: the commit that holds it, and all later ones, are signed with it."""
        public, _ = ed25519.signer_of(seed)
        self._following[public] = seed

    def replay(self) -> Iterator[tuple[int, Any, dict[Hash, bytes]]]:
        """Every entry that is needed to go on, in order, with the bodies that machines need again. Before `start`, to its end. Raises
        StoreError."""
        check = store_chain.IndexCheck()
        try:
            for seq, entry, bodies in store_chain.replay(self._connection, self._rows, self._end):
                check.add(seq, entry)
                yield seq, entry, bodies
            if not self._end.since:  # else the scrub does
                check.found(self._connection.execute("SELECT key, seq FROM about"))
                if not check.agrees():
                    self._rebuild_index()
            self._end.needed.clear()
        except store_file.UNREADABLE as error:
            raise store_file.explain(self.path, error) from error

    def _heal_index(self) -> None:
        """From the reading thread: the writer shall make it again."""
        with self._something:
            self._index_differs = True
            self._something.notify()

    def _rebuild_index(self) -> None:
        store_chain.rebuild_index(self._connection, self._rows)
        self._index_rebuilt = True

    def remembered(self) -> Remembered:
        """What earlier lives kept of what others signed, for the records machine, before `Started`. Raises sqlite3.Error."""
        return store_memory.recall(self._connection, self._rows)

    def shelf_known(self) -> list[ShelfKnown]:
        """What earlier lives knew of the logs that are kept here, before `Started`. Raises sqlite3.Error."""
        return list(shelf.known(self._connection, self._rows, self._reading.damages))

    # ---- the loop's side

    def add(self, seq: int, entry: Any, bodies: dict[Hash, bytes] | None = None) -> None:
        """Entry number `seq` (the next one) shall be written. It may be held until `flush_soon`."""
        self._added += 1
        assert seq == self._added, f"entry {seq} does not follow {self._added - 1}"
        self._pending.append((seq, entry, bodies or {}))

    def flush_soon(self) -> None:
        """Let the writer have what was added. Ends as `Synced`, or as `StoreFailed`."""
        if self._pending:
            with self._something:
                self._queue.extend(self._pending)
                self._something.notify()
            self._pending = []

    def flush(self) -> None:
        """At the end of a turn: somebody waits for what others' keepers shelve."""
        if self._shelving:
            self._shelving = False
            self.flush_soon()

    def _do_remember(self, effect: Remember) -> None:
        """Heads ride with the next commit, or are written at the end; a proof of a fork does not wait, nor does what is asked for soon."""
        with self._something:
            self._remember.append(effect)
            if effect.forks or effect.soon:
                self._urgent = True
                self._something.notify()

    def _do_shelve(self, effect: Shelve) -> None:
        """Written by the end of the turn. What this node adds to a log is signed now: it is kept as it will travel."""
        for block in effect.blocks:
            self._signer.seal(block.head)
        self._pending.append(effect)
        self._shelving = True

    async def run(self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Until cancelled; then everything added is written and the file closed. Raises StoreError when the disk fails."""
        over = anyio.Event()
        wake = partial(_set_from_thread, anyio.lowlevel.current_token(), over)
        self._failed = wake
        self.start()
        task_status.started()
        try:
            if self._failure is None:
                await over.wait()
            assert self._failure is not None
            raise self._failure
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(self.close)

    def start(self) -> None:
        """Start the two threads."""
        for name, work in (("journal-writer", self._write_all), ("journal-reader", self._reading.run)):
            thread = threading.Thread(target=work, name=name, daemon=True)
            self._threads.append(thread)
            thread.start()

    def release(self) -> None:
        """The journal may go on as the newest: what waits is written. Raises HomeError."""
        assert self._newest is not None
        self._newest.confirm()
        with self._something:
            self.held = False
            self._something.notify()

    def close(self) -> None:
        """Write what was added (unless it is still held), end the threads, let go of the file. Safe to call twice."""
        self.flush_soon()
        with self._something:
            if self._closing:
                return
            self._closing = True
            self._something.notify()
        self._reading.close()
        for thread in self._threads:
            thread.join()
        if self._failure is not None and self._failure.code == "journal_broken":
            with contextlib.suppress(*store_file.UNREADABLE):  # where even this cannot be written the next life finds it as this one did
                self._in_transaction(lambda c: store_file.set_metas(c, {SUSPECT: b"1"}))
        self._connection.close()
        if self._newest is not None and self._failure is None:
            self._newest.close(self._synced)
        self._lock.close()

    def statistics(self) -> StoreStatistics:
        return StoreStatistics(
            incarnation=self.incarnation,
            seq=self._synced,
            commits=self._commits + self._reading.commits,
            unverified=self._reading.unverified,
            queued=self._added - self._synced,
            commit_entries_mean=self._entries / self._groups if self._groups else 0.0,
            commit_ms_max=self._commit_s_max * 1000,
            index_rebuilt=self._index_rebuilt,
            rollback_accepted=self._rollback_accepted,
            failed=self._failure.message if self._failure else "",
            shelf_damaged=self._reading.damages.total(),
        )

    def examine(self, export_to: Path | None = None) -> dict[str, Any]:
        """Check the whole journal again, every signature included, and write it to `export_to`. Slow: not on the loop's thread.

        Answers ``{"ok", "problem", "author", "entries", "commits", "incarnation", "head", "witnesses", "exported"}``. Raises OSError if the
        export cannot be written.
        """
        return examine(self._rows, self._signer.node, self._is_own, export_to)

    # ---- the writer's thread

    def _write_all(self) -> None:
        while True:
            with self._something:
                while self.held or not (self._queue or self._urgent or self._index_differs):
                    if self._closing or self._failure:
                        break
                    self._something.wait()
                self._urgent = False
                if self._failure is not None or self.held:
                    return
                ahead = self._queue[: self._limits.commit_entries_max]
                remember, self._remember = self._remember, []
                rebuild, self._index_differs = self._index_differs, False
            if not (ahead or remember or rebuild):
                return
            try:
                if rebuild:
                    self._rebuild_index()
                group = gather(ahead, self._limits)
                signed = self._commit(group, remember)
            except (*store_file.UNREADABLE, OSError) as error:
                return self._fail(store_file.explain(self.path, error))
            except Exception as error:  # noqa: BLE001 - counted as the store's failure: a writer that dies silently would stop the node for ever
                return self._fail(StoreError("store_bug", f"the journal's writer failed: {error!r}", "report this; restart the node"))
            with self._something:
                del self._queue[: group.length]
            if signed is not None:
                self._synced, self.durable_head = group.entries[-1][0], self._writer.head
                self._tell(self._signer.node, Synced(self._synced))
                self._tell(self._signer.node, NewHead(signed, tuple(group.data), tuple(group.bodies.values())))
            for effect in group.shelved:
                self._tell(self._signer.node, Shelved(effect.author, effect.ticket))

    def _change_key(self, entries: list[Queued]) -> None:
        for _, entry, _ in entries:
            if type(entry) is Rekeyed and (seed := self._following.pop(entry.new_key, None)) is not None:
                self._verify_own = (ed25519.verifier_of(entry.new_key), *self._verify_own)
                self._signer.rekey(seed)

    def _commit(self, group: Group, remember: list[Remember]) -> Signed | None:
        started = time.perf_counter()
        signed = None
        if group.entries:
            self._change_key(group.entries)
            signed = self._writer.commit(group.data, self._wall_ms())
        self._in_transaction(lambda connection: insert(connection, self._rows, group, signed, self._writer.head, remember))
        if group.entries:
            self._groups += 1
            self._commits += 1
            self._entries += len(group.entries)
            self._commit_s_max = max(self._commit_s_max, time.perf_counter() - started)
        return signed

    def _fail(self, failure: StoreError) -> None:
        """Never retried: after a failed sync nobody knows what the disk holds, and the next start checks it."""
        with self._something:
            self._failure = self._failure or failure
            self._something.notify()
        self._tell(self._signer.node, StoreFailed(failure.code, failure.message, failure.fix))
        self._failed()


def _set_from_thread(token: anyio.lowlevel.EventLoopToken, event: anyio.Event) -> None:
    with contextlib.suppress(anyio.RunFinishedError):  # nobody is left to be woken
        anyio.from_thread.run_sync(event.set, token=token)
