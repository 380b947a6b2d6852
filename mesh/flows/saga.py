"""Undoing what was done, when a flow fails: the compensations of what its steps committed, the last step first.

    a step with `compensate` ends --commit/N on record--> ... the flow fails --> NAME/undo for each piece of its work, the last one first

Invariant: each is undone once, as a step of its own under its own name, so a driver that dies goes on where it was. The order is that of
the record: when each step's work ended, as its manager has it. Of what ended in the same millisecond the places decide: place N is an
effect of the flow's task, whose outcome is the step that was heard of N-th; a later attempt reads the places that are filled, and fills the
next ones. Of a map the last item is undone first, of a loop the last turn. A compensation that fails for good does not keep the others from
being done.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from mesh import Context
from mesh.flows.spec import Step

RETRIES = 5
"""Tries of a compensation, where its step says nothing of retries: what is not undone costs a person's time."""


@dataclass(frozen=True, slots=True)
class Committed:
    """One piece of work that is done and can be undone. `seen`, `item`, `index` are what its expressions saw."""

    name: str
    step: Step
    arguments: dict[str, Any]
    seen: int
    item: Any
    index: int | None
    result: Any
    ended_ms: int = 0
    """When: of two pieces of work that are known to have ended, the one that ended later is undone first."""


class Saga:
    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        self._committed: dict[str, list[Committed]] = {}
        self._order: list[str] = []
        self._lock = asyncio.Lock()

    async def committed(self, step: str, works: list[Committed]) -> None:
        """Put it on record that `step` has ended, having done these: after whatever was put there before."""
        self._committed[step] = sorted(works, key=lambda work: work.index or 0)
        async with self._lock:
            while step not in self._order:
                self._order.append(await self._ctx.effect(f"commit/{len(self._order) + 1}", self._next))

    async def _next(self) -> str:
        """The step that is known to have ended and has no place yet, the oldest first: dicts keep their order."""
        return next(step for step in self._committed if step not in self._order)

    def to_undo(self) -> list[Committed]:
        """The last one first: by the ends that are on record, which a driver that takes over may hear in another order; then by place."""
        steps = sorted(self._order, key=lambda step: max((work.ended_ms for work in self._committed[step]), default=0))
        return [work for step in reversed(steps) for work in reversed(self._committed[step])]
