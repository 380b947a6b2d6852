"""Workers that only pretend: what a capability takes, how often it fails, what it does to the outside world.

    Execute --> HandlerStarted ... service time ... one effect at the sink ... HandlerEnded
                                                    | lease over: suspended, nothing starts until Extend; given up after the grace
    flow: HandlerStarted, Step, its answer, Step, its answer, ..., HandlerEnded          keys: see `reaching.py`

The rules of mesh/worker.py are kept: past its lease's end a worker starts no effect; it goes on computing when its node dies, keeps the
results, and reports what it runs when it attaches again. The *sink* is the fenced outside world: per task it refuses what is older than
what it has seen, and writes down every attempt. A skill's output is a function of its input, so that results can be checked. An input that
has ``s`` brings its own service time, in seconds at speed 1.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from math import exp
from typing import TYPE_CHECKING, Any

from mesh.core.inputs import HandlerEnded, HandlerStarted, HandlerWaits, Priced, Step, WorkerAttached, WorkerGone
from mesh.effects import Execute, Extend, Price, Stop
from mesh.ids import Fence, TaskId
from mesh.messages.membership import Offer
from mesh.sim.history import EffectTried, HandlerBegan, HandlerOver, Staffed
from mesh.sim.reaching import KeyedSink, Reaching
from mesh.sim.wait_steps import wait_output, wait_step

if TYPE_CHECKING:
    from mesh.sim.host import Host
    from mesh.sim.world import World

Amounts = tuple[tuple[str, int], ...]

CROSSING_S = 0.0001
"""From node to worker or back, over the local socket."""
KEPT_S = 10.0
"""A result that old is on the node's disk; younger ones are told again after the node's restart."""


@dataclass(frozen=True, slots=True)
class Skill:
    """`median_s` and `spread`: log-normal service time. `steps`: a flow that calls these capabilities one after the other. `keys`: effects
    that follow one another at its end, begun at most once where `once` says so. `where`, `hedge`: what its clients ask for."""

    name: str
    median_s: float
    spread: float = 0.5
    fail_rate: float = 0.0
    idempotent: bool = False
    retries: int = 0
    priced: bool = False
    steps: tuple[str, ...] = ()
    timeout_ms: int = 0
    keys: tuple[str, ...] = ()
    once: bool = False
    needs: Amounts = ()
    where: tuple[str, ...] = ()
    hedge: bool = False
    limit: int = 0
    rate: int = 0
    """So many at once, and so many starts a second, over the whole mesh."""

    def offer(self, agent: str) -> Offer:
        return Offer(
            capability=self.name,
            agent=agent,
            idempotent=self.idempotent,
            retries=self.retries,
            priced=self.priced,
            timeout_ms=self.timeout_ms,
            needs=self.needs,
            limit=self.limit,
            rate=self.rate,
            rate_ms=1000 if self.rate else 0,
        )


def expected(skill: Skill, argument: Any) -> Any:
    """What a handler of `skill` answers to `argument`, wherever it runs."""
    if skill.steps:
        return [f"{step}({argument})" for step in skill.steps]
    return f"{skill.name}({argument})"


class Sink:
    """The outside world with a fence per task. `keyed`: what of it knows keys."""

    def __init__(self) -> None:
        self.keyed = KeyedSink()
        self._newest: dict[TaskId, Fence] = {}

    def accept(self, task: TaskId, fence: Fence) -> bool:
        if fence < self._newest.get(task, 0):
            return False
        self._newest[task] = fence
        return True


@dataclass(slots=True, eq=False)
class Run:
    """One handler at work."""

    effect: Execute
    skill: Skill
    argument: Any
    began_s: float
    lease_end_ms: int
    ready: bool = False
    over: bool = False
    stuck: bool = False
    """Between the look at its lease and its effect: it hears nothing."""
    ending: str = ""
    """How it is to end as soon as it hears of it."""
    step: int = 0
    asked: int = 0
    outputs: list[Any] | None = None
    killed: bool = False
    key: int = 0
    """Which of its skill's keys is next, and where it stands with it: see `reaching.py`."""
    call: int = 0
    stage: str = ""
    outcome: str = ""


class Worker:
    """One worker process of a host. `speed` divides service times. `over` hears the argument of each run that ended well."""

    def __init__(
        self,
        world: World,
        host: Host,
        sink: Sink,
        number: int,
        skills: tuple[Skill, ...],
        concurrency: int,
        speed: float,
        over: Callable[[Any], None] | None = None,
        labels: tuple[str, ...] = (),
        resources: Amounts = (),
    ) -> None:
        self._world = world
        self._host = host
        self._sink = sink
        self._skills = {skill.name: skill for skill in skills}
        self._rng = world.rng(f"worker {host.name} {number}")
        self._concurrency = concurrency
        self._speed = speed
        self._over = over
        self._labels, self._resources = labels, resources
        self.number = number
        self.alive = True
        self.running: dict[tuple[TaskId, Fence], Run] = {}
        self._kept: list[tuple[float, HandlerEnded]] = []
        self._reaching = Reaching(world, host, sink.keyed, number, self._rng, self._end, self._finished)

    def attach(self) -> None:
        """Register with the node that runs now. What ended while there was none is told right after."""
        if not self.alive or not self._host.up:
            return
        self._host.workers[self.number] = self
        agent = f"agent{self.number}"
        offers = tuple(skill.offer(agent) for skill in self._skills.values())
        held = tuple(self.running) + tuple((ended.task, ended.fence) for _, ended in self._kept)
        if self._labels or self._resources:
            needs = tuple((skill.name, skill.needs) for skill in self._skills.values() if skill.needs)
            staffed = Staffed(self._world.now_s, self._host.name, self.number, self._labels, self._resources, needs)
            self._world.history.add(staffed)
        attached = WorkerAttached(self.number, self.number, agent, offers, self._concurrency, held, self._labels, self._resources)
        self._tell(attached)
        for _, ended in self._kept:
            self._tell(ended)
        for run in list(self.running.values()):
            if run.step < len(run.skill.steps):
                self._ask_step(run)
            elif run.stage:
                self._reaching.ask(run)

    def die(self) -> None:
        """Killed. Its node, if it runs, sees the connection end."""
        self.alive = False
        for (task, fence), run in self.running.items():
            run.over = run.killed = True
            self._world.history.add(HandlerOver(self._world.now_s, self._host.name, self.number, task, fence, "killed"))
        self.running.clear()
        if self._host.workers.pop(self.number, None) is not None and self._host.up:
            self._tell(WorkerGone(self.number, self.number))

    def node_gone(self, *, killed: bool) -> None:
        """The node's process ended: go on without it, unless the whole machine is off."""
        self._host.workers.pop(self.number, None)
        if killed:
            self.die()

    # ---- what the node asks

    def take(self, effect: Any) -> None:
        life = self._host.life
        self._world.after(CROSSING_S, lambda: self._take(effect, life))

    def _take(self, effect: Any, life: int) -> None:
        if not self.alive or life != self._host.life:
            return
        kind = type(effect)
        if kind is Execute:
            self._execute(effect)
        elif kind is Extend:
            self._extend(effect)
        elif kind is Stop:
            self._stop(effect)
        elif kind is Price:
            cost = round(self._rng.random() * 5, 3) if self._rng.random() > 0.1 else None
            self._tell(Priced(self.number, effect.round, effect.task, cost))

    def _execute(self, effect: Execute) -> None:
        skill = self._skills[effect.capability]
        now_s = self._world.now_s
        argument = json.loads(effect.input)
        run = Run(effect, skill, argument["x"], now_s, effect.lease_end_ms, outputs=[])
        self.running[(effect.task, effect.fence)] = run
        which = (effect.task, effect.fence, skill.idempotent, skill.name, skill.limit, skill.rate)
        self._world.history.add(HandlerBegan(now_s, self._host.name, self.number, *which))
        self._tell(HandlerStarted(self.number, effect.task, effect.fence))
        if effect.timeout_ms:
            self._world.after(effect.timeout_ms / 1000, lambda: self._end(run, "timeout"))
        if effect.limited:
            self._watch_lease(run)
        if skill.steps:
            self._ask_step(run)
        else:
            takes_s = argument.get("s") or skill.median_s * exp(self._rng.gauss(0.0, skill.spread))
            self._world.after(takes_s / self._speed, lambda: self._done(run))

    def _extend(self, effect: Extend) -> None:
        for task, fence, lease_end_ms in effect.items:
            run = self.running.get((task, fence))
            if run is not None:
                run.lease_end_ms = max(run.lease_end_ms, lease_end_ms)
                if run.ready:
                    self._done(run)
                self._reaching.extended(run)

    def _watch_lease(self, run: Run) -> None:
        """As `mesh.runs.Run.watch_lease`."""
        left_s = run.lease_end_ms / 1000 - self._host.clock.read(self._world.now_s)
        if run.over:
            return
        if left_s <= 0:
            self._end(run, "cancelled")
        else:
            self._world.after(left_s + 0.001, lambda: self._watch_lease(run))

    def _stop(self, effect: Stop) -> None:
        run = self.running.get((effect.task, effect.fence))
        if run is not None:
            self._end(run, "cancelled")

    # ---- a run

    def _done(self, run: Run) -> None:
        """Computed; now the effect. Past the lease it waits for an extension, and at last gives up."""
        if run.over:
            return
        now_s = self._world.now_s
        if self._host.clock.read(now_s) * 1000 > run.lease_end_ms:
            if not run.ready:
                run.ready = True
                self._world.after(self._world.limits.work.adopt_grace_s, lambda: self._end(run, "cancelled"))
            return
        if self._host.effect_late_s and not run.stuck and not run.skill.keys:
            run.stuck = True
            self._world.after(self._host.effect_late_s * (0.5 + self._rng.random()), lambda: self._effect(run))
        elif not run.stuck:
            self._effect(run)

    def _effect(self, run: Run) -> None:
        if run.over:
            return
        late, run.stuck = run.stuck, False
        task, fence, skill = run.effect.task, run.effect.fence, run.skill
        run.ready = False
        if skill.keys:
            self._reaching.begin(run)
            return
        accepted = self._sink.accept(task, fence)
        self._world.history.add(EffectTried(self._world.now_s, self._host.name, task, fence, skill.idempotent, accepted, late))
        self._finished(run)

    def _finished(self, run: Run) -> None:
        self._end(run, run.ending or ("error" if self._rng.random() < run.skill.fail_rate else "ok"))

    def _end(self, run: Run, outcome: str, error: dict[str, Any] | None = None) -> None:
        if run.over:
            return
        if run.stuck:
            run.ending = run.ending or outcome
            return
        run.over = True
        task, fence = run.effect.task, run.effect.fence
        del self.running[(task, fence)]
        now_s = self._world.now_s
        self._world.history.add(HandlerOver(now_s, self._host.name, self.number, task, fence, outcome))
        ended = HandlerEnded(self.number, task, fence, outcome, service_ms=int((now_s - run.began_s) * 1000))
        if outcome == "ok":
            if self._over is not None:
                self._over(run.argument)
            ended.output = json.dumps(run.outputs if run.skill.steps else expected(run.skill, run.argument)).encode()
        elif outcome == "error":
            ended.error = error or {"code": "handler_failed", "message": "drawn", "fix": ""}
        self._kept.append((now_s, ended))
        if self._host.up and self._host.workers.get(self.number) is self:
            self._tell(ended)
            while self._kept[0][0] < now_s - KEPT_S:
                self._kept.pop(0)

    # ---- a flow's steps

    def _ask_step(self, run: Run) -> None:
        effect, name = run.effect, run.skill.steps[run.step]
        run.asked += 1
        asked = run.asked
        self._tell(HandlerWaits(self.number, effect.task, effect.fence, True))
        own = (f"{run.step}.{name}", name, json.dumps({"x": run.argument}).encode(), 0)
        what = wait_step(name, run.argument) or own
        self._world.ask(
            self._host.name,
            lambda request: Step(request, effect.task, effect.fence, *what),
            lambda ok, body: self._step_answered(run, asked, ok, body),
        )

    def _step_answered(self, run: Run, asked: int, ok: bool, body: dict[str, Any]) -> None:
        if run.over or asked != run.asked or not self.alive:
            return
        if not ok or body.get("state") != "done":
            self._end(run, "error")
            return
        self._tell(HandlerWaits(self.number, run.effect.task, run.effect.fence, False))
        assert run.outputs is not None
        step, output = run.skill.steps[run.step], json.loads(body["output"])
        run.outputs.append(wait_output(step, run.argument, output) if wait_step(step, run.argument) else output)
        run.step += 1
        if run.step == len(run.skill.steps):
            self._done(run)
        else:
            self._ask_step(run)

    def _tell(self, body: Any) -> None:
        self._world.push(self._world.now_s + CROSSING_S, self._host.name, self._host.name, body)
