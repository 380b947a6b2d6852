"""How busy this node is, told to those who might give it work: soft state, gossiped on change.

    a slot is taken or freed --> noted --at most every load_gossip_s--> LOAD to every linked peer and to itself, if a row changed
    room again where none was --> at the end of that turn: those who were turned away, or all if they were told "no room"

Invariant: the number of LOADs does not grow with the number of tasks. Every peer's cached row is younger than `load_fresh_s` while the
link holds, so that a quiet node stays fit for conditional awards. Measures nothing itself (`slots.py`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from mesh.core.coordination.inputs import OfficeChanged
from mesh.core.deadlines import Deadlines
from mesh.core.directory import ReadDirectory
from mesh.core.work.slots import Slots
from mesh.effects import Need, Send
from mesh.ids import NodeId
from mesh.limits import WorkLimits
from mesh.messages.membership import NO_EPOCH, Load, LoadRow


@dataclass(frozen=True, slots=True)
class LoadDue:
    """Look whether a row has changed since it was last told."""


class LoadGossip:
    """Says this node's load. `closed` is set when it takes no more work."""

    def __init__(self, directory: ReadDirectory, deadlines: Deadlines, limits: WorkLimits, slots: Slots) -> None:
        self._directory = directory
        self._deadlines = deadlines
        self._limits = limits
        self._slots = slots
        self._version = 0
        self._rows: tuple[LoadRow, ...] = ()
        self._told_closed = False
        self._told_office = NO_EPOCH
        self._told_s = float("-inf")
        self._noted = False
        self._full: list[str] = []
        """Capabilities last told to have no room."""
        self._turned_away: dict[NodeId, dict[str, None]] = {}
        self.closed = False
        self.told = 0
        self.inputs: dict[type, Any] = {LoadDue: self._expire_load, OfficeChanged: self._on_office_changed}

    def note(self, now_s: float) -> None:
        """Something changed. Cheap: called for every task."""
        if not self._noted:
            self._noted = True
            self._deadlines.set(LoadDue(), max(now_s, self._told_s + self._limits.load_gossip_s))

    def turned_away(self, node: NodeId, capability: str) -> None:
        """`node` was refused for want of room: it hears first when there is room again."""
        if len(self._turned_away) < self._limits.asks_max:
            self._turned_away.setdefault(node, {})[capability] = None

    def forget(self, node: NodeId) -> None:
        """It hears nothing more from here."""
        self._turned_away.pop(node, None)

    def _expire_load(self, now_s: float, _me: NodeId, _due: LoadDue) -> Iterator[Any]:
        self._noted = False
        rows = self._slots.load_rows(self.closed)
        refresh_s = self._limits.load_fresh_s / 2
        if rows != self._rows or self._changed() or (rows and now_s >= self._told_s + refresh_s):
            yield from self._tell_all(now_s, rows)
        if rows:
            self._deadlines.set(LoadDue(), self._told_s + refresh_s)

    def _changed(self) -> bool:
        return (self.closed, self._directory.seat.mine) != (self._told_closed, self._told_office)

    def _on_office_changed(self, now_s: float, _me: NodeId, _changed: OfficeChanged) -> Iterator[Any]:
        """Said at once: who takes the office, or leaves it, is waited for."""
        if self._changed():
            yield from self._tell_all(now_s, self._slots.load_rows(self.closed))

    def awaited(self) -> bool:
        """Somebody was told that there is no room."""
        return bool(self._full or self._turned_away)

    def at_turns_end(self, now_s: float) -> Iterator[Any]:
        """Room where there was none? Then say so now: parked work waits for it."""
        if not self.awaited() or self.closed:
            return
        if any(self._has_room(name) for name in self._full):
            yield from self._tell_all(now_s, self._slots.load_rows(self.closed))
            return
        for node in [node for node, names in self._turned_away.items() if any(map(self._has_room, names))]:
            del self._turned_away[node]
            self._version += 1
            self.told += 1
            yield Send(
                node, Load(self._version, self._slots.load_rows(self.closed), self.closed, self._directory.seat.mine), need=Need.FREE
            )

    def _has_room(self, name: str) -> bool:
        capability = self._slots.offered(name)
        return capability is not None and self._slots.room(capability) > 0

    def _tell_all(self, now_s: float, rows: tuple[LoadRow, ...]) -> Iterator[Any]:
        self._rows, self._told_closed = rows, self.closed
        self._told_s = now_s
        self._full = [row.capability for row in rows if not row.room]
        for node in [node for node, names in self._turned_away.items() if not all(name in self._full for name in names)]:
            del self._turned_away[node]
        self._version += 1
        self._told_office = self._directory.seat.mine
        load = Load(self._version, rows, self.closed, self._told_office)
        for row in self._directory.rows():
            if row.linked or row.node == self._directory.me:
                self.told += 1
                yield Send(row.node, load, need=Need.FREE)

    def greet(self, node: NodeId) -> Iterator[Any]:
        """A link is up: the peer should not wait for the next change."""
        rows = self._slots.load_rows(self.closed)
        if rows:
            self._version += 1
            self.told += 1
            yield Send(node, Load(self._version, rows, self.closed, self._directory.seat.mine), need=Need.FREE)
