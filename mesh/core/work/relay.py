"""Streams on their way through the contractor's node: items from the worker to the manager, and his word of what was taken back.

Keeps nothing: the worker has every item until it is taken, and the manager asks again for what did not come. Invariant: only the worker
that runs the task under its fence sends, and only the task's manager speaks for the reader.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mesh.core.inputs import HandlerItems
from mesh.core.work.holdings import Holdings, State
from mesh.core.work.slots import Slots
from mesh.effects import Credit, Need, Refused, Send
from mesh.ids import NodeId
from mesh.messages.work import Items, Taken


class Relay:
    def __init__(self, holdings: Holdings, slots: Slots) -> None:
        self._holdings, self._slots = holdings, slots
        self.inputs: dict[type, Any] = {HandlerItems: self._do_items, Taken: self._on_taken}

    def _do_items(self, now_s: float, _me: NodeId, made: HandlerItems) -> Iterator[Any]:
        run, holding = self._slots.runs.get(made.task), self._holdings.by_task.get(made.task)
        if run is None or run.fence != made.fence or run.worker.worker != made.worker:
            yield Refused("unknown_handler")
            return
        run.heard_s = now_s
        if holding is not None and holding.fence == made.fence and holding.stream and holding.state is State.RUNNING:
            yield Send(holding.manager, Items(made.task, made.fence, made.first, made.items, made.last), need=Need.FREE)

    def _on_taken(self, _now_s: float, manager: NodeId, taken: Taken) -> Iterator[Any]:
        run, holding = self._slots.runs.get(taken.task), self._holdings.by_task.get(taken.task)
        if holding is not None and holding.manager != manager:
            yield Refused("not_manager", manager)
        elif run is not None and holding is not None and run.fence == holding.fence == taken.fence:
            yield Credit(run.worker.worker, taken.task, taken.fence, taken.upto, taken.again, need=Need.FREE)
