"""Workers attached to a toy node through a real socket: lots, threads, cancel, timeout, bad arguments, restart."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mesh import Agent, Bid, Context, File
from mesh.core.inputs import FileKnown, HandlerEnded, HandlerProgress, Priced, WorkerAttached, WorkerGone
from mesh.core.work.inputs import EffectEnd
from mesh.errors import InvalidArgument, MeshError, NodeBusy, NoSuchCapability, TaskCancelled, TaskFailed, TimedOut
from mesh.sync import Context as BlockingContext
from mesh.worker import Worker, serve


def greeter() -> Agent:
    agent = Agent("greeter")

    @agent.capability
    async def greet(name: str, times: int = 1) -> str:
        """Say hello."""
        return "hello " + " ".join([name] * times)

    @agent.capability
    def where() -> str:
        return threading.current_thread().name

    @agent.capability
    async def fails() -> None:
        raise ValueError("no good")

    @agent.capability
    async def liar() -> int:
        return "text"  # type: ignore[return-value]

    @agent.capability
    async def huge(n: int) -> str:
        return "x" * n

    return agent


def test_a_call_from_client_to_handler_and_back(with_toy: Any) -> None:
    async def story(toy: Any) -> None:
        async with toy.serving(greeter()), toy.client() as mesh:
            assert await mesh.call("greet", name="Bob") == "hello Bob"
            assert await mesh.call("greet", name="Bob", times="2") == "hello Bob Bob"
            answers = await asyncio.gather(*(mesh.call("greet", name=str(i)) for i in range(100)))
            assert answers == [f"hello {i}" for i in range(100)]
            assert (await mesh.call("where")).startswith("mesh-greeter")

    with_toy(story)


def test_a_wrong_argument_is_named_and_no_handler_runs(with_toy: Any) -> None:
    async def story(toy: Any) -> None:
        async with toy.serving(greeter()), toy.client() as mesh:
            for arguments, words in (
                ({"nme": "x", "name": "y"}, "no argument 'nme'; did you mean 'name'?"),
                ({}, "'name' is missing"),
                ({"name": "x", "times": "often"}, "'times' is wrong"),
            ):
                with pytest.raises(InvalidArgument, match=words.replace("?", r"\?")):
                    await mesh.call("greet", **arguments)
            assert [body.error["kind"] for body in toy.seen if isinstance(body, HandlerEnded)] == ["invalid_argument"] * 3
            with pytest.raises(NoSuchCapability):
                await mesh.call("gret", name="x")

    with_toy(story)


def test_failures_show_the_users_frame_first(with_toy: Any) -> None:
    async def story(toy: Any) -> None:
        async with toy.serving(greeter()), toy.client() as mesh:
            with pytest.raises(TaskFailed) as caught:
                await mesh.call("fails")
            assert caught.value.message == "ValueError: no good"
            first = caught.value.details.splitlines()[0]
            assert "test_worker.py" in first and "in fails" in first and "raise ValueError" in first
            with pytest.raises(TaskFailed, match="does not fit its return hint") as caught:
                await mesh.call("liar")
            assert caught.value.kind == "invalid_result"
            with pytest.raises(TaskFailed, match="use File") as caught:
                await mesh.call("huge", n=600_000)
            assert caught.value.kind == "too_big"

    with_toy(story)


def test_concurrency_is_a_limit(with_toy: Any) -> None:
    agent = Agent("slots", concurrency=2)
    gate, both, now, most = asyncio.Event(), asyncio.Event(), 0, 0

    @agent.capability
    async def work() -> None:
        nonlocal now, most
        now += 1
        most = max(most, now)
        if now == 2:
            both.set()
        await gate.wait()
        now -= 1

    async def story(toy: Any) -> None:
        async with toy.serving(agent) as (worker,), toy.client() as mesh:
            calls = [asyncio.ensure_future(mesh.call("work")) for _ in range(6)]
            await both.wait()
            assert worker.statistics().runner.running == 2
            gate.set()
            await asyncio.gather(*calls)
            assert most == 2

    with_toy(story)


def test_a_caller_that_gives_up_cancels_the_handler(with_toy: Any) -> None:
    agent = Agent("patient")
    begun, cancelled = asyncio.Event(), asyncio.Event()

    @agent.capability
    async def wait() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    async def story(toy: Any) -> None:
        async with toy.serving(agent), toy.client() as mesh:
            call = asyncio.ensure_future(mesh.call("wait"))
            await begun.wait()
            call.cancel()
            await cancelled.wait()
            assert (await toy.until(HandlerEnded)).outcome == "cancelled"

    with_toy(story)


def test_a_run_stopped_before_its_first_step_still_ends(with_toy: Any) -> None:
    async def story(toy: Any) -> None:
        async with toy.serving(greeter()) as (worker,):
            runner = worker._runner
            runner.execute(["t.1.1", 1, "greet", b'{"name":"x"}', 1 << 60, 0, "", 1, b"", False, 0, [0, ""], False])
            runner.stop("t.1.1", 1)
            assert (await toy.until(HandlerEnded)).outcome == "cancelled"

    with_toy(story)


def test_timeouts_of_async_and_plain_handlers(with_toy: Any) -> None:
    agent = Agent("slow")
    stopped = threading.Event()

    @agent.capability
    async def forever() -> None:
        await asyncio.Event().wait()

    @agent.capability
    def spin() -> None:
        try:
            while True:
                pass
        finally:
            stopped.set()

    @agent.capability
    def doze(ctx: BlockingContext) -> None:
        ctx.sleep(3600)

    async def story(toy: Any) -> None:
        toy.execute_timeout_ms = 50
        async with toy.serving(agent), toy.client() as mesh:
            for name in ("forever", "spin", "doze"):
                with pytest.raises(TimedOut, match=r"did not end within 0.05 s"):
                    await mesh.call(name)
            assert stopped.is_set()

    with_toy(story)


def test_context_progress_lifespan_step_and_call(with_toy: Any) -> None:
    agent = Agent("parent")
    opened: list[str] = []

    @agent.lifespan
    async def life() -> AsyncIterator[dict[str, str]]:
        opened.append("open")
        yield {"model": "m1"}
        opened.append("closed")

    @agent.capability
    async def outer(ctx: Context, n: int) -> list[str]:
        ctx.progress(0.5, "half")
        await ctx.progress(0.6)
        names = await asyncio.gather(*(ctx.step(f"s{i}", "inner", i=i) for i in range(n)))
        again = await ctx.step("s0", "inner", i=0)
        return [ctx.lifespan["model"], ctx.task.id, *names, again, await ctx.call("inner", i=9)]

    @agent.capability
    async def inner(ctx: Context, i: int) -> str:
        return f"{i}<{ctx.task.parent}"

    @agent.capability
    def plain(ctx: BlockingContext) -> str:
        ctx.progress(1.0, "all")
        return str(ctx.step("one", "inner", i=1)) + ctx.lifespan["model"]

    @agent.capability
    def mistaken(ctx: Context) -> str:
        ctx.progress(0.1)
        return str(ctx.step("one", "inner", i=1))

    async def story(toy: Any) -> None:
        async with toy.serving(agent), toy.client() as mesh:
            found = await mesh.call("outer", n=3)
            assert found == ["m1", "toy.1.1", *[f"{i}<toy.1.1" for i in (0, 1, 2, 0, 9)]]
            assert sum(isinstance(body, HandlerEnded) for body in toy.seen) == 5, "a step that has ended does not run again"
            assert (await toy.until(HandlerProgress)).note == "half"
            assert await mesh.call("plain") == "1<toy.1.6m1"
            with pytest.raises(TaskFailed, match="cannot await"):
                await mesh.call("mistaken")
        assert opened == ["open", "closed"]

    with_toy(story)


def test_errors_of_steps_are_typed(with_toy: Any) -> None:
    agent = Agent("parent")
    seen: list[BaseException] = []

    @agent.capability
    async def outer(ctx: Context) -> None:
        for capability in ("bad", "nobody"):
            try:
                await ctx.call(capability)
            except MeshError as error:
                seen.append(error)
        await ctx.call("bad", too="much")

    @agent.capability
    async def bad() -> None:
        raise KeyError("k")

    async def story(toy: Any) -> None:
        async with toy.serving(agent), toy.client() as mesh:
            with pytest.raises(InvalidArgument, match="no argument 'too'"):
                await mesh.call("outer")
            assert [type(error) for error in seen] == [TaskFailed, NoSuchCapability]

    with_toy(story)


def test_no_effect_starts_past_the_lease(with_toy: Any) -> None:
    agent = Agent("leased")
    begun, over = asyncio.Event(), asyncio.Event()

    @agent.capability
    async def outer(ctx: Context) -> str:
        begun.set()
        await over.wait()
        return str(await ctx.call("inner"))

    @agent.capability
    async def inner() -> str:
        return "done"

    async def story(toy: Any) -> None:
        async with toy.serving(agent) as (worker,), toy.client() as mesh:
            call = asyncio.ensure_future(mesh.call("outer"))
            await begun.wait()
            worker._runner.extend(["toy.1.1", 1, 0])
            over.set()
            for _ in range(20):
                await asyncio.sleep(0)
            assert not any(getattr(body, "capability", "") == "inner" for body in toy.seen), "suspended"
            worker._runner.extend(["toy.1.1", 1, 1 << 60])
            assert await call == "done"

    with_toy(story)


def test_prices(with_toy: Any, capsys: pytest.CaptureFixture[str]) -> None:
    agent = Agent("priced")

    @agent.capability
    async def render(pages: int, title: str = "") -> str:
        return title * pages

    @agent.bid("render")
    def price(pages: int) -> Bid | None:
        if pages < 0:
            raise ValueError("negative")
        return Bid(cost=pages / 10, eta_s=0.25) if pages < 100 else None

    async def story(toy: Any) -> None:
        async with toy.serving(agent):
            attached = await toy.until(WorkerAttached)
            assert [offer.priced for offer in attached.offers] == [True]
            for pages, expected in ((5, (0.5, 250)), (500, (None, None)), (-1, (None, None))):
                toy.seen.clear()
                toy.price("render", b'{"pages":%d}' % pages)
                priced = await toy.until(Priced)
                assert (priced.round, priced.cost, priced.eta_ms) == (7, *expected)

    with_toy(story)
    assert "price function of render failed" in capsys.readouterr().err


@dataclass
class Table:
    file: File
    rows: int


def test_files_of_5_mb_go_in_and_out(with_toy: Any, tmp_path: Path) -> None:
    agent = Agent("files")
    out = tmp_path / "out.bin"

    @agent.capability
    def double(table: File) -> Table:
        assert table.path.name == "in.bin"
        data = table.path.read_bytes()
        out.write_bytes(data + data)
        return Table(File.of(out), table.size)

    async def story(toy: Any) -> None:
        source = tmp_path / "in.bin"
        source.write_bytes(bytes(range(256)) * 20_480)
        async with toy.serving(agent), toy.client() as mesh:
            found = await mesh.call("double", table=File.of(source))
            assert found["rows"] == 5 * 1024 * 1024 and found["file"].size == 10 * 1024 * 1024
            assert found["file"].path.read_bytes() == source.read_bytes() * 2
            assert await mesh.get(found["file"].sha256, tmp_path / "copy.bin") == 10 * 1024 * 1024
            assert (tmp_path / "copy.bin").read_bytes() == out.read_bytes()
            ended = await toy.until(HandlerEnded)
            assert ended.files == ((found["file"].sha256, found["file"].size),)
            known = [body.size for body in toy.seen if isinstance(body, FileKnown)]
            assert known == [5 * 1024 * 1024, 10 * 1024 * 1024]

    with_toy(story)


def test_a_worker_survives_the_nodes_restart(tmp_path: Path, toy_class: Callable[..., Any]) -> None:
    """It attaches again, says what it runs and what had ended unnoticed, sends those results, and asks its open step again."""
    agent = Agent("tough")
    gate, waiting = asyncio.Event(), asyncio.Event()

    @agent.capability
    async def outer(ctx: Context) -> str:
        waiting.set()
        return str(await ctx.step("one", "inner"))

    @agent.capability
    async def quick() -> str:
        await gate.wait()
        return "quick"

    @agent.capability
    async def inner() -> str:
        return "inner"

    async def main() -> None:
        first = toy_class(tmp_path)
        async with first.running(), first.client() as mesh:
            worker = Worker(agent, lambda: first.path)
            task = asyncio.ensure_future(worker.run())
            await first.until(WorkerAttached)
            outer_task = await mesh.submit("quick")
            first.answers = True
            await mesh.submit("outer")
            await waiting.wait()
        gate.set()
        second = toy_class(tmp_path)
        second._requests = {"toy.1.1": [], "toy.1.2": []}
        async with second.running():
            attached = await second.until(WorkerAttached)
            held = {task for task, _ in attached.running}
            assert outer_task.id in held
            ended = await second.until(lambda body: isinstance(body, HandlerEnded) and body.task == "toy.1.1")
            assert ended.output == b'"quick"'
            ended = await second.until(lambda body: isinstance(body, HandlerEnded) and body.task == "toy.1.2")
            assert ended.output == b'"inner"'
            task.cancel()
            await asyncio.wait([task])
            await second.until(WorkerGone)

    asyncio.run(asyncio.wait_for(main(), 20))


def test_serve_says_when_the_node_is_gone_and_when_it_is_back_once_for_all_agents(tmp_path: Path, toy_class: Callable[..., Any]) -> None:
    other = Agent("other")

    @other.capability
    async def more() -> str:
        return "more"

    async def main() -> None:
        told: asyncio.Queue[str] = asyncio.Queue()
        first = toy_class(tmp_path)
        tell = told.put_nowait
        serving = serve([greeter(), other], first.path, on_attached=lambda _: tell("attached"), on_lost=lambda: tell("lost"))
        async with first.running():
            task = asyncio.ensure_future(serving)
            assert await told.get() == "attached"
        assert await told.get() == "lost"
        async with toy_class(tmp_path).running():
            assert await told.get() == "attached"
            task.cancel()
            await asyncio.wait([task])
        assert told.empty()

    asyncio.run(asyncio.wait_for(main(), 20))


def test_the_outcome_of_an_effect_is_told_again_after_the_nodes_restart(tmp_path: Path, toy_class: Callable[..., Any]) -> None:
    """The node dies between the deed and its record: the worker, which knows that it happened, tells the next one."""
    agent, ran = Agent("tough"), list[str]()
    first, second = toy_class(tmp_path), toy_class(tmp_path)

    @agent.capability
    async def outer(ctx: Context) -> str:
        return str(await ctx.effect("mail", mail))

    def mail() -> str:
        ran.append(threading.current_thread().name)
        first.answers = False
        return "sent"

    async def main() -> None:
        async with first.running(), first.client() as mesh:
            task = asyncio.ensure_future(Worker(agent, lambda: first.path).run())
            await first.until(WorkerAttached)
            await mesh.submit("outer")
            told = await first.until(EffectEnd)
        second._requests = {"toy.1.1": []}
        async with second.running():
            again = await second.until(EffectEnd)
            assert (again.task, again.fence, again.key, again.call, again.output) == ("toy.1.1", 1, "mail", 1, b'"sent"')
            assert told.output == again.output
            assert (await second.until(HandlerEnded)).output == b'"sent"'
            assert len(ran) == 1 and ran[0].startswith("mesh-tough")
            task.cancel()
            await asyncio.wait([task])
            await second.until(WorkerGone)

    asyncio.run(asyncio.wait_for(main(), 20))


def test_without_a_node_for_too_long_handlers_are_cancelled(tmp_path: Path, toy_class: Callable[..., Any]) -> None:
    agent = Agent("orphan")
    begun, cancelled = asyncio.Event(), asyncio.Event()

    @agent.capability
    async def wait() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    async def main() -> None:
        toy = toy_class(tmp_path, adopt_grace_s=0.05)
        async with toy.running():
            worker = Worker(agent, lambda: toy.path)
            task = asyncio.ensure_future(worker.run())
            await toy.until(WorkerAttached)
            async with toy.client() as mesh:
                await mesh.submit("wait")
                await begun.wait()
        await cancelled.wait()
        task.cancel()
        await asyncio.wait([task])

    asyncio.run(asyncio.wait_for(main(), 20))


def test_cancelled_tasks_raise_their_own_class(with_toy: Any) -> None:
    agent = Agent("patient")
    begun = asyncio.Event()

    @agent.capability
    async def wait() -> None:
        begun.set()
        await asyncio.Event().wait()

    async def story(toy: Any) -> None:
        async with toy.serving(agent), toy.client() as mesh:
            call = asyncio.ensure_future(mesh.call("wait"))
            await begun.wait()
            await mesh.cancel("toy.1.1", reason="enough")
            with pytest.raises(TaskCancelled):
                await call

    with_toy(story)


def test_serve_says_when_all_agents_are_attached_and_ends_on_a_signal(with_toy: Any) -> None:
    other = Agent("other")

    @other.capability
    async def more() -> str:
        return "more"

    async def story(toy: Any) -> None:
        told: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        serving = asyncio.ensure_future(serve([greeter(), other], toy.path, on_attached=told.put_nowait))
        assert (await told.get())["node"] == "toy"
        async with toy.client() as mesh:
            assert await mesh.call("more") == "more" and await mesh.call("greet", name="x") == "hello x"
        os.kill(os.getpid(), signal.SIGTERM)
        await serving
        await toy.until(WorkerGone)
        assert told.empty()

    with_toy(story)


def test_a_node_that_refuses_a_worker_ends_it_with_the_reason(with_toy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mesh.runtime.workers.WORKERS_MAX", 0)

    async def story(toy: Any) -> None:
        with pytest.raises(NodeBusy, match="at most 0 workers"):
            await serve([greeter()], toy.path)

    with_toy(story)
