"""The terms under which work is held: leases that run out and come back, and every way a manager takes work away.

    RENEW, RECLAIM --> lease goes on --runs out--> suspended --adopt_grace_s--> stopped
    REVOKE --> stop --handler has ended--> REVOKED        CANCEL --> stop --ended, or stop_s--> CANCELLED        SUPERSEDED --> stop, forget

Invariant: REVOKED is said only when no handler of the task runs under that fence or a smaller one, and none will start. A suspended
holding starts nothing; its handler goes on computing, and its worker starts no effect, because it knows the lease's end itself, on the
same clock: a lapse needs no message. Its result may be sent: the manager checks the fence.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from mesh.core.deadlines import Deadlines
from mesh.core.directory import Directory
from mesh.core.work.holdings import HeldFor, Holding, Holdings, State
from mesh.core.work.reports import Reports, need_of
from mesh.core.work.running import STUCK, Running, StopOverdue, stuck_error
from mesh.core.work.slots import Run, Slots
from mesh.effects import Append, Extend, Need, Refused, Send
from mesh.ids import Fence, NodeId, TaskId
from mesh.limits import WorkLimits
from mesh.messages.records import Ended
from mesh.messages.work import Cancel, Cancelled, Reclaim, Reclaimed, Renew, Revoke, Revoked, Superseded

_QUEUED = (State.WAITING, State.READY)


@dataclass(frozen=True, slots=True)
class LeasesDue:
    """The earliest lease of this manager's work may have ended."""

    manager: NodeId


class Terms:
    """Leases and withdrawals. `reattaching`: workers may still come back, so nothing unknown is answered for yet."""

    def __init__(
        self,
        directory: Directory,
        deadlines: Deadlines,
        limits: WorkLimits,
        holdings: Holdings,
        slots: Slots,
        reports: Reports,
        running: Running,
    ) -> None:
        self._directory = directory
        self._deadlines = deadlines
        self._grace_ms = int(limits.adopt_grace_s * 1000)
        self._asks_max = limits.asks_max
        self._holdings = holdings
        self._slots = slots
        self._reports = reports
        self._running = running
        self._reclaims: dict[TaskId, tuple[NodeId, Fence]] = {}
        self.reattaching = False
        self.lapsed = 0
        self.inputs: dict[type, Any] = {
            Renew: self._on_renew,
            LeasesDue: self._expire_leases,
            Revoke: self._on_revoke,
            Cancel: self._on_cancel,
            Superseded: self._on_superseded,
            Reclaim: self._on_reclaim,
            StopOverdue: self._expire_stop,
        }

    # ---- leases

    def watch(self, pair: HeldFor, lease_end_ms: int) -> None:
        """Have the lease looked at when it may end. One check per manager: it is moved only to an earlier time."""
        if not pair.lease_check_ms or lease_end_ms < pair.lease_check_ms:
            pair.lease_check_ms = lease_end_ms
            self._deadlines.set(LeasesDue(pair.manager), lease_end_ms / 1000)

    def extend(self, now_s: float, holding: Holding, lease_end_ms: int, out: list[Any]) -> bool:
        """A lease only ever grows. True if the handler's worker should be told."""
        if lease_end_ms <= holding.lease_end_ms:
            return False
        holding.lease_end_ms = lease_end_ms
        if holding.state is State.WAITING:
            self._running.offer(now_s, holding, out)
            return False
        return holding.state is State.RUNNING

    def _extend_all(self, now_s: float, holdings: Iterable[Holding], lease_end_ms: int, out: list[Any]) -> None:
        told: dict[int, list[tuple[TaskId, Fence, int]]] = {}
        for holding in holdings:
            self.watch(self._holdings.by_manager[holding.manager], lease_end_ms)
            if self.extend(now_s, holding, lease_end_ms, out):
                worker = self._slots.runs[holding.task].worker.worker
                told.setdefault(worker, []).append((holding.task, holding.fence, lease_end_ms))
        out.extend(Extend(worker, tuple(items), need=Need.FREE) for worker, items in told.items())

    def _on_renew(self, now_s: float, manager: NodeId, renew: Renew) -> list[Any]:
        if renew.echo_ms > int(now_s * 1000):
            return [Refused("future_stamp", manager)]
        out: list[Any] = []
        held = []
        for task, fence in renew.items:
            holding = self._mine(manager, task, out)
            if holding is None or holding.fence != fence:
                out.append(Refused("renew_unknown", manager))
            else:
                held.append(holding)
        self._extend_all(now_s, held, renew.echo_ms + renew.grant_ms, out)
        return out

    def _expire_leases(self, now_s: float, _me: NodeId, due: LeasesDue) -> list[Any]:
        pair = self._holdings.by_manager.get(due.manager)
        if pair is None:
            return []
        out: list[Any] = []
        # The deadline is at a whole millisecond turned into a float: half a millisecond decides nothing but the rounding.
        now_ms = int(now_s * 1000 + 0.5)
        pair.lease_check_ms = 0
        earliest = 0
        for holding in list(pair.tasks.values()):
            if holding.state in (State.ENDED, State.GONE):
                continue
            next_ms = holding.lease_end_ms
            if next_ms <= now_ms:
                next_ms = self._lapse(now_s, now_ms, holding, out)
            if next_ms and (not earliest or next_ms < earliest):
                earliest = next_ms
        if earliest:
            self.watch(pair, earliest)
        self._holdings.forget_idle(pair)
        return out

    def _lapse(self, now_s: float, now_ms: int, holding: Holding, out: list[Any]) -> int:
        """The lease has ended. Returns when to look again; 0: never."""
        over_ms = holding.lease_end_ms + self._grace_ms
        if over_ms > now_ms:
            self.lapsed += 1
            if holding.state is State.READY:
                self._slots.move(holding, State.WAITING)
            return over_ms
        if holding.state in _QUEUED:
            self._reports.release(now_s, holding, "abandoned", out)
        elif holding.state is State.RUNNING:
            self._running.stop(now_s, self._slots.runs[holding.task], "abandoned", out)
        return 0

    # ---- withdrawals

    def may_speak(self, manager: NodeId, task: TaskId) -> bool:
        """Whether `manager` may take this task away, claim it or award it anew: who has it held, or who took over from him."""
        holding = self._holdings.by_task.get(task)
        if holding is None:
            return self._directory.may_manage(task, manager)
        return holding.manager == manager or self._directory.succeeds(holding.manager, manager)

    def _mine(self, manager: NodeId, task: TaskId, out: list[Any]) -> Holding | None:
        """The holding of `task` if `manager` may speak about it."""
        holding = self._holdings.by_task.get(task)
        if holding is not None and holding.manager != manager:
            out.append(Refused("not_manager", manager))
            return None
        return holding

    def withdraw(self, now_s: float, holding: Holding, reason: str, out: list[Any]) -> None:
        """Forget it without a word to the manager; its handler is told to stop and keeps its slot until it has."""
        if holding.state is State.RUNNING:
            self._running.stop(now_s, self._slots.runs[holding.task], reason, out)
        self._reports.forget(holding, out)

    def disown(self, now_s: float, manager: NodeId, out: list[Any]) -> None:
        """A manager was revoked: all that is held for him ends at once, and nothing of it is said. "": for whomever it is held."""
        for pair in [pair for pair in self._holdings.by_manager.values() if manager in ("", pair.manager)]:
            pair.accepts, pair.durable_accepts = [], []
            for holding in list(pair.tasks.values()):
                if (run := self._slots.runs.get(holding.task)) is not None:
                    run.answers.clear()
                self._reclaims.pop(holding.task, None)
                self.withdraw(now_s, holding, "revoked", out)

    def _on_revoke(self, now_s: float, manager: NodeId, revoke: Revoke) -> list[Any]:
        out: list[Any] = []
        said: list[tuple[TaskId, Fence]] = []
        durable = False
        for task, fence in revoke.items:
            if not self.may_speak(manager, task):
                out.append(Refused("not_manager", manager))
                continue
            holding = self._holdings.by_task.get(task)
            if holding is not None and holding.fence <= fence:
                durable = durable or holding.durable
                if holding.state is State.RUNNING:
                    self._stop_for(now_s, self._slots.runs[task], "revoked", manager, fence, out)
                    continue
                if holding.state is State.ENDED:
                    self._reports.send(now_s, holding, out)
                elif holding.state is State.RECOVERED and self.reattaching:
                    out.append(Refused("not_ready", manager))
                    continue
                else:
                    self._reports.forget(holding, out)
            self._holdings.see(task, fence)
            run = self._slots.runs.get(task)
            if run is not None and run.fence <= fence:
                self._stop_for(now_s, run, "revoked", manager, fence, out)
            elif task not in self._slots.strays:
                said.append((task, fence))
        if said:
            out.append(Send(manager, Revoked(tuple(said)), need=need_of(durable)))
        return out

    def _on_cancel(self, now_s: float, manager: NodeId, cancel: Cancel) -> list[Any]:
        out: list[Any] = []
        said: list[tuple[TaskId, Fence]] = []
        durable = False
        for task, fence in cancel.items:
            if not self.may_speak(manager, task):
                out.append(Refused("not_manager", manager))
                continue
            holding = self._holdings.by_task.get(task)
            if holding is not None and holding.fence <= fence:
                durable = durable or holding.durable
                if holding.state is State.RUNNING:
                    self._stop_for(now_s, self._slots.runs[task], "cancelled", manager, fence, out)
                    continue
                if holding.state is not State.ENDED:
                    self.cancelled(now_s, holding, out)
            self._holdings.see(task, fence)
            said.append((task, fence))
        if said:
            out.append(Send(manager, Cancelled(tuple(said)), need=need_of(durable)))
        return out

    def _stop_for(self, now_s: float, run: Run, kind: str, manager: NodeId, fence: Fence, out: list[Any]) -> None:
        if (kind, manager, fence) not in run.answers:
            run.answers.append((kind, manager, fence))
        self._running.stop(now_s, run, kind, out)

    def cancelled(self, now_s: float, holding: Holding, out: list[Any]) -> None:
        """Close a cancelled holding: its end is known and nothing is owed."""
        if holding.durable:
            out.append(Append(Ended(holding.task, holding.fence, "cancelled", at_ms=int(now_s * 1000))))
        self._reports.forget(holding, out)

    def answer(self, run: Run, kinds: tuple[str, ...], out: list[Any]) -> None:
        """Say what was promised for the end of `run`."""
        for kind, manager, fence in run.answers:
            if kind in kinds:
                items = ((run.task, fence),)
                self._holdings.see(run.task, fence)
                out.append(Send(manager, Revoked(items) if kind == "revoked" else Cancelled(items), need=need_of(run.durable)))
        run.answers = [answer for answer in run.answers if answer[0] not in kinds]

    def _on_superseded(self, now_s: float, manager: NodeId, superseded: Superseded) -> list[Any]:
        out: list[Any] = []
        for task, fence in superseded.items:
            holding = self._mine(manager, task, out)
            if holding is not None and holding.fence <= fence:
                self.withdraw(now_s, holding, "superseded", out)
        return out

    def _expire_stop(self, now_s: float, _me: NodeId, due: StopOverdue) -> list[Any]:
        """The handler does not stop: a cancellation is answered without it; newer work of the same task goes elsewhere."""
        run = self._slots.runs.get(due.task)
        if run is None or run.fence != due.fence:
            return []
        out: list[Any] = []
        holding = self._holdings.by_task.get(due.task)
        if any(kind == "cancelled" for kind, _, _ in run.answers):
            if holding is not None and holding.fence == run.fence and holding.state is State.RUNNING:
                self.cancelled(now_s, holding, out)
            self.answer(run, ("cancelled",), out)
        elif run.stopping == STUCK:
            self._running.give_up(now_s, run, stuck_error(run), out)
        elif holding is not None and holding.fence != run.fence and holding.state is State.WAITING:
            self._reports.release(now_s, holding, "still_running", out)
        return out

    # ---- after a restart, his or ours

    def _on_reclaim(self, now_s: float, manager: NodeId, reclaim: Reclaim) -> list[Any]:
        out: list[Any] = []
        future = reclaim.echo_ms > int(now_s * 1000)
        if future:
            out.append(Refused("future_stamp", manager))
        held: list[Holding] = []
        for task, fence in reclaim.items:
            if not self.may_speak(manager, task):
                out.append(Refused("not_manager", manager))
                continue
            holding = self._holdings.by_task.get(task)
            if holding is not None and holding.manager != manager:
                self._rehome(now_s, holding, manager)
            if holding is not None and holding.fence == fence:
                held.append(holding)
            elif holding is not None and holding.fence < fence:
                self.withdraw(now_s, holding, "superseded", out)
        if not future:
            self._extend_all(now_s, held, reclaim.echo_ms + reclaim.grant_ms, out)
        for task, fence in reclaim.items:
            if self.may_speak(manager, task):
                self._reclaimed(now_s, manager, task, fence, out)
        return out

    def _rehome(self, now_s: float, holding: Holding, manager: NodeId) -> None:
        """Its manager is gone, and this one has taken over: it hears of it from now on, and nothing is begun again."""
        pair = self._holdings.rehome(holding, manager)
        self._directory.homes[holding.task] = manager
        self._reports.watch(now_s, pair)
        self.watch(pair, holding.lease_end_ms)

    def _reclaimed(self, now_s: float, manager: NodeId, task: TaskId, fence: Fence, out: list[Any]) -> None:
        """Answer for one task, or remember the question until its worker has come back."""
        holding = self._holdings.by_task.get(task)
        if holding is not None and holding.fence == fence and holding.state is not State.RECOVERED:
            ended = holding.state is State.ENDED
            out.append(Send(manager, Reclaimed(((task, fence, "result" if ended else "running"),)), need=need_of(holding.durable)))
            if ended:
                self._reports.send(now_s, holding, out)
        elif (self.reattaching or task in self._slots.strays) and len(self._reclaims) < self._asks_max:
            self._reclaims[task] = (manager, fence)
        else:
            self._holdings.see(task, fence)
            out.append(Send(manager, Reclaimed(((task, fence, "unknown"),)), need=Need.FREE))

    def settle_reclaims(self, now_s: float, tasks: Iterable[TaskId], out: list[Any]) -> None:
        """What is known about `tasks` has changed: answer what was asked about them."""
        for task in tasks:
            asked = self._reclaims.pop(task, None)
            if asked is not None:
                self._reclaimed(now_s, asked[0], task, asked[1], out)

    def open_reclaims(self) -> list[TaskId]:
        return list(self._reclaims)
