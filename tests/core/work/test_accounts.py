"""The manager's accounts, question by question: who may spend, what is on record before it is answered, what is refused and why."""

from __future__ import annotations

import json
from typing import Any

import pytest
from manager_bench import Bench, started

from mesh.core.inputs import Call
from mesh.core.work.spending import Account, shrunk, unfit
from mesh.effects import Need, Send
from mesh.ids import AMOUNT_MAX
from mesh.messages.records import Finished, Spent, Submitted
from mesh.messages.spending import SpendAsk
from mesh.messages.work import Accept, AwardItem, EffectAnswer, Release, StepAsk, StepDone

USD = (("usd", 5000),)


@pytest.fixture
def bench() -> Bench:
    return started()


def ask(bench: Bench, item: AwardItem, call: int, kind: str, *amounts: tuple[str, int], key: str = "", node: str = "a") -> list[Any]:
    return bench.give(SpendAsk(call, item.task, item.fence, call, kind, key, amounts), node)


def answer(effects: list[Any]) -> EffectAnswer:
    (found,) = [e.message for e in effects if type(e) is Send and type(e.message) is EffectAnswer]
    return found


def error(effects: list[Any]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(answer(effects).error)
    return found


def need(effects: list[Any]) -> Need:
    (found,) = [e.need for e in effects if type(e) is Send and type(e.message) is EffectAnswer]
    return found


def test_it_is_on_record_and_kept_before_it_is_noted(bench: Bench) -> None:
    item = bench.held(budget=USD)
    (submitted,) = [entry for entry in bench.journal if type(entry) is Submitted]
    assert submitted.budget == USD and item.budgets == ("usd",)
    effects = ask(bench, item, 1, "spend", ("usd", 1200))
    assert bench.entries(effects) == [Spent(item.task, item.fence, 1, "", (), (("usd", 1200),), 110_000)]
    assert answer(effects) == EffectAnswer(1, "noted", b'{"usd":3.8}') and need(effects) is Need.KEPT
    effects = ask(bench, item, 2, "reserve", ("usd", 3000), key="#1")
    assert bench.entries(effects, Spent) == [Spent(item.task, item.fence, 2, "#1", (("usd", 3000),), (("usd", 1200),), 110_000)]
    effects = ask(bench, item, 3, "settle", ("usd", 100), key="#1")
    assert bench.entries(effects, Spent) == [Spent(item.task, item.fence, 3, "#1", (), (("usd", 1300),), 110_000)]
    assert answer(ask(bench, item, 4, "look")) == EffectAnswer(4, "noted", b'{"usd":3.7}')


def test_what_does_not_fit_leaves_no_entry_and_is_counted(bench: Bench) -> None:
    item = bench.held(budget=USD)
    effects = ask(bench, item, 1, "spend", ("usd", 5001))
    assert bench.entries(effects) == [] and need(effects) is Need.FREE
    found = error(effects)
    assert (found["code"], found["name"], found["left"], found["of"]) == ("over_budget", "usd", 5.0, item.task)
    assert bench.manager.book.counts["over_budget"] == 1
    # Said again it is answered again, whatever has come back meanwhile.
    assert error(ask(bench, item, 1, "spend", ("usd", 5001))) == found
    assert bench.manager.book.counts["over_budget"] == 1


def test_only_the_holder_under_its_newest_fence_spends(bench: Bench) -> None:
    item = bench.held(budget=USD)
    effects = ask(bench, item, 1, "spend", ("usd", 1), node="b")
    assert error(effects)["code"] == "stale_fence" and bench.refused(effects) == ["stale_fence"]
    bench.give(Release(((item.task, item.fence, "draining"),)), "a")
    assert error(ask(bench, item, 1, "spend", ("usd", 1)))["code"] == "stale_fence"
    effects = bench.give(SpendAsk(1, "other.1.1", 1, 1, "spend", "", USD), "a")
    assert error(effects)["code"] == "not_my_task"
    assert not any(type(entry) is Spent for entry in bench.journal)


def test_an_overtaken_question_changes_nothing(bench: Bench) -> None:
    item = bench.held(budget=USD)
    ask(bench, item, 2, "spend", ("usd", 1000))
    effects = ask(bench, item, 1, "spend", ("usd", 1000))
    assert bench.refused(effects) == ["late_spend"] and bench.entries(effects) == []


@pytest.mark.parametrize(
    ("kind", "key", "amounts"),
    (
        ("spend", "", (("usd", -1),)),
        ("spend", "", (("usd", AMOUNT_MAX + 1),)),
        ("spend", "", (("a b", 1),)),
        ("spend", "", (("usd", 1), ("usd", 2))),
        ("spend", "", tuple((f"n{i}", 1) for i in range(33))),
        ("spend", "k" * 201, USD),
        ("reserve", "", USD),
        ("settle", "", USD),
        ("steal", "", USD),
    ),
)
def test_a_bad_question_is_refused_and_counted(bench: Bench, kind: str, key: str, amounts: Any) -> None:
    item = bench.held(budget=USD)
    effects = ask(bench, item, 1, kind, *amounts, key=key)
    assert error(effects)["code"] == "bad_amounts" and error(effects)["fix"] and bench.refused(effects) == ["bad_amounts"]
    assert bench.entries(effects) == []


def test_a_bad_budget_of_a_step_is_refused(bench: Bench) -> None:
    item = bench.held(budget=USD)
    effects = bench.give(StepAsk(1, item.task, item.fence, "s", "greet", b"{}", budget=(("usd", -5),)), "a")
    (done,) = [message for _, message in bench.sends(effects, StepDone)]
    assert json.loads(done.error)["code"] == "bad_amounts" and bench.entries(effects) == []


def test_one_task_keeps_so_many_keys_and_no_more() -> None:
    bench = Bench(spends_max=2)
    bench.start()
    bench.now += 10
    from mesh.messages.membership import Offer

    bench.row("a", Offer("greet", "greeter"), room=4)
    item = bench.held()
    for call, key in enumerate(("one", "two"), 1):
        assert answer(ask(bench, item, call, "spend", ("usd", 1), key=key)).state == "noted"
    assert error(ask(bench, item, 3, "spend", ("usd", 1), key="three"))["code"] == "too_many_spends"
    assert answer(ask(bench, item, 4, "spend", ("usd", 1))).state == "noted"


def test_a_call_says_at_its_end_what_it_spent(bench: Bench) -> None:
    effects = bench.give(Call(7, "greet", b"{}", budget=USD))
    node, item = bench.awarded(effects)
    bench.give(Accept(((item.task, item.fence),)), node)
    effects = ask(bench, item, 1, "spend", ("usd", 1200), node=node)
    assert bench.entries(effects) == [], "a call writes no entry of its own"
    ((ok, body),) = bench.replies(bench.result(item, node))
    assert ok and body["spent"] == [["usd", 1200]]


def test_seconds_gone_end_the_task(bench: Bench) -> None:
    from mesh.messages.work import Beat, BeatItem

    item = bench.held(budget=(("time_s", 2000),))
    for _ in range(3):
        bench.hear("a")
        effects = bench.give(Beat((BeatItem(item.task, item.fence, "running"),)), "a")
        effects += bench.after(1.0)
    (finished,) = [entry for entry in bench.journal if type(entry) is Finished]
    assert finished.state == "failed" and json.loads(finished.error)["code"] == "over_budget"
    (spent,) = [entry for entry in bench.journal if type(entry) is Spent]
    assert spent.used == (("time_s", 2000),)


def test_sums_that_no_integer_holds_are_cut() -> None:
    account = Account("t")
    for _ in range(3):
        account.note("", (), account.total((("usd", 1 << 60),)))
    assert account.total() == (("usd", 1 << 60),)


def test_a_rule_shrinks_a_budget_and_adds_what_it_does_not_have() -> None:
    assert shrunk((("a", 5), ("b", 1)), (("a", 3), ("b", 2), ("c", 9))) == (("a", 3), ("b", 1), ("c", 9))
    assert shrunk((), ()) == () and shrunk((("a", 5),), ()) == (("a", 5),)
    assert unfit((("a", 0), ("b", AMOUNT_MAX))) == ""
