"""Every class round-trips; any bytes at all give an object or a refusal; growth and canonical form."""

from __future__ import annotations

import contextlib
import dataclasses
import random
import string
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import msgpack
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mesh.messages import KINDS, SIGNED
from mesh.messages.membership import Load, LoadRow, Ping, Rumours
from mesh.messages.records import ENTRIES, Candidate, Finished, Heads, Opened
from mesh.messages.signed import Signed
from mesh.messages.work import Award, Beat, BeatItem, Bid, BidItem, FileAsk
from mesh.wire import codec
from mesh.wire.codec import Refusal
from mesh.wire.packing import NODES_MAX, unpack

# ---- strategies from type hints
from mesh.wire.shapes import _EXACT_BYTES as _EXACT
from mesh.wire.shapes import INT_MAX, ROWS_MAX, shape_of

_HASH = Annotated[str, "hash"]
_HINTS: dict[str, Any] = {"NodeId": Annotated[str, "node"], "TaskId": Annotated[str, "task"], "Hash": _HASH, "FileRef": tuple[_HASH, int]}
_ALPHABETS = {
    "node": st.text(string.ascii_letters + string.digits + "-_", max_size=64),
    "task": st.text(string.ascii_letters + string.digits + "-_.", max_size=128),
    "hash": st.one_of(st.just(""), st.text("0123456789abcdef", min_size=64, max_size=64)),
}


def objects(cls: type) -> st.SearchStrategy[Any]:
    hints = get_type_hints(cls, localns=_HINTS, include_extras=True)
    return st.builds(cls, **{field.name: values(hints[field.name], cls.__name__, field.name) for field in dataclasses.fields(cls)})


def values(hint: Any, owner: str, name: str) -> st.SearchStrategy[Any]:
    if get_origin(hint) is Annotated:
        return _ALPHABETS[get_args(hint)[1]]
    if get_origin(hint) is tuple:
        args = get_args(hint)
        if args[-1] is Ellipsis:
            return st.lists(values(args[0], owner, name), max_size=3).map(tuple)
        return st.tuples(*(values(arg, owner, name) for arg in args))
    if hint is Signed:
        return st.builds(Signed, st.just("n1"), st.just(None), st.binary(min_size=1, max_size=20))
    if dataclasses.is_dataclass(hint):
        return objects(hint)
    if hint is bytes:
        exact = _EXACT.get((owner, name))
        return st.binary(min_size=exact or 0, max_size=exact or 200)
    simple: dict[Any, st.SearchStrategy[Any]] = {
        str: st.text(st.characters(exclude_categories=["Cs"]), max_size=40),
        int: st.integers(-1 if name in ("total", "retries") else 0, INT_MAX),
        bool: st.booleans(),
        float: st.floats(allow_nan=False, allow_infinity=False),
    }
    return simple[hint]


def unverified(raw: bytes) -> Signed:
    return Signed("n1", None, raw)


@pytest.mark.parametrize("cls", [*KINDS.values(), *ENTRIES, *SIGNED.values()], ids=lambda cls: cls.__name__)
def test_round_trip(cls: type) -> None:
    @settings(max_examples=25, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    @given(objects(cls))
    def check(item: Any) -> None:
        if cls in ENTRIES:
            assert codec.decode_entry(codec.encode_entry(item)) == item
        elif cls in SIGNED.values():
            tag, body = codec.encode_object(item)
            assert codec.decode_object(tag, body, unverified) == item
        else:
            assert codec.decode(codec.kind_of(item), codec.encode(item), unverified) == item

    check()


# ---- totality

_READERS = [lambda data, kind=kind: codec.decode(kind, data, unverified) for kind in KINDS]
_READERS += [codec.decode_entry, unpack]
_READERS += [lambda data, tag=tag: codec.decode_object(tag, data, unverified) for tag in SIGNED]


def survives(data: bytes) -> None:
    for read in _READERS:
        try:
            read(data)
        except Refusal as refusal:
            assert refusal.reason.replace("_", "").isalpha()


@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(st.binary(max_size=300))
def test_any_bytes_are_an_object_or_a_refusal(data: bytes) -> None:
    survives(data)


_JUNK = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(max_size=5) | st.binary(max_size=5),
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=20,
)


@settings(max_examples=80, deadline=None, derandomize=True, database=None)
@given(st.lists(_JUNK, max_size=12))
def test_any_values_are_an_object_or_a_refusal(row: list[Any]) -> None:
    survives(msgpack.packb(row, unicode_errors="surrogatepass"))


@pytest.mark.parametrize("kind", sorted(KINDS), ids=lambda kind: KINDS[kind].__name__)
def test_mutations_of_honest_bodies(kind: int, world: Any) -> None:
    random_ = random.Random(kind)
    honest = codec.encode(world.sample(KINDS[kind]), world.a.seal)
    for _ in range(300):
        data = bytearray(honest)
        for _ in range(random_.randint(1, 4)):
            at = random_.randrange(len(data))
            match random_.randrange(4):
                case 0:
                    data[at] ^= 1 << random_.randrange(8)
                case 1:
                    data[at] = random_.choice(b"\x00\x80\x90\xc0\xc1\xc4\xc9\xca\xcb\xd9\xdc\xdd\xde\xdf\xff")
                case 2 if len(data) > 1:
                    del data[at:]
                case _:
                    data[at:at] = random_.randbytes(3)
            if not data:
                break
        with contextlib.suppress(Refusal):
            codec.decode(kind, bytes(data), world.keyring.open)


def test_deep_nesting_is_refused_or_ignored() -> None:
    for depth in (10, 500, 511, 512, 1000, 1022, 1023, 1024, 5000, 200_000):
        survives(b"\x91" * depth + b"\xc0")
        survives(b"\x92\x01" + b"\x91" * depth + b"\xc0")
        survives(b"\x97\xa6Opened\x01\xc4\x00\x00\xa0\xa0" + b"\x91" * depth + b"\xc0")


@pytest.mark.parametrize(
    "bomb", [b"\x80", b"\xc0", b"\x90", b"\x91\xc0", b"\xc7\x00\x05"], ids=["maps", "nils", "arrays", "nested", "extensions"]
)
def test_bombs_of_many_values_are_refused_by_their_count(bomb: bytes) -> None:
    count = (1024 * 1024 - 5) // len(bomb)
    with pytest.raises(Refusal) as caught:
        unpack(b"\xdd" + count.to_bytes(4, "big") + bomb * count)
    assert caught.value.reason == "too_many_values"


@pytest.mark.parametrize(
    "extra", [{"a": 1}, [[{1: 2}]], msgpack.ExtType(5, b"x"), msgpack.Timestamp(1, 1)], ids=["map", "deep", "extension", "time"]
)
def test_maps_and_extensions_have_no_place_even_where_nobody_looks(extra: Any) -> None:
    with pytest.raises(Refusal, match="malformed"):
        codec.decode(10, msgpack.packb([7, 9, extra]))


def test_one_large_value_is_no_bomb() -> None:
    data = msgpack.packb([1, b"x" * 900_000, ["y" * 70_000], 2.5, -1, 2**63, {}, None, True, list(range(-40, 70_000, 7))])
    assert unpack(data)[1] == b"x" * 900_000
    with pytest.raises(Refusal, match="malformed"):
        unpack(data[:-1])
    with pytest.raises(Refusal, match="too_big"):
        unpack(msgpack.packb(b"x" * 1024 * 1024))


def test_the_count_reads_every_head_that_msgpack_has() -> None:
    """Each kind of head, behind enough bytes for the count to be made: counted alike by the walk and by msgpack."""
    ext = msgpack.ExtType
    row = [b"x" * NODES_MAX, None, False, True, 0, 127, 128, 2**16, 2**32, 2**64 - 1, -1, -32, -33, -(2**15), -(2**31), -(2**63), 1.5, ""]
    row += ["a" * 31, "a" * 32, "a" * 256, "a" * 2**16, b"", b"b" * 256, b"b" * 2**16, [], [0] * 15, [0] * 16, [[1]], {}]
    data = msgpack.packb(row)
    assert list(unpack(data)) == list(msgpack.unpackb(data, use_list=False))
    for size in (1, 2, 4, 8, 16, 3, 300, 70_000):
        with pytest.raises(Refusal, match="malformed"):
            unpack(msgpack.packb([b"x" * NODES_MAX, ext(5, b"e" * size)]))


# ---- types, ranges, lengths

_H = "0" * 64
BAD = [
    (10, ["1"], "a string for a number"),
    (10, [True], "a boolean for a number"),
    (10, [1.0], "a float for a number"),
    (10, [-1], "negative"),
    (10, [2**63], "above 63 bits"),
    (10, [], "too short"),
    (10, [None], "nothing"),
    (12, [1, "a/b"], "a node id with a slash"),
    (12, [1, "n" * 65], "a node id too long"),
    (12, [1, b"n1"], "bytes for text"),
    (12, [1, "n\n1"], "a control character in an id"),
    (44, [[["t.1.1", 1], ["t.1.2"]]], "a pair too short"),
    (44, [[["t.1.1", 1, 2]]], "a pair too long"),
    (44, ["t.1.1"], "text for rows"),
    (44, [[["t", 1]] * (ROWS_MAX + 1)], "too many rows"),
    (46, [[["t", 1, "running", float("nan"), ""]]], "not a number"),
    (46, [[["t", 1, "running", float("inf"), ""]]], "infinity"),
    (46, [[["t", 1, "r" * 257, 0.5, ""]]], "a name too long"),
    (46, [[["t", 1, "running", 0.5, "n" * 1025]]], "a note too long"),
    (45, [[["t", 1, "r" * 1025]]], "a reason too long"),
    (49, ["t", 1, "error", "m" * 4097, True], "a message too long"),
    (49, ["t", 1, "error", "m", True, "a", "d" * (32 * 1024 + 1)], "a traceback too long"),
    (64, ["../../etc/passwd", 0, 1], "a path for a hash"),
    (64, [_H.replace("0", "A"), 0, 1], "upper case"),
    (64, [_H + "\n", 0, 1], "a line end after a hash"),
    (64, [_H[1:], 0, 1], "a hash too short"),
    (65, [_H, 0, -2, b""], "a size below -1"),
    (1, [b"x" * 15], "a session too short"),
    (14, [["text"]], "text for a statement"),
    (10, {"probe": 1}, "a map"),
    (10, 1, "a number"),
]


@pytest.mark.parametrize(("kind", "row", "why"), BAD, ids=[case[2] for case in BAD])
def test_bad_rows_are_malformed(kind: int, row: Any, why: str) -> None:
    with pytest.raises(Refusal) as caught:
        codec.decode(kind, msgpack.packb(row), unverified)
    assert caught.value.reason == "malformed"


def test_unknown_kinds_entries_and_objects() -> None:
    for read, reason in (
        (lambda: codec.decode(9999, b"\x90"), "unknown_kind"),
        (lambda: codec.decode_entry(msgpack.packb(["Nothing", 1])), "unknown_entry"),
        (lambda: codec.decode_object("nothing", b"\x90"), "unknown_object"),
    ):
        with pytest.raises(Refusal) as caught:
            read()
        assert caught.value.reason == reason


# ---- growth


def test_fields_of_later_versions_are_ignored_everywhere() -> None:
    assert codec.decode(10, msgpack.packb([7, 9, "new", [1, [2]], None])) == Ping(7, 9)
    rows = [["greet", 8, 1, 0, 7, 3, "open", 50, "new"], ["sing", 1, 0, 0, 1, 0]]
    load = Load(1, (LoadRow("greet", 8, 1, 0, 7, 3, "open", 50), LoadRow("sing", 1, 0, 0, 1, 0)), True, (1, 7))
    assert codec.decode(16, msgpack.packb([1, rows, True, [1, 7], {}])) == load
    assert codec.decode_entry(msgpack.packb(["Opened", 2, bytes(32), 5, "otter", "mesh", "new"])) == Opened(
        2, bytes(32), 5, "otter", "mesh"
    )
    assert codec.decode_object("left", msgpack.packb(["n1", 2, "new"])).incarnation == 2


def test_fields_that_an_earlier_version_lacks_take_their_defaults() -> None:
    assert codec.decode(10, msgpack.packb([7])) == Ping(7, 0)
    assert codec.decode(46, msgpack.packb([[["t.1.1", 9, "queued"]]])) == Beat((BeatItem("t.1.1", 9, "queued"),))
    assert codec.decode_entry(msgpack.packb(["Finished", "t.1.1", 9, "done"])) == Finished("t.1.1", 9, "done")
    assert codec.decode(43, msgpack.packb([[], 1, 2])) == Award((), 1, 2)


@pytest.mark.parametrize("cls", [*KINDS.values(), *ENTRIES, *SIGNED.values()], ids=lambda cls: cls.__name__)
def test_defaults_stand_at_the_end_and_are_plain(cls: type) -> None:
    fields = dataclasses.fields(cls)
    has_default = [field.default is not dataclasses.MISSING for field in fields]
    assert has_default == sorted(has_default)
    assert all(field.default_factory is dataclasses.MISSING for field in fields)
    assert shape_of(cls).count == len(fields)


# ---- canonical form

_NOT_SHORTEST = [
    (b"\x94\xa6Opened\x01\xc4\x00\x00", True, "shortest"),
    (b"\x94\xa6Opened\xcc\x01\xc4\x00\x00", False, "a long integer"),
    (b"\x94\xd9\x06Opened\x01\xc4\x00\x00", False, "a long text head"),
    (b"\xdc\x00\x04\xa6Opened\x01\xc4\x00\x00", False, "a long array head"),
    (b"\x94\xa6Opened\x01\xc5\x00\x00\x00", False, "a long bytes head"),
    (b"\x95\xa6Opened\x01\xc4\x00\x00\xa0", True, "the default said"),
    (b"\x97\xa6Opened\x01\xc4\x00\x00\xa0\xa0\xca\x00\x00\x00\x00", False, "a short float in a later field"),
    (b"\x97\xa6Opened\x01\xc4\x00\x00\xa0\xa0\x80", True, "an empty map in a later field"),
]


@pytest.mark.parametrize(("data", "good", "why"), _NOT_SHORTEST, ids=[case[2] for case in _NOT_SHORTEST])
def test_entries_have_one_encoding(data: bytes, good: bool, why: str) -> None:
    if good:
        assert codec.decode_entry(data) == Opened(1, b"", 0)
    else:
        with pytest.raises(Refusal, match="not_canonical"):
            codec.decode_entry(data)


def test_numbers_in_float_fields_have_one_encoding() -> None:
    one, other = (BidItem("t", 1, 2, cost, "g") for cost in (1, 1.0))
    assert codec.encode(Bid(1, (one,), 5)) == codec.encode(Bid(1, (other,), 5))
    assert shape_of(Candidate).row(Candidate("n", "n", 1, 2, 3), None)[4] == 3.0


def test_a_lone_surrogate_does_not_stop_a_flush() -> None:
    assert codec.decode(46, codec.encode(Beat((BeatItem("t", 1, "running", 0.0, "a\ud800b"),)))).items[0].note == "a?b"


def test_what_a_journal_keeps_can_be_read_again() -> None:
    """A peer's longest words, in JSON, fit an entry; what could not be read back is never written."""
    longest = Finished("t.1.1", 9, "failed", error='"' + "\\\\u0000" * 37_000 + '"')
    assert codec.decode_entry(codec.encode_entry(longest)) == longest
    odd = Finished("t.1.1", 9, "failed", error="a\ud800b")
    assert codec.decode_entry(codec.encode_entry(odd)).error == "a?b"
    for bad in (
        Finished("t.1.1", 9, "failed", error="x" * 1024 * 1024),
        Finished("t.1.1", -9, "failed"),
        Finished("a/b", 9, "failed"),
        Finished("t.1.1", 9, "done", output="abc"),
        Opened(1, bytes(32), 0, None),  # type: ignore[arg-type]
    ):
        with pytest.raises(ValueError, match="could not be read back"):
            codec.encode_entry(bad)


# ---- statements inside


def test_statements_need_somebody_to_open_them(world: Any) -> None:
    message = Heads((world.rows["a"],))
    with pytest.raises(Refusal, match="unverifiable"):
        codec.decode(30, codec.encode(message))
    with pytest.raises(ValueError, match="signer"):
        codec.encode(Heads((Signed("n1", world.rows["a"].body),)))


def test_one_bad_statement_does_not_take_the_others_with_it(world: Any) -> None:
    good, bad = world.rows["a"], Signed(world.c.node, world.rows["c"].body, world.rows["c"].raw[:-1] + bytes([world.rows["c"].raw[-1] ^ 1]))
    got = codec.decode(14, codec.encode(Rumours((bad, good, bad))), world.keyring.open)
    assert got == Rumours((good,))
    assert world.keyring.statistics().refused == {"bad_signature": 2}


def test_file_hashes_are_safe_as_file_names() -> None:
    assert codec.decode(64, codec.encode(FileAsk(_H, 0, 1))) == FileAsk(_H, 0, 1)
