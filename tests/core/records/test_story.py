"""Stories: packed and read back, and every lie in one shown as unverified or refused. Bytes are `repr` here, the wire's with the store."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.core.records import merkle
from mesh.core.records.journal import JournalWriter
from mesh.core.records.story import BadStory, Story, chapter, pack_story, verify_story
from mesh.messages.records import Calls, Candidate, Decided, Opened, Parked
from mesh.messages.signed import Signed

ENTRIES = [
    Opened(3, b"\x01\x02", 17, "otter"),
    Decided("t", 1, "award", "least", "n", (Candidate("n", "otter", 1, 2, 0.5, "a"),), (("m", "crow", "busy"),), 9),
    Parked("t", "nobody"),
    Calls(4, b"\xff"),
    Parked("u", "nobody"),
]
DATA = [repr(entry).encode() for entry in ENTRIES]


def decode(data: bytes) -> Any:
    if data not in DATA:
        raise ValueError("no such entry")
    return ENTRIES[DATA.index(data)]


class Signatures:
    """What was signed, and nothing else, opens."""

    def __init__(self) -> None:
        self.known: dict[bytes, Signed] = {}

    def seal(self, signed: Signed) -> bytes:
        signed.raw = b"signed " + repr(signed.body).encode()
        self.known[signed.raw] = signed
        return merkle.leaf(signed.raw)


def packed(wanted: list[int], signatures: Signatures, incarnation: int = 3) -> bytes:
    commit = JournalWriter("a", incarnation, seal=signatures.seal, next_seq=10).commit(DATA, wall_ms=5000)
    leaves = [merkle.leaf(data) for data in DATA]
    return pack_story([chapter(commit.body, commit.raw, DATA, leaves, wanted)], more=12)


def read(data: bytes, signatures: Signatures) -> Story:
    return verify_story(data, signatures.known.get, decode)


def test_a_story_is_read_back_with_its_place_and_time() -> None:
    signatures = Signatures()
    story = read(packed([11, 12], signatures), signatures)
    assert [(item.seq, item.kind, item.verified) for item in story.items] == [(11, "Decided", True), (12, "Parked", True)]
    assert story.more == 12
    assert story.rows()[1] == {
        "task": "t",
        "reason": "nobody",
        "at_ms": 0,
        "author": "a",
        "incarnation": 3,
        "seq": 12,
        "kind": "Parked",
        "verified": True,
        "wall_ms": 5000,
    }
    json.dumps(story.rows())


def test_an_opened_row_keeps_its_own_number_and_shows_the_cited_one() -> None:
    signatures = Signatures()
    [row] = read(packed([10], signatures), signatures).rows()
    assert (row["seq"], row["cited_seq"], row["head"], row["incarnation"]) == (10, 17, "0102", 3)


def test_nested_values_are_plain_json() -> None:
    signatures = Signatures()
    [row] = read(packed([11], signatures), signatures).rows()
    assert row["candidates"] == [
        {
            "node": "n",
            "name": "otter",
            "start_ms": 1,
            "service_ms": 2,
            "cost": 0.5,
            "agent": "a",
            "calibration_pct": 100,
            "transfer_ms": 0,
            "version": "",
        }
    ]
    assert row["refusals"] == [["m", "crow", "busy"]]


def changed(data: bytes, **changes: Any) -> bytes:
    document = json.loads(data)
    document["commits"][0].update(changes)
    return json.dumps(document).encode()


def changed_entry(data: bytes, at: int, value: Any) -> bytes:
    document = json.loads(data)
    document["commits"][0]["entries"][0][at] = value
    return json.dumps(document).encode()


def test_an_unknown_signature_is_shown_as_unverified_with_its_claims() -> None:
    signatures = Signatures()
    data = changed(packed([12], signatures), raw="AAAA", author="mallory")
    [item] = read(data, signatures).items
    assert (item.author, item.seq, item.kind, item.verified) == ("mallory", 12, "Parked", False)


def test_claims_beside_a_true_commit_do_not_count() -> None:
    signatures = Signatures()
    data = changed(packed([12], signatures), author="mallory", first=500, hlc=0, incarnation=9)
    [item] = read(data, signatures).items
    assert (item.author, item.incarnation, item.seq, item.wall_ms, item.verified) == ("a", 3, 12, 5000, True)


def test_another_place_another_entry_or_another_path_is_unverified() -> None:
    import base64

    signatures = Signatures()
    data = packed([12], signatures)
    for bad in (
        changed_entry(data, 0, 1),
        changed_entry(data, 0, 4),
        changed_entry(data, 0, -1),
        changed_entry(data, 0, 10**9),
        changed_entry(data, 1, base64.b64encode(DATA[4]).decode()),
        changed_entry(data, 2, ""),
        changed_entry(data, 2, base64.b64encode(bytes(96)).decode()),
    ):
        [item] = read(bad, signatures).items
        assert not item.verified


def test_an_entry_of_an_unknown_kind_is_shown() -> None:
    signatures = Signatures()
    [item] = read(changed_entry(packed([12], signatures), 1, "AAAA"), signatures).items
    assert (item.kind, item.entry, item.verified) == ("unknown", None, False)
    assert item.row()["kind"] == "unknown"


def test_a_commit_signed_by_one_in_the_name_of_another_is_unverified() -> None:
    signatures = Signatures()
    data = packed([12], signatures)
    for signed in signatures.known.values():
        signed.author = "b"
    assert not read(data, signatures).items[0].verified


def test_refusals_of_the_opener_are_no_errors() -> None:
    signatures = Signatures()
    data = packed([12], signatures)
    story = verify_story(data, signatures.known.__getitem__, decode, (KeyError, ValueError))
    assert story.items[0].verified
    story = verify_story(data, {}.__getitem__, decode, (KeyError, ValueError))
    assert not story.items[0].verified


def test_items_are_in_order_of_time() -> None:
    signatures = Signatures()
    late = JournalWriter("a", 1, seal=signatures.seal).commit(DATA[:1], wall_ms=9000)
    early = JournalWriter("b", 1, seal=signatures.seal).commit(DATA[2:3], wall_ms=8000)
    pages = [chapter(one.body, one.raw, data, [merkle.leaf(data[0])], [1]) for one, data in ((late, DATA[:1]), (early, DATA[2:3]))]
    assert [item.author for item in read(pack_story(pages), signatures).items] == ["b", "a"]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff",
        b"[]",
        b"{}",
        b'{"format":2,"commits":[],"more":0}',
        b'{"format":1,"commits":{},"more":0}',
        b'{"format":1,"commits":[3],"more":0}',
        b'{"format":1,"commits":[],"more":"x"}',
        b'{"format":1,"commits":[{"author":"a","incarnation":1,"first":-1,"count":1,"hlc":0,"raw":"","entries":[]}],"more":0}',
        b'{"format":1,"commits":[{"author":"a","incarnation":1,"first":1,"count":1,"hlc":0,"raw":"?","entries":[]}],"more":0}',
        b'{"format":1,"commits":[{"author":"a","incarnation":1,"first":1,"count":1,"hlc":0,"raw":"","entries":[[0]]}],"more":0}',
        b'{"format":1,"commits":[{"author":7,"incarnation":1,"first":1,"count":1,"hlc":0,"raw":"","entries":[]}],"more":0}',
        b"[" * 100_000,
    ],
)
def test_what_is_no_story_is_refused(data: bytes) -> None:
    with pytest.raises(BadStory):
        verify_story(data, {}.get, decode)


def test_a_story_longer_than_allowed_is_refused() -> None:
    signatures = Signatures()
    data = packed([10, 11, 12], signatures)
    with pytest.raises(BadStory):
        verify_story(data, signatures.known.get, decode, entries_max=2)


JSON = st.recursive(
    st.none() | st.integers() | st.text(max_size=5) | st.booleans(), lambda inner: st.lists(inner, max_size=4), max_leaves=8
)
FIELDS = st.sampled_from(["author", "incarnation", "first", "count", "hlc", "raw", "entries"])


@given(FIELDS, JSON)
def test_any_field_of_any_value_is_a_story_or_refused(name: str, value: Any) -> None:
    signatures = Signatures()
    data = changed(packed([12], signatures), **{name: value})
    try:
        story = read(data, signatures)
    except BadStory:
        return
    assert all(item.author == "a" for item in story.items if item.verified)


def both(*stories: bytes) -> bytes:
    """As one, as who asks several nodes gets them."""
    documents = [json.loads(story) for story in stories]
    return json.dumps({**documents[0], "commits": [commit for one in documents for commit in one["commits"]]}).encode()


def test_what_several_nodes_tell_of_one_journal_counts_once() -> None:
    signatures = Signatures()
    data = packed([11, 12], signatures)
    for story in (both(data, data), both(data, changed(data, raw="AAAA")), both(changed(data, raw="AAAA"), data)):
        assert [(item.seq, item.verified) for item in read(story, signatures).items] == [(11, True), (12, True)]


def test_other_bytes_in_the_same_place_are_shown_beside_the_true_ones() -> None:
    """A lie about it, and the other end of a journal that was forked."""
    import base64

    signatures = Signatures()
    lie = changed_entry(packed([12], signatures), 1, base64.b64encode(DATA[4]).decode())
    items = read(both(packed([12], signatures), lie), signatures).items
    assert sorted((item.seq, item.verified) for item in items) == [(12, False), (12, True)]
    forked = JournalWriter("a", 3, seal=signatures.seal, next_seq=12).commit(DATA[4:], wall_ms=5000)
    other = pack_story([chapter(forked.body, forked.raw, DATA[4:], [merkle.leaf(DATA[4])], [12])])
    items = read(both(packed([12], signatures), other), signatures).items
    assert sorted((item.seq, item.verified, item.entry.task) for item in items) == [(12, True, "t"), (12, True, "u")]


def test_what_a_taker_copied_counts_once_beside_what_it_was_copied_from() -> None:
    signatures = Signatures()
    copy = JournalWriter("b", 8, seal=signatures.seal, next_seq=40).commit(DATA[2:3], wall_ms=9000)
    taken = pack_story([chapter(copy.body, copy.raw, DATA[2:3], [merkle.leaf(DATA[2])], [40])])
    assert [(item.author, item.seq) for item in read(both(taken, packed([12], signatures)), signatures).items] == [("a", 12)]
    assert [(item.author, item.seq) for item in read(taken, signatures).items] == [("b", 40)], "what is left when the other is gone"
