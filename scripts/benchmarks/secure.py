"""What encryption costs: the same calls between two nodes with CURVE, ZAP and TLS, and without (`plain = true`), in interleaved rounds.

Everything else is the same in both: signatures, sessions, checks, journal. p50 of one call at a time, calls/s with 64 in flight, at 256 B,
1 KiB and 64 KiB each way; medians of the rounds, and the ratio secure / plain pair by pair.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
from typing import Any

from common import HERE, mesh, show

SIZES = (256, 1024, 64 * 1024)
PLAIN, SECURE = 'plain = true\nbind = "127.0.0.1"\n', 'bind = "127.0.0.1"\n'


def measured(config: str, seconds: float) -> dict[int, dict[str, Any]]:
    with mesh(config) as made:
        for name in ("caller", "server"):
            made.node(name)
        made.worker(HERE / "noop_agent.py", "server")
        made.worker(HERE / "caller_agent.py", "caller")
        return asyncio.run(_measure(made, seconds))


async def _measure(made: Any, seconds: float) -> dict[int, dict[str, Any]]:
    from mesh import connect

    async with connect(home=made.home, node="caller") as client:
        while {"noop", "measure"} - {cap["capability"] for cap in (await client.caps())["caps"]}:  # noqa: ASYNC110  another process
            await asyncio.sleep(0.05)
        return {size: await client.options(timeout_s=120).call("measure", seconds=seconds, size=size) for size in SIZES}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.5)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    plain, secure = [], []
    for _ in range(asked.rounds):
        plain.append(measured(PLAIN, asked.seconds))
        secure.append(measured(SECURE, asked.seconds))
    rows = []
    for size in SIZES:
        row: dict[str, Any] = {"bytes": size}
        for key in ("p50_us", "per_s_64"):
            pairs = [(one[size][key], other[size][key]) for one, other in zip(secure, plain, strict=True)]
            row[f"plain {key}"] = statistics.median(other for _, other in pairs)
            row[f"secure {key}"] = statistics.median(one for one, _ in pairs)
            row[f"{key} secure/plain"] = statistics.median(one / other for one, other in pairs)
        rows.append(row)
    show(rows, asked.json)


if __name__ == "__main__":
    main()
