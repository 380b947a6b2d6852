"""Late rebinding, the manager's half: what waits elsewhere is moved to a node that has just fallen idle, if it is done sooner there.

    an award ended at A, nothing in line for it, more awards than slots at B --> PULL to B, in A's name --> RELEASE --> AWARD to A

Invariant: nothing moves but by its holder's RELEASE: the holder knows what has started, and what is done sooner where. Asks once per award
that ended. Short work stays where it is. Binds nothing (`leases.py`), chooses nobody (`market.py`).
"""

from __future__ import annotations

from mesh.core.directory import ALIVE, Row
from mesh.core.work.book import Book, Effects
from mesh.core.work.fitting import fits, narrowed
from mesh.core.work.holder import Holder
from mesh.core.work.offering import terms, version_at, version_of
from mesh.core.work.task import Task
from mesh.effects import Need, Send
from mesh.ids import NodeId
from mesh.messages.records import Candidate
from mesh.messages.work import Pull, Release


def pulled(book: Book, task: Task, holder: NodeId, release: Release) -> tuple[Candidate, ...]:
    """The idle node and the releaser, as candidates of the next award; nothing if the idle one cannot take it."""
    row = book.directory.get(release.to)
    if row is None or not row.linked or row.state != ALIVE or release.to in (task.excluded, task.barred):
        return ()
    where = narrowed(book.directory, task.capability, task.placement.where)
    if task.capability not in row.offers or not fits(offer := row.offers[task.capability], where):
        return ()
    agent, way_ms, version = terms(offer, where).agent, book.way_ms(task, row.node), version_of(offer, where)
    there = Candidate(row.node, row.name, 0, release.to_service_ms, 0.0, agent, transfer_ms=way_ms, version=version)
    here = Candidate(holder, book.directory.name_of(holder), release.start_ms, release.service_ms, 0.0, task.agent)
    here.version = version_at(book.directory, holder, task.capability, where)
    return (there, here)


class Rebinding:
    def __init__(self, book: Book) -> None:
        self._book = book

    def look(self) -> Effects:
        """At the end of a turn, after the lines: where a slot fell idle and no line had anything for it."""
        vacated, self._book.vacated = self._book.vacated, []
        for holder, capability in vacated:
            if not any(map(len, self._book.lines_for(capability))):
                yield from self._find_work(holder, capability)

    def _find_work(self, idle: Holder, capability: str) -> Effects:
        row = self._book.directory.get(idle.node)
        service_ms = self._idle_service_ms(row, idle, capability)
        if row is None or not service_ms:
            return
        waits_ms, longest = 0, None
        for holder in self._book.holders.values():
            wait_ms = self._wait_ms(holder, capability) if holder is not idle else 0
            if wait_ms > waits_ms:
                waits_ms, longest = wait_ms, holder
        if longest is not None:
            yield Send(longest.node, Pull(capability, idle.node, service_ms), need=Need.FREE)

    def _idle_service_ms(self, row: Row | None, idle: Holder, capability: str) -> int:
        """What one task takes there, if that is worth moving and a slot seems to be free; else 0."""
        load = row.load.get(capability) if row is not None and row.linked and row.state == ALIVE else None
        if load is None or load.service_ms < self._book.limits.pull_service_ms_min or idle.out.get(capability, 0) >= load.slots:
            return 0
        return load.service_ms

    def _wait_ms(self, holder: Holder, capability: str) -> int:
        """How long the last of our tasks there still waits, as far as our own awards tell. The holder knows better, and is asked."""
        out = holder.out.get(capability, 0)
        row = self._book.directory.get(holder.node) if out else None
        load = row.load.get(capability) if row is not None and row.linked else None
        if load is None or not load.slots or out <= load.slots:
            return 0
        return (out - load.slots) * load.service_ms // load.slots
