"""When a peer is cut for what it sends, and for how long."""

from __future__ import annotations

import pytest

from mesh.limits import LinkLimits
from mesh.runtime.links.penalties import HOSTILE, Penalties

PEER, OTHER = "p" * 32, "o" * 32
LIMITS = LinkLimits(
    envelopes_per_s=10.0,
    envelopes_burst=5.0,
    bytes_per_s=1000.0,
    effort_per_s=10.0,
    effort_burst=100.0,
    bad_per_minute=3,
    penalty_s=10.0,
    penalty_max_s=30.0,
    peers_max=4,
)


@pytest.fixture
def penalties() -> Penalties:
    return Penalties(LIMITS)


def test_envelopes_are_bounded_by_number_and_refilled_by_time(penalties: Penalties) -> None:
    assert [penalties.take(PEER, 0.0, 1) for _ in range(6)] == [True] * 5 + [False]
    assert penalties.take(OTHER, 0.0, 1), "of each peer by itself"
    assert [penalties.take(PEER, 1.0, 1) for _ in range(6)] == [True] * 5 + [False]


def test_envelopes_are_bounded_by_bytes(penalties: Penalties) -> None:
    assert penalties.take(PEER, 0.0, 1000)
    assert not penalties.take(PEER, 0.0, 1)
    assert penalties.take(PEER, 1.0, 900)


def test_refusals_count_only_where_no_honest_peer_earns_them(penalties: Penalties) -> None:
    soft = ("stale_session", "unknown_kind", "no_link", "future_echo")
    assert not any(penalties.bad(PEER, reason, 0.0) for reason in soft for _ in range(50))
    assert "stale_session" not in HOSTILE and "bad_signature" in HOSTILE
    assert [penalties.bad(PEER, "bad_signature", 0.0) for _ in range(4)] == [False, False, False, True]


def test_refusals_are_forgotten_within_a_minute(penalties: Penalties) -> None:
    for now_s in range(0, 600, 30):
        assert not penalties.bad(PEER, "replayed", float(now_s)), "two a minute are below three"
    assert any(penalties.bad(PEER, "replayed", 600.0 + at) for at in range(10))


def test_effort_is_refilled_by_time(penalties: Penalties) -> None:
    assert not penalties.tax(PEER, 100, 0.0)
    assert penalties.tax(PEER, 1, 0.0)
    assert not penalties.tax(PEER, 100, 20.0)


def test_a_penalty_doubles_up_to_its_end_and_the_sheet_is_clean_afterwards(penalties: Penalties) -> None:
    for cut, lasts_s in enumerate((10.0, 20.0, 30.0, 30.0)):
        now_s = cut * 100.0
        for _ in range(4):
            penalties.bad(PEER, "malformed", now_s)
        penalties.punish(PEER, now_s)
        assert penalties.is_out(PEER, now_s + lasts_s - 0.1) and not penalties.is_out(PEER, now_s + lasts_s)
        assert not penalties.bad(PEER, "malformed", now_s + lasts_s) and penalties.take(PEER, now_s + lasts_s, 1)
    assert penalties.statistics() == {PEER: 4} and not penalties.is_out(OTHER, 0.0)


def test_accounts_are_bounded(penalties: Penalties) -> None:
    for number in range(10):
        penalties.punish(f"peer{number}", 0.0)
    assert list(penalties.statistics()) == [f"peer{number}" for number in range(6, 10)]
