"""Waits: steps that nobody runs. Their manager holds them until somebody outside settles them, or their time is over.

    STEP_ASK mesh.wait --> waiting --Ask signal, to the parent--> Answered entry --> done, with the signal's value
                                   --Ask answer, a Verdict------> Answered entry --a quorum, or a denial--> done, with the decision
                                   --its time is over-----------> done (a pause, a gate) or failed (a signal that did not come)

Invariants: what is said to a wait is on record before anybody hears that it was; the outcome follows from what is on record (`gates.py`),
so a successor comes to the same; the n-th signal of a name settles the n-th wait for it, whichever comes first; one event settles one wait.
A gate's answer is for exactly the input it names, and of a gate asked again with other input the earlier one is over. Does not know flows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mesh.core.work.book import Book, Effects
from mesh.core.work.ending import Ending
from mesh.core.work.errands import json_object
from mesh.core.work.gates import GATE, PERSON_CHARACTERS_MAX, SIGNAL, Gate, Wait, outcome, output_bytes_max, wait_of
from mesh.core.work.opening import opened_wait
from mesh.core.work.task import SETTLE, WAITING, Events, Said, Task
from mesh.core.work.updates import Updates
from mesh.core.work.waits import dumps
from mesh.effects import Append, Need, Refused, Send
from mesh.ids import NodeId, TaskId, author_of, content_hash
from mesh.messages.records import Answered
from mesh.messages.waits import WAIT, Verdict, signal_step
from mesh.messages.work import Answer, Ask

NAME_CHARACTERS_MAX = 200
ROWS_MAX = 500
PEOPLE = "people"
UPDATES = "~"
"""Before the name of an update, in that of the signal that brings it."""
MARK = "~"
"""In the name of a gate's step, before what tells its inputs apart."""


class Waiting:
    def __init__(self, book: Book, ending: Ending) -> None:
        self._book, self._ending = book, ending
        ending.on_time = self.expired
        self.updates = Updates(book, ending)
        self.of_office: Callable[[Task], bool] = lambda gate: False
        """Whether only the mesh's coordinator answers it. Set by `admitting.py`."""
        self.answers: dict[str, Callable[[float, NodeId, Ask, Task], Effects]] = {
            "signal": self._signal,
            "update": self._signal,
            "answer": self._answer,
        }
        """To questions about one task of this manager."""

    # ---- a wait begins, and ends

    def look(self, now_s: float) -> Effects:
        """Those that have begun to wait in this turn: what they wait for may be here already."""
        begun, self._book.waits = self._book.waits, []
        for task in begun:
            if task.state != WAITING:
                continue
            wait = wait_of(task.input)
            if isinstance(wait, str):
                error = {"code": "bad_wait", "message": f"{wait} ({task.step})", "fix": "ctx.sleep, ctx.signal or ctx.approval"}
                yield from self._ending.fail(now_s, task, error)
                continue
            if wait.kind == GATE:
                yield from self._end_earlier(now_s, task)
            yield from self._settle(now_s, task, wait)

    def _end_earlier(self, now_s: float, gate: Task) -> Effects:
        """The same gate with other inputs: whatever was or will be said of those counts for nothing here."""
        parent, (name, mark, _) = self._book.tasks.get(gate.parent), gate.step.partition(MARK)
        for other in list((parent.children or {}).values()) if parent is not None and mark else ():
            if other is not gate and other.state == WAITING and other.step.partition(MARK)[0] == name:
                yield from self._ending.cancel(now_s, other, gate.id, "asked again with other inputs")

    def expired(self, now_s: float, task: Task) -> Effects:
        """Its time is over. Settles it, if that is an outcome; the caller fails it otherwise."""
        wait = wait_of(task.input)
        if not isinstance(wait, str):
            yield from self._settle(now_s, task, wait, expired=True)

    def _settle(self, now_s: float, task: Task, wait: Wait, *, expired: bool = False) -> Effects:
        output = outcome(wait, task.said, expired=expired)
        if output is None:
            return
        task.move(SETTLE)
        task.node, task.output, task.output_hash = self._book.me, output, content_hash(output)
        yield from self._ending.settled(now_s, task)

    def say(self, now_s: float, task: Task, said: Said) -> Effects:
        digest = content_hash(said.output) if said.output else ""
        task.said = (*task.said, said)
        if task.durable:
            what = (task.id, said.node, said.person, said.approve, said.note, digest, said.event, said.word, int(now_s * 1000))
            yield Append(Answered(*what), {digest: said.output} if said.output else {})
        wait = wait_of(task.input)
        if task.state == WAITING and not isinstance(wait, str):
            yield from self._settle(now_s, task, wait)

    # ---- signals

    def _signal(self, now_s: float, sender: NodeId, ask: Ask, parent: Task) -> Effects:
        """Also an update, which is a signal with an answer."""
        args = json_object(ask.args) or {}
        value, name, event = args.get("value"), args.get("name") or "", args.get("event") or ""
        if not isinstance(name, str) or not isinstance(event, str) or not all(0 < len(one) <= NAME_CHARACTERS_MAX for one in (name, event)):
            said = f"a signal has a name, and an event its sender knows it by, of 1 to {NAME_CHARACTERS_MAX} characters"
            yield self._no(sender, ask, "bad_signal", said, "mesh signal --help")
            return
        update = ask.question == "update"
        if parent.capability == WAIT or (parent.ended and not (update and event in self._events(parent, UPDATES + name).newest)):
            yield self.not_there(sender, ask, parent)
            return
        told, name = name, UPDATES + name if update else name
        events = self._events(parent, name)
        number = events.number(event)
        if number < 0:
            number = events.count
            data = dumps(value)
            if len(data) > (most := self._book.limits.body_bytes_max):
                yield self._no(sender, ask, "too_big", f"the signal has {len(data)} bytes, and {most} travel", "send its hash, or a name")
                return
            if (refused := self._book.admission.refusal(now_s, len(data))) is not None:
                yield Send(sender, Answer(ask.ask, False, dumps(refused)))
                return
            wait = self._wait_of(now_s, parent, name, number)
            if wait.durable and not wait.seq:
                yield from self._book.submit(wait)
            yield from self.say(now_s, wait, Said(sender, str(args.get("by") or "")[:PERSON_CHARACTERS_MAX], True, "", data, event))
        body = {"task": parent.id, "signal": told}
        if update:
            answer = self.updates.answer_of(now_s, parent, told, number)
            if answer.durable and not answer.seq:
                yield from self._book.submit(answer)
            body = {"task": parent.id, "name": told, "update": answer.id}
        yield Send(sender, Answer(ask.ask, True, dumps(body)), need=parent.need)

    def _wait_of(self, now_s: float, parent: Task, name: str, number: int) -> Task:
        """The wait for this signal: the one that is asked for already, or a new one, for whoever asks."""
        return opened_wait(self._book, now_s, parent, signal_step(name, number), {"wait": SIGNAL, "name": name, "n": number})

    def _events(self, parent: Task, name: str) -> Events:
        """The signals of that name so far."""
        if parent.signals is None:
            parent.signals = {}
        events = parent.signals.get(name)
        if events is None:
            events = parent.signals[name] = Events(parent.signals_had.get(name, 0))
        children = parent.children or {}
        while (child := children.get(signal_step(name, events.count))) is not None and (child.said or child.ended):
            events.count += 1
            events.newest.append(child.said[0].event if child.said else "")
        return events

    # ---- gates

    def _answer(self, now_s: float, sender: NodeId, ask: Ask, task: Task) -> Effects:
        word = ask.words[0] if len(ask.words) == 1 and isinstance(ask.words[0].body, Verdict) else None
        if task.ended or task.capability != WAIT or isinstance(wait := wait_of(task.input), str) or wait.kind != GATE:
            yield self.not_there(sender, ask, task)
            return
        if word is None or word.author != sender or word.body.task != task.id:
            yield self._no(sender, ask, "unsigned_verdict", "the answer to a gate is signed by the node that gives it", "mesh approve ID")
            yield Refused("unsigned_verdict", sender)
            return
        verdict: Verdict = word.body
        if any(one.node == sender and one.approve == verdict.approve for one in task.said):
            yield self._state(sender, ask, task)
            return
        if (problem := self._unfit(now_s, sender, task, wait.gate, verdict)) is not None:
            yield self._no(sender, ask, *problem)
            yield Refused(problem[0], sender)
            return
        said = Said(sender, verdict.person, verdict.approve, verdict.note, verdict.output, word=word.raw)
        yield from self.say(now_s, task, said)
        yield self._state(sender, ask, task)

    def _unfit(self, now_s: float, sender: NodeId, task: Task, gate: Gate, verdict: Verdict) -> tuple[str, str, str] | None:
        """None, or why this answer does not count."""
        show = f"mesh approvals {task.id}"
        if self.of_office(task):
            return "for_coordinator", "the mesh's coordinator answers this by himself, and nobody else", "mesh coordinator"
        if verdict.input != task.input_hash:
            return "gate_changed", "what was answered is not what this gate asks: it was asked again with other inputs", show
        names = (sender, self._book.directory.name_of(sender))
        age_ms = int((now_s - task.submitted_at_s) * 1000)
        asked = gate.asked(age_ms, task.timeout_ms)
        if asked and not any(name in asked for name in names):
            return "not_approver", f"{names[1]} is not among those who may answer: {', '.join(asked)}", show
        separate = self._book.limits.separate_duties if gate.separate is None else gate.separate
        if separate and verdict.approve and sender == author_of(self._root(task)):
            return "own_work", f"{names[1]} asked for this work, and may not approve it: another node has to", show
        if len(verdict.output) > (most := output_bytes_max(self._book.limits.body_bytes_max)):
            return (
                "too_big",
                f"what is to stand in its place has {len(verdict.output)} bytes, and at most {most} travel",
                "put its hash there",
            )
        if verdict.output and json_object(b'{"x":' + verdict.output + b"}") is None:
            return "bad_output", "what is to stand in its place is no JSON", show
        return None

    def _root(self, task: Task) -> TaskId:
        """The submitted task that this one belongs to, as far up as this manager knows."""
        while task.parent and (parent := self._book.find(task.parent)) is not None:
            task = parent
        return task.parent or task.id

    def waits(self, now_s: float, sender: NodeId, ask: Ask, tasks: list[Task]) -> Effects:
        """The gates among these tasks that wait, oldest first."""
        rows = [row for task in tasks if (row := self._row(now_s, task)) is not None]
        yield Send(sender, Answer(ask.ask, True, dumps({"tasks": rows[:ROWS_MAX], "more": max(0, len(rows) - ROWS_MAX)})))

    def rows(self, now_s: float) -> list[dict[str, Any]]:
        """The gates that wait here for people, for whoever looks after this node."""
        rows = (row for task in self._book.tasks.values() if (row := self._row(now_s, task)) is not None)
        return [row for row in rows if row["for"] == PEOPLE]

    def _row(self, now_s: float, task: Task) -> dict[str, Any] | None:
        if task.capability != WAIT or task.state != WAITING or isinstance(wait := wait_of(task.input), str) or wait.kind != GATE:
            return None
        age_ms = max(0, int((now_s - task.submitted_at_s) * 1000))
        parent = self._book.tasks.get(task.parent)
        return {
            "task": task.id,
            "gate": wait.name,
            "question": wait.gate.question,
            "input": task.input_hash,
            "arguments": json_object(task.input),
            "parent": task.parent,
            "root": self._root(task),
            "capability": parent.capability if parent is not None else "",
            "quorum": wait.gate.quorum,
            "approvers": list(wait.gate.asked(age_ms, task.timeout_ms)),
            "said": [{"node": one.node, "person": one.person, "approve": one.approve, "note": one.note} for one in task.said],
            "age_ms": age_ms,
            "left_ms": task.left_ms(now_s),
            "manager": self._book.me,
            "for": "coordinator" if self.of_office(task) else PEOPLE,
        }

    # ---- answers

    def _state(self, sender: NodeId, ask: Ask, task: Task) -> Send:
        said = [{"node": one.node, "person": one.person, "approve": one.approve} for one in task.said]
        body = {"task": task.id, "parent": task.parent, "state": task.state, "said": said}
        return Send(sender, Answer(ask.ask, True, dumps(body)), need=task.need)

    def not_there(self, sender: NodeId, ask: Ask, task: Task) -> Send:
        """What `task` cannot be told, since it has ended or does not wait for that."""
        if ask.question == "answer" and task.capability != WAIT:
            return self._no(sender, ask, "no_gate", f"{task.id} is no gate: nobody has to approve it", "mesh approvals")
        if task.ended:  # said when that is kept: others may have the task, and there it has not
            return self._no(sender, ask, "task_ended", f"{task.id} has ended: it is {task.state}", f"mesh task {task.id}", task.need)
        return self._no(sender, ask, "no_handler", f"{task.id} is a wait: signal the task that waits", f"mesh signal {task.parent} NAME")

    @staticmethod
    def _no(sender: NodeId, ask: Ask, code: str, message: str, fix: str, need: Need = Need.FREE) -> Send:
        return Send(sender, Answer(ask.ask, False, dumps({"code": code, "message": message, "fix": fix})), need=need)
