"""What work may spend: the manager's side of budgets, one account a task that has one, draws on one, or spends without (`spending.py`).

    STEP_ASK (budget) --it fits into what its parent has left--> reserved, child task        --it does not--> StepDone refused, over_budget
    SPEND_ASK spend   --fits--> Spent on record, noted      --does not--> refused, nothing is on record
              reserve --fits--> Spent, open under its key   settle --> Spent: what it cost, and the rest is given back
    Finished          --> what was used is the parent's, what was not is given back; what was open counts in full

Invariants: only the task's holder under its newest fence spends; what was answered with yes is kept first; a question that is repeated, or
names a key that was settled, counts nothing again. One journal holds a whole tree of steps, so a successor comes to the same accounts. What
handlers say they spent is believed. A plain call is managed elsewhere: its caller's worker reserves what it may spend before it begins, and
settles what it did.
"""

from __future__ import annotations

from typing import Any

from mesh.core.work.book import Book, Effects
from mesh.core.work.ending import Ending
from mesh.core.work.leases import Leases
from mesh.core.work.meter import TimeUp
from mesh.core.work.spending import CALLS, TIME_S, Account, Short, is_named, over_budget, unfit
from mesh.core.work.task import HELD, OFFERED, Task, account_of
from mesh.core.work.waits import dumps
from mesh.effects import Append, Need, Refused, Send
from mesh.ids import NodeId
from mesh.messages.records import Spent
from mesh.messages.spending import LOOK, RESERVE, SETTLE, SPEND, SpendAsk
from mesh.messages.work import Amounts, EffectAnswer

KEY_CHARACTERS_MAX = 200
KEY_RULE = f"the key of what is spent is a text of 1 to {KEY_CHARACTERS_MAX} characters"
NOTED, KNOWN, REFUSED = "noted", "known", "refused"


class Accounts:
    def __init__(self, book: Book, ending: Ending, leases: Leases) -> None:
        self._book, self._ending, self._leases = book, ending, leases
        self.inputs: dict[type, Any] = {SpendAsk: self._on_spend_ask}

    def _on_spend_ask(self, now_s: float, sender: NodeId, ask: SpendAsk) -> Effects:
        if ask.task in self._book.moved:
            yield Refused("moved", sender)  # who has it will claim it, and then is asked
            return
        task = self._book.tasks.get(ask.task)
        if task is None or task.fence != ask.fence or task.holder != sender or task.state not in (OFFERED, HELD) or task.hedges:
            mine = self._book.is_mine(ask.task)
            code = "stale_fence" if mine else "not_my_task"
            text = "this attempt is over, or its task runs elsewhere" if mine else "this node does not manage the task"
            yield self._refusal(sender, ask, {"code": code, "message": text, "fix": f"mesh why {ask.task}"})
            yield Refused(code, sender)
            return
        if task.state == OFFERED:
            yield from self._leases.bind(now_s, task)
        if problem := unfit(ask.amounts) or self._unfit_key(ask):
            yield self._refusal(sender, ask, {"code": "bad_amounts", "message": problem, "fix": "ctx.spend(usd=0.02)"})
            yield Refused("bad_amounts", sender)
            return
        account = account_of(task, self._book.tasks.get) if ask.kind != LOOK else task.account
        if ask.kind == LOOK or account is None:
            yield self._answer(sender, ask, task, NOTED)
        elif (ask.fence, ask.call) < account.said:
            yield Refused("late_spend", sender)  # of a question that was answered, and another was asked since
        elif (ask.fence, ask.call) == account.said:
            yield from self._again(sender, ask, task, account)
        else:
            yield from self._take(now_s, sender, ask, task, account)

    def _unfit_key(self, ask: SpendAsk) -> str:
        if ask.kind not in (SPEND, RESERVE, SETTLE, LOOK):
            return f"{ask.kind!r} is nothing that can be asked of a budget"
        needed = ask.kind in (RESERVE, SETTLE)
        return KEY_RULE if len(ask.key) > KEY_CHARACTERS_MAX or (needed and not ask.key) else ""

    # ---- one question

    def _take(self, now_s: float, sender: NodeId, ask: SpendAsk, task: Task, account: Account) -> Effects:
        opened = account.open.get(ask.key) if ask.key else None
        if ask.key in account.keys:
            account.said, account.refused = (ask.fence, ask.call), None
            yield self._answer(sender, ask, task, KNOWN if ask.kind == RESERVE else NOTED)
            return
        if ask.key and opened is None and len(account.keys) + len(account.open) >= self._book.limits.spends_max:
            message = f"one task keeps at most {self._book.limits.spends_max} keys of what it has spent"
            yield self._refusal(sender, ask, {"code": "too_many_spends", "message": message, "fix": "leave the key out, or use steps"})
            return
        # What was reserved under the same key is there for it.
        more = [(name, amount - (opened or {}).get(name, 0)) for name, amount in ask.amounts]
        short = account.short(more) if ask.kind != SETTLE else None
        if short is not None:
            account.said, account.refused = (ask.fence, ask.call), short
            self._book.count("over_budget")
            yield self._no(sender, ask, short)
            return
        reserved: Amounts = tuple(sorted(ask.amounts)) if ask.kind == RESERVE else ()
        used = account.total(() if ask.kind == RESERVE else ask.amounts)
        account.note(ask.key, reserved, used, (ask.fence, ask.call))
        if task.durable:
            yield Append(Spent(task.id, ask.fence, ask.call, ask.key, reserved, used, int(now_s * 1000)))
        yield self._answer(sender, ask, task, NOTED)

    def _again(self, sender: NodeId, ask: SpendAsk, task: Task, account: Account) -> Effects:
        if account.refused is not None:
            yield self._no(sender, ask, account.refused)
        else:
            known = ask.kind == RESERVE and ask.key in account.keys
            yield self._answer(sender, ask, task, KNOWN if known else NOTED)

    def _answer(self, sender: NodeId, ask: SpendAsk, task: Task, state: str) -> Send:
        left = task.account.lefts() if task.account is not None else {}
        return Send(sender, EffectAnswer(ask.ask, state, dumps(left)), need=task.need if ask.kind != LOOK else Need.FREE)

    def _no(self, sender: NodeId, ask: SpendAsk, short: Short) -> Send:
        return self._refusal(sender, ask, over_budget(short, f"what {ask.task} spends" if not is_named(ask.key) else repr(ask.key)))

    def _refusal(self, sender: NodeId, ask: SpendAsk, error: dict[str, object]) -> Send:
        return Send(sender, EffectAnswer(ask.ask, REFUSED, b"", dumps(error)), need=Need.FREE)

    # ---- time

    def expire_time(self, now_s: float, _me: NodeId, due: TimeUp) -> Effects:
        """All seconds are gone: nothing under this budget goes on."""
        task = self._book.tasks.get(due.task)
        if task is None or not self._book.meter.is_over(now_s, task.account):
            return
        assert task.account is not None
        limit = task.account.limit[TIME_S] / 1000
        message = f"its handlers, and those of its steps, have run for the {limit:g} s of its budget"
        error = {"code": "over_budget", "message": message, "fix": f"give it more: mesh submit --budget {TIME_S}=...", "of": task.id}
        self._book.count("over_budget")
        yield from self._ending.fail(now_s, task, error)


def refusal(parent: Account | None, budget: Amounts, what: str) -> dict[str, object] | None:
    """Why a step with that budget cannot begin; None: it can. Beginning it takes one of `calls`."""
    if problem := unfit(budget):
        return {"code": "bad_amounts", "message": f"the budget of {what}: {problem}", "fix": "ctx.options(budget={'usd': 0.5})"}
    if parent is None:
        return None
    if (short := parent.short(budget)) is not None:
        return over_budget(short, what)
    if (seconds := parent.holder(TIME_S)) is not None and seconds.left(TIME_S) <= 0:
        return over_budget(Short(TIME_S, 1, seconds), what)
    holder = parent.holder(CALLS)
    own = dict(budget).get(CALLS, 0)
    if holder is not None and holder.left(CALLS) < 1000 + own:
        return over_budget(Short(CALLS, 1000 + own, holder), f"{what}, which is one more,")
    return None
