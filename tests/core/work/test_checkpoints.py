"""The manager's rules for checkpoints: only the holder's, only newer ones, written before they are answered."""

from __future__ import annotations

import json
from typing import Any

from manager_bench import Bench, started

from mesh.core.inputs import Call
from mesh.effects import Append, Need, Send
from mesh.ids import content_hash
from mesh.messages.records import Checkpointed
from mesh.messages.work import CheckpointAsk, Failure, StepDone


def keep(bench: Bench, item: Any, value: bytes, ask: int = 1, node: str = "a", **changed: Any) -> list[Any]:
    fields = {"task": item.task, "fence": item.fence, "value": value} | changed
    return bench.give(CheckpointAsk(ask, **fields), node)


def answers(effects: list[Any]) -> list[StepDone]:
    return [effect.message for effect in effects if type(effect) is Send and type(effect.message) is StepDone]


def test_it_is_written_then_answered_and_the_next_award_carries_it() -> None:
    bench = started()
    item = bench.held()
    effects = keep(bench, item, b'{"value":1}')
    assert bench.entries(effects) == [Checkpointed(item.task, item.fence, content_hash(b'{"value":1}'), int(bench.now * 1000))]
    [append] = [effect for effect in effects if type(effect) is Append]
    assert list(append.bodies.values()) == [b'{"value":1}']
    assert answers(effects) == [StepDone(1, item.task, "done")]
    assert [effect.need for effect in effects if type(effect) is Send] == [Need.KEPT]
    keep(bench, item, b'{"value":2}', 2)
    assert item.checkpoint == b""
    _, again = bench.awarded(bench.give(Failure(item.task, item.fence, "worker_lost", "gone", True), "a"))
    assert again.fence > item.fence and again.checkpoint == b'{"value":2}'


def test_what_is_repeated_or_overtaken_changes_nothing() -> None:
    bench = started()
    item = bench.held()
    keep(bench, item, b"2", 2)
    for ask, value in ((2, b"2"), (1, b"1")):
        effects = keep(bench, item, value, ask)
        assert bench.entries(effects) == [] and answers(effects) == [StepDone(ask, item.task, "done")]
    assert bench.task(item.task).checkpoint == b"2"


def test_only_the_holder_under_its_fence_and_within_bounds() -> None:
    bench = started()
    item = bench.held()
    cases: list[tuple[str, dict[str, Any]]] = [
        ("stale_fence", {"fence": item.fence - 1}),
        ("stale_fence", {"node": "b"}),
        ("stale_fence", {"task": "me.1.99"}),
        ("not_my_task", {"task": "other.1.1"}),
        ("checkpoint_too_big", {"value": b"x" * (64 * 1024 + 1)}),
    ]
    for code, changed in cases:
        effects = keep(bench, item, **({"value": b"1"} | changed))
        [answer] = answers(effects)
        assert answer.state == "refused" and json.loads(answer.error)["code"] == code and bench.refused(effects) == [code]
        assert bench.entries(effects) == []
    assert bench.task(item.task).checkpoint == b""


def test_a_plain_calls_is_in_memory_and_counts_as_accept() -> None:
    bench = started()
    node, item = bench.awarded(bench.give(Call(1, "greet", b"{}")))
    effects = keep(bench, item, b"1", node=node)
    assert bench.entries(effects) == [] and bench.task(item.task).state == "held" and bench.task(item.task).checkpoint == b"1"
    assert [effect.need for effect in effects if type(effect) is Send] == [Need.FREE]


def test_a_restarted_manager_has_it_again() -> None:
    bench = started()
    item = bench.held()
    keep(bench, item, b"1")
    again = Bench(incarnation=2)
    again.start(*bench.journal, bodies=bench.bodies)
    assert again.task(item.task).checkpoint == b"1"
    keep(again, item, b"2", 5)
    assert again.task(item.task).checkpoint == b"2"
