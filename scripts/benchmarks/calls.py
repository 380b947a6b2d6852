"""A no-op call between two nodes, beside the raw and the signed echo, and NATS where `nats-server` and nats-py are installed.

Interleaved rounds, medians; every row's processes run alone. The mesh row is an agent's ``ctx.call``: handler -> its node -> the other
node -> its worker -> back, signed between the nodes. The client row is the same from a script.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import json
import shutil
import socket
import statistics
import subprocess
import sys
from typing import Any

from common import HERE, cpu_s, mesh, processes, show
from echo import figures

NOOP = HERE / "noop_agent.py"


def free_address() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def echo(mode: str, seconds: float) -> dict[str, Any]:
    address = f"tcp://{free_address()}"
    with processes() as group:
        script = str(HERE / "echo.py")
        group.start([sys.executable, script, "serve", mode, address], ready="ready")
        return measured([sys.executable, script, "measure", mode, address, str(seconds)])


def measured(words: list[str]) -> dict[str, Any]:
    out = subprocess.run(words, capture_output=True, text=True, check=True, timeout=60)
    return dict(json.loads(out.stdout))


def nats(seconds: float) -> dict[str, Any] | None:
    if shutil.which("nats-server") is None or importlib.util.find_spec("nats") is None:
        return None
    address = free_address()
    host, _, port = address.partition(":")
    with processes() as group:
        group.start(["nats-server", "-a", host, "-p", port])
        script = str(HERE / "nats_echo.py")
        group.start([sys.executable, script, "serve", address], ready="ready")
        return measured([sys.executable, script, "measure", address, str(seconds)])


def through_the_mesh(seconds: float) -> tuple[dict[str, Any], dict[str, Any]]:
    with mesh() as made:
        for name in ("caller", "server"):
            made.node(name)
        made.worker(NOOP, "server")
        made.worker(HERE / "caller_agent.py", "caller")
        return asyncio.run(_measure(made, seconds))


async def _measure(made: Any, seconds: float) -> tuple[dict[str, Any], dict[str, Any]]:
    from mesh import connect

    async with connect(home=made.home, node="caller") as client:
        while {"noop", "measure"} - {cap["capability"] for cap in (await client.caps())["caps"]}:  # noqa: ASYNC110  another process
            await asyncio.sleep(0.05)
        pids = [process.pid for process in (*made.nodes.values(), *made.workers.values())]
        before = cpu_s(pids)
        agent = await client.options(timeout_s=120).call("measure", seconds=seconds)
        agent["cpu_us"] = 1e6 * (cpu_s(pids) - before) / agent.pop("calls")
        script = await figures(lambda: client.call("noop", text="x" * 40), seconds)
        return agent, script


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    found: dict[str, list[dict[str, Any]]] = {}
    for _ in range(asked.rounds):
        found.setdefault("raw echo", []).append(echo("raw", asked.seconds))
        found.setdefault("signed echo", []).append(echo("signed", asked.seconds))
        agent, script = through_the_mesh(asked.seconds)
        found.setdefault("mesh, ctx.call", []).append(agent)
        found.setdefault("mesh, script", []).append(script)
        if (broker := nats(asked.seconds)) is not None:
            found.setdefault("NATS (unsigned)", []).append(broker)
    rows = []
    medians = {name: {key: statistics.median(run[key] for run in runs) for key in runs[0]} for name, runs in found.items()}
    for name, row in medians.items():
        shown: dict[str, Any] = {"what": name, **row, "p50/signed echo": row["p50_us"] / medians["signed echo"]["p50_us"]}
        if "NATS (unsigned)" in medians:
            shown["64 in flight/NATS"] = row["per_s_64"] / medians["NATS (unsigned)"]["per_s_64"]
        rows.append(shown)
    show(rows, asked.json)
    if "NATS (unsigned)" not in medians:
        print("no NATS row: nats-server or the module nats-py is not installed", file=sys.stderr)


if __name__ == "__main__":
    main()
