"""A full manager refuses, and says when to come back; nothing grows without bound."""

from __future__ import annotations

import pytest
from manager_bench import Bench, started

from mesh.core.inputs import Call, Submit
from mesh.core.work.admission import RETRY_MAX_MS, RETRY_MIN_MS, Admission
from mesh.limits import WorkLimits


def full(*ends_s: float) -> Admission:
    admission = Admission(WorkLimits(tasks_max=1))
    for end_s in ends_s:
        admission.took(0)
        admission.ended(end_s, 0)
    admission.took(0)
    return admission


@pytest.mark.parametrize(("ends_s", "after_ms"), [((), 1000), ((0.0, 0.1), 800), ((0.1,), RETRY_MIN_MS), ((-1000.0, 0.0), RETRY_MAX_MS)])
def test_when_to_come_back_follows_from_how_fast_tasks_ended(ends_s: tuple[float, ...], after_ms: int) -> None:
    body = full(*ends_s).refusal(0.1, 1)
    assert body is not None and (body["code"], body["retry_after_ms"]) == ("overloaded", after_ms)


def test_bytes_of_arguments_are_bounded_over_all_tasks_and_come_free_with_their_end() -> None:
    bench = Bench(tasks_bytes_max=10)
    bench.start()
    data = b'"' + b"x" * 6 + b'"'
    (reply,) = bench.replies(bench.submit(data=data))
    assert reply[0]
    ok, body = bench.replies(bench.give(Call(2, "greet", data)))[0]
    assert not ok and body["code"] == "overloaded" and "8 bytes" in body["message"]
    assert (bench.manager.statistics().input_bytes, bench.manager.statistics().overloaded) == (8, 1)


def test_room_comes_back_with_each_end() -> None:
    bench = started()
    item = bench.held(data=b'{"n":1}')
    assert bench.manager.statistics().input_bytes == 7
    bench.result(item, "a")
    assert bench.manager.statistics().input_bytes == 0


def test_what_is_reopened_after_a_restart_counts() -> None:
    bench = started()
    bench.submit("paint", b'{"n":1}')
    again = Bench(incarnation=2, tasks_max=1)
    again.start(*bench.journal, bodies=bench.bodies)
    assert again.manager.statistics().input_bytes == 7
    assert [body["code"] for _, body in again.replies(again.give(Submit(2, "greet", b"{}")))] == ["overloaded"]
