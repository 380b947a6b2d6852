"""A host's disk: a journal with group commit, bodies and files beside it. What is synced survives; what is not may or may not.

    add(entry), shelve(blocks) -> waiting --(a sync takes a while, at most so many at once)--> one signed commit, the shelf --> durable

A crash keeps only whole commits, as SQLite does: nothing of what was not synced, or also the group that was being written (its end was
never reported, yet it is there), as the fault says. A disk that is `failing` ends no sync: whoever waits for it has to step down. The chain
is the real one (core/records/journal.py); entries are encoded by `repr` and commits signed with keyed BLAKE2, because real signatures would
cost fifty times the rest of the simulation.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Iterator
from copy import copy
from dataclasses import dataclass
from typing import Any

from mesh.core.inputs import Remembered
from mesh.core.keeping.blocks import bytes_of, members_set, page_of
from mesh.core.keeping.inputs import ShelfRead, TaleRead
from mesh.core.records.inputs import OpenFound
from mesh.core.records.journal import FIRST_PREV, JournalWriter, bodies_of, last_of
from mesh.core.records.still_open import sum_up
from mesh.effects import FindOpen, ReadShelf, ReadTale, Remember, Shelve
from mesh.ids import Hash, NodeId
from mesh.limits import RecordsLimits
from mesh.messages.keeping import Block, Position
from mesh.messages.records import Fork, Summed
from mesh.messages.signed import Signed
from mesh.sim.shelf import Shelf

Row = tuple[int, Any, dict[Hash, bytes]]
"""An entry's number, the entry, and the bodies that came with it."""


class EncodedEntry(bytes):
    """The bytes of an entry, and the entry: who reads them need not decode."""

    entry: Any


def encode_entry(entry: Any) -> EncodedEntry:
    """The stand-in for the wire's encoding: canonical for the frozen field order of a dataclass, and free of dependencies."""
    encoded = EncodedEntry(repr(entry).encode("utf-8", "replace"))
    encoded.entry = entry
    return encoded


def commit_hash(signed: Signed) -> bytes:
    return hashlib.sha256(repr(signed.body).encode()).digest()


def seal(signed: Signed) -> bytes:
    """Sign in place, as the author's key would; answers the commit's hash."""
    body = repr(signed.body).encode()
    signed.raw = hashlib.blake2b(body, key=signed.author.encode()[:64], digest_size=32).digest()
    return hashlib.sha256(body).digest()


@dataclass(slots=True)
class Group:
    """One durable commit and its entries, encoded, with the bodies that came with them."""

    signed: Signed
    hash: bytes
    last: int
    entries: tuple[bytes, ...]
    bodies: tuple[bytes, ...] = ()


def _last(group: Group) -> int:
    return group.last


@dataclass(frozen=True, slots=True)
class Image:
    """A copy of a disk, as of one moment between two syncs."""

    seq: int
    head: bytes
    hlc: int
    kept: dict[str, Any]


COPIED = ("incarnation", "rows", "groups", "bodies", "files", "_heads", "_forks", "_witnesses", "shelf")
"""(Statements of trust are not: they are learned again from whoever is met, and R1 is not about disks.)"""


class Disk:
    """One node's storage. It survives the process; `begin_life` persists the incarnation before anything else happens in a life."""

    def __init__(self, node: NodeId, sync_s: float) -> None:
        self.node = node
        self.sync_s = sync_s
        self.slow_s = 0.0
        self.failing = ""
        """Why nothing can be written: ``full`` or ``broken`` (a sync ends with an error); empty: it can."""
        self.incarnation = 0
        self.rows: list[Row] = []
        self.head = FIRST_PREV
        self.groups: list[Group] = []
        self.bodies: dict[Hash, bytes] = {}
        self.files: dict[Hash, bytes] = {}
        self.partial: dict[Hash, bytearray] = {}
        self.statements: list[Signed] = []
        """Of trust, upheld here: the runtime keeps them beside the journal."""
        self._heads: dict[NodeId, Signed] = {}
        self._forks: dict[NodeId, Fork] = {}
        self._witnesses: dict[NodeId, Signed] = {}
        self.shelf = Shelf()
        self._owed = 0
        self._waiting: list[Row | Shelve] = []
        self._syncing: list[Row | Shelve] = []
        self._encoded: list[bytes] = []
        """The entries of `_syncing`."""
        self._writer: JournalWriter | None = None
        self._hlc = 0

    @property
    def seq(self) -> int:
        """Number of the last entry that is safe."""
        return self.rows[-1][0] if self.rows else 0

    @property
    def waiting(self) -> int:
        """Entries given and not yet safe."""
        return self._owed

    def remember(self, effect: Remember) -> None:
        self._heads.update((head.author, head) for head in effect.heads)
        self._forks.update((fork.author, fork) for fork in effect.forks)
        self._witnesses.update((witness.author, witness) for witness in effect.witnesses)

    def knows_of(self, author: NodeId) -> int:
        """The last entry of another's journal of which a head stands here; 0: none."""
        head = self._heads.get(author)
        return last_of(head.body) if head is not None else 0

    def remembered(self) -> Remembered:
        named = [witness.body.last for witness in self._witnesses.values()]
        commits = [group.signed for group in self.groups]
        own = tuple(one for one in commits if any(one.body.first <= seq <= last_of(one.body) for seq in named))
        return Remembered(tuple(self._heads.values()), tuple(self._forks.values()), tuple(self._witnesses.values()), own)

    def image(self) -> Image:
        return Image(self.seq, self.head, self._hlc, {name: copy(getattr(self, name)) for name in COPIED})

    def put_back(self, image: Image) -> None:
        """The disk holds what it held when `image` was made. Nobody may be writing."""
        for name in COPIED:
            setattr(self, name, copy(image.kept[name]))
        self.head, self._hlc = image.head, image.hlc

    def begin_life(self) -> int:
        self.incarnation += 1
        self._writer = JournalWriter(self.node, self.incarnation, seal=seal, head=self.head, next_seq=self.seq + 1, hlc=self._hlc)
        return self.incarnation

    def add(self, entry: Any, bodies: dict[Hash, bytes]) -> int:
        self._owed += 1
        seq = self.seq + self._owed
        self._waiting.append((seq, entry, bodies))
        return seq

    def shelve(self, effect: Shelve) -> None:
        self._waiting.append(effect)

    def begin_sync(self, limits: RecordsLimits) -> bool:
        """True if a sync starts now: there is something to write and the disk is idle. It takes as much as one commit may hold."""
        if self._syncing or not self._waiting:
            return False
        self._encoded, size, taken = [], 0, 0
        known: dict[Hash, bytes] = {}
        for item in self._waiting[: limits.commit_entries_max]:
            if isinstance(item, Shelve):
                size += sum(map(bytes_of, item.blocks))
            else:
                _, entry, bodies = item
                encoded = encode_entry(entry)
                size += len(encoded) + sum(len(body) for name, body in bodies.items() if name not in known)
            if taken and size > limits.commit_bytes_max:
                break
            taken += 1
            if not isinstance(item, Shelve):
                self._encoded.append(encoded)
                known.update(bodies)
        self._syncing = self._waiting[:taken]
        del self._waiting[:taken]
        return True

    def end_sync(self, wall_ms: int) -> tuple[Group | None, list[Shelve]]:
        """What was being written is durable: one commit with one link to the commit before, if there were entries; and what was shelved."""
        items, self._syncing = self._syncing, []
        shelved = [item for item in items if isinstance(item, Shelve)]
        for effect in shelved:
            self.shelf.put(effect)
        rows = [item for item in items if not isinstance(item, Shelve)]
        return self._commit(rows, wall_ms) if rows else None, shelved

    def _commit(self, rows: list[Row], wall_ms: int) -> Group:
        assert self._writer is not None, "a disk writes only within a life"
        entries = tuple(self._encoded)
        signed = self._writer.commit(entries, wall_ms)
        bodies = {name: body for row in rows for name, body in row[2].items()}
        self.bodies.update(bodies)
        self.rows.extend(rows)
        self._owed -= len(rows)
        self.head, self._hlc = self._writer.head, signed.body.hlc
        group = Group(signed, self.head, self.seq, entries, tuple(bodies.values()))
        self.groups.append(group)
        return group

    def replayed(self) -> list[Row]:
        """What a start reads: what is open of all that was summed up, and all that came after."""
        return [*self._open(), *self.rows[self._summed().upto :]]

    def _summed(self) -> Summed:
        return next((entry for _, entry, _ in reversed(self.rows) if type(entry) is Summed), Summed(0))

    def _open(self) -> list[Row]:
        return [self.rows[seq - 1] for seq in self._summed().open]

    def find_open(self, effect: FindOpen, limits: RecordsLimits) -> OpenFound:
        upto = self._summed().upto
        rows = [*self._open(), *self.rows[upto : upto + limits.sum_read_max]]
        return sum_up(self.node, ((seq, entry) for seq, entry, _ in rows), effect.taken, limits)

    def read_tale(self, effect: ReadTale, limits: RecordsLimits) -> TaleRead:
        """Of the own journal: what it tells about these tasks."""
        if effect.author != self.node:
            return self.shelf.tale(effect, limits)
        rows = (row for row in self.rows if row[0] > effect.since and getattr(row[1], "task", "") in effect.about)
        return page_of(((seq, entry, self._bodies_of(entry)) for seq, entry, _ in rows), effect, limits.tale_bytes_max)

    def _bodies_of(self, entry: Any) -> dict[Hash, bytes]:
        return {name: self.bodies[name] for name in bodies_of(entry) if name in self.bodies}

    def read_shelf(self, effect: ReadShelf, limits: RecordsLimits) -> ShelfRead:
        own = self._own(effect.since, effect.until) if effect.author == self.node else iter(())
        return self.shelf.read(effect, own, limits)

    def _own(self, since: Position, until: Position) -> Iterator[Block]:
        """The own commits in that range of entries, as blocks of the later one's term."""
        for at in range(bisect_right(self.groups, since[1], key=_last), bisect_right(self.groups, until[1], key=_last)):
            group = self.groups[at]
            members = members_set((self.rows[seq][1] for seq in range(group.last - len(group.entries), group.last)), until[0])
            yield Block(until[0], group.signed, group.entries, group.bodies, members)

    def crash(self, wall_ms: int, *, keep_written: bool) -> Group | None:
        """The process is gone. `keep_written`: the group being written had reached the disk. Answers it, if so."""
        kept = self.end_sync(wall_ms)[0] if keep_written and self._syncing else None
        self._syncing, self._waiting, self._owed = [], [], 0
        self.partial.clear()
        return kept
