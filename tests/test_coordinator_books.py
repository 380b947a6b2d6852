"""The coordinator's books, the documents that ask for its word, and how work travels to its node: pure rules, one by one."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mesh.coordinator.books import HELD_S, Books
from mesh.core.inputs import Call, Submit
from mesh.core.policy.central import CACHED_MS
from mesh.core.policy.document import rulebook
from mesh.core.policy.rules import Admit, Mode, Rulebook, Work
from mesh.core.work.passing import packed, parcel, unpacked, work_in
from mesh.messages.work import Placement


def row(task: str, **terms: Any) -> dict[str, Any]:
    return {"rule": "r", "task": task, "terms": terms}


def admitted(books: Books, now_s: float, asked: dict[str, Any]) -> str:
    why = books.room(now_s, asked)
    if not why:
        books.admit(now_s, asked)
    return why


def test_so_many_at_once_by_what_managers_say_to_run() -> None:
    books = Books()
    assert [admitted(books, 0.0, row(task, limit=2)) for task in ("a", "b", "c")] == ["", "", "full"]
    assert admitted(books, 1.0, row("a", limit=2)) == "", "the same task again is no other"
    books.saw(HELD_S, [("r", "b")])
    books.saw(HELD_S + 2.0, [("r", "b")])
    assert admitted(books, HELD_S + 2.0, row("c", limit=2)) == "", "nobody has named a for a while"
    assert admitted(books, HELD_S + 2.0, row("d", limit=2)) == "full"


def test_so_many_in_a_time_and_in_all() -> None:
    books = Books()
    pace = {"rate": [2, 1000], "total": 3}
    assert [admitted(books, at_s, row(str(at_s), **pace)) for at_s in (0.0, 0.5, 0.9, 1.0)] == ["", "", "full", ""]
    assert "3 in all" in admitted(books, 9.0, row("more", **pace))


def test_whoever_takes_over_finds_the_books() -> None:
    books = Books()
    for task in ("a", "b"):
        admitted(books, 100.0, row(task, limit=2, total=5, rate=[5, 1000]))
    books.paused, books.refused = True, 3
    kept = json.loads(json.dumps(books.kept(7)))
    assert (kept["waiting"], kept["paused"], kept["admitted"], kept["refused"]) == (7, True, 2, 3)
    after = Books(kept, 50.0)  # another machine's clock
    assert after.room(50.0, row("c", limit=2)) == "full" and (after.admitted, after.refused) == (2, 3)
    assert after.kept(0)["rules"]["r"]["total"] == 2
    assert after.room(50.0, row("c", rate=[2, 1000])) == "full" and after.room(51.1, row("c", rate=[2, 1000])) == ""


RULE = {"id": "r", "match": {"capability": "pay"}}


@pytest.mark.parametrize(
    ("admit", "found"),
    [
        ("closed", Admit("closed")),
        ("cached", Admit("cached", cached_ms=CACHED_MS)),
        ({"open_after": "30s"}, Admit("open", 30_000)),
        ({"cached": "10m", "limit": 5}, Admit("cached", cached_ms=600_000, limit=5)),
        ({"rate": "10/1m", "total": 7}, Admit("closed", rate=(10, 60_000), total=7)),
    ],
)
def test_a_rule_asks_for_a_coordinators_word(admit: Any, found: Admit) -> None:
    book = rulebook({"policy": "t", "mode": "hybrid", "rule": [RULE | {"admit": admit}]})
    assert isinstance(book, Rulebook) and book.mode == Mode("hybrid")
    assert book.ruling(Work("pay", b"{}")).admit == ("r", found) and book.ruling(Work("other", b"{}")).admit is None


@pytest.mark.parametrize(
    ("document", "where", "why"),
    [
        ({"rule": [RULE | {"admit": "closed"}]}, ("mode",), "none is heard"),
        ({"mode": "decentralized", "rule": [RULE | {"admit": "closed"}]}, ("mode",), "none is heard"),
        ({"mode": "hybird"}, ("mode",), "none of"),
        ({"mode": {"name": "hybrid", "open_after": "3s"}}, ("mode",), "for the mode central"),
        ({"mode": {"name": "central", "after": "3s"}}, ("mode", "after"), "no such key"),
        ({"mode": "hybrid", "rule": [RULE | {"admit": "open"}]}, ("rule", 0, "admit"), "not what it can be"),
        ({"mode": "hybrid", "rule": [RULE | {"admit": {"absent": "open"}}]}, ("rule", 0, "admit"), "one thing to do"),
        ({"mode": "hybrid", "rule": [RULE | {"admit": {"absent": "closed", "open_after": "3s"}}]}, ("rule", 0, "admit"), "one thing to do"),
        ({"mode": "hybrid", "rule": [RULE | {"admit": {"open_after": "soon"}}]}, ("rule", 0, "admit", "open_after"), "no time"),
        ({"mode": "hybrid", "rule": [RULE | {"admit": {"limit": 0}}]}, ("rule", 0, "admit", "limit"), "no number"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_its_place(document: dict[str, Any], where: tuple[Any, ...], why: str) -> None:
    found = rulebook({"policy": "t"} | document)
    assert isinstance(found, list) and [(one.where, why in one.reason) for one in found] == [(where, True)] and found[0].fix


FILE = ("a" * 64, 3)
PLACE = Placement(("zone=eu",), "k", "", True)


@pytest.mark.parametrize(
    "work",
    [
        Call(-5, "pay", b'{"a":1}', 10, "n.1.1", (FILE,), False, (1, 2, 3), PLACE, (9, "s"), (("usd", 5000),), (("trace", "x"),)),
        Submit(-5, "pay", b"{}", 0, 3, (), "me", (0, 0, 0), "key", Placement(), (0, "")),
    ],
)
def test_work_travels_whole(work: Call | Submit) -> None:
    assert work_in(-5, "pay", packed(work)) == work


@pytest.mark.parametrize(
    "change",
    [
        {"submit": 1}, {"timeout_ms": -1}, {"timeout_ms": "1"}, {"files": [["a"]]}, {"bounds": [1, 2]}, {"rank": [10, ""]},
        {"where": ["no label!"]},
        {"near": "x" * 300},
        {"budget": [["usd", "5"]]},
        {"baggage": [["a"]]}, {"hedge": None}, {"by": 1}, {"key": "x" * 1001}, {"bounds": [-1, 0, 0]}, {"files": [["a", 1]] * 300},
    ],
)  # fmt: skip
def test_what_is_no_work_is_none(change: dict[str, Any]) -> None:
    line, _, data = packed(Submit(-5, "pay", b"{}")).partition(b"\n")
    bad = json.dumps(json.loads(line) | change).encode()
    assert work_in(-5, "pay", bad + b"\n" + data) is None
    assert work_in(-5, "pay", line + b"\n[]") is None and work_in(-5, "pay", b"") is None


def test_an_answer_travels_with_its_output() -> None:
    for body in ({"task": "t", "state": "done", "output": b'{"a": "\n"}', "files": []}, {"code": "x", "message": "y"}, {"output": b""}):
        assert unpacked(parcel(body)) == body
    assert unpacked(b"nonsense") is None
