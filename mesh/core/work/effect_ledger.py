"""What each task has begun and done to the outside world, by key: the manager's side of ``ctx.effect``. The asking side: `effect_asks.py`.

    EFFECT_ASK (task, fence, key) --new--> Intended on record, go ... EFFECT_DONE --> Effected on record, noted
                                  --it has happened--> done, with its outcome: that is the second attempt
                                  --begun, and nobody knows--> go again under the same key; of `once`: refused, outcome_unknown
                                  --stale fence--> refused

Invariants: only the task's holder under its newest fence begins or ends an effect; of one key at most one outcome is on record, and once
that is kept no attempt begins it again; what is `once` is begun only when the intent is kept, and never a second time. The outside world is
not here: between the go and the deed a process can pause, and only a sink that compares keys or fences shuts it out (docs/operations.md).
Plain calls keep all this in memory: no attempt of theirs outlives their manager.
"""

from __future__ import annotations

from typing import Any

from mesh.core.work.book import Book, Effects
from mesh.core.work.governor import Governor
from mesh.core.work.leases import Leases
from mesh.core.work.readback import Readback
from mesh.core.work.task import HELD, OFFERED, OUTCOME_KEPT_BYTES, Intent, Task
from mesh.core.work.waits import dumps
from mesh.effects import Append, Need, Refused, Send
from mesh.ids import NodeId, award_number, content_hash
from mesh.messages.records import Effected, Intended
from mesh.messages.work import EffectAnswer, EffectAsk, EffectDone

KEY_CHARACTERS_MAX = 200
KEY_RULE = f"the key of an effect is a text of 1 to {KEY_CHARACTERS_MAX} characters"
ERROR_CHARACTERS_MAX = 500
GO, DONE, NOTED, REFUSED = "go", "done", "noted", "refused"


class EffectLedger:
    def __init__(self, book: Book, leases: Leases, readback: Readback, governor: Governor) -> None:
        self._book, self._leases, self._readback, self._governor = book, leases, readback, governor
        self.inputs: dict[type, Any] = {EffectAsk: self._on_effect_ask, EffectDone: self._on_effect_done}

    # ---- before

    def _on_effect_ask(self, now_s: float, sender: NodeId, ask: EffectAsk) -> Effects:
        task = self._of(sender, ask)
        if task is None:
            yield from self._stale(sender, ask)
            return
        if task.state == OFFERED:
            yield from self._leases.bind(now_s, task)
        intent = task.effects.get(ask.key) if task.effects is not None else None
        if intent is None and (problem := self._unfit(task, ask)):
            yield problem
        elif intent is None and (ruled := self._governor.effect(now_s, task, ask.key)) is not None:
            denied, said = ruled
            yield from said
            if denied is not None:  # else people are asked: the worker's node asks again until they have answered
                yield Send(sender, EffectAnswer(ask.ask, REFUSED, b"", dumps(denied)), need=Need.FREE)
        elif intent is not None and intent.done:
            yield self._outcome(sender, ask.ask, task, intent)
        elif intent is not None and (intent.fence, intent.call) == (ask.fence, ask.call):
            yield self._go(sender, ask, task, intent.once)
        elif intent is not None and (intent.fence, intent.call) > (ask.fence, ask.call):
            yield Refused("late_effect", sender)  # overtaken by a later call of the same attempt, which has been answered
        elif intent is not None and (intent.once or ask.once):
            yield self._unknown(sender, ask, task, intent)
        else:
            yield from self._begin(now_s, sender, ask, task)

    def _unfit(self, task: Task, ask: EffectAsk | EffectDone) -> Send | None:
        if not 0 < len(ask.key) <= KEY_CHARACTERS_MAX:
            return self._refusal(task.holder, ask.ask, "bad_key", KEY_RULE, "use a shorter key")
        if task.effects is not None and len(task.effects) >= self._book.limits.effects_max:
            message = f"one task has at most {self._book.limits.effects_max} effects"
            return self._refusal(task.holder, ask.ask, "too_many_effects", message, "do the rest in steps: ctx.step")
        return None

    def _begin(self, now_s: float, sender: NodeId, ask: EffectAsk, task: Task) -> Effects:
        if task.effects is None:
            task.effects = {}
        task.effects[ask.key] = Intent(ask.fence, ask.call, ask.once, sender)
        if task.durable:
            yield Append(Intended(task.id, ask.fence, ask.key, ask.call, ask.once, sender, int(now_s * 1000)))
        yield self._go(sender, ask, task, ask.once)

    def _go(self, sender: NodeId, ask: EffectAsk, task: Task, once: bool) -> Send:
        need = Need.FREE if not task.durable else task.need if once else Need.SYNCED
        return Send(sender, EffectAnswer(ask.ask, GO), need=need)

    def _outcome(self, sender: NodeId, ask: int, task: Task, intent: Intent) -> Any:
        if intent.output is None:
            return self._readback.effect(sender, ask, intent.output_hash)
        return Send(sender, EffectAnswer(ask, DONE, intent.output), need=task.need)

    def _unknown(self, sender: NodeId, ask: EffectAsk, task: Task, intent: Intent) -> Send:
        name = self._book.directory.name_of(intent.node)
        begun = f"the effect {ask.key!r} was begun by award {award_number(intent.fence)} on {name}"
        became = f"its function raised {intent.error}, so " if intent.error else ""
        message = f"{begun} and {became}nobody knows whether it happened; at_most_once: it is not begun again"
        return self._refusal(sender, ask.ask, "outcome_unknown", message, f"mesh why {task.id}")

    # ---- after

    def _on_effect_done(self, now_s: float, sender: NodeId, done: EffectDone) -> Effects:
        task = self._of(sender, done)
        intent = task.effects.get(done.key) if task is not None and task.effects is not None else None
        if task is not None and self._began_elsewhere(done, intent) and (intent is not None or self._unfit(task, done) is None):
            intent = self._note(task, done, sender)
            if task.durable:
                yield Append(Intended(task.id, done.fence, done.key, done.call, False, sender, int(now_s * 1000)))
        if task is None or intent is None or (intent.fence, intent.call) != (done.fence, done.call):
            yield from self._stale(sender, done)
            return
        if not intent.done:
            if done.error:
                intent.error = done.error[:ERROR_CHARACTERS_MAX]
                yield from self._record(now_s, task, done, Effected(task.id, done.fence, done.key, done.call, error=intent.error))
            else:
                intent.done, intent.error, intent.output, intent.output_hash = True, "", done.output, content_hash(done.output)
                yield from self._record(now_s, task, done, Effected(task.id, done.fence, done.key, done.call, intent.output_hash))
                if task.durable and len(done.output) > OUTCOME_KEPT_BYTES:
                    intent.output = None
        yield Send(sender, EffectAnswer(done.ask, NOTED), need=task.need)

    @staticmethod
    def _began_elsewhere(done: EffectDone, intent: Intent | None) -> bool:
        """Its go came from a manager who is gone, and was not kept: who holds the task knows. (Of ``at_most_once`` it always is.)"""
        return intent is None or (not intent.done and not intent.once and (intent.fence, intent.call) < (done.fence, done.call))

    @staticmethod
    def _note(task: Task, done: EffectDone, node: NodeId) -> Intent:
        if task.effects is None:
            task.effects = {}
        intent = task.effects[done.key] = Intent(done.fence, done.call, False, node)
        return intent

    @staticmethod
    def _record(now_s: float, task: Task, done: EffectDone, entry: Effected) -> Effects:
        if task.durable:
            entry.at_ms = int(now_s * 1000)
            yield Append(entry, {entry.output: done.output} if entry.output else {})

    # ---- who may

    def _of(self, sender: NodeId, message: EffectAsk | EffectDone) -> Task | None:
        """The task, if the sender holds it under its newest fence."""
        task = self._book.tasks.get(message.task)
        if task is None or task.fence != message.fence or task.holder != sender or task.state not in (OFFERED, HELD):
            return None
        return task if not task.hedges else None

    def _stale(self, sender: NodeId, message: EffectAsk | EffectDone) -> Effects:
        if message.task in self._book.moved:
            yield Refused("moved", sender)  # who has it will claim it, and then is asked
            return
        if not self._book.is_mine(message.task):
            code, text = "not_my_task", "this node does not manage the task"
        else:
            code, text = "stale_fence", "the task has ended, or runs elsewhere under a newer fence"
        yield self._refusal(sender, message.ask, code, text, f"mesh why {message.task}")
        yield Refused(code, sender)

    def _refusal(self, sender: NodeId, ask: int, code: str, message: str, fix: str) -> Send:
        error = dumps({"code": code, "message": message, "fix": fix})
        return Send(sender, EffectAnswer(ask, REFUSED, b"", error), need=Need.FREE)
