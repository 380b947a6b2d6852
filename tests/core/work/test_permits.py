"""Nothing begins without a live lease: this node's own clock decides, whatever a worker believes."""

from __future__ import annotations

from typing import Any

import pytest
from workbench import BOSS, NOW, NOW_MS, Bench, fence, of, task_of

from mesh.core.work.inputs import EffectBegin, EffectPermitted
from mesh.effects import Need, Reply
from mesh.messages.work import Renew, Revoke

T1, F1 = task_of(1), fence(1)


@pytest.fixture
def bench() -> Bench:
    bench = Bench()
    bench.attach("greet")
    bench.attach("greet", worker=2)
    bench.turn(bench.award(), BOSS)
    return bench


def begin(bench: Bench, *, worker: int = 1, task: str = T1, number: int = F1) -> tuple[str, list[Any]]:
    """The code it was refused with, or "", and what the desk was told."""
    bench.sink.caught.clear()
    ask = EffectBegin(7, worker, task, number, "mail", 1)
    replies = of(bench.give(ask), Reply)
    told = [item.begin for item in bench.sink.caught if isinstance(item, EffectPermitted)]
    assert told == ([] if replies else [ask])
    for reply in replies:
        assert (reply.request, reply.ok, reply.need, reply.body["fix"]) == (7, False, Need.FREE, f"mesh why {task}")
    return (replies[0].body["code"] if replies else ""), told


def test_what_runs_under_a_live_lease_may_begin(bench: Bench) -> None:
    assert begin(bench)[0] == ""


def test_past_the_lease_nothing_begins_until_it_is_renewed(bench: Bench) -> None:
    bench.now = NOW + 2.999
    assert begin(bench)[0] == ""
    bench.now = NOW + 3
    assert begin(bench)[0] == "lease_over"
    bench.turn(Renew(((T1, F1),), 3000, NOW_MS + 2000), BOSS)
    assert begin(bench)[0] == ""


def test_who_does_not_run_it_begins_nothing(bench: Bench) -> None:
    assert begin(bench, worker=2)[0] == begin(bench, number=fence(2))[0] == begin(bench, task=task_of(2))[0] == "stale_fence"
    bench.turn(Revoke(((T1, F1),)), BOSS)
    assert begin(bench)[0] == "stale_fence", "it was told to stop"
