"""Files travel by hash: pieces on request, from whoever has them, checked whole before anybody hears of them.

    FileWanted --> here already? --> FileFetched
                     no: FILE_ASK x window --> FILE_PART --> WriteFile, in order --last--> FileSealed --> FileFetched
                                    silence: ask again, then the next source; wrong bytes, not there: never that source again

Invariant: a file is told as fetched only after its bytes have hashed to its name; nothing unasked for is written; asks in flight never
exceed the window. A source that falls silent costs what it has not sent yet, no more. Holds no bytes beyond the window, chooses no
names, knows nothing about tasks.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from mesh.core.deadlines import Deadlines
from mesh.core.directory import ReadDirectory
from mesh.core.inputs import FileFetched, FileKnown, FileRead, FileSealed, FileWanted, MemberLinked, MemberRevoked
from mesh.effects import Need, ReadFile, Refused, Send, Tell, WriteFile
from mesh.ids import Hash, NodeId
from mesh.limits import FileLimits
from mesh.messages.work import FileAsk, FilePart

_HEX = frozenset("0123456789abcdef")


def is_hash(text: str) -> bool:
    """True for 64 lower-case hexadecimal digits: nothing else may ever become a file's name."""
    return len(text) == 64 and _HEX.issuperset(text)


@dataclass(frozen=True, slots=True)
class PieceLate:
    """Nothing of this file has arrived for `piece_timeout_s`."""

    file: Hash


@dataclass(frozen=True, slots=True)
class FilesStatistics:
    """One moment; bytes and counts since the start of this life."""

    known: int
    fetching: int
    queued: int
    fetched: int
    failed: int
    bytes_in: int
    bytes_out: int
    retries: int
    wrong: int
    reading: int


@dataclass(slots=True, eq=False)
class _Fetch:
    """One file on its way. `turns` counts how often each source has been silent; a source struck out is not in it any more."""

    file: Hash
    size: int
    turns: dict[NodeId, int]
    source: NodeId = ""
    probing: bool = True
    """Looking in the own store first."""
    sealing: bool = False
    mixed: bool = False
    """More than one source has given bytes: nobody can be blamed if they are wrong."""
    alone: bool = False
    """Bytes of mixed origin were wrong once: each source now has to give all of it."""
    written: int = 0
    next_ask: int = 0
    asked: dict[int, None] = field(default_factory=dict)
    arrived: dict[int, bytes] = field(default_factory=dict)


class Files:
    """Fetches files and serves pieces of them."""

    def __init__(self, directory: ReadDirectory, deadlines: Deadlines, limits: FileLimits) -> None:
        self._me = directory.me
        self._directory = directory
        self._deadlines = deadlines
        self._limits = limits
        self._known: dict[Hash, None] = {}
        self._fetches: dict[Hash, _Fetch] = {}
        self._queue: deque[FileWanted] = deque()
        self._reading: Counter[NodeId] = Counter()
        """From the disk now, by who has asked."""
        self._fetched = self._failed = self._bytes_in = self._bytes_out = self._retries = self._wrong = 0
        self.inputs: dict[type, Any] = {
            FileWanted: self._do_wanted,
            FileKnown: self._do_known,
            FileRead: self._do_read,
            FileSealed: self._do_sealed,
            FileAsk: self._on_file_ask,
            FilePart: self._on_file_part,
            MemberLinked: self._on_member_linked,
            MemberRevoked: self._on_member_revoked,
            PieceLate: self._expire_piece,
        }

    # ---- wanting

    def _do_wanted(self, now_s: float, _me: NodeId, wanted: FileWanted) -> Iterator[Any]:
        if wanted.file in self._known:
            yield Tell(FileFetched(wanted.file, True))
            return
        fetch = self._fetches.get(wanted.file)
        if fetch is not None:
            for source in wanted.sources:
                if source != self._me:
                    fetch.turns.setdefault(source, 0)
            return
        reason = self._unfit(wanted)
        if reason:
            yield Refused(reason)
            yield from self._over(now_s, wanted.file, False)
        elif len(self._fetches) >= self._limits.fetches_max:
            self._queue.append(wanted)
        else:
            yield from self._begin(wanted)

    def _unfit(self, wanted: FileWanted) -> str:
        if not is_hash(wanted.file):
            return "bad_file_hash"
        if not 0 <= wanted.size <= self._limits.file_bytes_max:
            return "file_too_big"
        if len(self._queue) >= self._limits.fetches_max * self._limits.window:
            return "fetches_full"
        return ""

    def _begin(self, wanted: FileWanted) -> Iterator[Any]:
        """The own store is asked first: after a restart nobody has told what is in it."""
        turns = {source: 0 for source in wanted.sources if source != self._me}
        self._fetches[wanted.file] = _Fetch(wanted.file, wanted.size, turns)
        yield ReadFile(self._me, wanted.file, 0, 1, need=Need.FREE)

    def _do_known(self, now_s: float, _me: NodeId, known: FileKnown) -> Iterator[Any]:
        self._know(known.file)
        if known.file in self._fetches:
            yield from self._over(now_s, known.file, True)

    def _know(self, file: Hash) -> None:
        self._known[file] = None
        if len(self._known) > self._limits.known_max:
            del self._known[next(iter(self._known))]

    def _over(self, now_s: float, file: Hash, ok: bool) -> Iterator[Any]:
        """End a fetch, tell it, and begin the next that waits."""
        if self._fetches.pop(file, None) is not None:
            self._deadlines.clear(PieceLate(file))
        if ok:
            self._fetched += 1
            self._know(file)
        else:
            self._failed += 1
        yield Tell(FileFetched(file, ok))
        while self._queue and len(self._fetches) < self._limits.fetches_max:
            yield from self._do_wanted(now_s, self._me, self._queue.popleft())

    # ---- fetching

    def _linked(self, node: NodeId) -> bool:
        row = self._directory.get(node)
        return row is not None and row.linked

    def _next_source(self, now_s: float, fetch: _Fetch) -> Iterator[Any]:
        """Go on with the source that has failed least, linked ones first; give up when none is left."""
        tries_max = self._limits.source_tries_max
        left = [source for source, turns in fetch.turns.items() if turns < tries_max]
        if not left:
            yield from self._over(now_s, fetch.file, False)
            return
        source = min(left, key=lambda node: (not self._linked(node), fetch.turns[node]))
        if fetch.source and source != fetch.source and (fetch.written or fetch.arrived):
            if fetch.alone:
                self._restart(fetch)
            else:
                fetch.mixed = True
        fetch.source = source
        fetch.asked.clear()
        fetch.next_ask = fetch.written
        self._deadlines.set(PieceLate(fetch.file), now_s + self._limits.piece_timeout_s)
        if self._linked(source):
            yield from self._ask(fetch)

    @staticmethod
    def _restart(fetch: _Fetch) -> None:
        fetch.written = fetch.next_ask = 0
        fetch.mixed = False
        fetch.asked.clear()
        fetch.arrived.clear()

    def _ask(self, fetch: _Fetch) -> Iterator[Any]:
        """Fill the window, past what is on its way or has arrived early."""
        piece = self._limits.piece_bytes
        while fetch.next_ask < fetch.size and len(fetch.asked) + len(fetch.arrived) < self._limits.window:
            offset = fetch.next_ask
            fetch.next_ask += piece
            if offset not in fetch.arrived:
                fetch.asked[offset] = None
                yield Send(fetch.source, FileAsk(fetch.file, offset, min(piece, fetch.size - offset)), need=Need.FREE)

    def _on_file_part(self, now_s: float, peer: NodeId, part: FilePart) -> Iterator[Any]:
        fetch = self._fetches.get(part.file)
        if fetch is None or peer != fetch.source or part.offset not in fetch.asked:
            yield Refused("file_part_not_asked", peer)
            return
        if part.total != fetch.size or len(part.data) != min(self._limits.piece_bytes, fetch.size - part.offset):
            yield Refused("file_not_there" if part.total < 0 else "file_part_wrong", peer)
            del fetch.turns[peer]
            yield from self._next_source(now_s, fetch)
            return
        del fetch.asked[part.offset]
        fetch.arrived[part.offset] = part.data
        fetch.turns[peer] = 0
        self._bytes_in += len(part.data)
        yield from self._write(fetch)
        if fetch.sealing:
            self._deadlines.clear(PieceLate(fetch.file))
            return
        self._deadlines.set(PieceLate(fetch.file), now_s + self._limits.piece_timeout_s)
        yield from self._ask(fetch)

    @staticmethod
    def _write(fetch: _Fetch) -> Iterator[Any]:
        """What has arrived without a gap."""
        while (data := fetch.arrived.pop(fetch.written, None)) is not None:
            offset, fetch.written = fetch.written, fetch.written + len(data)
            fetch.sealing = fetch.written >= fetch.size
            yield WriteFile(fetch.file, offset, data, fetch.sealing, need=Need.FREE)

    def _do_sealed(self, now_s: float, _me: NodeId, sealed: FileSealed) -> Iterator[Any]:
        fetch = self._fetches.get(sealed.file)
        if fetch is None or not fetch.sealing:
            return
        if sealed.ok:
            yield from self._over(now_s, sealed.file, True)
            return
        self._wrong += 1
        yield Refused("wrong_bytes", "" if fetch.mixed else fetch.source)
        fetch.alone = fetch.alone or fetch.mixed
        if not fetch.mixed:
            fetch.turns.pop(fetch.source, None)
        fetch.sealing = False
        self._restart(fetch)
        yield from self._next_source(now_s, fetch)

    def _expire_piece(self, now_s: float, _me: NodeId, late: PieceLate) -> Iterator[Any]:
        fetch = self._fetches.get(late.file)
        if fetch is None or fetch.probing or fetch.sealing:
            return
        self._retries += 1
        if fetch.source in fetch.turns:
            fetch.turns[fetch.source] += 1
        yield from self._next_source(now_s, fetch)

    def _on_member_linked(self, now_s: float, _me: NodeId, linked: MemberLinked) -> Iterator[Any]:
        """Who was waited for is back: do not wait for the timer."""
        for fetch in list(self._fetches.values()):
            if not fetch.probing and not fetch.sealing and fetch.source == linked.node:
                yield from self._next_source(now_s, fetch)

    def _on_member_revoked(self, now_s: float, _me: NodeId, fact: MemberRevoked) -> Iterator[Any]:
        """No source any more. (Bytes it has given already are believed for their hash, like anybody's.)"""
        for fetch in list(self._fetches.values()):
            if fetch.turns.pop(fact.node, None) is not None and fetch.source == fact.node and not fetch.sealing:
                yield from self._next_source(now_s, fetch)

    # ---- the disk, and giving

    def _do_read(self, now_s: float, _me: NodeId, read: FileRead) -> Iterator[Any]:
        if read.to != self._me:
            self._reading[read.to] -= 1
            if self._reading[read.to] <= 0:
                del self._reading[read.to]
            data = read.data
            if data is None:
                yield Refused("file_not_here", read.to)
            self._bytes_out += len(data or b"")
            yield Send(read.to, FilePart(read.file, read.offset, -1 if data is None else read.total, data or b""), need=Need.FREE)
            return
        fetch = self._fetches.get(read.file)
        if fetch is None or not fetch.probing:
            return
        fetch.probing = False
        if read.data is not None:
            yield from self._over(now_s, read.file, True)
        elif fetch.size == 0:
            # No byte to ask for. That the empty file has this hash is checked like any other's.
            fetch.sealing = True
            fetch.turns.clear()
            yield WriteFile(fetch.file, 0, b"", True, need=Need.FREE)
        else:
            yield from self._next_source(now_s, fetch)

    def _on_file_ask(self, _now_s: float, peer: NodeId, ask: FileAsk) -> Iterator[Any]:
        if not is_hash(ask.file) or ask.offset < 0 or not 0 <= ask.size <= self._limits.piece_bytes:
            yield Refused("bad_file_ask", peer)
        elif self._reads_full(peer):
            yield Refused("file_reads_full", peer)
        else:
            self._reading[peer] += 1
            yield ReadFile(peer, ask.file, ask.offset, ask.size, need=Need.FREE)

    def _reads_full(self, peer: NodeId) -> bool:
        """Half of all is the most that one peer gets: however much it asks, others are served."""
        most = self._limits.fetches_max * self._limits.window
        return self._reading.total() >= most or self._reading[peer] >= max(1, most // 2)

    def statistics(self) -> FilesStatistics:
        return FilesStatistics(
            known=len(self._known),
            fetching=len(self._fetches),
            queued=len(self._queue),
            fetched=self._fetched,
            failed=self._failed,
            bytes_in=self._bytes_in,
            bytes_out=self._bytes_out,
            retries=self._retries,
            wrong=self._wrong,
            reading=self._reading.total(),
        )
