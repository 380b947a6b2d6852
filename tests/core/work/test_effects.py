"""The manager's ledger of effects: begun once on record, told to every later attempt, refused to stale ones."""

from __future__ import annotations

import json
from typing import Any

import pytest
from manager_bench import Bench, started

from mesh.core.inputs import BodyRead, Call
from mesh.core.work.effect_ledger import ERROR_CHARACTERS_MAX
from mesh.core.work.task import EFFECTS_SHOWN_MAX
from mesh.effects import Need, ReadBody, Send
from mesh.ids import content_hash, fence_of
from mesh.messages.membership import Offer
from mesh.messages.records import Effected, Intended
from mesh.messages.work import Accept, Answer, Ask, EffectAnswer, EffectAsk, EffectDone, Release


@pytest.fixture
def bench() -> Bench:
    return started()


def ask(bench: Bench, item: Any, call: int = 1, *, node: str = "a", number: int = 1, key: str = "mail", once: bool = False) -> list[Any]:
    return bench.give(EffectAsk(number, item.task, item.fence, key, call, once), node)


def end(
    bench: Bench, item: Any, call: int = 1, *, node: str = "a", key: str = "mail", output: bytes = b'"sent"', error: str = ""
) -> list[Any]:
    return bench.give(EffectDone(9, item.task, item.fence, key, call, output, error), "a")


def answers(effects: list[Any]) -> list[EffectAnswer]:
    return [e.message for e in effects if type(e) is Send and type(e.message) is EffectAnswer]


def state(effects: list[Any]) -> str:
    (answer,) = answers(effects)
    return answer.state if answer.state != "refused" else json.loads(answer.error)["code"]


def need(effects: list[Any]) -> Need:
    (found,) = [e.need for e in effects if type(e) is Send and type(e.message) is EffectAnswer]
    return found


def again(bench: Bench, item: Any) -> Any:
    """The next attempt: given back by its holder, awarded to it again, accepted."""
    _, item = bench.awarded(bench.give(Release(((item.task, item.fence, "draining"),)), "a"))
    bench.give(Accept(((item.task, item.fence),)), "a")
    return item


def test_the_intent_is_on_record_before_the_go_and_the_outcome_before_it_is_noted(bench):
    item = bench.held()
    effects = ask(bench, item)
    assert bench.entries(effects) == [Intended(item.task, item.fence, "mail", 1, False, "a", 110_000)]
    assert answers(effects) == [EffectAnswer(1, "go")] and need(effects) is Need.SYNCED
    effects = end(bench, item)
    assert bench.entries(effects) == [Effected(item.task, item.fence, "mail", 1, content_hash(b'"sent"'), at_ms=110_000)]
    assert bench.bodies[content_hash(b'"sent"')] == b'"sent"'
    assert answers(effects) == [EffectAnswer(9, "noted")] and need(effects) is Need.KEPT


def test_the_next_attempt_gets_the_stored_outcome(bench):
    item = bench.held()
    ask(bench, item)
    end(bench, item)
    item = again(bench, item)
    effects = ask(bench, item, number=2)
    assert answers(effects) == [EffectAnswer(2, "done", b'"sent"')] and need(effects) is Need.KEPT
    assert bench.entries(effects) == []


def test_what_was_asked_again_is_not_begun_again(bench):
    item = bench.held()
    ask(bench, item, once=True)
    effects = ask(bench, item, number=2, once=True)
    assert (bench.entries(effects), state(effects)) == ([], "go")
    end(bench, item)
    effects = end(bench, item)
    assert (bench.entries(effects), state(effects)) == ([], "noted")


def test_an_intent_without_outcome_is_begun_again_under_its_key(bench):
    item = bench.held()
    ask(bench, item)
    item = again(bench, item)
    effects = ask(bench, item)
    assert state(effects) == "go"
    assert [entry.fence for entry in bench.entries(effects, Intended)] == [fence_of(1, 2)]
    assert state(end(bench, item)) == "noted"


def test_at_most_once_waits_for_the_keepers_and_is_not_begun_again(bench):
    item = bench.held()
    effects = ask(bench, item, once=True)
    assert need(effects) is Need.KEPT and bench.entries(effects, Intended)[0].once
    item = again(bench, item)
    effects = ask(bench, item, once=True)
    assert state(effects) == "outcome_unknown" and bench.entries(effects) == []
    error = json.loads(answers(effects)[0].error)
    assert "begun by award 1 on A" in error["message"] and "not begun again" in error["message"]
    assert error["fix"] == f"mesh why {item.task}"
    # Nor is what one of the two sides calls so.
    assert state(ask(bench, item, 2)) == "outcome_unknown"
    ask(bench, item, key="other")
    assert state(ask(bench, item, 2, key="other", once=True)) == "outcome_unknown"


def test_what_its_function_raised_is_on_record_and_decides_nothing(bench):
    item = bench.held()
    ask(bench, item)
    effects = end(bench, item, output=b"", error="OSError: cut " + "x" * 1000)
    (entry,) = bench.entries(effects, Effected)
    assert entry.error.startswith("OSError: cut") and len(entry.error) == ERROR_CHARACTERS_MAX and entry.output == ""
    assert state(effects) == "noted"
    assert state(ask(bench, item, 2)) == "go"
    ask(bench, item, 3, key="letter", once=True)
    end(bench, item, 3, key="letter", error="OSError: cut")
    effects = ask(bench, item, 4, key="letter", once=True)
    assert state(effects) == "outcome_unknown" and "raised OSError: cut" in json.loads(answers(effects)[0].error)["message"]


def test_only_the_holder_under_the_newest_fence_begins_or_ends_one(bench):
    item = bench.held()
    assert state(ask(bench, item, node="b")) == "stale_fence"
    ask(bench, item)
    old, item = item, again(bench, item)
    assert state(ask(bench, old, 2)) == "stale_fence"
    assert state(end(bench, old)) == "stale_fence"
    assert bench.task(item.task).effects["mail"].done is False
    bench.result(item, "a")
    assert state(ask(bench, item)) == "stale_fence"
    item.task = "other.1.1"
    effects = ask(bench, item)
    assert state(effects) == "not_my_task" and bench.refused(effects) == ["not_my_task"]


def test_a_question_that_was_overtaken_begins_nothing(bench):
    item = bench.held()
    ask(bench, item, 2)
    effects = ask(bench, item, 1)
    assert answers(effects) == [] and bench.refused(effects) == ["late_effect"]
    assert state(end(bench, item, 2)) == "noted"


def test_an_effect_counts_as_the_accept_that_is_still_on_its_way(bench):
    _, item = bench.awarded(bench.submit())
    assert state(ask(bench, item)) == "go"
    assert bench.task(item.task).state == "held"


def test_keys_and_their_number_are_bounded():
    bench = Bench(effects_max=2)
    bench.start()
    bench.row("a", Offer("greet", "greeter"), room=4)
    item = bench.held()
    assert state(ask(bench, item, key="")) == state(ask(bench, item, key="k" * 201)) == "bad_key"
    assert [state(ask(bench, item, key=str(number))) for number in range(3)] == ["go", "go", "too_many_effects"]


def test_a_large_outcome_is_read_back_from_the_store(bench):
    item = bench.held()
    ask(bench, item)
    big = json.dumps("x" * 10_000).encode()
    end(bench, item, output=big)
    (read,) = [e for e in ask(bench, item, 2, number=5) if type(e) is ReadBody]
    assert read.hash == content_hash(big)
    assert answers(bench.give(BodyRead(read.token, big))) == [EffectAnswer(5, "done", big)]
    (read,) = [e for e in ask(bench, item, 3) if type(e) is ReadBody]
    assert state(bench.give(BodyRead(read.token, None))) == "output_erased"


@pytest.mark.parametrize("kept", [True, False], ids=["kept", "to be read back"])
def test_after_a_restart_the_journal_tells_which_have_happened(bench, kept):
    item = bench.held()
    ask(bench, item, key="done")
    end(bench, item, key="done")
    ask(bench, item, 2, key="open", once=True)
    ask(bench, item, 3, key="raised")
    end(bench, item, 3, key="raised", error="OSError")
    later = Bench(incarnation=2)
    later.start(*bench.journal, bodies=bench.bodies if kept else {})
    later.row("a", Offer("greet", "greeter"), room=4)
    effects = ask(later, item, 4, key="done")
    assert answers(effects) == [EffectAnswer(1, "done", b'"sent"')] if kept else [type(e) for e in effects] == [ReadBody]
    assert state(ask(later, item, 2, key="open", once=True)) == "go"  # the same question, whose answer was lost
    assert state(ask(later, item, 5, key="open", once=True)) == "outcome_unknown"
    assert later.task(item.task).effects["raised"].error == "OSError"
    assert state(ask(later, item, 6, key="raised")) == "go"


def test_a_plain_calls_effects_are_in_memory_only(bench):
    _, item = bench.awarded(bench.give(Call(1, "greet", b"{}")))
    effects = ask(bench, item, once=True)
    assert state(effects) == "go" and need(effects) is Need.FREE and bench.entries(effects) == []
    effects = end(bench, item, output=json.dumps("x" * 10_000).encode())
    assert state(effects) == "noted" and bench.entries(effects) == []
    assert answers(ask(bench, item, 2))[0].output == json.dumps("x" * 10_000).encode()


def test_a_task_shows_its_effects_also_when_it_has_ended(bench):
    def shown() -> list[dict[str, Any]]:
        ((_, answer),) = bench.sends(bench.give(Ask(1, "task", item.task), "b"), Answer)
        return json.loads(answer.body)["effects"]

    item = bench.held()
    ask(bench, item, 1, key="open", once=True)
    for number in range(2, EFFECTS_SHOWN_MAX + 10):
        ask(bench, item, number, key=str(number))
        end(bench, item, number, key=str(number))
    assert len(shown()) == EFFECTS_SHOWN_MAX
    bench.result(item, "a")
    rows = shown()
    assert len(rows) == EFFECTS_SHOWN_MAX
    assert rows[-1] == {"key": "open", "outcome": "unknown", "at_most_once": True, "award": 1, "term": 1, "node": "A", "error": ""}
    assert {row["outcome"] for row in rows[:-1]} == {"known"}


@pytest.mark.parametrize("kept", [True, False], ids=["an older intent is on record", "none is"])
def test_an_end_whose_go_was_not_kept_is_noted_by_who_took_over(bench, kept):
    """The go of what may be begun again does not wait for the keepers: with its manager the intent may be gone, and the deed is done."""
    item = bench.held()
    if kept:
        ask(bench, item)
    told = end(bench, item, call=2)
    assert [type(entry) for entry in bench.entries(told)] == [Intended, Effected]
    assert state(told) == "noted"
    assert state(ask(bench, item, call=3, number=3)) == "done"


def test_an_end_of_before_the_newest_call_is_not_noted(bench):
    item = bench.held()
    ask(bench, item, call=2)
    assert state(end(bench, item, call=1)) == "stale_fence"
