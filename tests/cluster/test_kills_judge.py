"""The judge of `scripts/bench kills` finds what it is there to find."""

from __future__ import annotations

import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts" / "benchmarks"))
from kills_judge import Ledger, effects, runs

SORTS = {"t": "work.plain", "k": "work.keyed", "o": "work.once", "x": "work.tx"}
HONEST = (
    "start t 1 7; end t 1 7; start k 1 7; deed k 1 7; known k 1 7; end k 1 7; start o 1 7; deed o 1 7; end o 1 7; start x 1 7; end x 1 7"
)


def ledger(folder: Path, text: str, rows: int = 1) -> Ledger:
    """`text`: lines without their times."""
    made = Ledger(folder / "ledger")
    made.path.write_text("".join(f"{line.strip()} {i}.5\n" for i, line in enumerate(text.split(";"))))
    with closing(sqlite3.connect(made.database)) as db:
        db.executemany("INSERT INTO deeds VALUES ('x', ?)", [(i,) for i in range(rows)])
        db.commit()
    made.look()
    return made


def wrong(judged: Ledger) -> set[str]:
    return set(effects(judged, SORTS)) | set(runs(judged, dict.fromkeys(SORTS, 1)))


def test_an_honest_ledger_has_nothing_wrong(tmp_path: Path) -> None:
    assert wrong(ledger(tmp_path, HONEST)) == set()


@pytest.mark.parametrize(
    ("more", "rows", "task"),
    [
        ("start t 1 8", 1, "t"),
        ("end t 1 8", 1, "t"),
        ("start k 2 8; deed k 2 8", 1, "k"),
        ("start o 2 8; deed o 2 8", 1, "o"),
        ("", 2, "x"),
        ("", 0, "x"),
    ],
    ids=["two runs of one fence", "two ends", "a deed that was known", "twice at most once", "two rows", "no row"],
)
def test_what_is_doubled_or_missing_is_named(tmp_path: Path, more: str, rows: int, task: str) -> None:
    assert wrong(ledger(tmp_path, f"{HONEST}; {more}" if more else HONEST, rows)) == {task}


def test_a_deed_of_before_its_outcome_was_known_may_come_late(tmp_path: Path) -> None:
    """Its process was paused in the middle: a sink that compares fences shuts it out."""
    late = HONEST.replace("known k 1 7; end k 1 7", "start k 2 8; deed k 2 8; known k 2 8; deed k 1 7; end k 1 7")
    assert wrong(ledger(tmp_path, late)) == set()


def test_running_are_the_newest_runs_without_an_end_and_half_a_line_is_none(tmp_path: Path) -> None:
    judged = ledger(tmp_path, "start a 1 7; start b 1 7; end b 1 7; start a 2 8; start c 1 8")
    with judged.path.open("a") as file:
        file.write("end c 1")
    judged.look()
    assert [line.task for pid in (7, 8) for line in judged.running(pid)] == ["a", "c"]
    judged.gone(8)
    assert judged.running(8) == []
