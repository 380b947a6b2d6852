"""What a dead manager had alone on his disk counts for nobody, whatever the clocks say."""

from __future__ import annotations

from itertools import count
from typing import Any

import pytest

from mesh.inspector import lineage, trace
from mesh.inspector.why import explain

FIRST, SECOND = (1 << 32) + 1, (2 << 32) + 1
TASK = "a.1.1"


def entry(kind: str, at_ms: int, author: str = "a", **more: Any) -> dict[str, Any]:
    return {"kind": kind, "task": TASK, "wall_ms": at_ms, "author": author, "seq": next(NUMBERS), "verified": True, **more}


NUMBERS = count(1)


def decided(at_ms: int, author: str, fence: int, node: str) -> dict[str, Any]:
    offer = {"node": node, "name": f"{node}-name", "agent": "w", "start_ms": 0, "service_ms": 0, "cost": 0.0}
    return entry("Decided", at_ms, author, fence=fence, winner=node, candidates=[offer], refusals=[], way="auction", rule="")


def finished(at_ms: int, author: str, fence: int, node: str, output: str) -> dict[str, Any]:
    return entry("Finished", at_ms, author, fence=fence, state="done", node=node, agent="w", output=output, files=[[output, 1]], error="")


@pytest.mark.parametrize("alone_ms", [1400, 2500], ids=["his clock is right", "his clock is ahead"])
def test_an_end_that_no_keeper_had_is_passed_over_where_the_work_was_given_away_anew(alone_ms: int) -> None:
    told = [
        entry("Submitted", 1000, by="", parent="", step="", capability="work", input="", files=[]),
        decided(1200, "a", FIRST, "b"),
        finished(alone_ms, "a", FIRST, "b", "lone"),
        entry("Lost", 1500, "c", fence=FIRST, reason="dead", node="b"),
        decided(1600, "c", SECOND, "d"),
        finished(2000, "c", SECOND, "d", "kept"),
    ]
    told.sort(key=lambda one: one["wall_ms"])
    [row] = lineage.document(TASK, told)["tasks"]
    assert (row["state"], row["output"], row["files_out"], row["node"]) == ("done", "kept", ["kept"], "d-name")
    [row] = trace.document(TASK, told, 3000)["rows"]
    assert (row["end_ms"], [one["lost"] for one in row["attempts"]]) == (2000, ["dead", ""])
    assert [one["outcome"] for one in explain(TASK, told)["decisions"]] == ["lost: dead", "done"]
    before = [one for one in told if one["author"] == "a"]
    assert [row["output"] for row in lineage.document(TASK, before)["tasks"]] == ["lone"], "while nobody says otherwise it is the end"
