"""The judge of `kills.py`: reads the ledger and the database that handlers wrote, and compares them with what nodes answer. Trusts no node.

Of every acknowledged task: one end, `done`, the same from whichever node; its result is the fence of a run that the ledger has seen begin
once and end once. Of every task, acknowledged or not: no deed after its outcome was known, none twice where that is promised.
"""

from __future__ import annotations

import sqlite3
from collections import Counter, defaultdict
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the ledger. `at_s` is on the machine's monotonic clock."""

    what: str
    task: str
    fence: int
    pid: int
    at_s: float


class Ledger:
    """The file, read on as it grows."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._read = 0
        self.lines: list[Line] = []
        self.starts: dict[str, list[Line]] = defaultdict(list)
        self.ends: dict[str, list[Line]] = defaultdict(list)
        self._running: dict[tuple[str, int], Line] = {}
        with closing(sqlite3.connect(self.database)) as db:
            db.execute("PRAGMA journal_mode=WAL")
            db.execute("CREATE TABLE deeds (task TEXT, fence INTEGER)")
            db.commit()

    @property
    def database(self) -> Path:
        return self.path.with_name(f"{self.path.name}.sqlite")

    def look(self) -> None:
        """Read what was added, but for a line that is not whole."""
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            file.seek(self._read)
            fresh = file.read()
        whole = fresh[: fresh.rfind(b"\n") + 1]
        self._read += len(whole)
        for text in whole.decode().splitlines():
            words = text.split()
            line = Line(words[0], words[1], int(words[2]), int(words[3]), float(words[4]))
            self.lines.append(line)
            if line.what == "start":
                self.starts[line.task].append(line)
                self._running[line.task, line.fence] = line
            elif line.what == "end":
                self.ends[line.task].append(line)
                self._running.pop((line.task, line.fence), None)

    def running(self, pid: int) -> list[Line]:
        """The newest runs of their tasks, in that process, that have no end."""
        return [line for line in self._running.values() if line.pid == pid and line is self.starts[line.task][-1]]

    def gone(self, pid: int) -> None:
        """That process is dead."""
        self._running = {key: line for key, line in self._running.items() if line.pid != pid}


def effects(ledger: Ledger, sorts: dict[str, str]) -> dict[str, str]:
    """Task -> what is wrong with its effects. `sorts`: task -> capability, as far as known."""
    wrong: dict[str, str] = {}
    known: dict[str, int] = {}
    deeds: Counter[str] = Counter()
    for line in ledger.lines:
        if line.what == "known":
            known.setdefault(line.task, line.fence)
        elif line.what == "deed":
            deeds[line.task] += 1
            # One that was paused in the middle of its deed, and is late, has an older fence: a sink that compares them shuts it out.
            if line.task in known and line.fence > known[line.task]:
                wrong[line.task] = f"its deed was done again under {line.fence} when its outcome was known under {known[line.task]}"
    for task, count in deeds.items():
        if count > 1 and sorts.get(task) == "work.once":
            wrong[task] = f"{count} deeds of at most one"
    with closing(sqlite3.connect(ledger.database)) as db:
        rows = Counter(task for (task,) in db.execute("SELECT task FROM deeds"))
    for task, count in rows.items():
        if count > 1:
            wrong[task] = f"{count} rows of one transaction"
    for task, sort in sorts.items():
        if sort == "work.tx" and rows[task] != 1:
            wrong[task] = f"{rows[task]} rows of one transaction"
        elif sort == "work.keyed" and not deeds[task]:
            wrong[task] = "its deed was not done"
    return wrong


def runs(ledger: Ledger, results: dict[str, int]) -> dict[str, str]:
    """Task -> what is wrong with its runs. `results`: task -> the fence that its committed result names."""
    wrong: dict[str, str] = {}
    for task, starts in ledger.starts.items():
        twice = [fence for fence, count in Counter(line.fence for line in starts).items() if count > 1]
        if twice:
            wrong[task] = f"fence {twice[0]} was given to two runs"
    for task, fence in results.items():
        ended = [line.fence for line in ledger.ends[task]]
        if ended.count(fence) != 1:
            wrong[task] = f"its result is of fence {fence}, and the ledger has ends of {ended}"
    return wrong
