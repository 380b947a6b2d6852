"""Who is here, as real processes see it: death, return, leaving, and those who are no members."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mesh.runtime.home import Home

Until = Callable[..., Any]

DEAD_WITHIN_S = 3.0
HOSTILE = Path(__file__).parent / "hostile_node.py"


def test_a_killed_node_is_dead_then_alive_then_left(cluster: Any, eventually: Until) -> None:
    cluster.node("otter", "heron", "lynx")
    cluster.worker("lynx")
    cluster.gather()
    watchers = [cluster.client(name) for name in ("otter", "heron")]
    before = cluster.rows("otter")["lynx"]
    killed_at_s = cluster.kill(cluster.nodes["lynx"], cluster.workers["lynx"])
    for name in ("otter", "heron"):
        eventually(lambda name=name: cluster.states(name)["lynx"] == "dead", f"{name} to see the death")
    assert time.clock_gettime(time.CLOCK_MONOTONIC) - killed_at_s < DEAD_WITHIN_S
    for watcher in watchers:
        assert watcher.caps()["caps"] == [], "nobody offers a dead node's work"

    cluster.node("lynx")
    cluster.gather()
    for name in ("otter", "heron"):
        row = cluster.rows(name)["lynx"]
        assert (row["id"], row["incarnation"]) == (before["id"], before["incarnation"] + 1)

    said = cluster.run("down", "--home", str(cluster.home), "--node", "lynx")
    assert said.returncode == 0, said.stderr
    assert cluster.nodes["lynx"].wait(60) == 0
    for name in ("otter", "heron"):
        eventually(lambda name=name: cluster.states(name)["lynx"] == "left", f"{name} to see it leave")
    assert cluster.states("otter") == {"otter": "alive", "heron": "alive", "lynx": "left"}


def test_a_second_process_on_a_nodes_folder_refuses_and_names_the_first(cluster: Any) -> None:
    cluster.node("otter")
    for words in ([], ["--json"]):
        second = cluster.run("up", "--home", str(cluster.home), "--name", "otter", "--no-mdns", *words)
        assert second.returncode == 5, second.stderr
        assert str(cluster.nodes["otter"].pid).encode() in (second.stdout if words else second.stderr)
    assert cluster.client("otter").status()["pid"] == cluster.nodes["otter"].pid
    assert cluster.info("otter")["pid"] == cluster.nodes["otter"].pid, "what the first says of itself is still there"


def test_meshes_of_two_homes_never_mix(cluster: Any, tmp_path: Path, eventually: Until) -> None:
    cluster.node("otter", "heron")
    other = type(cluster)(tmp_path / "other")
    other.folder.mkdir()
    try:
        other.node("wren", join=cluster.doors())
        other.node("lynx", join=[*other.doors(), *cluster.doors()])
        other.gather()
        cluster.gather()
        eventually(lambda: cluster.client("otter").status()["refusals"].get("knock_other_mesh"), "the strangers to be refused")
        assert set(cluster.states("otter")) == set(cluster.states("heron")) == {"otter", "heron"}
        assert set(other.states("wren")) == set(other.states("lynx")) == {"wren", "lynx"}
    finally:
        other.close()
    other.verify()


def test_control_characters_of_a_peer_never_reach_the_terminal(cluster: Any, eventually: Until) -> None:
    cluster.node("otter")
    hostile = cluster.spawn("hostile", [sys.executable, str(HOSTILE), str(cluster.home), cluster.info("otter")["door"]])

    def met() -> bool:
        assert hostile.poll() is None
        return any(len(row["caps"]) > 5 for row in cluster.client("otter").nodes()["nodes"])

    eventually(met, "the hostile node to be met")
    for verb in ("nodes", "caps", "status", "tasks"):
        for words in ([], ["--json"]):
            said = cluster.run(verb, "--home", str(cluster.home), "--node", "otter", *words)
            assert said.returncode == 0, said.stderr
            text = (said.stdout + said.stderr).decode()
            nasty = sorted({character for character in text if not character.isprintable() and character != "\n"})
            assert not nasty, f"{verb} {words}: {nasty}"
            if words:
                json.loads(text)


def test_peers_that_cannot_be_written_down_end_no_node(cluster: Any, eventually: Until) -> None:
    Home(cluster.home).node("otter").make().peers_path.mkdir()
    cluster.node("otter", "heron")
    cluster.gather()
    eventually(lambda: cluster.client("otter").statistics()["warden"]["refusals"].get("peers_not_kept"), "the attempt to write them down")
    assert cluster.states("heron")["otter"] == "alive"
