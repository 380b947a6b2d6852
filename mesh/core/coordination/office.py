"""The office of coordinator, at one node: who stands by for it, who holds it, and what those who manage critical work ask of the holder.

    offers mesh.coordinate, nobody in office --Submit, under the office's key--> one task over the whole mesh, like any other
    its handler here --Coordinate--> in office, under (task's number, fence), while that task's lease holds: LOAD says so to everybody
    managers --Ask admit--> what waits here --handler--> Verdict --Ask admitted--> the manager of that gate

Invariants: nobody is chosen, watched or replaced here: that is what becomes of a task. Without a live lease nothing is answered in the
office's name. What waits here is a notice, said again by its manager until it is answered: to lose it costs time. Decides nothing about
work: the handler does (`mesh/coordinator`), and nothing in the mesh but what a policy marks waits for it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from mesh.core.coordination.inputs import OFFICE_REQUESTS, Coordinate, OfficeChanged
from mesh.core.deadlines import Deadlines
from mesh.core.directory import Directory
from mesh.core.inputs import (
    Enquire,
    MemberDied,
    MemberLeft,
    MemberRestarted,
    MemberRevoked,
    MemberSuspected,
    MemberUnreachable,
    OffersChanged,
    RequestGone,
    Submit,
)
from mesh.core.policy.admission import may_coordinate
from mesh.core.work.errands import json_object
from mesh.core.work.task import TERMINAL
from mesh.effects import Need, Refused, Reply, Send, Tell
from mesh.ids import COORDINATE, PRIORITY_MAX, Fence, NodeId, TaskId
from mesh.messages.membership import NO_EPOCH, Load
from mesh.messages.work import Ask

Effects = Iterator[Any]

KEY = "mesh/coordinator"
STAND_BY_S = 2.0
"""Whoever stands by looks so often whether the office has a task, when it sees nobody in it."""
LEASE_LOOK_S = 0.25
"""The holder looks so often whether it holds it still."""
SILENT_S = 5.0
"""A handler that has asked for nothing for so long is in office no more: it hangs."""
STALE_S = 10.0
"""What its manager has not told again for so long waits no more; he does so five times as often."""
WAITING_MAX = 10_000
"""Gates that are known here to wait; more are said again when some have been answered."""
ROWS_MAX = 200
"""Given to the handler at once."""
HELD_MAX = 5000
TEXT_MAX = 256
_TEXTS = ("gate", "input", "rule", "capability", "task")
_TASK, _HASH = re.compile(r"[A-Za-z0-9_.-]{1,128}"), re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class StandByDue:
    """Is there somebody in office?"""


@dataclass(frozen=True, slots=True)
class LeaseDue:
    """Is this node in office still?"""


@dataclass(frozen=True, slots=True)
class AskedLongEnough:
    """The handler has waited for news for as long as it wanted."""


@dataclass(frozen=True, slots=True)
class OfficeStatistics:
    standing_by: bool
    task: TaskId
    """Of the office, as far as this node has asked for it; "": it has not."""
    waiting: int
    noticed: int
    answered: int


class Office:
    """`lease_ms`: the end of the lease under which that task runs here, by this node's clock; 0: it does not."""

    def __init__(self, directory: Directory, deadlines: Deadlines, lease_ms: Callable[[TaskId, Fence], int]) -> None:
        self._me, self._directory, self._deadlines, self._lease_ms = directory.me, directory, deadlines, lease_ms
        self.task: TaskId = ""
        self._generation = 1
        self._request = 0
        """That is out: negative; 0: none."""
        self._asked = 0
        self._holds: tuple[TaskId, Fence] = ("", 0)
        self._seen_s = 0.0
        self._waits: dict[TaskId, dict[str, Any]] = {}
        """By gate: what its manager has told, and not been answered yet."""
        self._told_s: dict[TaskId, float] = {}
        """When, last."""
        self._given: dict[TaskId, None] = {}
        """Of those, what the handler has got since it was told last."""
        self._held: dict[str, None] = {}
        """Tasks that managers say to run, by ``RULE TASK``; given on with the next answer."""
        self._open = 0
        """The handler's request that waits."""
        self._noticed = self._answered = 0
        gone = dict.fromkeys((MemberUnreachable, MemberDied, MemberLeft, MemberRevoked, MemberRestarted), self._on_gone)
        self.inputs: dict[type, Any] = {
            OffersChanged: self._on_offers_changed,
            StandByDue: self._expire_stand_by,
            Reply: self._on_reply,
            Load: self._on_load,
            Coordinate: self._do_coordinate,
            RequestGone: self._do_gone,
            LeaseDue: self._expire_lease,
            AskedLongEnough: self._expire_ask,
            Ask: self._on_ask,
            MemberSuspected: self._on_suspected,
            **gone,
        }

    # ---- standing by

    def _stands_by(self) -> bool:
        row = self._directory.get(self._me)
        return row is not None and COORDINATE in row.offers

    def _on_offers_changed(self, now_s: float, _me: NodeId, changed: OffersChanged) -> None:
        if changed.node == self._me and self._stands_by():
            self._deadlines.set(StandByDue(), now_s + LEASE_LOOK_S)

    def _expire_stand_by(self, now_s: float, _me: NodeId, due: StandByDue) -> Effects:
        if not self._stands_by():
            return
        self._deadlines.set(due, now_s + STAND_BY_S)
        if self._directory.seat.holder or self._request:
            return
        self._asked += 1
        self._request = OFFICE_REQUESTS - self._asked
        if self.task:
            yield Tell(Enquire(self._request, "task", self.task))
            return
        data = json.dumps({"generation": self._generation}, separators=(",", ":")).encode()
        yield Tell(Submit(self._request, COORDINATE, data, by="office", key=f"{KEY}/{self._generation}", rank=(PRIORITY_MAX, "")))

    def _on_reply(self, now_s: float, _me: NodeId, reply: Reply) -> None:
        """The office's task; or what became of it. One that has ended is followed by another, under the next number."""
        if reply.request != self._request:
            return
        self._request = 0
        if not self.task:
            self.task = str(reply.body.get("task") or "") if reply.ok else ""
        elif reply.ok and reply.body.get("state") in TERMINAL:
            self.task = ""
            self._generation = max(self._generation, self._directory.seat.epoch[0]) + 1
            self._deadlines.set(StandByDue(), now_s + LEASE_LOOK_S)
        elif reply.body.get("code") == "unknown_task":
            self.task = ""  # asked for again under its key: whoever has it answers

    # ---- who holds it

    def _on_load(self, now_s: float, sender: NodeId, load: Load) -> Effects:
        seat = self._directory.seat
        if sender != self._me and load.office != NO_EPOCH and not may_coordinate(self._directory, sender):
            yield Refused("not_coordinator", sender)
        elif sender != self._me and load.office != NO_EPOCH and not seat.speaks(sender, load.office):
            yield Refused("stale_epoch", sender)
        elif sender != self._me and seat.heard(now_s, sender, load.office):
            if seat.mine != NO_EPOCH and seat.mine < seat.epoch:
                self._step_down()
            yield Tell(OfficeChanged())

    def _on_gone(self, now_s: float, _me: NodeId, fact: Any) -> Effects:
        if fact.node != self._me and self._directory.seat.lost(now_s, fact.node):
            self._deadlines.set(StandByDue(), now_s + STAND_BY_S)
            yield Tell(OfficeChanged())

    def _on_suspected(self, now_s: float, me: NodeId, fact: MemberSuspected) -> Effects:
        return self._on_gone(now_s, me, fact) if fact.hard else iter(())

    def _expire_lease(self, now_s: float, _me: NodeId, due: LeaseDue) -> Effects:
        if self._directory.seat.mine == NO_EPOCH:
            return
        if self._lease_ms(*self._holds) > int(now_s * 1000) and now_s - self._seen_s < SILENT_S:
            self._deadlines.set(due, now_s + LEASE_LOOK_S)
            for gate in [gate for gate, at_s in self._told_s.items() if now_s - at_s >= STALE_S]:
                self._drop(gate)
            return
        self._step_down()
        self._directory.seat.lost(now_s, self._me)
        yield Tell(OfficeChanged())

    def _drop(self, gate: TaskId) -> dict[str, Any] | None:
        self._told_s.pop(gate, None)
        self._given.pop(gate, None)
        return self._waits.pop(gate, None)

    def _step_down(self) -> None:
        self._directory.seat.mine = NO_EPOCH
        self._holds = ("", 0)
        self._waits, self._told_s, self._given, self._held = {}, {}, {}, {}

    # ---- its handler

    def _do_coordinate(self, now_s: float, _me: NodeId, wanted: Coordinate) -> Effects:
        seat, epoch = self._directory.seat, (wanted.generation, wanted.fence)
        if self._lease_ms(wanted.task, wanted.fence) <= int(now_s * 1000):
            yield self._no(wanted, "lease_over", "the lease of the office is over on this node")
            return
        if epoch < seat.epoch:
            yield self._no(wanted, "stale_epoch", f"the office is held under a newer epoch: {seat.epoch[0]}.{seat.epoch[1]}")
            return
        self._seen_s = now_s
        if seat.mine != epoch:
            seat.mine, self._holds, self._given = epoch, (wanted.task, wanted.fence), {}
            seat.heard(now_s, self._me, epoch)
            self._deadlines.set(LeaseDue(), now_s + LEASE_LOOK_S)
            yield Tell(OfficeChanged())
        for word in wanted.words:
            row = self._drop(word.body.task)
            if row is None or word.body.epoch != epoch:
                yield Refused("not_asked")
                continue
            self._answered += 1
            yield Send(row["manager"], Ask(0, "admitted", word.body.task, b"{}", (word,)), need=Need.FREE)
        if self._open:
            yield Reply(self._open, True, {"asked": [], "held": []}, need=Need.FREE)
        self._open = wanted.request
        self._deadlines.set(AskedLongEnough(), now_s + wanted.wait_ms / 1000)
        yield from self._news()

    def _no(self, wanted: Coordinate, code: str, message: str) -> Reply:
        return Reply(wanted.request, False, {"code": code, "message": message, "fix": "mesh coordinator"}, need=Need.FREE)

    def _news(self, *, over: bool = False) -> Effects:
        """To the handler that waits, if there are any; or since it has waited long enough."""
        if not self._open:
            return
        fresh = [row for gate, row in self._waits.items() if gate not in self._given][:ROWS_MAX]
        if fresh or self._held or over:
            self._given.update((row["gate"], None) for row in fresh)
            held, self._held = [name.split(" ", 1) for name in self._held], {}
            request, self._open = self._open, 0
            self._deadlines.clear(AskedLongEnough())
            yield Reply(request, True, {"asked": fresh, "held": held}, need=Need.FREE)

    def _expire_ask(self, _now_s: float, _me: NodeId, _due: AskedLongEnough) -> Effects:
        return self._news(over=True)

    def _do_gone(self, _now_s: float, _me: NodeId, gone: RequestGone) -> None:
        if gone.request == self._open:
            self._open = 0

    # ---- what is asked of it

    def _on_ask(self, now_s: float, sender: NodeId, ask: Ask) -> Effects:
        if ask.question != "admit":
            return
        if self._directory.seat.mine == NO_EPOCH:
            yield Refused("not_in_office", sender)
            return
        args = json_object(ask.args) or {}
        for row in args.get("gates", ()) if isinstance(args.get("gates"), list) else ():
            if not is_notice(row) or len(self._waits) >= WAITING_MAX:
                yield Refused("bad_notice", sender)
                continue
            self._noticed += 1
            gate = row["gate"]
            self._waits[gate], self._told_s[gate] = row | {"manager": sender}, now_s
            self._given.pop(gate, None)
        for name in args.get("held", ()) if isinstance(args.get("held"), list) else ():
            if isinstance(name, str) and " " in name and len(name) <= TEXT_MAX and len(self._held) < HELD_MAX:
                self._held[name] = None
        yield from self._news()

    # ---- for those who look

    def statistics(self) -> OfficeStatistics:
        return OfficeStatistics(self._stands_by(), self.task, len(self._waits), self._noticed, self._answered)


def is_notice(row: object) -> bool:
    """Whether the handler, who counts by what a manager says here, can read it: a peer may say anything."""
    if not isinstance(row, dict) or not all(isinstance(row.get(name), str) for name in _TEXTS):
        return False
    if not _TASK.fullmatch(row["gate"]) or not _HASH.fullmatch(row["input"]) or max(len(row[name]) for name in _TEXTS) > TEXT_MAX:
        return False
    terms = row.get("terms", {})
    if not isinstance(terms, dict) or any(type(terms.get(name, 0)) is not int for name in ("limit", "total")):
        return False
    rate = terms.get("rate", 0)
    return not rate or (isinstance(rate, list) and [type(one) for one in rate] == [int, int])
