"""A policy's document: what is read, and what is refused with the place, the reason and what to write."""

from __future__ import annotations

import datetime
from typing import Any, cast

import pytest

from mesh.core.policy.document import canonical, read, rulebook
from mesh.core.policy.fields import Problem
from mesh.core.policy.rules import Condition, EffectRule, Match, OutputRule, Rulebook, Work


def book(*rules: dict[str, Any]) -> Rulebook:
    found = read(canonical({"policy": "tests", "rule": list(rules)}), 7)
    assert isinstance(found, Rulebook), found
    return found


def rule(**fields: Any) -> Any:
    return book({"id": "r"} | fields).rules[0]


def test_a_whole_rule_is_read() -> None:
    found = rule(
        match={
            "capability": ["pay.*", "bill"],
            "from": "desk*",
            "input": {"a.b": {"over": 1, "under": 9}, "c": "eu"},
            "labels": "gpu",
            "durable": True,
        },
        require={"zone": "eu", "gpu": True},
        approve={"question": "Pay?", "quorum": 2, "approvers": ["ann", "ben"], "expires": "2h", "separate": True},
        effects=[{"keys": ["pay/*"], "deny": "no"}],
        output={"deny": ["jwt", "/AB[0-9]{6}/"], "bytes_max": 100, "schema": {"type": "object", "required": ["url"]}},
        secrets=["db", "mail-*"],
        at_most={"timeout": "10m", "retries": 2, "budget": {"usd": 0.5}},
        down=False,
    )
    assert found.match == Match(
        ("pay.*", "bill"),
        ("desk*",),
        (Condition(("a", "b"), "over", 1), Condition(("a", "b"), "under", 9), Condition(("c",), "is", "eu")),
        ("gpu",),
        durable=True,
    )
    assert found.require == ("gpu", "zone=eu") and not found.down
    assert found.gate["quorum"] == 2 and found.gate["expires_ms"] == 7_200_000 and found.gate["separate"] is True
    assert found.effects == (EffectRule(("pay/*",), "no"),)
    assert found.output == OutputRule(
        (("jwt", found.output.patterns[0][1]), ("/AB[0-9]{6}/", "AB[0-9]{6}")), 100, {"type": "object", "required": ["url"]}
    )
    assert found.secrets == ("db", "mail-*") and (found.timeout_ms, found.retries, found.budget) == (600_000, 2, (("usd", 500),))


def test_small_forms() -> None:
    assert rule(rate="10/1m").rate == (10, 60_000) and rule(rate="5/s").rate == (5, 1000) and rule(limit=3).limit == 3
    assert rule(secrets=[]).secrets == () and rule(deny="x").secrets is None
    assert rule(require=["!zone=us"]).require == ("!zone=us",)
    assert rule(deny="x").match == Match()


BAD: list[tuple[Any, tuple[Any, ...], str]] = [
    ([], (), "a policy is a table"),
    ({"rules": []}, ("rules",), "there is no such key"),
    ({"rule": {}}, ("rule",), "is a list"),
    ({"rule": [3]}, ("rule", 0), "is no table"),
    ({"rule": [{"deny": "x"}]}, ("rule", 0, "id"), "is no name"),
    ({"rule": [{"id": "a"}]}, ("rule", 0), "says nothing"),
    ({"rule": [{"id": "a", "dney": "x"}]}, ("rule", 0, "dney"), "there is no such key"),
    ({"rule": [{"id": "a", "deny": "x"}, {"id": "a", "deny": "x"}]}, ("rule", 1, "id"), "two rules"),
    ({"rule": [{"id": "a", "deny": 3}]}, ("rule", 0, "deny"), "is no text"),
    ({"rule": [{"id": "a", "deny": "x", "match": {"capability": "a*b"}}]}, ("rule", 0, "match", "capability"), "cannot stand here"),
    ({"rule": [{"id": "a", "deny": "x", "match": {"capability": []}}]}, ("rule", 0, "match", "capability"), "neither a text nor a list"),
    (
        {"rule": [{"id": "a", "deny": "x", "match": {"input": {"a": {"abov": 1}}}}]},
        ("rule", 0, "match", "input", "a", "abov"),
        "cannot stand",
    ),
    ({"rule": [{"id": "a", "deny": "x", "match": {"input": {"a": [1]}}}]}, ("rule", 0, "match", "input", "a"), "a list"),
    ({"rule": [{"id": "a", "deny": "x", "match": {"input": {"a..b": 1}}}]}, ("rule", 0, "match", "input", "a..b"), "no path"),
    ({"rule": [{"id": "a", "require": ["zone eu"]}]}, ("rule", 0, "require"), "cannot stand here"),
    ({"rule": [{"id": "a", "approve": {"quorum": 3, "approvers": ["x"]}}]}, ("rule", 0, "approve"), "quorum"),
    ({"rule": [{"id": "a", "approve": {"expires": "soon"}}]}, ("rule", 0, "approve", "expires"), "is no time"),
    ({"rule": [{"id": "a", "effects": [{"keys": "x"}]}]}, ("rule", 0, "effects", 0), "neither or both"),
    ({"rule": [{"id": "a", "output": {"deny": ["passwords"]}}]}, ("rule", 0, "output", "deny"), "no pattern"),
    ({"rule": [{"id": "a", "output": {"deny": ["/(a+)+/"]}}]}, ("rule", 0, "output", "deny"), "cannot stand at character 3"),
    ({"rule": [{"id": "a", "output": {"deny": ["/(ab){9}/"]}}]}, ("rule", 0, "output", "deny"), "one character or one class"),
    ({"rule": [{"id": "a", "output": {"deny": ["/a{0,99}b{0,99}/"]}}]}, ("rule", 0, "output", "deny"), "more than 256 ways"),
    ({"rule": [{"id": "a", "output": {"schema": {"type": "text"}}}]}, ("rule", 0, "output", "schema"), "no type"),
    ({"rule": [{"id": "a", "output": {"schema": {"oneOf": []}}}]}, ("rule", 0, "output", "schema"), "not understood"),
    ({"rule": [{"id": "a", "rate": "often"}]}, ("rule", 0, "rate"), "is no rate"),
    ({"rule": [{"id": "a", "limit": 0}]}, ("rule", 0, "limit"), "no number from"),
    ({"rule": [{"id": "a", "limit": 2, "match": {"from": "x"}}]}, ("rule", 0), "capabilities as a whole"),
    ({"rule": [{"id": "a", "admit": "maybe"}]}, ("rule", 0, "admit"), "is not what it can be"),
    ({"rule": [{"id": "a", "at_most": {"budget": {"usd": -1}}}]}, ("rule", 0, "at_most", "budget"), "is no amount"),
    ({"rule": [{"id": "a", "route": "no capability"}]}, ("rule", 0, "route"), "no capability's name"),
    ({"policy": "x" * 40_000}, (), "larger than 32 KiB"),
]


@pytest.mark.parametrize(("document", "where", "reason"), BAD, ids=[str(number) for number in range(len(BAD))])
def test_what_is_wrong_is_told_with_its_place_and_what_to_write(document: Any, where: tuple[Any, ...], reason: str) -> None:
    found = rulebook(document)
    assert isinstance(found, list) and found
    problem = next(one for one in found if one.where == where)
    assert reason in problem.reason and problem.fix


def test_all_problems_are_told_at_once() -> None:
    found = rulebook({"x": 1, "rule": [{"id": "a"}, {"id": "b", "deny": 3}]})
    assert isinstance(found, list) and len(found) == 3


def work(capability: str = "pay", **arguments: Any) -> Work:
    return Work(capability, canonical(arguments).encode(), ("id1", "desk1"))


def test_conditions_on_arguments() -> None:
    def fits(condition: Any, **arguments: Any) -> bool:
        return bool(book({"id": "r", "deny": "x", "match": {"input": {"a": condition}}}).ruling(work(**arguments)).deny)

    assert fits(3, a=3) and not fits(3, a=4) and not fits(3) and fits(1, a=True) and fits(True, a=True)
    assert fits({"over": 3}, a=3.5) and fits({"over": 3}, a="4") and not fits({"over": 3}, a="many") and not fits({"over": 3}, a=True)
    assert fits({"in": ["x", "y"]}, a="y") and not fits({"in": ["x"]}, a="y")
    assert fits({"like": "eu-*"}, a="eu-1") and not fits({"like": "eu-*"}, a=1)
    assert fits({"has": False}) and fits({"has": True}, a=None) and not fits({"has": True})
    deep = book({"id": "r", "deny": "x", "match": {"input": {"a.b": 1}}})
    assert deep.ruling(work(a={"b": 1})).deny and not deep.ruling(work(a=3)).deny
    assert not deep.ruling(Work("pay", b"no json")).deny


def test_the_first_rule_decides_and_what_can_stand_together_adds_up() -> None:
    found = book(
        {"id": "one", "match": {"capability": "p*"}, "require": ["a"], "at_most": {"timeout": "1m", "budget": {"usd": 3}}},
        {
            "id": "two",
            "match": {"capability": "pay"},
            "deny": "second",
            "require": ["b"],
            "at_most": {"timeout": "30s", "budget": {"usd": 5}},
        },
        {"id": "three", "match": {"capability": "pay"}, "deny": "third", "down": False, "require": ["c"]},
        {"id": "else", "match": {"capability": "other"}, "deny": "no"},
    ).ruling(work())
    assert found.rules == ("one", "two", "three") and found.deny == ("two", "second") and found.version == 7
    assert found.require == ("a", "b", "c") and found.down == ("a", "b")
    assert found.timeout_ms == 30_000 and found.budget == (("usd", 3000),)


def test_where_it_was_asked_for() -> None:
    found = book({"id": "r", "match": {"from": "desk*"}, "deny": "x"})
    assert found.ruling(work()).deny and not found.ruling(Work("pay", b"{}", ("id2", "lab"))).deny


def test_the_tightest_limit_of_a_capability_counts() -> None:
    found = book(
        {"id": "a", "match": {"capability": "mail*"}, "rate": "10/1m"},
        {"id": "b", "match": {"capability": "mail.send"}, "rate": "1/s", "limit": 2},
    )
    assert found.bounds("mail.send") == (2, 10, 60_000) and found.bounds("mail.read") == (0, 10, 60_000) and found.bounds("x") == (0, 0, 0)


@pytest.mark.parametrize(
    "text",
    [
        '{"policy":"\\ud800"}',
        '{"policy":NaN}',
        '{"rule":[{"id":"a","deny":"x","match":{"input":{"x":{"over":1e999}}}}]}',
        '{"rule":[{"id":"a","output":{"schema":{"type":["string"]}}}]}',
        '{"rule":[{"id":"a","output":{"schema":{"type":{}}}}]}',
    ],
)
def test_what_somebody_signed_that_is_no_document_stops_nobody(text: str) -> None:
    (problem,) = cast("list[Problem]", read(text, 1))
    assert problem.reason and problem.fix


def test_what_toml_can_say_and_json_cannot() -> None:
    (problem,) = cast("list[Problem]", rulebook({"policy": datetime.date(2026, 1, 1)}))
    assert "cannot be kept" in problem.reason
