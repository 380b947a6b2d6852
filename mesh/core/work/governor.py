"""The manager's half of the mesh's policy: what is ruled of a task is made so before it is placed, before each effect, and of its result.

    new work --ruling--> refused, sent elsewhere, given labels and bounds --in line?--> GATED --look--> a gate before it --passed--> in line
                                                                                                     '--denied, or by the policy--> failed
    the policy changed --> what stands in line is looked at again

Invariant: no task leaves the line while a rule denies it, or before the gate that a rule puts before it has been passed for exactly its
input. That follows from the rulebook and the task's steps alone, so it holds after a restart and for a successor. Whoever runs the work
looks at it again, by his own rulebook (`enforcing.py`). Reads no policy's text and keeps no entry of its own: gates are steps.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from mesh.core.policy.gating import is_before, passes, question, step_of
from mesh.core.policy.inputs import PolicyChanged
from mesh.core.policy.output import problem_of
from mesh.core.policy.rules import FREE, Ruling, Work
from mesh.core.work.admitting import Admitting
from mesh.core.work.book import Book, Effects
from mesh.core.work.ending import Ending
from mesh.core.work.ruled import union
from mesh.core.work.task import CANCELLED, DONE, GATED, PARKED, PASS, WAITING, WAKE, Said, Task
from mesh.effects import Refused
from mesh.ids import COORDINATE, NodeId, TaskId, content_hash
from mesh.messages.signed import Signed
from mesh.messages.waits import WAIT, Verdict

OFFICIAL = (WAIT, COORDINATE)
"""What no rule is about: to wait is no work, and the office must not wait for itself."""
DECLINED = "policy:"
"""What the reasons begin with for which an award is declined."""


def denial(rule: str, version: int, why: str, what: str) -> dict[str, Any]:
    """The error of what a rule refuses: `what` is a capability, or something of one, whose name it ends with."""
    message = f"{what} is refused by rule {rule!r} of the mesh's policy (version {version}): {why}"
    capability = what.rpartition(" ")[2]
    return {"code": "policy_denied", "message": message, "rule": rule, "version": version, "fix": f"mesh policy explain {capability}"}


class Governor:
    def __init__(self, book: Book, ending: Ending) -> None:
        self._book, self._ending = book, ending
        self.denied = self.gates = 0
        self.admitting: Admitting
        """Set by the manager."""
        book.hold_back, book.turned_down = self.hold_back, self._turned_down

    # ---- what is ruled

    def ruling(self, task: Task) -> Ruling:
        book = self._book.directory.rulebook
        if not book.rules or task.capability in OFFICIAL:
            return FREE
        if task.ruled is None or task.ruled[0] is not book:
            origin = self._book.origins.of(task)
            names = (origin, self._book.directory.name_of(origin))
            work = Work(task.capability, task.input, names, task.placement.where, task.durable)
            task.ruled = book, book.ruling(work)
        return task.ruled[1]

    def refusal(self, capability: str, data: bytes, where: tuple[str, ...], durable: bool, parent: TaskId = "") -> dict[str, Any] | None:
        """None, or why such work is not even taken."""
        book = self._book.directory.rulebook
        if not book.rules or capability in OFFICIAL:
            return None
        origin = self._book.origins.of(parent) if parent else self._book.origins.here
        ruling = book.ruling(Work(capability, data, (origin, self._book.directory.name_of(origin)), where, durable))
        if ruling.deny is None:
            return None
        self.denied += 1
        return denial(ruling.deny[0], ruling.version, ruling.deny[1], capability)

    def hold_back(self, task: Task) -> bool:
        """Whether it cannot stand in line: it is denied, or its gate has not been passed. If it can, then with the labels it must have."""
        ruling = self.ruling(task)
        while any(label not in task.placement.where for label in ruling.require):
            task.placement = replace(task.placement, where=union(task.placement.where, ruling.require))
            task.ruled = None  # there may be a rule about just these labels, and whoever runs it would go by that
            ruling = self.ruling(task)
        if ruling.deny is not None or (ruling.gate is not None and not self._has_passed(task, ruling)):
            return True
        return ruling.admit is not None and not self.admitting.admits(self._first(task), ruling)

    def _turned_down(self, task: Task, reason: str) -> None:
        if reason.startswith(DECLINED):
            self.admitting.turned_down(self._first(task), reason.removeprefix(DECLINED))

    def words(self, task: Task) -> tuple[Signed, ...]:
        """What people have signed about it, for whoever is to run it."""
        ruling = self.ruling(task)
        gate = self._gate_of(self._first(task), *ruling.gate) if ruling.gate is not None else None
        words = tuple(_word(gate, said) for said in gate.said) if gate is not None else ()
        return (*words, *self.admitting.words(self._first(task))) if ruling.admit is not None else words

    def _first(self, task: Task) -> Task:
        """A second attempt beside another passes by that one's gate."""
        return self._book.tasks.get(task.hedges, task) if task.hedges else task

    def _gate_of(self, task: Task, rule: str, gate: dict[str, Any], effect: str = "") -> Task | None:
        """The newest that asks exactly this; None: it was not asked, or no longer is."""
        children, turn, found = task.children or {}, 1, None
        asked = content_hash(question(rule, gate, task.capability, task.input, effect))
        while (child := children.get(step_of(rule, asked, effect, turn))) is not None:
            found, turn = child, turn + 1
        return found if found is not None and found.state != CANCELLED else None

    def _has_passed(self, task: Task, ruling: Ruling) -> bool:
        assert ruling.gate is not None
        rule, gate = ruling.gate
        task = self._first(task)
        asked = self._gate_of(task, rule, gate)
        return asked is not None and asked.state == DONE and self._counts(task, asked, gate)

    def _counts(self, task: Task, asked: Task, gate: dict[str, Any]) -> bool:
        """By the rule as it is now: who may answer may be others than when it was asked."""
        words = [_word(asked, said) for said in asked.said]
        directory, separate = self._book.directory, self._book.limits.separate_duties
        return passes(gate, asked.input_hash, words, directory.name_of, self._book.origins.of(task), separate=separate)

    # ---- what is held back

    def look(self, now_s: float) -> Effects:
        """Those that were put aside in this turn, or whose gates have ended."""
        held, self._book.gated = self._book.gated, []
        for task in dict.fromkeys(held):
            if task.state != GATED:
                continue
            ruling = self.ruling(task)
            if ruling.deny is not None:
                yield from self._deny(now_s, task, denial(ruling.deny[0], ruling.version, ruling.deny[1], task.capability))
            elif ruling.gate is not None and not self._has_passed(task, ruling):
                yield from self._ask(now_s, task, *ruling.gate)
            elif not self.admitting.admits(first := self._first(task), ruling):
                yield from self._admission(now_s, task, first, ruling)
            else:
                yield from self._pass(now_s, task)

    def _pass(self, now_s: float, task: Task) -> Effects:
        for gate in list((task.children or {}).values()):
            if gate.state == WAITING and is_before(gate.step):  # of a rule that is gone: nobody need answer it
                yield from self._ending.cancel(now_s, gate, task.id, "the policy asks for it no more")
        task.move(PASS)
        task.reason = ""
        self._book.enqueue(task)

    def _deny(self, now_s: float, task: Task, error: dict[str, Any]) -> Effects:
        self.denied += 1
        yield Refused("policy_denied")
        yield from self._ending.fail(now_s, task, error)

    def _ask(self, now_s: float, task: Task, rule: str, gate: dict[str, Any]) -> Effects:
        """Put the gate before it; or end it, if that has been turned down."""
        first = self._first(task)
        asked = self._gate_of(first, rule, gate)
        task.reason = f"policy: {rule}"
        if asked is None:
            yield from self._open(now_s, first, rule, gate)
        elif asked.ended:
            said = json.loads(asked.output or b"{}") if asked.state == DONE else {}
            why = _outcome(said, self._book.directory.name_of) if asked.state == DONE else f"its gate was {asked.state}"
            yield from self._deny(now_s, task, denial(rule, self._book.directory.rulebook.version, why, task.capability))

    def _admission(self, now_s: float, task: Task, first: Task, ruling: Ruling) -> Effects:
        """It waits for the coordinator; or ends, if he has turned it down."""
        assert ruling.admit is not None
        why, number = self.admitting.pending(first, ruling)
        task.reason = f"admission: {ruling.admit[0]}"
        if not why:
            yield from self.admitting.put(now_s, first, ruling, number)
        elif why != "waits":
            yield from self._deny(now_s, task, denial(ruling.admit[0], ruling.version, why, task.capability))

    def _open(self, now_s: float, task: Task, rule: str, gate: dict[str, Any], effect: str = "") -> Effects:
        if task.children is None:
            task.children = {}
        left_ms = task.left_ms(now_s)
        timeout_ms = min(gate["expires_ms"], left_ms) if gate["expires_ms"] and left_ms else gate["expires_ms"] or left_ms
        data, turn = question(rule, gate, task.capability, task.input, effect), 1
        while (step := step_of(rule, content_hash(data), effect, turn)) in task.children:
            turn += 1
        child = self._book.open(
            now_s,
            WAIT,
            data,
            durable=task.durable,
            timeout_ms=timeout_ms,
            files=(),
            by=task.by or task.agent,
            parent=task.id,
            step=step,
            rank=task.rank,
        )
        task.children[step] = child
        self.gates += 1
        if child.durable:
            yield from self._book.submit(child)

    # ---- effects, results

    def effect(self, now_s: float, task: Task, key: str) -> tuple[dict[str, Any] | None, list[Any]] | None:
        """None: it may begin. Else why it may not, or that people are still asked (None), and what is said for that."""
        ruling = self.ruling(task)
        found = self._book.directory.rulebook.effect(ruling, key) if ruling.effects else None
        if found is None:
            return None
        rule, one = found
        if one.gate is None:
            self.denied += 1
            return denial(rule, ruling.version, one.deny, f"the effect {key!r} of {task.capability}"), []
        asked = self._gate_of(task, rule, one.gate, key)
        if asked is None:
            return None, list(self._open(now_s, task, rule, one.gate, key))
        if not asked.ended:
            return None, []
        if asked.state == DONE and self._counts(task, asked, one.gate):
            return None
        self.denied += 1
        why = _outcome(json.loads(asked.output or b"{}"), self._book.directory.name_of)
        return denial(rule, ruling.version, why, f"the effect {key!r} of {task.capability}"), []

    def output(self, task: Task, output: bytes) -> dict[str, Any] | None:
        """None, or why this result may not leave."""
        return output_error(self.ruling(task), task.capability, output)

    # ---- another policy

    def on_changed(self, _now_s: float, _me: NodeId, _changed: PolicyChanged) -> None:
        """What stands in line may be held back now; what is held back may pass."""
        book = self._book
        for line in list(book.lines.values()):
            for task in list(line.turns):
                if line.stands(task):
                    line.remove(task)
                    if task.state == PARKED:
                        task.move(WAKE)
                    book.enqueue(task)
        book.gated += [task for task in book.tasks.values() if task.state == GATED]
        book.wake_all()


def output_error(ruling: Ruling, capability: str, output: bytes) -> dict[str, Any] | None:
    """None, or the error in the place of a result that a rule does not let out."""
    for rule, one in ruling.outputs:
        if problem := problem_of(one, output):
            by = f"rule {rule!r} of the mesh's policy (version {ruling.version})"
            message = f"the result of {capability} is held back by {by}: it {problem}"
            return {"code": "policy_output", "message": message, "rule": rule, "version": ruling.version, "fix": "mesh policy show"}
    return None


def _word(gate: Task, said: Said) -> Signed:
    return Signed(said.node, Verdict(gate.id, gate.input_hash, said.approve, said.person, said.note), said.word)


def _outcome(said: dict[str, Any], name_of: Any) -> str:
    """In words, what became of its gate."""
    if said.get("expired"):
        return "nobody approved it in time"
    if said.get("approved"):
        return "those who approved it may not, by the rule as it is now"
    by = [(one.get("person") or name_of(one.get("node", "")), one.get("note")) for one in said.get("by", ())]
    return "turned down by " + ", ".join(f"{who} ({note})" if note else who for who, note in by)
