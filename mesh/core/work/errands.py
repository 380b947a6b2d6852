"""Errands: what a worker's handler asks of its task's manager: ``ctx.step``, ``ctx.checkpoint``, ``ctx.effect`` and ``ctx.state``.
Asked until he answers.

    Step            --STEP_ASK-->       manager of the parent  said again after accept_timeout_s until STEP_SEEN, then every ask_repeat_s
    Checkpoint      --CHECKPOINT_ASK--> manager of the task
                    <--STEP_SEEN, STEP_DONE--                  STEP_DONE is the reply
    EffectPermitted --EFFECT_ASK-->     manager of the task    said again after accept_timeout_s
    EffectEnd       --EFFECT_DONE--> <--EFFECT_ANSWER--        EFFECT_ANSWER is the reply
    Spend           --SPEND_ASK-->   <--EFFECT_ANSWER--        the same
    OfHandler       --HANDLER_ASK--> <--ANSWER--               manager of the task, or of a shared scope; ANSWER is the reply

Invariant: an errand is replied to once, however often it was asked and answered; an answer counts only from the task's manager. Asking
again is harmless: a step is known there by its parent and name, a checkpoint by its number, an effect by its task, key and call, what
is spent by its task and number. The answering sides are `steps.py`, `checkpoints.py`, `effect_ledger.py`, `accounts.py` and `scopes.py`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from mesh.core.deadlines import Deadlines
from mesh.core.directory import ReadDirectory
from mesh.core.inputs import MemberLinked, MemberRevoked, RequestGone, Step
from mesh.core.work.inputs import Checkpoint, EffectEnd, EffectPermitted, OfHandler, Spend
from mesh.effects import Need, Refused, Reply, Send
from mesh.ids import NodeId, TaskId
from mesh.limits import WorkLimits
from mesh.messages.scopes import HandlerAsk
from mesh.messages.spending import SpendAsk
from mesh.messages.work import Answer, CheckpointAsk, EffectAnswer, EffectAsk, EffectDone, StepAsk, StepDone, StepSeen

Message = StepAsk | CheckpointAsk | EffectAsk | EffectDone | SpendAsk | HandlerAsk


RETRY_AFTER_MS = 1000
"""Of whoever finds a table full."""


@dataclass(frozen=True, slots=True)
class ErrandDue:
    """Still not answered: ask again."""

    ask: int


@dataclass(slots=True, eq=False)
class _Errand:
    request: int
    manager: NodeId
    task: TaskId
    """Whose manager is asked."""
    message: Message
    seen: bool = False


def failure(code: str, message: str, fix: str) -> dict[str, Any]:
    """The body of a reply that is an error."""
    return {"code": code, "message": message, "fix": fix}


def full(what: str) -> dict[str, Any]:
    """The error of whoever asks while a table is full: nothing was taken, and it is worth asking again."""
    return failure("overloaded", f"{what} at this node already", "ask again in a moment") | {"retry_after_ms": RETRY_AFTER_MS}


def revoked(directory: ReadDirectory, node: NodeId) -> dict[str, Any]:
    """The error of whoever waits for, or asks, a node that is not believed any more."""
    message = f"{directory.name_of(node)} was revoked: nothing it says counts any more, and its tasks have ended with it"
    return failure("node_revoked", message, "mesh audit")


def json_object(data: bytes) -> dict[str, Any] | None:
    """What a peer sent as JSON, if it is an object."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def reply(me: NodeId, peer: NodeId, request: int, ok: bool, body: dict[str, Any]) -> Reply:
    """What this node itself has answered waits for its own disk; what came from a peer has waited for his."""
    return Reply(request, ok, body, need=Need.SYNCED if peer == me else Need.FREE)


class Errands:
    """The part of the desk that carries steps and effects. `next_ask` numbers questions and errands alike."""

    def __init__(self, directory: ReadDirectory, deadlines: Deadlines, limits: WorkLimits, next_ask: Callable[[float], int]) -> None:
        self._me, self._directory = directory.me, directory
        self._deadlines, self._limits, self._next_ask = deadlines, limits, next_ask
        self._open: dict[int, _Errand] = {}
        self._asks: dict[int, int] = {}
        self.asked = self.repeated = 0
        self.inputs: dict[type, Any] = {
            Step: self._do_step,
            Checkpoint: self._do_checkpoint,
            StepSeen: self._on_step_seen,
            StepDone: self._on_step_done,
            EffectPermitted: self._on_effect_permitted,
            EffectEnd: self._do_effect_end,
            Spend: self._do_spend,
            EffectAnswer: self._on_effect_answer,
            OfHandler: self._do_of_handler,
            MemberLinked: self._on_member_linked,
            MemberRevoked: self._on_member_revoked,
            RequestGone: self._do_request_gone,
            ErrandDue: self._expire_errand,
        }

    def _do_step(self, now_s: float, me: NodeId, step: Step) -> Iterator[Any]:
        ask = self._next_ask(now_s)
        what = (step.parent, step.fence, step.name, step.capability, step.input, step.timeout_ms, step.files)
        message = StepAsk(ask, *what, step.bounds, step.rank, step.placement, step.retries, step.budget, step.baggage)
        size_max = self._limits.body_bytes_max
        yield from self._begin(now_s, step.request, step.parent, message, len(step.input), size_max)

    def _do_checkpoint(self, now_s: float, me: NodeId, checkpoint: Checkpoint) -> Iterator[Any]:
        what = (checkpoint.task, checkpoint.fence, checkpoint.value, checkpoint.anew, checkpoint.signals)
        message = CheckpointAsk(self._next_ask(now_s), *what)
        size_max = self._limits.checkpoint_bytes_max
        yield from self._begin(now_s, checkpoint.request, checkpoint.task, message, len(checkpoint.value), size_max)

    def _on_effect_permitted(self, now_s: float, me: NodeId, fact: EffectPermitted) -> Iterator[Any]:
        it = fact.begin
        message = EffectAsk(self._next_ask(now_s), it.task, it.fence, it.key, it.call, it.once)
        yield from self._begin(now_s, it.request, it.task, message, 0, 0)

    def _do_effect_end(self, now_s: float, me: NodeId, end: EffectEnd) -> Iterator[Any]:
        message = EffectDone(self._next_ask(now_s), end.task, end.fence, end.key, end.call, end.output, end.error)
        yield from self._begin(now_s, end.request, end.task, message, len(end.output), self._limits.body_bytes_max)

    def _do_spend(self, now_s: float, me: NodeId, spend: Spend) -> Iterator[Any]:
        what = (spend.task, spend.fence, spend.call, spend.kind, spend.key, spend.amounts)
        yield from self._begin(now_s, spend.request, spend.task, SpendAsk(self._next_ask(now_s), *what), 0, 0)

    def _do_of_handler(self, now_s: float, me: NodeId, it: OfHandler) -> Iterator[Any]:
        about, data = it.about or it.task, json.dumps(it.args).encode()
        message = HandlerAsk(self._next_ask(now_s), it.task, it.fence, about, it.question, data)
        yield from self._begin(now_s, it.request, about, message, len(data), 2 * self._limits.body_bytes_max)

    def _begin(self, now_s: float, request: int, task: TaskId, message: Message, size: int, size_max: int) -> Iterator[Any]:
        """To the manager of `task`, or why not."""
        manager = self._directory.manager_of(task)
        problem = None
        if not manager:
            problem = failure("unknown_task", f"{task!r} is no task id", "call the context from inside its handler")
        elif self._directory.revoked(manager):
            problem = revoked(self._directory, manager)
        elif size > size_max:
            problem = failure("too_big", f"what is passed is {size} bytes of JSON, over {size_max}", "pass large data as File")
        elif len(self._open) >= self._limits.asks_max:
            problem = full(f"{self._limits.asks_max} steps and effects wait")
        if problem is not None:
            yield Reply(request, False, problem, need=Need.FREE)
            return
        ask = message.ask
        self._open[ask] = _Errand(request, manager, task, message)
        self._asks[request] = ask
        self.asked += 1
        self._deadlines.set(ErrandDue(ask), now_s + self._limits.accept_timeout_s)
        yield from self._say(self._open[ask])

    def _say(self, errand: _Errand) -> Iterator[Any]:
        """If there is a link. After a restart a worker may be back before its manager is known: it waits, its handler must not fail."""
        errand.manager = self._directory.manager_of(errand.task)
        row = self._directory.get(errand.manager)
        if errand.manager == self._me or (row is not None and row.linked):
            yield Send(errand.manager, errand.message, need=Need.FREE)

    def _expire_errand(self, now_s: float, me: NodeId, due: ErrandDue) -> Iterator[Any]:
        errand = self._open.get(due.ask)
        if errand is not None:
            wait_s = self._limits.ask_repeat_s if errand.seen else self._limits.accept_timeout_s
            self._deadlines.set(due, now_s + wait_s)
            self.repeated += 1
            yield from self._say(errand)

    def _on_member_linked(self, now_s: float, me: NodeId, linked: MemberLinked) -> Iterator[Any]:
        for errand in list(self._open.values()):
            if self._directory.manager_of(errand.task) == linked.node:
                errand.manager = linked.node
                self.repeated += 1
                yield Send(linked.node, errand.message, need=Need.FREE)

    def _on_member_revoked(self, now_s: float, me: NodeId, fact: MemberRevoked) -> Iterator[Any]:
        for ask, errand in list(self._open.items()):
            if errand.manager == fact.node:
                self._forget(ask)
                yield Reply(errand.request, False, revoked(self._directory, fact.node), need=Need.FREE)

    def look_again(self) -> Iterator[Any]:
        """Others drive some tasks now: steps of those are asked for there."""
        for errand in list(self._open.values()):
            if self._directory.manager_of(errand.task) != errand.manager:
                self.repeated += 1
                yield from self._say(errand)

    def _asked_of(self, peer: NodeId, ask: int) -> _Errand | None:
        errand = self._open.get(ask)
        return errand if errand is not None and errand.manager == peer else None

    def _on_step_seen(self, now_s: float, peer: NodeId, seen: StepSeen) -> Iterator[Any]:
        errand = self._asked_of(peer, seen.ask)
        if errand is None:
            yield Refused("step_not_asked", peer)
            return
        errand.seen = True
        self._deadlines.set(ErrandDue(seen.ask), now_s + self._limits.ask_repeat_s)

    def _on_step_done(self, now_s: float, peer: NodeId, done: StepDone) -> Iterator[Any]:
        errand = self._asked_of(peer, done.ask)
        if errand is None:
            yield Refused("step_not_asked", peer)
            return
        self._forget(done.ask)
        error = json_object(done.error) if done.error else {}
        if error is None:
            yield Refused("bad_step_error", peer)
            error = failure(done.state, "the error could not be read", f"mesh why {done.child}")
        body: dict[str, Any] = {"task": done.child, "state": done.state, "output": done.output, "files": done.files, "error": error}
        body["ended_ms"] = done.ended_ms
        if done.state == "refused":
            yield reply(self._me, peer, errand.request, False, {**failure("refused", "it was refused", "mesh tasks"), **error})
        else:
            yield reply(self._me, peer, errand.request, True, body)

    def _on_effect_answer(self, now_s: float, peer: NodeId, answer: EffectAnswer) -> Iterator[Any]:
        errand = self._asked_of(peer, answer.ask)
        if errand is None:
            yield Refused("effect_not_asked", peer)
            return
        self._forget(answer.ask)
        if answer.state != "refused":
            # What this node itself has answered has not waited for its disk yet (for its keepers it has, where it has to).
            need = Need.FREE if peer != self._me else Need.SYNCED
            yield Reply(errand.request, True, {"state": answer.state, "output": answer.output}, need=need)
            return
        error = json_object(answer.error)
        if error is None:
            yield Refused("bad_effect_error", peer)
        yield reply(self._me, peer, errand.request, False, failure("refused", "the effect was refused", "mesh tasks") | (error or {}))

    def on_answer(self, _now_s: float, peer: NodeId, answer: Answer) -> Iterator[Any]:
        errand = self._asked_of(peer, answer.ask)
        if errand is None or type(errand.message) is not HandlerAsk:
            yield Refused("answer_not_asked", peer)
            return
        self._forget(answer.ask)
        body = json_object(answer.body)
        if body is None:
            yield Refused("bad_answer", peer)
        # What this node itself has answered has to be kept, as it would be before it left for another.
        need = Need.FREE if peer != self._me else Need.KEPT
        yield Reply(errand.request, answer.ok, body or failure("bad_answer", "the answer could not be read", "mesh doctor"), need=need)

    def _do_request_gone(self, now_s: float, me: NodeId, gone: RequestGone) -> None:
        """The handler that waited is over. Its step goes on: the next attempt finds it by name. So does an effect's outcome."""
        ask = self._asks.get(gone.request)
        if ask is not None:
            self._forget(ask)

    def _forget(self, ask: int) -> None:
        del self._asks[self._open.pop(ask).request]
        self._deadlines.clear(ErrandDue(ask))

    def __len__(self) -> int:
        return len(self._open)
