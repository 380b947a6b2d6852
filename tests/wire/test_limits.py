"""The limits of the wire, each written down a second time: whoever changes one says so twice."""

from __future__ import annotations

from attacks.world import NOW_MS, SESSION, World

from mesh.limits import MembershipLimits, TrustLimits
from mesh.wire import authorities, authorization, chain, ed25519, envelope, keyring
from mesh.wire.authorities import Authorities
from mesh.wire.authorization import rights_of
from mesh.wire.envelope import FRAME_OVERHEAD_BYTES, Batch, Session, frame_message, seal_flush
from mesh.wire.keyring import Keyring
from mesh.wire.replay import ReplayWindow


def test_the_limits() -> None:
    assert (8, 512, TrustLimits().policies_max) == (authorities.ROOTS_MAX, authorities.REVOCATIONS_MAX, authorities.POLICIES_MAX)
    assert authorities.MODES == ("open", "token", "ca") and authorities.TAGS == ("revocation", "amendment", "policy")
    assert (chain.READ_MAX, chain.PAST_KEYS_MAX, chain.PAST_MESHES_MAX, chain.GRANTS_MAX) == (4096, 16, 16, 64)
    assert (4 * MembershipLimits().rows_max, 8 * 1024 * 1024) == (keyring.MEMBERS_MAX, keyring.OPENED_BYTES_MAX)
    assert (keyring.OLD_KEY_MS, keyring.EARLY_MS) == (60 * 60 * 1000, 2 * 60 * 1000)
    assert (envelope.VERSION, envelope.SESSION_BYTES, envelope.HEADER_BYTES_MAX, envelope.FLUSH_ENVELOPES_MAX) == (1, 16, 512, 4096)
    assert (ed25519.SEED_BYTES, ed25519.KEY_BYTES, ed25519.SIGNATURE_BYTES) == (32, 32, 64)


def test_what_a_message_costs_beside_its_body() -> None:
    assert FRAME_OVERHEAD_BYTES == len(frame_message(10, b"", 1)) == 26


def test_what_is_meant_where_nothing_is_said(world: World) -> None:
    assert (rights_of(("member",)).offers, rights_of(("member",)).requests) == (("*",), ("*",))
    assert Authorities("m", ()).mode == Keyring("m", ()).authorities.mode == "open"
    assert Session("n", bytes(16)).proven == b"" and Session("n", bytes(16)).window.newest == 0
    assert frame_message(10, b"ab", 1) == bytes.fromhex("00000002 000a 0000000000000001 0000000000000000 00000000") + b"ab"
    batch = Batch(world.b.node, SESSION, 1, 0, [frame_message(10, b"\x91\x01", 1)])
    (frames,) = seal_flush(world.a, [batch], sent_ms=NOW_MS, stamp_ms=1)
    header = world.open(frames).header
    assert (header.cert_serial, header.journal_head, header.echo_ms, header.count) == (0, b"", 0, 1)


def test_what_opens_and_what_is_inside() -> None:
    said: tuple[str, ...] = ("revocation", "amendment", "policy", "alive", "suspect", "left", "commit", "witness", "yield", "ballot")
    said += ("binding", "hello", "welcome", "verdict")
    assert keyring.JOURNALED == ("commit", "yield")
    assert said == keyring.STATEMENTS == keyring.SAID.tags == keyring.KEPT.tags
    assert (keyring.SAID.lasting, keyring.SAID.history) == (keyring.JOURNALED, ())
    assert (keyring.KEPT.lasting, keyring.KEPT.history) == (keyring.JOURNALED, keyring.JOURNALED)
    assert keyring.GREETED.tags == ("alive", "binding") and keyring.GREETED.history == ()
    assert keyring.VOTED == (("ballot",), ("ballot",), ()) and keyring.KEPT_VOTED == (("ballot",),) * 3


def test_the_names_of_rights() -> None:
    rights = (
        authorization.BELONG,
        authorization.OFFER,
        authorization.REQUEST,
        authorization.OBSERVE,
        authorization.READ,
        authorization.APPROVE,
        authorization.ISSUE,
    )
    assert rights == ("belong", "offer", "request", "observe", "read", "approve", "issue") == tuple(authorization.RIGHTS)


def test_what_a_window_remembers_by_itself() -> None:
    window = ReplayWindow()
    window.accept(5000, 1)
    assert window.peek(5000 - 1023, 1) and not window.peek(5000 - 1024, 1)


def test_a_ring_has_the_clock_of_the_machine() -> None:
    import time

    assert abs(Keyring("m", ())._wall_ms() - time.time() * 1000) < 60_000
