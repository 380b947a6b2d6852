"""A contractor's node is killed, or stopped for longer than its lease: the work goes on elsewhere, and one result is committed."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any

from mesh.limits import WorkLimits

LIMITS = WorkLimits()
COUNT = 6


def test_work_of_a_killed_contractor_runs_again_elsewhere(cluster: Any, eventually: Callable[..., Any]) -> None:
    """Idempotent work at once, other work only when its lease and the margin are over; one committed result each."""
    cluster.node("otter", "heron", "lynx", "wren")
    cluster.worker("heron", "lynx", "wren")
    cluster.gather()
    labels = [f"{capability}-{i}" for i in range(COUNT) for capability in ("plain", "idempotent")]
    tasks = {label: cluster.submit("otter", label.partition("-")[0], label, gate=cluster.gate("go")) for label in labels}
    at = {label: cluster.whose(cluster.ledger.wait("start", label)) for label in labels}
    victim = next(
        name for name in at.values() if {label.partition("-")[0] for label in labels if at[label] == name} == {"plain", "idempotent"}
    )
    lost = [label for label in labels if at[label] == victim]
    killed_at_s = cluster.kill(cluster.nodes[victim], cluster.workers[victim])
    for label in lost:
        again = cluster.ledger.wait("start", label, 2)
        reasons = [entry["reason"] for entry in cluster.entries(tasks[label].id, "Lost", "otter")]
        if label.startswith("plain"):
            # The last renewal was at most some beats before the kill.
            assert [reason.partition(":")[0] for reason in reasons] == ["lease_over"]
            assert again.at_s - killed_at_s > LIMITS.lease_s + LIMITS.margin_s - 3 * LIMITS.beat_s
        else:
            assert len(reasons) == 1 and not reasons[0].startswith("lease_over")
            assert again.at_s - killed_at_s < LIMITS.lease_s, "well before its lease is over"
    cluster.open("go")
    for label, task in tasks.items():
        newest = cluster.ledger.starts(label)[-1]
        assert task.result(60) == newest.fence
        assert len(cluster.ledger.starts(label)) == (2 if label in lost else 1)
        assert [end.fence for end in cluster.ledger.ends(label)] == [newest.fence]
        assert cluster.committed_once(task, "otter")["node"] != cluster.rows("otter")[victim]["id"]

    # It comes back under its old id, and works.
    cluster.node(victim)
    cluster.worker(victim)
    cluster.gather()
    assert cluster.rows("otter")[victim]["incarnation"] == 2
    assert cluster.client(victim).call("echo", text="again") == "again"


def test_a_contractor_stopped_for_longer_than_its_lease_is_superseded(cluster: Any, eventually: Callable[..., Any]) -> None:
    cluster.node("otter", "heron", "lynx")
    cluster.worker("heron", "lynx")
    cluster.gather()
    task = cluster.submit("otter", "plain", "job", gate=cluster.gate("go"))
    first = cluster.ledger.wait("start", "job")
    stopped = cluster.whose(first)
    cluster.nodes[stopped].send_signal(signal.SIGSTOP)
    second = cluster.ledger.wait("start", "job", 2)
    assert cluster.whose(second) != stopped and second.fence > first.fence
    # The first handler ends while nobody listens, and its node delivers that, late, before the second has ended.
    cluster.open("go", cluster.workers[stopped])
    cluster.ledger.wait("end", "job")
    cluster.nodes[stopped].send_signal(signal.SIGCONT)
    cluster.gather()
    eventually(lambda: cluster.client(stopped).statistics()["contractor"]["held"] == 0, "the old award to be forgotten")
    assert task.status()["state"] == "held"
    cluster.open("go")
    assert task.result(60) == second.fence
    assert cluster.committed_once(task, "otter")["fence"] == second.fence
    assert [line.fence for line in cluster.ledger.ends("job")] == [first.fence, second.fence]
    for name in cluster.nodes:
        assert set(cluster.states(name).values()) == {"alive"}
    assert cluster.client(stopped).call("echo", text="healed") == "healed"


def test_a_manager_that_was_stopped_gets_the_results_of_suspended_contractors(cluster: Any, eventually: Callable[..., Any]) -> None:
    cluster.node("otter", "heron", "lynx")
    cluster.worker("heron")
    cluster.gather()
    labels = {"ends-meanwhile": "plain", "ends-after": "plain", "may-repeat": "idempotent"}
    tasks = {label: cluster.submit("otter", capability, label, gate=cluster.gate(label)) for label, capability in labels.items()}
    for label in tasks:
        cluster.ledger.wait("start", label)
    cluster.nodes["otter"].send_signal(signal.SIGSTOP)
    eventually(lambda: cluster.client("heron").statistics()["contractor"]["lapsed"] >= 3, "the leases to lapse")
    cluster.open("ends-meanwhile")
    cluster.ledger.wait("end", "ends-meanwhile")
    cluster.nodes["otter"].send_signal(signal.SIGCONT)
    cluster.open("ends-after")
    cluster.open("may-repeat")
    for label, task in tasks.items():
        assert task.result(60) == cluster.ledger.starts(label)[-1].fence
        assert len(cluster.ledger.starts(label)) == 1, "it was the manager who was away, not the contractor"
        cluster.committed_once(task, "otter")
    cluster.gather()
