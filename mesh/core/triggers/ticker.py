"""Acts on the ticks of schedules: each becomes one task over the whole mesh, whichever nodes act on it, and whoever dies meanwhile.

    TicksDue --ReadWall--> WallRead: of each schedule, is a tick due, and is it this node's turn?
        --(overlap: has the task of the tick before ended?)--> Submit(key every/NAME/TICK) --> a Mark, told to everybody

Any node may act on any tick, since the key makes what they submit one task (`work/claims.py`). So that usually one does, they take turns:
by rendezvous hash of the schedule's name, `stagger_s` apart, until a mark says that it is done. Marks are hints that save work and say
what was missed: those who lack one submit in vain. Nobody owns a schedule, so when a node dies nothing is handed over or voted on.
What agents declare stands in their offers, while somebody alive offers it; what people add stands in every journal (`book.py`).

Invariants: a tick is acted on by a keyed submit alone; of one schedule by one at a time, the oldest first; never while this node's mark
is later. Reads no clock: the caller tells the wall clock's time. Runs nothing. Source: dcron, Temporal's schedules, for what they miss.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from mesh.core.coordination.inputs import OFFICE_REQUESTS
from mesh.core.deadlines import Deadlines
from mesh.core.directory import ALIVE, SUSPECT, Directory, Row
from mesh.core.inputs import Enquire, OffersChanged, Started, Submit
from mesh.core.triggers.book import Book
from mesh.core.triggers.calendar import Calendar, Cron, jitter_ms, moment, turn
from mesh.core.triggers.inputs import ReadWall, ScheduleAsk, SubscribersAsk, TicksDue, WallRead
from mesh.core.triggers.topics import subscribers, takes_of
from mesh.core.work.errands import json_object
from mesh.core.work.task import TERMINAL
from mesh.effects import Need, Refused, Reply, Tell
from mesh.ids import NodeId
from mesh.limits import TriggerLimits
from mesh.messages.triggers import Mark, Plan, Schedules
from mesh.messages.work import ANYWHERE, Placement
from mesh.versions import MARK, order, split

Effects = Iterator[Any]
UNKNOWN = ("author_unreachable", "node_unreachable", "overloaded", "busy")
"""Answers about a task that say nothing about it; all others say that it is over, or that nobody drives it any more."""


@dataclass(frozen=True, slots=True)
class TickerStatistics:
    """One moment; counts since the start of this life."""

    schedules: int
    acted: int
    """Ticks of which this node was the first or a later one to submit the task."""
    skipped: int
    """Because the task before had not ended."""
    failed: int
    """Submits that were refused, and are tried again."""


@dataclass(slots=True)
class _Work:
    """What is under way about one schedule. `request` 0: nothing. `again_s`: nothing is begun before. `ended`: that task has."""

    request: int = 0
    tick_ms: int = 0
    asks: bool = False
    again_s: float = 0.0
    ended: str = ""
    problem: str = ""


class Ticker:
    """See the module. `cron` knows cron expressions and time zones."""

    def __init__(self, directory: Directory, deadlines: Deadlines, limits: TriggerLimits, cron: Cron) -> None:
        self._me, self._directory, self._deadlines, self._limits = directory.me, directory, deadlines, limits
        self._calendar = Calendar(cron)
        self._book = Book(directory, limits)
        self._work: dict[str, _Work] = {}
        self._asked: dict[int, str] = {}
        """By request, which are negative: which schedule it is about."""
        self._last = 0
        self._waiting: list[ScheduleAsk] = []
        """Commands that wait for the time of day."""
        self._told: list[Mark] = []
        """Marks that do: whether they are to be believed."""
        self._quiet_until_s = float("inf")
        self._acted = self._skipped = self._failed = 0
        self.inputs: dict[type, Any] = {
            Started: self._on_started,
            OffersChanged: self._on_offers_changed,
            Schedules: self._on_schedules,
            TicksDue: self._expire_ticks,
            WallRead: self._on_wall_read,
            Reply: self._on_reply,
            ScheduleAsk: self._do_schedule_ask,
            SubscribersAsk: self._do_subscribers_ask,
        } | self._book.inputs

    # ---- when to look

    def _on_started(self, now_s: float, _me: NodeId, _started: Started) -> None:
        self._quiet_until_s = now_s + self._limits.settle_s
        if self._book.table.rows:
            self._look_at(now_s, self._quiet_until_s)

    def _on_offers_changed(self, now_s: float, _me: NodeId, changed: OffersChanged) -> None:
        row = self._directory.get(changed.node)
        if row is not None and any(offer.schedules for offer in row.offers.values()):
            self._look_at(now_s, now_s)

    def _on_schedules(self, now_s: float, sender: NodeId, news: Schedules) -> Effects:
        yield from self._book.on_schedules(now_s, sender, news)
        if news.rows:
            self._look_at(now_s, now_s)
        if news.marks and len(self._told) < self._limits.schedules_max:  # a mark that is lost is no loss
            self._told += news.marks
            yield ReadWall(need=Need.FREE)

    def _look_at(self, now_s: float, at_s: float) -> None:
        """At the latest then."""
        at_s = max(at_s, now_s)
        self._deadlines.set(TicksDue(), min(at_s, self._deadlines.when(TicksDue()) or at_s))

    def _expire_ticks(self, _now_s: float, _me: NodeId, _due: TicksDue) -> Effects:
        yield ReadWall(need=Need.FREE)

    def _on_wall_read(self, now_s: float, _me: NodeId, read: WallRead) -> Effects:
        told, self._told = self._told, []
        yield from self._book.take_marks(now_s, read.wall_ms, told)
        asked, self._waiting = self._waiting, []
        for ask in asked:
            yield from self._answered(now_s, ask, read.wall_ms)
        plans = self._plans()
        if not plans:
            return
        at_s = now_s + self._limits.look_s
        for plan in plans.values():
            wait_ms = yield from self._look(now_s, read.wall_ms, plan, plans)
            at_s = min(at_s, now_s + wait_ms / 1000)
        self._work = {name: work for name, work in self._work.items() if name in plans}
        self._deadlines.set(TicksDue(), at_s)  # all were looked at: what was meant before counts no more

    # ---- which schedules there are

    def _plans(self) -> dict[str, Plan]:
        """Those that people added, and those of agents that are here. Of what is declared in several ways the newest version counts."""
        found: dict[str, tuple[str, NodeId, Plan]] = {}
        for row in self._directory.rows():
            if self._is_here(row):
                for offer in row.offers.values():
                    for plan in offer.schedules:
                        if plan.name not in found or order(offer.version) > order(found[plan.name][0]):
                            found[plan.name] = (offer.version, row.node, plan)
        return {name: plan for name, (_, _, plan) in found.items()} | self._book.table.plans()

    def _is_here(self, row: Row) -> bool:
        return row.node == self._me or (row.linked and row.state in (ALIVE, SUSPECT) and not row.revoked)

    def _turn(self, name: str) -> int:
        """How many of those who are here come before this node. Whoever is coordinator comes first."""
        mine, first = turn(name, self._me), self._directory.seat.holder
        if first == self._me:
            return 0
        rows = [row for row in self._directory.rows() if self._is_here(row) and (row.keeps or row.node == first)]
        return sum(row.node == first or turn(name, row.node) < mine for row in rows)

    # ---- one schedule

    def _look(self, now_s: float, now_ms: int, plan: Plan, plans: Mapping[str, Plan]) -> Generator[Any, None, float]:
        """Act on it if it is time. Returns after how many milliseconds to look again."""
        limits, work = self._limits, self._work.setdefault(plan.name, _Work())
        base_ms = yield from self._book.base_ms(now_s, now_ms, plan.name, plans)
        due = None if self._book.table.paused(plan.name) else self._calendar.due(plan, base_ms, now_ms, round(1000 * limits.late_s))
        if due is None:
            coming = self._calendar.after(plan, max(base_ms, now_ms))
            return 1000 * limits.look_s if coming is None else coming + jitter_ms(plan, coming) - now_ms
        if not self._book.may():
            return 1000 * limits.look_s
        stagger_ms = round(1000 * limits.stagger_s)
        early_ms = due + jitter_ms(plan, due) + self._turn(plan.name) * stagger_ms - now_ms
        if early_ms > 0:
            return min(early_ms, stagger_ms)  # who comes before may be gone by then
        wait_s = max(self._quiet_until_s, work.again_s) - now_s
        if wait_s <= 0 and (away := self._away()):
            work.problem, work.again_s = f"too many of those who keep the mesh's keys are away: {away}", now_s + limits.again_s
            wait_s = limits.again_s
        if wait_s > 0:
            return round(1000 * wait_s)
        work.again_s = now_s + limits.answer_s  # whatever becomes of the request
        yield from self._act(plan, work, due)
        return round(1000 * limits.answer_s)

    def _away(self) -> str:
        """Why no key can be claimed from here; "": it may be. What is claimed in vain would come all at once when they are back."""
        keepers = self._directory.guard.key_keepers
        rows = {node: self._directory.get(node) for node in keepers}
        # Where a majority was revoked the others begin anew, as soon as somebody asks.
        here = [node for node, row in rows.items() if node == self._me or self._directory.revoked(node) or (row is not None and row.linked)]
        away = [node for node in keepers if node not in here]
        return ", ".join(map(self._directory.name_of, away)) if 2 * len(away) >= len(keepers) > 0 else ""

    def _act(self, plan: Plan, work: _Work, tick_ms: int) -> Effects:
        """Ask after the task before, where that matters, else submit this tick's."""
        work.tick_ms = tick_ms
        before = self._book.table.marks[plan.name].task
        work.asks = plan.overlap == "skip" and before not in ("", work.ended)
        self._asked.pop(work.request, None)
        self._last -= 1
        work.request, self._asked[self._last] = self._last, plan.name
        if work.asks:
            yield Tell(Enquire(self._last, "task", before))
            return
        arguments = json_object(plan.input) or {}  # a peer may have written anything
        if plan.wants_tick:
            arguments["tick"] = moment(tick_ms)
        data = json.dumps(arguments, sort_keys=True, separators=(",", ":")).encode()
        self._acted += 1
        name, wanted = split(plan.capability)
        placement = Placement((MARK + wanted,)) if wanted else ANYWHERE
        yield Tell(Submit(self._last, name, data, by=f"every {plan.name}", key=key_of(plan.name, tick_ms), placement=placement))

    def _on_reply(self, now_s: float, _me: NodeId, reply: Reply) -> Effects:
        if reply.request < OFFICE_REQUESTS:
            return  # of another machine
        name = self._asked.pop(reply.request, "")
        work = self._work.get(name)
        if work is None or work.request != reply.request:
            yield Refused("tick_not_asked")
            return
        work.request, work.again_s, work.problem = 0, 0.0, ""
        mark, code = self._book.table.marks[name], str(reply.body.get("code") or "")
        if not work.asks:
            yield from self._submitted(now_s, mark, work, reply)
        elif reply.body.get("state") in TERMINAL or (not reply.ok and code not in UNKNOWN):
            work.ended = mark.task
        elif reply.ok:
            self._skipped += 1
            yield from self._book.mark(now_s, Mark(name, work.tick_ms, mark.fired_ms, mark.task))
        else:
            self._failed += 1
            work.problem, work.again_s = str(reply.body.get("message") or code), now_s + self._limits.again_s
        self._look_at(now_s, now_s)

    def _submitted(self, now_s: float, mark: Mark, work: _Work, reply: Reply) -> Effects:
        if reply.ok:
            yield from self._book.mark(now_s, Mark(mark.name, work.tick_ms, work.tick_ms, str(reply.body["task"])))
        elif reply.body.get("code") == "key_taken":  # by another version of it, with other arguments
            yield from self._book.mark(now_s, Mark(mark.name, work.tick_ms, work.tick_ms))
        else:
            self._failed += 1
            work.problem, work.again_s = str(reply.body.get("message") or ""), now_s + self._limits.again_s

    # ---- people

    def _do_schedule_ask(self, _now_s: float, _me: NodeId, ask: ScheduleAsk) -> Effects:
        self._waiting.append(ask)
        yield ReadWall(need=Need.FREE)

    def _do_subscribers_ask(self, _now_s: float, _me: NodeId, ask: SubscribersAsk) -> Effects:
        yield Reply(ask.request, True, {"subscribers": subscribers(self._directory.rows(), ask.topic)}, need=Need.FREE)

    def _answered(self, now_s: float, ask: ScheduleAsk, now_ms: int) -> Effects:
        plans = self._plans()
        if ask.action == "list":
            rows = [self._row(plans[name], now_ms) for name in sorted(plans)]
            yield Reply(ask.request, True, {"schedules": rows}, need=Need.FREE)
        else:
            ask.plan = tuple(self._with_tick(plan) for plan in ask.plan)
            yield from self._book.change(now_s, now_ms, ask, plans)
            self._look_at(now_s, now_s)

    def _with_tick(self, plan: Plan) -> Plan:
        """Whoever takes an argument `tick` and is given none gets the tick's time."""
        name, _ = split(plan.capability)
        offers = [row.offers[name] for row in self._directory.offering(name)]
        given = json_object(plan.input) or {}
        return replace(plan, wants_tick=any("tick" in (takes_of(offer) or ()) for offer in offers) and "tick" not in given)

    def _row(self, plan: Plan, now_ms: int) -> dict[str, Any]:
        """What `mesh schedule list` shows. Times are in milliseconds since 1970; 0: none."""
        table, work = self._book.table, self._work.get(plan.name, _Work())
        mark, row = table.marks.get(plan.name) or Mark(plan.name, 0), table.rows.get(plan.name)
        paused = table.paused(plan.name)
        base_ms = mark.upto_ms if row is None else max(mark.upto_ms, row.since_ms)
        coming = self._calendar.after(plan, max(base_ms, now_ms))
        return {
            "name": plan.name,
            "capability": plan.capability,
            "cron": plan.cron,
            "tz": plan.tz,
            "every_s": plan.every_ms / 1000,
            "jitter_s": plan.jitter_ms / 1000,
            "catch_up": plan.catch_up,
            "overlap": plan.overlap,
            "of": "mesh" if row is not None and row.plan else "agent",
            "by": self._directory.name_of(row.by) if row is not None else "",
            "paused": paused,
            "next_ms": 0 if paused or coming is None else coming,
            "last_ms": mark.fired_ms,
            "task": mark.task,
            "skipped_ms": mark.upto_ms if 0 < mark.fired_ms < mark.upto_ms else 0,
            "problem": work.problem,
        }

    def statistics(self) -> TickerStatistics:
        return TickerStatistics(len(self._work), self._acted, self._skipped, self._failed)


def key_of(name: str, tick_ms: int) -> str:
    """What makes the task of this tick one task."""
    return f"every/{name}/{moment(tick_ms)}"
