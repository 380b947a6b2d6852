"""Drain: this node takes no more work, gives back what has not started, and lets end what runs.

    Drain --> closed, RELEASE what is queued --nothing held any more, or the time is over--> Reply        Drain(undo) --> open again
    Leave --> the same, for good

Invariant: each command is replied to once. What runs is not stopped: whoever asked decides what to do when its time is over. A node that
left, or was revoked, does not open again in this life.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mesh.core.deadlines import Deadlines
from mesh.core.inputs import Drain, RequestGone
from mesh.core.work.holdings import Holdings, State
from mesh.core.work.load import LoadGossip
from mesh.core.work.reports import Reports
from mesh.core.work.running import Running
from mesh.core.work.slots import Slots
from mesh.effects import Need, Reply
from mesh.ids import COORDINATE, NodeId

_QUEUED = (State.WAITING, State.READY)


@dataclass(frozen=True, slots=True)
class DrainOver:
    """Whoever waits for the drain has waited for as long as he wanted."""

    request: int


class Draining:
    """The part of the contractor that closes it."""

    def __init__(
        self, deadlines: Deadlines, holdings: Holdings, slots: Slots, load: LoadGossip, reports: Reports, running: Running
    ) -> None:
        self._deadlines, self._holdings, self._slots, self._load, self._reports = deadlines, holdings, slots, load, reports
        self._running = running
        self._waiting: dict[int, None] = {}
        self._for_good = False
        self.inputs: dict[type, Any] = {Drain: self._do_drain, DrainOver: self._expire_drain, RequestGone: self._do_request_gone}

    def shut(self) -> None:
        """Take no more in this life."""
        self._for_good = self._load.closed = True

    def close(self, now_s: float, out: list[Any]) -> None:
        """Take no more, and give back what has not started."""
        self._load.closed = True
        for holding in list(self._holdings.by_task.values()):
            if holding.state in _QUEUED:
                self._reports.release(now_s, holding, "draining", out)
            elif holding.capability == COORDINATE and (run := self._slots.runs.get(holding.task)) is not None:
                self._running.stop(now_s, run, "draining", out)  # it never ends by itself, and another is to hold it
                self._reports.release(now_s, holding, "draining", out)
        self._load.note(now_s)

    def _do_drain(self, now_s: float, _me: NodeId, drain: Drain) -> list[Any]:
        out: list[Any] = []
        if not drain.undo:
            self.close(now_s, out)
        elif not self._for_good:
            self._load.closed = False
            self._load.note(now_s)
        if drain.undo or not drain.wait_ms or self._empty():
            out.append(self._reply(drain.request))
        else:
            self._waiting[drain.request] = None
            self._deadlines.set(DrainOver(drain.request), now_s + drain.wait_ms / 1000)
        return out

    def settle(self) -> list[Any]:
        """At the end of a turn: who waits is answered when nothing is held any more, and every result is acknowledged."""
        if not self._waiting or not self._empty():
            return []
        waiting, self._waiting = self._waiting, {}
        for request in waiting:
            self._deadlines.clear(DrainOver(request))
        return [self._reply(request) for request in waiting]

    def _expire_drain(self, _now_s: float, _me: NodeId, due: DrainOver) -> list[Any]:
        return [self._reply(due.request)] if self._waiting.pop(due.request, 0) is None else []

    def _do_request_gone(self, _now_s: float, _me: NodeId, gone: RequestGone) -> list[Any]:
        """It drains on."""
        if self._waiting.pop(gone.request, 0) is None:
            self._deadlines.clear(DrainOver(gone.request))
        return []

    def _empty(self) -> bool:
        return not self._holdings.by_task and not self._slots.strays

    def _reply(self, request: int) -> Reply:
        running = len(self._slots.runs) + sum(self._slots.strays.values())
        return Reply(request, True, {"draining": self._load.closed, "running": running}, need=Need.FREE)
