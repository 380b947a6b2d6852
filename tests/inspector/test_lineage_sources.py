"""Where a result comes from, also when its story stands in several journals."""

from __future__ import annotations

from itertools import permutations
from typing import Any

from mesh.inspector.lineage import document

SOURCE, GOOD, PAGE = "5" * 64, "6" * 64, "7" * 64


def entry(kind: str, author: str, seq: int, task: str, *files: str, parent: str = "") -> dict[str, Any]:
    common = {"kind": kind, "author": author, "seq": seq, "task": task, "files": [[file, 1] for file in files], "verified": True}
    if kind == "Submitted":
        return common | {"capability": "c", "step": task, "parent": parent, "by": "", "input": ""}
    return common | {"state": "done", "node": "n", "agent": "a", "output": "", "error": "", "fence": 1, "at_ms": seq, "wall_ms": seq}


def test_sources_do_not_depend_on_whose_journal_says_what() -> None:
    """A step hands on the very bytes it was given; who took over may have a smaller id than the dead manager, who has the submits."""
    for dead, heir in permutations(("a", "z")):
        story = [
            entry("Submitted", dead, 1, "t.1.1", SOURCE),
            entry("Submitted", dead, 2, "t.1.2", SOURCE, parent="t.1.1"),
            entry("Finished", heir, 1, "t.1.2", SOURCE),
            entry("Submitted", heir, 2, "t.1.3", SOURCE, parent="t.1.1"),
            entry("Finished", heir, 3, "t.1.3", GOOD),
            entry("Submitted", heir, 4, "t.1.4", GOOD, parent="t.1.1"),
            entry("Finished", heir, 5, "t.1.4", PAGE),
            entry("Finished", heir, 6, "t.1.1", PAGE),
        ]
        assert document("t.1.1", story)["sources"] == [SOURCE]


def test_what_comes_back_as_it_was_given_is_a_source_still() -> None:
    story = [
        entry("Submitted", "a", 1, "t.1.1", SOURCE),
        entry("Submitted", "a", 2, "t.1.2", SOURCE, parent="t.1.1"),
        entry("Finished", "a", 3, "t.1.2", GOOD),
        entry("Submitted", "a", 4, "t.1.3", GOOD, parent="t.1.1"),
        entry("Finished", "a", 5, "t.1.3", SOURCE),
    ]
    assert document("t.1.1", story)["sources"] == [SOURCE]
