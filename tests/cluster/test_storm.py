"""Kills, stops and restarts under load, drawn from a seed; then quiet: nothing acknowledged is lost, nothing is done twice."""

from __future__ import annotations

import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from random import Random
from typing import Any

from mesh.errors import MeshError
from mesh.sync import connect

NAMES = ("otter", "heron", "lynx")
MANAGERS = ("otter", "heron")
STORM_S = 15.0
CHECKED_MAX = 60
"""Stories read whole."""


@contextmanager
def load(cluster: Any) -> Iterator[dict[str, str]]:
    """Clients at two nodes submit small work and flows until the end of the block: task id -> node, of all that was acknowledged."""
    acknowledged: dict[str, str] = {}
    stop = threading.Event()

    def submit_some(at: str, rng: Random) -> None:
        number = 0
        with connect(home=cluster.home, node=at) as client:
            while not stop.wait(0.3 * rng.random()):
                number += 1
                capability = rng.choice(("plain", "idempotent", "flow"))
                gates = [f"sleep {2 * rng.random() ** 2:.2f}" for _ in range(2)]
                gate: dict[str, Any] = {"gates": gates} if capability == "flow" else {"gate": gates[0]}
                label = f"{at}-{number}"
                acknowledged[client.submit(capability, ledger=str(cluster.ledger.path), label=label, **gate).id] = at

    def client_at(at: str, rng: Random) -> None:
        while not stop.wait(0.1):
            try:
                submit_some(at, rng)
            except MeshError:
                continue  # its node was killed: nothing was acknowledged, so nothing is owed

    threads = [threading.Thread(target=client_at, args=(at, Random(at))) for at in MANAGERS]
    for thread in threads:
        thread.start()
    try:
        yield acknowledged
    finally:
        stop.set()
        for thread in threads:
            thread.join(90)


def strike(cluster: Any, rng: Random) -> None:
    """One blow, and the repair."""
    name = rng.choice(NAMES)
    node, worker = cluster.nodes[name], cluster.workers[name]
    kind = rng.choice(("node", "worker", "both", "stop", "down", "all"))
    pause_s = 3 * rng.random()
    if kind == "stop":
        stopped = rng.choice((node, worker))
        stopped.send_signal(signal.SIGSTOP)
        time.sleep(2 * pause_s)
        stopped.send_signal(signal.SIGCONT)
        return
    names = NAMES if kind == "all" else (name,)
    nodes, workers = kind in ("node", "both", "down", "all"), kind in ("worker", "both", "all")
    if kind == "down":
        node.send_signal(signal.SIGTERM)
        node.wait(60)
    else:
        victims = [cluster.nodes[each] for each in names] if nodes else []
        cluster.kill(*victims, *([cluster.workers[each] for each in names] if workers else []))
    time.sleep(pause_s)
    if nodes:
        cluster.node(*names)
    if workers:
        cluster.worker(*names, slots=6)


def test_a_storm_loses_nothing_and_doubles_nothing(cluster: Any) -> None:
    rng = Random(2)
    cluster.node(*NAMES)
    cluster.worker(*NAMES, slots=6)
    cluster.gather()
    with load(cluster) as acknowledged:
        end = time.monotonic() + STORM_S
        while time.monotonic() < end:
            strike(cluster, rng)
    cluster.gather()
    assert len(acknowledged) > 20
    ends = {task: cluster.client(at).result(task, timeout_s=90)["state"] for task, at in acknowledged.items()}
    assert {task: state for task, state in ends.items() if state != "done"} == {}
    lines = [line.split() for line in cluster.ledger.path.read_text().splitlines()]
    runs = Counter((what, task, fence) for what, _, task, fence, _, _ in lines)
    assert {run: count for run, count in runs.items() if count > 1} == {}, "a fence is given to one run"
    for task, at in list(acknowledged.items())[:: 1 + len(acknowledged) // CHECKED_MAX]:
        finished = cluster.entries(task, "Finished", at)
        # Where another node took over, what the first one wrote and nobody kept is void, and stays to be seen.
        newest = max(entry["fence"] for entry in cluster.entries(task, "Decided", at))
        assert {entry["state"] for entry in finished if entry["fence"] == newest} == {"done"}
    for name in NAMES:
        live = [row for row in cluster.client(name).tasks()["tasks"] if row["state"] not in ("done", "failed", "cancelled")]
        assert live == [], "steps end with their flows"
        assert set(cluster.states(name).values()) == {"alive"}
