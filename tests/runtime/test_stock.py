"""What a node offers by itself: no process before there is work, one for all of it, none after a while; what dies is started again."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from mesh.coordinator import coordinator
from mesh.core.inputs import WorkerAttached, WorkerGone
from mesh.errors import InvalidArgument, MeshError, TaskFailed
from mesh.flows.agent import agent
from mesh.inspector.stock import COORDINATOR, FLOWS
from mesh.runtime.stock import Stock, StockWorkers

LONG_S = 3600.0


@asynccontextmanager
async def stocked(
    toy: Any, *, stock: tuple[Stock, ...] = (FLOWS,), idle_s: float = LONG_S, may: Callable[[str], bool] | None = None
) -> Any:
    workers = StockWorkers(
        stock, toy.workers, toy.path, toy.path.parent / "stock.log", may or (lambda _: True), idle_s=idle_s, pause_min_s=0.01
    )
    running = asyncio.ensure_future(workers.run())
    try:
        yield workers
    finally:
        running.cancel()
        await asyncio.wait([running])


async def until(done: Callable[[], Any]) -> None:
    async with asyncio.timeout(20):
        while not done():  # noqa: ASYNC110  what ends a process tells us nothing
            await asyncio.sleep(0.01)


async def attached(toy: Any, count: int = 1) -> None:
    """The offer has been made so many times."""
    await until(lambda: sum(isinstance(body, WorkerAttached) for body in toy.seen) == count)


async def refused(mesh: Any) -> None:
    """A flow that is none: the handler's own word, so a process was there to say it."""
    with pytest.raises(InvalidArgument, match="flow"):
        await mesh.call("mesh.flow", spec={"no": "flow"})


def test_the_list_says_what_the_agents_code_says() -> None:
    for stock, made in ((FLOWS, agent), (COORDINATOR, coordinator())):
        assert (stock.offer(),) == made.offers()
        assert (stock.agent, stock.concurrency) == (made.name, made.concurrency)


def test_of_a_role_the_process_is_ready_before_there_is_work(with_toy: Callable[..., None]) -> None:
    async def story(toy: Any) -> None:
        async with stocked(toy, stock=(COORDINATOR,)) as workers:
            await until(lambda: workers.statistics().started == 1 and toy.workers.attached())
            assert workers.statistics().standing_by == 0 and [one.agent for one in toy.workers.attached()] == ["coordinator"]

    with_toy(story)


def test_a_process_comes_with_work_and_goes_without(with_toy: Callable[..., None]) -> None:
    async def story(toy: Any) -> None:
        async with stocked(toy, idle_s=0.1) as stock, toy.client() as mesh:
            await attached(toy)
            assert toy.workers.attached() == [] and not toy.workers.in_use()
            assert (stock.statistics().standing_by, stock.statistics().started) == (1, 0)
            await asyncio.gather(*(refused(mesh) for _ in range(10)))
            assert stock.statistics().started == 1
            await until(lambda: stock.statistics().rested == 1)
            assert toy.workers.attached() == []
            await refused(mesh)  # another process, the same worker
            assert stock.statistics().started == 2
            assert not any(isinstance(body, WorkerGone) for body in toy.seen)
            await attached(toy, 1)

    with_toy(story)


def test_what_dies_is_gone_and_stands_by_again(with_toy: Callable[..., None]) -> None:
    async def story(toy: Any) -> None:
        async with stocked(toy) as stock, toy.client() as mesh:
            await attached(toy)
            await refused(mesh)
            [worker] = toy.workers.attached()
            assert worker.stock and worker.agent == "flows" and worker.pid != os.getpid()
            os.kill(worker.pid, signal.SIGKILL)
            gone = await toy.until(WorkerGone)
            await attached(toy, 2)
            assert gone.worker not in [body.worker for body in toy.seen if isinstance(body, WorkerAttached)][1:]
            await refused(mesh)
            assert (stock.statistics().died, stock.statistics().started) == (1, 2)

    with_toy(story)


def test_what_cannot_start_loses_its_work_and_is_not_tried_for_nothing(with_toy: Callable[..., None]) -> None:
    broken = replace(FLOWS, command=(sys.executable, "-c", "raise SystemExit(1)"))

    async def story(toy: Any) -> None:
        async with stocked(toy, stock=(broken,)) as stock, toy.client() as mesh:
            await attached(toy)
            lost = asyncio.ensure_future(mesh.call("mesh.flow", spec={}))
            await toy.until(WorkerGone)
            await attached(toy, 2)
            assert not toy.workers._expected, "another process may have that pid one day"
            lost.cancel()
            assert (stock.statistics().died, stock.statistics().started) == (1, 1)

    with_toy(story)


def test_what_the_certificate_does_not_allow_is_not_offered(with_toy: Callable[..., None]) -> None:
    async def story(toy: Any) -> None:
        async with stocked(toy, may=lambda capability: capability != "mesh.flow"), toy.client() as mesh:
            with pytest.raises((MeshError, TaskFailed), match="nobody here offers"):
                await mesh.call("mesh.flow", spec={})
            assert not any(isinstance(body, WorkerAttached) for body in toy.seen)

    with_toy(story)
