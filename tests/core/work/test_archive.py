"""What ended at a manager who is gone is read from his log: once for all who ask."""

from __future__ import annotations

from typing import Any

import pytest
from manager_bench import Bench, started

from mesh.core.directory import Heir
from mesh.core.keeping.inputs import TaleRead
from mesh.effects import ReadTale
from mesh.ids import content_hash
from mesh.messages.records import Finished, Submitted
from mesh.messages.work import Answer, Ask

DONE = [f"b.1.{i}" for i in (1, 2, 3)]


def entries() -> list:
    told = []
    for task in DONE:
        told.append((Submitted(task, "greet", content_hash(b"{}"), "me", 0, 0), {content_hash(b"{}"): b"{}"}))
        told.append((Finished(task, 1, "done", "a", "", content_hash(b'"hi"')), {content_hash(b'"hi"'): b'"hi"'}))
    return [(seq, entry, bodies) for seq, (entry, bodies) in enumerate(told, 1)]


def reads(effects: list) -> list[ReadTale]:
    return [effect for effect in effects if type(effect) is ReadTale]


@pytest.fixture
def bench() -> Bench:
    """`b` is gone; its log is kept here. The own journal, which is read first, knows nothing of its tasks."""
    bench = started()
    bench.row("b", linked=False, state="dead")
    bench.directory.guard.logs = (bench.directory.me, "b")
    return bench


def asked(bench: Bench, *what: Any) -> list:
    """What is read after the own journal."""
    (own,) = reads(bench.give(Ask(*what), "a"))
    assert own.author == bench.directory.me
    return bench.give(TaleRead(own.token, (), False))


def test_a_log_is_read_once_for_all_who_ask_meanwhile(bench):
    (first,) = reads(asked(bench, 1, "result", DONE[0]))
    for ask, task in ((2, DONE[1]), (3, DONE[2]), (2, DONE[1])):
        assert bench.give(Ask(ask, "result", task), "a") == []
    effects = bench.give(TaleRead(first.token, tuple(entries()), False))
    assert [(to, answer.ask, answer.ok) for to, answer in bench.sends(effects, Answer)] == [("a", 1, True)]
    (own,) = reads(effects)
    (second,) = reads(bench.give(TaleRead(own.token, (), False)))
    effects = bench.give(TaleRead(second.token, tuple(entries()), False))
    assert [(answer.ask, answer.ok) for _, answer in bench.sends(effects, Answer)] == [(2, True), (3, True)]
    assert reads(effects) == []


def test_who_asks_again_while_it_is_read_is_answered_once(bench):
    (first,) = reads(asked(bench, 1, "result", DONE[0]))
    assert bench.give(Ask(1, "result", DONE[0]), "a") == []
    effects = bench.give(TaleRead(first.token, tuple(entries()), False))
    assert len(bench.sends(effects, Answer)) == 1
    assert reads(effects) == []


def test_what_no_log_knows_is_not_found(bench):
    (read,) = reads(asked(bench, 1, "task", "b.1.9"))
    ((_, answer),) = bench.sends(bench.give(TaleRead(read.token, tuple(entries()), False)))
    assert not answer.ok


def test_no_log_is_read_while_somebody_who_is_here_drives_it(bench):
    bench.row("c")
    bench.directory.inherit("b", Heir(1, 9, 2, "c"))
    effects = bench.give(Ask(1, "result", DONE[0]), "a")
    assert reads(effects) == []
    ((_, answer),) = bench.sends(effects)
    assert (answer.ok, b'"manager":"c"' in answer.body) == (False, True)


def test_where_everybody_is_asked_each_looks_into_what_he_keeps(bench):
    bench.row("c")
    bench.directory.inherit("b", Heir(1, 9, 2, "c"))
    (read,) = reads(asked(bench, 1, "cancel", DONE[0], b'{"search": true}'))
    ((_, answer),) = bench.sends(bench.give(TaleRead(read.token, tuple(entries()), False)))
    assert (answer.ok, b'"state":"done"' in answer.body) == (True, True)


def test_all_logs_that_are_kept_are_read_those_of_the_likeliest_first(bench):
    """`b` has been taken over from by `c`, and `c` by `d`; that the task came to `e` in the end, nobody here has heard."""
    for node in "cde":
        bench.row(node, linked=False, state="dead")
    bench.directory.inherit("b", Heir(1, 1, 2, "c"))
    bench.directory.inherit("c", Heir(1, 7, 2, "d"))
    bench.directory.guard.logs = (bench.directory.me, "b", "c", "d", "e")
    authors = []
    effects = bench.give(Ask(1, "result", DONE[0]), "a")
    while found := reads(effects):
        authors.append(found[0].author)
        assert found[0].about == (DONE[0],)
        effects = bench.give(TaleRead(found[0].token, tuple(entries()) if authors[-1] == "e" else (), False))
    assert authors == [bench.directory.me, "d", "c", "b", "e"]
    ((_, answer),) = bench.sends(effects)
    assert answer.ok


@pytest.mark.parametrize(("cuts", "known"), [((), True), ((2,), True), ((1,), False), ((1, 9), False), ((4,), True)])
def test_what_an_author_said_of_a_task_after_others_had_taken_it_over_is_void(bench, cuts: tuple[int, ...], known: bool):
    """His first task was submitted as entry 1, and ended by entry 2."""
    bench.directory.guard.cuts = lambda author: cuts if author == "b" else ()
    (read,) = reads(asked(bench, 1, "result", DONE[0]))
    ((_, answer),) = bench.sends(bench.give(TaleRead(read.token, tuple(entries()), False)), Answer)
    assert answer.ok == known


@pytest.mark.parametrize(("cuts", "known"), [((), True), ((1,), False)])
def test_a_copy_of_a_task_in_a_log_that_was_taken_over_later_does_not_make_it_unended(bench, cuts: tuple[int, ...], known: bool):
    """Unless what its author had said of its end is void: then the copy is what counts."""
    me = bench.directory.me
    bench.directory.guard.cuts = lambda author: cuts if author == me else ()
    submitted = Submitted(f"{me}.0.1", "greet", "", "me", 0, 0)
    (own,) = reads(bench.give(Ask(1, "task", submitted.task), "a"))
    told = (submitted, Finished(submitted.task, 1, "failed", me, "", error='{"code": "x"}'), submitted)
    effects = bench.give(TaleRead(own.token, tuple((seq, entry, {}) for seq, entry in enumerate(told, 1)), False))
    assert [answer.ok for _, answer in bench.sends(effects, Answer)] == ([True] if known else [])


def test_what_ended_here_long_ago_is_read_from_the_own_journal(bench):
    me = bench.directory.me
    told = (Submitted(f"{me}.0.1", "greet", "", "me", 0, 0), Finished(f"{me}.0.1", 1, "failed", me, "", error='{"code": "x"}'))
    (own,) = reads(bench.give(Ask(1, "task", f"{me}.0.1"), "a"))
    rows = tuple((seq, entry, {}) for seq, entry in enumerate(told, 1))
    ((_, answer),) = bench.sends(bench.give(TaleRead(own.token, rows, False)), Answer)
    assert (answer.ok, b'"state":"failed"' in answer.body) == (True, True)
