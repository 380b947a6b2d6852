"""Frames of the local socket: cut anywhere, bounded, and refused when they are not what they should be."""

from __future__ import annotations

import struct
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.runtime import protocol_local
from mesh.runtime.protocol_local import BadFrame, Splitter, frame, parse

values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text() | st.binary(), lambda inner: st.lists(inner, max_size=4)
)
messages = st.tuples(st.integers(0, 2**31), st.text() | st.booleans(), st.dictionaries(st.text(), values, max_size=4)).map(list)


@given(st.lists(messages, max_size=5), st.data())
def test_a_stream_cut_anywhere_gives_the_same_messages(sent: list[list[Any]], data: st.DataObject) -> None:
    stream = b"".join(map(frame, sent))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    splitter, got = Splitter(), []
    for start, end in zip([0, *cuts], [*cuts, len(stream)]):
        got += splitter.feed(stream[start:end])
    assert got == sent


@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_a_refusal(data: bytes) -> None:
    try:
        message = parse(data)
    except BadFrame as bad:
        assert bad.reason.replace("_", "").isalpha()
    else:
        assert type(message[0]) is int and type(message[2]) is dict


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"\xc1", "not_msgpack"),
        (b"", "not_msgpack"),
        (msgpack.packb([1, "x", {}]) + b"x", "not_msgpack"),
        (b"\x91" * 2000 + b"\x90", "not_msgpack"),
        (msgpack.packb([1, "x"]), "not_a_triple"),
        (msgpack.packb({"a": 1}), "not_a_triple"),
        (msgpack.packb([-1, "x", {}]), "wrong_shape"),
        (msgpack.packb([True, "x", {}]), "wrong_shape"),
        (msgpack.packb([1, b"x", {}]), "wrong_shape"),
        (msgpack.packb([1, "x", []]), "wrong_shape"),
        (b"\x93\x01\xa1x\x81\x01\x02", "not_msgpack"),
    ],
)
def test_what_is_no_message_is_named(body: bytes, reason: str) -> None:
    with pytest.raises(BadFrame) as caught:
        parse(body)
    assert caught.value.reason == reason


def test_a_frame_too_big_is_refused_before_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol_local, "FRAME_BYTES_MAX", 100)
    with pytest.raises(BadFrame, match="frame_too_big"):
        Splitter().feed(struct.pack(">I", 101))
    with pytest.raises(BadFrame, match="frame_too_big"):
        frame([1, "x", {"a": b"x" * 100}])
