"""From holding to handler: what may start, where, and how it is stopped.

    WAITING --files here, lease holds, no older handler--> READY --slot--> Execute ... Stop --stop_s--> overdue

Invariant: no handler starts under a lease that has ended, or while another handler of the same task has not ended. The slot of a handler
that will not stop stays taken until it does. Reports nothing: `contractor.py` settles what an end means.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from mesh.core.deadlines import Deadlines
from mesh.core.inputs import FileFetched, FileWanted, HandlerProgress, HandlerSaid, HandlerStarted
from mesh.core.work.holdings import Holding, Holdings, State
from mesh.core.work.logs import Logs
from mesh.core.work.reports import Reports, need_of
from mesh.core.work.slots import Run, Slots, Worker
from mesh.effects import Execute, Need, Refused, Stop, Tell
from mesh.ids import Fence, Hash, NodeId, TaskId
from mesh.limits import WorkLimits
from mesh.messages.work import AwardItem

NOTE_CHARS_MAX = 200
STUCK = "heartbeat"
"""Why a handler is stopped that did not give the sign of life it had promised, and what its failure is called."""
_MISSING_KEPT = (State.WAITING, State.NEW)


@dataclass(frozen=True, slots=True)
class StopOverdue:
    """A handler was told to stop and has not ended."""

    task: TaskId
    fence: Fence


@dataclass(frozen=True, slots=True)
class RunsDue:
    """Look for handlers that have outrun their timeout without their worker saying so."""


def stuck_error(run: Run) -> dict[str, Any]:
    message = "no sign of life from its handler within the heartbeat it has promised"
    return {"kind": STUCK, "message": message, "retryable": True}


class Running:
    """Starts and stops handlers."""

    def __init__(self, deadlines: Deadlines, limits: WorkLimits, holdings: Holdings, slots: Slots, reports: Reports, logs: Logs) -> None:
        self._deadlines = deadlines
        self._limits = limits
        self._holdings = holdings
        self._slots = slots
        self._reports = reports
        self._logs = logs
        self._wanted: dict[Hash, dict[TaskId, None]] = {}
        self._watching = False
        self.executed = 0
        self.overrun = 0
        self.stuck = 0
        self.inputs: dict[type, Any] = {
            HandlerStarted: self._do_started,
            HandlerProgress: self._do_progress,
            FileFetched: self._do_file_fetched,
            RunsDue: self._expire_runs,
            HandlerSaid: self._do_said,
            **logs.inputs,
        }

    # ---- starting

    def want_files(self, holding: Holding, item: AwardItem, out: list[Any]) -> None:
        """Ask for the input files; the holding waits for them."""
        holding.rooted = True
        for file, size in item.files:
            holding.missing[file] = None
            self._wanted.setdefault(file, {})[holding.task] = None
            out.append(Tell(FileWanted(file, size, item.sources or (holding.manager,))))

    def offer(self, now_s: float, holding: Holding, out: list[Any]) -> None:
        """Start it if it may and a slot is free; else let it wait for what it lacks."""
        slots = self._slots
        if holding.missing or slots.occupied(holding.task) or holding.lease_end_ms <= int(now_s * 1000):
            if holding.state is not State.WAITING:
                slots.move(holding, State.WAITING)
            return
        capability = slots.capabilities[holding.capability]
        if not len(capability.queue) and slots.permit(now_s, capability):
            worker = capability.freest(holding.where)
            if worker is not None and not (capability.needs and slots.must_wait(now_s, capability, holding)):
                self._start(now_s, holding, worker, out)
                return
        slots.move(holding, State.READY)
        if capability.free():
            # Those in front of it may wait for other labels.
            for worker in capability.workers:
                self.fill(now_s, worker, out)
        slots.waits(now_s, capability)

    def fill_all(self, now_s: float, out: list[Any]) -> None:
        """What has become free is not one worker's slot alone: resources are the node's."""
        for worker in self._slots.workers.values():
            self.fill(now_s, worker, out)

    def fill(self, now_s: float, worker: Worker, out: list[Any]) -> None:
        """Give `worker` work that it can take, in turns, until its slots are full."""
        now_ms = int(now_s * 1000)
        while worker.free() > 0:
            holding = self._slots.next_ready(now_s, worker)
            if holding is None:
                return
            if holding.lease_end_ms <= now_ms:
                self._slots.move(holding, State.WAITING)
            else:
                self._start(now_s, holding, worker, out)

    def _start(self, now_s: float, holding: Holding, worker: Worker, out: list[Any]) -> None:
        timeout_ms = holding.timeout_ms
        if holding.deadline_ms:
            left_ms = holding.deadline_ms - int(now_s * 1000)
            if left_ms <= 0:
                self._reports.release(now_s, holding, "deadline", out)
                return
            timeout_ms = min(timeout_ms or left_ms, left_ms)
        run = Run(worker, holding.task, holding.fence, holding.capability, holding.durable, now_s)
        run.heartbeat_s, holding.version = holding.heartbeat_ms / 1000, worker.offers[holding.capability].version
        if timeout_ms:
            run.overdue_s = now_s + timeout_ms / 1000 + self._limits.margin_s
        if (timeout_ms or run.heartbeat_s) and not self._watching:
            self._watching = True
            self._deadlines.set(RunsDue(), now_s + self._limits.beat_s)
        self._slots.begin(run)
        self._slots.move(holding, State.RUNNING)
        self._slots.took_turn(now_s, holding, run)
        self.executed += 1
        self._logs.begin(holding.task, holding.fence)
        out.append(
            Execute(
                worker.worker,
                holding.task,
                holding.fence,
                holding.capability,
                holding.input,
                holding.lease_end_ms,
                timeout_ms,
                holding.parent,
                holding.attempt,
                holding.checkpoint,
                holding.stream,
                holding.skip,
                rank=holding.rank,
                budgets=holding.budgets,
                limited=self._slots.limited(holding.capability),
                pins=holding.pins,
                baggage=holding.baggage,
                need=need_of(holding.durable),
            )
        )

    def freed(self, now_s: float, task: TaskId, worker: Worker, out: list[Any]) -> None:
        """A handler of `task` has ended in `worker`: a newer fence of it may go on, and so may the queue."""
        newer = self._holdings.by_task.get(task)
        if newer is not None and newer.state is State.WAITING:
            self.offer(now_s, newer, out)
        self.fill(now_s, worker, out)
        if self._slots.resources:
            self.fill_all(now_s, out)

    # ---- while it runs

    def _do_started(self, _now_s: float, _me: NodeId, started: HandlerStarted) -> Iterable[Any]:
        if self._run(started.worker, started.task, started.fence) is None:
            return (Refused("unknown_handler"),)
        return ()

    def _do_progress(self, now_s: float, _me: NodeId, progress: HandlerProgress) -> Iterable[Any]:
        run = self._run(progress.worker, progress.task, progress.fence)
        if run is None:
            return (Refused("unknown_handler"),)
        run.heard_s = now_s
        run.fraction = min(1.0, max(0.0, progress.fraction)) if progress.fraction == progress.fraction else 0.0
        run.note = progress.note[:NOTE_CHARS_MAX]
        return ()

    def _do_said(self, now_s: float, _me: NodeId, said: HandlerSaid) -> Iterable[Any]:
        run = self._run(said.worker, said.task, said.fence)
        if run is None:
            return (Refused("unknown_handler"),)
        self._logs.add(now_s, said, run.worker.agent)
        return ()

    def _run(self, worker: int, task: TaskId, fence: Fence) -> Run | None:
        run = self._slots.runs.get(task)
        return run if run is not None and run.fence == fence and run.worker.worker == worker else None

    def _expire_runs(self, now_s: float, _me: NodeId, due: RunsDue) -> list[Any]:
        """Slots bound how many runs there are, so looking at all of them is cheaper than a deadline for each."""
        out: list[Any] = []
        self._watching = False
        for run in list(self._slots.runs.values()):
            if run.overdue_s <= now_s:
                run.overdue_s = float("inf")
                self.overrun += 1
                self.stop(now_s, run, "timeout", out)
                message = f"no end {now_s - run.started_s:.1f} s after its start"
                self.give_up(now_s, run, {"kind": "timeout", "message": message, "retryable": True}, out)
            elif run.heartbeat_s and not run.waits and now_s - run.heard_s > run.heartbeat_s:
                self._is_stuck(now_s, run, out)
            self._watching = self._watching or run.overdue_s != float("inf") or run.heartbeat_s > 0
        if self._watching:
            self._deadlines.set(due, now_s + self._limits.beat_s)
        return out

    def _is_stuck(self, now_s: float, run: Run, out: list[Any]) -> None:
        """What may run twice goes to others at once; the rest when its handler has ended, or `stop_s` after it was told to."""
        offer = run.worker.offers.get(run.capability)
        error = stuck_error(run)
        run.heartbeat_s = 0.0
        self.stuck += 1
        self.stop(now_s, run, STUCK, out)
        if offer is not None and offer.idempotent:
            self.give_up(now_s, run, error, out)

    def give_up(self, now_s: float, run: Run, error: dict[str, Any], out: list[Any]) -> None:
        """Report the run as failed though its handler has not ended, unless something else is owed to the manager."""
        holding = self._holdings.by_task.get(run.task)
        if holding is not None and holding.fence == run.fence and holding.state is State.RUNNING and not run.answers:
            self._reports.fail(now_s, holding, error["kind"], error, run.worker.agent, int((now_s - run.started_s) * 1000), out)

    # ---- stopping

    def stop(self, now_s: float, run: Run, reason: str, out: list[Any]) -> None:
        """Tell the worker to cancel the handler. Once: a second reason changes nothing."""
        if not run.stopping:
            run.stopping = reason
            self._deadlines.set(StopOverdue(run.task, run.fence), now_s + self._limits.stop_s)
            out.append(Stop(run.worker.worker, run.task, run.fence, reason, need=need_of(run.durable)))

    def stop_stray(self, worker: Worker, task: TaskId, fence: Fence, out: list[Any]) -> None:
        """A worker runs what nobody here holds: it keeps its slot until it ends."""
        self._slots.begin_stray(worker, task, fence)
        out.append(Stop(worker.worker, task, fence, "unknown", need=Need.FREE))

    # ---- files

    def _do_file_fetched(self, now_s: float, _me: NodeId, fetched: FileFetched) -> list[Any]:
        out: list[Any] = []
        for task in self._wanted.pop(fetched.file, ()):
            holding = self._holdings.by_task.get(task)
            if holding is None or fetched.file not in holding.missing or holding.state not in _MISSING_KEPT:
                continue
            del holding.missing[fetched.file]
            if not fetched.ok:
                error = {"kind": "no_file", "message": f"input file {fetched.file} is not to be had", "retryable": True}
                self._reports.fail(now_s, holding, "error", error, "", 0, out)
            elif not holding.missing:
                self.offer(now_s, holding, out)
        return out
