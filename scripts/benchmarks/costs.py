"""What one task costs and where: CPU by process, messages and entries by kind, signatures, checks, fsyncs, and what functions use the most.

    submit     kept by three, then its result; each node has a worker
    call       waits for the answer, kept by nobody; the first node has no worker
    ctx.call   the same from an agent at the first node, one at a time
    nap        a call of 1 ms at nodes of one slot each

Real nodes on loopback, and a script at the first one. Counting and sampling cost something themselves (a tenth, about): compare with
figures of this command alone, and take absolute ones from `bench rows`. Linux only.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from common import HERE, cpu_s, mesh, show, wait_for
from costs_node import Sampler, report
from rows_pair import CALLER, NOOP, TEXT, offered

from mesh import connect

WARM_UP = 200
AGENTS = {"submit": NOOP, "call": NOOP, "ctx.call": NOOP, "nap": HERE / "rows_agent.py"}
COUNTED = ("fsyncs", "signatures", "verifications", "envelopes", "bytes")
FRAME = ("asyncio/", "typer/", "inspector/", "threading.py", "costs_node.py", "costs.py")
"""What stands below everything."""

Report = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=AGENTS)
    parser.add_argument("--nodes", type=int, default=4)
    parser.add_argument("--tasks", type=int, default=2000)
    parser.add_argument("--window", type=int, default=64, help="how many are in flight")
    parser.add_argument("--top", type=int, default=25, help="functions shown")
    parser.add_argument("--of", default="", help="show the functions of this process alone, as n1")
    asked = parser.parse_args()
    reports, tasks = asyncio.run(_measure(asked))
    _show_processes(reports, tasks, f"{asked.what}, {asked.nodes} nodes, {asked.window} in flight: per task, of {tasks}")
    _show_kinds(reports, tasks, "Messages sent", "sent ")
    _show_kinds(reports, tasks, "Entries written", "wrote ")
    chosen = {asked.of: reports[asked.of]} if asked.of else reports
    _show_functions(chosen, tasks, f"Functions of {asked.of or 'all'}, without what they call", "own", asked.top)
    _show_functions(chosen, tasks, f"Functions of {asked.of or 'all'}, with what they call", "with_callees", asked.top)


# ---- measuring


async def _measure(asked: Any) -> tuple[dict[str, Report], int]:
    """By process: what it did; and for how many tasks."""
    names = [f"n{number + 1}" for number in range(asked.nodes)]
    by_agent = asked.what == "ctx.call"
    with mesh() as made:
        files = {name: made.folder / f"{name}.json" for name in names}
        for name in names:
            made.node(name, (str(HERE / "costs_node.py"), str(files[name])))
        for name in names if asked.what in ("submit", "nap") else names[1:]:
            made.worker(AGENTS[asked.what], name)
        if by_agent:
            made.worker(CALLER, names[0])
        pids = {**made.nodes, **{f"worker of {name}": process for name, process in made.workers.items()}}
        async with connect(home=made.home, node=names[0], timeout_s=120.0) as client:
            await offered(client, {"nap" if asked.what == "nap" else "noop"}, len(made.workers) - by_agent)
            await offered(client, {"measure"} if by_agent else set())
            run = _by_agent if by_agent else _by_script
            asked.window = 1 if by_agent else asked.window
            await run(client, asked, WARM_UP)
            sampler = Sampler()
            before = _reports(files, pids, sampler)
            tasks = await run(client, asked, asked.tasks)
            return _less(_reports(files, pids, sampler), before), tasks


async def _by_agent(client: Any, asked: Any, count: int) -> int:
    """Answers how many there were: `figures` goes by time."""
    found = await client.options(timeout_s=120).call("measure", seconds=max(0.5, count / 500), windows=[])
    return int(found["calls"])


async def _by_script(client: Any, asked: Any, count: int) -> int:
    async def submit() -> None:
        await (await client.submit("noop", text=TEXT)).result(60.0)

    calls: dict[str, Callable[[], Awaitable[Any]]] = {
        "submit": submit,
        "call": lambda: client.call("noop", text=TEXT),
        "nap": lambda: client.call("nap", seconds=0.001),
    }
    left, one = count, calls[asked.what]

    async def loop() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            await one()

    await asyncio.gather(*(loop() for _ in range(asked.window)))
    return count


def _reports(files: dict[str, Path], pids: dict[str, Any], sampler: Sampler) -> dict[str, Report]:
    """All since the start: of a worker the CPU alone."""
    found = {"script": report(Counter(), sampler)}
    for name, process in pids.items():
        found[name] = {"cpu_s": cpu_s([process.pid]), "counts": {}, "own": {}, "with_callees": {}, "threads": {}}
    for name, file in files.items():
        file.unlink(missing_ok=True)
        pids[name].send_signal(signal.SIGUSR1)
        wait_for(file.exists, f"the counts of {name}")
        found[name] = json.loads(file.read_text())
    return found


def _less(after: Any, before: Any) -> Any:
    if isinstance(after, dict):
        return {key: _less(value, before.get(key, {} if isinstance(value, dict) else 0)) for key, value in after.items()}
    return after - before


# ---- showing


def _show_processes(reports: dict[str, Report], tasks: int, title: str) -> None:
    print(f"\n{title}")
    rows = []
    for name, found in reports.items():
        threads = ", ".join(f"{thread} {1e6 * spent_s / tasks:,.0f}" for thread, spent_s in Counter(found["threads"]).most_common(3))
        counts = {what: found["counts"][what] / tasks if found["counts"] else None for what in COUNTED}
        rows.append({"process": name, "cpu us": 1e6 * found["cpu_s"] / tasks, **counts, "of it by thread": threads})
    total_s = sum(found["cpu_s"] for found in reports.values())
    rows.append({"process": "all", "cpu us": 1e6 * total_s / tasks, **{what: _sum(reports, what) / tasks for what in COUNTED}})
    show(rows, False)


def _show_kinds(reports: dict[str, Report], tasks: int, title: str, prefix: str) -> None:
    nodes = {name: found["counts"] for name, found in reports.items() if found["counts"]}
    kinds = sorted({kind for counts in nodes.values() for kind in counts if kind.startswith(prefix)}, key=lambda kind: -_sum(reports, kind))
    print(f"\n{title}")
    rows = []
    for kind in kinds:
        each = {name: counts.get(kind, 0) / tasks for name, counts in nodes.items()}
        rows.append({"kind": kind.removeprefix(prefix), **each, "all": _sum(reports, kind) / tasks})
    show(rows, False)


def _show_functions(reports: dict[str, Report], tasks: int, title: str, which: str, top: int) -> None:
    print(f"\n{title} (us)")
    spent_s: Counter[str] = Counter()
    for found in reports.values():
        spent_s.update(found[which])
    named = [(name, seconds) for name, seconds in spent_s.most_common() if not name.startswith(FRAME)]
    show([{"us": 1e6 * seconds / tasks, "function": name} for name, seconds in named[:top]], False)


def _sum(reports: dict[str, Report], what: str) -> float:
    return float(sum(found["counts"].get(what, 0) for found in reports.values()))


if __name__ == "__main__":
    main()
