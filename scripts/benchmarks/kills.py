"""The contractor's node and worker are killed with -9 in the middle of a task: how long until it runs elsewhere? Anything lost or doubled?

The only judge is a ledger file outside the mesh: one line per start and end of a handler. Lost: a task without a result. Doubled: a task
with two committed results, or one whose result is not that of its newest fence. Between kills the node is started again.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import statistics
import time
from pathlib import Path
from typing import Any

from common import HERE, Mesh, mesh, percentile, show

AGENT = HERE / "ledger_agent.py"
WORKERS = ("heron", "lynx", "wren")


def lines(ledger: Path) -> list[list[str]]:
    return [line.split() for line in ledger.read_text().splitlines()] if ledger.exists() else []


async def until(done: Any, what: str, limit_s: float = 30.0) -> Any:
    end = time.monotonic() + limit_s
    while time.monotonic() < end:
        if (found := done()) is not None:
            return found
        await asyncio.sleep(0.005)
    raise SystemExit(f"gave up waiting for {what}")


def started(ledger: Path, task: str, but_not: int = 0) -> tuple[int, float] | None:
    """``(pid, when)`` of the newest start of `task` by another process than `but_not`."""
    found = [line for line in lines(ledger) if line[0] == "start" and line[1] == task and int(line[3]) != but_not]
    return (int(found[-1][3]), float(found[-1][4])) if found else None


async def offered(client: Any, count: int, limit_s: float = 60.0) -> None:
    end = time.monotonic() + limit_s
    while time.monotonic() < end:
        caps = {cap["capability"]: cap for cap in (await client.caps())["caps"]}
        if len(caps.get("work.plain", {"nodes": []})["nodes"]) == count:
            return
        await asyncio.sleep(0.02)
    raise SystemExit(f"gave up waiting for {count} nodes that offer work")


async def kill_one(made: Mesh, client: Any, capability: str, ledger: Path) -> dict[str, Any]:
    task = await client.submit(capability, ledger=str(ledger), seconds=1.0)
    pid, _ = await until(lambda: started(ledger, task.id), "the first start")
    victim = next(name for name, worker in made.workers.items() if worker.pid == pid)
    at = time.clock_gettime(time.CLOCK_MONOTONIC)
    for process in (made.nodes[victim], made.workers[victim]):
        process.send_signal(signal.SIGKILL)
        process.wait()
    _, again = await until(lambda: started(ledger, task.id, pid), f"the second start of {task.id}")
    fence = await task.result()
    made.node(victim)
    made.worker(AGENT, victim)
    await offered(client, len(WORKERS))
    return {"task": task.id, "recovery_s": again - at, "fence": fence}


def doubled(ledger: Path, kills: list[dict[str, Any]]) -> int:
    """Tasks whose ended runs do not have exactly the committed fence as their newest, or that ended twice under one fence."""
    wrong = 0
    for kill in kills:
        ends = [int(line[2]) for line in lines(ledger) if line[0] == "end" and line[1] == kill["task"]]
        wrong += len(ends) != len(set(ends)) or kill["fence"] not in ends or max(ends) != kill["fence"]
    return wrong


async def run(made: Mesh, count: int, capability: str, ledger: Path) -> dict[str, Any]:
    from mesh import connect

    async with connect(home=made.home, node="otter") as client:
        await offered(client, len(WORKERS))
        kills = [await kill_one(made, client, capability, ledger) for _ in range(count)]
        lost = 0
        for kill in kills:
            lost += (await client.task(kill["task"]))["state"] != "done"
    times = [kill["recovery_s"] for kill in kills]
    return {
        "what": capability,
        "kills": count,
        "p50_s": statistics.median(times),
        "p99_s": percentile(times, 0.99),
        "max_s": max(times),
        "lost": lost,
        "doubled": doubled(ledger, kills),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--plain", type=int, default=5, help="kills with a capability that is not idempotent")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    with mesh() as made:
        made.node("otter")
        for name in WORKERS:
            made.node(name)
            made.worker(AGENT, name)
        ledger = made.folder / "ledger"
        rows = [asyncio.run(run(made, asked.kills, "work.idempotent", ledger))]
        if asked.plain:
            rows.append(asyncio.run(run(made, asked.plain, "work.plain", ledger)))
        show(rows, asked.json)


if __name__ == "__main__":
    main()
