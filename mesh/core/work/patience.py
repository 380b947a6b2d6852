"""How long work may wait for an award: its queue timeout, as its caller or the offer says.

    in line --nobody takes it, queue timeout--> failed: timeout       awarded --> its time stands still; lost, it begins anew

Invariant: only a task that waits for an award (in line, at auction, parked) fails by it. Does not bound the whole task (`ending.py`), nor a
run of the handler (the contractor does).
"""

from __future__ import annotations

from mesh.core.work.book import Book, Effects, QueuesDue
from mesh.core.work.ending import Ending
from mesh.core.work.lines import Line
from mesh.core.work.task import BIDDING, PARKED, PENDING, Task
from mesh.ids import NodeId

_WAITING = (PENDING, BIDDING, PARKED)


class Patience:
    def __init__(self, book: Book, ending: Ending) -> None:
        self._book, self._ending = book, ending

    def begin(self, now_s: float, line: Line) -> None:
        """Those that are new in this line begin to wait."""
        if not line.fresh:
            return
        offered_ms = -1
        for task in line.fresh:
            timeout_ms = task.bounds[0]
            if not timeout_ms:
                if offered_ms < 0:
                    rows = self._book.directory.offering(line.capability)
                    offered_ms = rows[0].offers[line.capability].queue_timeout_ms if rows else 0
                timeout_ms = offered_ms
            if timeout_ms and task.state in _WAITING and task not in self._book.queue_wheel:
                self._book.queue_wheel.add(task, now_s + timeout_ms / 1000, timeout_ms)

    def offers_changed(self) -> None:
        """What is waited for may have a queue timeout now: all in line are looked at as if they were new."""
        for line in self._book.lines.values():
            line.fresh = list(line.turns)

    def expire(self, now_s: float, _me: NodeId, due: QueuesDue) -> Effects:
        for task in self._book.queue_wheel.due(due.slot_ms):
            if task.state in _WAITING:
                yield from self._ending.fail(now_s, task, _waited(task))


def _waited(task: Task) -> dict[str, str]:
    message = f"nobody took {task.capability!r} within its queue timeout ({task.state}{', ' + task.reason if task.reason else ''})"
    return {"code": "timeout", "message": message, "fix": f"mesh why {task.id}"}


def out_of_reach(task: Task, left_ms: int) -> dict[str, str]:
    """The error of work that everybody who was asked declines, because it cannot end in time."""
    message = f"nobody can finish {task.capability!r} within the {left_ms / 1000:g} s that are left"
    return {"code": "timeout", "message": message, "fix": f"mesh why {task.id}"}
