"""The same key submitted through five nodes at the same moment: one task, run once, and everybody is told its id."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from mesh.errors import Refused

NAMES = ("otter", "heron", "lynx", "wren", "stoat")


def test_one_key_through_five_nodes_at_once_is_one_task(cluster: Any, eventually: Callable[..., Any]) -> None:
    cluster.node(*NAMES)
    cluster.worker("heron")
    cluster.gather()
    clients = [cluster.client(name).options(key="report-2026-10") for name in NAMES]
    arguments = {"ledger": str(cluster.ledger.path), "label": "october", "gate": ""}
    with ThreadPoolExecutor(4 * len(NAMES)) as pool:
        submits = [pool.submit(client.submit, "plain", **arguments) for client in clients * 4]
        tasks = [submit.result(timeout=60) for submit in submits]
    assert len({task.id for task in tasks}) == 1
    assert cluster.client("stoat").result(tasks[0].id)["state"] == "done"
    assert len(cluster.ledger.starts("october")) == 1
    with pytest.raises(Refused, match="was given to other work") as refused:
        clients[3].submit("plain", **arguments | {"label": "november"})
    assert refused.value.code == "key_taken" and refused.value.exit_code == 5
