"""What this node knows of schedules: what people said of them (the greater version wins), and how far each has come.

Invariant: what is taken in twice, or in another order, gives the same table. A first look is no news to anybody: a mark that has fired
counts before one that has not, and of two that have not the earlier, so that a node which has just come hides no tick that was missed.
"""

from __future__ import annotations

from collections.abc import Container

from mesh.messages.triggers import Mark, Plan, PlanRow


class Table:
    def __init__(self, most: int) -> None:
        self._most = most
        self.rows: dict[str, PlanRow] = {}
        self.marks: dict[str, Mark] = {}

    def take_row(self, row: PlanRow) -> bool:
        """True: it is news. What is not even a tombstone's place finds none in a full table."""
        mine = self.rows.get(row.name)
        if mine is not None and (mine.version, mine.by) >= (row.version, row.by):
            return False
        if mine is None and not self._room():
            return False
        self.rows[row.name] = row
        return True

    def _room(self) -> bool:
        """Whether another name fits: of those that nobody needs any more the oldest goes."""
        if len(self.rows) < self._most:
            return True
        gone = [row for row in self.rows.values() if not row.plan and not row.paused]
        if gone:
            del self.rows[min(gone, key=lambda row: (row.since_ms, row.name)).name]
        return bool(gone)

    def take_mark(self, mark: Mark) -> bool:
        """True: it is news."""
        mine = self.marks.get(mark.name)
        newest = mark if mine is None else merged(mine, mark)
        if newest == mine or (mine is None and len(self.marks) >= self._most):
            return False
        self.marks[mark.name] = newest
        return True

    def forget(self, names: Container[str]) -> None:
        """Make room for marks: of those that are not among `names` the one that fired longest ago goes."""
        if len(self.marks) >= self._most:
            idle = [mark for name, mark in self.marks.items() if name not in names]
            if idle:
                del self.marks[min(idle, key=lambda mark: (mark.fired_ms, mark.name)).name]

    def paused(self, name: str) -> bool:
        row = self.rows.get(name)
        return row is not None and row.paused

    def plans(self) -> dict[str, Plan]:
        """Those that people added."""
        return {name: row.plan[0] for name, row in self.rows.items() if row.plan}

    def base_ms(self, name: str) -> int | None:
        """Nothing is left to do about ticks up to then. None: nobody has looked at it yet."""
        mark, row = self.marks.get(name), self.rows.get(name)
        if mark is None:
            return None
        return max(mark.upto_ms, row.since_ms if row is not None else 0)

    def changed(self, name: str, by: str, now_ms: int, *, plan: tuple[Plan, ...], paused: bool) -> PlanRow:
        """The row that says so from now on."""
        mine = self.rows.get(name)
        since_ms = mine.since_ms if mine is not None and paused else now_ms
        return PlanRow(name, mine.version + 1 if mine is not None else 1, by, plan, paused, since_ms)


def merged(one: Mark, other: Mark) -> Mark:
    """What both together say."""
    if bool(one.fired_ms) != bool(other.fired_ms):
        return one if one.fired_ms else other
    if not one.fired_ms:
        return min(one, other, key=lambda mark: mark.upto_ms)
    fired = max(one, other, key=lambda mark: (mark.fired_ms, mark.task))
    return Mark(one.name, max(one.upto_ms, other.upto_ms), fired.fired_ms, fired.task)
