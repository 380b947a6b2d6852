"""What a node takes over counts once: when the log says so, never in part, and never after others have taken it from this node in turn."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from manager_bench import Bench, started

from mesh.core.directory import Heir
from mesh.core.inputs import MemberRevoked
from mesh.core.keeping.inputs import Deposed, Leading, LogSettled, TaleTold
from mesh.core.work.succession import Tale
from mesh.messages.records import Bound, Decided, Finished, Forgone, Inherited, Opened, Submitted, TookOver
from mesh.messages.work import Ask, Reclaim

Row = tuple[int, Any, dict[str, bytes]]
OWN, OTHERS = "ann.1.1", "bob.1.7"


def held(task: str, holder: str = "a") -> list[Any]:
    """What a manager writes of a task that runs."""
    fence = (1 << 32) + 1
    return [
        Submitted(task, "greet", "", "", 0, 3),
        Decided(task, fence, "award", "rule", holder, ()),
        Bound(task, fence, 0),
    ]


def numbered(entries: list[Any], first: int = 1) -> tuple[Row, ...]:
    return tuple((seq, entry, {}) for seq, entry in enumerate(entries, first))


def told(bench: Bench, author: str, term: int, entries: list[Any], first: int = 1) -> list[Any]:
    return bench.give(TaleTold(author, term, numbered(entries, first), False))


def copies(effects: list[Any]) -> list[Any]:
    return [entry for entry in Bench.entries(effects) if type(entry) in (Inherited, Submitted, Decided, Bound)]


def drives(bench: Bench) -> list[str]:
    return sorted(bench.manager.book.tasks)


def draft(author: str, term: int, *tasks: str) -> list[Any]:
    rows = [entry for task in tasks for entry in held(task)]
    return [Inherited(author, term, len(rows), 0), *rows]


def test_a_draft_drives_nothing_until_the_log_says_who_took_over():
    bench = started()
    effects = told(bench, "ann", 2, held(OWN))
    assert [type(entry) for entry in Bench.entries(effects)] == [Inherited, Submitted, Decided, Bound]
    assert drives(bench) == []
    effects = bench.give(LogSettled("ann", 2, (2,)))
    assert Bench.entries(effects)[:1] == [TookOver("ann", 2, int(bench.now * 1000))]
    assert [message.items for to, message in bench.sends(effects, Reclaim)] == [((OWN, (1 << 32) + 1),)]
    assert drives(bench) == [OWN]


def test_a_draft_that_lost_is_forgone():
    bench = started()
    told(bench, "ann", 2, held(OWN))
    assert [type(entry) for entry in Bench.entries(bench.give(LogSettled("ann", 3, (3,))))] == [Forgone]
    assert bench.give(LogSettled("ann", 4, (2,))) == []
    assert drives(bench) == []


def test_what_the_author_had_only_drafted_counts_when_both_count():
    bench = started()
    told(bench, "ann", 2, held(OWN) + draft("bob", 5, OTHERS))
    assert Bench.entries(bench.give(LogSettled("bob", 5, (5,)))) == [], "whether ann's log is this node's is not known yet"
    bench.give(LogSettled("ann", 2, (2,)))
    assert drives(bench) == [OWN, OTHERS], "what was known of bob's log is remembered"


def test_the_inner_draft_waits_when_only_the_outer_one_counts():
    bench = started()
    told(bench, "ann", 2, draft("bob", 5, OTHERS) + held(OWN))
    bench.give(LogSettled("ann", 2, (2,)))
    assert drives(bench) == [OWN]
    effects = bench.give(LogSettled("bob", 6, (6,)))
    assert [type(entry) for entry in Bench.entries(effects)] == [Forgone]
    assert drives(bench) == [OWN]


def test_inner_drafts_are_copied_whole_and_found_again_after_a_restart():
    bench = started()
    effects = told(bench, "ann", 2, held(OWN) + draft("bob", 5, OTHERS))
    assert [entry.count for entry in copies(effects) if type(entry) is Inherited] == [7, 3]
    bench.give(LogSettled("ann", 2, (2,)))
    again = Bench(incarnation=2)
    again.start(*bench.journal)
    assert drives(again) == [OWN]
    again.give(LogSettled("bob", 5, (5,)))
    assert drives(again) == [OWN, OTHERS]


def test_what_was_settled_before_this_node_leads_again_counts_for_the_drafts_in_its_journal():
    """It was said by those who keep that log, once, while this node waited for its own keepers."""
    bench = started()
    told(bench, "ann", 2, held(OWN) + draft("bob", 5, OTHERS))
    bench.give(LogSettled("ann", 2, (2,)))
    again = Bench(incarnation=2)
    again.directory.guard.leads = False
    again.start(*bench.journal)
    again.give(LogSettled("bob", 6, (5,)))
    assert drives(again) == []
    again.directory.guard.leads = True
    effects = again.give(Leading(0))
    assert drives(again) == [OWN, OTHERS] and [entry.author for entry in Bench.entries(effects, TookOver)] == ["bob"]


def test_what_was_forgone_is_not_copied_with_an_open_draft_of_the_same_tasks():
    bench = started()
    tale = [*draft("bob", 5, OTHERS), Forgone("bob", 5, 0), *draft("bob", 8, OTHERS)]
    copied = copies(told(bench, "ann", 2, tale))
    assert [type(entry) for entry in copied] == [Inherited, Inherited, Submitted, Decided, Bound]
    assert [(entry.author, entry.term, entry.count) for entry in copied[:2]] == [("ann", 2, 4), ("bob", 8, 3)]


def test_what_the_author_had_taken_over_is_copied_as_his_own():
    bench = started()
    copied = copies(told(bench, "ann", 2, [*draft("bob", 5, OTHERS), TookOver("bob", 5, 0)]))
    assert [type(entry) for entry in copied] == [Inherited, Submitted, Decided, Bound]


def test_a_draft_without_its_end_counts_for_nobody():
    bench = started()
    assert copies(told(bench, "ann", 2, draft("bob", 5, OTHERS, "bob.1.8")[:-2])) == []


def test_a_draft_that_a_crash_broke_off_swallows_nothing_of_the_next_life():
    bench = started()
    tale = [*draft("bob", 5, OTHERS)[:-1], Opened(2, b"", 4), *held("ann.2.1")]
    assert [entry.task for entry in copies(told(bench, "ann", 2, tale)) if type(entry) is Submitted] == ["ann.2.1"]


def test_the_end_of_a_draft_without_its_beginning_is_no_work_of_the_author():
    tale = Tale("ann", 2, lambda node: False)
    tale.add(numbered(draft("bob", 5, OTHERS)[1:] + held(OWN)))
    assert {row[1].task for row in tale.entries()} == {OWN}


def test_a_draft_goes_with_what_others_take_over():
    bench = started()
    told(bench, "ann", 2, held(OWN))
    last = len(bench.journal)
    bench.give(Deposed(max(last, 1_000)))
    assert Bench.entries(bench.give(LogSettled("ann", 2, (2,)))) == [], "whoever took over from this node has the draft, too"
    assert drives(bench) == []


def test_own_tasks_that_are_being_cancelled_end_so_when_this_node_is_revoked():
    bench = started()
    item = bench.held()
    bench.give(Ask(1, "cancel", item.task, b"{}"), "b")
    effects = bench.give(MemberRevoked("me"))
    assert [(entry.task, entry.state) for entry in Bench.entries(effects, Finished)] == [(item.task, "cancelled")]


def step_of(parent: str, task: str) -> Submitted:
    return Submitted(task, "greet", "", "", 0, 3, parent=parent, step="0.greet")


def test_a_step_that_came_after_its_parent_was_taken_over_is_cancelled():
    """Whoever drives the parent never knew of it, and begins a step of that name for himself."""
    bench = started()
    told(bench, "ann", 2, held(OWN))
    bench.give(LogSettled("ann", 2, (2,)))
    told(bench, "ann", 4, [step_of(OWN, "ann.1.2")], first=4)
    effects = bench.give(LogSettled("ann", 4, (2, 4)))
    assert [(entry.task, entry.state) for entry in Bench.entries(effects, Finished)] == [("ann.1.2", "cancelled")]
    assert drives(bench) == [OWN]


def test_a_step_that_came_before_goes_on_with_its_parent():
    bench = started()
    told(bench, "ann", 2, [*held(OWN), step_of(OWN, "ann.1.2")])
    bench.give(LogSettled("ann", 2, (2,)))
    assert drives(bench) == [OWN, "ann.1.2"]


def test_who_loses_a_task_cancels_the_steps_that_the_taker_does_not_know():
    bench = Bench()
    bench.start(*held(OWN), step_of(OWN, "ann.1.2"))
    effects = bench.give(Deposed(3))
    assert [(entry.task, entry.state) for entry in Bench.entries(effects, Finished)] == [("ann.1.2", "cancelled")]
    assert drives(bench) == []


def test_an_inherited_task_is_said_to_be_with_whoever_took_it():
    """And not with the last who took over from here."""
    bench = started()
    told(bench, "ann", 2, held(OWN))
    bench.give(LogSettled("ann", 2, (2,)))
    seq = bench.manager.book.tasks[OWN].seq
    for heir in (Heir(0, 0, 3, "c", seq - 1), Heir(0, 0, 4, "d", seq + 3), Heir(0, 0, 5, "e", seq + 9)):
        bench.directory.inherit("me", heir)
    bench.give(Deposed(seq + 9))
    ((_, answer),) = bench.sends(bench.unknown(Ask(1, "task", OWN), "e"))
    assert b'"manager":"d"' in answer.body


def aged(bench: Bench, task: str) -> tuple[int, int]:
    """Its age, and what is left of its time, both in seconds."""
    found = bench.manager.book.tasks[task]
    return round(bench.now - found.submitted_at_s), round(found.left_ms(bench.now) / 1000)


def test_what_is_taken_over_is_as_old_as_its_author_knew():
    """`at_ms` is on his machine's clock: his newest stamp tells how that one differs."""
    bench = started()
    bench.after(100)
    row = bench.directory.ensure("ann")
    row.stamp_ms, row.stamp_at_s = 7_000_000, bench.now - 5
    entries = [replace(held(OWN)[0], timeout_ms=600_000, at_ms=7_000_000 - 60_000), *held(OWN)[1:]]
    told(bench, "ann", 2, entries)
    bench.give(LogSettled("ann", 2, (2,)))
    assert aged(bench, OWN) == (65, 535)


def test_what_was_taken_over_is_as_old_after_a_restart_and_with_the_next_who_takes_it_over():
    """Each taker writes down how far his clock is ahead of theirs: nobody who comes later need have heard of them."""
    ann = started()
    ann.after(100)
    row = ann.directory.ensure("bob")
    row.stamp_ms, row.stamp_at_s = 7_000_000, ann.now - 5
    told(ann, "bob", 2, [replace(held(OTHERS)[0], timeout_ms=600_000, at_ms=7_000_000 - 60_000), *held(OTHERS)[1:]])
    ann.give(LogSettled("bob", 2, (2,)))
    again = Bench(incarnation=2)
    again.after(ann.now + 30 - again.now)
    again.start(*ann.journal)
    assert aged(again, OTHERS) == (95, 505)
    carl = started()
    carl.after(5_000)
    row = carl.directory.ensure("ann")
    row.stamp_ms, row.stamp_at_s = int(ann.now * 1000) + 20_000, carl.now - 3
    told(carl, "ann", 4, list(ann.journal))
    carl.give(LogSettled("ann", 4, (4,)))
    assert aged(carl, OTHERS) == (88, 512)


def test_what_is_taken_over_from_whom_this_node_never_heard_begins_its_time_again():
    bench = started()
    bench.after(100)
    told(bench, "ann", 2, [replace(held(OWN)[0], timeout_ms=600_000, at_ms=6_940_000), *held(OWN)[1:]])
    bench.give(LogSettled("ann", 2, (2,)))
    assert aged(bench, OWN) == (0, 600)


def test_an_own_end_that_others_did_not_know_of_stays_void_after_the_next_take_over():
    """Taken over up to its decision, and once more later: what this node wrote in between of that task never was."""
    before = started()
    item = before.held()
    taken = len(before.journal)
    before.result(item, "a")
    later = len(before.journal)
    bench = Bench(incarnation=2)
    bench.directory.guard.taken = later
    bench.directory.guard.cuts = lambda _author: (taken, later)
    bench.start(*before.journal, bodies=before.bodies)
    assert item.task not in bench.manager.book.ended and item.task in bench.manager.book.moved
