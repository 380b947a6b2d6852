"""What checkers take for a copy, and from when on they take its task for the copier's own."""

from __future__ import annotations

from typing import Any

from mesh.messages.records import Forgone, Inherited, Opened, Submitted, TookOver
from mesh.sim.checkers.copies import RESOLVING, Copies, Drafts
from mesh.sim.history import Appended


def driven_after(*entries: Any) -> list[str]:
    """The tasks that the node `n` drives after each `TookOver` of its own, in their order."""
    copies, drafts, driven = Copies(), Drafts[None](), []
    for seq, entry in enumerate(entries, 1):
        path = copies.path(Appended(0.0, "n", 1, seq, entry))
        if type(entry) in RESOLVING:
            driven += list(drafts.resolve("n", path, entry))
        elif type(entry) is Submitted and path:
            drafts.keep("n", path, entry.task, None)
    return driven


def task(name: str) -> Submitted:
    return Submitted(name, "greet", "", "", 0, 3)


def test_a_draft_counts_when_it_is_taken_over_and_only_then():
    draft = (Inherited("ann", 2, 1), task("ann.1.1"), task("n.1.1"))
    assert driven_after(*draft) == []
    assert driven_after(*draft, TookOver("bob", 2)) == [], "another's"
    assert driven_after(*draft, TookOver("ann", 2)) == ["ann.1.1"]
    assert driven_after(*draft, Forgone("ann", 2), TookOver("ann", 2)) == []


def test_what_its_author_had_only_drafted_waits_for_its_own_end():
    drafts = (Inherited("ann", 2, 3), Inherited("bob", 5, 1), task("bob.1.1"), task("ann.1.1"))
    assert driven_after(*drafts, TookOver("ann", 2)) == ["ann.1.1"]
    assert driven_after(*drafts, TookOver("bob", 5), TookOver("ann", 2)) == ["ann.1.1"], "bob's is still inside ann's"
    assert driven_after(*drafts, TookOver("ann", 2), TookOver("bob", 5)) == ["ann.1.1", "bob.1.1"]


def test_what_its_author_had_taken_over_counts_with_the_rest():
    drafts = (Inherited("ann", 2, 3), Inherited("bob", 5, 1), task("bob.1.1"), TookOver("bob", 5))
    assert driven_after(*drafts, TookOver("ann", 2)) == ["bob.1.1"]


def test_a_copy_that_a_crash_cut_short_ends_with_the_next_life():
    assert driven_after(Inherited("ann", 2, 9), task("ann.1.1"), Opened(2, "", 2), task("n.2.1"), TookOver("ann", 2)) == ["ann.1.1"]


def test_a_log_that_is_copied_again_replaces_what_was_copied_before():
    entries = (Inherited("ann", 2, 2), task("ann.1.1"), task("ann.1.2"), Inherited("ann", 2, 1), task("ann.1.2"), TookOver("ann", 2))
    assert driven_after(*entries) == ["ann.1.2"]
