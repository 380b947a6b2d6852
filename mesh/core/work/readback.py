"""Outputs that are no longer in memory: read from the store by their hash, then told to whoever waits.

Invariant: each token is answered once. Tokens are negative, so that they never meet those of the records machine, which reads bodies too.
"""

from __future__ import annotations

from mesh.core.inputs import BodyRead
from mesh.core.work.task import DONE, Task
from mesh.core.work.waits import dumps, result_body
from mesh.effects import Need, ReadBody, Send
from mesh.ids import NodeId
from mesh.messages.work import Answer, StepDone

READS_MAX = 4096


class Readback:
    def __init__(self) -> None:
        self._reads: dict[int, tuple[NodeId, int, Task, bool]] = {}
        self._token = 0

    def step(self, node: NodeId, ask: int, task: Task) -> ReadBody:
        return self._read(node, ask, task, True)

    def result(self, node: NodeId, ask: int, task: Task) -> ReadBody:
        return self._read(node, ask, task, False)

    def _read(self, node: NodeId, ask: int, task: Task, step: bool) -> ReadBody:
        self._token -= 1
        self._reads[self._token] = (node, ask, task, step)
        if len(self._reads) > READS_MAX:
            del self._reads[next(iter(self._reads))]
        return ReadBody(self._token, task.output_hash, need=Need.SYNCED)

    def on_body_read(self, _now_s: float, _me: NodeId, read: BodyRead) -> list[Send]:
        waiting = self._reads.pop(read.token, None)
        if waiting is None:
            return []
        node, ask, task, step = waiting
        if read.data is None:
            error = {"code": "output_erased", "message": "the result is no longer in this node's store", "fix": f"mesh why {task.id}"}
            if step:
                return [Send(node, StepDone(ask, task.id, "failed", b"", dumps(error)))]
            return [Send(node, Answer(ask, False, dumps(error)))]
        if step:
            return [Send(node, StepDone(ask, task.id, DONE, read.data, b"", task.output_files))]
        return [Send(node, Answer(ask, True, result_body(task, read.data)))]
