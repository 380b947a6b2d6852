"""Which entries of a journal are still needed to go on: a pure function over its rows, the older open ones first.

    open of the last sum + entries since then --add--> `numbers` --> the next sum's open

Invariant: machines that replay only these numbers, and all entries after the last that was added, become what they would have become by
replaying everything, but for tasks that have ended long ago. Of a task either all entries are here or none: each is a fold of its own. What
was inherited is counted by its `Inherited`, so it stays whole or goes whole, with all tasks in it. (Of ended tasks with a key beginning and
end are enough.) One part here for each machine that rebuilds something in its `_do_replay`; a new one there needs a part here. Reads no
disk, writes no entry.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from mesh.core.keeping.claims import NEXT
from mesh.core.membership.trust import AMENDED, REVOKED
from mesh.core.records.inputs import OpenFound
from mesh.core.records.records import LIVES_MAX, ROLLED_BACK
from mesh.core.work.fold import Draft, Fold
from mesh.core.work.scope import Needed
from mesh.core.work.spending import is_named
from mesh.core.work.task import Task
from mesh.ids import Fence, NodeId, TaskId, place_of
from mesh.limits import RecordsLimits
from mesh.messages.claims import KeyRoster
from mesh.messages.records import (
    Accepted,
    Audited,
    Checkpointed,
    Closed,
    Effected,
    Ended,
    Forgone,
    Freed,
    Guarded,
    Inherited,
    Intended,
    Opened,
    Planned,
    Rolled,
    Rostered,
    Spent,
    Stored,
    Submitted,
    Sworn,
    Ticked,
    TookOver,
)

GUARDED_MAX = 256
"""Changes of who keeps the journal, the newest: all but the last ones matter only where those were taken back."""
TAKEN_MAX = 1024
"""Take-overs by this node, the newest. (Which of older ones count is learned again from their logs.)"""
TRIGGERS_MAX = 2000
"""What is known of schedules, the newest: as many rows and as many marks as a table holds."""
ALL = 1 << 62


class Facts:
    """Records: where lives began, an old disk once admitted. Keepers: who keeps this journal, what was taken over. Trust: what stands
    on record."""

    def __init__(self) -> None:
        newest: dict[type, int] = {Opened: LIVES_MAX, Guarded: GUARDED_MAX, TookOver: TAKEN_MAX}
        self._newest: dict[type, deque[int]] = {kind: deque(maxlen=most) for kind, most in newest.items()}
        self._said: dict[tuple[str, ...], int] = {}

    def add(self, seq: int, entry: Any) -> None:
        newest = self._newest.get(type(entry))
        if newest is not None:
            newest.append(seq)
        elif type(entry) is Audited and entry.what == ROLLED_BACK:
            self._said[ROLLED_BACK,] = seq
        elif type(entry) is Audited and entry.what in (REVOKED, AMENDED):
            self._said.setdefault((entry.what, entry.about, entry.by, entry.note), seq)

    def numbers(self) -> Iterable[int]:
        for newest in self._newest.values():
            yield from newest
        yield from self._said.values()


class Keys:
    """Keys: who keeps them, and what this node has sworn as one who does."""

    def __init__(self, me: NodeId) -> None:
        self._me = me
        self._roster: KeyRoster | None = None
        self._rosters: list[int] = []
        self._cells: dict[str, int] = {}

    def add(self, seq: int, entry: Any) -> None:
        if type(entry) is Sworn:
            self._cells[entry.cell.key] = seq
        elif type(entry) is Freed:
            for key, _ in entry.keys:
                self._cells.pop(key, None)
        elif type(entry) is Rostered:
            self._enter(seq, entry.roster)

    def _enter(self, seq: int, roster: KeyRoster) -> None:
        """As `keys.Keys._enter`: what begins anew needs nothing from before."""
        before, self._roster = self._roster, roster
        if before != roster:
            self._cells.pop(NEXT, None)
            if before is None or before.realm != roster.realm or self._me not in roster.before:
                self._cells, self._rosters = {}, []
        self._rosters.append(seq)

    def numbers(self) -> Iterable[int]:
        yield from self._rosters
        yield from self._cells.values()


class Triggers:
    """Triggers and rollouts: of each schedule what people said last, and how far it has come; of each rollout, too."""

    def __init__(self) -> None:
        self._newest: dict[tuple[type, str], int] = {}

    def add(self, seq: int, entry: Any) -> None:
        if type(entry) is Planned:
            self._note(seq, Planned, entry.row.name)
        elif type(entry) is Ticked:
            self._note(seq, Ticked, entry.mark.name)
        elif type(entry) is Rolled:
            self._note(seq, Rolled, f"{entry.mark.edition} {entry.mark.capability}")

    def _note(self, seq: int, kind: type, name: str) -> None:
        self._newest.pop((kind, name), None)
        self._newest[kind, name] = seq
        if len(self._newest) > TRIGGERS_MAX:
            del self._newest[next(iter(self._newest))]

    def numbers(self) -> Iterable[int]:
        return self._newest.values()


class Held:
    """Contractor: what it holds for managers, and the newest fences that it has answered for."""

    def __init__(self, closed_max: int) -> None:
        self._held: dict[TaskId, tuple[Fence, list[int]]] = {}
        self._closed: deque[list[int]] = deque(maxlen=closed_max)

    def add(self, seq: int, entry: Any) -> None:
        kind = type(entry)
        if kind is Accepted:
            self._held[entry.task] = (entry.fence, [seq])
        elif kind is Ended or kind is Closed:
            fence, seqs = self._held.get(entry.task, (-1, []))
            if fence != entry.fence:
                return
            seqs.append(seq)
            if kind is Closed or entry.outcome == "released":
                self._closed.append(seqs)
                del self._held[entry.task]

    def numbers(self) -> Iterable[int]:
        for _, seqs in self._held.values():
            yield from seqs
        for seqs in self._closed:
            yield from seqs


@dataclass(slots=True, eq=False)
class Region:
    """What was inherited at once: its entries, with the one that says what became of it; and the tasks that came to count by it."""

    seqs: list[int]
    tasks: dict[TaskId, None] = field(default_factory=dict)


class Work:
    """Manager: his tasks that live, with the steps of such, drafts, and the newest tasks that have ended."""

    def __init__(self, me: NodeId, limits: RecordsLimits) -> None:
        self._me, self._limits = me, limits
        self._fold = Fold(ALL)
        self._told: dict[TaskId, list[int]] = {}
        """Of each task the entries outside of regions."""
        self._passing: dict[TaskId, list[int]] = {}
        """Of each live task those that it needs no more once it begins anew: checkpoints and effects."""
        self._spent: dict[TaskId, tuple[int, dict[str, int]]] = {}
        """Of each live task the newest that tells what it has spent, and by key what is open or shall not count again."""
        self._stored: dict[TaskId, Needed] = {}
        """Of each live task, what was written to its state and is not written over."""
        self._drafts: dict[Draft, Region] = {}
        self._within: dict[TaskId, list[Region]] = {}
        self._region = Region([])
        """To which the entries belong that are still counted."""
        self._ended: dict[TaskId, None] = {}
        self._newest: tuple[int, int, TaskId] = (-1, -1, "")
        """The last own task that was submitted: whoever takes over must know up to where he has."""

    def add(self, seq: int, entry: Any) -> None:
        fold, kind = self._fold, type(entry)
        if fold.drafting and kind is not Opened:
            fold.apply(entry, {}, seq)
            self._region.seqs.append(seq)
        elif kind is Inherited:
            fold.apply(entry, {}, seq)
            self._region = self._drafts[entry.author, entry.term] = Region([seq])
        elif kind is TookOver or kind is Forgone:
            self._resolve(seq, entry)
        elif kind is Opened:
            fold.apply(entry, {}, seq)
            self._drafts = {draft: region for draft, region in self._drafts.items() if draft in fold.drafts}
        elif fold.knows(entry):
            self._tell(seq, entry)

    def _tell(self, seq: int, entry: Any) -> None:
        self._fold.apply(entry, {}, seq)
        told, passing = self._told, self._passing
        if type(entry) is Checkpointed and entry.anew:
            passing[entry.task] = [seq]
            if entry.task in self._spent:
                self._spent[entry.task][1].clear()
        elif type(entry) is Stored:
            self._stored.setdefault(entry.task, Needed()).add(seq, entry)
        elif type(entry) in (Checkpointed, Intended, Effected):
            passing.setdefault(entry.task, []).append(seq)
        elif type(entry) is Spent:
            keys = self._spent.get(entry.task, (0, {}))[1]
            keys.pop(entry.key, None)
            if entry.reserved or is_named(entry.key):
                keys[entry.key] = seq
            self._spent[entry.task] = seq, keys
        else:
            told.setdefault(entry.task, []).append(seq)
        task = self._fold.tasks.get(entry.task)
        if task is not None and task.ended:
            self._ended.setdefault(entry.task)
            self._stored.pop(entry.task, None)
        if type(entry) is Submitted:
            author, incarnation, counter = place_of(entry.task)
            if author == self._me:
                self._newest = max(self._newest, (incarnation, counter, entry.task))

    def _resolve(self, seq: int, entry: TookOver | Forgone) -> None:
        draft = self._fold.drafts.get((entry.author, entry.term))
        region = self._drafts.pop((entry.author, entry.term), None)
        self._fold.apply(entry, {}, seq)
        if draft is None or region is None:
            return
        region.seqs.append(seq)
        if type(entry) is Forgone:
            return
        for task in draft.tasks.values():
            region.tasks[task.id] = None
            self._within.setdefault(task.id, []).append(region)
            self._ended.pop(task.id, None)
            if task.ended:
                self._ended[task.id] = None
        # What its author had only drafted is a draft of this node from now on, and still stands in here.
        self._drafts |= dict.fromkeys(draft.whole_drafts(), region)

    def numbers(self, taken: int) -> Iterable[int]:
        """`taken`: others drive what was submitted up to that entry."""
        tasks = self._fold.tasks
        keep = {name: None for name, task in tasks.items() if self._matters(task, taken)}
        keep |= dict.fromkeys(list(self._ended)[-self._limits.sum_ended_max :])
        keep |= dict.fromkeys(self._newest[2:])
        keyed = [name for name in self._ended if tasks[name].key and name not in keep][-self._limits.sum_keyed_max :]
        keep |= {name: None for name in keyed if name in self._within}
        drafts = [region for draft, region in self._drafts.items() if self._fold.drafts[draft].begun > taken]
        for region in self._closed_under(keep, drafts):
            yield from region.seqs
        for name in keep:
            yield from self._told.get(name, ())
            yield from self._passing.get(name, ())
            newest, keys = self._spent.get(name, (0, {}))
            yield from (*keys.values(), *((newest,) if newest else ()))
            yield from self._stored[name].numbers() if name in self._stored else ()
        for name in keyed:
            if name not in keep:
                yield from (tasks[name].seq, tasks[name].end_seq)

    def _matters(self, task: Task, taken: int) -> bool:
        while task.ended and not task.is_past and task.parent in self._fold.tasks:
            task = self._fold.tasks[task.parent]
        return not task.ended and task.seq > taken

    def _closed_under(self, keep: dict[TaskId, None], regions: list[Region]) -> list[Region]:
        """These regions, and all in which a task of `keep` stands. Of every task in one of them all is kept: added to `keep`."""
        found = dict.fromkeys(regions)
        names = deque([*keep, *(name for region in regions for name in region.tasks)])
        keep |= dict.fromkeys(names)
        while names:
            for region in self._within.get(names.popleft(), ()):
                if region not in found:
                    found[region] = None
                    fresh = [name for name in region.tasks if name not in keep]
                    keep |= dict.fromkeys(fresh)
                    names.extend(fresh)
        return list(found)


def sum_up(me: NodeId, rows: Iterable[tuple[int, Any]], taken: int, limits: RecordsLimits) -> OpenFound:
    """What `StillOpen` finds in these rows, of which the last one stands up to where it counts."""
    still, upto = StillOpen(me, limits), 0
    for seq, entry in rows:
        still.add(seq, entry)
        upto = seq
    return OpenFound(upto, still.numbers(taken))


class StillOpen:
    """`add` all rows in order, first those that were open before; then ask for `numbers`. `me`: whose journal it is."""

    def __init__(self, me: NodeId, limits: RecordsLimits) -> None:
        self._most = limits.sum_open_max
        self._facts, self._keys, self._held, self._work = Facts(), Keys(me), Held(limits.sum_ended_max), Work(me, limits)
        self._triggers = Triggers()
        self._add = tuple(part.add for part in (self._facts, self._keys, self._triggers, self._held, self._work))

    def add(self, seq: int, entry: Any) -> None:
        for add in self._add:
            add(seq, entry)

    def numbers(self, taken: int) -> tuple[int, ...] | None:
        """Ascending; None: more than `sum_open_max`. `taken`: others drive the tasks that were submitted up to that entry."""
        few = (self._facts, self._keys, self._triggers, self._held)
        parts = (*(part.numbers() for part in few), self._work.numbers(taken))
        found = sorted({seq for part in parts for seq in part})
        return tuple(found) if len(found) <= self._most else None
