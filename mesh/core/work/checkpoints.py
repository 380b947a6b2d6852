"""Checkpoints: what a handler keeps for whoever has to go on in its place.

    CHECKPOINT_ASK (task, fence) --the holder's, newer--> Checkpointed entry (durable), kept in the task --> STEP_DONE, once safe
                                 --stale fence----------> STEP_DONE refused              next AWARD --> its handler

Invariant: the newest of the newest attempt that kept one is what the next award carries; a repeated or overtaken question changes nothing.
After a restart the fold has it again. A plain call's lives in memory, as the call does. One that begins anew (`anew`) forgets the steps,
effects and signals until then, so a loop without end takes bounded room; nobody waits any more for what the same attempt had asked before.
"""

from __future__ import annotations

from typing import Any

from mesh.core.work.book import Book, Effects
from mesh.core.work.leases import Leases
from mesh.core.work.task import DONE, HELD, OFFERED, Task
from mesh.core.work.waits import dumps
from mesh.effects import Append, Need, Refused, Send
from mesh.ids import NodeId, content_hash
from mesh.messages.records import Checkpointed, Spent
from mesh.messages.work import CheckpointAsk, StepDone


class Checkpoints:
    def __init__(self, book: Book, leases: Leases) -> None:
        self._book, self._leases = book, leases
        self.inputs: dict[type, Any] = {CheckpointAsk: self._on_checkpoint}

    def _on_checkpoint(self, now_s: float, sender: NodeId, ask: CheckpointAsk) -> Effects:
        if ask.task in self._book.moved:
            yield Refused("moved", sender)  # who has it will claim it, and then is asked
            return
        task = self._book.tasks.get(ask.task)
        code = self._refusal(sender, ask, task)
        if task is None or code:
            body = {"code": code, "message": "this attempt is over, or its task runs elsewhere", "fix": f"mesh why {ask.task}"}
            yield Send(sender, StepDone(ask.ask, ask.task, "refused", b"", dumps(body)), need=Need.FREE)
            yield Refused(code, sender)
            return
        if task.state == OFFERED:
            yield from self._leases.bind(now_s, task)
        if (task.fence, ask.ask) > task.checkpoint_at:
            task.checkpoint, task.checkpoint_at = ask.value, (task.fence, ask.ask)
            yield from self._settle(now_s, task) if ask.anew else ()
            if task.durable:
                digest = content_hash(ask.value)
                entry = Checkpointed(task.id, task.fence, digest, int(now_s * 1000), ask.anew, ask.signals)
                yield Append(entry, {digest: ask.value})
            if ask.anew:
                task.begin_anew(dict(ask.signals))
        yield Send(sender, StepDone(ask.ask, task.id, DONE), need=task.need)

    @staticmethod
    def _settle(now_s: float, task: Task) -> Effects:
        """What was open counts; and the sum is written down, since the steps that it is made of are forgotten."""
        if task.account is not None:
            keys = task.account.settle_all() or ("",)
            for key in keys if task.durable and task.account.used else ():
                yield Append(Spent(task.id, 0, 0, key, (), task.account.total(), int(now_s * 1000)))

    def _refusal(self, sender: NodeId, ask: CheckpointAsk, task: Task | None) -> str:
        if not self._book.is_mine(ask.task):
            return "not_my_task"
        if task is None or task.fence != ask.fence or task.holder != sender or task.state not in (OFFERED, HELD) or task.hedges:
            return "stale_fence"
        return "checkpoint_too_big" if len(ask.value) > self._book.limits.checkpoint_bytes_max else ""
