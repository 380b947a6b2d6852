"""User code costs the mesh nothing but itself: a killed worker, a handler that blocks, a node that restarts under its worker."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any

from mesh.limits import WorkLimits

LOST = ("unreachable", "dead", "left")


def test_a_killed_worker_is_a_failure_of_its_work_not_of_its_node(cluster: Any, eventually: Callable[..., Any]) -> None:
    cluster.node("otter", "heron", "lynx")
    cluster.worker("heron", "lynx")
    cluster.gather()
    task = cluster.submit("otter", "plain", "job", gate=cluster.gate("go"))
    first = cluster.ledger.wait("start", "job")
    victim = cluster.whose(first)
    cluster.kill(cluster.workers[victim])
    lost: list[str] = []

    def again() -> bool:
        lost.extend(state for name in cluster.nodes for state in cluster.states(name).values() if state in LOST)
        return len(cluster.ledger.starts("job")) == 2

    eventually(again, "the second start")
    second = cluster.ledger.starts("job")[1]
    assert not lost
    assert second.pid != first.pid and second.fence > first.fence
    cluster.open("go")
    assert task.result(60) == second.fence
    row = task.status()
    assert (row["state"], row["attempts"], row["owner"]) == ("done", 2, cluster.whose(second))
    assert [entry["reason"] for entry in cluster.entries(task.id, "Lost", "otter")] == ["failed:worker_lost"]
    cluster.committed_once(task, "otter")

    # Nobody else is left: work is parked, visibly, and wakes with the next worker.
    cluster.kill(cluster.workers[cluster.whose(second)])
    eventually(lambda: not cluster.client("otter").caps()["caps"], "the offers to be gone")
    cluster.worker(victim)
    cluster.gather()
    assert cluster.client("otter").call("echo", text="back") == "back"


def test_handlers_that_block_cost_neither_lease_nor_membership(cluster: Any, eventually: Callable[..., Any]) -> None:
    """In Python on the worker's only loop, and in a C call that keeps the GIL: each more than twice the lease."""
    cluster.node("otter", "heron", "lynx")
    cluster.worker("heron", "lynx", slots=1)
    cluster.gather()
    seconds = 2.5 * WorkLimits().lease_s
    tasks = [cluster.submit("otter", capability, capability, seconds=seconds) for capability in ("spin", "grip")]
    seen: set[str] = set()

    def over() -> bool:
        for name in cluster.nodes:
            seen.update(cluster.states(name).values())
        return all(cluster.ledger.ends(capability) for capability in ("spin", "grip"))

    eventually(over, "both handlers to end", 120)
    assert seen.isdisjoint(LOST)
    for task, capability in zip(tasks, ("spin", "grip"), strict=True):
        start, end = cluster.ledger.wait("start", capability), cluster.ledger.wait("end", capability)
        assert end.at_s - start.at_s >= seconds
        assert task.result(60) == start.fence
        assert len(cluster.ledger.starts(capability)) == 1
        assert task.status()["attempts"] == 1
        assert not cluster.entries(task.id, "Lost", "otter")
    assert cluster.client("otter").statistics()["manager"]["leases_over"] == 0


def test_a_worker_comes_back_to_its_restarted_node_and_its_results_are_delivered(cluster: Any, eventually: Callable[..., Any]) -> None:
    cluster.node("otter", "heron")
    cluster.worker("heron")
    cluster.gather()
    running = cluster.submit("otter", "plain", "running", gate=cluster.gate("late"))
    ending = cluster.submit("otter", "plain", "ending", gate=cluster.gate("soon"))
    for label in ("running", "ending"):
        cluster.ledger.wait("start", label)
    cluster.kill(cluster.nodes["heron"])
    cluster.open("soon")
    cluster.ledger.wait("end", "ending")
    cluster.node("heron")
    eventually(lambda: cluster.attached("heron"), "the worker to come back")
    assert ending.result(60) == cluster.ledger.starts("ending")[0].fence
    cluster.open("late")
    assert running.result(60) == cluster.ledger.starts("running")[-1].fence
    for task, label in ((running, "running"), (ending, "ending")):
        assert len(cluster.ledger.starts(label)) == 1, "what ran through the restart is not run again"
        cluster.committed_once(task, "otter")
    assert cluster.workers["heron"].poll() is None


def test_a_worker_that_is_told_to_end_gives_its_work_back(cluster: Any, eventually: Callable[..., Any]) -> None:
    cluster.node("otter", "heron", "lynx")
    cluster.worker("heron", "lynx")
    cluster.gather()
    task = cluster.submit("otter", "plain", "job", gate=cluster.gate("go"))
    first = cluster.ledger.wait("start", "job")
    worker = cluster.workers[cluster.whose(first)]
    worker.send_signal(signal.SIGTERM)
    second = cluster.ledger.wait("start", "job", 2)
    assert worker.wait(60) == 0
    cluster.open("go")
    assert task.result(60) == second.fence
    cluster.committed_once(task, "otter")
