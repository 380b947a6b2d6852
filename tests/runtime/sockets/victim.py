"""A listening node as a process of its own, so that its memory, its descriptors and its death can be seen from outside.

Reads its orders from argv[1] (JSON), says its address, then answers each line of stdin with what it has seen.
"""

from __future__ import annotations

import dataclasses
import json
import resource
import sys
from collections import Counter
from pathlib import Path

import anyio

from mesh.limits import LinkLimits
from mesh.runtime.sockets import sockets
from mesh.runtime.sockets.curve import CurveKey
from mesh.runtime.sockets.sockets import Sockets

STATUS = Path("/proc/self/status")


def resident_kib(which: str) -> int:
    """VmRSS: now; VmHWM: the most there was. 0 where the system does not say."""
    if not STATUS.exists():
        return 0
    lines = dict(line.split(":", 1) for line in STATUS.read_text().splitlines())
    return int(lines[which].split()[0])


async def main() -> None:
    orders, questions = json.loads(sys.argv[1]), anyio.wrap_file(sys.stdin)
    if "descriptors" in orders:
        resource.setrlimit(resource.RLIMIT_NOFILE, (orders["descriptors"], orders["descriptors"]))
    if not orders.get("seeded", True):
        sockets._seed_libc = lambda: None
    made = Sockets(LinkLimits(**orders.get("limits", {})), CurveKey.of(bytes.fromhex(orders["secret"])))
    receiver = made.router()
    for name, key in orders["peers"].items():
        made.admit(bytes.fromhex(key), name)
    arrived: Counter[str] = Counter()

    def take() -> None:
        while (arrival := receiver.take()) is not None:
            arrived[arrival.user] += 1

    if STATUS.exists():
        Path("/proc/self/clear_refs").write_text("5")  # VmHWM begins anew: after exec it is that of whoever started us
    before_kib = resident_kib("VmRSS")
    async with anyio.create_task_group() as tasks:
        await tasks.start(made.run)
        tasks.start_soon(receiver.listen, take)
        print(receiver.address, flush=True)
        async for _ in questions:
            found = made.statistics()
            assert found is not None
            seen = {"grown_kib": resident_kib("VmHWM") - before_kib, "arrived": arrived}
            print(json.dumps(seen | dataclasses.asdict(found)), flush=True)
        tasks.cancel_scope.cancel()
    receiver.close()
    made.close()


if __name__ == "__main__":
    anyio.run(main)
