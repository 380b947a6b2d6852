"""What a node's machine has and what runs there hold of it: GPUs, memory, licences; counted in thousandths, so that halves add up.

    workers say what the machine has --the largest figure of each counts--> total
    a run begins --take--> held --give, when its handler has ended--> free

Invariant: what is held never exceeds the total because of a run that began here (a worker may take its word back while others run). Two
workers that name the same resource mean the same one. `closed`: after a restart it is not known yet what earlier runs hold, so none that
needs anything begins. Counts only: who waits for what is in `slots.py`.
"""

from __future__ import annotations

from collections.abc import Iterable

Needs = tuple[tuple[str, int], ...]
"""``(name, thousandths)``, each name once."""


class Resources:
    def __init__(self) -> None:
        self._total: dict[str, int] = {}
        self._held: dict[str, int] = {}
        self.closed = False

    def state(self, stated: Iterable[Needs]) -> None:
        """What all workers together say, anew."""
        self._total = {}
        for resources in stated:
            for name, amount in resources:
                self._total[name] = max(amount, self._total.get(name, 0))

    def take(self, needs: Needs) -> None:
        for name, amount in needs:
            self._held[name] = self._held.get(name, 0) + amount

    def give(self, needs: Needs) -> None:
        for name, amount in needs:
            self._held[name] -= amount
            if not self._held[name]:
                del self._held[name]

    def most(self, needs: Needs) -> int:
        """How many such runs the whole machine has room for."""
        return min((self._total.get(name, 0) // amount for name, amount in needs), default=0)

    def more(self, needs: Needs) -> int:
        """How many could begin now."""
        if self.closed:
            return 0
        free = ((self._total.get(name, 0) - self._held.get(name, 0)) // amount for name, amount in needs)
        return max(0, min(free, default=0))

    def rows(self) -> tuple[tuple[str, int, int], ...]:
        """``(name, held, total)``, by name."""
        names = sorted(self._total.keys() | self._held.keys())
        return tuple((name, self._held.get(name, 0), self._total.get(name, 0)) for name in names)

    def __bool__(self) -> bool:
        return bool(self._total or self._held)


def greatest(needs: Iterable[Needs]) -> Needs:
    """Of each resource the largest amount: what a run that is not known may hold."""
    found: dict[str, int] = {}
    for each in needs:
        for name, amount in each:
            found[name] = max(amount, found.get(name, 0))
    return tuple(sorted(found.items()))
