"""A mesh over the LAN as people make it: one command a machine, no address typed, and nothing to read for who stands by.

Three machines. On otter: `mesh init`, `mesh invite` and an agent. heron joins with the token, and calls. lynx is a stranger.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

JOINS = 5
TOKEN_LIFE = "1s"
USAGE, REFUSED, DEGRADED = 2, 5, 6
TLS_HANDSHAKE = b"\x16\x03"
AGENT = """
from mesh import Agent

agent = Agent("echo")


@agent.capability(name="{capability}")
async def echo(word: str) -> str:
    return "{result} " + word
"""

Until = Callable[..., None]


def secret(what: str) -> str:
    return f"canary-{what}-{os.urandom(8).hex()}"


def document(done: Any, code: int = 0) -> dict[str, Any]:
    """What a command printed with --json."""
    assert done.returncode == code, done.stdout + done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


class TokenMesh:
    """otter's mesh, made with one command, and an agent on it."""

    def __init__(self, lan: Any) -> None:
        self.otter, self.heron, self.lynx = lan.machines
        self.secrets = {what: secret(what) for what in ("mesh", "node", "capability", "argument", "result")}
        self.made = document(self.otter.mesh("init", self.secrets["mesh"], "--name", self.secrets["node"], "--json"))
        path = self.otter.home / "agent.py"
        path.write_text(AGENT.format(**self.secrets))
        worker = self.otter.spawn(sys.executable, "-m", "mesh.inspector.cli", "run", str(path), "--json")
        worker.wait_line("mesh.run/1")

    def invite(self, *words: str) -> dict[str, Any]:
        return document(self.otter.mesh("invite", "--json", *words))

    def join(self, machine: Any, token: str, home: Path, code: int = 0) -> dict[str, Any]:
        return document(machine.mesh("join", "-", "--json", "--home", str(home), says=token + "\n"), code)

    def call(self, machine: Any, home: Path) -> str:
        """What the agent answers to a call from `machine`."""
        done = machine.mesh("call", self.secrets["capability"], f"word={self.secrets['argument']}", "--home", str(home))
        assert done.returncode == 0, done.stdout + done.stderr
        return str(done.stdout.strip())

    @property
    def answer(self) -> str:
        return f"{self.secrets['result']} {self.secrets['argument']}"


def homes(machine: Any) -> Path:
    """Where a machine that joins keeps what it is given."""
    return Path(machine.home) / "joined"


def test_a_token_is_all_that_is_typed_and_nothing_can_be_read(lan: Any) -> None:
    with lan.capture() as packets:
        mesh = TokenMesh(lan)
        invited = mesh.invite()
        joined = mesh.join(mesh.heron, invited["token"], homes(mesh.heron))
        assert joined["mesh"] == mesh.made["mesh"]
        assert joined["addr"].startswith(mesh.heron.address + ":")
        assert mesh.call(mesh.heron, homes(mesh.heron)) == mesh.answer
    ids = {f"id of {machine.name}": identity(machine, home) for machine, home in ((mesh.otter, None), (mesh.heron, homes(mesh.heron)))}
    kept = mesh.secrets | ids | {"token": invited["token"], "mesh id": mesh.made["mesh"], "home id": mesh.made["home"]}
    assert packets.showing(kept) == []
    assert any(stream.startswith(TLS_HANDSHAKE) for stream in packets.streams()), "the door was not used"
    assert packets.showing({"service": "_lanmesh"}) == ["service as plain"], "mDNS was not used"


def identity(machine: Any, home: Path | None) -> str:
    """The id of the machine's one node."""
    said = document(machine.mesh("id", "--json", *(["--home", str(home)] if home else [])))
    (node,) = said["nodes"]
    return str(node["id"])


def test_home_after_home_joins_and_calls_at_once(lan: Any) -> None:
    mesh = TokenMesh(lan)
    took_s = []
    for turn in range(JOINS):
        home = homes(mesh.heron) / str(turn)
        token = mesh.invite()["token"]
        before_s = time.monotonic()
        mesh.join(mesh.heron, token, home)
        assert mesh.call(mesh.heron, home) == mesh.answer
        took_s.append(time.monotonic() - before_s)
        assert mesh.heron.mesh("down", "--home", str(home)).returncode == 0
    print(f"from the token to the first answer: {', '.join(f'{each:.2f}' for each in sorted(took_s))} s")


def test_a_token_lets_one_machine_in_and_not_for_long(lan: Any, eventually: Until) -> None:
    mesh = TokenMesh(lan)
    short_lived = mesh.invite("--ttl", TOKEN_LIFE)
    token = mesh.invite()["token"]
    mesh.join(mesh.heron, token, homes(mesh.heron))
    for used in (token, token):
        refused = mesh.join(mesh.lynx, used, homes(mesh.lynx), code=REFUSED)
        assert refused["code"] == "used" and "mesh invite" in refused["fix"]
    end = datetime.fromisoformat(short_lived["expires"].replace("Z", "+00:00"))
    eventually(lambda: (datetime.now(UTC) - end).total_seconds() > 1, "the invitation to be over")
    refused = mesh.join(mesh.lynx, short_lived["token"], homes(mesh.lynx), code=REFUSED)
    assert refused["code"] == "expired" and "mesh invite" in refused["fix"]
    changed = token[:-1] + ("a" if token[-1] != "a" else "b")
    assert mesh.join(mesh.lynx, changed, homes(mesh.lynx), code=USAGE)["code"] == "bad_token"
    kept = {path.name for path in homes(mesh.lynx).rglob("*")}
    assert not kept & {"membership", "discovery.key", "genesis.json"}, "who was refused keeps nothing of the mesh"


def test_a_stranger_sees_that_there_is_a_mesh_and_what_to_type(lan: Any) -> None:
    mesh = TokenMesh(lan)
    seen = document(mesh.lynx.mesh("join", "--json"))["seen"]
    assert [each["addr"] for each in seen] == [mesh.made["addr"]] and seen[0]["node"] == ""
    said = mesh.lynx.mesh("join")
    assert mesh.made["addr"] in said.stderr and "mesh invite" in said.stderr and "mesh join TOKEN" in said.stderr
    assert not (set(mesh.secrets.values()) & set((said.stdout + said.stderr).split()))


def test_a_stranger_who_knocks_with_a_mesh_of_his_own_meets_nobody(lan: Any, eventually: Until) -> None:
    mesh = TokenMesh(lan)
    document(mesh.lynx.mesh("init", "--no-start", "--json"))
    assert mesh.lynx.mesh("up", "--detach", "--join", mesh.made["addr"]).returncode == 0
    eventually(lambda: "knock_other_mesh" in document(mesh.otter.mesh("status", "--json"))["refusals"], "the stranger to be turned away")
    done = mesh.lynx.mesh("call", mesh.secrets["capability"], "word=x", "--json")
    assert document(done, REFUSED)["code"] == "no_such_capability"
    for machine, alone in ((mesh.lynx, "lynx"), (mesh.otter, mesh.secrets["node"])):
        assert [each["name"] for each in document(machine.mesh("nodes", "--json"))["nodes"]] == [alone]


def test_a_revoked_machine_is_out_and_its_home_too_and_nobody_else_is_unwell(lan: Any, eventually: Until) -> None:
    mesh = TokenMesh(lan)
    home = homes(mesh.heron)
    document(mesh.heron.mesh("join", mesh.invite()["token"], "--as", "tall", "--name", "heron", "--json", "--home", str(home)))
    revoked = document(mesh.otter.mesh("revoke", "tall", "--only-node", "--json"))
    assert revoked["level"] == "node" and revoked["home"]

    def told() -> bool:
        found = document(mesh.heron.mesh("status", "--node", "heron", "--json", "--home", str(home)), DEGRADED)["findings"]
        return any(mesh.made["addr"] in one["message"] and "was revoked" in one["message"] for one in found)

    eventually(lambda: mesh.heron.mesh("status", "--home", str(home)).returncode == DEGRADED, "heron to be turned away")
    assert told()
    assert mesh.heron.mesh("up", "--name", "ghost", "--detach", "--home", str(home)).returncode == 0
    for who in ("heron", revoked["home"][:8]):  # its only node is gone, and the home is still found
        assert document(mesh.otter.mesh("revoke", who, "--home-too", "--json"))["level"] == "home"
    eventually(lambda: alive(mesh.otter) == [mesh.secrets["node"]], "the ghost to be out")
    assert document(mesh.otter.mesh("status", "--json"))["healthy"], "who revoked is not told that it was revoked"


def test_who_was_admitted_by_a_revoked_machine_goes_with_it_and_it_lets_nobody_in_again(lan: Any, eventually: Until) -> None:
    mesh = TokenMesh(lan)
    thief, crony = homes(mesh.heron), homes(mesh.lynx)
    document(mesh.heron.mesh("join", mesh.invite()["token"], "--name", "heron", "--json", "--home", str(thief)))
    token = document(mesh.heron.mesh("invite", "--json", "--home", str(thief)))["token"]
    document(mesh.lynx.mesh("join", token, "--name", "crony", "--json", "--home", str(crony)))
    eventually(lambda: len(alive(mesh.otter)) == 3, "the crony to be met")
    revoked = document(mesh.otter.mesh("revoke", "heron", "--json"))
    assert (revoked["level"], revoked["issuers"], revoked["also"]) == ("home", 1, ["crony"])
    eventually(lambda: alive(mesh.otter) == [mesh.secrets["node"]], "both to be out")

    def turned_away() -> int:
        return int(document(mesh.otter.mesh("status", "--json"))["refusals"].get("hello_revoked", 0))

    assert mesh.lynx.mesh("down", "--home", str(crony)).returncode == 0
    before = turned_away()
    token = document(mesh.heron.mesh("invite", "--json", "--home", str(thief)))["token"]
    again = crony.with_name("again")
    document(mesh.lynx.mesh("join", token, "--name", "again", "--json", "--home", str(again)))
    eventually(lambda: turned_away() > before + 1, "the next crony to be turned away")
    assert alive(mesh.otter) == [mesh.secrets["node"]]


def alive(machine: Any) -> list[str]:
    return [each["name"] for each in document(machine.mesh("nodes", "--json"))["nodes"] if each["state"] == "alive"]
