"""What a task's process may say: everything else is refused before anybody acts on it."""

from __future__ import annotations

from typing import Any

import pytest

from mesh import isolation_checks as checks
from mesh.runtime.protocol_local import BadFrame

SIZE_MAX = 1000
ENDED: dict[str, Any] = {"outcome": "ok", "output": b"1", "files": [["ab" * 32, 5]], "error": {}}
WORK: dict[str, Any] = {"capability": "c", "input": b"{}", "files": [["ab" * 32, 5]]}
PUT: dict[str, Any] = {"upload": "u", "offset": 0, "data": b"x", "last": True}
HOW: dict[str, Any] = {"bounds": [0, 5, 0], "placement": {"where": ["gpu"], "hedge": True}, "rank": [9, "a"], "timeout_ms": 5, "retries": 2}
EFFECT: dict[str, Any] = {"key": "mail", "call": 1, "once": False}
SPEND: dict[str, Any] = {"kind": "reserve", "key": "", "amounts": [["usd", 500]]}
BAD_AMOUNTS: Any = ("1", [["usd", -1]], [["usd", 0.5]], [["a b", 1]], [["usd", 1]] * 2, [["usd"]])
EFFECTED: dict[str, Any] = {"key": "mail", "call": 1, "output": b"1", "error": ""}
ASKED: dict[str, Any] = {"question": "write", "args": {"key": "k", "value": 1}, "scope": "prices"}
REFUSED = (BadFrame, TypeError, ValueError, KeyError)


def test_what_is_well_formed_passes_made_anew() -> None:
    assert checks.ended(ENDED, SIZE_MAX) == ("ok", b"1", (("ab" * 32, 5),), {})
    assert checks.request("call", WORK | {"parent": "x", "fence": 1}, SIZE_MAX) == WORK
    assert checks.request("call", WORK | HOW, SIZE_MAX) == WORK | HOW
    assert checks.request("step", WORK | {"name": "s", "task": "x"}, SIZE_MAX) == WORK | {"name": "s"}
    assert checks.request("secret", {"name": "db", "task": "x", "fence": 9}, SIZE_MAX) == {"name": "db"}
    assert checks.request("put", PUT | {"more": 1}, SIZE_MAX) == PUT
    assert checks.request("fetch", {"file": "ab" * 32, "size": 7}, SIZE_MAX) == {"file": "ab" * 32, "size": 7}
    assert checks.request("effect", EFFECT | {"task": "x", "fence": 9}, SIZE_MAX) == EFFECT
    assert checks.request("spend", SPEND | {"task": "x", "fence": 9, "call": 3}, SIZE_MAX) == SPEND
    assert checks.request("effected", EFFECTED | {"task": "x", "error": "e" * 9999}, SIZE_MAX) == EFFECTED | {"error": "e" * 2000}
    assert checks.request("of_handler", ASKED | {"task": "x", "fence": 9, "about": "y"}, SIZE_MAX) == ASKED
    assert checks.request("step", WORK | {"name": "s", "baggage": [["a", "b"]]}, SIZE_MAX)["baggage"] == [["a", "b"]]
    assert checks.progress({"fraction": 0.5, "note": "half"}) == (0.5, "half")


@pytest.mark.parametrize(
    "change",
    [
        {"outcome": "timeout"},
        {"outcome": "cancelled"},
        {"outcome": "worker_lost"},
        {"outcome": ["ok"]},
        {"output": "1"},
        {"output": b""},
        {"output": b"{"},
        {"output": b"\xff"},
        {"output": b"[" * 500},
        {"output": b'"' + b"x" * SIZE_MAX + b'"'},
        {"files": {}},
        {"files": [["../etc/passwd", 1]]},
        {"files": [["ab" * 32]]},
        {"files": [["ab" * 32, -1]]},
        {"files": [["ab" * 32, 1.0]]},
        {"files": [["ab" * 32, 1]] * 257},
        {"error": "text"},
    ],
)
def test_bad_ends(change: dict[str, Any]) -> None:
    with pytest.raises(REFUSED):
        checks.ended(ENDED | change, SIZE_MAX)
    for name in change:
        with pytest.raises(KeyError):
            checks.ended({key: value for key, value in ENDED.items() if key != name}, SIZE_MAX)


def test_an_error_is_cut_and_claims_no_more_than_a_handlers_failure() -> None:
    wild = {"kind": "worker_lost", "message": "m" * 9999, "details": "d" * 99_999, "retryable": 1, "argument": 5, "node": "x"}
    _, _, _, error = checks.ended(ENDED | {"outcome": "error", "error": wild}, SIZE_MAX)
    assert error == {"kind": "error", "retryable": False, "message": "m" * 2000, "details": "d" * 8000}
    honest = {"kind": "invalid_argument", "message": "m", "details": "", "retryable": False, "argument": "name"}
    assert checks.ended(ENDED | {"outcome": "error", "error": honest}, SIZE_MAX)[3] == honest
    assert checks.ended(ENDED | {"outcome": "error", "error": {"kind": ["x"]}}, SIZE_MAX)[3]["kind"] == "error"


@pytest.mark.parametrize(
    ("verb", "params"),
    [
        *[(verb, {}) for verb in ("attach", "down", "hello", "submit", "ask", "ended", "", True, None, 7)],
        *[("call", WORK | change) for change in ({"capability": ""}, {"capability": "c" * 201}, {"capability": 5}, {"input": "{}"})],
        *[("call", WORK | change) for change in ({"input": b"x" * (SIZE_MAX + 1)}, {"files": [["x", 1]]}, {"files": None})],
        *[("of_handler", ASKED | change) for change in ({"question": "cancel"}, {"args": []}, {"scope": "a/b"}, {"scope": 5})],
        *[("of_handler", ASKED | {"args": args}) for args in ({"value": "x" * 2 * SIZE_MAX}, {"value": b"x"})],
        *[("call", WORK | {"baggage": baggage}) for baggage in ({}, [["a"]], [["a", 1]])],
        *[("call", WORK | {"bounds": bounds}) for bounds in ([0, 0], [0, -1, 0], "x")],
        *[("call", WORK | {"placement": placement}) for placement in ([], {"where": ["="]}, {"near": 7}, {"hedge": 1})],
        *[
            ("call", WORK | change)
            for change in ({"rank": [99, ""]}, {"rank": 1}, {"timeout_ms": -1}, {"timeout_ms": 1.5}, {"retries": -2})
        ],
        *[("step", WORK | change) for change in ({}, {"name": ""}, {"name": b"s"}, {"name": "s" * 201})],
        *[("put", PUT | change) for change in ({"offset": -1}, {"offset": 0.5}, {"data": "x"}, {"last": 1}, {"upload": ["u"]})],
        ("put", PUT | {"data": bytes(1024 * 1024 + 1)}),
        *[("fetch", {"file": file, "size": 1}) for file in ("../../etc/passwd", "AB" * 32, "ab" * 31, 7)],
        *[("fetch", {"file": "ab" * 32, "size": size}) for size in (-1, 1.0, None)],
        *[("effect", EFFECT | change) for change in ({"key": ""}, {"key": 7}, {"call": 0}, {"call": True}, {"call": 1 << 53})],
        *[("spend", SPEND | change) for change in ({"key": 7}, {"key": "k" * 201}, {"kind": "steal"})],
        *[
            ("spend", SPEND | {"amounts": amounts})
            for amounts in ([["usd", -1]], [["usd", 0.5]], [["a b", 1]], [["usd", 1]] * 2, [["usd"]])
        ],
        *[("effected", EFFECTED | change) for change in ({"output": "1"}, {"output": b"x" * 1001}, {"error": None}, {"call": -1})],
        *[("secret", {"name": name}) for name in ("", ["db"], None, "x" * 201)],
    ],
)
def test_bad_requests(verb: Any, params: dict[str, Any]) -> None:
    with pytest.raises(REFUSED):
        checks.request(verb, params, SIZE_MAX)


@pytest.mark.parametrize(
    "change",
    [{"fraction": 7.0}, {"fraction": -0.1}, {"fraction": float("nan")}, {"fraction": 1}, {"fraction": "x"}, {"note": b""}, {"note": None}],
)
def test_bad_progress(change: dict[str, Any]) -> None:
    with pytest.raises(REFUSED):
        checks.progress({"fraction": 0.5, "note": "x"} | change)


@pytest.mark.parametrize("lines", [None, "x", [1], [["a", "b"]], [[0, "log", "x"]] * (checks.LINES_MAX + 1)])
def test_bad_lines(lines: Any) -> None:
    with pytest.raises(REFUSED):
        checks.said({"lines": lines})
    assert checks.said({"lines": [[0, "anything", "x" * 10_000]]}) == ["x" * 8192]


@pytest.mark.parametrize(("asked", "taken"), [(30_000, 30_000), (0, 0), (-1, None), (1.5, None), ("soon", None), (True, None)])
def test_when_to_try_again_is_whole_milliseconds_or_nothing(asked: Any, taken: int | None) -> None:
    error = {"kind": "error", "message": "later", "retryable": True, "retry_after_ms": asked}
    assert checks.ended(ENDED | {"outcome": "error", "error": error}, SIZE_MAX)[3].get("retry_after_ms") == taken
