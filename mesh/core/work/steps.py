"""Steps: children of a task, named within it, asked for by the worker that runs it.

    STEP_ASK (parent, fence, name) --new--> child task, STEP_SEEN --its end--> STEP_DONE
                                   --known--> STEP_SEEN, or STEP_DONE at once: that is the replay
                                   --stale fence, other work under the same name--> STEP_DONE refused

Invariant: one child per (parent, name), shared by all attempts of the parent; only the parent's holder under its newest fence may ask.
The child is durable if its parent is. Does not know flows: a flow is a handler that asks for steps.
"""

from __future__ import annotations

from typing import Any

from mesh.core.policy.gating import PREFIX
from mesh.core.work.accounts import refusal
from mesh.core.work.book import Book, Effects
from mesh.core.work.governor import Governor
from mesh.core.work.leases import Leases
from mesh.core.work.readback import Readback
from mesh.core.work.spending import begun
from mesh.core.work.task import DONE, HELD, OFFERED, Task
from mesh.core.work.waits import dumps, step_done
from mesh.effects import Need, Refused, Send
from mesh.ids import BAGGAGE_BYTES_MAX, NodeId, baggage_bytes, content_hash, inherited
from mesh.messages.waits import WAIT
from mesh.messages.work import StepAsk, StepDone, StepSeen

ASKERS_MAX = 16
"""A worker asks again under the same number; more than a few numbers per step are attempts long gone."""


class Steps:
    def __init__(self, book: Book, leases: Leases, readback: Readback, governor: Governor) -> None:
        self._book, self._leases, self._readback, self._governor = book, leases, readback, governor
        self.inputs: dict[type, Any] = {StepAsk: self._on_step_ask}

    def _on_step_ask(self, now_s: float, sender: NodeId, ask: StepAsk) -> Effects:
        parent = self._book.tasks.get(ask.parent)
        if parent is None or parent.fence != ask.fence or parent.holder != sender or parent.state not in (OFFERED, HELD) or parent.hedges:
            yield from self._stale(sender, ask, parent)
            return
        if parent.state == OFFERED:
            yield from self._leases.bind(now_s, parent)
        if (ask.fence, ask.ask) < parent.anew_at:
            yield Refused("late_step", sender)  # asked before the parent began anew: nobody waits for it any more
            return
        if parent.children is None:
            parent.children = {}
        child = parent.children.get(ask.name)
        if child is None:
            if (problem := self._problem(now_s, parent, ask)) is not None:
                yield Send(sender, StepDone(ask.ask, "", "refused", b"", dumps(problem)), need=Need.FREE)
                return
            if (denied := self._governor.refusal(ask.capability, ask.input, ask.placement.where, parent.durable, parent.id)) is not None:
                yield Send(sender, StepDone(ask.ask, "", "refused", b"", dumps(denied)), need=Need.FREE)
                return
            # A step outlives the attempt that asked for it, but not its parent: it never has more time than that has left.
            left_ms = parent.left_ms(now_s)
            child = self._book.open(
                now_s,
                ask.capability,
                ask.input,
                durable=parent.durable,
                timeout_ms=min(ask.timeout_ms, left_ms) if ask.timeout_ms and left_ms else ask.timeout_ms or left_ms,
                files=ask.files,
                retries=ask.retries,
                by=parent.agent,
                parent=parent.id,
                step=ask.name,
                bounds=ask.bounds,
                rank=inherited(ask.rank, parent.rank),
                placement=ask.placement,
                budget=ask.budget,
                baggage=ask.baggage or parent.baggage,
            )
            if ask.capability != WAIT:
                begun(parent.account)
            if ask.files and sender != self._book.me:
                child.sources = (self._book.me, sender)
            parent.children[ask.name] = child
            if child.durable:
                yield from self._book.submit(child)
        elif child.capability != ask.capability or child.input_hash != content_hash(ask.input):
            message = f"step {ask.name!r} was {child.capability} with other arguments before; give changed work another name"
            yield self._refusal(sender, ask, "step_changed", message, f"mesh why {parent.id}")
            return
        yield from self._answer(sender, ask, child)

    def _problem(self, now_s: float, parent: Task, ask: StepAsk) -> dict[str, Any] | None:
        """Why this new step cannot begin: there is no room for it, or it does not fit into what its parent has left."""
        if ask.name.startswith(PREFIX):  # gates of the policy stand under such names, and what was answered there lets work pass
            return {"code": "bad_step_name", "message": f"the name of a step does not begin with {PREFIX!r}", "fix": "ctx.step(name=...)"}
        if (overloaded := self._book.admission.refusal(now_s, len(ask.input))) is not None or ask.capability == WAIT:
            return overloaded
        if baggage_bytes(ask.baggage) > BAGGAGE_BYTES_MAX:
            message = f"its baggage is over the {BAGGAGE_BYTES_MAX} bytes that travel with all work"
            return {"code": "baggage_too_big", "message": message, "fix": f"mesh why {parent.id}"}
        over = refusal(parent.account, ask.budget, f"the step {ask.name!r}")
        if over is not None:
            self._book.count("over_budget")
        return over

    def _answer(self, sender: NodeId, ask: StepAsk, child: Task) -> Effects:
        if child.ended:
            if child.state == DONE and child.output is None:
                yield self._readback.step(sender, ask.ask, child)
            else:
                yield step_done(sender, ask.ask, child)
            return
        if child.askers is None:
            child.askers = []
        if (sender, ask.ask) not in child.askers:
            child.askers.append((sender, ask.ask))
            del child.askers[:-ASKERS_MAX]
        yield Send(sender, StepSeen(ask.ask, child.id), need=Need.KEPT if child.durable else Need.FREE)

    def _stale(self, sender: NodeId, ask: StepAsk, parent: Task | None) -> Effects:
        """An attempt that has been replaced, or whose task has ended, asks for nothing any more."""
        if ask.parent in self._book.moved:
            yield Refused("moved", sender)  # who has it will claim it, and then is asked
            return
        if not self._book.is_mine(ask.parent):
            code, message = "not_my_task", "this node does not manage the parent"
        elif parent is None:
            code, message = "parent_ended", "the parent task has ended"
        else:
            code, message = "stale_fence", "the parent runs elsewhere under a newer fence, or is being stopped"
        yield self._refusal(sender, ask, code, message, f"mesh why {ask.parent}")
        yield Refused(code, sender)

    def _refusal(self, sender: NodeId, ask: StepAsk, code: str, message: str, fix: str) -> Send:
        error: dict[str, Any] = {"code": code, "message": message, "fix": fix}
        return Send(sender, StepDone(ask.ask, "", "refused", b"", dumps(error)), need=Need.FREE)
