"""The measuring stick itself, and a small version of its rows as a gate."""

from __future__ import annotations

import pytest

from mesh.sim.makespan import Job, Yard, batch, lower_bound_s, percentile, perfect, stream


def test_the_perfect_queue_gives_the_next_task_to_the_fastest_free_node():
    jobs = (Job(0.0, 4.0), Job(0.0, 4.0), Job(0.0, 4.0), Job(10.0, 4.0))
    measured = perfect(jobs, (1.0, 4.0))
    assert measured.response_s == (1.0, 4.0, 2.0, 1.0)
    assert measured.makespan_s == 11.0


def test_the_lower_bound_is_all_work_over_all_speed_or_the_longest_task():
    assert lower_bound_s((Job(0.0, 2.0), Job(0.0, 4.0)), (1.0, 1.0)) == 4.0
    assert lower_bound_s(tuple(Job(0.0, 1.0) for _ in range(8)), (1.0, 1.0, 2.0)) == 2.0


def test_a_stream_uses_the_load_that_was_asked_for():
    jobs = stream(1, 4000, 0.1, 0.85, (1.0,) * 16, 16)
    used = sum(job.service_s for job in jobs) / (16 * jobs[-1].at_s)
    assert used == pytest.approx(0.85, rel=0.05)
    assert {job.manager for job in jobs} == set(range(16))


def test_percentiles_are_of_the_ordered_values():
    assert percentile((3.0, 1.0, 2.0), 0.5) == 2.0
    assert percentile(tuple(float(n) for n in range(100)), 0.99) == 99.0


def test_a_warm_batch_on_unlike_nodes_comes_close_to_the_bound():
    speeds = (1.0, 1.0, 2.0, 4.0)
    yard = Yard(1, speeds, durable=True)
    yard.do(batch(2, 16, 0.1))
    jobs = batch(1, 240, 0.1)
    assert yard.do(jobs).makespan_s / lower_bound_s(jobs, speeds) < 1.15
