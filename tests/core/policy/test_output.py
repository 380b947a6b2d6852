"""What a result may not hold, and how it has to look."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.core.policy.output import KNOWN, expression_problem, misfit, problem_of, schema_problem
from mesh.core.policy.rules import OutputRule

LEAKS = {
    "private_key": "-----BEGIN OPENSSH PRIVATE KEY-----",
    "aws_key": "AKIAIOSFODNN7EXAMPLE",
    "github_token": "ghp_" + "a1B2" * 9,
    "slack_token": "xoxb-1234567890-abc",
    "api_key": "sk-" + "a1" * 12,
    "jwt": "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.x",
    "email": "ann@example.org",
    "iban": "DE89 3704 0044 0532 0130 00",
    "card": "4111 1111 1111 1111",
}


@pytest.mark.parametrize("name", KNOWN)
def test_each_known_pattern_finds_its_kind_and_says_nothing_of_it(name: str) -> None:
    rule = OutputRule(((name, KNOWN[name][0]),))
    leak = json.dumps({"text": f"here: {LEAKS[name]} there"}).encode()
    said = problem_of(rule, leak)
    assert said == f"holds what looks like {KNOWN[name][1]}" and LEAKS[name][:6] not in said
    assert problem_of(rule, b'{"text": "nothing here: 4111 1111 1111 1112, order 12345, a@b, AKIA"}') == ""


def test_size_and_form() -> None:
    rule = OutputRule(
        bytes_max=10, schema={"type": "object", "required": ["url"], "properties": {"url": {"type": "string", "maxLength": 3}}}
    )
    assert "12 bytes" in problem_of(rule, b'{"url":"ab"}')
    rule = OutputRule(schema=rule.schema)
    assert problem_of(rule, b'{"url":"abc"}') == "" and problem_of(rule, b"[]") == "is no object"
    assert problem_of(rule, b"{}") == "lacks 'url'" and problem_of(rule, b'{"url":"abcd"}') == "at .url is above 3"


SCHEMAS: list[tuple[dict[str, Any], Any, str]] = [
    ({"type": "integer"}, True, "is no integer"),
    ({"type": "number", "minimum": 2}, 1.5, "is below 2"),
    ({"type": "array", "items": {"type": "string"}, "maxItems": 2}, ["a", 1], "at [1] is no string"),
    ({"type": "array", "maxItems": 1}, [1, 2], "is above 1"),
    ({"enum": ["a", "b"]}, "c", "is none of the values that are allowed"),
    ({"properties": {"a": {}}, "additionalProperties": False}, {"b": 1}, "has 'b', which is not allowed"),
    ({"type": "null"}, None, ""),
]


@pytest.mark.parametrize(("schema", "value", "said"), SCHEMAS)
def test_a_small_part_of_json_schema(schema: dict[str, Any], value: Any, said: str) -> None:
    assert schema_problem(schema) == "" and misfit(schema, value) == said


@pytest.mark.parametrize("text", [r"AB[0-9]{6}", r"\bkey-[a-z]{1,8}\b", "a|b|c", "x?y", r"(?:ab|cd)[ef]{2}", r"[^\]]{3}", r"\."])
def test_plain_expressions_are_admitted(text: str) -> None:
    assert expression_problem(text) == ""


@settings(max_examples=60, deadline=None)
@given(st.text(alphabet="ab[](){}*+?|\\.,0129-^$d", max_size=30))
def test_what_is_admitted_compiles_and_cannot_run_away(text: str) -> None:
    if expression_problem(text) == "":
        found = re.compile(text)
        found.search("a" * 2000 + "b" * 2000)  # backtracking without bound would not come back from here
        assert "*" not in re.sub(r"\\.|\[[^\]]*\]", "", text)
