"""Slots that are free while their handlers wait for work of their own: the node hears of it, but not of waits that are over at once.

    lend --LENT_AFTER_S, if it still waits--> waits True        take --if the node was told--> waits False

Invariant: the node is told the opposite of what it was told last. Does not start what is queued for the slot: the runner does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mesh.runs import Clock, Run

LENT_AFTER_S = 0.02
"""Who waits is looked at this often: of most calls, which are over sooner, the node need not hear that a slot is free meanwhile."""


class Lending:
    """`out` gets the `waits` items."""

    def __init__(self, out: Callable[[str, list[Any]], None], clock: Clock) -> None:
        self._out, self._clock = out, clock
        self._lenders: dict[Run, None] = {}
        """Those whose slot has been free for a moment, and the node does not know yet."""
        self._looking = False

    def lend(self, run: Run) -> bool:
        """It waits for one more piece of work. True: its slot is free from now on."""
        run.works += 1
        if run.works > 1:
            return False
        self._lenders[run] = None
        if not self._looking:
            self._looking = True
            self._clock.call_later(LENT_AFTER_S, self._look)
        return True

    def take(self, run: Run) -> bool:
        """One of those is over. True: its slot is taken again."""
        run.works -= 1
        if run.works:
            return False
        self._lenders.pop(run, None)
        if run.lent and not run.over:
            self._say(run, False)
        return True

    def again(self, run: Run) -> None:
        """Say it to a node that has not heard it."""
        if run.works:
            self._say(run, True)

    def _look(self) -> None:
        self._looking = False
        lenders, self._lenders = self._lenders, {}
        for run in lenders:
            self._say(run, True)

    def _say(self, run: Run, lent: bool) -> None:
        run.lent = lent
        self._out("waits", [run.task, run.fence, lent])
