"""Budgets against a reference model of a page, on a real manager: reserve, spend, settle, nest, lose, begin anew, end, in any order. After
each step its accounts are as the model says, and a fold of its journal, whole or summed up, has the same ones."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from manager_bench import Bench

from mesh.core.records.still_open import StillOpen
from mesh.core.work.fold import Fold
from mesh.core.work.task import Task
from mesh.effects import Send
from mesh.ids import fence_of
from mesh.limits import RecordsLimits
from mesh.messages.membership import Offer
from mesh.messages.spending import SpendAsk
from mesh.messages.work import Accept, Award, AwardItem, Cancelled, CheckpointAsk, EffectAnswer, Release, StepAsk, StepDone

NAMES = ("usd", "tokens", "calls")
budgets = st.dictionaries(st.sampled_from(NAMES), st.sampled_from((0, 1000, 3000, 10_000)), max_size=2)
amounts = st.dictionaries(st.sampled_from(("usd", "tokens", "unbudgeted")), st.sampled_from((0, 500, 1000, 4000)), min_size=1)
keys = st.sampled_from(("", "", "draft", "mail"))


@dataclass
class Row:
    """The model of one task."""

    name: str
    limit: dict[str, int]
    above: Row | None
    spent: dict[str, int] = field(default_factory=dict)
    open: dict[str, dict[str, int]] = field(default_factory=dict)
    known: set[str] = field(default_factory=set)
    below: list[Row] = field(default_factory=list)
    over: bool = False

    def used(self, name: str) -> int:
        """By itself, and by all below that has ended."""
        return self.spent.get(name, 0) + sum(row.used(name) for row in self.below if row.over)

    def taken(self, name: str) -> int:
        """Out of the budget above it: what was spent and reserved, or its own budget as long as it lives."""
        if not self.over and name in self.limit:
            return self.limit[name]
        return (
            self.used(name)
            + sum(one.get(name, 0) for one in self.open.values())
            + sum(row.taken(name) for row in self.below if not row.over)
        )

    def holder(self, name: str) -> Row | None:
        return self if name in self.limit else self.above.holder(name) if self.above is not None else None

    def left(self, name: str) -> int:
        limit, self.limit = self.limit, {}
        taken, self.limit = self.taken(name), limit
        return limit[name] - taken

    def fits(self, wanted: dict[str, int]) -> bool:
        return all(not amount or (at := self.holder(name)) is None or at.left(name) >= amount for name, amount in wanted.items())

    def end(self) -> None:
        for row in self.below:
            if not row.over:
                row.end()
        self.settle_all()
        self.over = True

    def settle_all(self) -> None:
        for one in self.open.values():
            self.add(one)
        self.open = {}

    def add(self, more: dict[str, int]) -> None:
        for name, amount in more.items():
            self.spent[name] = self.spent.get(name, 0) + amount


class Budgets(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.bench = Bench()
        self.bench.start()
        self.bench.row("a", Offer("greet", "greeter"))
        self.rows: dict[str, Row] = {}
        self.held: dict[str, AwardItem] = {}
        self.calls: dict[str, int] = {}
        self.asked = self.steps = 0
        self.last: tuple[SpendAsk, str] | None = None

    # ---- helpers

    def give(self, body: Any, sender: str = "a") -> list[Any]:
        """What is awarded is accepted."""
        self.bench.now += 0.01
        self.bench.hear("a")
        self.bench.load("a", 1000, slots=1000)
        effects = self.bench.give(body, sender)
        for effect in [one for one in effects if type(one) is Send and type(one.message) is Award]:
            for item in effect.message.items:
                self.held[item.task], self.calls[item.task] = item, 0
                effects += self.bench.give(Accept(((item.task, item.fence),)), "a")
        return effects

    def pick(self, number: int) -> Row:
        living = [row for row in self.rows.values() if not row.over]
        return living[number % len(living)]

    def any_lives(self) -> bool:
        return any(not row.over for row in self.rows.values())

    def ask(self, row: Row, kind: str, key: str, wanted: dict[str, int]) -> str:
        self.asked += 1
        self.calls[row.name] += 1
        pairs = tuple(sorted(wanted.items()))
        ask = SpendAsk(self.asked, row.name, self.held[row.name].fence, self.calls[row.name], kind, key, pairs)
        state = self.answer(self.give(ask))
        self.last = (ask, state)
        return state

    def answer(self, effects: list[Any]) -> str:
        (found,) = [e.message for e in effects if type(e) is Send and type(e.message) is EffectAnswer]
        return found.state if found.state != "refused" else str(json.loads(found.error)["code"])

    # ---- rules

    @rule(limit=budgets)
    def submit(self, limit: dict[str, int]) -> None:
        if sum(not row.over for row in self.rows.values()) < 8:
            effects = self.give(*self.work(limit))
            (name,) = [entry.task for entry in self.bench.entries(effects) if type(entry).__name__ == "Submitted"]
            self.rows[name] = Row(name, limit, None)

    def work(self, limit: dict[str, int]) -> tuple[Any, str]:
        from mesh.core.inputs import Submit

        return Submit(1, "greet", b"{}", budget=tuple(sorted(limit.items()))), "me"

    @precondition(any_lives)
    @rule(number=st.integers(0, 20), limit=budgets)
    def step(self, number: int, limit: dict[str, int]) -> None:
        row = self.pick(number)
        self.steps += 1
        self.asked += 1
        ask = StepAsk(
            self.asked, row.name, self.held[row.name].fence, f"s{self.steps}", "greet", b"{}", budget=tuple(sorted(limit.items()))
        )
        counted = row.holder("calls") is not None
        fits = row.fits({name: amount for name, amount in limit.items() if name != "calls"})
        fits = fits and (not counted or row.fits({"calls": 1000 + limit.get("calls", 0)}))
        effects = self.give(ask)
        refused = [e.message for e in effects if type(e) is Send and type(e.message) is StepDone]
        assert fits != bool(refused), (fits, refused)
        if fits:
            (name,) = [entry.task for entry in self.bench.entries(effects) if type(entry).__name__ == "Submitted"]
            self.rows[name] = Row(name, limit, row)
            row.below.append(self.rows[name])
            row.add({"calls": 1000} if counted else {})

    @precondition(any_lives)
    @rule(number=st.integers(0, 20), key=keys, wanted=amounts)
    def spend(self, number: int, key: str, wanted: dict[str, int]) -> None:
        row = self.pick(number)
        there = row.open.get(key, {}) if key else {}
        fits = row.fits({name: amount - there.get(name, 0) for name, amount in wanted.items() if amount > there.get(name, 0)})
        state = self.ask(row, "spend", key, wanted)
        if key in row.known:
            assert state == "noted"
        elif fits:
            assert state == "noted"
            row.open.pop(key, None)
            row.add(wanted)
            row.known |= {key} if key else set()
        else:
            assert state == "over_budget"

    @precondition(any_lives)
    @rule(number=st.integers(0, 20), key=keys, wanted=amounts)
    def reserve(self, number: int, key: str, wanted: dict[str, int]) -> None:
        row = self.pick(number)
        name = key or f"#{self.asked}"
        there = row.open.get(name, {})
        fits = row.fits({name: amount - there.get(name, 0) for name, amount in wanted.items() if amount > there.get(name, 0)})
        state = self.ask(row, "reserve", name, wanted)
        if name in row.known:
            assert state == "known"
        elif fits:
            assert state == "noted"
            row.open[name] = dict(wanted)
        else:
            assert state == "over_budget"

    @precondition(any_lives)
    @rule(number=st.integers(0, 20), which=st.integers(0, 5), cost=amounts)
    def settle(self, number: int, which: int, cost: dict[str, int]) -> None:
        """Whatever it says it cost, that is on record."""
        row = self.pick(number)
        if row.open:
            key = sorted(row.open)[which % len(row.open)]
            assert self.ask(row, "settle", key, cost) == "noted"
            del row.open[key]
            row.add(cost)
            row.known |= {key} if not key.startswith("#") else set()

    @rule()
    def repeat(self) -> None:
        """The last question comes once more: the same answer, and nothing counts again."""
        if self.last is not None:
            ask, state = self.last
            item = self.held.get(ask.task)
            if not self.rows[ask.task].over and item is not None and item.fence == ask.fence:
                assert self.answer(self.give(ask)) == state

    @precondition(any_lives)
    @rule(number=st.integers(0, 20))
    def lose(self, number: int) -> None:
        """Another attempt: it has what was reserved still reserved, and knows what was counted."""
        row = self.pick(number)
        item = self.held[row.name]
        self.give(Release(((row.name, item.fence, "draining"),)))
        assert self.held[row.name].fence == item.fence + 1 > fence_of(1, 0)

    @precondition(any_lives)
    @rule(number=st.integers(0, 20))
    def begin_anew(self, number: int) -> None:
        row = self.pick(number)
        self.asked += 1
        self.give(CheckpointAsk(self.asked, row.name, self.held[row.name].fence, b"1", True))
        row.settle_all()
        row.known = set()

    @precondition(any_lives)
    @rule(number=st.integers(0, 20))
    def finish(self, number: int) -> None:
        row = self.pick(number)
        self.bench.now += 0.01
        self.bench.result(self.held[row.name], "a")
        row.end()
        for one in list(self.rows.values()):  # the children that it took along
            if one.over and self.bench.task(one.name).state == "cancelling":
                self.bench.give(Cancelled(((one.name, self.held[one.name].fence),)), "a")

    # ---- what holds

    @invariant()
    def the_manager_has_the_accounts_of_the_model(self) -> None:
        for row in self.rows.values():
            task = self.bench.manager.book.find(row.name)
            assert task is not None and task.ended == row.over, row.name
            account = task.account
            for name in ("usd", "tokens", "calls", "unbudgeted"):
                assert (account.used.get(name, 0) if account is not None else 0) == row.used(name), (row.name, name)
                if not row.over and name in row.limit:
                    assert account is not None and account.left(name) == row.left(name), (row.name, name)
            if row.over and account is not None:
                assert not any(account.held.values()) and not account.open, "nothing is held back any more"

    @invariant()
    def a_journal_gives_the_same(self) -> None:
        rows = list(enumerate(self.bench.journal, 1))
        own = told(self.bench.manager.book.tasks)
        whole, summed = Fold(), Fold()
        still = StillOpen("me", RecordsLimits())
        for seq, entry in rows:
            whole.apply(entry, self.bench.bodies, seq)
            still.add(seq, entry)
        assert told(whole.tasks) == own
        numbers = still.numbers(0)
        assert numbers is not None
        for seq, entry in rows:
            if seq in numbers:
                summed.apply(entry, self.bench.bodies, seq)
        assert told(summed.tasks) == own


def told(tasks: dict[str, Task]) -> dict[str, Any]:
    """The accounts of those that live."""
    found = {}
    for name, task in tasks.items():
        account = task.account
        if account is not None and not task.ended and not account.closed:
            figures = [{k: v for k, v in one.items() if v} for one in (account.used, account.drawn, account.held)]
            found[name] = (account.limit, *figures, account.open, account.keys)
    return {name: figures for name, figures in found.items() if any(figures)}


Budgets.TestCase.settings = settings(max_examples=40, stateful_step_count=30, deadline=None, report_multiple_bugs=False)
TestBudgets = Budgets.TestCase
