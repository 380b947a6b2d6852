"""Tasks in processes of their own, on real nodes: however the agent is run; killed when cancelled; run again when they are killed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mesh.errors import TaskCancelled

HERE = Path(__file__).parent
OWN = HERE / "own_process_agent.py"
CLI = (sys.executable, "-m", "mesh.inspector.cli")


def is_gone(pid: int) -> bool:
    """Dead, reaped or not: an orphan's remains are its new parent's affair."""
    if sys.platform != "linux":
        return subprocess.run(["ps", "-p", str(pid)], capture_output=True, check=False).returncode != 0
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except FileNotFoundError:
        return True


WAYS = {"file": (*CLI, "run", str(OWN)), "module": (*CLI, "run", "own_process_agent:agent"), "script": (sys.executable, str(OWN))}


@pytest.mark.parametrize("words", WAYS.values(), ids=WAYS)
def test_however_the_agent_is_run(words: tuple[str, ...], cluster: Any, eventually: Callable[..., Any]) -> None:
    cluster.node("otter")
    worker = cluster.spawn("worker", list(words), MESH_HOME=str(cluster.home), PYTHONPATH=str(HERE))
    eventually(lambda: any(each["pid"] == worker.pid for each in cluster.client("otter").status()["workers"]), "the worker")
    found = cluster.client("otter").call("own.where")
    assert found["ppid"] == worker.pid != found["pid"] and found["step"] == 21
    assert is_gone(found["pid"])


def test_a_killed_process_is_a_lost_worker_and_the_task_runs_again(cluster: Any) -> None:
    cluster.node("otter")
    cluster.worker("otter", agent=OWN)
    client = cluster.client("otter")
    task = client.submit("own.dies_once", mark=str(cluster.folder / "mark"))
    assert task.result(60) == "second time"
    assert task.status()["attempts"] == 2
    [lost] = cluster.entries(task.id, "Lost", "otter")
    assert lost["reason"] == "failed:worker_lost" and "was killed by SIGKILL" in lost["error"]
    assert len(client.status()["workers"]) == 1


def test_a_cancelled_task_is_killed_and_a_lost_node_takes_it_along(cluster: Any, eventually: Callable[..., Any]) -> None:
    cluster.node("otter")
    cluster.worker("otter", agent=OWN)
    client = cluster.client("otter")
    pids = []
    for number in range(2):
        mark = cluster.folder / f"mark{number}"
        task = client.submit("own.waits", mark=str(mark))
        eventually(lambda mark=mark: mark.exists() and mark.read_text(), "the handler")
        pids.append(int(mark.read_text()))
    task.cancel()
    with pytest.raises(TaskCancelled):
        task.result(60)
    assert is_gone(pids[1]) and not is_gone(pids[0])
    cluster.kill(cluster.workers["otter"])
    eventually(lambda: is_gone(pids[0]), "the other to end with its worker")


def test_an_agent_of_an_interactive_session_is_told_why_it_cannot(cluster: Any) -> None:
    cluster.node("otter")
    worker = cluster.spawn("session", [sys.executable, "-c", OWN.read_text()], MESH_HOME=str(cluster.home))
    assert worker.wait(60) == 1
    log = cluster.folder / "session.log"
    assert (
        "interactive session or notebook, which a process of its own cannot load; assign it at the top level of a .py file"
        in log.read_text()
    )
    log.unlink()  # a traceback is what was wanted here
