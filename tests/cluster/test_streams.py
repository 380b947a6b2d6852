"""A stream between real processes: its node and worker are killed in its middle, and its reader sees every item once."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

ITEMS, MIDDLE = 500, 200


def test_a_reader_of_a_killed_handler_misses_nothing(cluster: Any, eventually: Callable[..., Any]) -> None:
    cluster.node("otter", "heron", "lynx")
    cluster.worker("heron", "lynx")
    cluster.gather()
    client = cluster.client("otter")
    words = {"ledger": str(cluster.ledger.path), "label": "stream", "n": ITEMS, "at": MIDDLE, "gate": cluster.gate("go")}
    items: list[int] = []
    with client.stream("rows", **words) as stream:
        for item in stream:
            items.append(item)
            if len(items) == MIDDLE:
                first = cluster.ledger.wait("start", "stream")
                victim = cluster.whose(first)
                eventually(lambda task=first.task: len(client.logs(task)["lines"]) == MIDDLE, "what it printed so far")
                cluster.kill(cluster.nodes[victim], cluster.workers[victim])
                cluster.open("go")
    assert items == list(range(ITEMS))
    second = cluster.ledger.starts("stream")[1]
    other = cluster.whose(second)
    assert (second.task, other) == (first.task, next(name for name in cluster.workers if name != victim))
    assert second.fence > first.fence

    # What was printed: of the second attempt all, from any node; of the first it is said where it was.
    logs = cluster.client(other).logs(first.task)
    assert [line["text"] for line in logs["lines"]] == [f"row {i} after {MIDDLE}" for i in range(ITEMS)]
    assert {(line["node"], line["attempt"], line["stream"]) for line in logs["lines"]} == {(other, 2, "stdout")}
    [missing] = logs["missing"]
    assert (missing["attempt"], missing["node"]) == (1, victim)

    # The command line prints each item, and a reader who leaves ends the handler.
    ran = cluster.run("call", "rows", *(f"{name}:={json.dumps(word)}" for name, word in words.items()), "--stream",
                      "--home", str(cluster.home), "--node", "otter")  # fmt: skip
    assert ran.returncode == 0 and ran.stdout.decode().split() == [str(i) for i in range(ITEMS)]
    with client.stream("rows", **words | {"label": "left", "gate": cluster.gate("closed")}) as stream:
        assert next(stream) == 0
    left = cluster.ledger.wait("start", "left").task
    eventually(lambda: client.task(left)["state"] == "cancelled", "the stream that nobody reads to be cancelled")
