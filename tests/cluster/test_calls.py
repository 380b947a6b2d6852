"""A plain call survives the loss of who runs it, and dies with who made it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

Until = Callable[..., Any]


@pytest.mark.parametrize("capability", ["idempotent", "plain"])
def test_a_call_is_answered_though_its_contractor_is_killed(cluster: Any, capability: str) -> None:
    cluster.node("otter", "heron", "lynx")
    cluster.worker("heron", "lynx")
    cluster.gather()
    answers: list[int] = []

    def call() -> None:
        answers.append(cluster.client("otter").call(capability, ledger=str(cluster.ledger.path), label="job", gate=cluster.gate("go")))

    caller = threading.Thread(target=call)
    caller.start()
    first = cluster.ledger.wait("start", "job")
    cluster.kill(cluster.nodes[cluster.whose(first)], cluster.workers[cluster.whose(first)])
    second = cluster.ledger.wait("start", "job", 2)
    cluster.open("go")
    caller.join(60)
    assert answers == [second.fence] and second.fence > first.fence
    assert len(cluster.ledger.ends("job")) == 1


def test_a_call_dies_with_its_caller(cluster: Any, eventually: Until) -> None:
    cluster.node("otter", "heron")
    cluster.worker("heron")
    cluster.gather()
    words = ["call", "plain", f"ledger={cluster.ledger.path}", "label=job", f"gate={cluster.gate('never')}"]
    caller = cluster.spawn("caller", [*cluster.cli, *words, "--home", str(cluster.home), "--node", "otter"])
    cluster.ledger.wait("start", "job")
    cluster.kill(caller)
    contractor = lambda: cluster.client("heron").statistics()["contractor"]  # noqa: E731  looked at twice
    eventually(lambda: (contractor()["busy"], contractor()["held"]) == (0, 0), "the handler to be stopped")
    assert cluster.client("otter").status()["tasks"]["live"] == 0
    cluster.open("never")
    assert cluster.client("otter").call("echo", text="on") == "on"
    assert cluster.ledger.ends("job") == []


def test_a_cancelled_task_ends_where_it_runs(cluster: Any, eventually: Until) -> None:
    cluster.node("otter", "heron")
    cluster.worker("heron")
    cluster.gather()
    task = cluster.submit("otter", "flow", "flow", gates=[cluster.gate("never")])
    cluster.ledger.wait("start", "flow/s0")
    assert cluster.client("heron").cancel(task.id, reason="no longer wanted")["state"] in ("cancelling", "cancelled")
    assert cluster.client("otter").result(task.id, timeout_s=60)["state"] == "cancelled"
    eventually(lambda: cluster.client("heron").statistics()["contractor"]["held"] == 0, "flow and step to be stopped")
    assert {row["state"] for row in cluster.client("otter").tasks()["tasks"]} == {"cancelled"}
    assert cluster.ledger.ends("flow") == cluster.ledger.ends("flow/s0") == []
