"""What virtual time costs a user's test: stories of thirty days in `mesh.testing.LocalMesh`, real milliseconds each.

retries      a capability that fails until thirty days have passed, tried again after up to two days; once async, once a plain function
power cut    the same, and on the tenth day every machine loses its power for a day
daily flow   a handler that sleeps a day at a time
schedule     one that runs each morning, acted on by three nodes
sleep        the test itself lets thirty days pass
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable
from typing import Any

from common import show

from mesh import Agent, Context
from mesh.limits import Limits, WorkLimits
from mesh.testing import LocalMesh

DAY_S = 86400.0
DAYS = 30
LIMITS = Limits(work=WorkLimits(retry_min_s=2 * DAY_S, retry_max_s=2 * DAY_S))

Story = Callable[[LocalMesh], Awaitable[None]]


async def retries(m: LocalMesh, capability: str = "fetch") -> None:
    assert await (await m.submit(capability)).result() >= DAYS * DAY_S


async def plain_retries(m: LocalMesh) -> None:
    await retries(m, "fetch_plain")


async def power_cut(m: LocalMesh) -> None:
    task = await m.submit("fetch")
    await m.sleep(10 * DAY_S)
    m.power_cut()
    await m.sleep(DAY_S)
    m.restart()
    assert await task.result() >= DAYS * DAY_S


async def daily_flow(m: LocalMesh) -> None:
    assert await (await m.submit("daily")).result() == DAYS


async def schedule(m: LocalMesh) -> None:
    await m.add_schedule("morning", "0 6 * * *", "note", tz="Europe/Berlin")
    await m.sleep(DAYS * DAY_S)
    assert sum(row["capability"] == "note" for row in (await m.tasks())["tasks"]) == DAYS


async def sleep(m: LocalMesh) -> None:
    await m.sleep(DAYS * DAY_S)


def agent(now_s: Callable[[], float]) -> Agent:
    made = Agent("patient")

    def fetch() -> float:
        if now_s() < DAYS * DAY_S:
            raise ConnectionError("the other side is still down")
        return now_s()

    async def fetch_async() -> float:
        return fetch()

    made.capability(name="fetch_plain", retries=1000)(fetch)
    made.capability(name="fetch", retries=1000)(fetch_async)

    @made.capability
    async def daily(ctx: Context) -> int:
        for _ in range(DAYS):
            await ctx.sleep(DAY_S)
        return DAYS

    @made.capability
    async def note() -> None: ...

    return made


async def once(story: Story, seed: int) -> tuple[float, int]:
    """Real milliseconds of the story alone, and how many events its nodes handled."""
    async with LocalMesh(agents=[agent(lambda: m.now_s)], limits=LIMITS, seed=seed) as m:
        events, began = m.world.trace.events, time.perf_counter()
        await story(m)
        return 1000 * (time.perf_counter() - began), m.world.trace.events - events


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    rows: list[dict[str, Any]] = []
    stories: tuple[tuple[str, Story], ...] = (
        ("retries", retries),
        ("retries, plain function", plain_retries),
        ("retries, power cut", power_cut),
        ("daily flow", daily_flow),
        ("schedule, each morning", schedule),
        ("sleep", sleep),
    )
    for name, story in stories:
        runs = [asyncio.run(once(story, seed)) for seed in range(1, asked.rounds + 1)]
        took = [one[0] for one in runs]
        rows.append(
            {
                "30 days of": name,
                "p50 ms": statistics.median(took),
                "min ms": min(took),
                "max ms": max(took),
                "events": round(statistics.median(one[1] for one in runs)),
            }
        )
    show(rows, asked.json)


if __name__ == "__main__":
    main()
