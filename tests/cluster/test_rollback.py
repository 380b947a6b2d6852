"""A node whose journal was deleted, or replaced by an older copy, while it was stopped: refused at start, until a person says go on."""

from __future__ import annotations

import json
import shutil
from typing import Any

import pytest

from mesh.runtime.home import Home


def up(cluster: Any, *more: str) -> Any:
    return cluster.run("up", "--home", str(cluster.home), "--name", "otter", "--no-mdns", "--detach", "--json", *more)


def down(cluster: Any) -> None:
    assert cluster.run("down", "--home", str(cluster.home), "--node", "otter").returncode == 0


def status(cluster: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(cluster.run("status", "--home", str(cluster.home), "--json").stdout)
    return found


@pytest.mark.parametrize("damage", ["deleted", "older"])
def test_a_rolled_back_journal_is_refused_and_gone_on_with_only_knowingly(cluster: Any, damage: str) -> None:
    folder = Home(cluster.home).node("otter")
    assert up(cluster).returncode == 0
    down(cluster)
    copy = cluster.folder / "copy"
    shutil.copy(folder.journal_path, copy)
    assert up(cluster).returncode == 0
    down(cluster)
    folder.journal_path.unlink()
    if damage == "older":
        shutil.copy(copy, folder.journal_path)

    refused = up(cluster)
    error = json.loads(refused.stdout)
    assert refused.returncode == 5 and "deleted, or an old copy of it was put back" in error["message"]
    assert "mesh up --accept-rollback" in folder.log_path.read_text()
    assert not folder.is_running()

    assert up(cluster, "--accept-rollback").returncode == 0
    found = status(cluster)
    assert found["incarnation"] == 3 and any("not the newest" in note["message"] for note in found["notes"])
    [record] = json.loads((folder.path / "incarnation.json").read_text())["accepted"]
    assert record["was"] == 2
    down(cluster)
    assert up(cluster).returncode == 0, "it is the newest now"
    found = status(cluster)
    assert found["incarnation"] == 4 and not any("not the newest" in note["message"] for note in found["notes"])
    down(cluster)
