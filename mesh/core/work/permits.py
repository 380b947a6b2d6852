"""May a handler reach for the outside world now? Asked by workers before every effect and every secret; this node's own clock decides.

    EffectBegin --runs under a lease that holds--> EffectPermitted, to the desk, which asks the manager
                --the lease is over--> lease_over: the worker waits for its renewal, and asks again
                --not its work, or not any more--> stale_fence

Invariant: without a live lease nothing begins, whatever the worker believes. Does not know effects: the manager keeps them.
"""

from __future__ import annotations

from typing import Any

from mesh.core.work.enforcing import Enforcing
from mesh.core.work.holdings import Holdings
from mesh.core.work.inputs import EffectBegin, EffectPermitted
from mesh.core.work.slots import Run, Slots
from mesh.effects import Need, Reply, Tell
from mesh.ids import Fence, NodeId, TaskId


class Permits:
    def __init__(self, holdings: Holdings, slots: Slots, enforcing: Enforcing) -> None:
        self._holdings, self._slots, self._enforcing = holdings, slots, enforcing
        self.inputs: dict[type, Any] = {EffectBegin: self._do_effect_begin}

    def runs(self, worker: int, task: TaskId, fence: Fence, now_ms: int) -> str:
        """The capability that this worker runs for `task` under that fence and a lease that holds; "" if it does not, or shall stop."""
        run = self._held(worker, task, fence)
        return run.capability if run is not None and self._holdings.by_task[task].lease_end_ms > now_ms else ""

    def lease_ms(self, task: TaskId, fence: Fence) -> int:
        """Until when, by this node's clock, it runs here under that fence; 0: it does not, or shall stop."""
        run, holding = self._slots.runs.get(task), self._holdings.by_task.get(task)
        if run is None or holding is None or run.stopping or not run.fence == holding.fence == fence:
            return 0
        return holding.lease_end_ms

    def secret_error(self, task: TaskId, name: str) -> dict[str, Any] | None:
        """None, or why the policy does not let it have that secret."""
        holding = self._holdings.by_task.get(task)
        return self._enforcing.secret_error(holding, name) if holding is not None else None

    def _held(self, worker: int, task: TaskId, fence: Fence) -> Run | None:
        run, holding = self._slots.runs.get(task), self._holdings.by_task.get(task)
        if run is None or holding is None or run.stopping or not run.fence == holding.fence == fence:
            return None
        return run if run.worker.worker == worker else None

    def _do_effect_begin(self, now_s: float, _me: NodeId, begin: EffectBegin) -> list[Any]:
        if self.runs(begin.worker, begin.task, begin.fence, int(now_s * 1000)):
            denied = self._enforcing.effect_error(self._holdings.by_task[begin.task], begin.key)
            if denied is not None:
                return [Reply(begin.request, False, denied, need=Need.FREE)]
            return [Tell(EffectPermitted(begin))]
        if self._held(begin.worker, begin.task, begin.fence) is not None:
            code, message = "lease_over", "the lease of this task is over on this node, and no effect starts until it is renewed"
        else:
            code, message = "stale_fence", "this node does not run the task for this worker any more"
        return [Reply(begin.request, False, {"code": code, "message": message, "fix": f"mesh why {begin.task}"}, need=Need.FREE)]
