"""Runs an agent's handlers. No socket in here: frames in, frames out, so that a node's worker and a simulated mesh share it.

    execute --> [queue] --> task per run --> started, progress, ended
    stop, timeout ----------^    |
    extend (lease) --------------'--> ctx.step, ctx.call, ctx.effect --> ask

Invariant: a run ends in exactly one `ended`, and at most `concurrency` of them are under way. A plain function runs in a thread; it is
stopped by an exception raised in that thread, which a blocking C call defers. Does not decide what runs, and promises nothing about twice.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections import deque
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from mesh import values
from mesh.agent import Agent
from mesh.context import BlockingContext, Context, TaskInfo
from mesh.errors import MeshError, TooBig, UsageError, task_error
from mesh.failures import failure
from mesh.files import Ask, Shelf, check_files, put_all
from mesh.ids import Fence, TaskId
from mesh.prices import price_of
from mesh.reaching import Reach
from mesh.runs import Clock, Isolation, Run, RunEnded, RunnerStatistics
from mesh.secret import Redactor, Secret
from mesh.threads import HandlerStopped, Interruptible, interrupting

T = TypeVar("T")

STOP_GRACE_S = 2.0
"""A timed-out handler that has not ended by then is reported as timed out while it still runs."""
PROGRESS_EVERY_S = 0.1
LENT_AFTER_S = 0.02
"""Who waits is looked at this often: of most calls, which are over sooner, the node need not hear that a slot is free meanwhile."""
THREADS_MAX = 1024
NOTE_CHARACTERS_MAX = 200


class Runner:
    """`out(verb, item)` gets started, progress, ended and priced items; `ask` reaches the local node. Use `flush` before frames leave.

    `isolation` runs the handlers that are to have a process of their own; without it they run here.
    """

    def __init__(
        self,
        agent: Agent,
        *,
        out: Callable[[str, list[Any]], None],
        ask: Ask,
        clock: Clock,
        shelf: Shelf | None = None,
        body_bytes_max: int,
        lifespan: Any = None,
        isolation: Isolation | None = None,
    ) -> None:
        self._isolation = isolation
        self._reach = Reach(self._ask_for, self._may_start)
        self._agent, self._out, self._ask, self._clock = agent, out, ask, clock
        self.shelf = shelf
        self.lifespan = lifespan
        self.body_bytes_max = body_bytes_max
        self._runs: dict[tuple[TaskId, Fence], Run] = {}
        self._queue: deque[Run] = deque()
        self._fresh: list[Run] = []
        self._lenders: dict[Run, None] = {}
        """Those whose slot has been free for a moment, and the node does not know yet."""
        self._lending = False
        self._active = 0
        self._connected = True
        self._loop = asyncio.get_running_loop()
        self._threads: ThreadPoolExecutor | None = None
        self._pricing: set[asyncio.Task[None]] = set()
        self._ended = self._failed = self._declined = 0

    # ---- frames from the node

    def execute(self, item: list[Any]) -> None:
        """``[task, fence, capability, input, lease_end_ms, timeout_ms, parent, attempt]``; a duplicate is ignored."""
        capability = self._agent.capabilities.get(item[2])
        if (item[0], item[1]) in self._runs:
            return
        if capability is None:
            error = {
                "kind": "error",
                "message": f"agent {self._agent.name!r} has no capability {item[2]!r}",
                "retryable": True,
                "details": "",
            }
            self._out("ended", [item[0], item[1], "error", b"", [], error, 0])
            return
        run = self._runs[item[0], item[1]] = Run(item, capability, isolated=self._isolation is not None and capability.limits is not None)
        if self._active < self._agent.concurrency:
            self._start(run)
        else:
            self._queue.append(run)

    def extend(self, item: list[Any]) -> None:
        """``[task, fence, lease_end_ms]``: the lease was renewed."""
        run = self._runs.get((item[0], item[1]))
        if run is not None:
            run.lease_end_ms = item[2]
            self._wake(run)

    def stop(self, task: TaskId, fence: Fence) -> None:
        """Cancel a run; it ends as ``cancelled``, at the latest when its handler lets go."""
        run = self._runs.get((task, fence))
        if run is not None:
            self._stop(run, "cancelled")

    def price(self, item: list[Any]) -> None:
        """``[round, task, capability, input]``; ends as a priced item."""
        task = self._loop.create_task(self._price(*item))
        self._pricing.add(task)
        task.add_done_callback(self._pricing.discard)

    # ---- its own life

    def flush(self) -> None:
        """Say what was started and is still under way: work that ends in the same turn is never announced."""
        for run in self._fresh:
            if not run.over:
                self._out("started", [run.task, run.fence])
        self._fresh.clear()

    def held(self) -> list[list[Any]]:
        """``[task, fence]`` of everything that runs or waits here."""
        return [[run.task, run.fence] for run in self._runs.values()]

    def connected(self, value: bool) -> None:
        """Whether there is a node: without one no effect starts."""
        self._connected = value
        if value:
            for run in self._runs.values():
                self._wake(run)
                if run.works:
                    self._say_lent(run, True)

    def stop_all(self) -> None:
        """Cancel everything."""
        for run in list(self._runs.values()):
            self._stop(run, "cancelled")

    async def drained(self) -> None:
        """Return when nothing runs any more; handlers that run in a thread may take their time."""
        while handles := [run.handle for run in self._runs.values() if run.handle is not None]:
            await asyncio.wait(handles)

    def close(self) -> None:
        """Let go of the threads. Those of handlers that cannot be stopped end with the process."""
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)

    def statistics(self) -> RunnerStatistics:
        return RunnerStatistics(self._active, len(self._queue), self._ended, self._failed, self._declined)

    # ---- runs

    def _start(self, run: Run) -> None:
        self._active += 1
        run.started_ms = self._clock.now_ms()
        if run.timeout_ms:
            run.timer = self._clock.call_later(run.timeout_ms / 1000, lambda: self._expire_run(run))
        self._fresh.append(run)
        run.handle = self._loop.create_task(self._run(run))

    async def _run(self, run: Run) -> None:
        """One handler, from its arguments to its `ended`."""
        output, files, error = b"", (), None  # type: tuple[bytes, tuple[tuple[str, int], ...], dict[str, Any] | None]
        run.begun = True
        try:
            if not run.stopping:
                output, files = await self._result_of(run)
            outcome = "ok"
        except RunEnded as ended:
            outcome, error = ended.outcome, ended.error
        except (asyncio.CancelledError, HandlerStopped):
            outcome = run.stopping
            if not outcome:
                outcome, error = (
                    "error",
                    {"kind": "error", "message": "the handler was cancelled from within", "retryable": True, "details": ""},
                )
        except BaseException as raised:  # noqa: BLE001  user code may raise anything, KeyboardInterrupt too; told as its failure
            outcome, error = "error", failure(raised)
        finally:
            self._active -= 1
            if self._queue and self._active < self._agent.concurrency:
                self._start(self._queue.popleft())
        self._end(run, run.stopping or outcome, output, files, error)

    async def _result_of(self, run: Run) -> tuple[bytes, tuple[tuple[str, int], ...]]:
        name = run.capability.name
        if run.isolated:
            assert self._isolation is not None
            output, stored = await self._isolation.run(run, self)
        else:
            output, stored = await self._run_here(run)
        if len(output) > self.body_bytes_max:
            raise TooBig(what=f"the result of {name}", size_bytes=len(output), size_bytes_max=self.body_bytes_max)
        if run.redactor is not None:
            run.redactor.check(f"the result of {name}", output)
        return output, stored

    async def _run_here(self, run: Run) -> tuple[bytes, tuple[tuple[str, int], ...]]:
        capability = run.capability
        shape = capability.shape
        secrets: list[Secret] = []
        arguments = shape.arguments(run.input, self.shelf, secrets)
        for secret in secrets:
            secret.resolve(await self._text_of(run, secret.name))
        if shape.context:
            context = Context(self._info(run), self, self._loop)
            arguments[shape.context] = BlockingContext(context) if shape.blocking else context
        if capability.is_async:
            result = await capability.function(**arguments)
        else:
            result = await self._in_thread(run, arguments)
        output, files = shape.dump(result)
        stored: tuple[tuple[str, int], ...] = ()
        if files:
            if await put_all(self._ask, files, self.shelf):
                output, files = shape.dump(result)
            stored = check_files(files, values.FILES_MAX)
        return output, stored

    async def _in_thread(self, run: Run, arguments: dict[str, Any]) -> Any:
        run.thread = Interruptible(lambda: run.capability.function(**arguments))
        future = self._begin_in_thread(run.thread)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            # Only a loop that is shutting down cancels this task: a plain function is stopped in its thread.
            run.thread.interrupt()
            raise

    def _begin_in_thread(self, call: Interruptible) -> asyncio.Future[Any]:
        if self._threads is None:
            # More than slots: those that wait for steps of their own have lent theirs. Threads are made as they are needed.
            self._threads = ThreadPoolExecutor(THREADS_MAX, thread_name_prefix=f"mesh-{self._agent.name}")
        return self._loop.run_in_executor(self._threads, contextvars.copy_context().run, call.run)

    def _info(self, run: Run) -> TaskInfo:
        deadline = self._loop.time() + run.timeout_ms / 1000 if run.timeout_ms else None
        return TaskInfo(run.task, run.fence, run.attempt, run.capability.name, run.parent, deadline)

    def _end(self, run: Run, outcome: str, output: bytes, files: tuple[tuple[str, int], ...], error: dict[str, Any] | None) -> None:
        if run.over:
            return
        run.over = True
        self._runs.pop((run.task, run.fence), None)
        if run.timer is not None:
            run.timer.cancel()
        self._ended += 1
        self._failed += outcome != "ok"
        service_ms = self._clock.now_ms() - run.started_ms if run.started_ms else 0
        if outcome != "ok":
            output, files = b"", ()
        if error is not None and run.redactor is not None:
            error = run.redactor.error(error)
        if outcome == "timeout" and error is None:
            error = {
                "kind": "timeout",
                "message": f"{run.capability.name} did not end within {run.timeout_ms / 1000:g} s",
                "retryable": True,
                "details": "",
            }
        self._out("ended", [run.task, run.fence, outcome, output, [list(file) for file in files], error or {}, service_ms])

    # ---- stopping

    def _expire_run(self, run: Run) -> None:
        self._stop(run, "timeout")
        run.timer = self._clock.call_later(STOP_GRACE_S, lambda: self._end(run, "timeout", b"", (), None))

    def _stop(self, run: Run, reason: str) -> None:
        if run.over:
            return
        run.stopping = run.stopping or reason
        if run.handle is None:
            self._queue.remove(run)
            self._end(run, run.stopping, b"", (), None)
        elif not run.begun:
            return  # cancelled before its first step, a task would vanish without a word; it looks at `stopping` when it begins
        elif run.capability.is_async or run.isolated:
            run.handle.cancel()
        elif run.thread is not None:
            for wait in run.waits:
                wait.cancel()
            run.thread.interrupt()

    # ---- what contexts ask for (context.Port)

    def progress(self, task: TaskInfo, fraction: float, note: str) -> None:
        run = self._runs.get((task.id, task.fence))
        if run is not None:
            self.progress_of(run, fraction, note)

    def progress_of(self, run: Run, fraction: float, note: str) -> None:
        note = note if run.redactor is None else run.redactor.text(note)
        fresh = run.progress is None
        said = run.progress = (fraction, note[:NOTE_CHARACTERS_MAX])
        if fresh:
            self._say_progress(run)
            self._clock.call_later(PROGRESS_EVERY_S, lambda: self._next_progress(run, said))

    def _say_progress(self, run: Run) -> None:
        assert run.progress is not None
        self._out("progress", [run.task, run.fence, *run.progress])

    def _next_progress(self, run: Run, said: tuple[float, str]) -> None:
        if run.over or run.progress == said:
            run.progress = None
            return
        self._say_progress(run)
        said = run.progress or said
        self._clock.call_later(PROGRESS_EVERY_S, lambda: self._next_progress(run, said))

    async def step(self, task: TaskInfo, name: str, capability: str, arguments: dict[str, Any]) -> Any:
        if not name or not isinstance(name, str) or len(name) > NOTE_CHARACTERS_MAX:
            raise UsageError(
                f"{name!r} cannot name a step", fix=f"use a text of 1 to {NOTE_CHARACTERS_MAX} characters, unique within the task"
            )
        return await self._effect(task, "step", capability, arguments, {"parent": task.id, "fence": task.fence, "name": name})

    async def call(self, task: TaskInfo, capability: str, arguments: dict[str, Any]) -> Any:
        return await self._effect(task, "call", capability, arguments, {"parent": task.id})

    async def effect_begin(self, task: TaskInfo, key: str, call: int, at_most_once: bool) -> bytes | None:
        answer = await self._reach.permit(self._living(task), {"key": key, "call": call, "once": at_most_once})
        return bytes(answer["output"]) if answer["state"] == "done" else None

    async def effect_end(self, task: TaskInfo, key: str, call: int, output: bytes, error: str) -> None:
        if (run := self._runs.get((task.id, task.fence))) is None:
            raise _task_over(task.id)
        await self._reach.settle(run, {"key": key, "call": call, "output": output, "error": error})

    async def in_thread(self, function: Callable[[], Any]) -> Any:
        """Call it in a thread. Whoever is cancelled while he waits interrupts it, and goes on when it has let go."""
        call = Interruptible(function)
        return await interrupting(call, self._begin_in_thread(call))

    async def sleep(self, task: TaskInfo, seconds: float) -> None:
        run = self._runs.get((task.id, task.fence))
        if run is not None:
            await self._wait(run, self._clock.sleep(seconds))

    async def secret(self, task: TaskInfo, name: str) -> Secret:
        secret = Secret(name)
        secret.resolve(await self._text_of(self._living(task), name))
        return secret

    async def _text_of(self, run: Run, name: str) -> str:
        """A secret's text: asked of the local node, once per run."""
        run.redactor = run.redactor or Redactor()
        if name not in run.redactor.values:
            await self._may_start(run)
            reply = await self._ask_for(run, "secret", {"name": name, "task": run.task, "fence": run.fence})
            run.redactor.add(name, str(reply["text"]))
        return run.redactor.values[name]

    async def _ask_for(self, run: Run, verb: str, params: dict[str, Any]) -> dict[str, Any]:
        return await self._wait(run, self._ask(verb, params))

    async def _wait(self, run: Run, work: Awaitable[T]) -> T:
        """Await `work` so that stopping the run ends it, also where a thread waits for us."""
        task = asyncio.current_task()
        assert task is not None, "coroutines run in tasks"
        run.waits.append(task)
        try:
            return await work
        finally:
            run.waits.remove(task)

    async def _effect(self, task: TaskInfo, verb: str, capability: str, arguments: dict[str, Any], params: dict[str, Any]) -> Any:
        data, files = await values.encode(arguments, self._ask, self.shelf)
        if len(data) > self.body_bytes_max:
            raise TooBig(what=f"the arguments for {capability}", size_bytes=len(data), size_bytes_max=self.body_bytes_max)
        run = self._living(task)
        return result_of(await self._begin(run, verb, params | {"capability": capability, "input": data, "files": files}), self.shelf)

    async def _begin(self, run: Run, verb: str, params: dict[str, Any]) -> dict[str, Any]:
        """Start a step or a call on behalf of `run` and wait for its end. Its slot is free meanwhile."""
        if run.redactor is not None:
            run.redactor.check(f"what is passed to {params['capability']}", params["input"] + str(params.get("name")).encode())
        await self._may_start(run)
        self._lend_slot(run)
        try:
            return await self._ask_for(run, verb, params)
        finally:
            self._take_slot(run)

    async def relay(self, run: Run, verb: str, params: dict[str, Any]) -> dict[str, Any]:
        """What a handler in a process of its own asks of the node. `params` have been checked; whose task it is, we say."""
        if run.over or run.stopping:
            raise _task_over(run.task)
        if verb == "secret":
            return {"text": await self._text_of(run, params["name"])}
        if verb == "step":
            return await self._begin(run, verb, params | {"parent": run.task, "fence": run.fence})
        if verb == "call":
            return await self._begin(run, verb, params | {"parent": run.task})
        if verb == "effect":
            return await self._reach.permit(run, params)
        if verb == "effected":
            await self._reach.settle(run, params)
            return {}
        return await self._ask(verb, params)

    def _living(self, task: TaskInfo) -> Run:
        """The run behind a context. Raises MeshError if it is over."""
        run = self._runs.get((task.id, task.fence))
        if run is None or run.stopping:
            raise _task_over(task.id)
        return run

    def _lend_slot(self, run: Run) -> None:
        """What it waits for may be queued right here."""
        run.works += 1
        if run.works == 1:
            self._active -= 1
            self._lenders[run] = None
            if not self._lending:
                self._lending = True
                self._clock.call_later(LENT_AFTER_S, self._say_who_lends)
            if self._queue and self._active < self._agent.concurrency:
                self._start(self._queue.popleft())

    def _take_slot(self, run: Run) -> None:
        run.works -= 1
        if not run.works:
            self._active += 1
            self._lenders.pop(run, None)
            if run.lent and not run.over:
                self._say_lent(run, False)

    def _say_who_lends(self) -> None:
        self._lending = False
        lenders, self._lenders = self._lenders, {}
        for run in lenders:
            self._say_lent(run, True)

    def _say_lent(self, run: Run, lent: bool) -> None:
        run.lent = lent
        self._out("waits", [run.task, run.fence, lent])

    async def _may_start(self, run: Run) -> None:
        """Wait until there is a node and the lease is not over. A run that is never renewed is stopped, not answered."""
        while not self._connected or self._clock.now_ms() >= run.lease_end_ms:
            waiter: asyncio.Future[None] = self._loop.create_future()
            run.lease_waiters.append(waiter)
            await self._wait(run, waiter)

    def _wake(self, run: Run) -> None:
        waiters, run.lease_waiters = run.lease_waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    # ---- prices

    async def _price(self, round_number: int, task: TaskId, capability: str, data: bytes) -> None:
        cost, eta_ms, failed = await price_of(self._agent, capability, data)
        self._declined += failed
        self._out("priced", [round_number, task, cost, eta_ms])


def _task_over(task: TaskId) -> MeshError:
    return MeshError(
        f"the task {task} is over: nothing new starts for it", fix="await every step before the handler returns", code="task_over"
    )


def result_of(reply: dict[str, Any], shelf: Shelf | None) -> Any:
    """The value in an answer to a call or a step. Raises the typed error of one that failed."""
    if reply.get("state") == "done":
        return values.load(bytes(reply.get("output") or b"null"), shelf)
    raise task_error(reply.get("error") or {}, str(reply.get("task") or ""), str(reply.get("state") or ""))
