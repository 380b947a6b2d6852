"""The runner on a clock that the test moves: one end per run, timeouts, progress said now and then, what stopping does and does not do."""

from __future__ import annotations

import asyncio
import heapq
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from mesh import Agent, Context
from mesh.failures import failure
from mesh.runner import Runner
from mesh.threads import HandlerStopped, Interruptible


class Clock:
    """Moves only when told."""

    def __init__(self) -> None:
        self.ms = 1000
        self._due: list[tuple[float, int, Any]] = []
        self._count = 0

    def now_ms(self) -> int:
        return self.ms

    def wall_ms(self) -> int:
        return 1_000_000 + self.ms

    def call_later(self, seconds: float, call: Callable[[], None]) -> Any:
        class Timer:
            cancelled = False

            def cancel(self) -> None:
                self.cancelled = True

        timer = Timer()
        self._count += 1
        heapq.heappush(self._due, (self.ms + seconds * 1000, self._count, (timer, call)))
        return timer

    async def sleep(self, seconds: float) -> None:
        event = asyncio.Event()
        self.call_later(seconds, event.set)
        await event.wait()

    async def move(self, seconds: float) -> None:
        self.ms += round(seconds * 1000)
        while self._due and self._due[0][0] <= self.ms:
            timer, call = heapq.heappop(self._due)[2]
            if not timer.cancelled:
                call()
        await turns()


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


class Bench:
    def __init__(self, agent: Agent) -> None:
        self.said: list[tuple[str, Any]] = []
        self.clock = Clock()
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.answer: dict[str, Any] = {"task": "c", "state": "done", "output": b"1"}
        self.runner = Runner(
            agent, out=lambda verb, item: self.said.append((verb, item)), ask=self.ask, clock=self.clock, body_bytes_max=1000
        )

    async def ask(self, verb: str, params: dict[str, Any]) -> dict[str, Any]:
        self.asked.append((verb, params))
        return self.answer

    async def execute(
        self, capability: str, data: bytes = b"{}", *, fence: int = 1, timeout_ms: int = 0, lease_end_ms: int = 1 << 60
    ) -> None:
        self.runner.execute(["t", fence, capability, data, lease_end_ms, timeout_ms, "", 1, b"", False, 0, [0, ""], False])
        await turns()

    def ended(self) -> list[tuple[int, str, dict[str, Any]]]:
        return [(item[1], item[2], item[5]) for verb, item in self.said if verb == "ended"]


def bench(agent: Agent, story: Callable[[Bench], Awaitable[None]]) -> None:
    async def main() -> None:
        it = Bench(agent)
        await asyncio.wait_for(story(it), 20)
        it.runner.stop_all()
        await it.runner.drained()
        it.runner.close()

    asyncio.run(main())


def test_work_that_ends_in_its_turn_is_never_announced() -> None:
    agent = Agent("a")

    @agent.capability
    async def quick() -> int:
        return 1

    @agent.capability
    async def slow(ctx: Context) -> None:
        await ctx.sleep(2)

    async def story(it: Bench) -> None:
        await it.execute("quick")
        it.runner.flush()
        await it.execute("slow", fence=2)
        it.runner.flush()
        await it.clock.move(2)
        assert [verb for verb, _ in it.said] == ["ended", "started", "ended"]
        assert it.said[-1][1][6] == 2000, "milliseconds of service"

    bench(agent, story)


def test_a_handler_that_ignores_its_timeout_is_reported_all_the_same_and_keeps_its_slot() -> None:
    agent = Agent("a", concurrency=1)
    gate = asyncio.Event()

    @agent.capability
    async def stubborn() -> str:
        while not gate.is_set():
            try:
                await gate.wait()
            except asyncio.CancelledError:
                continue
        return "late"

    async def story(it: Bench) -> None:
        await it.execute("stubborn", timeout_ms=500)
        await it.execute("stubborn", fence=2)
        await it.clock.move(0.5)
        assert it.ended() == []
        await it.clock.move(2)
        assert [(fence, outcome, error["kind"]) for fence, outcome, error in it.ended()] == [(1, "timeout", "timeout")]
        assert it.runner.statistics().queued == 1, "its slot is still taken"
        gate.set()
        await turns()
        assert [(fence, outcome) for fence, outcome, _ in it.ended()] == [(1, "timeout"), (2, "ok")], "one end per run"

    bench(agent, story)


def test_progress_is_said_at_once_and_then_now_and_then() -> None:
    agent = Agent("a")
    contexts: list[Context] = []

    @agent.capability
    async def work(ctx: Context) -> None:
        contexts.append(ctx)
        await ctx.sleep(100)

    async def story(it: Bench) -> None:
        await it.execute("work")
        for i in range(10):
            contexts[0].progress(i / 10, "x" * 500)
        assert [item[2] for verb, item in it.said if verb == "progress"] == [0.0]
        await it.clock.move(0.1)
        await it.clock.move(0.1)
        contexts[0].progress(7)
        said = [item for verb, item in it.said if verb == "progress"]
        assert [item[2] for item in said] == [0.0, 0.9, 1.0] and len(said[0][3]) == 200
        await it.clock.move(100)
        contexts[0].progress(0.1)
        assert it.said[-1][0] == "ended", "nothing after the end"

    bench(agent, story)


def test_stopping_a_queued_run_and_a_duplicate_award() -> None:
    agent = Agent("a", concurrency=1)

    @agent.capability
    async def work() -> None:
        await asyncio.Event().wait()

    async def story(it: Bench) -> None:
        await it.execute("work")
        await it.execute("work")
        await it.execute("work", fence=2)
        assert it.runner.held() == [["t", 1], ["t", 2]]
        it.runner.stop("t", 2)
        it.runner.stop("t", 9)
        assert it.ended() == [(2, "cancelled", {})]
        it.runner.stop("t", 1)
        await turns()
        assert it.ended()[-1] == (1, "cancelled", {})

    bench(agent, story)


def test_no_handler_begins_after_the_end_of_its_lease() -> None:
    """As in a process that was stopped with the order unread."""
    begun: list[int] = []
    agent = Agent("late")

    @agent.capability
    async def work(ctx: Context) -> int:
        begun.append(ctx.task.fence)
        return ctx.task.fence

    async def story() -> None:
        it = Bench(agent)
        await it.execute("work", fence=1, lease_end_ms=900)
        await it.execute("work", fence=2, lease_end_ms=900)
        assert begun == []
        it.runner.extend(["t", 2, 4000])
        it.runner.stop("t", 1)
        await turns()
        assert begun == [2]

    asyncio.run(story())


def test_effects_wait_for_node_and_lease_and_stop_with_their_run() -> None:
    agent = Agent("a")

    @agent.capability
    async def work(ctx: Context) -> int:
        return int(await ctx.step("s", "other", x=1))

    async def story(it: Bench) -> None:
        it.runner.connected(False)
        await it.execute("work", lease_end_ms=5000)
        assert it.asked == []
        it.runner.connected(True)
        await turns()
        assert it.asked == [("step", {"parent": "t", "fence": 1, "name": "s", "capability": "other", "input": b'{"x":1}', "files": ()})]
        assert it.ended() == [(1, "ok", {})]
        await it.execute("work", fence=2, lease_end_ms=900)
        assert len(it.asked) == 1, "its lease is over"
        it.runner.stop("t", 2)
        await turns()
        assert it.ended()[-1] == (2, "cancelled", {})

    bench(agent, story)


def test_steps_are_named_and_arguments_bounded() -> None:
    agent = Agent("a")

    @agent.capability
    async def work(ctx: Context, name: str, size: int) -> None:
        await ctx.step(name, "other", x="x" * size)

    async def story(it: Bench) -> None:
        await it.execute("work", b'{"name":"","size":1}')
        await it.execute("work", b'{"name":"s","size":2000}', fence=2)
        assert [error["kind"] for _, _, error in it.ended()] == ["error", "too_big"]
        assert it.asked == []

    bench(agent, story)


def test_an_exit_in_a_handler_is_a_failure_of_its_work() -> None:
    agent = Agent("a")

    @agent.capability
    async def leaves() -> None:
        raise SystemExit(3)

    @agent.capability
    async def cancels() -> None:
        raise asyncio.CancelledError

    async def story(it: Bench) -> None:
        await it.execute("leaves")
        await it.execute("cancels", fence=2)
        await it.execute("unknown", fence=3)
        assert [error["message"] for _, _, error in it.ended()] == [
            "SystemExit: 3",
            "the handler was cancelled from within",
            "agent 'a' has no capability 'unknown'",
        ]

    bench(agent, story)


@pytest.mark.parametrize("kind", [KeyboardInterrupt, GeneratorExit, BaseException])
def test_whatever_a_handler_raises_is_its_failure(kind: type[BaseException]) -> None:
    """Such work was held for ever, or took its worker along."""
    agent = Agent("a")

    @agent.capability
    async def waits() -> None:
        raise kind

    @agent.capability
    def blocks() -> None:
        raise kind

    async def story(it: Bench) -> None:
        await it.execute("waits")
        await it.execute("blocks", fence=2)
        assert [error["message"] for _, _, error in it.ended()] == [kind.__name__, kind.__name__]

    bench(agent, story)


def test_a_thread_is_interrupted_inside_the_call_or_not_at_all() -> None:
    begun, stopped = threading.Event(), threading.Event()

    def spin() -> None:
        begun.set()
        try:
            while True:
                pass
        finally:
            stopped.set()

    job = Interruptible(spin)
    caught: list[BaseException] = []

    def run() -> None:
        try:
            job.run()
        except HandlerStopped as error:
            caught.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    assert begun.wait(10)
    job.interrupt()
    thread.join(10)
    assert stopped.is_set() and len(caught) == 1
    job.interrupt()
    early = Interruptible(spin)
    early.interrupt()
    with pytest.raises(HandlerStopped):
        early.run()


def test_failures_tell_the_users_frame_then_the_library_then_the_cause() -> None:
    import json

    def inner() -> None:
        json.loads("{")

    def outer() -> None:
        try:
            inner()
        except ValueError as error:
            raise RuntimeError("while reading") from error

    try:
        outer()
    except RuntimeError as error:
        found = failure(error)
    lines = found["details"].splitlines()
    assert found["kind"] == "error" and found["retryable"] and found["message"] == "RuntimeError: while reading"
    assert "in outer: raise RuntimeError" in lines[0] and "RuntimeError: while reading" in lines[2]
    assert "because of" in lines and "JSONDecodeError" in lines[-1]
    assert len(failure(ValueError("x" * 100_000))["message"]) == 2000
