"""Files travel by hash: what is asked, written, served and refused."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from workbench import ME, Sink, of, sent

from mesh.core.deadlines import Deadlines
from mesh.core.directory import Directory
from mesh.core.inputs import FileFetched, FileKnown, FileRead, FileSealed, FileWanted, MemberLinked
from mesh.core.node import Node
from mesh.core.work.files import Files
from mesh.effects import Need, ReadFile, Refused, Send, WriteFile
from mesh.ids import content_hash
from mesh.limits import FileLimits
from mesh.messages.work import FileAsk, FilePart

PIECE = 10
DATA = bytes(range(100)) + b"tail"
FILE = content_hash(DATA)
A, B, C = "a", "b", "c"


class Shelf:
    """A node with only the files machine."""

    def __init__(self, **limits: Any) -> None:
        self.directory = Directory(ME)
        for peer in (A, B):
            self.directory.ensure(peer).linked = True
        self.limits = FileLimits(**({"piece_bytes": PIECE, "window": 3} | limits))
        self.deadlines = Deadlines()
        self.files = Files(self.directory, self.deadlines, self.limits)
        self.sink = Sink(FileFetched)
        self.node = Node(ME, (self.files, self.sink), self.deadlines)
        self.now = 50.0

    def give(self, item: Any, sender: str = ME) -> list[Any]:
        return self.node.handle(self.now, sender, item)

    def later(self, seconds: float) -> list[Any]:
        effects: list[Any] = []
        until = self.now + seconds
        while (due := self.node.wake_at()) is not None and due <= until:
            self.now = max(due, self.now)
            effects += self.node.handle(self.now, ME)
        self.now = until
        return effects

    def want(self, file: str = FILE, size: int = len(DATA), sources: tuple[str, ...] = (A, B)) -> list[Any]:
        """Asked for, and not in the own store."""
        assert self.give(FileWanted(file, size, sources)) == [ReadFile(ME, file, 0, 1, need=Need.FREE)]
        return self.give(FileRead(ME, file, 0, 0, None))

    def told(self) -> list[tuple[str, bool]]:
        return [(fact.file, fact.ok) for fact in self.sink.caught]


def part(ask: FileAsk, data: bytes = DATA) -> FilePart:
    return FilePart(ask.file, ask.offset, len(data), data[ask.offset : ask.offset + ask.size])


def asks(effects: list[Any], peer: str = A) -> list[FileAsk]:
    return [effect.message for effect in of(effects, Send) if isinstance(effect.message, FileAsk) and effect.to == peer]


def drain(shelf: Shelf, effects: list[Any], peer: str = A, data: bytes = DATA) -> list[WriteFile]:
    """Answer every ask until nothing is asked any more; what was written."""
    open_asks, written = asks(effects, peer), of(effects, WriteFile)
    while open_asks:
        effects = shelf.give(part(open_asks.pop(0), data), peer)
        written += of(effects, WriteFile)
        open_asks += asks(effects, peer)
    return written


def test_a_window_of_pieces_is_asked_and_written_in_order() -> None:
    shelf = Shelf()
    first = asks(shelf.want())
    assert first == [FileAsk(FILE, 0, 10), FileAsk(FILE, 10, 10), FileAsk(FILE, 20, 10)]
    assert of(shelf.give(part(first[1]), A), WriteFile) == [], "a gap is before it"
    effects = shelf.give(part(first[0]), A)
    assert [(effect.offset, effect.data, effect.last) for effect in of(effects, WriteFile)] == [
        (0, DATA[:10], False),
        (10, DATA[10:20], False),
    ]
    assert [ask.offset for ask in asks(effects)] == [30, 40]


def test_the_last_piece_is_sealed_and_only_then_told() -> None:
    shelf = Shelf()
    written = drain(shelf, shelf.want())
    assert b"".join(write.data for write in written) == DATA
    assert [write.last for write in written] == [False] * 10 + [True]
    assert shelf.told() == []
    assert shelf.give(FileSealed(FILE, True)) == []
    assert shelf.told() == [(FILE, True)]
    assert shelf.deadlines.next() is None


def test_what_is_here_is_told_at_once() -> None:
    shelf = Shelf()
    shelf.give(FileKnown(FILE, len(DATA)))
    assert shelf.give(FileWanted(FILE, len(DATA), (A,))) == []
    other = content_hash(b"x")
    shelf.give(FileWanted(other, 1, (A,)))
    assert shelf.give(FileRead(ME, other, 0, 1, b"x")) == [], "nobody told of it, but the store has it"
    assert shelf.told() == [(FILE, True), (other, True)]


def test_an_empty_file_needs_no_peer() -> None:
    shelf = Shelf()
    empty = content_hash(b"")
    assert shelf.want(empty, 0, (A,)) == [WriteFile(empty, 0, b"", True, need=Need.FREE)]
    shelf.give(FileSealed(empty, True))
    assert shelf.told() == [(empty, True)]


def test_an_empty_file_under_a_wrong_name_fails() -> None:
    shelf = Shelf()
    shelf.want(FILE, 0, (A,))
    assert shelf.give(FileSealed(FILE, False)) == [Refused("wrong_bytes", "")]
    assert shelf.told() == [(FILE, False)]


def test_silence_is_asked_again_then_the_next_source_goes_on_where_it_stopped() -> None:
    shelf = Shelf()
    first = asks(shelf.want())
    shelf.give(part(first[0]), A)
    effects = shelf.later(shelf.limits.piece_timeout_s)
    assert [ask.offset for ask in asks(effects, B)] == [10, 20, 30]
    written = drain(shelf, effects, B)
    assert b"".join(write.data for write in written) == DATA[10:]
    shelf.give(FileSealed(FILE, True))
    assert shelf.told() == [(FILE, True)]


def test_a_lone_silent_source_is_given_up_in_bounded_time() -> None:
    shelf = Shelf()
    shelf.want(sources=(A,))
    effects = shelf.later(2 * shelf.limits.piece_timeout_s)
    assert len(asks(effects)) == 6
    assert shelf.told() == []
    shelf.later(shelf.limits.piece_timeout_s)
    assert shelf.told() == [(FILE, False)]
    assert shelf.deadlines.next() is None


def test_a_source_that_is_linked_again_is_asked_at_once() -> None:
    shelf = Shelf()
    shelf.directory.ensure(A).linked = False
    assert shelf.want(sources=(A,)) == []
    shelf.directory.ensure(A).linked = True
    assert len(asks(shelf.give(MemberLinked(A)))) == 3


def test_wrong_bytes_are_counted_and_the_next_source_gives_all_of_it() -> None:
    shelf = Shelf()
    drain(shelf, shelf.want(), A, bytes(len(DATA)))
    effects = shelf.give(FileSealed(FILE, False))
    assert effects[0] == Refused("wrong_bytes", A)
    assert asks(effects, B)[0] == FileAsk(FILE, 0, 10)
    drain(shelf, effects, B)
    shelf.give(FileSealed(FILE, True))
    assert (shelf.told(), shelf.files.statistics().wrong) == ([(FILE, True)], 1)


def test_wrong_bytes_of_mixed_origin_blame_nobody_and_are_fetched_from_one_source() -> None:
    shelf = Shelf()
    first = asks(shelf.want())
    shelf.give(FilePart(FILE, first[0].offset, len(DATA), bytes(10)), A)
    drain(shelf, shelf.later(shelf.limits.piece_timeout_s), B)
    effects = shelf.give(FileSealed(FILE, False))
    assert effects[0] == Refused("wrong_bytes", "")
    assert asks(effects, B)[0] == FileAsk(FILE, 0, 10), "B has answered, A was silent"
    written = drain(shelf, effects, B)
    assert b"".join(write.data for write in written) == DATA


@pytest.mark.parametrize(
    ("total", "data", "reason"),
    [(-1, b"", "file_not_there"), (len(DATA) + 1, DATA[:10], "file_part_wrong"), (len(DATA), DATA[:9], "file_part_wrong")],
)
def test_a_source_without_the_file_or_with_another_is_not_asked_again(total: int, data: bytes, reason: str) -> None:
    shelf = Shelf()
    shelf.want()
    effects = shelf.give(FilePart(FILE, 0, total, data), A)
    assert effects[0] == Refused(reason, A)
    assert len(asks(effects, B)) == 3
    effects = shelf.give(FilePart(FILE, 0, total, data), B)
    assert (effects[0], shelf.told()) == (Refused(reason, B), [(FILE, False)])


def test_parts_nobody_asked_for_are_refused() -> None:
    shelf = Shelf()
    first = asks(shelf.want())
    refused = Refused("file_part_not_asked", A)
    assert shelf.give(FilePart(FILE, 90, len(DATA), DATA[90:100]), A) == [refused]
    assert shelf.give(FilePart(content_hash(b"x"), 0, 1, b"x"), A) == [refused]
    assert shelf.give(part(first[0]), B) == [Refused("file_part_not_asked", B)]
    shelf.give(part(first[0]), A)
    assert shelf.give(part(first[0]), A) == [refused]


def test_what_can_never_be_a_file_is_refused() -> None:
    shelf = Shelf(file_bytes_max=100)
    for file, size, reason in (("../etc/passwd", 1, "bad_file_hash"), (FILE, 101, "file_too_big"), (FILE, -1, "file_too_big")):
        assert shelf.give(FileWanted(file, size, (A,))) == [Refused(reason)]
        assert shelf.told()[-1] == (file, False)


def test_fetches_are_bounded_and_the_rest_waits() -> None:
    shelf = Shelf(fetches_max=1, window=2)
    names = [content_hash(bytes([index])) for index in range(4)]
    for name in names[:3]:
        shelf.give(FileWanted(name, 0, (A,)))
    assert shelf.files.statistics().fetching == 1
    assert shelf.give(FileWanted(names[3], 0, (A,))) == [Refused("fetches_full")]
    effects = shelf.give(FileRead(ME, names[0], 0, 1, b"x"))
    assert effects == [ReadFile(ME, names[1], 0, 1, need=Need.FREE)]
    shelf.give(FileRead(ME, names[1], 0, 1, b"x"))
    shelf.give(FileRead(ME, names[2], 0, 1, b"x"))
    assert shelf.told() == [(names[3], False), (names[0], True), (names[1], True), (names[2], True)]


def test_pieces_are_served_as_asked() -> None:
    shelf = Shelf()
    assert shelf.give(FileAsk(FILE, 20, 10), A) == [ReadFile(A, FILE, 20, 10, need=Need.FREE)]
    assert shelf.give(FileRead(A, FILE, 20, 104, DATA[20:30])) == [Send(A, FilePart(FILE, 20, 104, DATA[20:30]), need=Need.FREE)]
    shelf.give(FileAsk(FILE, 20, 10), A)
    assert sent(shelf.give(FileRead(A, FILE, 20, 0, None)), FilePart) == [FilePart(FILE, 20, -1, b"")]
    for bad in (FileAsk("../../key", 0, 1), FileAsk(FILE, -1, 1), FileAsk(FILE, 0, PIECE + 1), FileAsk(FILE, 0, -1)):
        assert shelf.give(bad, A) == [Refused("bad_file_ask", A)]


def test_reads_for_peers_are_bounded() -> None:
    shelf = Shelf(fetches_max=1, window=2)
    assert of(shelf.give(FileAsk(FILE, 0, 10), A), ReadFile)
    assert shelf.give(FileAsk(FILE, 0, 10), A) == [Refused("file_reads_full", A)], "half of all is for others"
    assert of(shelf.give(FileAsk(FILE, 0, 10), B), ReadFile)
    assert shelf.give(FileAsk(FILE, 0, 10), C) == [Refused("file_reads_full", C)]
    shelf.give(FileRead(A, FILE, 0, 104, DATA[:10]))
    assert of(shelf.give(FileAsk(FILE, 0, 10), C), ReadFile)


@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(
    st.integers(1, 95),
    st.lists(st.tuples(st.sampled_from(("lose", "twice", "answer", "swap", "wait", "corrupt")), st.integers(0, 9)), max_size=60),
)
def test_whatever_the_network_does_only_the_right_bytes_are_told(size: int, happenings: list[tuple[str, int]]) -> None:
    data = DATA[:size]
    name = content_hash(data)
    shelf = Shelf()
    store = bytearray()
    open_asks: list[tuple[str, FileAsk]] = []
    corrupt = {A: False, B: False}

    def take(effects: list[Any]) -> None:
        for effect in effects:
            if isinstance(effect, Send) and isinstance(effect.message, FileAsk):
                open_asks.append((effect.to, effect.message))
            elif isinstance(effect, WriteFile):
                assert effect.offset in (0, len(store)), "in order, or from the beginning again"
                if effect.offset == 0:
                    store.clear()
                store.extend(effect.data)
                if effect.last:
                    take(shelf.give(FileSealed(name, content_hash(bytes(store)) == name)))

    take(shelf.want(name, size))
    for what, which in happenings:
        if what == "wait":
            take(shelf.later(0.7))
        elif what == "corrupt":
            corrupt[A] = True
        elif open_asks:
            index = which % len(open_asks)
            if what == "swap":
                open_asks.append(open_asks.pop(index))
            else:
                peer, ask = open_asks[index] if what == "twice" else open_asks.pop(index)
                if what != "lose":
                    take(shelf.give(part(ask, bytes(size) if corrupt[peer] else data), peer))
    for _ in range(100):
        while open_asks:
            peer, ask = open_asks.pop(0)
            take(shelf.give(part(ask, bytes(size) if corrupt[peer] else data), peer))
        if shelf.told():
            break
        take(shelf.later(1.0))
    ((told, ok),) = shelf.told()
    assert told == name
    assert not ok or bytes(store) == data
    assert ok or shelf.files.statistics().fetching == 0
