"""Outputs that are no longer in memory: read from the store by their hash, then told to whoever waits.

Invariant: each token is answered once. Tokens are negative, so that they never meet those of the records machine, which reads bodies too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mesh.core.inputs import BodyRead
from mesh.core.work.task import DONE, Task
from mesh.core.work.waits import dumps, result_body
from mesh.effects import Need, ReadBody, Send
from mesh.ids import Hash, NodeId
from mesh.messages.work import Answer, EffectAnswer, StepDone

READS_MAX = 4096


class Readback:
    def __init__(self) -> None:
        self._reads: dict[int, Callable[[bytes | None], Any]] = {}
        """By token: the message that follows from what was read."""
        self._token = 0

    def step(self, node: NodeId, ask: int, task: Task) -> ReadBody:
        def message(data: bytes | None) -> StepDone:
            if data is None:
                return StepDone(ask, task.id, "failed", b"", _erased("the result", f"mesh why {task.id}"))
            return StepDone(ask, task.id, DONE, data, b"", task.output_files)

        return self._read(node, task.output_hash, message)

    def result(self, node: NodeId, ask: int, task: Task) -> ReadBody:
        def message(data: bytes | None) -> Answer:
            if data is None:
                return Answer(ask, False, _erased("the result", f"mesh why {task.id}"))
            return Answer(ask, True, result_body(task, data))

        return self._read(node, task.output_hash, message)

    def effect(self, node: NodeId, ask: int, outcome: Hash) -> ReadBody:
        def message(data: bytes | None) -> EffectAnswer:
            if data is None:
                return EffectAnswer(ask, "refused", b"", _erased("the effect's outcome", "mesh verify"))
            return EffectAnswer(ask, "done", data)

        return self._read(node, outcome, message)

    def _read(self, node: NodeId, wanted: Hash, message: Callable[[bytes | None], Any]) -> ReadBody:
        self._token -= 1
        self._reads[self._token] = lambda data: Send(node, message(data))
        if len(self._reads) > READS_MAX:
            del self._reads[next(iter(self._reads))]
        return ReadBody(self._token, wanted, need=Need.SYNCED)

    def on_body_read(self, _now_s: float, _me: NodeId, read: BodyRead) -> list[Send]:
        answer = self._reads.pop(read.token, None)
        return [] if answer is None else [answer(read.data)]


def _erased(what: str, fix: str) -> bytes:
    return dumps({"code": "output_erased", "message": f"{what} is no longer in this node's store", "fix": fix})
