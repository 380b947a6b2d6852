"""Clients' questions: to whom they go, what comes back, and what happens when nobody answers."""

from __future__ import annotations

import json
from typing import Any

import pytest
from workbench import ME, Sink, of, sent

from mesh.core.deadlines import Deadlines
from mesh.core.directory import DEAD, LEFT, Directory, Heir
from mesh.core.inputs import Enquire, MemberDied, MemberLinked, MemberRevoked, RequestGone, Step
from mesh.core.node import Node
from mesh.core.work.desk import HOPS_MAX, Desk
from mesh.core.work.inputs import EffectBegin, EffectEnd, EffectPermitted
from mesh.effects import Need, Refused, Reply, Send
from mesh.ids import content_hash
from mesh.limits import WorkLimits
from mesh.messages.work import Answer, Ask, EffectAnswer, EffectAsk, EffectDone, StepAsk, StepDone, StepSeen

ANNA, BERT, CARL = "aaaaaaaa" + "n" * 24, "aaaaaaab" + "n" * 24, "cccccccc" + "n" * 24
BASE = 50_000 << 20
FILE = content_hash(b"file")


class Hall:
    """A node with only a desk; anna and bert are linked, carl is known and dead."""

    def __init__(self, limits: WorkLimits | None = None) -> None:
        self.directory = Directory(ME)
        for node, name in ((ANNA, "anna"), (BERT, "bert"), (CARL, "carl")):
            row = self.directory.ensure(node)
            row.name, row.linked = name, node != CARL
        self.directory.ensure(CARL).state = DEAD
        self.deadlines = Deadlines()
        self.limits = limits or WorkLimits()
        self.desk = Desk(self.directory, self.deadlines, self.limits)
        self.sink = Sink(Ask, StepAsk, EffectAsk, EffectDone)
        self.node = Node(ME, (self.desk, self.sink), self.deadlines)
        self.now = 50.0

    def give(self, item: Any, sender: str = ME) -> list[Any]:
        return self.node.handle(self.now, sender, item)

    def later(self, seconds: float) -> list[Any]:
        effects: list[Any] = []
        until = self.now + seconds
        while (due := self.node.wake_at()) is not None and due <= until:
            self.now = max(due, self.now)
            effects += self.node.handle(self.now, ME)
        self.now = until
        return effects


def answer(body: Any, ask: int = BASE, ok: bool = True) -> Answer:
    return Answer(ask, ok, body if isinstance(body, bytes) else json.dumps(body).encode())


def error(effects: list[Any]) -> str:
    (reply,) = of(effects, Reply)
    assert not reply.ok
    assert {"code", "message", "fix"} <= set(reply.body)
    assert all(reply.body[field] for field in ("code", "message", "fix"))
    return str(reply.body["code"])


# ---- one node


def test_a_question_about_a_task_goes_to_its_author_and_comes_back() -> None:
    hall = Hall()
    key = f"{ANNA}.1.7"
    assert hall.give(Enquire(9, "task", key)) == [Send(ANNA, Ask(BASE, "task", key), need=Need.FREE)]
    assert hall.give(answer({"task": key}), ANNA) == [Reply(9, True, {"task": key}, need=Need.FREE)]
    assert hall.deadlines.next() is None
    assert hall.give(answer({"task": key}), ANNA) == [Refused("answer_not_asked", ANNA)]


def test_a_question_about_an_own_task_stays_inside() -> None:
    hall = Hall()
    assert hall.give(Enquire(9, "cancel", f"{ME}.1.7", {"by": "me", "reason": "enough"})) == []
    (ask,) = hall.sink.caught
    assert (ask.question, ask.key, json.loads(ask.args)) == ("cancel", f"{ME}.1.7", {"by": "me", "reason": "enough"})
    assert hall.give(answer({"state": "cancelling"}, ask.ask)) == [Reply(9, True, {"state": "cancelling"}, need=Need.SYNCED)]


@pytest.mark.parametrize(
    ("question", "ok", "code"), [("signal", True, ""), ("answer", True, ""), ("retry", True, ""), ("signal", False, "task_ended")]
)
def test_what_must_hold_whoever_manages_later_is_said_when_the_keepers_have_it(question: str, ok: bool, code: str) -> None:
    """Seed 280430: a manager that was led no more told its own client of a signal, or of an end, that was lost with a take-over."""
    hall = Hall()
    hall.give(Enquire(9, question, f"{ME}.1.7"))
    (ask,) = hall.sink.caught
    body = {"task": f"{ME}.1.7"} if ok else {"code": code, "message": "it is over", "fix": "mesh task"}
    assert hall.give(answer(body, ask.ask, ok)) == [Reply(9, ok, body, need=Need.KEPT)]


def test_an_error_is_passed_on() -> None:
    hall = Hall()
    hall.give(Enquire(9, "task", f"{ANNA}.1.7"))
    problem = {"code": "unknown_task", "message": "no", "fix": "mesh tasks"}
    assert hall.give(answer(problem, ok=False), ANNA) == [Reply(9, False, problem, need=Need.FREE)]


@pytest.mark.parametrize("body", [b"", b"nonsense", b"[]", b"[" * 100_000, b"\xff"])
def test_an_answer_that_is_no_object_is_counted_and_replied_to(body: bytes) -> None:
    hall = Hall()
    hall.give(Enquire(9, "task", f"{ANNA}.1.7"))
    effects = hall.give(Answer(BASE, True, body), ANNA)
    assert effects[0] == Refused("bad_answer", ANNA)
    assert error(effects) == "bad_answer"


def test_only_who_was_asked_may_answer() -> None:
    hall = Hall()
    hall.give(Enquire(9, "task", f"{ANNA}.1.7"))
    assert hall.give(answer({}), BERT) == [Refused("answer_not_asked", BERT)]
    assert len(of(hall.give(answer({}), ANNA), Reply)) == 1


def test_an_id_may_be_shortened_as_long_as_it_is_unique() -> None:
    hall = Hall()
    assert sent(hall.give(Enquire(1, "task", "aaaaaaaa.1.7")), Ask)[0].key == f"{ANNA}.1.7"
    assert error(hall.give(Enquire(2, "task", "aaaa.1.7"))) == "ambiguous_task"
    assert error(hall.give(Enquire(3, "task", "zzzz.1.7"))) == "unknown_task"
    assert error(hall.give(Enquire(4, "task", "nonsense"))) == "unknown_task"
    assert error(hall.give(Enquire(5, "result", ""))) == "unknown_task"


def test_an_author_who_cannot_be_reached_is_said_so() -> None:
    hall = Hall()
    hall.give(Enquire(2, "story", f"{ANNA}.1.7"))
    assert error(hall.give(MemberDied(ANNA))) == "author_unreachable"
    hall.give(Enquire(3, "task", f"{BERT}.1.7"))
    assert error(hall.later(hall.limits.ask_timeout_s)) == "author_unreachable"


SEARCH_ALL = b'{"search": true}'
NOBODY_KNOWS = {"code": "unknown_task", "message": "no", "fix": "mesh tasks"}


def test_who_kept_the_journal_of_an_author_that_is_gone_may_know() -> None:
    hall = Hall()
    key = f"{CARL}.1.7"
    assert [each.to for each in of(hall.give(Enquire(1, "task", key)), Send)] == [ANNA, BERT]
    assert hall.give(answer(NOBODY_KNOWS, ok=False), ANNA) == []
    assert hall.give(answer({"task": key, "state": "done"}), BERT) == [Reply(1, True, {"task": key, "state": "done"}, need=Need.FREE)]
    assert [each.to for each in of(hall.give(Enquire(2, "story", key)), Send)] == [ANNA, BERT]
    assert hall.give(answer(b'{"commits":[]}', BASE + 1), BERT) == [], "a story without entries is none"
    told = b'{"commits":[1]}'
    assert hall.give(answer(told, BASE + 1), ANNA) == [Reply(2, True, {"story": told, "author": ANNA}, need=Need.FREE)]
    hall.give(Enquire(3, "task", key))
    assert error(hall.later(hall.limits.gather_s)) == "author_unreachable"


def test_a_result_is_waited_for_through_death_and_restart() -> None:
    hall = Hall()
    key = f"{CARL}.1.7"
    assert [each.to for each in of(hall.give(Enquire(1, "result", key)), Send)] == [ANNA, BERT]
    for peer in (ANNA, BERT, ME):
        assert hall.give(answer(NOBODY_KNOWS, ok=False), peer) == [], "its author may come back"
    assert hall.give(MemberDied(CARL)) == []
    hall.directory.ensure(CARL).linked = True
    assert sent(hall.give(MemberLinked(CARL)), Ask) == [Ask(BASE, "result", key, SEARCH_ALL)]
    again = of(hall.later(hall.limits.ask_repeat_s), Send)
    assert [each.to for each in again] == [ANNA, BERT, CARL]
    assert of(hall.give(answer({"state": "done", "result": 1}), CARL), Reply) == [
        Reply(1, True, {"state": "done", "result": 1}, need=Need.FREE)
    ]
    assert hall.later(60) == []


def test_where_each_guesses_that_another_has_it_all_are_asked() -> None:
    hall = Hall()
    key, asked = f"{ANNA}.1.7", ANNA
    hall.give(Enquire(1, "result", key))
    for _ in range(HOPS_MAX - 1):
        other = BERT if asked == ANNA else ANNA
        effects = hall.give(answer({"code": "moved", "manager": other}, ok=False), asked)
        assert [each.to for each in of(effects, Send)] == [other]
        asked = other
    effects = hall.give(answer({"code": "moved", "manager": ANNA}, ok=False), asked)
    assert {each.to for each in of(effects, Send)} == {ANNA, BERT}
    assert hall.give(answer({"code": "moved", "manager": BERT}, ok=False), ANNA) == []
    (reply,) = of(hall.give(answer({"state": "done", "result": 1}), BERT), Reply)
    assert reply.ok and reply.body == {"state": "done", "result": 1}


def test_where_who_took_it_over_knows_nothing_of_it_all_are_asked() -> None:
    """Whoever ended it is gone, and a third keeps the log of that one."""
    hall = Hall()
    key = f"{ANNA}.1.7"
    hall.directory.inherit(ANNA, Heir(1, 9, 2, BERT))
    effects = hall.give(Enquire(1, "task", key))
    (asked,) = [each.to for each in of(effects, Send)]
    effects = hall.give(answer({"code": "unknown_task"}, ok=False), asked)
    assert {each.to for each in of(effects, Send)} == {ANNA, BERT}
    hall.give(answer({"code": "unknown_task"}, ok=False), asked)
    (reply,) = of(hall.give(answer({"state": "done"}), BERT if asked == ANNA else ANNA), Reply)
    assert reply.ok and reply.body == {"state": "done"}


def test_where_nobody_knows_it_that_is_said() -> None:
    hall = Hall()
    hall.directory.inherit(ANNA, Heir(1, 9, 2, BERT))
    hall.give(Enquire(1, "retry", f"{ANNA}.1.7"))
    for peer in (ANNA, BERT, ANNA):
        hall.give(answer(NOBODY_KNOWS, ok=False), peer)
    assert error(hall.give(answer(NOBODY_KNOWS, ok=False), ME)) == "unknown_task"


def deny(hall: Hall) -> list[Any]:
    """All who are asked say that they do not know it."""
    return [effect for peer in (ANNA, BERT, ME) for effect in hall.give(answer(NOBODY_KNOWS, ok=False), peer)]


def test_nobody_waits_for_the_result_of_what_everybody_denies_twice_more() -> None:
    hall = Hall()
    hall.directory.ensure(CARL).state = LEFT
    hall.directory.inherit(ANNA, Heir(1, 9, 2, BERT))
    hall.give(Enquire(1, "result", f"{ANNA}.1.7"))
    hall.give(answer(NOBODY_KNOWS, ok=False), ANNA)
    for _ in range(2):
        assert not of(deny(hall), Reply), "it may be on its way from one to another"
        effects = hall.later(hall.limits.ask_repeat_s)
    assert error(effects) == "unknown_task"


def test_the_result_is_waited_for_while_somebody_is_away_who_may_know() -> None:
    hall = Hall()
    hall.directory.inherit(ANNA, Heir(1, 9, 2, BERT))
    hall.give(Enquire(1, "result", f"{ANNA}.1.7"))
    hall.give(answer(NOBODY_KNOWS, ok=False), ANNA)
    for _ in range(5):
        deny(hall)
        assert not of(hall.later(hall.limits.ask_repeat_s), Reply)


@pytest.mark.parametrize("what", ["cancel", "retry"])
def test_what_changes_something_is_asked_of_the_one_who_knows_the_task(what: str) -> None:
    hall = Hall()
    key = f"{CARL}.1.7"
    searching = of(hall.give(Enquire(1, what, key)), Send)
    assert [(each.to, each.message) for each in searching] == [(node, Ask(BASE, "task", key, SEARCH_ALL)) for node in (ANNA, BERT)]
    hall.give(answer(NOBODY_KNOWS, ok=False), ANNA)
    found = of(hall.give(answer({"task": key, "state": "running"}), BERT), Send)
    assert [(each.to, each.message) for each in found] == [(BERT, Ask(BASE + 1, what, key, SEARCH_ALL))]
    assert hall.give(answer({"task": key, "state": "running"}), BERT) == [Refused("answer_not_asked", BERT)], "said twice"
    assert hall.give(answer({"task": key}, BASE + 1), BERT) == [Reply(1, True, {"task": key}, need=Need.FREE)]


@pytest.mark.parametrize("what", ["cancel", "retry"])
def test_who_is_found_and_moves_it_on_has_the_last_word(what: str) -> None:
    hall = Hall()
    hall.give(Enquire(1, what, f"{CARL}.1.7"))
    hall.give(answer({"state": "running"}), BERT)
    assert error(hall.give(answer({"code": "moved", "manager": ANNA, "message": "m", "fix": "f"}, BASE + 1, ok=False), BERT)) == "moved"


def test_what_a_revoked_node_had_taken_over_is_asked_of_everybody() -> None:
    hall = Hall()
    hall.directory.inherit(CARL, Heir(1, 9, 2, BERT))
    hall.give(Enquire(1, "result", f"{CARL}.1.7"))
    hall.directory.ensure(BERT).linked = False
    assert [each.to for each in of(hall.give(MemberRevoked(BERT)), Send)] == [ANNA]
    assert error(hall.give(MemberRevoked(CARL))) == "node_revoked"


def test_a_client_that_hangs_up_is_forgotten() -> None:
    hall = Hall()
    hall.give(Enquire(1, "result", f"{ANNA}.1.7"))
    hall.give(RequestGone(1))
    hall.give(RequestGone(77))
    assert hall.later(60) == []
    assert hall.give(answer({}), ANNA) == [Refused("answer_not_asked", ANNA)]


def test_stories_pass_through_as_bytes() -> None:
    hall = Hall()
    hall.give(Enquire(1, "story", f"{ANNA}.1.7"))
    assert hall.give(answer(b"\x93packed"), ANNA) == [Reply(1, True, {"story": b"\x93packed", "author": ANNA}, need=Need.FREE)]


def test_stories_and_bodies_may_be_asked_of_a_named_node() -> None:
    hall = Hall()
    assert of(hall.give(Enquire(1, "story", f"{ANNA}.1.7", {"node": "bert"})), Send)[0].to == BERT
    assert of(hall.give(Enquire(2, "body", FILE, {"node": ANNA})), Send)[0].to == ANNA
    assert hall.give(answer(b"bytes", BASE + 1), ANNA) == [Reply(2, True, {"body": b"bytes", "author": ANNA}, need=Need.FREE)]
    assert error(hall.give(Enquire(3, "body", FILE, {"node": "nobody"}))) == "unknown_node"


def test_unknown_questions_and_bad_hashes_are_refused() -> None:
    hall = Hall()
    assert error(hall.give(Enquire(1, "meaning", "life"))) == "unknown_question"
    assert error(hall.give(Enquire(2, "hash", "../x"))) == "bad_hash"


def test_questions_are_bounded() -> None:
    hall = Hall(WorkLimits(asks_max=1))
    hall.give(Enquire(1, "result", f"{ANNA}.1.7"))
    assert error(hall.give(Enquire(2, "result", f"{ANNA}.1.8"))) == "overloaded"
    hall.give(Step(3, f"{ANNA}.1.7", 1, "s", "greet", b"{}"))
    assert error(hall.give(Step(4, f"{ANNA}.1.7", 1, "t", "greet", b"{}"))) == "overloaded"


def test_no_question_of_a_later_life_fits_an_answer_to_an_earlier_one() -> None:
    before, after = Hall(), Hall()
    first = sent(before.give(Enquire(1, "task", f"{ANNA}.1.7")), Ask)[0].ask
    after.now += 0.002
    assert sent(after.give(Enquire(1, "task", f"{ANNA}.1.8")), Ask)[0].ask > first + (1 << 20)


# ---- all nodes


def test_tasks_of_all_linked_nodes_are_merged_and_the_missing_named() -> None:
    hall = Hall()
    effects = hall.give(Enquire(1, "tasks", "", {"state": "running"}))
    assert [effect.to for effect in effects] == [ANNA, BERT]
    (ask,) = hall.sink.caught
    assert json.loads(ask.args) == {"state": "running"}
    assert hall.give(answer({"tasks": [{"task": "t1", "age_ms": 50}]}, ask.ask)) == []
    assert hall.give(answer({"tasks": [{"task": "t2", "age_ms": 5}, {"task": "t1", "age_ms": 50}, "odd", {}]}), ANNA) == []
    effects = hall.give(answer({"tasks": []}), BERT)
    assert effects == [
        Reply(1, True, {"tasks": [{"task": "t2", "age_ms": 5}, {"task": "t1", "age_ms": 50}], "missing": ["carl"]}, need=Need.SYNCED)
    ]


def test_silent_refusing_and_dying_nodes_do_not_hold_up_the_rest() -> None:
    hall = Hall()
    hall.directory.ensure(CARL).state = LEFT
    hall.give(Enquire(1, "hash", FILE))
    hall.give(answer({"tasks": [{"task": "t1", "as": "input"}, {"task": "t1", "as": "file"}]}))
    hall.give(MemberDied(ANNA))
    effects = hall.later(hall.limits.gather_s)
    assert of(effects, Reply)[0].body == {
        "tasks": [{"task": "t1", "as": "input"}, {"task": "t1", "as": "file"}],
        "missing": ["anna", "bert"],
    }
    hall.give(Enquire(2, "tasks"))
    assert hall.give(answer(b"nonsense", hall.desk._last_ask), ANNA) == [Refused("bad_answer", ANNA)]
    assert hall.give(answer({"code": "x"}, hall.desk._last_ask, ok=False), BERT) == [Refused("bad_answer", BERT)]
    (reply,) = of(hall.give(answer({"tasks": []}, hall.desk._last_ask)), Reply)
    assert reply.body == {"tasks": [], "missing": ["anna", "bert"]}


def test_bytes_come_from_the_first_that_has_them() -> None:
    hall = Hall()
    no = {"code": "unknown_body", "message": "no", "fix": "no"}
    hall.give(Enquire(1, "body", FILE))
    assert hall.give(answer(no, ok=False)) == []
    assert hall.give(answer(b"bytes"), BERT) == [Reply(1, True, {"body": b"bytes", "author": BERT}, need=Need.FREE)]
    hall.give(Enquire(2, "body", FILE))
    ask = hall.desk._last_ask
    for peer in (ME, ANNA):
        assert hall.give(answer(no, ask, ok=False), peer) == []
    assert error(hall.give(answer(no, ask, ok=False), BERT)) == "unknown_body"


# ---- steps


def step(request: int = 5, parent: str = f"{ANNA}.1.7") -> Step:
    return Step(request, parent, 3, "clean", "transform", b"{}", 1000, ((FILE, 4),))


ASKED = StepAsk(BASE, f"{ANNA}.1.7", 3, "clean", "transform", b"{}", 1000, ((FILE, 4),))
CHILD = f"{ANNA}.1.8"


def test_a_step_goes_to_the_parents_manager_and_back() -> None:
    hall = Hall()
    assert hall.give(step()) == [Send(ANNA, ASKED, need=Need.FREE)]
    assert hall.give(StepSeen(BASE, CHILD), ANNA) == []
    done = StepDone(BASE, CHILD, "done", b"1", b"", ((FILE, 4),))
    body = {"task": CHILD, "state": "done", "output": b"1", "files": ((FILE, 4),), "error": {}, "ended_ms": 0}
    assert hall.give(done, ANNA) == [Reply(5, True, body, need=Need.FREE)]
    assert hall.give(done, ANNA) == [Refused("step_not_asked", ANNA)]
    assert hall.later(60) == []


def test_a_step_is_repeated_until_seen_and_then_now_and_then() -> None:
    hall = Hall()
    hall.give(step())
    assert sent(hall.later(0.5), StepAsk) == [ASKED]
    assert sent(hall.later(0.5), StepAsk) == [ASKED]
    hall.give(StepSeen(BASE, CHILD), ANNA)
    assert sent(hall.later(4.9), StepAsk) == []
    assert sent(hall.later(0.2), StepAsk) == [ASKED]
    assert sent(hall.give(MemberLinked(ANNA)), StepAsk) == [ASKED]
    assert hall.give(MemberLinked(BERT)) == []


def test_a_step_waits_for_a_manager_who_is_away() -> None:
    hall = Hall()
    assert hall.give(step(parent=f"{CARL}.1.7")) == []
    assert hall.later(30) == []
    hall.directory.ensure(CARL).linked = True
    assert len(sent(hall.give(MemberLinked(CARL)), StepAsk)) == 1
    hall.give(RequestGone(5))
    assert hall.later(60) == []


def test_failed_and_refused_steps() -> None:
    hall = Hall()
    hall.give(step())
    problem = {"code": "handler_failed", "message": "no", "fix": "mesh why"}
    (reply,) = of(hall.give(StepDone(BASE, CHILD, "failed", error=json.dumps(problem).encode()), ANNA), Reply)
    assert (reply.ok, reply.body["state"], reply.body["error"]) == (True, "failed", problem)
    hall.give(step(6))
    (reply,) = of(hall.give(StepDone(BASE + 1, "", "refused", error=b'{"code": "stale_fence"}'), ANNA), Reply)
    assert (reply.ok, reply.body["code"], bool(reply.body["fix"])) == (False, "stale_fence", True)
    hall.give(step(7))
    effects = hall.give(StepDone(BASE + 2, CHILD, "failed", error=b"nonsense"), ANNA)
    assert effects[0] == Refused("bad_step_error", ANNA)
    assert hall.give(StepSeen(BASE + 2, CHILD), BERT) == [Refused("step_not_asked", BERT)]
    assert error(hall.give(step(8, "nonsense"))) == "unknown_task"


# ---- effects


def effect(request: int = 5, task: str = f"{ANNA}.1.7", once: bool = False) -> EffectPermitted:
    return EffectPermitted(EffectBegin(request, 1, task, 3, "mail", 1, once))


def test_an_effect_goes_to_the_tasks_manager_and_back() -> None:
    hall = Hall()
    asked = EffectAsk(BASE, f"{ANNA}.1.7", 3, "mail", 1, False)
    assert hall.give(effect()) == [Send(ANNA, asked, need=Need.FREE)]
    assert sent(hall.later(0.5), EffectAsk) == [asked] == sent(hall.give(MemberLinked(ANNA)), EffectAsk)
    go = EffectAnswer(BASE, "go")
    assert hall.give(go, BERT) == [Refused("effect_not_asked", BERT)]
    assert hall.give(go, ANNA) == [Reply(5, True, {"state": "go", "output": b""}, need=Need.FREE)]
    assert hall.give(go, ANNA) == [Refused("effect_not_asked", ANNA)]
    [done] = sent(hall.give(EffectEnd(6, f"{ANNA}.1.7", 3, "mail", 1, b"7")), EffectDone)
    assert done == EffectDone(done.ask, f"{ANNA}.1.7", 3, "mail", 1, b"7")
    assert hall.give(EffectAnswer(done.ask, "noted"), ANNA) == [Reply(6, True, {"state": "noted", "output": b""}, need=Need.FREE)]
    assert hall.later(60) == []


def test_refused_effects_and_handlers_that_are_gone() -> None:
    hall = Hall()
    hall.give(effect())
    refused = EffectAnswer(BASE, "refused", b"", b'{"code": "outcome_unknown", "message": "m", "fix": "f"}')
    assert error(hall.give(refused, ANNA)) == "outcome_unknown"
    hall.give(effect())
    effects = hall.give(EffectAnswer(BASE + 1, "refused", b"", b"nonsense"), ANNA)
    assert effects[0] == Refused("bad_effect_error", ANNA) and error(effects) == "refused"
    hall.give(effect())
    hall.give(RequestGone(5))
    assert hall.later(60) == []


@pytest.mark.parametrize(("state", "once"), [("go", False), ("go", True), ("done", False)])
def test_what_this_nodes_own_manager_says_waits_for_its_disk(state: str, once: bool) -> None:
    """For its keepers it has waited before it was said, where it has to: a plain call's effects do not."""
    hall = Hall()
    hall.give(effect(task=f"{ME}.1.7", once=once))
    [ask] = [item.ask for item in hall.sink.caught]
    [said] = of(hall.give(EffectAnswer(ask, state, b"1")), Reply)
    assert said.need is Need.SYNCED
