"""Undoing what was done, when a flow fails: the compensations of the steps that committed, the last one first.

    a step with `compensate` commits --commit/N on record--> ... the flow fails --> NAME/undo for each, from the last to the first

Invariant: each is undone once, as a step of its own under its own name, so a driver that dies goes on where it was. The order is that of
the record: place N is an effect of the flow's task, whose outcome is the name that committed N-th; a later attempt reads the places that
are filled, and fills the next ones. A compensation that fails for good does not keep the others from being done.
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


class Saga:
    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        self._committed: dict[str, Committed] = {}
        self._order: list[str] = []
        self._lock = asyncio.Lock()

    async def committed(self, work: Committed) -> None:
        """Put it on record, after whatever was put there before."""
        self._committed[work.name] = work
        async with self._lock:
            while work.name not in self._order:
                self._order.append(await self._ctx.effect(f"commit/{len(self._order) + 1}", self._next))

    async def _next(self) -> str:
        """The work that is known to be done and has no place yet, the oldest first: dicts keep their order."""
        return next(name for name in self._committed if name not in self._order)

    def to_undo(self) -> list[Committed]:
        """The last one first."""
        return [self._committed[name] for name in reversed(self._order)]
