"""The rings of a node: bounded, numbered, paged; and what is said of lines that are not there any more."""

from __future__ import annotations

import json
from typing import Any

from workbench import BOSS, ME, Bench, fence, of, sent, task_of

from mesh.core.inputs import HandlerEnded, HandlerSaid
from mesh.core.work.logs import LINE_COST_BYTES, RING_COST_BYTES
from mesh.effects import Refused
from mesh.limits import WorkLimits
from mesh.messages.work import Answer, Ask

LINE = 1000 + LINE_COST_BYTES


class Logged(Bench):
    def run(self, counter: int = 1, number: int = 1) -> None:
        self.turn(self.award(counter, number), BOSS)

    def say(self, *texts: str, counter: int = 1, number: int = 1, dropped: int = 0) -> list[Any]:
        lines = tuple((1000 + i, "stdout", f"{text:1000}") for i, text in enumerate(texts))
        return self.give(HandlerSaid(1, task_of(counter), fence(number), number, lines, dropped))

    def asked(self, task: str = "", after: int = 0) -> dict[str, Any] | None:
        args = json.dumps({"after": {ME: after}} if after else {}).encode()
        [answer] = sent(self.give(Ask(1, "logs", task, args), BOSS), Answer)
        rows: list[dict[str, Any]] = json.loads(answer.body)["tasks"]
        return rows[0] if rows else None


def logged(**limits: int) -> Logged:
    it = Logged(WorkLimits(**limits))
    it.attach("greet", concurrency=8)
    return it


def texts(row: dict[str, Any] | None) -> list[str]:
    assert row is not None
    return [text.strip() for *_, text in row["lines"]]


def test_what_a_handler_says_is_told_to_whoever_asks() -> None:
    it = logged()
    assert it.asked(task_of()) is None, "a task this node never had"
    it.run()
    quiet = it.asked(task_of())
    assert quiet is not None and quiet["ran"] == fence() and quiet["attempts"] == [] and quiet["lines"] == []
    assert it.say("a", "b") == []
    row = it.asked(task_of())
    assert row is not None and texts(row) == ["a", "b"] and row["node"] == row["name"] == ME and not row["more"]
    assert row["attempts"] == [[task_of(), fence(), 1, "agent", 0]]
    assert [line[1:6] for line in row["lines"]] == [[1000 + i, task_of(), fence(), 1, "stdout"] for i in range(2)]
    it.say("c")
    assert texts(it.asked(task_of(), row["after"])) == ["c"]
    it.give(HandlerEnded(1, task_of(), fence(), "ok", b"1"))
    assert texts(it.asked(task_of())) == ["a", "b", "c"], "also when it has ended"


def test_only_the_worker_that_runs_it_speaks_for_it() -> None:
    it = logged()
    it.attach("greet", worker=2)
    it.run()
    for said in (HandlerSaid(2, task_of(), fence(), 1, ()), HandlerSaid(1, task_of(), fence(2), 1, ()), HandlerSaid(1, "x.1.1", 1, 1, ())):
        assert it.give(said) == [Refused("unknown_handler")]


def test_each_attempt_keeps_its_newest_lines_and_counts_the_rest() -> None:
    it = logged(log_bytes_max=RING_COST_BYTES + 3 * LINE)
    it.run()
    it.say("a", "b", dropped=7)
    it.say("c", "d", "e")
    row = it.asked(task_of())
    assert texts(row) == ["c", "d", "e"] and row is not None and row["attempts"][0][4] == 9


def test_the_log_written_to_longest_ago_goes_and_its_name_stays() -> None:
    it = logged(logs_bytes_max=3 * (RING_COST_BYTES + LINE))
    for counter in (1, 2, 3):
        it.run(counter)
        it.say("first", counter=counter)
    it.say("again", counter=1)
    assert texts(it.asked(task_of(1))) == ["first", "again"]
    gone = it.asked(task_of(2))
    assert gone is not None and gone["lines"] == [] and gone["gone"] == [fence()]
    assert it.contractor.statistics().log_bytes <= 3 * (RING_COST_BYTES + LINE)
    assert texts(it.asked()) == ["first", "first", "again"], "the whole node, in the order in which it was said"


def test_pages_fit_and_nothing_is_left_out_or_said_twice() -> None:
    it = logged(log_page_bytes=3 * LINE)
    it.run()
    words = [str(i) for i in range(10)]
    it.say(*words)
    read, after, more = list[str](), 0, True
    while more:
        row = it.asked(task_of(), after)
        assert row is not None and len(row["lines"]) <= 3
        read += texts(row)
        after, more = row["after"], row["more"]
    assert read == words
    assert texts(it.asked()) == ["7", "8", "9"], "of a node the newest page"


def test_arguments_that_make_no_sense_are_counted_and_read_as_none() -> None:
    it = logged()
    it.run()
    it.say("a")
    for args in (b"{", b'{"after":{"me":"x"}}'):
        effects = it.give(Ask(1, "logs", task_of(), args), BOSS)
        assert of(effects, Refused) == [Refused("bad_args", BOSS)]
        [answer] = sent(effects, Answer)
        assert answer.ok and len(json.loads(answer.body)["tasks"][0]["lines"]) == 1
    for args in (b"[]", b'{"after":3}', b"{}"):
        assert not of(it.give(Ask(1, "logs", task_of(), args), BOSS), Refused)
