"""What is told of work before it is handed in: a wrong argument at once, and what a task that is taken all the same waits for."""

from __future__ import annotations

from typing import Any

import pytest

from mesh.bounding import checked_key
from mesh.errors import InvalidArgument, TimedOut, UsageError
from mesh.inspector import fitting
from mesh.inspector.fitting import check_arguments, missing
from mesh.inspector.use import _out_of_time

SCHEMA = {
    "type": "object",
    "properties": {
        "n": {"type": "integer"},
        "on": {"type": "boolean"},
        "rows": {"type": "array"},
        "how": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
        "text": {"type": "string"},
        "at": {"type": "string", "format": "date-time"},
    },
    "required": ["n"],
    "additionalProperties": False,
}
CAP: dict[str, Any] = {
    "capability": "slow",
    "signature": "(n: integer)",
    "input_schema": SCHEMA,
    "nodes": ["B"],
    "labels": {"b": [["gpu"]]},
}
CAP |= {"idempotent": False}
CAPS = {"caps": [CAP]}


def nodes(*draining: str) -> dict[str, Any]:
    return {"nodes": [{"id": name, "draining": name in draining} for name in ("A", "B")]}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"n": "abc"}, "'n' is wrong: 'abc' is no integer"),
        ({"n": [1]}, "is no integer"),
        ({"n": 1, "on": "maybe"}, "is no boolean"),
        ({"n": 1, "rows": "a,b"}, "is no array"),
        ({"n": 1, "text": 7}, "is no string"),
        ({}, "the argument 'n' is missing"),
        ({"n": 1, "txt": "x"}, "no argument 'txt'; did you mean 'text'?"),
    ],
)
def test_what_no_handler_would_take_is_refused(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        check_arguments(CAP, arguments)
    assert said in caught.value.message and caught.value.exit_code == 2 and caught.value.fix == "slow takes (n: integer)"


@pytest.mark.parametrize(
    "arguments", [{"n": "5"}, {"n": 5.0, "on": "yes", "rows": [1], "how": "anything"}, {"n": True, "on": 1, "at": 7}, {"n": " 7 "}]
)
def test_what_some_handler_may_read_is_left_to_it(arguments: dict[str, Any]) -> None:
    check_arguments(CAP, arguments)
    check_arguments(CAP | {"input_schema": {}}, {"whatever": 1})


def test_what_work_waits_for() -> None:
    assert missing({"caps": []}, nodes(), "slow", []) == "offers slow"
    assert missing(CAPS, nodes(), "slow", ["gpu"]) == ""
    assert missing(CAPS, nodes(), "slow", ["zone=eu"]) == "who offers slow has zone=eu"
    assert missing(CAPS, nodes("A"), "slow", []) == ""
    assert "takes work" in missing(CAPS, nodes("B"), "slow", [])


def test_a_hedge_that_does_nothing_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    fitting.say_hedge(CAP | {"idempotent": True})
    fitting.say_hedge(None)
    assert capsys.readouterr().err == ""
    fitting.say_hedge(CAP)
    assert "slow is not declared idempotent" in capsys.readouterr().err


def test_whose_time_was_over_decides_the_exit_code() -> None:
    own = _out_of_time(TimedOut("slow did not end within 1 s"), "slow", 60.0, 1.2)
    assert own.exit_code == 1 and "timeout_s=" in own.fix
    ours = _out_of_time(TimedOut("not finished within 2 s"), "slow", 2.0, 2.01)
    assert ours.exit_code == 4 and "--timeout" in ours.fix


def test_a_key_that_is_too_long_is_a_mistake_of_the_command_line() -> None:
    assert checked_key("k" * 200)
    with pytest.raises(UsageError, match="a key of 3000 characters"):
        checked_key("k" * 3000)
