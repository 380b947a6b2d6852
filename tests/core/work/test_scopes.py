"""The manager's rules for versioned values: on record first, compared and set, fenced, known when repeated, and bounded."""

from __future__ import annotations

import json
from typing import Any

import pytest
from manager_bench import Bench, started

from mesh.core.inputs import Submit
from mesh.core.keeping.inputs import ClaimSettled
from mesh.core.records.still_open import StillOpen
from mesh.core.work import scope as scope_module
from mesh.core.work.claims import work_of
from mesh.core.work.scope import Scope
from mesh.core.work.succession import Tale
from mesh.core.work.task import WAITING
from mesh.effects import Append, Need, Send
from mesh.ids import content_hash
from mesh.limits import RecordsLimits
from mesh.messages.claims import Choice
from mesh.messages.records import Finished, Stored, Submitted
from mesh.messages.scopes import STATE, HandlerAsk, scope_key
from mesh.messages.work import Accept, Answer, Ask, Release, StepAsk


def told(effects: list[Any]) -> dict[str, Any]:
    """The one answer in these effects."""
    [said] = [effect.message for effect in effects if type(effect) is Send and type(effect.message) is Answer]
    return json.loads(said.body) | {"ok": said.ok}


def by_handler(bench: Bench, item: Any, question: str, node: str = "a", about: str = "", fence: int = 0, **args: Any) -> list[Any]:
    data = json.dumps(args).encode()
    return bench.give(HandlerAsk(7, item.task, fence or item.fence, about or item.task, question, data), node)


def by_client(bench: Bench, task: str, question: str, **args: Any) -> list[Any]:
    return bench.give(Ask(9, question, task, json.dumps(args).encode()), "b")


def shared(bench: Bench, name: str = "prices") -> str:
    data = json.dumps({"name": name}).encode()
    effects = bench.give(Submit(1, STATE, data, key=scope_key(name)))
    [entry] = bench.entries(effects, Submitted)
    bench.give(ClaimSettled(entry.key, Choice(entry.task, work_of(STATE, content_hash(data)))))
    assert bench.task(entry.task).state == WAITING
    return str(entry.task)


def test_a_write_is_on_record_before_anybody_hears_of_it_and_versions_grow() -> None:
    bench = started()
    item = bench.held()
    effects = by_handler(bench, item, "write", key="k", value=[1])
    digest = content_hash(b"[1]")
    assert bench.entries(effects) == [Stored(item.task, "k", 1, digest, "greeter", "", item.task, item.fence, int(bench.now * 1000))]
    assert next(effect.bodies for effect in effects if type(effect) is Append) == {digest: b"[1]"}
    assert {effect.need for effect in effects if type(effect) is Send} == {Need.KEPT}
    assert told(effects) == {"task": item.task, "key": "k", "version": 1, "ok": True}
    assert told(by_client(bench, item.task, "write", key="j", value=None, by="ann"))["version"] == 2
    read = by_client(bench, item.task, "read", key="k")
    assert told(read) == {"task": item.task, "key": "k", "value": [1], "version": 1, "by": "greeter", "ok": True}
    assert {effect.need for effect in read if type(effect) is Send} == {Need.KEPT}
    assert told(by_client(bench, item.task, "write", key="k", delete=True))["version"] == 3
    assert told(by_client(bench, item.task, "read", key="k"))["version"] == 0
    assert bench.entries(by_client(bench, item.task, "write", key="k", delete=True)) == []
    listed = told(by_client(bench, item.task, "read", prefix=""))
    assert (listed["version"], listed["keys"], listed["more"]) == (3, [{"key": "j", "version": 2, "bytes": 4, "by": "ann"}], 0)


def test_only_the_version_that_stands_there_is_written_over() -> None:
    bench = started()
    item = bench.held()
    for over, version in ((0, 1), (1, 2)):
        assert told(by_handler(bench, item, "write", key="k", value=over, if_version=over))["version"] == version
    effects = by_handler(bench, item, "write", key="k", value=9, if_version=1)
    refused = told(effects)
    assert (refused["ok"], refused["code"], refused["version"]) == (False, "version_conflict", 2) and bench.entries(effects) == []
    assert {effect.need for effect in effects if type(effect) is Send} == {Need.KEPT}
    assert told(by_handler(bench, item, "write", key="new", value=9, if_version=2))["version"] == 0


def test_a_repeated_write_is_known_by_its_event_and_gets_the_first_answer_after_a_restart_too() -> None:
    bench = started()
    task = shared(bench)
    assert told(by_client(bench, task, "write", key="k", value="first", event="e1"))["version"] == 1
    by_client(bench, task, "write", key="k", value="second", event="e2")
    again = by_client(bench, task, "write", key="k", value="other", event="e1", if_version=0)
    assert (told(again)["version"], told(again)["value"], told(again)["repeated"], bench.entries(again)) == (1, "first", True, [])
    successor = Bench(incarnation=2)
    successor.start(*bench.journal, bodies=bench.bodies)
    assert told(by_client(successor, task, "write", key="k", value="x", event="e1"))["version"] == 1
    assert told(by_client(successor, task, "read", key="k"))["value"] == "second"
    assert told(by_client(successor, task, "write", key="k", value="third"))["version"] == 3


def test_an_attempt_that_was_replaced_writes_no_state_any_more() -> None:
    bench = started()
    task, first = shared(bench), bench.held()
    by_handler(bench, first, "write", about=task, key="k", value=1)
    node, second = bench.awarded(bench.give(Release(((first.task, first.fence, "released"),)), "a"))
    bench.give(Accept(((second.task, second.fence),)), node)
    effects = by_handler(bench, first, "write", key="k", value=0)
    assert told(effects)["code"] == "stale_fence" and bench.refused(effects) == ["stale_fence"]
    assert told(by_handler(bench, second, "write", about=task, key="k", value=2))["version"] == 2
    late = told(by_handler(bench, first, "write", about=task, key="k", value=0))
    assert (late["ok"], late["code"]) == (False, "stale_fence")
    assert told(by_handler(bench, second, "read", node="b", key="k"))["code"] == "stale_fence"


def test_steps_share_the_state_of_the_task_at_the_top_and_it_ends_with_that() -> None:
    bench = started()
    top = bench.held()
    _, step = bench.awarded(bench.give(StepAsk(1, top.task, top.fence, "one", "greet", b"{}"), "a"))
    bench.give(Accept(((step.task, step.fence),)), "a")
    assert told(by_handler(bench, step, "write", key="k", value=1))["task"] == top.task
    assert told(by_handler(bench, top, "read", key="k"))["value"] == 1
    bench.result(top, "a")
    assert bench.task(top.task).scope is None
    assert told(by_client(bench, top.task, "read", key="k"))["code"] == "task_ended"
    successor = Bench(incarnation=2)
    successor.start(*bench.journal, bodies=bench.bodies)
    assert successor.task(top.task).scope is None


def test_a_plain_call_has_no_state_and_another_tasks_state_is_not_for_a_handler() -> None:
    from mesh.core.inputs import Call

    bench = started()
    _, call = bench.awarded(bench.give(Call(1, "greet", b"{}")))
    bench.give(Accept(((call.task, call.fence),)), "a")
    assert told(by_handler(bench, call, "write", key="k", value=1))["code"] == "no_scope"
    assert told(by_client(bench, call.task, "read", key="k"))["code"] == "no_scope"
    item = bench.held()
    assert told(by_handler(bench, item, "read", about=call.task, key="k"))["code"] == "no_scope"
    assert told(by_handler(bench, item, "read", about="me.1.99", key="k"))["code"] == "task_ended"
    assert told(by_handler(bench, item, "read", about="you.1.99", key="k"))["code"] == "not_my_task"
    assert told(by_handler(bench, item, "steal", key="k"))["code"] == "unknown_question"


@pytest.mark.parametrize(
    ("args", "code"),
    [
        ({"key": "k"}, "bad_write"),
        ({"key": 3, "value": 1}, "bad_write"),
        ({"key": "k", "value": 1, "delete": True}, "bad_write"),
        ({"key": "k", "value": 1, "if_version": "1"}, "bad_write"),
        ({"key": "k", "value": 1, "event": None}, "bad_write"),
        ({"key": "", "value": 1}, "bad_key"),
        ({"key": "x" * 201, "value": 1}, "bad_key"),
        ({"key": "a\nb", "value": 1}, "bad_key"),
        ({"key": "k", "value": 1, "event": "e" * 201}, "bad_event"),
        ({"key": "k", "value": "x" * 65_536}, "too_big"),
    ],
)
def test_what_does_not_fit_is_refused_and_changes_nothing(args: dict[str, Any], code: str) -> None:
    bench = started()
    task = shared(bench)
    effects = by_client(bench, task, "write", **args)
    assert (told(effects)["code"], bench.entries(effects)) == (code, []) and told(effects)["fix"]
    assert told(by_client(bench, task, "read", key=3))["code"] == "bad_key"


def test_a_state_has_so_many_keys_and_bytes_and_no_more() -> None:
    bench = Bench(state_keys_max=2, state_bytes_max=30)
    bench.start()
    task = shared(bench)
    for key in ("a", "b"):
        assert told(by_client(bench, task, "write", key=key, value=1))["ok"]
    assert told(by_client(bench, task, "write", key="c", value=1))["code"] == "state_full"
    assert told(by_client(bench, task, "write", key="a", value="x" * 25))["ok"]
    assert told(by_client(bench, task, "write", key="b", value="x"))["code"] == "state_full"
    assert told(by_client(bench, task, "write", key="a", delete=True))["ok"]
    assert told(by_client(bench, task, "write", key="c", value=1))["ok"]


def test_who_does_not_lead_his_keepers_answers_no_client_and_leaves_handlers_waiting() -> None:
    bench = started()
    task, item = shared(bench), bench.held()
    bench.directory.guard.led_until_s = bench.now
    assert told(by_client(bench, task, "read", key="k"))["code"] == "no_majority"
    effects = by_client(bench, task, "write", key="k", value=1)
    assert (told(effects)["code"], bench.entries(effects)) == ("no_majority", [])
    assert by_handler(bench, item, "write", key="k", value=1) == []


def test_only_its_name_opens_a_shared_state_and_nobody_cancels_it() -> None:
    bench = started()
    for key, data in (("", b'{"name":"x"}'), (scope_key("y"), b'{"name":"x"}'), (scope_key("a/b"), b'{"name":"a/b"}'), ("k", b"[]")):
        [(ok, body)] = bench.replies(bench.give(Submit(1, STATE, data, key=key)))
        assert (ok, body["code"]) == (False, "is_state")
    task = shared(bench)
    effects = bench.give(Ask(9, "cancel", task, b"{}"), "b")
    assert told(effects)["code"] == "is_state" and bench.task(task).state == WAITING
    assert [row["name"] for row in told(bench.give(Ask(9, "scopes", "", b"{}"), "b"))["tasks"]] == ["prices"]


def test_what_a_journal_needs_of_a_state_is_bounded_and_tells_the_same() -> None:
    hashes = ["", *(content_hash(b"%d" % n) for n in range(10))]
    writes = [Stored("me.1.1", f"k{n % 7}", n, hashes[n % 11], event=f"e{n}") for n in range(1, 3001)]
    rows: list[Any] = [Submitted("me.1.1", STATE, "", "", 0, -1), *writes]
    still = StillOpen("me", RecordsLimits())
    for seq, entry in enumerate(rows, 1):
        still.add(seq, entry)
    numbers = still.numbers(0)
    assert numbers is not None and len(numbers) <= scope_module.WRITES_REMEMBERED + 7 + 1
    tale = Tale("me", 2, lambda _: False)
    tale.add([(seq, entry, {}) for seq, entry in enumerate(rows, 1)])
    assert [seq for seq, _, _ in tale.entries()] == list(numbers)
    whole, part = Scope(), Scope()
    for entry in rows[1:]:
        whole.apply(entry, b"")
    for seq in numbers[1:]:
        part.apply(rows[seq - 1], b"")
    assert (whole.values, whole.version, whole.size_bytes) == (part.values, part.version, part.size_bytes)
    assert list(whole._writes) == list(part._writes)
    still.add(len(rows) + 1, Finished("me.1.1", 0, "failed"))
    assert len(still.numbers(0) or ()) == 2
