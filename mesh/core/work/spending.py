"""The account of one task under a budget, and how accounts hang together: pure, in thousandths, names free.

    account of a task --above--> account of its parent --above--> ...          of each name the nearest one with a limit holds it
        used   what its handlers have spent, and all that ended below it
        limit  its own budget, held back at the holders above it from its beginning to its end
        open   what its handlers have reserved and not settled, by key

Invariants: of each name ``limit = left + reserved + spent`` at its holder, and `spent` is what was used by all that draw on it. What does
not fit into what is left is not taken; only what a call cost above its own reservation is, since it has been spent: `left` may be below
zero by that much. An end gives back what was not used, and counts what was not settled in full, since nobody knows. The same changes in the
same order give the same accounts, whether a live manager makes them or a journal tells them. Knows no messages and no entries.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from mesh.ids import AMOUNT_MAX, LABELS_MAX, TaskId, is_name
from mesh.messages.work import Amounts

CALLS, TIME_S = "calls", "time_s"
KEPT_BY_THE_MESH = (CALLS, TIME_S)
"""Steps and calls that work begins; seconds that handlers run. All other names mean what handlers say they do."""
USED_MAX = 1 << 60
"""What is beyond that is not counted: sums have to travel as one integer."""
UNNAMED = "#"
"""With it begin the keys of what a handler has not named: another attempt, which does it again, counts again."""


@dataclass(frozen=True, slots=True)
class Short:
    """What does not fit: so much of `name` was asked for, and its holder has so much left."""

    name: str
    asked: int
    holder: Account


@dataclass(slots=True)
class Watch:
    """How long this attempt has run, in milliseconds; and of a holder of seconds, how many run on its account."""

    since_ms: int = 0
    """Since when its time runs; 0: it does not."""
    ran_ms: int = 0
    waits_since_ms: int = 0
    """Since when there are steps below it, for which it waits; 0: there are none."""
    waited_ms: int = 0
    seen: bool = False
    """Its manager has seen it begin."""
    running: int = 0
    since_sum_ms: int = 0


class Account:
    __slots__ = (
        "above",
        "below",
        "closed",
        "drawn",
        "held",
        "keys",
        "limit",
        "open",
        "refused",
        "said",
        "task",
        "used",
        "watch",
    )

    def __init__(self, task: TaskId, limit: Amounts = (), above: Account | None = None) -> None:
        self.task = task
        self.limit = dict(limit)
        self.above = above
        self.below: dict[TaskId, Account] = {}
        self.used: dict[str, int] = {}
        self.drawn: dict[str, int] = {}
        """Of the names that it holds: spent here and below."""
        self.held: dict[str, int] = {}
        """The same: reserved."""
        self.open: dict[str, dict[str, int]] = {}
        self.keys: dict[str, None] = {}
        """Named by handlers and settled: counted once, whatever later attempts say."""
        self.said = (0, 0)
        """Fence and number of the newest question: questions of one attempt come one after another."""
        self.refused: Short | None = None
        """Its answer, if that was no."""
        self.watch: Watch | None = None
        """If seconds are kept for it (`meter.py`)."""
        self.closed = False
        if above is not None:
            above.below[task] = self
            for name, amount in self.limit.items():
                above._hold(name, amount)

    # ---- looking

    def holder(self, name: str) -> Account | None:
        """Whose budget `name` is taken from; None: nobody has set one."""
        account: Account | None = self
        while account is not None and name not in account.limit:
            account = account.above
        return account

    def names(self) -> tuple[str, ...]:
        """Of which somebody has set a budget, here or above."""
        found: dict[str, None] = {}
        account: Account | None = self
        while account is not None:
            found |= dict.fromkeys(account.limit)
            account = account.above
        return tuple(sorted(found))

    def left(self, name: str) -> int:
        """Of a name it holds."""
        return self.limit[name] - self.held.get(name, 0) - self.drawn.get(name, 0)

    def short(self, amounts: Iterable[tuple[str, int]]) -> Short | None:
        """None if all of it fits into what is left."""
        for name, amount in amounts:
            holder = self.holder(name)
            if holder is not None and amount > 0 and holder.left(name) < amount:
                return Short(name, amount, holder)
        return None

    # ---- changing

    def note(self, key: str, reserved: Amounts, used: Amounts, said: tuple[int, int] = (0, 0)) -> None:
        """From now on `reserved` is open under `key` (nothing: it is settled), and all that was used is `used`."""
        for name, amount in self.open.pop(key, {}).items():
            self._hold(name, -amount)
        if reserved:
            self.open[key] = dict(reserved)
            for name, amount in reserved:
                self._hold(name, amount)
        elif is_named(key):
            self.keys[key] = None
        for name, amount in used:
            self.use(name, amount - self.used.get(name, 0))
        if said > self.said:
            self.said, self.refused = said, None

    def use(self, name: str, amount: int) -> None:
        if not amount:
            return
        self.used[name] = min(self.used.get(name, 0) + amount, USED_MAX)
        if (holder := self.holder(name)) is not None:
            holder.drawn[name] = holder.drawn.get(name, 0) + amount

    def _hold(self, name: str, amount: int) -> None:
        holder = self.holder(name)
        if holder is not None and amount:
            holder.held[name] = holder.held.get(name, 0) + amount

    def begin_anew(self) -> None:
        """What was not settled counts in full, and every name is free again."""
        self.settle_all()
        self.keys = {}

    def settle_all(self) -> tuple[str, ...]:
        """What was open counts in full. Returns the keys."""
        for key in (keys := tuple(self.open)):
            self.note(key, (), self.total(self.open[key].items()))
        return keys

    def end(self) -> None:
        """The task has ended, and all below it with it: what was used is the parent's, what was not is given back."""
        if self.closed:
            return
        for account in list(self.below.values()):
            account.end()
        self.settle_all()
        self.closed, self.keys = True, {}
        above = self.above
        if above is None:
            return
        above.below.pop(self.task, None)
        for name, amount in self.limit.items():
            above._hold(name, -amount)
        for name, amount in self.used.items():
            above.used[name] = min(above.used.get(name, 0) + amount, USED_MAX)
            if name in self.limit and (holder := above.holder(name)) is not None:
                holder.drawn[name] = holder.drawn.get(name, 0) + amount

    # ---- telling

    def total(self, more: Iterable[tuple[str, int]] = ()) -> Amounts:
        """What was used, with `more` of it."""
        found = dict(self.used)
        for name, amount in more:
            found[name] = found.get(name, 0) + amount
        return tuple(sorted((name, min(amount, USED_MAX)) for name, amount in found.items() if amount))

    def lefts(self) -> dict[str, float]:
        """What is left of each name, at whoever holds it, for people."""
        return {name: holder.left(name) / 1000 for name in self.names() if (holder := self.holder(name)) is not None}

    def rows(self) -> dict[str, dict[str, float | str | None]]:
        """Of each name of its own budget, of those it draws on, and of what it used without any."""
        found: dict[str, dict[str, float | str | None]] = {}
        for name in sorted({*self.names(), *self.used}):
            holder = self.holder(name)
            row: dict[str, float | str | None] = {"used": self.used.get(name, 0) / 1000, "of": holder.task if holder is not None else ""}
            if holder is not None:
                limit, reserved, spent = holder.limit[name], holder.held.get(name, 0), holder.drawn.get(name, 0)
                row |= {"budget": limit / 1000, "spent": spent / 1000, "reserved": reserved / 1000, "left": holder.left(name) / 1000}
            found[name] = row
        return found


def is_named(key: str) -> bool:
    """Whether a handler has given this key, so that it counts once for all attempts."""
    return bool(key) and not key.startswith(UNNAMED)


def begun(parent: Account | None) -> None:
    """A step of it has begun."""
    if parent is not None and parent.holder(CALLS) is not None:
        parent.use(CALLS, 1000)


def shrunk(budget: Amounts, most: Amounts) -> Amounts:
    """`budget`, and of each name at most what `most` has: how a rule bounds what somebody asks for."""
    found = dict(most) | {name: min(amount, dict(most).get(name, amount)) for name, amount in budget}
    return tuple(sorted(found.items()))


def unfit(amounts: Amounts) -> str:
    """What is wrong with amounts that came from elsewhere; "": nothing."""
    if len(amounts) > LABELS_MAX:
        return f"{len(amounts)} names, and at most {LABELS_MAX} are kept"
    if len(dict(amounts)) < len(amounts):
        return "a name is there twice"
    for name, amount in amounts:
        if not is_name(name) or not 0 <= amount <= AMOUNT_MAX:
            return f"{name!r} of {amount} thousandths"
    return ""


def over_budget(short: Short, what: str) -> dict[str, object]:
    """The error of whoever wants more than is left."""
    name, holder = short.name, short.holder
    left, limit = holder.left(name), holder.limit[name]
    parts = f"{holder.drawn.get(name, 0) / 1000:g} spent, {holder.held.get(name, 0) / 1000:g} reserved"
    message = f"{what} takes {name}={short.asked / 1000:g}, and {left / 1000:g} of {limit / 1000:g} is left in the budget of {holder.task}"
    fix = f"ask for less, or begin {holder.task} with more: options(budget={{'{name}': ...}}), mesh submit --budget {name}=..."
    return {"code": "over_budget", "message": f"{message} ({parts})", "fix": fix, "name": name, "left": left / 1000, "of": holder.task}
