"""Each attack on a real node: it costs a bounded amount, is cut, is counted under its reason, nothing of it counts, and the node goes on.

Without load, so that what is let in is the attacker's; what honest peers lose is measured by `scripts/attack network`.
"""

from __future__ import annotations

from typing import Any

import pytest

pytestmark = pytest.mark.attack

MIB_MAX = 64.0
ATTACK_S = 2.0
CUT_S_MAX = 1.5
"""1 s is the aim on a processor of one's own."""
GOSSIP = 40
"""Envelopes that an honest peer sends meanwhile."""

DOOR = ("door silent_too_long", "door too_fast", "door too_many_connects")
STRANGERS: dict[str, tuple[str, ...]] = {
    "silent_tcp": ("guard too_many_of_address",),
    "silent_tls": DOOR,
    "half_tls": DOOR,
    "silent_curve": ("guard too_many_of_address",),
    "silent_crowd": ("guard too_many_unproven", *DOOR),
    "tls_crowd": DOOR,
    "curve_crowd": ("zap unknown_key",),
    "tcp_flood": ("door too_many_connects",),
    "oversize_hello": ("door frame_too_large", *DOOR),
    "unfinished_hello": (),
}
"""One reason at least of these; the last is ended by libzmq itself, which tells none."""
REFUSED = {
    "noise": "malformed",
    "one_frame": "frames",
    "replays": "replayed",
    "false_signatures": "bad_signature",
    "false_payloads": "payload_changed",
    "stale_sessions": "stale_session",
    "unfinished": "guard undelivered_bytes",
    "many_frames": "guard too_many_frames",
}
"""Floods of a member of which nothing counts."""
USELESS = ("pings", "single_pings", "unknown_kinds", "fresh_rows", "slanders", "bids", "asks", "cfps", "file_asks")
"""Valid, and too much of it."""


def survived(outcome: Any) -> dict[str, int]:
    assert outcome.answers, "it answers, and does its peer's work"
    assert outcome.growth_mib < MIB_MAX, outcome
    counted: dict[str, int] = outcome.counted
    return counted


@pytest.mark.parametrize("name", STRANGERS)
def test_a_stranger_at_both_listeners_gets_nowhere(ground: Any, name: str) -> None:
    counted = survived(ground.attack(name, seconds=ATTACK_S, calm_s=0.0))
    assert any(counted.get(reason) for reason in STRANGERS[name]) or not STRANGERS[name], counted
    assert not any(counted.get(f"let in: {what}") for what in ("joins", "greetings", "connections")), counted
    assert counted.get("let in: envelopes", 0) <= GOSSIP


@pytest.mark.parametrize("name", ["slow_loris", "slow_greeting"])
def test_whoever_speaks_slowly_has_the_time_of_a_handshake(ground: Any, name: str) -> None:
    outcome = ground.attack(name, seconds=4.0, calm_s=0.0)
    survived(outcome)
    assert outcome.said["closed"] >= 60 and outcome.said["lived_s"][1] < 4.0, outcome.said


def test_whatever_a_stranger_says_at_the_door_he_learns_one_word(ground: Any) -> None:
    outcome = ground.attack("rogue_door", seconds=ATTACK_S, calm_s=0.0)
    counted = survived(outcome)
    words = set(outcome.said["words"])
    assert words <= {"(closed)", "malformed", "not_own", "other_mesh", "wait"}, words
    assert outcome.said["bytes_max"] < 40 and not counted.get("let in: joins") and not counted.get("let in: greetings")


def test_no_mechanism_and_no_unknown_key_opens_the_router(ground: Any) -> None:
    outcome = ground.attack("rogue_router", seconds=ATTACK_S, calm_s=0.0)
    counted = survived(outcome)
    assert outcome.said == {name: {"heard": 0, "let_in": False} for name in ("NULL", "PLAIN", "CURVE")}
    assert counted["zap unknown_key"] == 1 and counted.get("let in: envelopes", 0) <= GOSSIP


def test_without_descriptors_the_node_lives_and_serves_its_peers(poor_ground: Any) -> None:
    counted = survived(poor_ground.attack("descriptors", seconds=4.0, calm_s=0.0))
    assert counted["guard no_descriptors"], counted


@pytest.mark.parametrize("name", REFUSED)
def test_a_member_who_floods_with_what_is_refused_is_cut(ground: Any, name: str) -> None:
    outcome = ground.attack(name, seconds=ATTACK_S, calm_s=0.0)
    counted = survived(outcome)
    assert outcome.cut_s is not None and outcome.cut_s < CUT_S_MAX, outcome
    assert counted[REFUSED[name]], counted
    assert counted.get("let in: envelopes", 0) <= GOSSIP, "nothing of it counts"


@pytest.mark.parametrize("name", USELESS)
def test_a_member_who_floods_with_what_is_of_no_use_is_cut_and_stays_out(ground: Any, name: str) -> None:
    outcome = ground.attack(name, seconds=2 * ATTACK_S, calm_s=0.0)
    counted = survived(outcome)
    assert outcome.cut_s is not None and outcome.cut_s < 2 * CUT_S_MAX, outcome
    assert counted["cut_too_much_effort"] == counted["punished"] == 1 and counted.get("hello_cut"), counted


def test_greetings_without_end_end(ground: Any) -> None:
    """Each wants one in return: two tasks that waited for one connection once ended the node."""
    counted = survived(ground.attack("hellos", seconds=2 * ATTACK_S, calm_s=0.0))
    assert counted["cut_too_many_greetings"] and counted["door too_fast"], counted


def test_connections_without_end_end(ground: Any) -> None:
    counted = survived(ground.attack("reconnects", seconds=2 * ATTACK_S, calm_s=0.0))
    assert counted["cut_too_much_effort"] == 1 and counted["zap unknown_key"], counted


def test_a_chosen_routing_id_or_another_name_gains_nothing(ground: Any) -> None:
    counted = survived(ground.attack("names", seconds=ATTACK_S, calm_s=0.0))
    assert counted["guard chose_routing_id"] and counted.get("let in: envelopes", 0) <= GOSSIP, counted
