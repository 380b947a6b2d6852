"""What the handlers of this node printed and logged: a ring for each attempt, in memory, and the answer to ``logs``.

    HandlerSaid --> ring (task, fence), log_bytes_max each, logs_bytes_max in all --Ask logs--> Answer: one page, oldest first

Invariant: lines are numbered over all rings of this node, so that who has read up to a number can go on from there. Of a ring that was
dropped whole, and of lines dropped at a ring's beginning, the answer says so; what ended with the node's life is gone without a trace,
and the reader, who knows from the task's manager who ran it, says that. Writes nothing to disk: what handlers print is not sealed.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from mesh.core.directory import ReadDirectory
from mesh.core.inputs import HandlerSaid
from mesh.effects import Need, Refused, Send
from mesh.ids import Fence, NodeId, TaskId
from mesh.limits import WorkLimits
from mesh.messages.work import Answer, Ask

LINE_COST_BYTES = 128
"""What a line takes in memory beside its text."""
RING_COST_BYTES = 1024
DROPPED_REMEMBERED = 4096
"""Rings that were dropped whole and can still be named."""

Line = tuple[int, int, str, str]
"""Its number, Unix time in ms, stream, text."""


@dataclass(slots=True, eq=False)
class _Ring:
    task: TaskId
    fence: Fence
    attempt: int
    agent: str
    lines: deque[Line]
    bytes: int = RING_COST_BYTES
    dropped: int = 0
    """Lines that are not here any more."""


class Logs:
    def __init__(self, directory: ReadDirectory, limits: WorkLimits) -> None:
        self._me, self._name = directory.me, directory.name_of(directory.me)
        self._limits = limits
        self._ran: dict[TaskId, Fence] = {}
        """What was started in this life: who has no ring said nothing."""
        self._rings: dict[tuple[TaskId, Fence], _Ring] = {}
        """The one written to longest ago first."""
        self._gone: dict[tuple[TaskId, Fence], None] = {}
        self._last = 0
        self.bytes = 0
        self.inputs: dict[type, Any] = {Ask: self._on_ask}

    # ---- writing

    def begin(self, task: TaskId, fence: Fence) -> None:
        """A handler is started."""
        self._ran[task] = fence
        if len(self._ran) > self._limits.ended_remembered:
            del self._ran[next(iter(self._ran))]

    def add(self, now_s: float, said: HandlerSaid, agent: str) -> None:
        """Numbers begin at the clock, which outlives this process: who has read up to one reads on after the node's restart."""
        self._last = max(self._last, int(now_s * 1000) << 20)
        key = (said.task, said.fence)
        ring = self._rings.pop(key, None)
        if ring is None:
            ring = _Ring(said.task, said.fence, said.attempt, agent, deque())
            self.bytes += ring.bytes
        self._rings[key] = ring
        ring.dropped += said.dropped
        for at_ms, stream, text in said.lines:
            self._last += 1
            ring.lines.append((self._last, at_ms, stream, text))
            self._count(ring, _cost(text))
        while ring.bytes > self._limits.log_bytes_max:
            ring.dropped += 1
            self._count(ring, -_cost(ring.lines.popleft()[3]))
        while self.bytes > self._limits.logs_bytes_max and len(self._rings) > 1:
            self._drop(next(iter(self._rings)))

    def _count(self, ring: _Ring, size: int) -> None:
        ring.bytes += size
        self.bytes += size

    def _drop(self, key: tuple[TaskId, Fence]) -> None:
        self.bytes -= self._rings.pop(key).bytes
        self._gone[key] = None
        if len(self._gone) > DROPPED_REMEMBERED:
            del self._gone[next(iter(self._gone))]

    # ---- reading

    def _on_ask(self, _now_s: float, sender: NodeId, ask: Ask) -> Iterator[Any]:
        if ask.question != "logs":
            return
        after = self._after(ask.args)
        if after is None:
            yield Refused("bad_args", sender)
            after = 0
        rows = [self._row(ask.key, after)] if not ask.key or self._knows(ask.key) else []
        yield Send(sender, Answer(ask.ask, True, json.dumps({"tasks": rows}).encode()), need=Need.FREE)

    def _after(self, args: bytes) -> int | None:
        """How far the reader has read of this node: ``{"after": {node: number}}``; None if that makes no sense."""
        try:
            after = json.loads(args)["after"][self._me]
        except (KeyError, TypeError):
            return 0
        except (ValueError, RecursionError):
            return None
        return after if type(after) is int else None

    def _knows(self, task: TaskId) -> bool:
        return task in self._ran or any(key[0] == task for key in (*self._rings, *self._gone))

    def _row(self, task: TaskId, after: int) -> dict[str, Any]:
        """Of one task its lines from the beginning on; of the whole node ("") the newest page, and then what follows it."""
        rings = [ring for ring in self._rings.values() if not task or ring.task == task]
        found = [(line, ring) for ring in rings for line in takewhile(lambda line: line[0] > after, reversed(ring.lines))]
        found.sort(key=lambda pair: pair[0][0])
        page = self._page(found, newest=not task and not after)
        return {
            "task": task,
            "node": self._me,
            "name": self._name,
            "ran": self._ran.get(task, 0),
            "attempts": [[ring.task, ring.fence, ring.attempt, ring.agent, ring.dropped] for ring in rings if task],
            "gone": [fence for gone, fence in self._gone if gone == task],
            "lines": [[number, at_ms, ring.task, ring.fence, ring.attempt, stream, text] for (number, at_ms, stream, text), ring in page],
            "after": page[-1][0][0] if page else after,
            "more": bool(page) and bool(found) and page[-1] is not found[-1],
        }

    def _page(self, found: list[tuple[Line, _Ring]], *, newest: bool) -> list[tuple[Line, _Ring]]:
        size, page = 0, list[tuple[Line, _Ring]]()
        for pair in reversed(found) if newest else found:
            size += _cost(pair[0][3])
            if page and size > self._limits.log_page_bytes:
                break
            page.append(pair)
        return page[::-1] if newest else page

    def __len__(self) -> int:
        return len(self._rings)


def _cost(text: str) -> int:
    return len(text.encode("utf-8", "replace")) + LINE_COST_BYTES
