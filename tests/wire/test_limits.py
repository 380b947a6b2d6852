"""The limits of the wire, each written down a second time: whoever changes one says so twice."""

from __future__ import annotations

from mesh.limits import MembershipLimits
from mesh.wire import authorities, authorization, chain, ed25519, envelope, keyring
from mesh.wire.envelope import FRAME_OVERHEAD_BYTES, frame_message
from mesh.wire.keyring import Keyring
from mesh.wire.replay import ReplayWindow


def test_the_limits() -> None:
    assert (authorities.ROOTS_MAX, authorities.REVOCATIONS_MAX) == (8, 512)
    assert authorities.MODES == ("open", "token", "ca") and authorities.TAGS == ("revocation", "amendment")
    assert (chain.READ_MAX, chain.PAST_KEYS_MAX, chain.GRANTS_MAX) == (4096, 16, 64)
    assert (4 * MembershipLimits().rows_max, 8 * 1024 * 1024) == (keyring.MEMBERS_MAX, keyring.OPENED_BYTES_MAX)
    assert (keyring.OLD_KEY_MS, keyring.EARLY_MS) == (60 * 60 * 1000, 2 * 60 * 1000)
    assert (envelope.VERSION, envelope.SESSION_BYTES, envelope.HEADER_BYTES_MAX, envelope.FLUSH_ENVELOPES_MAX) == (1, 16, 512, 4096)
    assert (ed25519.SEED_BYTES, ed25519.KEY_BYTES, ed25519.SIGNATURE_BYTES) == (32, 32, 64)


def test_what_a_message_costs_beside_its_body() -> None:
    assert FRAME_OVERHEAD_BYTES == len(frame_message(10, b"", 1)) == 26


def test_what_opens_and_what_is_inside() -> None:
    said = ("revocation", "amendment", "alive", "suspect", "left", "commit", "witness", "binding", "hello", "welcome")
    assert said == keyring.STATEMENTS and keyring.INSIDE == ("alive", "binding")


def test_the_names_of_rights() -> None:
    rights = (
        authorization.BELONG,
        authorization.OFFER,
        authorization.REQUEST,
        authorization.OBSERVE,
        authorization.READ,
        authorization.ISSUE,
    )
    assert rights == ("belong", "offer", "request", "observe", "read", "issue") == tuple(authorization.RIGHTS)


def test_what_a_window_remembers_by_itself() -> None:
    window = ReplayWindow()
    window.accept(5000, 1)
    assert window.peek(5000 - 1023, 1) and not window.peek(5000 - 1024, 1)


def test_a_ring_has_the_clock_of_the_machine() -> None:
    import time

    assert abs(Keyring("m", ())._wall_ms() - time.time() * 1000) < 60_000
