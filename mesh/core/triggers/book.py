"""The table of schedules, kept in this node's journal and told to everybody: what people said, and how far each schedule has come.

    ScheduleAsk: add | remove | pause | resume --> a newer row: Planned, kept --> SCHEDULES to all linked --> the same there, and on
    a mark of this node --> SCHEDULES to all linked; Ticked now and then            a new link --> all that is known, in pages

Invariant: what was acknowledged to a person is kept, and every node that is met learns it. Rows are passed on, marks are not: rows are
rare, and whoever lacks a mark only asks for a task that there is. Decides nothing about ticks (`ticker.py`).
"""

from __future__ import annotations

from collections.abc import Container, Generator, Iterator, Mapping
from typing import Any

from mesh.core.directory import Directory
from mesh.core.inputs import MemberLinked, Replay
from mesh.core.triggers.inputs import ScheduleAsk
from mesh.core.triggers.table import Table
from mesh.effects import Append, Need, Refused, Reply, Send
from mesh.ids import NodeId
from mesh.limits import TriggerLimits
from mesh.messages.records import Planned, Ticked
from mesh.messages.triggers import Mark, Plan, Schedules

Effects = Iterator[Any]


class Book:
    def __init__(self, directory: Directory, limits: TriggerLimits) -> None:
        self._me, self._directory, self._limits = directory.me, directory, limits
        self.table = Table(limits.schedules_max)
        self._noted_ms: dict[str, int] = {}
        """By schedule: the mark that was written down last."""
        self.inputs: dict[type, Any] = {Replay: self._do_replay, MemberLinked: self._on_member_linked}

    def _do_replay(self, _now_s: float, _me: NodeId, replay: Replay) -> None:
        entry = replay.entry
        if type(entry) is Planned:
            self.table.take_row(entry.row)
        elif type(entry) is Ticked:
            self.table.take_mark(entry.mark)
            self._noted_ms[entry.mark.name] = entry.mark.upto_ms

    # ---- what people say

    def change(self, now_s: float, now_ms: int, ask: ScheduleAsk, plans: Mapping[str, Plan]) -> Effects:
        name, mine = ask.plan[0].name if ask.plan else ask.name, self.table.rows.get(ask.name)
        own = mine.plan if mine is not None else ()
        if not self.may():
            yield _no(ask, "not_granted", "this node's certificate lets it manage no work", "mesh id; mesh invite --role, there")
            return
        if ask.action == "add":
            if (there := plans.get(name)) is not None:
                yield self._added_twice(ask, there)
                return
            row = self.table.changed(name, self._me, now_ms, plan=ask.plan, paused=False)
        elif name not in plans:
            yield _no(ask, "unknown_schedule", f"there is no schedule {name!r}", "mesh schedule list")
            return
        elif ask.action == "remove":
            if not own:
                message = f"the schedule {name!r} stands in the code of an agent"
                yield _no(ask, "schedule_in_code", message, f"mesh schedule pause {name}; or take its @agent.every away")
                return
            row = self.table.changed(name, self._me, now_ms, plan=(), paused=False)
        else:
            row = self.table.changed(name, self._me, now_ms, plan=own, paused=ask.action == "pause")
        if not self.table.take_row(row):
            yield _no(ask, "too_many_schedules", f"{len(self.table.rows)} schedules are known already", "mesh schedule list")
            return
        yield Append(Planned(row, int(now_s * 1000)))
        yield Reply(ask.request, True, {"name": name}, need=Need.KEPT)
        yield from self._tell(Schedules((row,)), need=Need.SYNCED)

    @staticmethod
    def _added_twice(ask: ScheduleAsk, there: Plan) -> Reply:
        if ask.plan == (there,):
            return Reply(ask.request, True, {"name": there.name}, need=Need.KEPT)
        fix = f"mesh schedule remove {there.name}, or give the new one another name"
        return _no(ask, "schedule_exists", f"there is a schedule {there.name!r} already, of {there.capability}", fix)

    # ---- how far it has come

    def base_ms(self, now_s: float, now_ms: int, name: str, known: Container[str]) -> Generator[Any, None, int]:
        """Returns up to when nothing is left to do. Whoever sees a schedule for the first time begins to count now."""
        mark = self.table.marks.get(name)
        if mark is not None and self._is_ahead(mark, now_ms):  # this node's clock was, and has been set
            del self.table.marks[name]
            mark = None
        if mark is None:
            self.table.forget(known)
            mark = Mark(name, now_ms)
            if self.table.take_mark(mark):
                yield from self._note(now_s, mark)
        row = self.table.rows.get(name)
        return mark.upto_ms if row is None else max(mark.upto_ms, row.since_ms)

    def mark(self, now_s: float, mark: Mark) -> Effects:
        """This node has acted on a tick, or decided that nobody shall."""
        if self.table.take_mark(mark):
            newest = self.table.marks[mark.name]
            yield from self._note(now_s, newest)
            yield from self._tell(Schedules((), (newest,)), need=Need.FREE)

    def _note(self, now_s: float, mark: Mark) -> Effects:
        """Nothing waits for it, and not each is worth an entry."""
        if mark.upto_ms - self._noted_ms.get(mark.name, 0) >= 1000 * self._limits.noted_s or mark.name not in self._noted_ms:
            self._noted_ms[mark.name] = mark.upto_ms
            yield Append(Ticked(mark, int(now_s * 1000)), lazy=True)

    # ---- others

    def on_schedules(self, now_s: float, sender: NodeId, news: Schedules) -> Effects:
        fresh = tuple(row for row in news.rows if self.table.take_row(row))
        for row in fresh:
            yield Append(Planned(row, int(now_s * 1000)))
        if fresh:
            yield from self._tell(Schedules(fresh), need=Need.FREE, but=sender)

    def take_marks(self, now_s: float, now_ms: int, told: list[Mark]) -> Effects:
        """If elsewhere a clock is far ahead, no tick is left out here for that: the key makes one task of both."""
        for mark in told:
            if self._is_ahead(mark, now_ms):
                yield Refused("mark_from_future")  # a wrong clock is no attack
            elif self.table.take_mark(mark):
                yield from self._note(now_s, self.table.marks[mark.name])

    def _is_ahead(self, mark: Mark, now_ms: int) -> bool:
        return mark.upto_ms > now_ms + 1000 * self._limits.ahead_s

    def may(self) -> bool:
        """Whether this node's certificate lets it manage work: else it acts on no tick, and nobody would hear it."""
        row = self._directory.get(self._me)
        return row is not None and row.keeps

    def _tell(self, news: Schedules, *, need: Need, but: NodeId = "") -> Effects:
        if not self.may():
            return
        for row in self._directory.rows():
            if row.linked and row.node not in (self._me, but):
                yield Send(row.node, news, need=need)

    def _on_member_linked(self, _now_s: float, _me: NodeId, linked: MemberLinked) -> Effects:
        if not self.may():
            return
        rows, marks, most = list(self.table.rows.values()), list(self.table.marks.values()), self._limits.page_max
        for at in range(0, max(len(rows), len(marks)), most):
            yield Send(linked.node, Schedules(tuple(rows[at : at + most]), tuple(marks[at : at + most])))


def _no(ask: ScheduleAsk, code: str, message: str, fix: str) -> Reply:
    return Reply(ask.request, False, {"code": code, "message": message, "fix": fix}, need=Need.FREE)
