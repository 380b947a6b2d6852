"""Two machines, and somebody between them who may change every byte (`relay.py`): what he can make them believe, say, or lose.

Each mode is given some seconds in which both sides try to meet. Nothing that he made up or changed may be taken, nothing of ours may be
readable where he stands, and the pair must find each other again as soon as he only forwards, and also when he is gone.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
from benchmarks.common import Processes, processes, show, wait_for

from attacks.arena import CLI, HERE, LIMIT_S, NOOP
from attacks.relay import LATER, MODES, Change, Relay
from attacks.spaces import Space, why_not
from mesh.errors import MeshError
from mesh.runtime.clock import wall_ms
from mesh.runtime.home import Home
from mesh.runtime.lan.blinding import Blinding, day_of
from mesh.runtime.trust.credentials import Credentials
from mesh.sync import connect
from mesh.wire.packing import unpack_row

OTTER, HERON = "10.78.0.1", "10.78.0.2"
RELAY, RECORD_PORT = "10.78.0.9", 1024
PORT = 7710
FAILED = (4, 5)
"""`mesh join` found nobody it could speak to, or somebody else than the token says."""
LIAR = HERE.parents[1] / "tests" / "hosts" / "flood.py"
"""Announces one door at port 1024 of its own address, if asked for one record."""
MODE_S = 6.0
"""Longer than a dial and the pause after one that failed."""
RECOVERY_S = 20.0
"""Who has been gone for long is dialled every 5 s."""


class Between:
    """otter and heron, each in a network of its own, and the relay. `said`: secrets that went over the link."""

    def __init__(self, group: Processes, folder: Path) -> None:
        self._group, self.folder = group, folder
        self.otter, self.heron, self.left, self.right, self._switch = (Space() for _ in range(5))
        self.said = {"argument": f"canary-{os.urandom(8).hex()}", "otter": "otter-canary-name", "heron": "heron-canary-name"}
        self.homes = {"otter": folder / "otter", "heron": folder / "heron"}
        self.relay: Relay
        self._wire()

    def _wire(self) -> None:
        """Both pairs on bridges of their own. Impostor and original have one hardware address, so that nobody notices the change."""
        switch = self._switch
        for name in ("l", "r", "d"):
            switch.ip(f"link add bridge-{name} type bridge", f"link set bridge-{name} up")
        ends = (
            (self.otter, OTTER, "02:00:00:00:00:01", "r"),
            (self.heron, HERON, "02:00:00:00:00:02", "l"),
            (self.left, OTTER, "02:00:00:00:00:01", "l"),
            (self.right, HERON, "02:00:00:00:00:02", "r"),
        )
        for number, (space, address, hardware, bridge) in enumerate(ends):
            switch.ip(
                f"link add port{number} type veth peer name eth0 netns {space.pid}",
                f"link set port{number} master bridge-{bridge}",
                f"link set port{number} up",
            )
            space.ip(f"link set eth0 address {hardware}", f"addr add {address}/24 dev eth0", "link set eth0 up")

    def remove_the_relay(self) -> None:
        """Now it is a wire."""
        self._switch.ip("link set port2 down", "link set port3 down", "link set port0 master bridge-d", "link set port1 master bridge-d")

    async def listen(self, tasks: anyio.abc.TaskGroup) -> None:
        self.relay = Relay(tasks)
        for what, port in (("door", PORT), ("router", PORT + 1)):
            await self.relay.listen(OTTER, port, self.left, self.right, what)
            await self.relay.listen(HERON, port, self.right, self.left, what)

    # ---- the two

    def mesh(self, name: str, *words: str) -> subprocess.CompletedProcess[str]:
        space = self.otter if name == "otter" else self.heron
        command = [*space.inside, *CLI, *words, "--home", str(self.homes[name])]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    def up(self, name: str, *words: str, mdns: bool = False) -> None:
        space, address = (self.otter, OTTER) if name == "otter" else (self.heron, HERON)
        common = ["--home", str(self.homes[name]), "--name", self.said[name], "--bind", address, "--port", str(PORT)]
        common += [] if mdns else ["--no-mdns"]
        process = self._group.start([*space.inside, *CLI, "up", *common, *words], log=self.folder / f"{name}.log")

        def ready() -> bool:
            if process.poll() is not None:
                raise SystemExit(f"{name} ended: {(self.folder / f'{name}.log').read_text()[-3000:]}")
            return bool(Home(self.homes[name]).node(self.said[name]).info())

        wait_for(ready, name, LIMIT_S)

    def down(self, name: str) -> None:
        with connect(home=self.homes[name], node=self.said[name], timeout_s=LIMIT_S) as client:
            client.down()
        wait_for(lambda: not Home(self.homes[name]).node(self.said[name]).is_running(), f"the end of {name}", LIMIT_S)

    def links(self, name: str) -> dict[str, Any]:
        with connect(home=self.homes[name], node=self.said[name], timeout_s=10) as client:
            return dict(client.statistics()["links"])

    def linked(self) -> bool:
        return all(self.links(name)["up"] == 1 for name in self.homes)

    def call(self) -> bool:
        """An argument goes over the link, and comes back."""
        try:
            with connect(home=self.homes["heron"], node=self.said["heron"], timeout_s=5) as client:
                return bool(client.call("noop", text=self.said["argument"]) == self.said["argument"])
        except MeshError:
            return False

    # ---- what he learned

    def readable(self) -> list[str]:
        """Which secrets can be read in what passed."""
        passed = b"\0".join(bytes(stream) for stream in self.relay.seen)
        secrets = {name: text.encode() for name, text in self.said.items()} | self._keys()
        found = []
        for name, secret in secrets.items():
            writings = (secret, secret.hex().encode(), base64.b64encode(secret)[:-4])
            found += [name for writing in writings if writing in passed]
        return found

    def _keys(self) -> dict[str, bytes]:
        keys = {f"{name} {path.name}": path.read_bytes()[-32:] for name, home in self.homes.items() for path in home.rglob("*.key")}
        genesis = json.loads((self.homes["otter"] / "mesh" / "genesis.json").read_text())
        mesh = {"genesis": json.dumps(genesis).encode()[:40]}
        return keys | mesh

    def close(self) -> None:
        for space in (self.otter, self.heron, self.left, self.right, self._switch):
            space.close()


@contextmanager
def between() -> Iterator[Between]:
    folder = Path(tempfile.mkdtemp(prefix="mesh-between-"))
    try:
        with processes() as group:
            made = Between(group, folder)
            try:
                yield made
            finally:
                group.stop()
                made.close()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


# ---- the story


async def until(done: Callable[[], bool], limit_s: float) -> float | None:
    """How long it took; None if it did not come to that."""
    began = time.monotonic()
    while time.monotonic() - began < limit_s:
        if await asyncio.to_thread(done):
            return time.monotonic() - began
        await asyncio.sleep(0.1)
    return None


async def prepare(made: Between, tasks: anyio.abc.TaskGroup) -> None:
    """The mesh of otter, which heron joins through the relay as it only forwards."""
    await made.listen(tasks)
    run = asyncio.to_thread
    await run(made.mesh, "otter", "init", "between", "--no-start")
    await run(made.up, "otter")
    token = json.loads((await run(made.mesh, "otter", "invite", "--json")).stdout)["token"]
    made.said["token"] = token
    joined = await run(made.mesh, "heron", "join", token, "--no-start")
    if joined.returncode:
        raise SystemExit(f"heron cannot join: {joined.stderr}")
    await run(made.up, "heron", "--join", f"{OTTER}:{PORT}")
    made._group.start(
        [*made.otter.inside, *CLI, "run", str(NOOP), "--home", str(made.homes["otter"]), "--name", made.said["otter"]],
        log=made.folder / "worker.log",
    )
    if await until(made.call, LIMIT_S) is None:
        raise SystemExit("the relay forwards, and they do not find each other")


async def under(made: Between, mode: str, change: Change, seconds: float) -> dict[str, Any]:
    """One mode, from the moment in which all connections end."""
    links = asyncio.to_thread
    apart = mode in MODES
    made.relay.counts.clear()
    made.relay.change = change
    made.relay.hang_up()
    if apart and await until(lambda: not made.linked(), 5.0) is None:
        raise SystemExit("the link did not end")
    before = {name: await links(made.links, name) for name in made.homes}
    came_up = await until(made.linked, seconds)
    after = {name: await links(made.links, name) for name in made.homes}
    accepted = sum(after[name]["envelopes_received"] - before[name]["envelopes_received"] for name in made.homes)
    tried = sum(count for what, count in made.relay.counts.items() if what.startswith("changed"))
    made.relay.change = None
    made.relay.hang_up()
    recovered = await until(made.call, RECOVERY_S)
    return {
        "mode": mode,
        "changed": tried,
        "accepted": accepted if apart else None,
        "linked": came_up is not None,
        "readable": ", ".join(made.readable()) or "-",
        "recovered s": recovered,
    }


async def impostor(made: Between, seconds: float) -> dict[str, Any]:
    """His own TLS at both doors: for members who meet, and for somebody who joins."""
    run, relay = asyncio.to_thread, made.relay
    relay.impostor, relay.change = True, MODES["no WELCOME"]
    relay.hang_up()
    relay.heard.clear()
    await until(lambda: not made.linked(), 5.0)
    came_up = await until(made.linked, seconds)
    knocks = len(relay.heard)
    token = json.loads((await run(made.mesh, "otter", "invite", "--json")).stdout)["token"]
    made.said["second token"] = token
    made.homes["marten"] = made.folder / "marten"
    refused = await run(made.mesh, "marten", "join", token, "--no-start", "--json")
    del made.homes["marten"]
    said_to_him = [data for data in relay.heard if unpack_row(data[4:])[:1] != ("knock",)]
    relay.impostor, relay.change = False, None
    relay.hang_up()
    return {
        "mode": "his own TLS",
        "changed": knocks,
        "accepted": len(said_to_him) + (refused.returncode not in FAILED),
        "linked": came_up is not None,
        "readable": ", ".join(made.readable()) or "-",
        "recovered s": await until(made.call, RECOVERY_S),
    }


async def forged_record(made: Between, seconds: float) -> dict[str, Any]:
    """heron, begun anew with nobody to dial, sees an mDNS record with the mesh's own tag that leads to the relay's door."""
    relay, run = made.relay, asyncio.to_thread
    made.left.ip(f"addr add {RELAY}/24 dev eth0")
    await relay.listen(RELAY, RECORD_PORT, made.left, made.right, "door", to=(OTTER, PORT))
    await run(made.down, "heron")
    Home(made.homes["heron"]).node(made.said["heron"]).peers_path.unlink(missing_ok=True)
    relay.impostor, relay.change = True, None
    relay.heard.clear()
    relay.counts.clear()
    await run(made.up, "heron", mdns=True)
    key = Credentials(Home(made.homes["otter"])).discovery_key
    tag = Blinding(key).mesh(day_of(wall_ms()))
    liar = [*made.left.inside, sys.executable, str(LIAR), RELAY, tag, "1", "1"]
    await run(lambda: subprocess.run(liar, check=True, capture_output=True))
    dialled = await until(lambda: bool(relay.heard), LIMIT_S)
    came_up = await until(made.linked, seconds)
    said_to_him = [data for data in relay.heard if unpack_row(data[4:])[:1] != ("knock",)]
    relay.impostor = False
    await run(made.down, "heron")
    await run(made.up, "heron", "--join", f"{OTTER}:{PORT}")
    return {
        "mode": "forged mDNS record",
        "changed": int(dialled is not None),
        "accepted": len(said_to_him),
        "linked": came_up is not None,
        "readable": ", ".join(made.readable()) or "-",
        "recovered s": await until(made.call, RECOVERY_S),
    }


async def story(made: Between, modes: list[str], seconds: float) -> list[dict[str, Any]]:
    async with anyio.create_task_group() as tasks:
        await prepare(made, tasks)
        rows = [await under(made, mode, (MODES | LATER)[mode], seconds) for mode in modes]
        rows += [await impostor(made, seconds), await forged_record(made, seconds)]
        made.relay.change = MODES["mechanism NULL"]
        made.relay.hang_up()
        made.remove_the_relay()
        gone = await until(made.call, RECOVERY_S)
        linked, readable = await asyncio.to_thread(made.linked), ", ".join(made.readable()) or "-"
        tasks.cancel_scope.cancel()
    return [*rows, {"mode": "(he is gone)", "linked": linked, "readable": readable, "recovered s": gone}]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("modes", nargs="*", default=[*MODES, *LATER], metavar="MODE")
    parser.add_argument("--seconds", type=float, default=MODE_S)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    if why := why_not():
        raise SystemExit(f"NOTICE: {why}, so nobody can stand between")
    with between() as made:
        rows = asyncio.run(story(made, asked.modes, asked.seconds))
    show(rows, asked.json)
    bad = [row["mode"] for row in rows if row.get("accepted") or row["readable"] != "-" or row["recovered s"] is None]
    sys.exit(f"not withstood: {', '.join(bad)}" if bad else 0)


if __name__ == "__main__":
    main()
