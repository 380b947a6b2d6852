"""The node that manages work is killed, alone or with everything else: what it had acknowledged is finished, and nothing is done twice."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from mesh.errors import MeshError
from mesh.sync import connect

Until = Callable[..., Any]


@contextmanager
def flood(cluster: Any) -> Iterator[list[Any]]:
    """A client that submits as fast as it can until its node is gone: what was acknowledged."""
    acknowledged: list[Any] = []

    def submit_all() -> None:
        with connect(home=cluster.home, node="otter") as client:
            try:
                while True:
                    acknowledged.append(client.submit("plain", ledger=str(cluster.ledger.path), label="flood"))
            except MeshError:
                return

    thread = threading.Thread(target=submit_all)
    thread.start()
    yield acknowledged
    thread.join(60)
    assert not thread.is_alive()


class Story:
    """Work in every state at once, all of it managed by otter: held, queued, parked, and a flow whose first step is done."""

    def __init__(self, cluster: Any, until: Until, only: Any) -> None:
        self.cluster, self.until = cluster, until
        cluster.node("otter", "heron", "lynx")
        cluster.worker("heron", slots=4)
        cluster.worker("lynx", agent=only)
        cluster.gather()
        self.tasks: dict[str, Any] = {}
        self.parked()
        gates = [cluster.gate(name) for name in ("first", "go", "go")]
        self.tasks["flow"] = cluster.submit("otter", "flow", "flow", gates=gates)
        cluster.ledger.wait("start", "flow/s0")
        cluster.open("first")
        cluster.ledger.wait("start", "flow/s1")
        self.submit("held-0", "held-1")
        for label in ("held-0", "held-1"):
            cluster.ledger.wait("start", label)
        # The flow and its step take two of the four slots: from here on there is none.
        self.submit(*(f"queued-{i}" for i in range(8)))
        assert self.tasks["queued-7"].status()["state"] in ("pending", "bidding", "parked", "offered", "held")
        self.started = {label: len(cluster.ledger.starts(label)) for label in ("flow", "flow/s0", "flow/s1", "held-0", "held-1")}
        assert set(self.started.values()) == {1}

    def submit(self, *labels: str, capability: str = "plain") -> None:
        for label in labels:
            self.tasks[label] = self.cluster.submit("otter", capability, label, gate=self.cluster.gate("go"))

    def parked(self) -> None:
        """Its only worker is lost while it runs."""
        cluster = self.cluster
        self.submit("rare", capability="rare")
        cluster.ledger.wait("start", "rare")
        cluster.kill(cluster.workers["lynx"])
        self.until(lambda: self.tasks["rare"].status()["state"] == "parked", "the task to be parked")

    def finish(self, only: Any) -> None:
        """All that was acknowledged ends well, with one committed result each."""
        cluster = self.cluster
        cluster.worker("lynx", agent=only)
        cluster.gather()
        cluster.open("go")
        for label, task in self.tasks.items():
            result = task.result(120)
            assert result == cluster.ledger.starts(label)[-1].fence or label == "flow"
            cluster.committed_once(task, "otter")
        assert len(self.tasks["flow"].result(60)) == 3
        for label in ("flow/s0", "flow/s1", "flow/s2", *self.tasks):
            assert cluster.ledger.ends(label)
        assert len(cluster.ledger.starts("flow/s0")) == 1, "a step that has ended is not run again"


@pytest.fixture
def story(cluster: Any, eventually: Until, only_agent: Any) -> Story:
    return Story(cluster, eventually, only_agent)


def test_a_killed_manager_reclaims_its_work(story: Story, only_agent: Any) -> None:
    cluster = story.cluster
    cluster.kill(cluster.nodes["otter"])
    cluster.node("otter")
    cluster.gather()
    story.finish(only_agent)
    for label, count in story.started.items():
        assert len(cluster.ledger.starts(label)) == count, f"{label} ran through the restart and is not started again"
    assert len(cluster.ledger.starts("flow/s2")) == 1


def test_all_nodes_and_workers_are_killed_at_once(story: Story, only_agent: Any) -> None:
    cluster = story.cluster
    with flood(cluster) as acknowledged:
        story.until(lambda: len(acknowledged) >= 50, "the first of a flood of tasks")
        cluster.kill(*cluster.nodes.values(), *(worker for worker in cluster.workers.values() if worker.poll() is None))
    cluster.node("lynx", "heron", "otter")
    cluster.worker("heron")
    cluster.gather()
    story.finish(only_agent)
    assert len(cluster.ledger.starts("flow/s1")) <= 2
    assert [task.id for task in acknowledged if cluster.client("otter").result(task.id, timeout_s=60)["state"] != "done"] == []
