"""Runs the command that measures the others, and gives its figures the names that ours have (`rows.py`, `flows.py`: what it prints)."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

NAMES = {
    ("nats", "asyncio"): "NATS",
    ("nats", ""): "NATS",
    ("ray", "actor"): "Ray actor",
    ("ray", "task"): "Ray task",
    ("ray", ""): "Ray",
    ("dask", "process"): "Dask",
    ("dask", ""): "Dask",
    ("celery-redis", ""): "Celery",
    ("celery", ""): "Celery",
    ("celery-durable", ""): "Celery, Redis fsyncs",
    ("dbos-sqlite", "workflow"): "DBOS",
    ("dbos-sqlite", ""): "DBOS",
}
"""By system, and variant where that is not the size of the job. Others are left out."""
KEYS = {"p50_us": "p50_us", "p99_us": "p99_us", "tput_64": "per_s_64", "tput_512": "per_s_512"}


def peers_round(command: str) -> dict[str, float]:
    """Ends the run if the command fails; a system that failed is named and left out."""
    done = subprocess.run(shlex.split(command), stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, float] = {}
    for text in done.stdout.splitlines():
        if text.startswith("{"):
            line = json.loads(text)
            if line["bench"] == "FAIL":
                print(f"failed: {line['system']}: {line.get('error', '')[-200:]}", file=sys.stderr)
            found |= dict(read(line))
    return found


def read(line: dict[str, Any]) -> Iterator[tuple[str, float]]:
    bench, variant = line["bench"], line.get("variant", "")
    system = NAMES.get((line["system"], variant if bench == "A" else ""), "")
    if not system:
        return
    if bench == "A":
        yield from ((f"{system}/{ours}", float(line[theirs])) for theirs, ours in KEYS.items() if theirs in line)
        if "client_cpu_us" in line:
            yield f"{system}/cpu_s_per_1000", (line["client_cpu_us"] + line["others_cpu_us"]) / 1000
    elif bench in ("B", "C"):
        yield f"{system}/{variant}", float(line["ratio"])
    elif bench in ("D", "F"):
        yield f"{system}/{variant}", float(line["s"])
