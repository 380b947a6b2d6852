"""A flow by hand on real nodes that nobody gave an agent for flows: whoever drives it is killed on the way, and it goes on elsewhere."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mesh.launch import command_line

FLOW = """flow = "three"
input = { ledger = "string", gate = "string" }
output = "$steps.last"

[[step]]
id = "parts"
uses = "idempotent"
map = [1, 2, 3]
with = { ledger = "$input.ledger", label = "$'part' + string(item)", gate = "" }

[[step]]
id = "middle"
uses = "idempotent"
needs = ["parts"]
with = { ledger = "$input.ledger", label = "middle", gate = "$input.gate" }

[[step]]
id = "last"
uses = "idempotent"
needs = ["middle"]
with = { ledger = "$input.ledger", label = "last", gate = "" }
"""


def stock(cluster: Any, name: str) -> list[int]:
    """The processes that this node has started for what it offers by itself."""
    return [worker["pid"] for worker in cluster.client(name).status()["stock"]]


def test_a_flow_outlives_whoever_drives_it(cluster: Any, eventually: Callable[..., Any], tmp_path: Path) -> None:
    names = ("otter", "heron", "lynx")
    cluster.node(*names)
    cluster.worker(*names)
    cluster.gather()
    client = cluster.client("otter")
    eventually(
        lambda: len(client.caps(everything=True)["caps"][-1]["nodes"]) and client.status()["keepers"]["survives"] == "node-loss", "keepers"
    )
    assert [stock(cluster, name) for name in names] == [[], [], []], "no process before there is work"
    file = tmp_path / "three.toml"
    file.write_text(FLOW)
    words = (str(file), f"ledger={cluster.ledger.path}", f"gate={cluster.gate('go')}", "--home", str(cluster.home))
    ran = cluster.run("flow", "run", *words, "--node", "otter", "--json")
    assert ran.returncode == 0, ran.stderr
    task = json.loads(ran.stdout)["task"]
    cluster.ledger.wait("start", "middle")
    driver = client.task(task)["owner"]
    [process] = stock(cluster, driver)
    survivor = next(name for name in names if name not in (driver, "otter"))
    cluster.kill(cluster.nodes[driver], cluster.workers[driver])

    def moved() -> bool:
        rows = cluster.client(survivor).tasks()["tasks"]
        return any(row["task"] == task and row["owner"] not in ("", driver) for row in rows)

    eventually(moved, "another driver")
    eventually(lambda: not command_line(process), "the driver's process to have ended with its node")
    cluster.open("go")
    document = cluster.client(survivor).result(task, timeout_s=60)
    assert document["state"] == "done" and document["result"]["failed"] == []
    for label in ("part1", "part2", "part3", "last"):
        assert len(cluster.ledger.starts(label)) == 1, "what is committed is not run again, and nothing is run twice at once"
    shown = json.loads(cluster.run("flow", "show", task, "--home", str(cluster.home), "--node", survivor, "--json").stdout)
    assert {step["step"]: step["state"] for step in shown["steps"]} == dict.fromkeys(("parts", "middle", "last"), "done")
    assert (shown["flow"], shown["attempts"]) == ("three", 2)
    assert shown["steps"][0]["done"] == 3
