"""The manager's half of admission: work that a rule marks as critical waits until the mesh's coordinator has said that it may start.

    line --not admitted--> GATED, before a gate of its own --Ask admit, and again--> the coordinator --Ask admitted, a Verdict--> in line
    nobody in office --by the rule--> it waits | the manager says it himself, by the last decision | the same, after a time: audited
    an admission runs out, or a newer epoch is heard of --what has not started--> GATED again

Invariants: an answer counts for exactly the input that was asked about, under the newest epoch known, for `VALID_S`; who holds no office is
not heard. What was admitted is known in memory alone: after a restart, and to a successor, what has not started is not admitted. Work that
no rule marks never comes here. Does not decide what is admitted.
"""

from __future__ import annotations

import json
from collections import deque
from dataclasses import dataclass
from typing import Any

from mesh.core.coordination.inputs import OfficeChanged
from mesh.core.inputs import Audit
from mesh.core.policy.admission import MARK, asked_of, may_coordinate, scope_of, step_of
from mesh.core.policy.central import CACHED, OPEN
from mesh.core.policy.rules import Admit, Ruling
from mesh.core.work.book import Book, Effects
from mesh.core.work.errands import json_object
from mesh.core.work.task import CANCELLED, CANCELLING, DONE, GATED, PARKED, WAITING, WAKE, Said, Task
from mesh.core.work.waiting import Waiting
from mesh.core.work.waits import dumps
from mesh.effects import Need, Refused, Send, Tell
from mesh.ids import NodeId, TaskId
from mesh.messages.membership import Epoch
from mesh.messages.signed import Signed
from mesh.messages.waits import WAIT, Verdict
from mesh.messages.work import Ask

VALID_S = 30.0
"""An admission holds so long for work that has not started; then it is asked for again."""
LOOK_S = 0.25
"""Gates that wait are looked at so often: is there a coordinator, have they waited long enough?"""
REPEAT_S = 2.0
"""What is not answered is said again."""
NOTICE_ROWS, NOTICES = 100, 20
"""In one message, about 250 KB at most; and messages at once. What is left follows at the next look."""
HELD_MAX = 5000
ARGUMENTS_BYTES_MAX = 2048
"""Larger arguments are not shown to the coordinator's function: their gate has them."""
CACHED_MAX = 1000


@dataclass(frozen=True, slots=True)
class AdmissionsDue:
    """Look at the gates that wait for the coordinator."""


@dataclass(frozen=True, slots=True)
class AdmissionsOver:
    """The oldest admission may have run out."""


@dataclass(slots=True)
class _Live:
    rule: str
    epoch: Epoch
    end_s: float
    words: tuple[Signed, ...]


@dataclass(slots=True)
class _Gate:
    gate: Task
    task: Task
    rule: str
    admit: Admit
    told: Epoch | None = None
    told_s: float = 0.0


@dataclass(frozen=True, slots=True)
class _Decision:
    """The newest of a coordinator for one rule and capability."""

    word: Signed
    at_s: float


class Admitting:
    """`waiting` settles the gates. `statistics` are counts of this life."""

    def __init__(self, book: Book, waiting: Waiting) -> None:
        self._book, self._waiting = book, waiting
        self._live: dict[TaskId, _Live] = {}
        self._order: deque[tuple[float, TaskId]] = deque()
        """When each admission runs out, oldest first."""
        self._gates: dict[TaskId, _Gate] = {}
        self._decided: dict[str, _Decision] = {}
        self._held_s = float("-inf")
        self.admitted = self.refused = self.opened = self.cached = 0
        waiting.of_office = self._not_for_people
        waiting.answers["admitted"] = self._on_admitted
        self.inputs: dict[type, Any] = {
            OfficeChanged: self._on_office_changed,
            AdmissionsDue: self._expire_due,
            AdmissionsOver: self._expire_over,
        }

    # ---- what is asked before it is placed

    def admits(self, task: Task, ruling: Ruling) -> bool:
        """`task`: the first of its attempts."""
        if ruling.admit is None:
            return True
        live = self._live.get(task.id)
        return live is not None and live.rule == ruling.admit[0] and live.epoch >= self._book.directory.seat.epoch

    def words(self, task: Task) -> tuple[Signed, ...]:
        live = self._live.get(task.id)
        return live.words if live is not None else ()

    def pending(self, task: Task, ruling: Ruling) -> tuple[str, int]:
        """Its newest gate: "" (none, or it has run out: the next is to be put, with this number), ``waits``, or why it is not admitted."""
        assert ruling.admit is not None
        rule, admit = ruling.admit
        number, gate = 0, None
        while (found := (task.children or {}).get(step_of(rule, number))) is not None:
            number, gate = number + 1, found
        if gate is None:
            return "", number
        if gate.state == WAITING:
            if gate.id not in self._gates:  # of an earlier life, or of another manager's
                self._watch(_Gate(gate, task, rule, admit))
            return "waits", number
        if gate.state == CANCELLED:
            return "", number  # a policy did not ask for it any more, and does again
        said = json.loads(gate.output or b"{}") if gate.state == DONE else {}
        if gate.state == DONE and said.get("approved"):
            return "", number
        notes = [str(one.get("note")) for one in said.get("by", ()) if one.get("note")]
        return f"the coordinator did not admit it{': ' if notes else ''}{'; '.join(notes)}", number

    def put(self, now_s: float, task: Task, ruling: Ruling, number: int) -> Effects:
        """The gate before it."""
        assert ruling.admit is not None
        rule, admit = ruling.admit
        if task.children is None:
            task.children = {}
        step = step_of(rule, number)
        gate = self._book.open(
            now_s,
            WAIT,
            asked_of(rule, task.capability, task.input),
            durable=task.durable,
            timeout_ms=0,
            files=(),
            by=task.by or task.agent,
            parent=task.id,
            step=step,
            rank=task.rank,
        )
        task.children[step] = gate
        if gate.durable:
            yield from self._book.submit(gate)
        self._watch(_Gate(gate, task, rule, admit))

    def _watch(self, gate: _Gate) -> None:
        self._gates[gate.gate.id] = gate
        self._book.deadlines.set(AdmissionsDue(), 0.0)

    # ---- asking

    def _expire_due(self, now_s: float, _me: NodeId, due: AdmissionsDue) -> Effects:
        for name in [name for name, one in self._gates.items() if one.gate.state != WAITING]:
            del self._gates[name]
        seat = self._book.directory.seat
        if seat.holder:
            yield from self._notify(now_s, seat.holder, seat.epoch)
        else:
            yield from self._alone(now_s)
        if self._gates or self._counted():
            self._book.deadlines.set(due, now_s + LOOK_S)

    def _notify(self, now_s: float, holder: NodeId, epoch: Epoch) -> Effects:
        due = [one for one in self._gates.values() if one.told != epoch or now_s - one.told_s >= REPEAT_S][: NOTICES * NOTICE_ROWS]
        held = self._held(now_s) if self._counted() else []
        for one in due:
            one.told, one.told_s = epoch, now_s
        for at in range(0, max(len(due), len(held) and 1), NOTICE_ROWS):
            body = {"gates": [self._row(now_s, one) for one in due[at : at + NOTICE_ROWS]], "held": held if not at else []}
            yield Send(holder, Ask(0, "admit", "", dumps(body)), need=Need.FREE)

    def _row(self, now_s: float, one: _Gate) -> dict[str, Any]:
        task = one.task
        return {
            "gate": one.gate.id,
            "input": one.gate.input_hash,
            "rule": one.rule,
            "capability": task.capability,
            "task": task.id,
            "arguments": json_object(task.input) if len(task.input) <= ARGUMENTS_BYTES_MAX else None,
            "bytes": len(task.input),
            "origin": self._book.directory.name_of(self._book.origins.of(task)),
            "age_ms": max(0, int((now_s - one.gate.submitted_at_s) * 1000)),
            "priority": task.rank[0],
            "durable": task.durable,
            "terms": one.admit.terms(),
        }

    def _counted(self) -> bool:
        return any(rule.admit is not None and rule.admit.limit for rule in self._book.directory.rulebook.rules)

    def _held(self, now_s: float) -> list[str]:
        """What was admitted under a rule that counts what runs, and has not ended; said every `REPEAT_S`."""
        if now_s < self._held_s + REPEAT_S:
            return []
        self._held_s = now_s
        rulings = ((task, task.ruled[1].admit) for task in self._book.tasks.values() if task.ruled is not None)
        counts = (GATED, CANCELLING)
        held = [f"{admit[0]} {task.id}" for task, admit in rulings if admit is not None and admit[1].limit and task.state not in counts]
        return held[:HELD_MAX]

    # ---- answers

    def _on_admitted(self, now_s: float, sender: NodeId, ask: Ask, gate: Task) -> Effects:
        one, seat = self._gates.get(gate.id), self._book.directory.seat
        word = ask.words[0] if len(ask.words) == 1 and isinstance(ask.words[0].body, Verdict) else None
        if one is None or gate.state != WAITING:
            yield Refused("late_admission", sender)
        elif word is None or word.author != sender or word.body.task != gate.id or word.body.input != gate.input_hash:
            yield Refused("bad_admission", sender)
        elif not may_coordinate(self._book.directory, sender):
            yield Refused("not_coordinator", sender)
        elif not seat.speaks(sender, word.body.epoch):
            yield Refused("stale_epoch", sender)
        else:
            if seat.heard(now_s, sender, word.body.epoch):
                yield Tell(OfficeChanged())
            scope = scope_of(one.rule, one.task.capability)
            if len(self._decided) >= CACHED_MAX:
                del self._decided[next(iter(self._decided))]
            self._decided[scope] = _Decision(word, now_s)
            yield from self._settle(now_s, one, word, (word,))

    def _settle(self, now_s: float, one: _Gate, word: Signed, words: tuple[Signed, ...]) -> Effects:
        del self._gates[one.gate.id]
        verdict = word.body
        if verdict.approve:
            self.admitted += 1
            self._live[one.task.id] = _Live(one.rule, verdict.epoch, now_s + VALID_S, words)
            self._order.append((now_s + VALID_S, one.task.id))
            if len(self._order) == 1:
                self._book.deadlines.set(AdmissionsOver(), now_s + VALID_S)
        else:
            self.refused += 1
        yield from self._waiting.say(now_s, one.gate, Said(word.author, verdict.person, verdict.approve, verdict.note, word=word.raw))

    # ---- nobody in office

    def _alone(self, now_s: float) -> Effects:
        """By each rule. What is said here stands in this manager's name, on record."""
        absent_ms = (now_s - self._book.directory.seat.since_s) * 1000
        for one in list(self._gates.values()):
            one.told = None
            if one.admit.absent == OPEN and absent_ms >= one.admit.after_ms:
                self.opened += 1
                note = f"opened by rule {one.rule}: no coordinator for {one.admit.after_ms / 1000:g} s"
                yield Tell(Audit("opened_without_coordinator", one.task.id, self._book.me, note))
                yield from self._by_myself(now_s, one, True, OPEN, note, ())
            elif one.admit.absent == CACHED:
                known = self._decided.get(scope_of(one.rule, one.task.capability))
                if known is not None and (now_s - known.at_s) * 1000 <= one.admit.cached_ms:
                    self.cached += 1
                    who = self._book.directory.name_of(known.word.author)
                    note = (
                        f"by the decision of {who} about {known.word.body.task}, {now_s - known.at_s:.0f} s before: no coordinator is there"
                    )
                    yield from self._by_myself(now_s, one, known.word.body.approve, CACHED, note, (known.word,))

    def _by_myself(self, now_s: float, one: _Gate, approve: bool, scope: str, note: str, shown: tuple[Signed, ...]) -> Effects:
        me, epoch = self._book.me, self._book.directory.seat.epoch
        word = Signed(me, Verdict(one.gate.id, one.gate.input_hash, approve, "", note, epoch=epoch, scope=scope))
        yield from self._settle(now_s, one, word, (word, *shown))

    # ---- what holds no longer

    def _on_office_changed(self, now_s: float, _me: NodeId, _changed: OfficeChanged) -> Effects:
        epoch = self._book.directory.seat.epoch
        for name in [name for name, live in self._live.items() if live.epoch < epoch]:
            self._void(name)
        if self._gates:
            yield from self._expire_due(now_s, self._book.me, AdmissionsDue())

    def _expire_over(self, now_s: float, _me: NodeId, due: AdmissionsOver) -> None:
        while self._order and self._order[0][0] <= now_s:
            _, name = self._order.popleft()
            live = self._live.get(name)
            if live is not None and live.end_s <= now_s:
                self._void(name)
        if self._order:
            self._book.deadlines.set(due, self._order[0][0])

    def _void(self, name: TaskId) -> None:
        """If it stands in line still, it is held back again."""
        del self._live[name]
        task = self._book.tasks.get(name)
        line = self._book.lines.get(task.line) if task is not None else None
        if task is not None and line is not None and line.stands(task):
            line.remove(task)
            if task.state == PARKED:
                task.move(WAKE)
            self._book.enqueue(task)

    def turned_down(self, task: Task, rule: str) -> None:
        """Whoever was to run it does not believe its admission: it is asked for again."""
        if (live := self._live.get(task.id)) is not None and live.rule == rule:
            del self._live[task.id]

    def __len__(self) -> int:
        """Gates that wait."""
        return sum(one.gate.state == WAITING for one in self._gates.values())

    # ---- people

    def _not_for_people(self, gate: Task) -> bool:
        return bool((json_object(gate.input) or {}).get(MARK))

    def rows(self, now_s: float) -> list[dict[str, Any]]:
        """What waits for the coordinator here."""
        return [self._row(now_s, one) for one in self._gates.values() if one.gate.state == WAITING]
