"""The handler that is the office: one task over the whole mesh, run by whoever was awarded it.

    asked_of --rows--> decide: the terms of its rule, a function of the user's --> checkpoint: on record, under this fence --> said

Invariant: what is admitted is on record with the office's manager before anybody hears of it; who was replaced cannot put it there, so his
word is never given. Holds nothing that others need: whoever takes over finds the books in the checkpoint, and is asked again what waits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from mesh import Agent, Context
from mesh.coordinating import Asked, Decision, asked_of
from mesh.coordinator.books import Books
from mesh.ids import COORDINATE

Document = dict[str, Any]
Decide = Callable[[Document], "bool | str | Awaitable[bool | str | None] | None"]
"""Of one row ``{"rule", "capability", "arguments", "task", "origin", ...}``: True admits, a text refuses (and why), None: later."""

SWITCH = "switch"
"""The signal by which people pause and resume it."""
STALE_S = 3.0
"""What its manager has not asked again for so long waits no more."""
POLL_S = 1.0
SOON_S = 0.2
"""While something waits for room."""
DECISIONS_MAX = 500
"""At once; the rest follow."""
KEPT_S = 2.0
"""What people see of it is at most so old."""


def coordinator(decide: Decide | None = None, *, name: str = "coordinator") -> Agent:
    """The agent. `decide` has the last word on what the terms of a rule let pass; without it that is admitted."""
    agent = Agent(name, concurrency=4)

    @agent.capability(name=COORDINATE, idempotent=True)
    async def coordinate(ctx: Context, generation: int = 1) -> Document:
        """The office of coordinator: it ends only when it is cancelled, and is then begun anew."""
        await _Office(ctx, generation, decide).run()
        return {}

    return agent


class _Office:
    def __init__(self, ctx: Context, generation: int, decide: Decide | None) -> None:
        self._ctx, self._generation, self._decide = ctx, generation, decide
        self._books = Books()
        self._now_s = 0.0
        self._waits: dict[str, tuple[Document, float]] = {}
        """By gate: what was asked, and when last."""
        self._kept_at_s = 0.0
        self._kept: Document = {}

    async def run(self) -> None:
        self._now_s = (await asked_of(self._ctx, self._generation, [], 0)).now_s
        self._books = Books(self._ctx.checkpointed, self._now_s)
        switch = asyncio.ensure_future(self._switched())
        try:
            said: list[Decision] = []
            while True:
                asked = await asked_of(self._ctx, self._generation, said, SOON_S if self._waits and not self._books.paused else POLL_S)
                self._note(asked)
                if switch.done():
                    self._books.paused = switch.result() == "pause"
                    switch = asyncio.ensure_future(self._switched())
                said = await self._decided()
                await self._keep(bool(said))
        finally:
            switch.cancel()

    async def _switched(self) -> str:
        return str(await self._ctx.signal(SWITCH))

    def _note(self, asked: Asked) -> None:
        now_s = self._now_s = asked.now_s
        self._books.saw(now_s, asked.held)
        for row in asked.rows:
            self._waits[row["gate"]] = (row, now_s)
        self._waits = {gate: one for gate, one in self._waits.items() if now_s - one[1] < STALE_S}

    async def _decided(self) -> list[Decision]:
        found: list[Decision] = []
        if self._books.paused:
            return found
        for gate, (row, _) in list(self._waits.items()):
            if len(found) >= DECISIONS_MAX:
                break
            why: bool | str | None = self._books.room(self._now_s, row)
            if why == "full":
                continue
            if not why:
                why = await self._asked(row)
                if why is None:
                    continue
            if why is True:
                self._books.admit(self._now_s, row)
            else:
                self._books.refused += 1
            del self._waits[gate]
            found.append(Decision(row, why is True, "" if why is True else str(why or "not admitted")))
        return found

    async def _asked(self, row: Document) -> bool | str | None:
        if self._decide is None:
            return True
        try:
            said = self._decide(row)
            return await said if isinstance(said, Awaitable) else said
        except Exception as error:  # noqa: BLE001  it is the user's: what it fails at waits, and everything else goes on
            self._ctx.log(f"the function that decides failed, so this waits: {row['capability']} of {row['task']}: {error!r}")
            return None

    async def _keep(self, said: bool) -> None:
        """Before anything is said; and now and then, for whoever looks."""
        now_s, kept = self._now_s, self._books.kept(len(self._waits))
        if said or (kept != self._kept and now_s - self._kept_at_s > KEPT_S) or not self._kept_at_s:
            await self._ctx.checkpoint(kept)
            self._kept, self._kept_at_s = kept, now_s


agent = coordinator()
