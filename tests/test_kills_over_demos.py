"""`scripts/kills` draws the same points from the same seed, and its judge finds what it is there to find."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))
sys.path.insert(0, str(Path(__file__).parents[1] / "scripts" / "benchmarks"))
from killing import strikes, verdicts
from kills_judge import Ledger

GATE, STEP, ROOT = "g", "s", "r"


def entry(kind: str, task: str = STEP, fence: int = 1, **more: Any) -> dict[str, Any]:
    return {"kind": kind, "task": task, "fence": fence, "author": "a", "seq": 1, "verified": True, "candidates": [], **more}


def record(*entries: dict[str, Any], verified: bool = True) -> list[str]:
    """What is wrong with a round of one task whose record that is, and in which heron's approval was acknowledged."""
    submitted = entry("Submitted", ROOT, parent="", step="", capability="c", by="", files=[], input="", verified=verified)

    async def ask(question: Any, *_: str, what: str = "") -> dict[str, Any]:
        return {"entries": [submitted, *entries]}

    arena: Any = SimpleNamespace(ask=ask, ids={"heron": "h"})
    work: Any = SimpleNamespace(roots=[ROOT], said=[(GATE, "heron", True)])
    return [each.partition(":")[2].strip() for each in asyncio.run(verdicts.record(arena, work))]


WORD = entry("Answered", GATE, node="h", approve=True)


def test_points_are_drawn_from_the_seed_and_differ_by_demo_role_and_round() -> None:
    drawn = [str(strikes.blow(7, demo, role, number)) for demo in ("a", "b") for role in strikes.ROLES for number in range(1, 21)]
    assert drawn == [str(strikes.blow(7, demo, role, number)) for demo in ("a", "b") for role in strikes.ROLES for number in range(1, 21)]
    assert len(set(drawn)) == len(drawn)
    twenty = [strikes.blow(7, "a", "driver", number) for number in range(1, 21)]
    assert sum(each.sparing for each in twenty) == 5 and {each.after_event for each in twenty} == {True, False}
    assert {each.down_s for each in twenty} == set(strikes.DOWN_S) and all(0 <= each.share < 1 for each in twenty)


def test_what_the_record_must_not_say_is_found() -> None:
    done = entry("Finished", fence=2, state="done", node="n", output="", files=[])
    good = [entry("Decided", fence=1), entry("Decided", fence=2), done, WORD]
    assert record(*good) == []
    assert record(*good, entry("Decided", fence=3)) == ["was given to somebody after its end, by the record"]
    assert record(*good, done | {"fence": 3}) == ["ended under two fences of one term, by the record"]
    assert record(*good, done | {"fence": 1 << 32 | 1}) == [], "a successor's, who had not seen the other"
    assert record(*good[:3]) == ["the answer of heron was acknowledged, and on record is none"]
    assert record(*good[:3], WORD | {"approve": False}) == ["the answer of heron was acknowledged, and on record is False"]
    assert record(*good, verified=False) == ["its lineage does not verify"]


def test_a_run_after_the_end_was_told_is_found(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger")
    ledger.path.write_text("start s 1 7 10.0\nend s 1 7 11.0\nstart s 2 8 12.5\nstart other 1 7 20.0\n")
    ledger.look()
    rows = {"s": {"step": "report", "capability": "c", "fence": 2}}
    arena: Any = SimpleNamespace(ledger=ledger, done={"s": (12.0, 2), "other": (12.0, 1)})
    assert verdicts.again(arena, rows) == ["s (report) was done 0.500 s before it ran again"]
    arena.done = {"s": (13.0, 2)}
    assert verdicts.again(arena, rows) == []
    arena.done = {"s": (13.0, 1)}
    assert verdicts.again(arena, rows) == ["s (report) was done under fence 1, and then under 2"]
