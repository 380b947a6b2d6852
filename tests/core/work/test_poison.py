"""Work that takes down whoever runs it, and how a person lets it go on."""

from __future__ import annotations

import json

import manager_bench
import pytest
from manager_bench import Bench, started

from mesh.core.inputs import BodyRead, MemberLinked, MemberRestarted, MemberSuspected, MemberUnreachable, OffersChanged
from mesh.effects import Need, ReadBody, Send
from mesh.messages.membership import Offer
from mesh.messages.records import Decided, Finished, Lost, Submitted
from mesh.messages.work import Accept, Answer, Ask, AwardItem, Failure


@pytest.fixture
def bench() -> Bench:
    bench = started()
    for node in ("a", "b", "c", "d"):
        bench.row(node, Offer("greet", "greeter", idempotent=True), room=4)
    return bench


def accepted(bench: Bench, effects: list) -> tuple[str, AwardItem]:
    node, item = bench.awarded(effects)
    bench.give(Accept(((item.task, item.fence),)), node)
    return node, item


def worker_dies(bench: Bench, node: str, item: AwardItem) -> list:
    return bench.give(Failure(item.task, item.fence, "worker_lost", "gone", True), node)


def node_dies(bench: Bench, node: str, item: AwardItem) -> list:
    bench.row(node, Offer("greet", "greeter", idempotent=True), linked=False, state="suspect")
    return bench.give(MemberSuspected(node, True))


def cut_off(bench: Bench, node: str, item: AwardItem) -> list:
    bench.row(node, Offer("greet", "greeter", idempotent=True), linked=False, state="unreachable")
    return bench.give(MemberUnreachable(node))


@pytest.mark.parametrize("dies", [worker_dies, node_dies, cut_off])
def test_three_nodes_are_enough(bench, dies):
    node, item = accepted(bench, bench.submit())
    seen = [node]
    for _ in range(2):
        node, item = accepted(bench, dies(bench, node, item))
        seen.append(node)
    effects = dies(bench, node, item)
    (finished,) = bench.entries(effects, Finished)
    error = json.loads(finished.error)
    assert len(set(seen)) == 3 and (finished.state, error["code"]) == ("failed", "poison")
    assert all(name in error["message"] for name in map(str.upper, seen)) and f"mesh retry {item.task}" in error["fix"]
    assert bench.sends(effects, Decided) == [] and bench.manager.statistics().poisonous == 1


def test_the_count_survives_a_restart(bench):
    node, item = accepted(bench, bench.submit())
    node, item = accepted(bench, worker_dies(bench, node, item))
    worker_dies(bench, node, item)
    again = manager_bench.Bench(incarnation=2)
    again.start(*bench.journal, bodies=bench.bodies)
    assert len(again.task(item.task).took_down or {}) == 2
    again.row("e", Offer("greet", "greeter", idempotent=True), room=4)
    holder = again.task(item.task).holder
    if not holder:
        holder, item = accepted(again, again.give(OffersChanged("e")))
    else:
        again.hear(holder)
    effects = again.give(Failure(item.task, again.task(item.task).fence, "worker_lost", "gone", True), holder)
    assert [json.loads(entry.error)["code"] for entry in again.entries(effects, Finished)] == ["poison"]


def test_who_cannot_be_reached_counts_until_he_is_back_as_he_was(bench):
    first, item = accepted(bench, bench.submit())
    second, item = accepted(bench, cut_off(bench, first, item))
    third, item = accepted(bench, cut_off(bench, second, item))
    for node in (first, second):
        bench.row(node, Offer("greet", "greeter", idempotent=True), room=4)
    bench.give(MemberLinked(first))
    bench.give(MemberRestarted(second, 2))
    bench.give(MemberLinked(second))
    assert [node for node, _ in (bench.task(item.task).took_down or {}).values()] == [second]
    _, item = accepted(bench, cut_off(bench, third, item))
    assert bench.task(item.task).state == "held"


def test_a_lease_that_ends_with_its_node_dead_counts(bench):
    for node in ("a", "b", "c", "d"):
        bench.row(node, Offer("greet", "greeter"), room=4)
    node, item = accepted(bench, bench.submit())
    bench.row(node, Offer("greet", "greeter"), linked=False, state="dead")
    effects = bench.after(3.6)
    assert [entry.reason for entry in bench.entries(effects, Lost)] == ["lease_over:dead"]
    assert bench.task(item.task).took_down == {item.fence: (node, True)}


# ---- retry


def answer(effects: list) -> tuple[bool, dict]:
    (message,) = [e.message for e in effects if type(e) is Send and type(e.message) is Answer]
    return message.ok, json.loads(message.body)


def failed(bench: Bench) -> AwardItem:
    node, item = accepted(bench, bench.submit(timeout_ms=60_000, bounds=(0, 9000, 0), retries=2, by="bob"))
    bench.give(Failure(item.task, item.fence, "invalid_argument", "no", False), node)
    return item


def test_retry_submits_the_same_work_as_a_new_task_that_names_the_old_one(bench):
    item = failed(bench)
    (read,) = [e for e in bench.give(Ask(7, "retry", item.task, b'{"by": "eve"}'), "a") if type(e) is ReadBody]
    assert read.hash == item.input_hash
    effects = bench.give(BodyRead(read.token, b"{}"))
    (entry,) = bench.entries(effects, Submitted)
    assert (entry.again, entry.by, entry.timeout_ms, entry.retries, entry.bounds) == (item.task, "eve", 60_000, 2, (0, 9000, 0))
    assert answer(effects) == (True, {"task": "me.1.2", "survives": "restart"})
    assert [e.need for e in effects if type(e) is Send and type(e.message) is Answer] == [Need.KEPT]
    assert bench.awarded(effects)[1].task == "me.1.2"
    assert bench.task(item.task).state == "failed"  # an end is an end


def test_retry_of_what_cannot_be_retried_says_what_to_do(bench):
    item = bench.held()
    assert answer(bench.give(Ask(1, "retry", item.task), "a"))[1]["code"] == "not_ended"
    bench.result(item, bench.task(item.task).holder)
    assert answer(bench.give(Ask(2, "retry", item.task), "a"))[1]["code"] == "not_failed"
    assert answer(bench.unknown(Ask(3, "retry", "me.1.99"), "a"))[1]["code"] == "unknown_task"
    gone = failed(bench)
    (read,) = [e for e in bench.give(Ask(4, "retry", gone.task), "a") if type(e) is ReadBody]
    assert answer(bench.give(BodyRead(read.token, None)))[1]["code"] == "input_erased"
