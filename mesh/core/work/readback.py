"""Bodies that are no longer in memory: read from the store by their hash, then told to whoever waits.

Invariant: each token is answered once. Tokens are negative, so that they never meet those of the records machine, which reads bodies too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from mesh.core.inputs import BodyRead
from mesh.core.work.task import DONE, Task
from mesh.core.work.waits import dumps, ended_ms, result_body
from mesh.effects import Need, ReadBody, Send
from mesh.ids import Hash, NodeId
from mesh.messages.work import Answer, EffectAnswer, StepDone

READS_MAX = 4096

Told = Callable[[float, bytes | None], Iterable[Any]]
"""What follows: the time, and the bytes; None: they are not in the store any more."""


class Readback:
    def __init__(self) -> None:
        self._reads: dict[int, Told] = {}
        self._token = 0

    def step(self, node: NodeId, ask: int, task: Task) -> ReadBody:
        return self.read(task.output_hash, lambda _now_s, data: (_step(node, ask, task, data),))

    def result(self, node: NodeId, ask: int, task: Task) -> ReadBody:
        return self.read(task.output_hash, lambda _now_s, data: (_result(node, ask, task, data),))

    def effect(self, node: NodeId, ask: int, outcome: Hash) -> ReadBody:
        return self.read(outcome, lambda _now_s, data: (_effect(node, ask, data),))

    def read(self, digest: Hash, told: Told) -> ReadBody:
        self._token -= 1
        self._reads[self._token] = told
        if len(self._reads) > READS_MAX:
            del self._reads[next(iter(self._reads))]
        return ReadBody(self._token, digest, need=Need.SYNCED)

    def on_body_read(self, now_s: float, _me: NodeId, read: BodyRead) -> Iterable[Any]:
        told = self._reads.pop(read.token, None)
        return told(now_s, read.data) if told is not None else ()


def _erased(what: str, fix: str) -> bytes:
    return dumps({"code": "output_erased", "message": f"{what} is no longer in this node's store", "fix": fix})


def _step(node: NodeId, ask: int, task: Task, data: bytes | None) -> Send:
    if data is None:
        return Send(node, StepDone(ask, task.id, "failed", b"", _erased("the result", f"mesh why {task.id}")))
    return Send(node, StepDone(ask, task.id, DONE, data, b"", task.output_files, ended_ms(task)))


def _result(node: NodeId, ask: int, task: Task, data: bytes | None) -> Send:
    if data is None:
        return Send(node, Answer(ask, False, _erased("the result", f"mesh why {task.id}")))
    return Send(node, Answer(ask, True, result_body(task, data)))


def _effect(node: NodeId, ask: int, data: bytes | None) -> Send:
    """Who hears of an outcome does not do it again: it must be kept."""
    if data is None:
        return Send(node, EffectAnswer(ask, "refused", b"", _erased("the effect's outcome", "mesh verify")))
    return Send(node, EffectAnswer(ask, "done", data), need=Need.KEPT)
