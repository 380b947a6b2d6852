"""The envelope: honest ones open once, and nothing else does. Every header field, every bit, every kind, every redirection."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest
from attacks.envelopes import resigned, with_header, with_payload
from attacks.world import NOW_MS, OTHER_SESSION, SESSION, signer_of

from mesh.messages import KINDS
from mesh.messages.membership import Ack, Ping
from mesh.messages.records import Heads
from mesh.messages.signed import Signed
from mesh.messages.work import Answer
from mesh.wire import envelope
from mesh.wire.codec import encode, kind_of
from mesh.wire.envelope import FLUSH_ENVELOPES_MAX, HEADER_BYTES_MAX, Batch, Header, frame_message, open_envelope, seal_flush
from mesh.wire.packing import Refusal

FIELDS = list(Header.__slots__)


def refused(world: Any, frames: list[bytes], reason: str = "") -> str:
    """It is refused, and nothing has changed: the same window, and an honest envelope still opens afterwards."""
    before = [(session.window.newest, session.window._seen) for session in world.sessions.values()]
    with pytest.raises(Refusal) as caught:
        world.open(frames)
    assert before == [(session.window.newest, session.window._seen) for session in world.sessions.values()]
    assert not reason or caught.value.reason == reason
    return caught.value.reason


# ---- honest


def test_one_message_opens_once(world: Any) -> None:
    frames = world.seal([Ping(7)])
    opened = world.open(frames)
    assert [received.message for received in opened.messages] == [Ping(7)] and opened.refused == [] and not opened.skewed
    assert opened.header.sender == world.a.node and (opened.header.stamp_ms, opened.header.journal_head) == (77, bytes(32))
    refused(world, frames, "replayed")


@pytest.mark.parametrize("kind", sorted(KINDS), ids=lambda kind: KINDS[kind].__name__)
def test_every_kind_crosses_with_its_ids(kind: int, world: Any) -> None:
    message = world.sample(KINDS[kind])
    part = frame_message(kind, encode(message, world.a.seal), 2**64 - 1, cause_id=5, ttl_ms=2**32 - 1)
    ((msg_id, cause_id, ttl_ms, got),) = world.open(world.seal([], parts=[part])).messages
    assert (msg_id, cause_id, ttl_ms, got) == (2**64 - 1, 5, 2**32 - 1, message)


def test_thirty_two_messages_keep_their_order(world: Any) -> None:
    messages = [Ping(number) for number in range(32)]
    opened = world.open(world.seal(messages))
    assert [received.message for received in opened.messages] == messages
    assert [received.msg_id for received in opened.messages] == list(range(1, 33))
    assert world.sessions[SESSION].window.newest == 32


@pytest.mark.parametrize("count", [1, 2, 3, 7, 8, 9, 64, 100])
def test_a_flush_has_one_signature(count: int, world: Any) -> None:
    part = frame_message(kind_of(Ping(1)), encode(Ping(1)), 1)
    signatures = world.a.signatures
    flushed = seal_flush(world.a, [Batch(world.b.node, SESSION, 1 + n, 0, [part]) for n in range(count)], sent_ms=NOW_MS, stamp_ms=1)
    assert world.a.signatures == signatures + 1
    verified = world.keyring.statistics().verified
    for frames in reversed(flushed):
        assert world.open(frames).messages
    assert world.keyring.statistics().verified == verified + 1, "envelopes of one flush are verified once"
    assert {len(frames[2]) for frames in flushed} <= {68 + 32 * n for n in range(8)}


def test_an_empty_flush_is_nothing(world: Any) -> None:
    assert seal_flush(world.a, [], sent_ms=NOW_MS, stamp_ms=1) == []
    with pytest.raises(ValueError, match="4096"):
        seal_flush(world.a, [Batch("n", SESSION, 1, 0, [])] * 4097, sent_ms=NOW_MS, stamp_ms=1)


def test_late_envelopes_of_a_session_open_in_any_order(world: Any) -> None:
    sealed = [world.seal([Ping(n), Ack(n)], first_seq=1 + 2 * n) for n in range(200)]
    for frames in sealed[::-1]:
        assert len(world.open(frames).messages) == 2
    for frames in sealed:
        refused(world, frames, "replayed")


def test_a_wrong_wall_clock_is_a_warning_and_no_more(world: Any) -> None:
    part = frame_message(kind_of(Ping(1)), encode(Ping(1)), 1)
    for number, sent_ms in enumerate((0, NOW_MS - 120_001, NOW_MS - 120_000, NOW_MS + 120_000, NOW_MS + 120_001, 2**53), 1):
        (frames,) = seal_flush(world.a, [Batch(world.b.node, SESSION, number, 0, [part])], sent_ms=sent_ms, stamp_ms=1)
        assert world.open(frames).skewed == (abs(sent_ms - NOW_MS) > 120_000)
    (frames,) = seal_flush(world.a, [Batch(world.b.node, SESSION, 99, 0, [part])], sent_ms=2**53 + 1, stamp_ms=1)
    refused(world, frames, "malformed")


def test_the_largest_numbers_open(world: Any) -> None:
    largest = {"sent_ms": 2**53, "stamp_ms": 2**53, "echo_ms": 2**53, "cert_serial": 2**63 - 1, "first_seq": 2**62}
    frames = resigned(with_header(world.seal([Ping(1)]), **largest), world.a)
    opened = world.open(frames)
    assert {name: getattr(opened.header, name) for name in largest} == largest
    for name, value in largest.items():
        refused(world, resigned(with_header(world.seal([Ping(1)]), **{name: value + 1}), world.a), "malformed")
    smallest = dict.fromkeys(("sent_ms", "stamp_ms", "echo_ms", "cert_serial"), 0)
    world.forget_sessions()
    assert world.open(resigned(with_header(world.seal([Ping(1)]), **smallest), world.a)).header.cert_serial == 0
    for name in (*smallest, "first_seq", "count"):
        below = 0 if name in ("first_seq", "count") else -1
        refused(world, resigned(with_header(world.seal([Ping(1)], first_seq=9), **{name: below}), world.a), "malformed")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("payload_hash", bytes(31)),
        ("payload_hash", bytes(33)),
        ("payload_hash", "h" * 32),
        ("session", "s" * 16),
        ("session", bytes(15)),
        ("session", bytes(17)),
        *((name, value) for name in ("mesh", "sender", "recipient") for value in ("", "x" * 65, b"x")),
    ],
)
def test_a_field_of_another_shape_is_malformed(field: str, value: Any, world: Any) -> None:
    refused(world, resigned(with_header(world.seal([Ping(1)]), **{field: value}), world.a), "malformed")


def test_one_large_message_may_fill_a_frame(world: Any) -> None:
    big = Answer(1, True, b"x" * 900_000)
    assert world.open(world.seal([big])).messages[0].message == big
    refused(world, world.seal([big, Ping(1)], first_seq=2), "too_many_messages")
    refused(world, world.seal([Answer(1, True, b"x" * 1024 * 1024)], first_seq=2), "too_big")


# ---- tampered


def changed(name: str, value: Any) -> Any:
    if isinstance(value, bytes):
        return bytes(byte ^ 1 for byte in value)
    return value + 1 if isinstance(value, int) else value[:-1] + ("a" if value[-1] != "a" else "b")


REASONS = {"v": "version", "mesh": "other_mesh", "sender": "unknown_sender", "recipient": "not_for_me", "session": "stale_session"}
REASONS |= {"payload_hash": "payload_changed", "count": "bad_framing"}


@pytest.mark.parametrize("field", FIELDS)
def test_every_header_field_is_signed(field: str, world: Any) -> None:
    frames = world.seal([Ping(1)])
    value = msgpack.unpackb(frames[0])[FIELDS.index(field)]
    refused(world, with_header(frames, **{field: changed(field, value)}), REASONS.get(field, "bad_signature"))
    assert world.open(frames).messages


ODD = [None, True, -1, 0.5, 2**64 - 1, "", "x" * 65, b"", b"x" * 15, b"x" * 33, [], [1], {}]


@pytest.mark.parametrize("field", FIELDS)
def test_every_header_field_is_strict_even_when_signed(field: str, world: Any) -> None:
    """A member who signs nonsense is refused as well. What is left is what the field may hold."""
    good = {"journal_head": [b""], "mesh": [], "cert_serial": []}
    for odd in ODD:
        frames = resigned(with_header(world.seal([Ping(1)]), **{field: odd}), world.a)
        if odd in good.get(field, []) and type(odd) is bytes:
            assert world.open(resigned(with_header(world.seal([Ping(1)], first_seq=500), **{field: odd}), world.a)).messages
        else:
            refused(world, frames)


def test_every_bit_of_every_frame_counts(world: Any) -> None:
    frames = world.seal([Ping(1), Ack(2)])
    cells = 0
    for which, frame in enumerate(frames):
        for bit in range(len(frame) * 8):
            damaged = bytearray(frame)
            damaged[bit // 8] ^= 1 << bit % 8
            refused(world, [bytes(damaged) if n == which else other for n, other in enumerate(frames)])
            cells += 1
    assert cells > 2000 and world.open(frames).messages


def test_every_length_of_every_frame_counts(world: Any) -> None:
    frames = world.seal([Ping(1), Ack(2)])
    for which, frame in enumerate(frames):
        for size in range(len(frame)):
            refused(world, [frame[:size] if n == which else other for n, other in enumerate(frames)])
        refused(world, [frame + b"\0" if n == which else other for n, other in enumerate(frames)])
    for count in (0, 1, 2):
        refused(world, frames[:count], "frames")
    refused(world, [*frames, b""], "frames")
    refused(world, [b"", *frames], "frames")
    refused(world, [frames[1], frames[0], frames[2]])


def test_a_header_has_one_encoding_and_one_length(world: Any) -> None:
    frames = world.seal([Ping(1)])
    row = msgpack.unpackb(frames[0])
    for header in (
        msgpack.packb([*row, 1]),
        msgpack.packb(row[:-1]),
        b"\xdc\x00\x0d" + frames[0][1:],
        frames[0][:1] + b"\xcc\x01" + frames[0][2:],
        msgpack.packb(dict(enumerate(row))),
        b"\x01",
        b"",
    ):
        refused(world, resigned([header, *frames[1:]], world.a))
    refused(world, [b"x" * 513, *frames[1:]], "too_big")


# ---- bounds, and what they cost


def test_what_is_as_long_as_it_may_be_is_not_too_big(world: Any) -> None:
    frames = world.seal([Ping(1)])
    for size, reason in ((HEADER_BYTES_MAX, "malformed"), (HEADER_BYTES_MAX + 1, "too_big")):
        long = with_header(frames, mesh="")
        long = with_header(frames, mesh="x" * (size - len(long[0]) - 2))
        assert len(long[0]) == size
        refused(world, resigned(long, world.a), reason)
    refused(world, resigned([msgpack.packb([]), *frames[1:]], world.a), "malformed")

    limits, seq = world.expect.limits, 1
    for room, most in (([], limits.frame_bytes_max), ([Ping(1)], limits.batch_bytes_max)):
        roughly = [*room, Answer(1, True, b"x" * (most - 200))]
        fits = [*room, Answer(1, True, b"x" * (2 * most - 200 - len(world.seal(roughly)[1])))]
        frames = world.seal(fits, first_seq=seq)
        assert len(frames[1]) == most and len(world.open(frames).messages) == len(fits)
        seq += len(fits)


def test_a_flush_is_as_large_as_it_may_be_and_no_larger(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    part = frame_message(kind_of(Ping(1)), encode(Ping(1)), 1)
    batches = [Batch(world.b.node, SESSION, number, 0, [part]) for number in range(1, FLUSH_ENVELOPES_MAX + 2)]
    with pytest.raises(ValueError, match="at most"):
        seal_flush(world.a, batches, sent_ms=NOW_MS, stamp_ms=1)
    sealed = seal_flush(world.a, batches[:-1], sent_ms=NOW_MS, stamp_ms=1)
    assert world.open(sealed[-1]).messages and world.open(sealed[-2]).messages
    monkeypatch.setattr(envelope, "FLUSH_ENVELOPES_MAX", FLUSH_ENVELOPES_MAX + 1)
    larger = seal_flush(world.a, batches, sent_ms=NOW_MS, stamp_ms=1)
    monkeypatch.undo()
    refused(world, larger[-1], "bad_proof")
    single = world.seal([Ping(1)], first_seq=9999)
    refused(world, [*single[:2], single[2] + b"x"], "bad_proof")
    pair = seal_flush(world.a, [Batch(world.b.node, SESSION, 9999 + n, 0, [part]) for n in (0, 1)], sent_ms=NOW_MS, stamp_ms=1)
    refused(world, [*pair[0][:2], pair[0][2][:-1]], "bad_proof")


def test_a_message_without_a_body_is_a_bad_message_in_a_good_envelope(world: Any) -> None:
    opened = world.open(world.seal([], parts=[frame_message(kind_of(Ping(1)), b"", 1)]))
    assert opened.messages == [] and opened.refused == [(1, "malformed")]


def test_a_proof_is_bounded(world: Any) -> None:
    frames = world.seal([Ping(1)])
    refused(world, [frames[0], frames[1], frames[2] + bytes(32 * 13)], "too_big")
    refused(world, [frames[0], frames[1], frames[2] + bytes(32 * 12 + 1)], "too_big")
    refused(world, [frames[0], frames[1], frames[2] + bytes(32 * 12)], "bad_proof")
    refused(world, [frames[0], frames[1], frames[2][:67]], "frames")
    refused(world, [frames[0], frames[1], frames[2][:64] + b"\0\0\xff\xff" + bytes(32 * 12)], "bad_proof")
    refused(world, [frames[0], frames[1], frames[2][:64] + b"\0\0\0\0"], "bad_proof")


def test_cheap_checks_come_before_the_signature(world: Any) -> None:
    """Nothing that a stranger sends without a valid session costs a verification."""
    verified = world.keyring.statistics().verified
    frames = world.seal([Ping(1), Ping(2)])
    for bad in (
        world.seal([Ping(1)], world.stranger),
        world.seal([Ping(1)], signer_of(2, "other-mesh")),
        world.seal([Ping(1)], session=b"session-of-past-"),
        world.seal([Ping(1)], session=OTHER_SESSION),
        world.seal([Ping(1)], recipient=world.c.node),
        world.seal([Ping(1)] * 33),
        [frames[0], world.seal([Ping(3)])[1], frames[2]],
        with_payload(frames, frames[1], count=1),
        [*frames[:2], frames[2][:64] + b"\0\1\0\2"],
    ):
        refused(world, bad)
    assert world.keyring.statistics().verified == verified


def test_a_carrier_carries_only_its_own(world: Any) -> None:
    frames = world.seal([Ping(1)])
    with pytest.raises(Refusal) as caught:
        world.open(frames, carrier=world.c.node)
    assert (caught.value.reason, caught.value.peer) == ("wrong_link", world.c.node)
    assert world.open(frames, carrier=world.a.node).messages


# ---- inside a good envelope


def test_bad_messages_are_refused_one_by_one(world: Any) -> None:
    forged = Signed(world.c.node, world.rows["c"].body, world.rows["c"].raw[:-1] + bytes([world.rows["c"].raw[-1] ^ 1]))
    parts = [
        frame_message(10, encode(Ping(1)), 1),
        frame_message(9999, b"\x90", 2),
        frame_message(10, b"\x91\xa1x", 3),
        frame_message(31, msgpack.packb([world.a.node, forged.raw, forged.raw]), 4),
        frame_message(10, b"", 5),
        frame_message(30, encode(Heads((forged,))), 6),
        frame_message(11, encode(Ack(7)), 7),
    ]
    opened = world.open(world.seal([], parts=parts))
    assert [(received.msg_id, received.message) for received in opened.messages] == [(1, Ping(1)), (6, Heads(())), (7, Ack(7))]
    assert opened.refused == [(2, "unknown_kind"), (3, "malformed"), (4, "bad_signature"), (5, "malformed")]
    assert world.sessions[SESSION].window.newest == 7


def test_refusals_name_the_claimed_sender_once_it_is_readable(world: Any) -> None:
    with pytest.raises(Refusal) as caught:
        open_envelope(world.keyring, world.seal([Ping(1)], session=b"session-of-past-"), world.expect)
    assert (caught.value.reason, caught.value.peer) == ("stale_session", world.a.node)
