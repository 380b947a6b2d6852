"""Streaming calls: their manager between the handlers that make items and the readers on this machine.

    StreamNext (taken so far) --> items that are here, at once, or when they come        ITEMS --> received, if they are the next
         '--> TAKEN to the holder, a quarter of the window at a time                         '--> a gap, or silence: TAKEN again

Invariant: see `stream.py`; what is buffered is bounded, whatever a contractor sends. A stream is a plain call: it ends with its reader.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mesh.core.inputs import StreamNext
from mesh.core.work.book import Book, Effects
from mesh.core.work.leases import Leases
from mesh.core.work.stream import Stream, over
from mesh.core.work.task import HELD, OFFERED, Task
from mesh.effects import Need, Refused, Send
from mesh.ids import NodeId, TaskId
from mesh.messages.work import Items, Taken

AGAIN_S = 0.05
"""A gap shows in every later piece: it is asked for once in this time."""


@dataclass(frozen=True, slots=True)
class StreamsDue:
    """Look for readers who wait in silence."""


class Streams:
    def __init__(self, book: Book, leases: Leases) -> None:
        self._book, self._leases = book, leases
        self._open: dict[TaskId, Task] = {}
        self._watching = False
        self.inputs: dict[type, Any] = {StreamNext: self._do_next, Items: self._on_items, StreamsDue: self._expire}

    def open(self, now_s: float, task: Task) -> None:
        task.stream = Stream()
        self._open[task.id] = task
        self._watch(now_s)

    def _watch(self, now_s: float) -> None:
        if not self._watching:
            self._watching = True
            self._book.deadlines.set(StreamsDue(), now_s + self._book.limits.stream_repeat_s)

    # ---- the reader

    def _do_next(self, _now_s: float, _me: NodeId, wanted: StreamNext) -> Effects:
        task = self._book.requests.get(wanted.of)
        stream = task.stream if task is not None else None
        if task is None or stream is None:
            yield over(wanted.request)
            return
        stream.waiter = wanted.request
        if wanted.epoch == stream.epoch:
            stream.take(wanted.after)
            yield from self._tell(task, stream)
        if stream.items or wanted.epoch != stream.epoch:
            yield from stream.answer()

    def _tell(self, task: Task, stream: Stream) -> Effects:
        """A message for each item would cost more than the item: now and then is enough, and at the end."""
        limits = self._book.limits
        many = 4 * (stream.taken - stream.told) >= limits.stream_items_max or 4 * stream.taken_bytes >= limits.stream_bytes_max
        if many or (stream.taken == stream.total and stream.told < stream.taken):
            yield from self._taken(task, stream, again=False)

    def _taken(self, task: Task, stream: Stream, *, again: bool) -> Effects:
        if task.state in (OFFERED, HELD) and task.holder:
            stream.told, stream.taken_bytes = stream.taken, 0
            yield Send(task.holder, Taken(task.id, task.fence, stream.taken, again), need=Need.FREE)

    # ---- the handler

    def _on_items(self, now_s: float, sender: NodeId, made: Items) -> Effects:
        task = self._book.tasks.get(made.task)
        stream = task.stream if task is not None else None
        if task is None or stream is None or task.fence != made.fence or task.holder != sender or task.state not in (OFFERED, HELD):
            yield Refused("stale_items", sender)
            return
        if task.state == OFFERED:
            yield from self._leases.bind(now_s, task)
        for number, data in enumerate(made.items, made.first):
            if number == stream.received + 1:
                if self._full(stream, data):
                    yield Refused("stream_flood", sender)
                    return
                stream.add(data)
        if made.first > stream.received + 1:
            if stream.asked_at_s + AGAIN_S <= now_s:
                stream.asked_at_s = now_s
                yield from self._taken(task, stream, again=True)
            return
        if made.last:
            stream.total = made.first + len(made.items) - 1
        if stream.items:
            yield from stream.answer()
        yield from self._tell(task, stream)

    def _full(self, stream: Stream, data: bytes) -> bool:
        """Twice the window: what an earlier attempt had sent, and what this one may."""
        limits = self._book.limits
        too_many = len(stream.items) >= 2 * limits.stream_items_max
        return too_many or len(data) > limits.body_bytes_max or stream.bytes > 2 * (limits.stream_bytes_max + limits.body_bytes_max)

    # ---- what was lost on the way

    def linked(self, node: NodeId) -> Effects:
        for task in self._open.values():
            if task.holder == node and task.stream is not None:
                yield from self._taken(task, task.stream, again=True)

    def _expire(self, now_s: float, _me: NodeId, _due: StreamsDue) -> Effects:
        self._watching = False
        for task in list(self._open.values()):
            stream = task.stream
            if task.ended or stream is None:
                del self._open[task.id]
            elif stream.waiter < 0:
                continue
            elif stream.quiet:
                yield from self._taken(task, stream, again=True)
            else:
                stream.quiet = True
        if self._open:
            self._watch(now_s)

    def waiting(self) -> int:
        """Readers who wait for an item."""
        return sum(task.stream is not None and task.stream.waiter >= 0 for task in self._open.values())

    def __len__(self) -> int:
        return len(self._open)
