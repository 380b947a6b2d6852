"""Whether what people have signed lets work pass: to exactly this question, by enough of those who may answer."""

from __future__ import annotations

from typing import Any

import pytest

from mesh.core.policy.document import canonical, read
from mesh.core.policy.gating import passes, question
from mesh.core.policy.rules import Rulebook
from mesh.core.work.governor import denial
from mesh.ids import content_hash
from mesh.messages.signed import Signed
from mesh.messages.waits import Verdict


def gate(**options: Any) -> dict[str, Any]:
    found = read(canonical({"rule": [{"id": "r", "approve": options}]}))
    assert isinstance(found, Rulebook) and found.rules[0].gate is not None
    return found.rules[0].gate


def said(node: str, asked: str, approve: bool = True) -> Signed:
    return Signed(node, Verdict("t", asked, approve, node), b"x")


CASES: list[tuple[dict[str, Any], list[tuple[str, bool]], bool, bool]] = [
    ({}, [], False, False),
    ({}, [("b", True)], False, True),
    ({}, [("b", True), ("c", False)], False, False),
    ({"quorum": 2}, [("b", True)], False, False),
    ({"quorum": 2}, [("b", True), ("b", True)], False, False),
    ({"quorum": 2}, [("b", True), ("c", True)], False, True),
    ({"approvers": ["C"]}, [("b", True)], False, False),
    ({"approvers": ["C"]}, [("c", True), ("b", False)], False, True),
    ({"approvers": ["c"], "escalate_to": ["D"], "on_expire": "escalate"}, [("d", True)], False, True),
    ({}, [("me", True)], False, True),
    ({}, [("me", True)], True, False),
    ({"separate": True}, [("me", True)], False, False),
    ({"separate": False}, [("me", True)], True, True),
    ({"separate": True}, [("me", True), ("b", True)], False, True),
]


@pytest.mark.parametrize(("options", "answers", "separate", "fits"), CASES)
def test_who_and_how_many(options: dict[str, Any], answers: list[tuple[str, bool]], separate: bool, fits: bool) -> None:
    rule = gate(**options)
    asked = content_hash(question("r", rule, "pay", b'{"n":1}'))
    words = [said(node, asked, approve) for node, approve in answers]
    assert passes(rule, asked, words, str.upper, "me", separate=separate) is fits
    assert not passes(rule, content_hash(question("r", rule, "pay", b'{"n":2}')), words, str.upper, "me", separate=separate)


def test_the_question_is_one_of_rule_capability_input_and_effect() -> None:
    rule = gate()
    same = question("r", rule, "pay", b'{"n":1}')
    others = [
        question("s", rule, "pay", b'{"n":1}'),
        question("r", rule, "bill", b'{"n":1}'),
        question("r", rule, "pay", b'{"n":2}'),
        question("r", rule, "pay", b'{"n":1}', "mail/1"),
        question("r", gate(quorum=2), "pay", b'{"n":1}'),
        question("r", rule, "pay", b'{"n":"' + b"x" * 70_000 + b'"}'),
    ]
    assert same == question("r", gate(expires="2h"), "pay", b'{"n":1}'), "how long it may take is no part of it"
    assert len({same, *others}) == 7 and all(len(one) < 1000 for one in others)


@pytest.mark.parametrize("what", ["pay", "the effect 'mail/1' of pay", "the secret 'db' for pay"])
def test_who_is_refused_is_told_a_command_that_works(what: str) -> None:
    assert denial("r", 3, "no", what)["fix"] == "mesh policy explain pay"
