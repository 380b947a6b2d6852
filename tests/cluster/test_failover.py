"""The node that manages work is killed and stays away: another drives it on, and nothing that runs is begun again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Until = Callable[..., Any]


def guarded(cluster: Any, eventually: Until, *names: str) -> None:
    """Each of these has two keepers."""
    for name in names:
        eventually(lambda name=name: len(cluster.client(name).status()["keepers"]["keepers"]) == 2, f"two keepers of {name}")


def test_running_work_goes_on_when_its_manager_is_killed_and_is_not_begun_again(cluster: Any, eventually: Until) -> None:
    cluster.node("otter", "heron", "lynx")
    cluster.worker("heron", "lynx", slots=4)
    cluster.gather()
    guarded(cluster, eventually, "otter", "heron", "lynx")
    gates = [cluster.gate("first"), cluster.gate("go"), cluster.gate("go")]
    tasks = {"flow": cluster.submit("otter", "flow", "flow", gates=gates)}
    tasks |= {f"held-{i}": cluster.submit("otter", "plain", f"held-{i}", gate=cluster.gate("go")) for i in range(3)}
    assert {task.survives for task in tasks.values()} == {"node-loss"}
    cluster.open("first")
    running = ["flow/s1", *(f"held-{i}" for i in range(3))]
    for label in running:
        cluster.ledger.wait("start", label)
    cluster.kill(cluster.nodes["otter"])
    heirs = ("heron", "lynx")
    eventually(lambda: any(cluster.client(name).status()["keepers"]["takeovers"] for name in heirs), "somebody to take over")
    cluster.open("go")
    for name in heirs:
        for label, task in tasks.items():
            assert cluster.client(name).result(task.id)["state"] == "done", f"{label} as {name} tells it"
    begun = ("flow", "flow/s0", *running)
    assert {label: len(cluster.ledger.starts(label)) for label in begun} == dict.fromkeys(begun, 1)
    cluster.node("otter")
    eventually(lambda: cluster.client("otter").status()["keepers"]["leads"], "otter to manage its own work again")
    for label, task in tasks.items():
        assert cluster.client("otter").task(task.id)["state"] == "done", f"{label}, as who was away tells it"
