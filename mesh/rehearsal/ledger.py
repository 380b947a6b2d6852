"""What happened in a rehearsal, as it stands in the nodes' journals and as the crews saw it: one `Work` for each task.

    Submitted, Parked, Lost, Finished (entries) + began, ended (crews) --> Work: when asked for, when and where it ran, why it waited

Invariant: nothing of a node is looked into: what is read is what a record of a real run says as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from mesh.effects import Execute
from mesh.ids import TaskId
from mesh.messages.records import Finished, Lost, Parked, Submitted
from mesh.sim.history import Appended, Verdict


@dataclass(slots=True)
class Spell:
    """One run of a handler."""

    node: str
    began_s: float
    ended_s: float = -1.0
    outcome: str = ""


@dataclass(slots=True)
class Work:
    """One task. Seconds since the rehearsal began; below 0: not (yet)."""

    task: TaskId
    capability: str
    parent: TaskId = ""
    step: str = ""
    submitted_s: float = -1.0
    finished_s: float = -1.0
    state: str = ""
    error: str = ""
    label: str = ""
    """What people know it by, where that is not its step."""
    spells: list[Spell] = field(default_factory=list)
    parked: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)

    @property
    def ran_s(self) -> float:
        return sum(max(0.0, spell.ended_s - spell.began_s) for spell in self.spells)

    @property
    def waited_s(self) -> float:
        """From when it was asked for to its first run."""
        return max(0.0, self.spells[0].began_s - self.submitted_s) if self.spells and self.submitted_s >= 0 else 0.0


class Ledger:
    """A `mesh.sim.history` checker that finds no fault with anything."""

    watches: tuple[type, ...] = ()

    def __init__(self, now_s: Callable[[], float]) -> None:
        self._now_s = now_s
        self.works: dict[TaskId, Work] = {}
        self.last_s = 0.0
        """When something happened last."""
        self.running = 0
        self.over: Callable[[TaskId, str], None] = lambda _task, _state: None
        """Told of each end, and how it was."""
        self.takes: dict[type, Callable[[Any], Iterable[Verdict]]] = {Appended: self._appended}

    def work(self, task: TaskId, capability: str) -> Work:
        found = self.works.get(task)
        if found is None:
            found = self.works[task] = Work(task, capability)
        return found

    def began(self, execute: Execute, node: str) -> None:
        self.running += 1
        self.last_s = self._now_s()
        self.work(execute.task, execute.capability).spells.append(Spell(node, self.last_s))

    def ended(self, execute: Execute, node: str, outcome: str) -> None:
        self.running -= 1
        self.last_s = self._now_s()
        for spell in reversed(self.works[execute.task].spells):
            if spell.node == node and spell.ended_s < 0:
                spell.ended_s, spell.outcome = self.last_s, outcome
                return

    def _appended(self, record: Appended) -> Iterable[Verdict]:
        entry = record.entry
        if record.copied or type(entry) not in (Submitted, Parked, Lost, Finished):
            return ()
        self.last_s = now_s = self._now_s()
        if type(entry) is Submitted:
            work = self.work(entry.task, entry.capability)
            work.parent, work.step, work.submitted_s = entry.parent, entry.step, now_s
        elif (known := self.works.get(entry.task)) is not None:
            if type(entry) is Parked:
                known.parked.append(entry.reason)
            elif type(entry) is Lost:
                known.lost.append(entry.reason)
            elif type(entry) is Finished and known.finished_s < 0:
                known.finished_s, known.state, known.error = now_s, entry.state, entry.error
                self.over(entry.task, entry.state)
        return ()
