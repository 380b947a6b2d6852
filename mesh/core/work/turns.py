"""Whose turn it is among those who wait: by priority, and among equals by who has had least.

    rank (priority, share) --> level of its priority, one higher for each `age_s` that it was passed over --the highest-->
                           --> the share key that has had least of the work --its first; what was given back before what is new-->

Invariant: of every priority that waits somebody gets a turn before `age_s` has passed 9 times, whatever else comes; within a level what two
share keys have had since both wait differs by no more than one piece of work of each. The table of keys is bounded: those beyond it take
their turns as one. Decides nothing about where.
Source: start-time fair queueing (Goyal, Vin, Cheng 1996): stride scheduling (Waldspurger 1995) where newcomers begin at the present.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Generic, Protocol, TypeVar

from mesh.ids import PRIORITY_DEFAULT, PRIORITY_MAX, PRIORITY_MIN, SHARE_CHARS_MAX, Rank, TaskId

OTHERS = "\n"
"""Under which the keys beyond the table take their turns: no key that a user can give."""


Turn = tuple[int, str]
"""Where it stands in its line: at which level, under which key of the table."""

NO_TURN: Turn = (0, "")


class Waiting(Protocol):
    """What waits. `turn` is set by its line. `aged`: so many levels has it risen by waiting, in the lines before this one too."""

    rank: Rank
    turn: Turn
    aged: int


Item = TypeVar("Item", bound=Waiting)


class Shares:
    """What each share key has had, in milliseconds of work; who comes anew counts as having had what the others have."""

    def __init__(self, keys_max: int) -> None:
        self._keys_max = keys_max
        self._had: dict[str, float] = {}
        self._waiting: dict[str, int] = {}
        self._present = 0.0
        """What the key that had the newest turn had had before it."""

    def had(self, turn: str) -> float:
        return self._had.get(turn, self._present)

    def join(self, share: str) -> str:
        """Something of that key begins to wait: the key of the table under which it does."""
        turn = share[:SHARE_CHARS_MAX]
        if turn not in self._had and len(self._had) >= self._keys_max and not self._make_room():
            turn = OTHERS
        waiting = self._waiting.get(turn, 0)
        if not waiting:
            self._had[turn] = max(self.had(turn), self._present)
        self._waiting[turn] = waiting + 1
        return turn

    def _make_room(self) -> bool:
        """The key of which nothing waits and that has had least goes: it is the least different from a new one."""
        idle = min((turn for turn in self._had if turn not in self._waiting), key=self.had, default=None)
        if idle is not None:
            del self._had[idle]
        return idle is not None

    def leave(self, turn: str) -> None:
        """It does not wait any more."""
        self._waiting[turn] -= 1
        if not self._waiting[turn]:
            del self._waiting[turn]

    def charge(self, turn: str, cost_ms: float) -> None:
        """A turn was given, which is expected to take so long."""
        had = self._had.get(turn)
        if had is not None:
            self._present = max(self._present, had)
            self._had[turn] = had + cost_ms

    def correct(self, turn: str, by_ms: float) -> None:
        """It took so much more than expected, or less."""
        if turn in self._had:
            self._had[turn] += by_ms

    def __len__(self) -> int:
        return len(self._had)


class _Flow(Generic[Item]):
    """What waits of one priority and key. Ordered dictionaries find their first at once, however many before it are gone."""

    __slots__ = ("back", "fresh")

    def __init__(self) -> None:
        self.back: OrderedDict[TaskId, Item] = OrderedDict()
        """Given back, or lost elsewhere."""
        self.fresh: OrderedDict[TaskId, Item] = OrderedDict()

    def first(self) -> Item:
        return next(iter((self.back or self.fresh).values()))


class _Level(Generic[Item]):
    __slots__ = ("flows", "since_s")

    def __init__(self) -> None:
        self.flows: dict[str, _Flow[Item]] = {}
        self.since_s: float | None = None
        """When its last turn was, or it was first passed over."""

    def flow(self, shares: Shares) -> _Flow[Item]:
        """Of the key whose turn it is."""
        if len(self.flows) == 1:
            return next(iter(self.flows.values()))
        return self.flows[min(self.flows, key=lambda turn: (shares.had(turn), turn))]


class Turns(Generic[Item]):
    """One line: those who wait for the same thing."""

    __slots__ = ("_age_s", "_count", "_levels", "_shares")

    def __init__(self, shares: Shares, age_s: float) -> None:
        self._shares, self._age_s = shares, age_s
        self._levels: dict[int, _Level[Item]] = {}
        self._count = 0

    def add(self, name: TaskId, item: Item, *, back: bool = False) -> None:
        """`back`: before those of its rank that are new."""
        priority, key = item.turn = _level_of(item), self._shares.join(item.rank[1])
        level = self._levels.setdefault(priority, _Level())
        flow = level.flows.setdefault(key, _Flow())
        (flow.back if back else flow.fresh)[name] = item
        self._count += 1

    def stands(self, name: TaskId, item: Item) -> bool:
        """Whether it waits here."""
        level = self._levels.get(item.turn[0])
        flow = level.flows.get(item.turn[1]) if level is not None else None
        return flow is not None and (name in flow.fresh or name in flow.back)

    def remove(self, name: TaskId, item: Item) -> None:
        """If it stands in line."""
        priority, key = item.turn
        level = self._levels.get(priority)
        flow = level.flows.get(key) if level is not None else None
        if level is None or flow is None or (flow.back.pop(name, None) is None and flow.fresh.pop(name, None) is None):
            return
        self._count -= 1
        self._shares.leave(key)
        if not flow.back and not flow.fresh:
            del level.flows[key]
            if not level.flows:
                del self._levels[priority]

    def first(self, now_s: float) -> Item | None:
        """Whose turn it is."""
        level = self._level(now_s)
        if level is None:
            return None
        item = level.flow(self._shares).first()
        item.aged = max(item.aged, self._raised(item.turn[0], level, now_s) - _priority(item))
        return item

    def first_that(self, now_s: float, fits: Callable[[Item], bool]) -> Item | None:
        """Whose turn it is of those that fit. Looks at all of them, one after another."""
        for _, level in sorted(self._levels.items(), key=lambda pair: (-self._raised(pair[0], pair[1], now_s), pair[0])):
            for _, flow in sorted(level.flows.items(), key=lambda pair: (self._shares.had(pair[0]), pair[0])):
                for item in (*flow.back.values(), *flow.fresh.values()):
                    if fits(item):
                        item.aged = max(item.aged, self._raised(item.turn[0], level, now_s) - _priority(item))
                        return item
        return None

    def height_of(self, now_s: float, item: Item) -> int:
        """Its priority, raised by how long that was passed over; of one that does not wait here, what it would be."""
        priority = item.turn[0] or _level_of(item)
        level = self._levels.get(priority)
        return self._raised(priority, level, now_s) if level is not None else priority

    def height(self, now_s: float) -> int:
        """Of the first: its priority, raised by how long that was passed over; 0: nobody waits."""
        return max((self._raised(priority, level, now_s) for priority, level in self._levels.items()), default=0)

    def _level(self, now_s: float) -> _Level[Item] | None:
        if len(self._levels) <= 1:
            return next(iter(self._levels.values()), None)
        return self._levels[max(self._levels, key=lambda priority: (self._raised(priority, self._levels[priority], now_s), -priority))]

    def _raised(self, priority: int, level: _Level[Item], now_s: float) -> int:
        if level.since_s is None:
            level.since_s = now_s
        return priority + int((now_s - level.since_s) / self._age_s)

    def took(self, now_s: float, item: Item) -> None:
        """It had its turn: its level is not passed over."""
        level = self._levels.get(item.turn[0])
        if level is not None:
            level.since_s = now_s

    def __iter__(self) -> Iterator[Item]:
        """All, the highest priority first, each key's in their order."""
        for priority in sorted(self._levels, reverse=True):
            for flow in self._levels[priority].flows.values():
                yield from flow.back.values()
                yield from flow.fresh.values()

    def __len__(self) -> int:
        return self._count


def _priority(item: Waiting) -> int:
    """As it counts: what is not said is the middle, what is out of range the nearest in it."""
    return _within(item.rank[0] or PRIORITY_DEFAULT)


def _level_of(item: Waiting) -> int:
    return _within(_priority(item) + max(0, item.aged))


def _within(priority: int) -> int:
    return min(PRIORITY_MAX, max(PRIORITY_MIN, priority))
