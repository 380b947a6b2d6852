"""The table role x kind: every cell written down here a second time, compared with the code, with a receiver, and with the page."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from attacks.world import LIMITED_SESSION, NARROW, OTHER_SESSION, World

from mesh.messages import KINDS
from mesh.messages.scopes import HandlerAsk
from mesh.messages.work import Ask, Award, AwardItem, Cfp, CfpItem, StepAsk
from mesh.wire.authorization import NEEDS, QUESTIONS, RIGHTS, ROLES, as_markdown, may_say, overreaches, rights_of
from mesh.wire.packing import Refusal

PAGE = Path(__file__).parents[2] / "docs" / "security.md"
ALL, NOT_OBSERVER, WORKS, ASKS, LOOKS = (
    "member worker requester observer approver",
    "member worker requester approver",
    "member worker",
    "member requester",
    "member requester observer approver",
)
MAY: dict[str, str] = {
    **dict.fromkeys(("Stale", "Ping", "Ack", "PingRequest", "PingReport", "Rumours", "Digest", "Load", "Trust", "RenewAsk"), ALL),
    **dict.fromkeys(("Heads", "Fork", "Witnessed", "Answer", "FilePart", "Pull", "KeysNews"), ALL),
    **dict.fromkeys(("Bid", "Refuse", "Accept", "Decline", "Beat", "Result", "Failure", "Release", "Revoked"), WORKS),
    **dict.fromkeys(("Cancelled", "Reclaimed", "StepAsk", "CheckpointAsk", "Items", "EffectAsk", "EffectDone", "SpendAsk"), WORKS),
    **dict.fromkeys(("SlotAsk", "SlotGrant", "HandlerAsk"), WORKS),
    **dict.fromkeys(("Cfp", "Backlog", "Award", "Renew", "ResultAck", "Superseded", "Revoke", "Cancel", "Reclaim"), ASKS),
    **dict.fromkeys(("StepSeen", "StepDone", "Ship", "Shipped", "VoteAsk", "Vote", "Took", "Taken", "EffectAnswer"), ASKS),
    **dict.fromkeys(("ClaimAsk", "ClaimAnswer", "KeysAsk", "KeysTold", "KeysFree", "Schedules", "Rollouts"), ASKS),
    "Ask": LOOKS,
    "FileAsk": NOT_OBSERVER,
    "Granted": "issuer",
}
"""Who may send each kind. Written by hand: a new kind has no row here and fails."""
MAY_ASK: dict[str, str] = {
    **dict.fromkeys(("task", "tasks", "story", "hash", "audit", "scopes"), LOOKS),
    **dict.fromkeys(("kept", "result", "body", "logs", "waits", "read"), NOT_OBSERVER),
    **dict.fromkeys(("cancel", "retry", "signal", "update", "write", "admit", "manage", "unmanage"), ASKS),
    "answer": "member approver",
    "admitted": "member worker",
}
SENDERS = {"member": OTHER_SESSION, **NARROW}
STRANGE = ("stranger", "", "Member", "member ")


def cell(role: str, table: dict[str, str], row: str) -> bool:
    return role in table[row].split(" ") if role in ROLES else False


def test_every_kind_question_right_and_role_is_in_the_tables() -> None:
    assert set(NEEDS) == set(KINDS.values()) and {cls.__name__ for cls in KINDS.values()} == set(MAY)
    assert set(NEEDS.values()) | set(QUESTIONS.values()) == set(RIGHTS)
    assert set(QUESTIONS) == set(MAY_ASK)
    assert set(ROLES) == {*ALL.split(" "), "issuer"}


@pytest.mark.parametrize("role", [*ROLES, *STRANGE])
def test_every_cell(role: str) -> None:
    for kind in (*KINDS, 0, 9999):
        assert may_say(role, kind) == (kind in KINDS and cell(role, MAY, KINDS[kind].__name__)), kind


@pytest.mark.parametrize("role", [*ROLES, *STRANGE])
def test_every_question(role: str) -> None:
    for question in (*QUESTIONS, "", "everything"):
        asked = not overreaches(rights_of((role,)), Ask(1, question, "k"))
        assert asked == (question in MAY_ASK and cell(role, MAY_ASK, question)), question


@pytest.mark.parametrize("role", SENDERS)
def test_a_receiver_goes_by_the_table(role: str, world: World) -> None:
    """Each kind from a real member of each role: what he may say arrives, what he may not is refused alone."""
    signer = world.lines["c" if role == "member" else role].node
    for kind, cls in KINDS.items():
        opened = world.open(world.seal([world.sample(cls)], signer, session=SENDERS[role], first_seq=kind))
        reason = "" if cell(role, MAY, cls.__name__) else "not_allowed"
        if cls is Ask and not reason and not cell(role, MAY_ASK, "task"):
            reason = "not_granted"
        assert (opened.refused, len(opened.messages)) == ([(1, reason)] if reason else [], 0 if reason else 1), cls


def test_several_roles_add_up_and_unknown_ones_give_nothing() -> None:
    both = rights_of(("worker", "observer"))
    assert both.rights == ROLES["worker"] | ROLES["observer"]
    assert both.kinds == rights_of(("worker",)).kinds | rights_of(("observer",)).kinds
    nothing = rights_of(("stranger",))
    assert not nothing.rights and not nothing.kinds and rights_of(()).kinds == frozenset()


def test_a_new_kind_is_denied_until_somebody_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(KINDS, 9999, type("New", (), {}))
    assert not may_say("member", 9999)
    assert "| 9999 | New | nobody may | no | no | no | no | no | no |\n" in as_markdown()


# ---- capabilities


def cfp(*capabilities: str) -> Cfp:
    return Cfp(1, tuple(CfpItem("t.1.1", each, "", b"{}", 2) for each in capabilities))


def award(*capabilities: str) -> Award:
    return Award(tuple(AwardItem("t.1.1", 1, each, "", b"{}", False) for each in capabilities), 3000, 1)


@pytest.mark.parametrize("make", [cfp, award])
def test_work_is_asked_for_only_within_what_was_granted(make: Any) -> None:
    rights = rights_of(("member",), ("*",), ("greet*", "sing"))
    assert not overreaches(rights, make("greet", "greeting", "sing"))
    assert not overreaches(rights, make())
    assert overreaches(rights, make("singing"))
    assert overreaches(rights, make("greet", "pay")), "one item beyond the grant takes the whole message with it"
    assert overreaches(rights_of(("member",), ("*",), ()), make("greet"))
    assert not overreaches(rights_of(("member",)), make("anything"))


@pytest.mark.parametrize("make", [cfp, award])
def test_a_receiver_refuses_what_was_not_granted(make: Any, world: World) -> None:
    good, bad = make("capability.x"), make("pay")
    opened = world.open(world.seal([good, bad, good], world.lines["limited"].node, session=LIMITED_SESSION))
    assert [each.message for each in opened.messages] == [good, good] and opened.refused == [(2, "not_granted")]


def test_a_step_is_asked_for_only_within_what_was_granted(world: World) -> None:
    """Its parent's manager would ask for it in his own name: nobody gets through him what he may not ask for himself."""
    rights = rights_of(("worker",), ("*",), ("greet*",))
    step = StepAsk(1, "t.1.1", 1, "s", "greeting", b"{}")
    assert not overreaches(rights, step) and overreaches(rights, replace(step, capability="pay"))
    assert overreaches(rights_of(("worker",), ("*",), ()), step) and not overreaches(rights_of(("worker",)), step)
    own = replace(step, capability="capability.x")
    opened = world.open(world.seal([own, step], world.lines["limited"].node, session=LIMITED_SESSION))
    assert [each.message for each in opened.messages] == [own] and opened.refused == [(2, "not_granted")]


def test_who_may_not_offer_to_coordinate_admits_nothing_and_nobody_passes_on_what_he_may_not_ask_for() -> None:
    rights = rights_of(("member",), ("ocr.*",), ("greet*",))
    assert overreaches(rights, Ask(0, "admitted", "t.1.1")) and not overreaches(rights_of(("member",)), Ask(0, "admitted", "t.1.1"))
    assert overreaches(rights, Ask(1, "manage", "pay")) and not overreaches(rights, Ask(1, "manage", "greet"))


def test_a_handler_reaches_shared_states_only_within_what_was_granted() -> None:
    own = HandlerAsk(1, "t.1.1", 1, "t.1.1", "write")
    other = replace(own, about="u.1.1")
    for requests, may in ((("*",), True), (("mesh.state",), True), (("greet*",), False), ((), False)):
        rights = rights_of(("worker",), ("*",), requests)
        assert not overreaches(rights, own) and overreaches(rights, other) is not may


@pytest.mark.parametrize("role", [role for role in ROLES if role != "approver"])
def test_who_may_not_run_work_offers_nothing(role: str, world: World) -> None:
    rights = rights_of((role,), ("a*",), ("b",))
    assert (rights.offers, rights.requests) == (("a*",) if role in WORKS else (), ("b",))
    line = world.lines["c" if role == "member" else role]
    row = line.row(chain=b"", version=2)
    if role in WORKS:
        assert world.keyring.open(row.raw).body.offers
    else:
        with pytest.raises(Refusal, match="not_granted"):
            world.keyring.open(row.raw)
        assert world.keyring.open(line.row(chain=b"", offers=()).raw)


# ---- the page


def test_the_page_has_every_cell() -> None:
    page = PAGE.read_text()
    assert f"<!-- generated: authorization -->\n{as_markdown().rstrip()}\n<!-- end -->\n" in page
    roles = sorted(ROLES)
    for kind, cls in KINDS.items():
        cells = " | ".join("yes" if cell(role, MAY, cls.__name__) else "no" for role in roles)
        assert f"\n| {kind} | {cls.__name__} | {NEEDS[cls]} | {cells} |\n" in page
    for question, needs in QUESTIONS.items():
        cells = " | ".join("yes" if cell(role, MAY_ASK, question) else "no" for role in roles)
        assert f"\n| Ask: {question} | {needs} | {cells} |\n" in page
    for right, meaning in RIGHTS.items():
        assert f"\n| {right} | {meaning} | {', '.join(role for role in roles if right in ROLES[role])} |\n" in page
