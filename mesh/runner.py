"""Runs an agent's handlers. No socket in here: frames in, frames out, so that a node's worker and a simulated mesh share it.

    execute --> [queue] --> task per run --> started, progress, said, ended
    stop, timeout ----------^    |
    extend (lease) --------------'--> ctx.step, ctx.call, ctx.effect --> ask

Invariant: a run ends in exactly one `ended`, and at most `concurrency` of them are under way. A plain function runs in a thread; it is
stopped by an exception raised in that thread, which a blocking C call defers. Does not decide what runs, and promises nothing about twice.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from mesh import values
from mesh.agent import Agent
from mesh.blocking import BlockingContext
from mesh.capture import current
from mesh.context import Context, Document, TaskInfo
from mesh.coordinating import Coordinates
from mesh.errors import MeshError, TooBig, UsageError
from mesh.failures import failure
from mesh.files import Ask, File, Shelf, check_files, put_all
from mesh.generating import generate
from mesh.ids import Fence, TaskId
from mesh.lending import Lending
from mesh.outflow import Collected, Outflow, Relayed
from mesh.prices import Prices
from mesh.reaching import Reach
from mesh.runs import Clock, Isolation, Run, RunEnded, RunnerStatistics
from mesh.secret import Redactor, Secret
from mesh.spends import Spends
from mesh.telling import NOTE_CHARACTERS_MAX, Telling
from mesh.threads import HandlerStopped, Interruptible, Threads, interrupting

T = TypeVar("T")

STOP_GRACE_S = 2.0
"""A timed-out handler that has not ended by then is reported as timed out while it still runs."""


class Runner(Coordinates, Spends):
    """`out(verb, item)` gets started, progress, said, ended and priced items; `ask` reaches the node. Use `flush` before frames leave.

    `isolation` runs the handlers that are to have a process of their own; without it they run here. `relayed`: this is such a process.
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
        relayed: bool = False,
    ) -> None:
        self._isolation, self._relayed = isolation, relayed
        self._reach = Reach(self._ask_for, self._may_start)
        self._agent, self._out, self._ask, self._clock = agent, out, ask, clock
        self.shelf, self.lifespan, self.body_bytes_max = shelf, lifespan, body_bytes_max
        self._runs: dict[tuple[TaskId, Fence], Run] = {}
        self._queue: deque[Run] = deque()
        self._fresh: list[Run] = []
        self._lending = Lending(out, clock)
        self._active, self._connected = 0, True
        self._loop, self._threads = asyncio.get_running_loop(), Threads(agent.name)
        self.telling = Telling(out, clock, lambda: self._connected)
        self._open_log = self.telling.open_log
        self._prices = Prices(agent, out)
        self.price = self._prices.ask
        self._ended, self._failed, self._scopes = 0, 0, {}

    # ---- frames from the node

    def execute(self, item: list[Any]) -> None:
        """The fields of `Execute` from its task on, as `Run` takes them; once of each fence."""
        capability = self._agent.capabilities.get(item[2])
        if (item[0], item[1]) in self._runs:
            return
        if capability is None:
            message = f"agent {self._agent.name!r} has no capability {item[2]!r}"
            error = {"kind": "error", "message": message, "retryable": True, "details": ""}
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

    def taken(self, item: list[Any]) -> None:
        """``[task, fence, upto, again]``: how far the reader of a stream is."""
        run = self._runs.get((item[0], item[1]))
        if run is not None and isinstance(run.outflow, Outflow):
            run.outflow.taken(item[2], item[3])

    def stop(self, task: TaskId, fence: Fence) -> None:
        """Cancel a run; it ends as ``cancelled``, at the latest when its handler lets go."""
        run = self._runs.get((task, fence))
        if run is not None:
            self._stop(run, "cancelled")

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
                self.telling.lines(run)
                self._lending.again(run)

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
        self._threads.close()

    def statistics(self) -> RunnerStatistics:
        return RunnerStatistics(self._active, len(self._queue), self._ended, self._failed, self._prices.declined)

    # ---- runs

    def _start(self, run: Run) -> None:
        self._active += 1
        run.started_ms = self._clock.now_ms()
        if run.timeout_ms:
            run.timer = self._clock.call_later(run.timeout_ms / 1000, lambda: self._expire_run(run))
        if run.limited:
            run.watch_lease(self._clock, self._stop)
        self._fresh.append(run)
        run.handle = self._loop.create_task(self._run(run))

    async def _run(self, run: Run) -> None:
        """One handler, from its arguments to its `ended`."""
        output, files, error = b"", (), None  # type: tuple[bytes, tuple[tuple[str, int], ...], dict[str, Any] | None]
        run.begun = True
        run.open_log = self._open_log
        current.set(run)
        try:
            if not run.stopping:
                await self._may_start(run)
                output, files = await self._result_of(run)
            outcome = "ok"
        except RunEnded as ended:
            outcome, error = ended.outcome, ended.error
        except (asyncio.CancelledError, HandlerStopped):
            outcome = run.stopping or "error"
            if not run.stopping:
                error = {"kind": "error", "message": "the handler was cancelled from within", "retryable": True, "details": ""}
        except BaseException as raised:  # noqa: BLE001  user code may raise anything, KeyboardInterrupt too; told as its failure
            outcome, error = "error", failure(raised, run.capability.give_up_on)
        finally:
            self._active -= 1
            if self._queue and self._active < self._agent.concurrency:
                self._start(self._queue.popleft())
        self._end(run, run.stopping or outcome, output, files, error)

    async def _result_of(self, run: Run) -> tuple[bytes, tuple[tuple[str, int], ...]]:
        name = run.capability.name
        if run.stream:
            run.outflow = Relayed(self._ask) if self._relayed else self._outflow(run)
        elif run.capability.shape.streams:
            run.outflow = Collected(lambda size: self._check_size(f"the items of {name}, collected,", size))
        try:
            if run.isolated:
                assert self._isolation is not None
                output, stored = await self._isolation.run(run, self)
            else:
                output, stored = await self._run_here(run)
            if run.outflow is not None and not (run.isolated and not run.stream):
                output = await run.outflow.finish()
        except Exception:
            if run.outflow is not None and not run.stopping:
                await run.outflow.drain()  # the reader gets what there was before he hears why there is no more
            raise
        self._check_size(f"the result of {name}", len(output))
        if run.redactor is not None:
            run.redactor.check(f"the result of {name}", output)
        return output, stored

    def _outflow(self, run: Run) -> Outflow:
        return Outflow((run.task, run.fence), run.skip, self._out, lambda work: self.wait_for_reader(run, work))

    async def wait_for_reader(self, run: Run, work: Awaitable[None]) -> None:
        await self._wait(run, work)

    def _check_size(self, what: str, size: int) -> None:
        if size > self.body_bytes_max:
            raise TooBig(what=what, size_bytes=size, size_bytes_max=self.body_bytes_max)

    async def _run_here(self, run: Run) -> tuple[bytes, tuple[tuple[str, int], ...]]:
        capability = run.capability
        shape = capability.shape
        secrets: list[Secret] = []
        arguments = shape.arguments(run.input, self.shelf, secrets)
        for secret in secrets:
            secret.resolve(await self._text_of(run, secret.name))
        if shape.context:
            context = Context(self._info(run), self, self._loop, values.load(run.checkpoint, None) if run.checkpoint else {})
            arguments[shape.context] = BlockingContext(context) if shape.blocking else context
        if shape.streams:
            return b"", await self._generate(run, arguments)
        if capability.is_async:
            result = await capability.function(**arguments)
        else:
            result = await self._in_thread(run, lambda: capability.function(**arguments))
        output, files = shape.dump(result)
        if files and await put_all(self._ask, files, self.shelf):
            output, files = shape.dump(result)
        if run.outflow is not None:
            await run.outflow.put(output)
        return output, check_files(files, values.FILES_MAX) if files else ()

    async def _generate(self, run: Run, arguments: dict[str, Any]) -> tuple[tuple[str, int], ...]:
        """Run a generator, and give its items away one by one. Returns the files in those that are collected."""
        sink, name, shape = run.outflow, run.capability.name, run.capability.shape
        assert sink is not None, "a generator's items go somewhere"
        files: list[File] = []

        async def give(item: Any) -> None:
            data, found = shape.dump(item)
            if found and await put_all(self._ask, found, self.shelf):
                data, found = shape.dump(item)
            self._check_size(f"an item of {name}", len(data))
            if run.redactor is not None:
                run.redactor.check(f"an item of {name}", data)
            files.extend(() if run.stream else found)
            await sink.put(data)

        await generate(run.capability, arguments, lambda item: self._wait(run, give(item)), lambda call: self._in_thread(run, call))
        return check_files(files, values.FILES_MAX)

    async def _in_thread(self, run: Run, call: Callable[[], Any]) -> Any:
        run.thread = Interruptible(call)
        future = self._threads.begin(run.thread)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            # Only a loop that is shutting down cancels this task: a plain function is stopped in its thread.
            run.thread.interrupt()
            raise

    def _info(self, run: Run) -> TaskInfo:
        deadline = self._loop.time() + run.timeout_ms / 1000 if run.timeout_ms else None
        return TaskInfo(run.task, run.fence, run.attempt, run.capability.name, run.parent, deadline, run.pins, run.baggage)

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
        self.telling.lines(run, end=True)
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
            self.telling.progress(run, fraction, note)

    def beat(self, task: TaskInfo) -> None:
        run = self._runs.get((task.id, task.fence))
        if run is not None:
            self.telling.progress(run, *run.said)

    def log(self, task: TaskInfo, text: str) -> None:
        run = self._runs.get((task.id, task.fence))
        if run is not None:
            self.telling.log(run, text)

    async def step(self, task: TaskInfo, name: str, capability: str, arguments: Document, how: Document) -> Any:
        if not name or not isinstance(name, str) or len(name) > NOTE_CHARACTERS_MAX:
            fix = f"use a text of 1 to {NOTE_CHARACTERS_MAX} characters, unique within the task"
            raise UsageError(f"{name!r} cannot name a step", fix=fix)
        return await self._effect(task, "step", capability, arguments, how | {"parent": task.id, "fence": task.fence, "name": name})

    def ended_ms(self, task: TaskInfo, step: str) -> int:
        return self._living(task).ended_ms.get(step, 0)

    async def checkpoint(self, task: TaskInfo, value: Any, signals: dict[str, int], anew: bool) -> None:
        data, files = values.dump({"value": value, "signals": signals} if signals else {"value": value})
        if files:
            raise UsageError("a checkpoint holds no File: its bytes would not outlive this node", fix="keep its content, or make it a step")
        run = self._living(task)
        if run.redactor is not None:
            run.redactor.check("the checkpoint", data)
        await self._keep(run, data, anew, [list(one) for one in signals.items()] if anew else [])

    async def _keep(self, run: Run, data: bytes, anew: bool, signals: list[list[Any]]) -> dict[str, Any]:
        """Past the lease no checkpoint is kept, as no other effect starts."""
        await self._may_start(run)
        what = {"task": run.task, "fence": run.fence, "value": data, "anew": anew, "signals": signals}
        return await self._wait(run, self._ask("checkpoint", what))

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
        return await interrupting(call, self._threads.begin(call))

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
        body = await self._begin(run := self._living(task), verb, params | {"capability": capability, "input": data, "files": files})
        return values.of_answer(run.noted(params, body), self.shelf)

    async def _begin(self, run: Run, verb: str, params: dict[str, Any]) -> dict[str, Any]:
        """Start a step or a call on behalf of `run` and wait for its end. Its slot is free meanwhile."""
        if run.redactor is not None:
            run.redactor.check(f"what is passed to {params['capability']}", params["input"] + str(params.get("name")).encode())
        await self._may_start(run)
        self._lend_slot(run)
        try:
            return await self.begin_call(run, verb, params)
        finally:
            self._take_slot(run)

    async def relay(self, run: Run, verb: str, params: dict[str, Any]) -> dict[str, Any]:
        """What a handler in a process of its own asks of the node. `params` have been checked; whose task it is, we say."""
        if run.over or run.stopping:
            raise _task_over(run.task)
        if verb == "secret":
            return {"text": await self._text_of(run, params["name"])}
        if verb == "emit":
            assert run.outflow is not None, "only asked for where its items are wanted"
            await run.outflow.put(params["data"])
            return {}
        if verb == "checkpoint":
            return await self._keep(run, params["value"], params["anew"], params["signals"])
        if verb == "step":
            return await self._begin(run, verb, params | {"parent": run.task, "fence": run.fence})
        if verb == "call":
            return await self._begin(run, verb, run.child(self._clock.now_ms(), params))
        if verb == "spend":
            return await self.spend_for(run, params)
        if verb == "of_handler":
            return await self._of_run(run, **params)
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
        if self._lending.lend(run):
            self._active -= 1
            if self._queue and self._active < self._agent.concurrency:
                self._start(self._queue.popleft())

    def _take_slot(self, run: Run) -> None:
        self._active += self._lending.take(run)

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


def _task_over(task: TaskId) -> MeshError:
    return MeshError(
        f"the task {task} is over: nothing new starts for it", fix="await every step before the handler returns", code="task_over"
    )
