"""A node is backed up while it works and put back in a mesh that remembers it: an older backup does not go on, the newest one does."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from mesh.errors import MeshError
from mesh.runtime.disk import store_file, store_memory
from mesh.runtime.disk.store_rows import Rows
from mesh.runtime.disk.vault import open_vault
from mesh.runtime.home import Home
from mesh.sync import connect

Until = Callable[..., Any]


@contextmanager
def flood(cluster: Any) -> Iterator[list[Any]]:
    """A client that submits one task after the other until its node is gone: what was acknowledged."""
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


def known_of(cluster: Any, node: str, observer: str) -> int:
    """The last entry of `node` that `observer` has kept a head of."""
    path = Home(cluster.home).node(observer).journal_path
    rows = Rows(path, open_vault(Home(cluster.home)).sealer("journal", cluster.info(observer)["node"]))
    with closing(store_file.connect(path, read_only=True)) as connection:
        heads = store_memory.recall(connection, rows).heads
    return max((head.body.first + head.body.count - 1 for head in heads if head.author == node), default=0)


def backed_up(cluster: Any, name: str) -> dict[str, Any]:
    done = cluster.run("backup", str(cluster.folder / name), "--home", str(cluster.home), "--node", "otter", "--json")
    assert done.returncode == 0, done.stderr.decode()
    return dict(json.loads(done.stdout))


def put_back(cluster: Any, name: str) -> dict[str, Any]:
    done = cluster.run("restore", str(cluster.folder / name), "--home", str(cluster.home), "--replace", "--json")
    assert done.returncode == 0, done.stdout.decode()
    return dict(json.loads(done.stdout))


def test_a_restored_node_goes_on_where_nobody_knows_it_further_and_forks_nowhere(cluster: Any, eventually: Until) -> None:
    cluster.node("otter", "heron")
    cluster.worker("heron")
    cluster.gather()
    held = cluster.submit("otter", "plain", "held", gate=cluster.gate("go"))
    cluster.ledger.wait("start", "held")
    otter = cluster.info("otter")["node"]
    with flood(cluster) as acknowledged:
        eventually(lambda: len(acknowledged) > 20, "some load")
        before = len(acknowledged)
        older = backed_up(cluster, "older")
        eventually(lambda: known_of(cluster, otter, "heron") > older["entries"], "heron to know otter further than its backup")
        assert cluster.run("down", "--home", str(cluster.home), "--node", "otter").returncode == 0
    newest = backed_up(cluster, "newest")
    assert newest["entries"] > older["entries"] > before

    put_back(cluster, "older")
    refused = cluster.run("up", "--home", str(cluster.home), "--name", "otter", "--no-mdns", "--detach", "--json")
    error = json.loads(refused.stdout)
    assert refused.returncode == 5 and "the backup is older than what others know" in error["message"], error
    assert "--accept-rollback" in error["fix"]
    asked = cluster.run("status", "--home", str(cluster.home), "--node", "otter", "--json")
    told = json.loads(asked.stdout)
    assert asked.returncode == 3 and "the backup is older" in told["message"] and told["fix"] == error["fix"]
    assert cluster.client("heron").verify()["forks"] == 0

    back = put_back(cluster, "newest")
    cluster.node("otter")
    eventually(lambda: cluster.client("otter").status()["healthy"], "otter to go on")
    assert cluster.client("otter").status()["incarnation"] == back["incarnation"] > 1_000_000
    cluster.open("go")
    held.result()
    for task in acknowledged:
        cluster.client("otter").result(task.id)
    fresh = cluster.submit("otter", "plain", "fresh")
    assert fresh.result() and fresh.id not in {task.id for task in acknowledged}
    for name in ("otter", "heron"):
        found = cluster.client(name).verify()
        assert found["ok"] and found["forks"] == 0
    assert Path(back["moved_aside"]).is_dir()
