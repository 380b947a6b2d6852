"""Simulated handlers that reach for the outside world under keys, as ``ctx.effect`` does (mesh/keyed.py), and a world that remembers.

    ask --go--> [lease holds] ... a moment, or a pause longer than any lease ... the deed at the sink --> tell its outcome --> the next key
        --done--> the stored outcome                          lease_over --> wait for the renewal, ask again under the same number

The *sink* compares fences per task, and knows its keys: a key that it has seen gives the outcome of the first time. For what must not
repeat (`once`) it is blind: it does whatever it is told, and counts. The rules of the worker are kept; the pause between looking at the
lease and the deed is the one that no worker can exclude.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING, Any

from mesh.core.work.inputs import EffectBegin, EffectEnd
from mesh.ids import Fence, TaskId
from mesh.sim.history import Learned, Reached

if TYPE_CHECKING:
    from mesh.sim.host import Host
    from mesh.sim.labour import Run
    from mesh.sim.world import World

MOMENT_S = 0.02
PAUSE_RATE = 0.03
PAUSE_S = 9.0
"""Longer than a lease, its margin and the next award."""
AGAIN_S = 0.1
ASK, WAIT, SUSPENDED, DO, TELL = "ask", "wait", "suspended", "do", "tell"


class KeyedSink:
    """The outside world: what was done under which key, and the newest fence of each task."""

    def __init__(self) -> None:
        self._newest: dict[TaskId, Fence] = {}
        self._done: dict[tuple[TaskId, str], int] = {}

    def newer_than(self, task: TaskId, fence: Fence) -> bool:
        """Has somebody with a newer fence been here?"""
        return fence < self._newest.get(task, 0)

    def do(self, task: TaskId, key: str, fence: Fence, once: bool) -> tuple[str, bool]:
        """``(outcome, executed)``; the outcome is "" for a stale fence."""
        if not once:
            if self.newer_than(task, fence):
                return "", False
            self._newest[task] = fence
        done = self._done.get((task, key), 0)
        if done and not once:
            return f'"{key} 1"', False
        self._done[task, key] = done + 1
        return f'"{key} {done + 1}"', True


class Reaching:
    """One worker's part in it. `end(run, outcome, error)` ends a run, `finished(run)` follows when all its keys are through."""

    def __init__(
        self,
        world: World,
        host: Host,
        sink: KeyedSink,
        number: int,
        rng: Random,
        end: Callable[[Run, str, dict[str, Any] | None], None],
        finished: Callable[[Run], None],
    ) -> None:
        self._world, self._host, self._sink, self._number, self._rng = world, host, sink, number, rng
        self._end, self._finished = end, finished

    def begin(self, run: Run) -> None:
        """The next key, if there is one."""
        if run.key == len(run.skill.keys):
            self._finished(run)
            return
        run.call += 1
        run.stage = ASK
        self.ask(run)

    def ask(self, run: Run) -> None:
        """Say what is to be said, once more after the node's restart. What waits for its lease, or is at it, says nothing."""
        effect, skill = run.effect, run.skill
        run.asked += 1
        asked, call, key, outcome = run.asked, run.call, skill.keys[run.key], run.outcome
        if run.stage == ASK:
            begin = (self._number, effect.task, effect.fence, key, call, skill.once)
            self._world.ask(self._host.name, lambda n: EffectBegin(n, *begin), lambda ok, body: self._answered(run, asked, ok, body))
        elif run.stage == TELL:
            end = (effect.task, effect.fence, key, call, outcome.encode())
            self._world.ask(self._host.name, lambda n: EffectEnd(n, *end), lambda ok, body: self._answered(run, asked, ok, body))

    def extended(self, run: Run) -> None:
        """Its lease was renewed."""
        if run.stage == WAIT:
            run.stage = ASK
            self.ask(run)
        elif run.stage == SUSPENDED:
            self._reach(run)

    def _answered(self, run: Run, asked: int, ok: bool, body: dict[str, Any]) -> None:
        if run.over or asked != run.asked:
            return
        if not ok:
            self._refused(run, body)
        elif run.stage == TELL:
            self._learn(run, run.outcome)
        elif body["state"] == "done":
            self._learn(run, body["output"].decode())
        else:
            self._world.after(MOMENT_S * self._rng.random() ** 3, lambda: self._reach(run))

    def _refused(self, run: Run, body: dict[str, Any]) -> None:
        code = body["code"]
        if code == "lease_over":
            run.stage = WAIT
            self._world.after(self._world.limits.work.adopt_grace_s, lambda: self._give_up(run, WAIT))
        elif code == "node_busy":
            self._world.after(AGAIN_S, lambda: self.ask(run) if not run.over else None)
        elif code == "outcome_unknown":
            self._end(run, "error", {"kind": code, "message": body["message"], "retryable": False})
        else:
            self._end(run, "cancelled", None)

    def _give_up(self, run: Run, stage: str) -> None:
        if run.stage == stage and not run.over:
            self._end(run, "cancelled", None)

    def _reach(self, run: Run) -> None:
        """The go is here: look at the lease, then do it, perhaps much later."""
        if run.over:
            return
        if self._host.clock.read(self._world.now_s) * 1000 > run.lease_end_ms:
            run.stage = SUSPENDED
            self._world.after(self._world.limits.work.adopt_grace_s, lambda: self._give_up(run, SUSPENDED))
            return
        run.stage = DO
        pause_s = self._pause_s(run)
        if pause_s:
            self._world.after(pause_s, lambda: self._do(run))
        else:
            self._do(run)

    def _pause_s(self, run: Run) -> float:
        """For how long the process stands still between its look at the lease and the deed."""
        return PAUSE_S * (0.3 + self._rng.random()) if self._rng.random() < PAUSE_RATE else 0.0

    def _do(self, run: Run) -> None:
        """A process that was paused here notices nothing of what was said to it meanwhile: only its end keeps it from the deed."""
        if run.killed:
            return
        task, fence, key, once = run.effect.task, run.effect.fence, run.skill.keys[run.key], run.skill.once
        outcome, executed = self._sink.do(task, key, fence, once)
        self._world.history.add(Reached(self._world.now_s, self._host.name, task, fence, key, run.call, once, outcome, executed))
        if run.over:
            return
        if not outcome:
            self._end(run, "cancelled", None)
            return
        run.stage, run.outcome = TELL, outcome
        self._world.after(MOMENT_S * self._rng.random(), lambda: None if run.over else self.ask(run))

    def _learn(self, run: Run, outcome: str) -> None:
        key = run.skill.keys[run.key]
        self._world.history.add(Learned(self._world.now_s, self._host.name, run.effect.task, run.effect.fence, key, outcome))
        run.key += 1
        run.outcome = ""
        self.begin(run)
