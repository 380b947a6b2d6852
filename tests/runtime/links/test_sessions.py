"""HELLO and WELCOME without a network: who is turned away, and when a session ends."""

from __future__ import annotations

from dataclasses import replace

import pytest
from attacks.world import Line, line_of, sealed
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.limits import LinkLimits
from mesh.messages.membership import Offer
from mesh.messages.session import Hello
from mesh.messages.signed import Signed
from mesh.runtime.links.sessions import Greeting, Sessions, read_turned, turned
from mesh.wire.keyring import Keyring
from mesh.wire.packing import Refusal, pack

LIMITS = LinkLimits(peers_max=4, pending_sessions_max=3)
DOORS = {"door": "127.0.0.1:1", "router": "127.0.0.1:2"}


class Side:
    """One node's sessions, with a clock that the test moves. `root`: the seed of the mesh's root key."""

    def __init__(self, seed: bytes, *, mesh: str = "m", incarnation: int = 1, root: int = 1, offers: tuple[Offer, ...] = ()) -> None:
        self.line: Line = line_of(seed[0], mesh, root=root)
        self.signer = self.line.node
        self.node, self.now_ms, self._tokens = self.signer.node, 1_000_000, 0
        self.row = self.line.row(incarnation=incarnation, offers=offers, **DOORS)
        self.binding = self.line.binding()
        self.sessions = Sessions(
            lambda: self.row,
            lambda: self.binding,
            self.signer,
            Keyring(mesh, (self.line.root.public_key,)),
            LIMITS,
            token=self._token,
            clock_ms=lambda: self.now_ms,
        )

    def _token(self, size: int) -> bytes:
        self._tokens += 1
        return self._tokens.to_bytes(2, "big") + self.signer.public_key[: size - 2]

    def said(self, **changes: object) -> bytes:
        hello = Hello(1, self.signer.mesh, self.row, "", b"n" * 16, self.now_ms, self.binding)
        return self.signer.seal(Signed(self.node, replace(hello, **changes)))  # type: ignore[arg-type]


def greet(caller: Side, called: Side) -> Greeting:
    """The WELCOME that `caller` gets, as he reads it."""
    nonce, hello = caller.sessions.hello()
    welcome, _ = called.sessions.answer(hello)
    return caller.sessions.welcomed(welcome, nonce, called.node)


def reason_of(side: Side, frame: bytes) -> str:
    with pytest.raises(Refusal) as refusal:
        side.sessions.answer(frame)
    return refusal.value.reason


def test_a_greeting_gives_each_side_what_it_needs() -> None:
    left, right = Side(b"a"), Side(b"b")
    nonce, hello = left.sessions.hello(right.node, back=False)
    welcome, seen = right.sessions.answer(hello)
    given = left.sessions.welcomed(welcome, nonce, right.node)
    assert (seen.peer, seen.alive, seen.back) == (left.node, left.row, False)
    assert (given.peer, given.alive, given.router) == (right.node, right.row, "127.0.0.1:2")
    assert right.sessions.inbound[given.session].peer == left.node


def test_who_is_turned_away() -> None:
    right = Side(b"b")
    assert reason_of(right, Side(b"c", mesh="other").said()) == "other_mesh"
    assert reason_of(right, Side(b"c", root=9).said()) == "bad_certificate"
    assert reason_of(right, right.said()) == "self"
    assert reason_of(right, Side(b"c").said(v=2)) == "version"
    assert reason_of(right, Side(b"c").said(recipient="somebody")) == "other_node"
    assert reason_of(right, Side(b"c").said(mesh="other")) == "other_mesh"
    good = Side(b"c").said()
    assert reason_of(right, good[:-1] + bytes([good[-1] ^ 1])) == "bad_signature"
    assert reason_of(right, b"\x93noise") == "malformed"
    assert reason_of(right, Side(b"c").signer.seal(Side(b"c").row)) == "malformed"
    stranger, member = Side(b"d"), Side(b"c")
    stranger.row = member.row
    assert reason_of(right, stranger.said()) in ("not_own", "unknown_author")
    assert reason_of(right, member.said(binding=Side(b"e").binding)) in ("not_own", "unknown_author", "malformed")
    assert reason_of(right, member.said(binding=member.row)) == "not_own"
    assert not right.sessions.inbound


def test_an_older_hello_is_turned_away_and_so_is_a_former_life() -> None:
    left, right = Side(b"a"), Side(b"b")
    old = left.said()
    left.now_ms += 10_000
    right.sessions.answer(left.said())
    assert reason_of(right, old) == "replayed"
    left.now_ms -= 1_500
    right.sessions.answer(left.said())  # out of order by less than a handshake
    right.sessions.answer(Side(b"a", incarnation=2).said())
    assert reason_of(right, left.said(stamp_ms=left.now_ms + 60_000)) == "old_life"


def test_what_a_caller_refuses_in_an_answer() -> None:
    left, right, third = Side(b"a"), Side(b"b"), Side(b"c")
    nonce, hello = left.sessions.hello()
    welcome, _ = right.sessions.answer(hello)
    with pytest.raises(Refusal, match="wrong_nonce"):
        left.sessions.welcomed(welcome, b"x" * 16)
    with pytest.raises(Refusal, match="other_node"):
        left.sessions.welcomed(welcome, nonce, third.node)
    with pytest.raises(Refusal, match="busy"):
        left.sessions.welcomed(turned("busy"), nonce)
    with pytest.raises(Refusal, match="malformed"):
        left.sessions.welcomed(hello, nonce)
    assert left.sessions.welcomed(welcome, nonce).peer == right.node


def test_a_no_is_read_with_care() -> None:
    said = read_turned(turned("other_mesh"))
    assert said is not None and said.reason == "other_mesh"
    shown = read_turned(pack(("turned", 1, "\x1b[2J\x07")))
    assert shown is not None and shown.reason == "malformed"
    assert read_turned(pack(("alive", "a", b"", b""))) is None


def test_an_older_binding_brings_no_transport_key_back() -> None:
    left, right = Side(b"a"), Side(b"b")
    recorded = left.said()
    left.binding = left.line.binding(seq=2, curve_key=bytes(reversed(range(32))))
    _, seen = right.sessions.answer(left.said())
    assert (seen.curve_key, seen.binding_seq) == (bytes(reversed(range(32))), 2)
    assert reason_of(right, recorded) == "old_binding"
    _, again = right.sessions.answer(left.said())
    assert again.binding_seq == 2, "the one of today may be said again"


def test_a_binding_by_another_key_is_refused() -> None:
    left, right = Side(b"a"), Side(b"b")
    left.binding = sealed(Side(b"c").signer, left.binding.body, left.node)
    assert reason_of(right, left.said()) == "bad_signature"


def test_what_was_sent_under_the_session_before_still_counts_until_the_next() -> None:
    left, right = Side(b"a"), Side(b"b")
    inbound = right.sessions.inbound
    first = greet(left, right).session
    right.sessions.used(inbound[first])
    second, third = greet(left, right).session, greet(left, right).session
    assert set(inbound) == {first, second, third}
    right.sessions.used(inbound[first])
    assert set(inbound) == {first, second, third}, "that is no news"
    right.sessions.used(inbound[second])
    assert set(inbound) == {first, second, third}, "an envelope under the first may still be on its way"
    right.sessions.used(inbound[first])
    assert set(inbound) == {first, second, third}, "late, and nothing is turned back by it"
    right.sessions.used(inbound[third])
    assert set(inbound) == {second, third}


def test_sessions_that_were_skipped_end_with_those_before() -> None:
    left, right = Side(b"a"), Side(b"b")
    inbound = right.sessions.inbound
    first, _, third = (greet(left, right).session for _ in range(3))
    right.sessions.used(inbound[third])
    assert set(inbound) == {third}
    fourth = greet(left, right).session
    right.sessions.used(inbound[fourth])
    assert set(inbound) == {third, fourth} and first not in inbound


def test_a_new_life_ends_both_sessions_of_the_former_one() -> None:
    left, right = Side(b"a"), Side(b"b")
    inbound = right.sessions.inbound
    first, second = (greet(left, right).session for _ in range(2))
    right.sessions.used(inbound[first])
    right.sessions.used(inbound[second])
    assert set(inbound) == {first, second}
    left.row = left.line.row(incarnation=2, **DOORS)
    fresh = greet(left, right).session
    assert set(inbound) == {first, second, fresh}, "a HELLO alone, which may be a recorded one, ends nothing"
    right.sessions.used(inbound[fresh])
    assert set(inbound) == {fresh}
    another = greet(left, right).session
    right.sessions.used(inbound[another])
    assert set(inbound) == {fresh, another}, "from then on as ever"


def test_who_is_forgotten_may_send_under_nothing() -> None:
    left, right, third = Side(b"a"), Side(b"b"), Side(b"c")
    used, pending, other = greet(left, right).session, greet(left, right).session, greet(third, right).session
    right.sessions.used(right.sessions.inbound[used])
    right.sessions.used(right.sessions.inbound[pending])
    greet(left, right)
    right.sessions.forget(left.node)
    assert set(right.sessions.inbound) == {other}
    right.sessions.forget("nobody")


def test_sessions_never_used_do_not_pile_up_and_never_push_out_the_one_in_use() -> None:
    left, right = Side(b"a"), Side(b"b")
    first = greet(left, right).session
    right.sessions.used(right.sessions.inbound[first])
    for _ in range(20):
        greet(left, right)
    assert first in right.sessions.inbound and len(right.sessions.inbound) == 1 + LIMITS.pending_sessions_max


def test_peers_remembered_are_bounded() -> None:
    right = Side(b"z")
    for seed in b"abcdefgh":
        greet(Side(bytes([seed])), right)
    assert len(right.sessions.inbound) == LIMITS.peers_max


def test_a_large_row_goes_slim() -> None:
    left, right = Side(b"a", offers=tuple(Offer(f"c{n}", "a", input_schema="x" * 2000) for n in range(20))), Side(b"b")
    nonce, hello = left.sessions.hello()
    assert len(hello) < LIMITS.door_frame_bytes_max
    _, seen = right.sessions.answer(hello)
    assert seen.alive.body == replace(left.row.body, version=0, offers=())
    assert nonce


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_whatever_is_said_at_the_door_is_answered_or_refused(data: st.DataObject) -> None:
    frame = bytearray(_HELLO)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(frame) - 1))
        frame[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=4))
        if not frame:
            break
    right = Side(b"b")
    try:
        right.sessions.answer(bytes(frame))
    except Refusal as refusal:
        assert refusal.reason.replace("_", "").isalpha()
        assert not right.sessions.inbound


_HELLO = Side(b"c").said()
